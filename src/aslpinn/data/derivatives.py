"""Maps out, as BIDS derivatives: written to a temporary folder first, then renamed into place."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np

from .. import __version__
from ..errors import InputError
from ..files import alone, commit, staging
from ..physics.constants import Constants
from .motion.correct import COLUMNS, Motion, table
from .series import Subject
from .sidecar import dataset_root, read_json, shorten

EQUATION = (
    "dM(t) = 0 for t <= ATT; K (1 - exp(-(t - ATT)/T1')) for ATT < t < ATT + tau; "
    "K (1 - exp(-tau/T1')) exp(-(t - ATT - tau)/T1') for t >= ATT + tau; t = tau + PLD, "
    "K = 2 alpha M0b f T1' exp(-ATT/T1b), f = CBF/6000, 1/T1' = 1/T1t + f/lambda, M0b = M0t/lambda "
    "(Buxton et al. 1998, doi:10.1002/mrm.1910400308)"
)

IGNORED = (
    "# Quantities that BIDS does not name yet",
    *(f"**/*_{suffix}.*" for suffix in ("cbf", "att", "deltam", "abv", "pld", "mask", "dseg", "timeseries", "quality")),
)


class Estimate(Protocol):
    """What is written of an estimate (aslpinn.Estimate has it; this room does not import that one)."""

    cbf: Any
    att: Any
    cbf_sd: Any
    att_sd: Any
    fitted: Any
    abv: Any
    flags: Any
    estimator: str
    settings: dict[str, Any]
    info: dict[str, Any]


def write_estimate(
    subject: Subject,
    estimate: Estimate,
    out: str | Path,
    extra: Mapping[str, bytes] | None = None,
    more: Mapping[str, tuple[Any, ...]] | None = None,
) -> list[Path]:
    """Write an estimate's maps and their JSON into OUT/sub-XX[/ses-YY]/perf/, all or none; returns the NIfTI files.

    Motion parameters go beside them where motion was corrected, and `extra`: the end of a file's name (after the
    subject's) and its content, such as "_desc-qc_quality.json"; and `more` maps by their kind, such as
    "label-GM_desc-pvc_cbf": data, what is said of them, and the affine of those that lie on another grid.
    float32 on the grid and affine of the input. Maps that an earlier run left there and this one has not are removed.

    Raises
    ------
    InputError
        Where OUT cannot be written to, lies in a raw data set, or holds maps of that name from another series.
    """
    out = Path(out)
    check_output(out, subject)
    folder = out / subject.folder / "perf"
    maps = _maps(subject, estimate)
    grids: dict[str, Any] = {}
    for kind, (data, about, *grid) in (more or {}).items():
        maps[f"{subject.name}_{kind}"] = _as_map(data), about
        grids |= {f"{subject.name}_{kind}": grid[0]} if grid else {}
    with staging(out) as scratch, alone(out):
        _require_own(subject, out)
        common = _common(subject, estimate, out)
        for name, (data, about) in maps.items():
            if name in grids:
                image = nib.Nifti1Image(data, grids[name])
                image.set_sform(grids[name], code="mni")
                image.set_qform(grids[name], code="mni")
            else:
                image = nib.Nifti1Image(data, subject.affine, header=_header(subject, data))
            nib.save(image, scratch / f"{name}.nii.gz")
            dump(scratch / f"{name}.json", about | common)
        beside = [] if subject.motion is None else write_motion(subject.motion, scratch, subject.name)
        for ending, content in (extra or {}).items():
            (scratch / f"{subject.name}{ending}").write_bytes(content)
            beside.append(f"{subject.name}{ending}")
        _write_description(subject, out, scratch)
        own = {scratch / name: folder / name for name in beside}
        for name in reversed(maps):  # CBF last: where it stands, all of this run stands
            own |= {scratch / f"{name}{ending}": folder / f"{name}{ending}" for ending in (".json", ".nii.gz")}
        names = [f"{name}{ending}" for name in _names(subject) for ending in (".nii.gz", ".json")]
        old = [folder / name for name in [*names, *(f"{subject.name}{ending}" for ending in _BESIDE)]]
        for kind in ("label-*_desc-pvc*_cbf", "space-*_[ca][bt][ft]", "space-*_desc-sd_[ca][bt][ft]"):
            old += folder.glob(f"{glob.escape(subject.name)}_{kind}.*")
        for quantity in ("cbf", "att"):  # tables of atlases that this run was not given
            old += folder.glob(f"{glob.escape(subject.name)}_atlas-*_{quantity}.*")
        for name in ("dataset_description.json", ".bidsignore"):  # other subjects' too: never away
            os.replace(scratch / name, out / name)
        commit(own, scratch, old)
    return [folder / f"{name}.nii.gz" for name in maps]


#: Files beside the maps that an earlier run may have left.
_BESIDE = (
    "_desc-motion_timeseries.tsv",
    "_desc-motion_timeseries.json",
    "_desc-motion_timeseries.svg",
    "_desc-qc_quality.json",
)


def write_motion(motion: Motion, folder: Path, name: str) -> list[str]:
    """Motion parameters as TSV with a JSON that says what they are; returns the two names."""
    (folder / f"{name}_desc-motion_timeseries.tsv").write_text(table(motion), encoding="utf-8")
    about = {
        column: {"Description": f"{kind} along {axis}", "Units": unit}
        for columns, kind, unit in ((COLUMNS[:3], "Translation", "mm"), (COLUMNS[3:6], "Rotation", "deg"))
        for column, axis in zip(columns, ("x", "y", "z"), strict=True)
    }
    about[COLUMNS[3]]["Description"] = "Rotation about x, then about fixed y and z; likewise rot_y, rot_z"
    about[COLUMNS[6]] = {"Description": "Framewise displacement (Power et al. 2012), rotations on 50 mm", "Units": "mm"}
    dump(folder / f"{name}_desc-motion_timeseries.json", about | {"Estimation": motion.provenance()})
    return [f"{name}_desc-motion_timeseries.{ending}" for ending in ("tsv", "json")]


def check_output(out: Path, subject: Subject) -> None:
    """InputError unless maps of the subject can go to OUT; leaves nothing behind."""
    require_outside_raw(out, subject.path)
    with staging(out, keep=False):
        _require_own(subject, out)


def require_outside_raw(out: Path, source: Path | None = None) -> None:
    """InputError where OUT lies in a raw data set, but for its derivatives/, or in that of the file `source`.

    What is written there would be read as raw data, and a dataset_description.json would hide the sidecars above it.
    """
    place = Path(os.path.realpath(out))
    try:
        roots = [folder for folder in (place, *place.parents) if (folder / "dataset_description.json").is_file()]
    except OSError as error:
        raise InputError(f"{out}: cannot be written to ({error.strerror}); expected another folder") from error
    raw = next((root for root in roots if not _derived(root)), None)
    if raw is None and source is not None:
        own = Path(os.path.realpath(source)).parent
        # A data set without its description: the folder that holds that of the subject, else the file's own.
        above = [folder.parent for folder in (own, *list(own.parents)[:2]) if folder.name.startswith("sub-")]
        if above and place.is_relative_to(above[0]):
            raw = above[0]
        elif place == own or place == dataset_root(Path(os.path.realpath(source))):
            raw = place
    if raw is None or place.relative_to(raw).parts[:1] == ("derivatives",):
        return
    what = "is the raw data set" if place == raw else f"lies in the raw data set {raw}"
    raise InputError(f"{out}: {what}; expected another folder, such as {raw / 'derivatives' / 'aslpinn'}")


def _derived(root: Path) -> bool:
    """Whether a data set says that it was derived from another."""
    try:
        return read_json(root / "dataset_description.json").get("DatasetType") == "derivative"
    except InputError:
        return False


def require_new(out: Path) -> None:
    """InputError unless OUT is new or empty and outside of raw data, as a data set that is made there wants it."""
    require_outside_raw(out)
    try:
        first = next(out.iterdir(), None) if out.exists() else None
    except NotADirectoryError:
        return  # said by `staging`
    except OSError as error:
        raise InputError(f"{out}: cannot be read ({error.strerror}); expected a new or an empty folder") from error
    if first is not None:
        raise InputError(f"{out}: holds {first.name}; expected a new or an empty folder for the data set")


def _require_own(subject: Subject, out: Path) -> None:
    """InputError where OUT holds maps of that name that were made from another series."""
    folder = out / subject.folder / "perf"
    names = [*_names(subject), *(f"{subject.name}{ending.rsplit('.', 1)[0]}" for ending in _BESIDE)]
    for name in names:
        file = folder / f"{name}.json"
        try:
            about = read_json(file) if file.is_file() else {}
        except InputError:
            continue  # damaged: replaced
        sources, sums = about.get("Sources"), about.get("SourceChecksums")
        source = sources[0] if isinstance(sources, list) and sources else None
        mine = uri(subject.path, out)
        other = source is not None and source != mine
        if source == mine == subject.path.name and isinstance(sums, dict):  # a name alone does not tell two files apart
            other = sums.get(mine) != checksum(subject.path)
        if other:
            raise InputError(
                f"{file}: is made from {shorten(source, 200)}, not from {mine}; expected another "
                "--out, or another name of one of the two series (their maps would have one name)"
            )


#: What an output's name says of it, in the order of `_maps`; without M0 the first kinds are relative.
_KINDS = ("cbf", "att", "desc-sd_cbf", "desc-sd_att", "desc-fit_deltam", "desc-arterial_abv", "desc-flags_dseg")
_OF_COVERAGE = ("desc-effective_pld", "desc-valid_mask", "desc-m0quality_dseg")
_FORMER = ("desc-flags_mask", "desc-m0quality_mask")  # former names: a mask has zeros and ones only
_RELATIVE = {"cbf": "desc-relative_cbf", "desc-sd_cbf": "desc-relativesd_cbf", "desc-arterial_abv": "desc-relative_abv"}


def _names(subject: Subject) -> list[str]:
    """Every name that a map of the subject can have."""
    return [f"{subject.name}_{kind}" for kind in (*_KINDS, *_RELATIVE.values(), *_OF_COVERAGE, *_FORMER)]


def _maps(subject: Subject, estimate: Estimate) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """Data and description of every map that the estimate has, by file name."""
    distinct, _ = subject.acquisition.distinct
    timing = {
        "LabelingDuration": distinct.labeling_duration.tolist(),
        "PostLabelingDelay": distinct.post_labeling_delay.tolist(),
    }
    m0b = np.where(subject.mask, subject.m0b, 0)[..., None]
    deltam = None if estimate.fitted is None else estimate.fitted * m0b
    spread = "Standard deviation of the estimate of "
    flags = estimate.info.get("flags_legend", {})
    perfusion, flow, volume = "Cerebral blood flow", "ml/100g/min", "1"
    if subject.relative:
        perfusion += ", relative: there is no M0, and the mean curve of the mask is given that of 50 ml/100g/min"
        flow = volume = "arbitrary"
    candidates: list[tuple[Any, dict[str, Any]]] = [
        (estimate.cbf, {"Description": perfusion, "Units": flow}),
        (estimate.att, {"Description": "Arterial transit time", "Units": "s"}),
        (estimate.cbf_sd, {"Description": spread + "cerebral blood flow", "Units": flow}),
        (estimate.att_sd, {"Description": spread + "arterial transit time", "Units": "s"}),
        (
            deltam,
            {
                "Description": "Fitted control minus label, one volume for each distinct duration and delay, "
                "in order of first appearance",
                "Units": subject.units,
                **timing,
            },
        ),
        (estimate.abv, {"Description": "Arterial blood volume, as a fraction of the voxel", "Units": volume}),
        (estimate.flags, {"Description": "Flags of a voxel, added as bits", "Levels": flags}),
    ]
    kinds = [_RELATIVE.get(kind, kind) if subject.relative else kind for kind in _KINDS]
    return {
        f"{subject.name}_{kind}": (_as_map(data), about)
        for kind, (data, about) in zip(kinds, candidates, strict=True)
        if data is not None
    }


def _as_map(data: Any) -> np.ndarray:
    array = np.asarray(data)
    return array if array.dtype == np.uint8 else array.astype(np.float32)


def _header(subject: Subject, data: np.ndarray) -> nib.Nifti1Header:
    header = nib.Nifti1Header()
    if subject.header is not None:
        header = nib.Nifti1Header.from_header(subject.header, check=False)
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header.set_slope_inter(1, 0)
    header["cal_max"] = header["cal_min"] = 0
    header["descrip"] = f"aslpinn {__version__}".encode()
    header.set_zooms((*subject.voxel_size, *([1.0] if data.ndim == 4 else [])))
    return header


def _common(subject: Subject, estimate: Estimate, out: Path) -> dict[str, Any]:
    """What every JSON says: how the map was made, from what, with which constants and versions."""
    constants = subject.acquisition.constants
    settings = jsonable(estimate.settings)
    return {
        "Estimator": estimate.estimator,
        "Seed": settings.get("seed"),
        "Settings": settings,
        "Constants": constants_table(constants, subject.provenance.get("t1_blood")),
        "ModelEquation": settings.get("formula", EQUATION),
        "M0": jsonable(subject.provenance.get("m0", {})),
        "Mask": jsonable(subject.provenance.get("mask", {})),
        "TimeEncoding": jsonable(subject.provenance.get("time_encoding")),
        "Motion": jsonable(subject.provenance.get("motion")),
        "Outliers": jsonable(subject.provenance.get("outliers")),
        "Calibration": jsonable(subject.provenance.get("calibration")),
        "Tissue": jsonable(subject.provenance.get("tissue")),
        "Steps": subject.provenance.get("steps", []),
        "Notes": subject.provenance.get("notes", []),
        "Run": jsonable({k: v for k, v in estimate.info.items() if np.ndim(v) == 0 and not callable(v)}),
        "Sources": [uri(file, out) for file in source_files(subject)],
        "SourceChecksums": {uri(file, out): checksum(file) for file in source_files(subject)},
        "SoftwareVersions": versions(),
    }


def constants_table(constants: Constants, t1_blood: Any = None) -> dict[str, Any]:
    """Every constant of the model of a voxel, with its unit, and where T1 of blood came from.

    The latter as `blood.find_blood` says. T1 of white matter by itself is told by the maps that have it.
    """
    units = {"t1_blood": "s", "t1_tissue": "s", "partition_coefficient": "ml/g"}
    units |= {"dispersion_sharpness": "1/s", "dispersion_time_to_peak": "s"}
    table = {name: {"Value": value, "Units": units.get(name, "1")} for name, value in asdict(constants).items()}
    del table["t1_white"]
    if t1_blood:
        table["t1_blood"] |= t1_blood
    return table | {"effective_labeling_efficiency": {"Value": constants.efficiency, "Units": "1"}}


def versions() -> dict[str, str]:
    """Versions of the interpreter and of the packages that numbers depend on; nothing is imported for it."""
    found = {"aslpinn": __version__, "python": platform.python_version()}
    for package in ("numpy", "scipy", "torch", "numba", "nibabel", "scikit-image"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def source_files(subject: Subject) -> list[Path]:
    """Every file that the subject was read from."""
    flat: list[Path] = []
    for entry in subject.provenance.get("inputs", {}).values():
        flat += entry if isinstance(entry, list) else [entry]
    return [Path(file) for file in flat if Path(file).is_file()]


def checksum(file: Path) -> str:
    """sha256 of a file."""
    with open(file, "rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def _links(out: Path) -> dict[str, str]:
    """Source data sets by their names in BIDS URIs, as OUT knows them."""
    target = out / "dataset_description.json"
    try:
        links = read_json(target).get("DatasetLinks") if target.is_file() else None
    except InputError:  # a damaged one is replaced: everything in it can be written again
        links = None
    return dict(links) if isinstance(links, dict) else {}


def _link(root: Path, out: Path) -> str:
    """Name of a source data set in BIDS URIs: that of its folder, letters and digits, and a number where it is taken.

    A name is taken where OUT links it to another data set that is still there.
    """
    plain = "".join(c for c in root.name if c.isalnum() and c.isascii()) or "raw"
    links, here = _links(out), _relative(root, out)
    for number in count(1):
        name = plain if number == 1 else f"{plain}{number}"
        known = links.get(name)
        if known in (None, here) or not isinstance(known, str) or not (out / known).is_dir():
            return name
    raise AssertionError


def uri(file: Path, out: Path) -> str:
    """A file as a BIDS URI where it lies in a data set, else relative to OUT."""
    root = dataset_root(file)
    if root is None:
        return _relative(file, out)
    return f"bids:{_link(root, out)}:{file.absolute().relative_to(root).as_posix()}"


def _relative(path: Path, start: Path) -> str:
    """A path as seen from another; its name alone where both share no folder but a top one, which would tell whose."""
    here, there = path.absolute(), start.absolute()
    try:
        shared = Path(os.path.commonpath([here, there]))
    except ValueError:  # another drive
        return path.name
    return Path(os.path.relpath(here, there)).as_posix() if len(shared.parts) > 1 else path.name


def _write_description(subject: Subject, out: Path, scratch: Path) -> None:
    """dataset_description.json and .bidsignore, what is there already kept: several subjects share them."""
    target = out / "dataset_description.json"
    try:
        description = read_json(target) if target.is_file() else {}
    except InputError:  # a damaged one is replaced: everything in it can be written again
        description = {}
    links = _links(out)
    root = dataset_root(subject.path)
    if root is not None:
        links[_link(root, out)] = _relative(root, out)
    generated = {"Name": "aslpinn", "Version": __version__}
    others = [e for e in description.get("GeneratedBy") or [] if isinstance(e, dict) and e.get("Name") != "aslpinn"]
    sources = [{"URL": link} for link in links.values()]
    description = {"Name": "Perfusion maps by aslpinn", "BIDSVersion": "1.10.0"} | description
    description |= {"DatasetType": "derivative", "GeneratedBy": [generated, *others]}
    if links:
        description |= {"DatasetLinks": links, "SourceDatasets": sources}
    dump(scratch / "dataset_description.json", description)
    ignore = out / ".bidsignore"
    lines = ignore.read_text(encoding="utf-8").splitlines() if ignore.is_file() else []
    lines += [line for line in IGNORED if line not in lines]
    (scratch / ".bidsignore").write_text("\n".join(lines) + "\n", encoding="utf-8")


def dump(file: Path, values: dict[str, Any]) -> None:
    """Write values as JSON, NaN as null."""
    text = json.dumps(jsonable(values), indent=2, allow_nan=False, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")  # a file name need not be text


def jsonable(value: Any) -> Any:
    """The value as plain JSON: arrays as lists, NumPy scalars as numbers, paths as text, NaN as null."""
    if isinstance(value, dict):
        return {str(key): jsonable(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, list | tuple | set):
        return [jsonable(entry) for entry in value]
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)

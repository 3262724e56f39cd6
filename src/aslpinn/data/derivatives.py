"""Maps out, as BIDS derivatives: written to a temporary folder first, then renamed into place."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np

from .. import __version__
from ..errors import InputError
from ..physics.constants import Constants
from .bids import Subject
from .motion import COLUMNS, Motion, write_tsv
from .sidecar import dataset_root, read_json

EQUATION = (
    "dM(t) = 0 for t <= ATT; K (1 - exp(-(t - ATT)/T1')) for ATT < t < ATT + tau; "
    "K (1 - exp(-tau/T1')) exp(-(t - ATT - tau)/T1') for t >= ATT + tau; t = tau + PLD, "
    "K = 2 alpha M0b f T1' exp(-ATT/T1b), f = CBF/6000, 1/T1' = 1/T1t + f/lambda, M0b = M0t/lambda "
    "(Buxton et al. 1998, doi:10.1002/mrm.1910400308)"
)

IGNORED = (
    "# Quantities that BIDS does not name yet",
    *(f"**/*_{suffix}.*" for suffix in ("cbf", "att", "deltam", "abv", "mask", "timeseries", "quality")),
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
    subject: Subject, estimate: Estimate, out: str | Path, extra: Mapping[str, bytes] | None = None
) -> list[Path]:
    """Write an estimate's maps and their JSON into OUT/sub-XX[/ses-YY]/perf/, all or none; returns the NIfTI files.

    Motion parameters go beside them where motion was corrected, and `extra`: the end of a file's name (after the
    subject's) and its content, such as "_desc-qc_qc.json".
    float32 on the grid and affine of the input. Maps that an earlier run left there and this one has not are removed.

    Raises
    ------
    InputError
        Where OUT cannot be written to, or is the raw data set itself.
    """
    out = Path(out)
    check_output(out, subject)
    folder = out / subject.folder / "perf"
    maps = _maps(subject, estimate)
    common = _common(subject, estimate, out)
    with staging(out) as scratch:
        for name, (data, about) in maps.items():
            image = nib.Nifti1Image(data, subject.affine, header=_header(subject, data))
            nib.save(image, scratch / f"{name}.nii.gz")
            dump(scratch / f"{name}.json", about | common)
        beside = [] if subject.motion is None else write_motion(subject.motion, scratch, subject.name)
        for ending, content in (extra or {}).items():
            (scratch / f"{subject.name}{ending}").write_bytes(content)
            beside.append(f"{subject.name}{ending}")
        with alone(out):
            _write_description(subject, out, scratch)
            for name in ("dataset_description.json", ".bidsignore"):
                os.replace(scratch / name, out / name)
        folder.mkdir(parents=True, exist_ok=True)
        stale = [folder / f"{name}.nii.gz" for name in _names(subject) if name not in maps]
        for name in beside:
            os.replace(scratch / name, folder / name)
        for name in reversed(maps):  # CBF last: where it stands, all of this run stands
            os.replace(scratch / f"{name}.json", folder / f"{name}.json")
            os.replace(scratch / f"{name}.nii.gz", folder / f"{name}.nii.gz")
        for ending in _BESIDE:
            if f"{subject.name}{ending}" not in beside:
                (folder / f"{subject.name}{ending}").unlink(missing_ok=True)
        for file in stale:
            file.unlink(missing_ok=True)
            file.with_name(file.name.replace(".nii.gz", ".json")).unlink(missing_ok=True)
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
    write_tsv(motion, folder / f"{name}_desc-motion_timeseries.tsv")
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
    """InputError unless OUT can be created and written to and is not the raw data set; leaves nothing behind."""
    root = dataset_root(subject.path)
    if root is not None and out.absolute().resolve() == root.resolve():
        raise InputError(
            f"{out}: is the raw data set; expected another folder, such as {out / 'derivatives' / 'aslpinn'}"
        )
    with staging(out, keep=False):
        pass


#: How often a folder is made again that vanished between two calls; another process went on each time.
_TRIES = 100


@contextmanager
def staging(out: Path, keep: bool = True) -> Iterator[Path]:
    """A temporary folder inside OUT, removed at the end; on an error OUT and its parents go too, if made for it."""
    missing: list[Path] = []
    done = False
    made: Path | None = None
    try:
        try:
            missing = [folder for folder in (out, *out.absolute().parents) if not folder.exists()]
            made = _folder_inside(out)
        except OSError as error:
            raise InputError(
                f"{out}: cannot be written to ({error.strerror}); expected a writable folder for the output"
            ) from error
        yield made
        done = keep
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
        if not done:
            for folder in missing:
                try:
                    folder.rmdir()
                except OSError:  # not empty, or never made: someone else's, or nothing to undo
                    break


def _folder_inside(out: Path) -> Path:
    """A new folder in OUT, which is made where missing, also where another process removes its own empty OUT."""
    tries = 0
    while True:
        try:
            out.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix=".aslpinn-", dir=out))
        except FileNotFoundError:
            tries += 1
            if tries == _TRIES:
                raise


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, where the system has one: subjects that are fitted side by side share its files.

    On NFS, which locks no folder, a file .lock in it takes its place.
    """
    with ExitStack() as held:
        with suppress(ImportError):  # Windows
            import fcntl

            for place, how in ((folder, os.O_RDONLY), (folder / ".lock", os.O_RDWR | os.O_CREAT)):
                with suppress(OSError):
                    descriptor = os.open(place, how, 0o666)
                    held.callback(os.close, descriptor)
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                    break
        yield


def _names(subject: Subject) -> list[str]:
    kinds = ("cbf", "att", "desc-sd_cbf", "desc-sd_att", "desc-fit_deltam", "desc-arterial_abv", "desc-flags_mask")
    return [f"{subject.name}_{kind}" for kind in kinds]


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
    flags = estimate.info.get("flags_legend", estimate.info.get("flags", {}))
    candidates: list[tuple[Any, dict[str, Any]]] = [
        (estimate.cbf, {"Description": "Cerebral blood flow", "Units": "ml/100g/min"}),
        (estimate.att, {"Description": "Arterial transit time", "Units": "s"}),
        (estimate.cbf_sd, {"Description": spread + "cerebral blood flow", "Units": "ml/100g/min"}),
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
        (estimate.abv, {"Description": "Arterial blood volume, as a fraction of the voxel", "Units": "1"}),
        (estimate.flags, {"Description": "Flags of a voxel, added as bits", "Levels": flags}),
    ]
    return {
        name: (_as_map(data), about)
        for name, (data, about) in zip(_names(subject), candidates, strict=True)
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
        "Constants": constants_table(constants),
        "ModelEquation": EQUATION,
        "M0": jsonable(subject.provenance.get("m0", {})),
        "Mask": jsonable(subject.provenance.get("mask", {})),
        "Encoding": jsonable(subject.provenance.get("encoding")),
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


def constants_table(constants: Constants) -> dict[str, Any]:
    """Every constant of the model, with the unit in its name's value."""
    units = {"t1_blood": "s", "t1_tissue": "s", "partition_coefficient": "ml/g"}
    units |= {"dispersion_sharpness": "1/s", "dispersion_time_to_peak": "s"}
    table = {name: {"Value": value, "Units": units.get(name, "1")} for name, value in asdict(constants).items()}
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


def _link(root: Path) -> str:
    """Name of a source data set in BIDS URIs: that of its folder, letters and digits only."""
    return "".join(c for c in root.name if c.isalnum()) or "raw"


def uri(file: Path, out: Path) -> str:
    """A file as a BIDS URI where it lies in a data set, else relative to OUT."""
    root = dataset_root(file)
    if root is None:
        return _relative(file, out)
    return f"bids:{_link(root)}:{file.absolute().relative_to(root).as_posix()}"


def _relative(path: Path, start: Path) -> str:
    try:
        return Path(os.path.relpath(path.absolute(), start.absolute())).as_posix()
    except ValueError:  # another drive
        return path.absolute().as_posix()


def _write_description(subject: Subject, out: Path, scratch: Path) -> None:
    """dataset_description.json and .bidsignore, what is there already kept: several subjects share them."""
    target = out / "dataset_description.json"
    try:
        description = read_json(target) if target.is_file() else {}
    except InputError:  # a damaged one is replaced: everything in it can be written again
        description = {}
    links = description.get("DatasetLinks")
    links = dict(links) if isinstance(links, dict) else {}
    root = dataset_root(subject.path)
    if root is not None:
        links[_link(root)] = _relative(root, out)
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
    file.write_text(text + "\n", encoding="utf-8")


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

"""An ASL series and all that belongs to it, read as BIDS defines it: load_subject -> Subject."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, Problems
from ..physics.acquisition import Acquisition
from ..physics.constants import Constants
from .blood import Blood, find_blood
from .brain_mask import brain_mask
from .calibration import M0, Calibration, M0Source, calibrate, find_source, read_m0, reference_region, smooth_m0
from .kinetics_check import check_kinetics, check_sign, exchanged, mean_perfusion
from .motion.correct import Motion
from .motion.need import correct_motion
from .nifti import Image, read_header, read_image, require_same_grid
from .outliers import shrink_outliers
from .plausibility import check_scale, check_values
from .readout import check_readout, check_repetition, read_crushing, read_slice_timing, read_suppression
from .sidecar import Sidecar, read_context, read_sidecar, shorten, split_name
from .tissue import find_tissue, tissue_maps
from .volumes import Layout, check_labeling, read_layout

Volume = NDArray[np.float32]


@dataclass
class Subject:
    """One ASL series, ready for fit(): float32, on the grid of the input.

    Attributes
    ----------
    name, folder : str
        'sub-01' (with the input's other entities), and its folder, 'sub-01' or 'sub-01/ses-02'.
    series : (X, Y, Z, T) array
        delta-M / M0b, control minus label, repeats kept; zero outside the mask.
    mask : (X, Y, Z) bool array
    acquisition : Acquisition
        Timing of the T volumes, in s, and the constants.
    m0, m0b : (X, Y, Z) array
        M0 of tissue and of blood in the input's units; m0b is zero outside the mask.
    affine : (4, 4) array; voxel_size : (3,) tuple in mm
    path : Path
        The ASL file.
    tissue : dict or None
        Partial volumes 'gm' and 'wm', (X, Y, Z) from 0 to 1, where maps on the same grid were found.
    pair_index : (T, 2) or (T,) array
        Volumes of the file that each volume of the series was made from: control and label, the deltam volume, or
        the first encoded volume of its repeat.
    units : str
        Units of the input ('arbitrary' unless the sidecar says otherwise).
    provenance : dict
        What was read and done, ready for JSON: inputs, volumes, m0, mask, steps, notes.
    header : object
        Header of the ASL file, for writing maps on the same grid.
    motion : Motion or None
        Rigid motion of the file's volumes, where it was corrected.
    volumes : (X, Y, Z, volumes) array or None
        The file's volumes on one head position, in its units, where motion was corrected.
    relative : bool
        There is no M0: CBF has no units.
    contradiction : str or None
        How order or sign of the volumes contradict the kinetics, where that was no reason to stop.
    guide : (X, Y, Z) array or None
        M0 where it is an image and so shows anatomy; one number shows none.
    """

    name: str
    series: Volume
    mask: NDArray[np.bool_]
    acquisition: Acquisition
    m0: Volume
    m0b: Volume
    affine: NDArray[np.float64]
    voxel_size: tuple[float, float, float]
    path: Path
    folder: str = ""
    tissue: dict[str, Volume] | None = None
    pair_index: NDArray[np.intp] | None = None
    units: str = "arbitrary"
    provenance: dict[str, Any] = field(default_factory=dict)
    header: Any = None
    motion: Motion | None = None
    volumes: Volume | None = None
    relative: bool = False
    contradiction: str | None = None
    guide: Volume | None = None


#: Ends of a name that would make a subject's maps those of another: sub-01_desc-sd has its CBF where sub-01 has its SD.
_TAKEN = re.compile(
    r"(^|_)(desc-(sd|fit|arterial|flags|motion|qc|relative[a-z]*|pvc|effective|valid|m0quality)|(label|atlas)-[A-Za-z0-9]+)$"
)


#: What ASLPrep calls a series that it has aligned.
PREPROCESSED = "desc-preproc"

#: What is said of a series that cannot tell less flow from later flow.
ONE_DELAY = "one delay: CBF by the consensus formula (estimator consensus), no ATT; the other estimators refuse it"


def subject_name(path: Path) -> tuple[str, str]:
    """Name and folder of a subject's outputs from the name of its ASL file: all that stands before _asl, as it stands.

    But for ASLPrep's desc-preproc, since a name has one desc entity, and that of a map says what the map is.

    The folder is sub-XX or sub-XX/ses-YY where the name has these; else it is called as the subject.

    Raises
    ------
    InputError
        Where the name holds other signs than letters, digits and . + - _, is too long or is that of another map.
    """
    stem, _ = split_name(path)
    name = stem.removesuffix("_asl").removesuffix(f"_{PREPROCESSED}")
    strange = sorted(set(re.sub(r"[A-Za-z0-9._+-]", "", name)))
    wrong = ""
    if strange:
        wrong = f"holds {shorten(''.join(strange))}; expected letters (a to z), digits and . + - _ only"
    elif not re.match(r"[A-Za-z0-9]", name):
        wrong = "does not begin with a letter or a digit; expected a subject's name before _asl"
    elif len(name) > 180:
        wrong = f"has {len(name)} signs before _asl; expected at most 180"
    elif _TAKEN.search(name):
        wrong = f"ends with {_TAKEN.search(name)[0].strip('_')}, which names a kind of map; expected another name"  # type: ignore[index]
    if wrong:
        raise InputError(f"{path}: the file's name, from which those of the maps are made, {wrong}: rename the file")
    folder = re.match(r"(sub-[A-Za-z0-9]+)(?:_(ses-[A-Za-z0-9]+))?(?=_|$)", name)
    return name, name if folder is None else "/".join(part for part in folder.groups() if part)


@dataclass(frozen=True)
class Metadata:
    """What stands beside a series, checked: all that is known before a voxel is read."""

    sidecar: Sidecar
    layout: Layout
    constants: Constants
    slice_offset: NDArray[np.float64] | None
    slice_axis: int
    m0: M0Source
    crushed: bool
    blood: Blood


def read_metadata(
    path: Path,
    constants: Mapping[str, float] | None = None,
    notes: list[str] | None = None,
    steps: list[str] | None = None,
    hematocrit: float | None = None,
    blood_formula: str | None = None,
) -> Metadata:
    """The metadata of an ASL series; notes and steps are appended to. The other options are those of `load_subject`.

    Raises
    ------
    InputError
        Where anything is missing, malformed, contradictory or not supported: all of it at once, in `problems`.
    """
    notes, steps = [] if notes is None else notes, [] if steps is None else steps
    problems = Problems()
    shape = read_header(path, (4,)).shape
    types, context, sidecar = None, path, Sidecar(path)
    with problems.gather():
        types, context = read_context(path, shape[3])
    with problems.gather():
        sidecar = read_sidecar(path, "asl")
    if not sidecar.values:
        problems.stop()
    for check in (check_labeling, check_readout):
        with problems.gather():
            check(sidecar)
    layout = None if types is None else read_layout(types, context, sidecar, notes, steps, problems)
    if types is None:  # what the table of volumes does not decide
        for name in ("LabelingDuration", "PostLabelingDelay"):
            with problems.gather():
                sidecar.seconds(name, shape[3], "volumes")
    settings, crushed, offset, axis, m0 = None, False, None, 2, None
    blood = Blood()
    with problems.gather():
        blood = find_blood(path, sidecar, constants, hematocrit, blood_formula)
        if (told := blood.said()) is not None:
            steps.append(told)
    with problems.gather():
        own = {} if blood.value is None else {"t1_blood": blood.value}
        labeling = 0.0 if layout is None else layout.labeling
        settings = _constants(sidecar, dict(constants or {}) | own, read_suppression(sidecar, notes, labeling), notes)
    with problems.gather():
        crushed = read_crushing(sidecar, notes)
    with problems.gather():
        offset, axis = read_slice_timing(sidecar, shape, notes, steps)
    with problems.gather():
        if layout is not None:
            check_repetition(sidecar, layout.acquisition().time, shape[3], notes)
    with problems.gather():
        m0 = find_source(path, sidecar, types or [], notes)
    problems.stop()
    assert layout is not None
    assert settings is not None
    assert m0 is not None
    return Metadata(sidecar, layout, settings, offset, axis, m0, crushed, blood)


def load_subject(
    path: str | Path,
    mask: str | Path | None = None,
    constants: Mapping[str, float] | None = None,
    *,
    motion: str = "auto",
    outliers: bool = True,
    calibration: str = "voxelwise",
    m0_fwhm: float = 0.0,
    tissue: str = "given",
    hematocrit: float | None = None,
    blood_formula: str | None = None,
    force: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Subject:
    """Read an ASL series with its sidecar, aslcontext and M0, subtract or decode, and calibrate to delta-M / M0b.

    Parameters
    ----------
    path : str or Path
        The ASL series (NIfTI): control/label pairs, deltam volumes, or Hadamard-encoded volumes.
    mask : str or Path, optional
        Brain mask on the same grid; by default one is made from M0.
    constants : dict, optional
        Constants by name that replace the defaults and the sidecar's.
    motion : str
        "auto": rigid motion of raw volumes is corrected where there is need (`motion.need`); "on"; "off".
    outliers : bool
        Weigh down outlying volumes and slices: they are shrunk towards the mean of their delay's other repeats.
    calibration : str
        "voxelwise": M0 of each voxel; "reference": one M0b, from a region of one tissue.
    m0_fwhm : float
        mm by which M0 is smoothed inside the mask before voxelwise calibration (Gaussian, FWHM); 0 leaves it.
    tissue : str
        "given": partial volumes where there are any; "estimate": else those of the ICBM 152 atlas, registered to M0.
    hematocrit : float
        Of the person, a share: T1 of blood by `physics.blood`. Without it (and without constants["t1_blood"]) columns
        t1_blood and hematocrit of participants.tsv are looked at.
    blood_formula : str
        "lu2004" (the default) or "hales2016", for T1 of blood from hematocrit.
    force : bool
        Go on where order or sign of encoded volumes contradict the kinetics; the contradiction becomes a note.

    Raises
    ------
    InputError
        Where anything is missing, malformed, contradictory or not supported; names file, field, found, expected.
    """
    path = Path(path)
    name, folder = subject_name(path)
    notes: list[str] = []
    steps: list[str] = []
    known = read_metadata(path, constants, notes, steps, hematocrit, blood_formula)
    layout, sidecar, settings = known.layout, known.sidecar, known.constants
    acquisition = layout.acquisition(known.slice_offset, known.slice_axis, settings, known.crushed)
    if len(acquisition.distinct[0]) == 1:
        notes.append(ONE_DELAY)
    image = read_image(path, dimensions=(4,))
    m0 = read_m0(known.m0, image, settings, notes, steps)
    mask = mask or _mask_beside(path)
    inside = _mask(mask, image, layout, m0, steps)
    check_values(image, layout, m0, inside)
    before = len(steps), len(notes)
    volumes, m0, moved = correct_motion(motion, image, layout, m0, notes, steps, progress)
    motion_told = [*steps[before[0] :], *notes[before[1] :]]
    if moved is not None and moved.position.any() and mask is None:
        inside = _mask(None, image, layout, m0, [])  # M0 lies elsewhere now
    if moved is not None and (inside & ~moved.covered).any():
        notes.append(f"{(inside & ~moved.covered).sum()} mask voxels moved out of view: left out of the mask")
        inside = inside & moved.covered
    deltam = layout.difference(volumes)
    kinetics, contradiction = _check_kinetics(layout, deltam, inside, acquisition, sidecar, force, notes)
    found_outliers: dict[str, Any] | None = None
    if outliers:
        deltam, found_outliers = shrink_outliers(deltam, inside, acquisition, steps)
    given = find_tissue(path, folder, image, inside, notes)
    if m0.uniform and tissue == "estimate" and given is None:
        raise InputError(
            f"{path}: tissue cannot be estimated without an M0 image, M0Type is {m0.kind}; leave out --tissue"
        )
    parts, parts_from = tissue_maps(tissue, given, m0.data, inside, image.affine, notes)
    if m0.kind == "Absent":
        m0 = _relative_m0(m0, deltam, inside, acquisition, path, steps)
    scaled = _calibrated(m0, inside, settings, image, calibration, m0_fwhm, parts, notes, steps)
    scale = np.divide(1.0, scaled.m0b, out=np.zeros_like(scaled.m0b), where=scaled.m0b > 0)
    series = (np.where(inside[..., None], deltam, 0) * scale[..., None]).astype(np.float32)
    check_scale(series, inside, acquisition, path, m0.kind, notes)
    provenance = {
        "inputs": _inputs(path, sidecar, layout.context, m0, mask)
        | ({} if known.blood.file is None else {"participants": known.blood.file}),
        "volumes": {word: layout.types.count(word) for word in dict.fromkeys(layout.types)},
        "t1_blood": known.blood.provenance,
        "m0": {"type": m0.kind, "repetition_time": _one(m0.repetition_time), "relaxation": m0.relaxation},
        "mask": {"source": Path(mask).name if mask else "made", "voxels": int(inside.sum())},
        "time_encoding": kinetics,
        "motion": None if moved is None else moved.provenance(),
        "motion_told": motion_told,
        "outliers": found_outliers,
        "calibration": {"method": calibration, "m0_fwhm": m0_fwhm},
        "tissue": parts_from,
        "sidecar": {key: sidecar.values[key] for key in _REPORTED if key in sidecar},
        "steps": steps,
        "notes": notes,
    }
    return Subject(
        name=name,
        folder=folder,
        series=series,
        mask=inside,
        acquisition=acquisition,
        m0=scaled.m0,
        m0b=scaled.m0b,
        affine=image.affine,
        voxel_size=image.voxel_size,
        path=path,
        tissue=parts,
        motion=moved,
        volumes=None if moved is None else volumes,
        pair_index=layout.index,
        units=str(sidecar.values.get("Units", "arbitrary"))[:40],
        provenance=provenance,
        header=image.header,
        relative=m0.kind == "Absent",
        contradiction=contradiction,
        guide=None if m0.uniform else scaled.m0,
    )


def _one(values: tuple[float, ...] | None) -> float | list[float] | None:
    """The one value that all are, or all of them."""
    return None if values is None else values[0] if len(set(values)) == 1 else list(values)


_REPORTED = (
    "ArterialSpinLabelingType",
    "MRAcquisitionType",
    "MagneticFieldStrength",
    "Manufacturer",
    "ManufacturersModelName",
    "PulseSequenceType",
    "BackgroundSuppression",
    "BackgroundSuppressionNumberPulses",
)


def _calibrated(
    m0: M0,
    inside: NDArray[np.bool_],
    constants: Constants,
    image: Image,
    method: str,
    fwhm: float,
    tissue: Mapping[str, Volume] | None,
    notes: list[str],
    steps: list[str],
) -> Calibration:
    """M0 of tissue and of blood, from either."""
    if method not in ("voxelwise", "reference"):
        raise InputError(f"calibration is {method!r}; expected voxelwise or reference")
    if not 0 <= fwhm <= 50:
        raise InputError(f"the width by which M0 is smoothed is {fwhm:g} mm; expected 0 to 50")
    ratio = constants.partition_coefficient
    if m0.uniform:
        if method == "reference" or fwhm > 0:
            raise InputError(
                f"--calibration reference and --smooth-m0 need an M0 image, M0Type is {m0.kind}; expected neither"
            )
        if m0.kind == "Estimate":
            steps.append("M0 given as that of blood: used as it is")
        return Calibration(m0.data * np.float32(ratio), np.where(inside, m0.data, 0).astype(np.float32), 0)
    if method == "reference":
        region = reference_region(m0.data, inside, tissue, m0.repetition_time, constants)
        steps.append(f"M0b = {region.m0b:.5g} everywhere, from {region.what}")
        tissue_m0 = calibrate(m0.data, inside, ratio, m0.relaxation).m0
        return Calibration(tissue_m0, np.where(inside, region.m0b, 0).astype(np.float32), 0)
    data = m0.data
    if fwhm > 0:
        data = smooth_m0(data, inside, fwhm, image.voxel_size)
        steps.append(f"M0 smoothed inside the mask by {fwhm:g} mm (Gaussian, FWHM)")
    calibration = calibrate(data, inside, ratio, m0.relaxation)
    steps.append(f"M0b = M0 / lambda, voxel by voxel (lambda {ratio:g} ml/g)")
    if calibration.lifted:
        where = f"{calibration.lifted} mask voxels"
        notes.append(f"M0 was below a tenth of its median (or far above it) in {where}: replaced by its local median")
    return calibration


def _inputs(
    path: Path, sidecar: Sidecar, context: Path, m0: M0, mask: str | Path | None
) -> dict[str, Path | list[Path]]:
    """Every file that was read, by its part."""
    files: dict[str, Path | list[Path]] = {"asl": path, "sidecars": list(dict.fromkeys(sidecar.origin.values()))}
    files["aslcontext"] = context
    if m0.path:
        files["m0"] = m0.path
    if mask:
        files["mask"] = Path(mask)
    return files


def _constants(sidecar: Sidecar, given: Mapping[str, float] | None, pulses: int, notes: list[str]) -> Constants:
    values: dict[str, Any] = {"suppression_pulses": pulses}
    if "LabelingEfficiency" in sidecar:
        efficiency = sidecar.number("LabelingEfficiency", "a share above 0, at most 1", low=0.01, high=1.0)
        values["labeling_efficiency"] = efficiency
        if efficiency != Constants.labeling_efficiency:
            notes.append(f"LabelingEfficiency {efficiency:g} of the sidecar replaces {Constants.labeling_efficiency:g}")
    if "MagneticFieldStrength" in sidecar:
        tesla = sidecar.number("MagneticFieldStrength", "a field in tesla", low=0.01, high=30)
        if not 2.5 <= tesla <= 3.5:
            notes.append(f"the constants are those of 3 T, the data are from {tesla:g} T: set t1_blood and t1_tissue")
    known = {f.name for f in dataclasses.fields(Constants)}
    for name, value in (given or {}).items():
        if name not in known:
            raise InputError(f"there is no constant {shorten(name)}; expected one of {', '.join(sorted(known))}")
        whole = name == "suppression_pulses" and float(value).is_integer()
        values[name] = int(value) if whole else float(value)
    try:
        return Constants(**values)
    except ValueError as error:
        raise InputError(str(error)) from error


def _check_kinetics(
    layout: Layout,
    deltam: Volume,
    inside: NDArray[np.bool_],
    acquisition: Acquisition,
    sidecar: Sidecar,
    force: bool,
    notes: list[str],
) -> tuple[dict[str, Any] | None, str | None]:
    """Sign and order of the volumes against the kinetics: what was found of encoded ones, and the contradiction."""
    encoding = layout.time_encoding
    delay = _mean_offset(acquisition, inside)
    file: Path
    if encoding is None:
        file = layout.context if layout.index.ndim == 2 else sidecar.main
        means, noise = _by_delay(deltam, inside, acquisition)
        turned = exchanged(deltam, inside, acquisition.distinct[1])
        problem = _check_exchanged(turned, len(acquisition), file, force, notes)
        found = check_sign(means, inside, acquisition.distinct[0], file, force, delay, noise)
    else:
        mean = deltam.reshape(*deltam.shape[:3], -1, encoding.matrix.shape[1]).mean(axis=3)
        field = "TimeEncodedMatrix" if encoding.kind == "explicit" else "TimeEncodedMatrixType"
        file = sidecar.origin.get(field, sidecar.main)
        found = check_kinetics(mean, inside, encoding, acquisition.constants, file, force, delay)
    for told in (found.problem, found.doubt):
        if told:
            notes.append(told.replace(str(file), file.name))
    if encoding is None:
        return None, found.problem or problem
    report = {
        "matrix": encoding.kind,
        "size": encoding.size,
        "kinetics": found.best,
        "unexplained": {name: round(share, 4) for name, share in found.unexplained.items()},
    }
    return report, found.problem


def _check_exchanged(volumes: list[int], count: int, file: Path, force: bool, notes: list[str]) -> str | None:
    """InputError (or a note where they are few) where delta-M volumes are the negative of the others."""
    if not volumes:
        return None
    which = ", ".join(map(str, volumes[:8])) + (" ..." if len(volumes) > 8 else "")
    said = f"delta-M volumes {which} ({len(volumes)} of {count}) are the negative of the other repeats"
    problem = f"{file}: {said}; expected control minus label in all. Correct volume_type, or go on with --force"
    many = len(volumes) >= EXCHANGED * count
    if many and not force:
        raise InputError(problem)
    notes.append(f"{said}: are control and label exchanged there?")
    return problem if many else None


#: Share of the volumes that may be exchanged before the series is refused; a single one is an outlier.
EXCHANGED = 0.1


def _mean_offset(acquisition: Acquisition, inside: NDArray[np.bool_]) -> float:
    """s by which the mask's slices are read after the first, in the mean."""
    offset, axis = acquisition.slice_offset, acquisition.slice_axis
    return 0.0 if offset is None or not inside.any() else float(offset[np.nonzero(inside)[axis]].mean())


def _by_delay(deltam: Volume, inside: NDArray[np.bool_], acquisition: Acquisition) -> tuple[Volume, float]:
    """Mean over repeats, (X, Y, Z, K), and the variance of the mask's mean of one of them, by its repeats (or 0)."""
    distinct, index = acquisition.distinct
    members = [np.flatnonzero(index == k) for k in range(len(distinct))]
    brain = deltam[inside].mean(axis=0, dtype=float)
    spread = [brain[volumes].var(ddof=1) / volumes.size for volumes in members if volumes.size > 2]
    return acquisition.mean_over_repeats(deltam), float(np.median(spread)) if spread else 0.0


def _relative_m0(
    m0: M0, deltam: Volume, inside: NDArray[np.bool_], acquisition: Acquisition, path: Path, steps: list[str]
) -> M0:
    """A number in the place of M0 by which the mean brain curve becomes that of RELATIVE_CBF."""
    means, _ = _by_delay(deltam, inside, acquisition)
    found = mean_perfusion(means, inside, acquisition.distinct[0], _mean_offset(acquisition, inside))
    if not found > 0:
        raise InputError(
            f"{path}: no perfusion signal in the mean of the mask, and no M0 (M0Type is Absent) to scale it by; "
            "expected control minus label"
        )
    steps.append(f"no M0: scaled so that the mean curve of the mask is that of a CBF of {RELATIVE_CBF:g} (arbitrary)")
    return dataclasses.replace(m0, data=np.full_like(m0.data, found / RELATIVE_CBF))


#: CBF that the mean curve of a brain without M0 is given: in the middle of what estimators are made for.
RELATIVE_CBF = 50.0


def _mask_beside(path: Path) -> Path | None:
    """The brain mask that ASLPrep leaves beside its preprocessed series; None for other series."""
    stem, _ = split_name(path)
    if not stem.endswith(f"_{PREPROCESSED}_asl"):
        return None
    own = stem.removesuffix(f"_{PREPROCESSED}_asl")
    return next((file for file in sorted(path.parent.glob(f"{own}_desc-brain_mask.nii*"))), None)


def _mask(given: str | Path | None, image: Image, layout: Layout, m0: M0, steps: list[str]) -> NDArray[np.bool_]:
    if given is not None:
        mask = read_image(Path(given), dimensions=(3, 4))
        if mask.data.ndim == 4 and mask.data.shape[3] > 1:
            raise InputError(f"{given}: has {mask.data.shape[3]} volumes; expected a mask of one")
        require_same_grid(mask, image, "mask")
        inside = np.nan_to_num(mask.data.reshape(mask.data.shape[:3])) > 0.5
        if not inside.any():
            raise InputError(f"{given}: the mask has no voxel above 0.5; expected 1 inside the brain")
        steps.append(f"mask given: {inside.sum()} voxels")
        return inside
    source, what = m0.data, "M0"
    if m0.uniform:
        static = layout.static(image.data)
        if static is None:
            raise InputError(
                f"{image.path}: no M0 image and no control volume to make a mask from; give one with --mask"
            )
        source, what = static, "the mean control image"
    inside = brain_mask(source, image.voxel_size, control=m0.uniform)
    steps.append(f"mask made from {what}: {inside.sum()} voxels")
    return inside

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

from ..errors import InputError
from ..physics.acquisition import Acquisition
from ..physics.constants import Constants
from .images import Image, read_image, require_same_grid
from .kinetics_check import check_kinetics
from .m0 import M0, read_m0
from .motion import Motion
from .preparation import correct_motion, shrink_outliers, tissue_maps
from .preprocess import Calibration, brain_mask, calibrate, reference_region, smooth_inside
from .sidecar import Sidecar, entities, read_sidecar, shorten, split_name
from .timing import read_slice_timing, read_suppression
from .tissue import find_tissue
from .volumes import Layout, read_layout

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


def subject_name(path: Path) -> tuple[str, str]:
    """Name and folder of a subject's outputs from the name of its ASL file; only letters, digits, - and _ remain.

    sub-XX, and sub-XX_ses-YY in sub-XX/ses-YY; other entities (run, acquisition) stay in the name, so that two
    runs don't overwrite each other. Without sub-XX, the stem before _asl.
    """
    stem, _ = split_name(path)
    own = entities(stem)
    if "sub" not in own:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", re.sub(r"_asl$", "", stem)).strip("-_")[:80] or "subject"
        return plain, plain
    name = "_".join(f"{key}-{value}" for key, value in own.items())
    folder = f"sub-{own['sub']}" + (f"/ses-{own['ses']}" if "ses" in own else "")
    return name, folder


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
        "auto": rigid motion of raw volumes is corrected where there is need (`preparation`); "on"; "off".
    outliers : bool
        Weigh down outlying volumes and slices: they are shrunk towards the mean of their delay's other repeats.
    calibration : str
        "voxelwise": M0 of each voxel; "reference": one M0b, from a region of one tissue.
    m0_fwhm : float
        mm by which M0 is smoothed inside the mask before voxelwise calibration (Gaussian, FWHM); 0 leaves it.
    tissue : str
        "given": partial volumes where there are any; "estimate": else those of the ICBM 152 atlas, registered to M0.
    force : bool
        Go on where order or sign of encoded volumes contradict the kinetics; the contradiction becomes a note.

    Raises
    ------
    InputError
        Where anything is missing, malformed, contradictory or not supported; names file, field, found, expected.
    """
    path = Path(path)
    image = read_image(path, dimensions=(4,))
    sidecar = read_sidecar(path, "asl")
    notes: list[str] = []
    steps: list[str] = []
    layout = read_layout(path, image, sidecar, notes, steps)
    settings = _constants(sidecar, constants, notes)
    offset, axis = read_slice_timing(sidecar, image, notes, steps)
    acquisition = layout.acquisition(offset, axis, settings)
    m0 = read_m0(image, sidecar, layout.types, settings, notes, steps)
    inside = _mask(mask, image, layout, m0, steps)
    _check_values(image, layout.difference(image.data), inside, layout.types)
    volumes, m0, moved = correct_motion(motion, image, layout, m0, notes, steps, progress)
    if moved is not None and moved.position.any() and mask is None:
        inside = _mask(None, image, layout, m0, [])  # M0 lies elsewhere now
    if moved is not None and (inside & ~moved.covered).any():
        notes.append(f"{(inside & ~moved.covered).sum()} mask voxels moved out of view: left out of the mask")
        inside = inside & moved.covered
    deltam = layout.difference(volumes)
    kinetics = _check_order(layout, deltam, inside, settings, sidecar, force, notes)
    found_outliers: dict[str, Any] | None = None
    if outliers:
        deltam, found_outliers = shrink_outliers(deltam, inside, acquisition, steps)
    name, folder = subject_name(path)
    given = find_tissue(path, folder, image, inside, notes)
    parts, parts_from = tissue_maps(tissue, given, m0.data, inside, image.affine, notes)
    scaled = _calibrated(m0, inside, settings, image, calibration, m0_fwhm, parts, notes, steps)
    scale = np.divide(1.0, scaled.m0b, out=np.zeros_like(scaled.m0b), where=scaled.m0b > 0)
    series = (np.where(inside[..., None], deltam, 0) * scale[..., None]).astype(np.float32)
    provenance = {
        "inputs": _inputs(path, sidecar, layout.context, m0, mask),
        "volumes": {word: layout.types.count(word) for word in dict.fromkeys(layout.types)},
        "m0": {"type": m0.kind, "repetition_time": m0.repetition_time, "relaxation": m0.relaxation},
        "mask": {"source": str(mask) if mask else "made", "voxels": int(inside.sum())},
        "encoding": kinetics,
        "motion": None if moved is None else moved.provenance(),
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
    )


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
    if m0.of_blood:
        steps.append("M0 given as that of blood: used as it is")
        return Calibration(m0.data * np.float32(ratio), np.where(inside, m0.data, 0).astype(np.float32), 0)
    if method == "reference":
        region = reference_region(m0.data, inside, tissue, m0.repetition_time, constants)
        steps.append(f"M0b = {region.m0b:.5g} everywhere, from {region.what}")
        tissue_m0 = calibrate(m0.data, inside, ratio, m0.relaxation).m0
        return Calibration(tissue_m0, np.where(inside, region.m0b, 0).astype(np.float32), 0)
    data = m0.data
    if fwhm > 0:
        data = smooth_inside(data, inside, fwhm, image.voxel_size)
        steps.append(f"M0 smoothed inside the mask by {fwhm:g} mm (Gaussian, FWHM)")
    calibration = calibrate(data, inside, ratio, m0.relaxation)
    steps.append(f"M0b = M0 / lambda, voxel by voxel (lambda {ratio:g} ml/g)")
    if calibration.lifted:
        where = f"{calibration.lifted} mask voxels"
        notes.append(f"M0 was below a tenth of its median in {where}: replaced by its local median")
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


def _constants(sidecar: Sidecar, given: Mapping[str, float] | None, notes: list[str]) -> Constants:
    values: dict[str, Any] = {"suppression_pulses": read_suppression(sidecar, notes)}
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


def _check_order(
    layout: Layout,
    deltam: Volume,
    inside: NDArray[np.bool_],
    constants: Constants,
    sidecar: Sidecar,
    force: bool,
    notes: list[str],
) -> dict[str, Any] | None:
    """Order and sign of encoded volumes against the kinetics: what was found, or None where nothing is encoded."""
    encoding = layout.encoding
    if encoding is None:
        return None
    mean = deltam.reshape(*deltam.shape[:3], -1, encoding.matrix.shape[1]).mean(axis=3)
    field = "TimeEncodedMatrix" if encoding.kind == "explicit" else "TimeEncodedMatrixType"
    file = sidecar.origin.get(field, sidecar.main)
    found = check_kinetics(mean, inside, encoding, constants, file=file, force=force)
    if found.problem:
        notes.append(found.problem)
    return {
        "matrix": encoding.kind,
        "size": encoding.size,
        "kinetics": found.best,
        "unexplained": {name: round(share, 4) for name, share in found.unexplained.items()},
    }


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
    if m0.of_blood:
        static = layout.static(image.data)
        if static is None:
            raise InputError(
                f"{image.path}: no M0 image and no control volume to make a mask from; give one with --mask"
            )
        source, what = static, "the mean control image"
    inside = brain_mask(source, image.voxel_size)
    steps.append(f"mask made from {what}: {inside.sum()} voxels")
    return inside


def _check_values(image: Image, deltam: Volume, inside: NDArray[np.bool_], types: list[str]) -> None:
    bad = ~np.isfinite(deltam[inside])
    if bad.any():
        raise InputError(
            f"{image.path}: NaN or infinite in {int(bad.any(axis=1).sum())} voxels of the mask; "
            "expected finite numbers (mend the series, or leave those voxels out with --mask)"
        )
    zero = [
        volume
        for volume, word in enumerate(types)
        if word in ("control", "label", "m0scan", "n/a") and not image.data[..., volume].any()
    ]
    if zero:
        raise InputError(f"{image.path}: volume {zero[0]} ({types[zero[0]]}) is zero everywhere; expected an image")
    if not np.any(deltam[inside]):
        raise InputError(
            f"{image.path}: control minus label is zero everywhere in the mask; expected a perfusion signal"
        )

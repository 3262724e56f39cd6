"""An ASL series and all that belongs to it, read as BIDS defines it: load_subject -> Subject."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..physics.acquisition import Acquisition
from ..physics.constants import Constants
from .images import Image, read_image, require_same_grid
from .m0 import M0, read_m0
from .preprocess import Calibration, brain_mask, calibrate, form_pairs
from .sidecar import Sidecar, entities, read_context, read_sidecar, shorten, split_name
from .timing import read_slice_timing, read_suppression
from .tissue import find_tissue

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
        Volumes of the file that each volume of the series was made from: control and label, or the deltam volume.
    units : str
        Units of the input ('arbitrary' unless the sidecar says otherwise).
    provenance : dict
        What was read and done, ready for JSON: inputs, volumes, m0, mask, steps, notes.
    header : object
        Header of the ASL file, for writing maps on the same grid.
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
    path: str | Path, mask: str | Path | None = None, constants: Mapping[str, float] | None = None
) -> Subject:
    """Read an ASL series with its sidecar, aslcontext and M0, subtract pairs and calibrate to delta-M / M0b.

    Parameters
    ----------
    path : str or Path
        The ASL series (NIfTI), control/label pairs or deltam volumes.
    mask : str or Path, optional
        Brain mask on the same grid; by default one is made from M0.
    constants : dict, optional
        Constants by name that replace the defaults and the sidecar's.

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
    _check_labeling(sidecar)
    types, context = read_context(path, image.data.shape[3])
    _check_types(types, context)
    settings = _constants(sidecar, constants, notes)
    tau, pld = (sidecar.seconds(name, len(types), "volumes") for name in ("LabelingDuration", "PostLabelingDelay"))
    deltam, index = _difference(image, types, tau, pld, sidecar, notes, steps)
    first = index if index.ndim == 1 else index[:, 0]
    offset, axis = read_slice_timing(sidecar, image, notes, steps)
    for volume in first:
        if tau[volume] <= 0:
            raise sidecar.error("LabelingDuration", f"more than 0 s for volume {volume}, a {types[volume]} volume")
    acquisition = Acquisition([tau[v] for v in first], [pld[v] for v in first], offset, axis, settings)
    m0 = read_m0(image, sidecar, types, settings, notes, steps)
    inside = _mask(mask, image, types, m0, steps)
    _check_values(image, deltam, inside, types)
    calibration = _calibrated(m0, inside, settings, notes, steps)
    scale = np.divide(1.0, calibration.m0b, out=np.zeros_like(calibration.m0b), where=calibration.m0b > 0)
    series = (np.where(inside[..., None], deltam, 0) * scale[..., None]).astype(np.float32)
    name, folder = subject_name(path)
    provenance = {
        "inputs": _inputs(path, sidecar, context, m0, mask),
        "volumes": {word: types.count(word) for word in dict.fromkeys(types)},
        "m0": {"type": m0.kind, "repetition_time": m0.repetition_time, "relaxation": m0.relaxation},
        "mask": {"source": str(mask) if mask else "made", "voxels": int(inside.sum())},
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
        m0=calibration.m0,
        m0b=calibration.m0b,
        affine=image.affine,
        voxel_size=image.voxel_size,
        path=path,
        tissue=find_tissue(path, folder, image),
        pair_index=index,
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
    m0: M0, inside: NDArray[np.bool_], constants: Constants, notes: list[str], steps: list[str]
) -> Calibration:
    """M0 of tissue and of blood, from either."""
    ratio = constants.partition_coefficient
    if m0.of_blood:
        steps.append("M0 given as that of blood: used as it is")
        return Calibration(m0.data * np.float32(ratio), np.where(inside, m0.data, 0).astype(np.float32), 0)
    calibration = calibrate(m0.data, inside, ratio, m0.relaxation)
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


def _check_labeling(sidecar: Sidecar) -> None:
    kind = sidecar.values.get("ArterialSpinLabelingType")
    if isinstance(kind, str) and kind.strip().upper() == "PASL":
        raise sidecar.error("ArterialSpinLabelingType", "PCASL or CASL; the kinetic model here is not that of PASL")
    sidecar.text("ArterialSpinLabelingType", ("PCASL", "CASL"))


def _check_types(types: list[str], context: Path) -> None:
    if "cbf" in types:
        raise InputError(
            f"{context}: row {types.index('cbf') + 1} of volume_type is cbf; expected control, label or deltam: "
            "CBF maps that the scanner made cannot be fitted"
        )
    pairs = {"control", "label"} & set(types)
    if pairs and "deltam" in types:
        raise InputError(
            f"{context}: has deltam beside {' and '.join(sorted(pairs))}; expected pairs or deltam, not both"
        )
    if not pairs and "deltam" not in types:
        raise InputError(
            f"{context}: has {', '.join(dict.fromkeys(types)) or 'no rows'}; "
            "expected control and label, or deltam volumes"
        )


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
        values[name] = int(value) if name == "suppression_pulses" else float(value)
    try:
        return Constants(**values)
    except ValueError as error:
        raise InputError(str(error)) from error


def _difference(
    image: Image,
    types: list[str],
    tau: list[float],
    pld: list[float],
    sidecar: Sidecar,
    notes: list[str],
    steps: list[str],
) -> tuple[Volume, NDArray[np.intp]]:
    """Control minus label of every pair, or the deltam volumes, and the volumes that each was made from."""
    used = {"control", "label", "deltam", "m0scan"}
    if set(types) - used:
        notes.append(f"volumes of type {', '.join(sorted(set(types) - used))} are not used")
    if "deltam" in types:
        index = np.flatnonzero(np.array(types) == "deltam")
        steps.append(f"{index.size} deltam volumes: taken as control minus label")
        return image.data[..., index], index
    pairs = form_pairs(types, tau, pld)
    if "TotalAcquiredPairs" in sidecar:
        total = int(sidecar.number("TotalAcquiredPairs", "the number of control-label pairs", low=1))
        delays = len({(tau[volume], pld[volume]) for volume in pairs[:, 0]})
        # Some converters count the pairs of one delay; that is not taken for a contradiction.
        if total < len(pairs) and total * delays != len(pairs):
            raise sidecar.error("TotalAcquiredPairs", f"at least {len(pairs)}, the pairs in the aslcontext")
        if total > len(pairs):
            notes.append(f"TotalAcquiredPairs is {total}, the series has {len(pairs)}: the others were left out before")
    steps.append(f"{len(pairs)} control-label pairs: control minus label")
    return image.data[..., pairs[:, 0]] - image.data[..., pairs[:, 1]], pairs


def _mask(given: str | Path | None, image: Image, types: list[str], m0: M0, steps: list[str]) -> NDArray[np.bool_]:
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
        controls = [volume for volume, word in enumerate(types) if word == "control"]
        if not controls:
            raise InputError(
                f"{image.path}: no M0 image and no control volume to make a mask from; give one with --mask"
            )
        source, what = image.data[..., controls].mean(axis=3), "the mean control volume"
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
        if word in ("control", "label", "m0scan") and not image.data[..., volume].any()
    ]
    if zero:
        raise InputError(f"{image.path}: volume {zero[0]} ({types[zero[0]]}) is zero everywhere; expected an image")
    if not np.any(deltam[inside]):
        raise InputError(
            f"{image.path}: control minus label is zero everywhere in the mask; expected a perfusion signal"
        )

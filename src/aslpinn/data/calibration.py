"""M0: where it comes from, as M0Type says, and how it turns delta-M into fractions of M0 of blood."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import InputError
from ..physics.constants import Constants
from ..smoothing import smooth_inside
from .nifti import Image, averaged, reached, read_header, read_image, same_grid
from .sidecar import Sidecar, entities, read_json, read_sidecar, split_name

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]

#: M0 is corrected for incomplete relaxation below this repetition time in s (Alsop et al. 2015,
#: doi:10.1002/mrm.25197: a TR of 5 s or more needs none).
LONG_TR = 5.0
#: Inside the mask M0 is not taken below this share of its median: delta-M / M0b would grow without bound; nor above
#: this multiple: no tissue is so bright, and CBF would be 0 there.
M0_FLOOR, M0_CEILING = 0.1, 20.0


def relaxation_factor(repetition_time: float | Sequence[float] | None, t1_tissue: float) -> float:
    """Share of M0 that a scan of this repetition time shows, 1 - exp(-TR/T1t); 1 from 5 s on, or where TR is unknown.

    repetition_time in s, or one for each volume that a mean was taken over (their mean share); None or 0 (a
    placeholder: no scan has it) mean unknown.
    """
    times = np.atleast_1d(np.asarray(0.0 if repetition_time is None else repetition_time, dtype=float))
    return float(np.mean([1.0 if not 0 < time < LONG_TR else 1.0 - np.exp(-time / t1_tissue) for time in times]))


@dataclass(frozen=True)
class Calibration:
    """M0 of tissue and of blood in the series' units, and how many mask voxels were lifted to the floor."""

    m0: Volume
    m0b: Volume
    lifted: int


def calibrate(m0: Volume, mask: Mask, partition_coefficient: float, relaxation: float = 1.0) -> Calibration:
    """M0b = M0t / lambda, voxel by voxel, with M0t corrected for incomplete relaxation.

    Where M0 inside the mask is not above a tenth of its median there, above 20 times it, or not finite, the local
    3 x 3 x 3 median takes its place, and the floor where that is no better. Outside the mask M0b is 0.

    Raises
    ------
    InputError
        Where M0 has no positive value inside the mask.
    """
    inside = m0[mask]
    usable = inside[np.isfinite(inside) & (inside > 0)]
    if usable.size == 0:
        raise InputError("M0 is zero, negative or NaN everywhere inside the mask; expected a positive image of tissue")
    middle = np.median(usable)
    floor = np.float32(M0_FLOOR * middle)
    clean = np.where(np.isfinite(m0) & (m0 <= M0_CEILING * middle), m0, 0).astype(np.float32)
    low = mask & (clean < floor)
    if low.any():
        local = ndimage.median_filter(clean, size=3, mode="nearest")
        clean = np.where(low, np.maximum(local, floor), clean)
    m0_tissue = (clean / np.float32(relaxation)).astype(np.float32)
    m0b = np.where(mask, m0_tissue / np.float32(partition_coefficient), 0).astype(np.float32)
    return Calibration(m0_tissue, m0b, int(low.sum()))


def smooth_m0(image: Volume, mask: Mask, fwhm: float, voxel_size: tuple[float, float, float]) -> Volume:
    """An M0 smoothed by a Gaussian of that FWHM in mm, from positive mask voxels only; unchanged outside the mask."""
    usable = mask & np.isfinite(image) & (image > 0)
    smooth = image.astype(np.float32)
    smooth[mask] = smooth_inside(image[usable], usable, [fwhm / 2.3548 / size for size in voxel_size], at=mask)
    return smooth


@dataclass(frozen=True)
class Reference:
    """M0 of blood from a region of one tissue, and words for the record."""

    m0b: float
    what: str


#: T1 in s and blood-tissue partition coefficient in ml/g of reference tissues at 3 T: white matter as in the BASIL
#: toolbox's asl_calib (Chappell et al. 2018, doi:10.1093/oso/9780198793816.001.0001).
WHITE_MATTER = (1.0, 0.82)
#: Partial volume from which a voxel counts as pure, and fewest voxels of a reference region.
PURE, REGION_VOXELS = 0.8, 20


def reference_region(
    m0: Volume,
    mask: Mask,
    tissue: Mapping[str, Volume] | None,
    repetition_time: float | Sequence[float] | None,
    constants: Constants,
) -> Reference:
    """One M0 of blood from the median M0 of pure white matter, or of the whole brain where no tissue map is known.

    M0b = M0(region) / ((1 - exp(-TR/T1)) lambda), with T1 and lambda of that tissue.

    Raises
    ------
    InputError
        Where M0 has no positive value in the region.
    """
    t1, ratio = constants.t1_tissue, constants.partition_coefficient
    region, what = mask, "the median M0 of the whole mask (no tissue maps)"
    if tissue is not None:
        pure = mask & (tissue["wm"] > PURE)
        if pure.sum() >= REGION_VOXELS:
            region, (t1, ratio) = pure, WHITE_MATTER
            what = f"the median M0 of white matter ({int(pure.sum())} voxels, T1 {t1:g} s, lambda {ratio:g} ml/g)"
    values = m0[region]
    values = values[np.isfinite(values) & (values > 0)]
    if values.size == 0:
        raise InputError("M0 is zero, negative or NaN everywhere in the reference region; expected an image of tissue")
    return Reference(float(np.median(values)) / relaxation_factor(repetition_time, t1) / ratio, what)


@dataclass(frozen=True)
class M0:
    """An M0 image in the series' units, the mean of its volumes.

    kind: its BIDS word; repetition_time: s of each volume, None where unknown; relaxation: the share of M0 that the
    mean shows; uniform: one number instead of an image, of blood ("Estimate") or of no known scale ("Absent").
    """

    data: NDArray[np.float32]
    kind: str
    repetition_time: tuple[float, ...] | None
    relaxation: float
    uniform: bool = False
    path: Path | None = None


@dataclass(frozen=True)
class M0Source:
    """Where M0 is to be read from: its BIDS word, its file or the volumes of the series, TR in s of each volume."""

    kind: str
    path: Path | None = None
    volumes: tuple[int, ...] = ()
    repetition_time: tuple[float, ...] | None = None
    estimate: float = 1.0


def find_source(path: Path, sidecar: Sidecar, types: list[str], notes: list[str]) -> M0Source:
    """Where the M0 of a series is, as its sidecar's M0Type says: Included, Separate, Estimate or Absent.

    Raises
    ------
    InputError
        Where M0Type is missing or contradicts what is there, or a repetition time is not one a volume.
    """
    kind = sidecar.text("M0Type", ("Included", "Separate", "Estimate", "Absent"))
    if kind in ("Separate", "Estimate") and "m0scan" in types:
        notes.append(f"M0Type is {kind}: the m0scan volumes of the series are not used")
    if kind != "Separate" and find_m0(path) is not None:
        notes.append(f"M0Type is {kind}: the M0 scan beside the series is not used")
    if kind == "Absent":
        if "m0scan" in types:
            raise sidecar.error("M0Type", "Included, as the aslcontext has m0scan rows (or n/a in their place)")
        notes.append(
            "M0Type is Absent: CBF has no units, only its pattern means something (desc-relative_cbf); ATT has"
        )
        return M0Source(kind)
    if kind == "Estimate":
        value = sidecar.number("M0Estimate", "the M0 of blood in the series' units, above 0", low=1e-30, high=1e30)
        return M0Source(kind, estimate=value)
    if kind == "Included":
        volumes = [volume for volume, word in enumerate(types) if word == "m0scan"]
        if not volumes:
            raise sidecar.error("M0Type", "Separate or Estimate, or a row m0scan in the aslcontext, which has none")
        every = sidecar.seconds_or_none("RepetitionTimePreparation", len(types), "volumes")
        return M0Source(kind, None, tuple(volumes), _repetition(sidecar, every and [every[v] for v in volumes], notes))
    source = find_m0(path)
    if source is None:
        hint = "; the aslcontext has m0scan rows: is M0Type Included meant?" if "m0scan" in types else ""
        stem, extension = split_name(path)
        expected = path.with_name(f"{stem.removesuffix('_asl')}_m0scan{extension}")
        raise InputError(f"{expected}: not found; expected there the M0 scan, as M0Type is Separate{hint}")
    shape = read_header(source, (3, 4)).shape
    own = read_sidecar(source, "m0scan", required=False)
    count = shape[3] if len(shape) == 4 else 1
    times = own.seconds_or_none("RepetitionTimePreparation", count, "volumes of the M0 scan")
    return M0Source(kind, source, tuple(range(count)), _repetition(own, times, notes))


def _repetition(sidecar: Sidecar, times: list[float] | None, notes: list[str]) -> tuple[float, ...] | None:
    """Repetition times of M0 volumes; None where they are missing or 0, a placeholder that no scan has."""
    if not times or not any(times):
        notes.append("RepetitionTimePreparation of M0 is missing or 0: M0 is taken as fully relaxed")
        return None
    if not all(times):
        raise sidecar.error("RepetitionTimePreparation", "seconds above 0 for each M0 volume, or 0 (unknown) for all")
    return tuple(times)


def read_m0(source: M0Source, image: Image, constants: Constants, notes: list[str], steps: list[str]) -> M0:
    """The M0 of a series, on its grid.

    Volumes of different repetition times TR are corrected together, M0 = sum(S) / sum(1 - exp(-TR/T1)).
    A scan on another grid is resampled by the two affines.

    Raises
    ------
    InputError
        Where the image is unusable or does not cover the series.
    """
    if source.kind in ("Estimate", "Absent"):
        if source.kind == "Estimate":
            steps.append(f"M0 of blood is {source.estimate:g} everywhere (M0Estimate)")
        data = np.full(image.data.shape[:3], source.estimate, dtype=np.float32)
        return M0(data, source.kind, None, 1.0, uniform=True)
    if source.path is None:
        volumes, what = image.data[..., list(source.volumes)], "volume " + ", ".join(map(str, source.volumes))
    else:
        scan = read_image(source.path, dimensions=(3, 4))
        volumes, what = scan.data.reshape(*scan.data.shape[:3], -1), source.path.name
    with np.errstate(invalid="ignore", over="ignore"):
        mean = volumes.mean(axis=3, dtype=np.float64).astype(np.float32)
    if not np.isfinite(mean).any() or not np.nanmax(np.where(np.isfinite(mean), mean, 0)) > 0:
        raise InputError(f"{source.path or image.path}: M0 ({what}) is nowhere above zero; expected an image of tissue")
    if source.path is not None and not same_grid(scan, image):
        mean = _resampled(mean, scan, image, notes)
    relaxation = relaxation_factor(source.repetition_time, constants.t1_tissue)
    steps.append(f"M0 from {what} ({source.kind})")
    if relaxation < 1 and source.repetition_time:
        times = ", ".join(f"{time:g}" for time in dict.fromkeys(source.repetition_time))
        steps.append(
            f"M0 divided by {relaxation:.3f} = mean of 1 - exp(-TR/T1t): its TR, {times} s, is below {LONG_TR:g} s "
            f"(T1t {constants.t1_tissue:g} s)"
        )
    return M0(mean, source.kind, source.repetition_time, relaxation, path=source.path)


#: Share of the series' voxels that an M0 scan on another grid has to reach.
_REACH = 0.8


def _resampled(mean: NDArray[np.float32], scan: Image, image: Image, notes: list[str]) -> NDArray[np.float32]:
    """M0 averaged over each voxel of the series; 0 where it does not reach."""
    moved = Image(mean, scan.affine, scan.voxel_size, scan.header, scan.path)
    reach = reached(moved, image)
    if reach.mean() < _REACH:
        raise InputError(
            f"{scan.path}: the M0 scan ({' x '.join(map(str, mean.shape))} voxels) reaches {100 * reach.mean():.0f} % "
            f"of {image.path.name} by their affines; expected {100 * _REACH:.0f} % or more (is an affine wrong?)"
        )
    notes.append(
        f"M0 ({scan.path.name}) has another grid than the series: resampled by the affines, without a registration"
    )
    values = averaged(np.nan_to_num(mean, nan=0.0, posinf=0.0, neginf=0.0), moved, image, beyond="nearest")
    return np.where(reach, values, 0).astype(np.float32)


def find_m0(path: Path) -> Path | None:
    """The M0 scan of an ASL file: the one whose IntendedFor names it, else of the same name, else the only one."""
    folder = path.parent
    scans = sorted(file for file in folder.glob("*_m0scan.nii*") if split_name(file)[1])
    scans = [file for file in scans if not file.name.startswith("._")]  # macOS leaves such files beside others
    session = {key: value for key, value in entities(split_name(path)[0]).items() if key in ("sub", "ses")}
    scans = [file for file in scans if session.items() <= entities(split_name(file)[0]).items() or not session]
    for scan in scans:
        if path.name in (Path(target).name for target in _intended(scan)):
            return scan
    stem = split_name(path)[0].removesuffix("_asl")
    for scan in scans:
        if split_name(scan)[0] == f"{stem}_m0scan":
            return scan
    free = [scan for scan in scans if not any(True for _ in _intended(scan))]
    return free[0] if len(free) == 1 and session else None


def _intended(scan: Path) -> Iterator[str]:
    """Names of the files that an M0 scan is meant for."""
    file = scan.with_name(split_name(scan)[0] + ".json")
    targets: Any = read_json(file).get("IntendedFor", []) if file.is_file() else []
    for target in targets if isinstance(targets, list) else [targets]:
        if isinstance(target, str):
            yield target

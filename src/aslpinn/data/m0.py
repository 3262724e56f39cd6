"""Where M0 comes from: volumes of the series, a scan of its own, one number, or nowhere, as M0Type says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..physics.constants import Constants
from .calibration import LONG_TR, relaxation_factor
from .nifti import Image, averaged, reached, read_header, read_image, same_grid
from .sidecar import Sidecar, entities, read_json, read_sidecar, split_name


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

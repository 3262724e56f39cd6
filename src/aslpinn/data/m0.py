"""Where M0 comes from: a volume of the series, a scan of its own, or one number, as M0Type says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..physics.constants import Constants
from .images import Image, read_image, require_same_grid
from .preprocess import LONG_TR, relaxation_factor
from .sidecar import Sidecar, entities, read_json, read_sidecar, split_name


@dataclass(frozen=True)
class M0:
    """An M0 image in the series' units: its BIDS kind, its TR in s (None unknown), the share of M0 that it shows."""

    data: NDArray[np.float32]
    kind: str
    repetition_time: float | None
    relaxation: float
    of_blood: bool = False
    path: Path | None = None


def read_m0(
    image: Image, sidecar: Sidecar, types: list[str], constants: Constants, notes: list[str], steps: list[str]
) -> M0:
    """The M0 of a series as its sidecar's M0Type says: Included, Separate or Estimate.

    Raises
    ------
    InputError
        Where M0Type is missing, Absent or contradicts what is there, or the image is unusable.
    """
    kind = sidecar.values.get("M0Type")
    if isinstance(kind, str) and kind.strip().lower() == "absent":
        raise sidecar.error("M0Type", "Included, Separate or Estimate: without M0 perfusion has no units")
    kind = sidecar.text("M0Type", ("Included", "Separate", "Estimate"))
    if kind == "Estimate":
        value = sidecar.number("M0Estimate", "the M0 of blood in the series' units, above 0", low=1e-30, high=1e30)
        steps.append(f"M0 of blood is {value:g} everywhere (M0Estimate)")
        data = np.full(image.data.shape[:3], value, dtype=np.float32)
        return M0(data, kind, None, 1.0, of_blood=True)
    if kind == "Included":
        volumes = [volume for volume, word in enumerate(types) if word == "m0scan"]
        if not volumes:
            raise sidecar.error("M0Type", "Separate or Estimate, or a row m0scan in the aslcontext, which has none")
        data, source, own = image.data[..., volumes], None, sidecar
        repetition = own.seconds_or_none("RepetitionTimePreparation", volumes[0])
        what = "volume " + ", ".join(map(str, volumes))
    else:
        source = find_m0(image.path)
        if source is None:
            hint = "; the aslcontext has m0scan rows: is M0Type Included meant?" if "m0scan" in types else ""
            stem, extension = split_name(image.path)
            expected = image.path.with_name(f"{stem.removesuffix('_asl')}_m0scan{extension}")
            raise InputError(f"{expected}: not found; expected there the M0 scan, as M0Type is Separate{hint}")
        scan = read_image(source, dimensions=(3, 4))
        require_same_grid(scan, image, "M0 scan")
        data = scan.data if scan.data.ndim == 4 else scan.data[..., None]
        own = read_sidecar(source, "m0scan", required=False)
        repetition = own.seconds_or_none("RepetitionTimePreparation")
        what = source.name
    with np.errstate(invalid="ignore", over="ignore"):
        mean = data.mean(axis=3, dtype=np.float64).astype(np.float32)
    if not np.isfinite(mean).any() or not np.nanmax(np.where(np.isfinite(mean), mean, 0)) > 0:
        raise InputError(f"{source or image.path}: M0 ({what}) is nowhere above zero; expected an image of tissue")
    relaxation = relaxation_factor(repetition, constants.t1_tissue)
    steps.append(f"M0 from {what} ({kind})")
    if relaxation < 1:
        steps.append(
            f"M0 divided by {relaxation:.3f} = 1 - exp(-TR/T1t): its TR, {repetition:g} s, is below {LONG_TR:g} s "
            f"(T1t {constants.t1_tissue:g} s)"
        )
    elif not repetition:
        notes.append("RepetitionTimePreparation of M0 is missing or 0: M0 is taken as fully relaxed")
    return M0(mean, kind, repetition or None, relaxation, path=source)


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

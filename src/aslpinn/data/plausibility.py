"""What the numbers of a series can be: refused where they are no image of perfusion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, Problems
from ..physics import Acquisition
from .calibration import M0, M0_CEILING
from .nifti import Image
from .volumes import Layout

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]

#: How often a value may be the 99th percentile of its image: fat and vessels are ten times as bright as brain.
LARGEST = 1000.0
#: RMS of delta-M / M0b over the mask below which M0 and the series cannot be in one unit, and below which that is
#: doubtful: a CBF of 0.1 and of 5 ml/100g/min.
IMPOSSIBLE, DOUBTFUL = 1e-5, 5e-4
#: The largest mean of the mask, of any delay, likewise: a CBF of 200 and of 700 ml/100g/min.
TOO_HIGH, FAR_TOO_HIGH = 0.03, 0.1


def check_values(image: Image, layout: Layout, m0: M0, inside: Mask) -> None:
    """InputError where volumes are empty, hold what no image holds, or differ by more than M0 allows."""
    problems = Problems()
    for values, path, what in ((image.data, image.path, "volume"), (m0.data[..., None], m0.path, "M0")):
        if path is not None:
            with problems.gather():
                _check_extremes(values, path, what)
    used = [v for v, word in enumerate(layout.types) if word in ("control", "label", "deltam", "m0scan", "n/a")]
    with problems.gather():
        empty = next((v for v in used if not np.any(image.data[..., v])), None)
        if empty is not None:
            kind = layout.types[empty]
            raise InputError(f"{image.path}: volume {empty} ({kind}) is zero everywhere; expected an image")
    with problems.gather():
        deltam = layout.difference(image.data)[inside]
        _check_difference(deltam, image, layout, m0, inside)
    problems.stop()


def _check_extremes(values: Volume, path: Path, what: str) -> None:
    """InputError for a value far beyond all others, anywhere: it would spread when the image is smoothed."""
    size = np.abs(values[np.isfinite(values) & (values != 0)])
    if size.size == 0:
        return
    limit = LARGEST * float(np.percentile(size, 99))
    if float(size.max()) > limit:
        where = np.argwhere(np.nan_to_num(np.abs(values), nan=0.0, posinf=0.0) > limit)
        *voxel, volume = (int(i) for i in where[0])
        at = f"{what} {volume}" if what == "volume" else what
        raise InputError(
            f"{path}: {at} holds {values[tuple(where[0])]:g} at voxel {tuple(voxel)}, {LARGEST:g} times the 99th "
            f"percentile or more ({len(where)} such values); expected an image: mend these values"
        )


def _check_difference(deltam: Volume, image: Image, layout: Layout, m0: M0, inside: Mask) -> None:
    bad = ~np.isfinite(deltam)
    if bad.any():
        raise InputError(
            f"{image.path}: NaN or infinite in {int(bad.any(axis=1).sum())} voxels of the mask; "
            "expected finite numbers (mend the series, or leave those voxels out with --mask)"
        )
    if not np.any(deltam):
        raise InputError(
            f"{image.path}: control minus label is zero everywhere in the mask; expected a perfusion signal"
        )
    largest = _largest_m0(image, layout, m0, inside)
    over = np.abs(deltam) > largest
    if over.any():
        voxel, column = np.argwhere(over)[0]
        place = tuple(int(i) for i in np.argwhere(inside)[voxel])
        raise InputError(
            f"{image.path}: control minus label is {deltam[voxel, column]:g} at voxel {place} (delta-M volume "
            f"{column}), M0 at most {largest:g}; expected less than M0 (another unit? mend "
            f"{int(over.any(axis=1).sum())} voxels, or leave them out with --mask)"
        )


def _largest_m0(image: Image, layout: Layout, m0: M0, inside: Mask) -> float:
    """The largest M0 that the brain can have, in the series' units; inf where nothing says it."""
    source = m0.data
    if m0.kind == "Absent":
        static = layout.static(image.data)
        if static is None:
            return float("inf")
        source = static
    brain = source[inside]
    brain = brain[np.isfinite(brain) & (brain > 0)]
    if brain.size == 0:
        return float("inf")  # the calibration says so
    return float(brain[brain <= M0_CEILING * np.median(brain)].max()) / m0.relaxation


def check_scale(
    series: Volume, inside: Mask, acquisition: Acquisition, path: Path, kind: str, notes: list[str]
) -> None:
    """InputError (or a note) where delta-M / M0b is so small or so large that M0 is in another unit than the series."""
    means = acquisition.mean_over_repeats(series[inside])
    size = float(np.sqrt(np.mean(np.square(means, dtype=float))))
    largest = float(np.abs(means.mean(axis=0, dtype=float)).max())
    found = f"is {size:.1e} in the mask (RMS)" if largest <= TOO_HIGH else f"reaches {largest:.2g} in its mean"
    told = f"delta-M / M0b {found}; expected about 0.005: M0 ({kind}) and the series in one unit"
    if size < IMPOSSIBLE or largest > FAR_TOO_HIGH:
        raise InputError(f"{path}: {told}")
    if size < DOUBTFUL or largest > TOO_HIGH:
        notes.append(told)

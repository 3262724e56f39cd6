"""A coarse look at a head's motion, to see whether it has to be corrected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .motion import HEAD_RADIUS, M0
from .motion_frame import vector
from .motion_image import find_head, require_series, thinned, together
from .rigid import Grid, Registration

Float = NDArray[np.float64]

#: A motion parameter counts from so many standard errors on: a featureless head may turn without anyone seeing it.
SIGNIFICANT = 6.0


@dataclass(frozen=True)
class Look:
    """How far a head moves, in mm: within what is subtracted or decoded together, and over the session (both RMS)."""

    within: float
    drift: float


def look(
    series: ArrayLike,
    affine: ArrayLike,
    groups: Sequence[str],
    blocks: Sequence[Sequence[int]],
    threads: int = 2,
    points: int = 6000,
) -> Look:
    """A coarse look at motion, to see the need of correcting it.

    Each volume is registered to the first of its contrast, at 8 mm on a few thousand voxels. A displacement is a
    translation plus a rotation as an arc on 50 mm, of parameters that stand out of their standard errors.

    Parameters
    ----------
    series, affine, groups
        As in `correct`.
    blocks : sequence of sequences of volume numbers
        Volumes that are combined with each other: control and label of a pair, or the rows of an encoding. Motion
        between them leaves edges in delta-M; motion from block to block only blurs the mean.
    """
    data = np.asarray(series)
    require_series(data, groups, None)
    rest = [v for v, word in enumerate(groups) if word != M0]
    if len(rest) < 2:
        return Look(0.0, 0.0)
    data = np.moveaxis(np.ascontiguousarray(np.moveaxis(data, -1, 0), dtype=float), 0, -1)
    grid = Grid(data.shape, np.asarray(affine, dtype=float))
    head = find_head(data[..., rest[0]], None)
    thin = thinned(head, points)
    place = {v: (np.zeros(6), np.zeros(6)) for v in rest}
    contrasts = [[v for v in rest if groups[v] == word] for word in dict.fromkeys(groups[v] for v in rest)]
    for first, *members in contrasts:
        coarse = Registration(grid, data[..., first], thin, 8.0, head)

        def moved(v: int, coarse: Registration = coarse) -> tuple[Float, Float]:
            found = coarse.fit(data[..., v], tolerance=0.02)
            return vector(found), coarse.uncertainty(data[..., v], found)

        place |= dict(zip(members, together(moved, members, threads), strict=True))
    within = [
        2.0 * len(block) / (len(block) - 1) * float(np.mean(_square_distances([place[v] for v in block])))
        for block in blocks
        if len(block) > 1
    ]
    drift = np.concatenate([_square_distances([place[v] for v in members]) for members in contrasts])
    return Look(float(np.sqrt(np.mean(within or [0.0]))), float(np.sqrt(drift.mean())))


def _square_distances(places: list[tuple[Float, Float]]) -> Float:
    """Squared distances in mm from the mean of some places, given as (parameters, standard errors)."""
    values, errors = (np.array(part) for part in zip(*places, strict=True))
    off = values - values.mean(axis=0)
    off[np.abs(off) < SIGNIFICANT * np.maximum(errors, errors.mean(axis=0))] = 0.0
    return np.asarray((np.linalg.norm(off[:, :3], axis=1) + HEAD_RADIUS * np.linalg.norm(off[:, 3:], axis=1)) ** 2)

"""Which part of estimated transforms is motion, and where the corrected volumes lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from scipy.special import fdtrc

from .rigid import IDENTITY, Grid, Rigid, small

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Fewest turns through all conditions that tell their effect from motion, and the chance at which it counts.
FEWEST_TURNS, CHANCE = 3, 1e-4
#: A head within this share of a voxel from the reference is brought to its mean position: see the module's text.
SMALL = 0.5


def without_contrast(conditions: Sequence[str] | None, transforms: dict[int, Rigid]) -> dict[int, Rigid]:
    """Transforms without the part that depends on what a volume was measured as instead of on when.

    Background suppression shades the slices differently at each delay, and a registration takes shading for motion. But
    a head does not know the delay, nor label from control. Where the conditions were measured in turn, three times or
    more, a parameter is the sum of a part of the turn, one of the condition and a rest; that of the condition is left
    out where an F test finds it. (Motion at random, or a single jump, gives an F near 1.)
    """
    if conditions is None:
        return transforms
    rows: dict[str, list[int]] = {}
    for v in sorted(transforms):
        rows.setdefault(conditions[v], []).append(v)
    count = len(next(iter(rows.values())))
    if len(rows) < 2 or count < FEWEST_TURNS or any(len(row) != count for row in rows.values()):
        return transforms
    turns = np.array(list(rows.values()))  # (conditions, turns)
    if (turns.max(axis=0)[:-1] > turns.min(axis=0)[1:]).any():
        return transforms
    values = np.array([[vector(transforms[v]) for v in row] for row in turns])
    offset = values.mean(axis=1, keepdims=True) - values.mean(axis=(0, 1))
    rest = values - values.mean(axis=0) - offset
    among, within = len(rows) - 1, (len(rows) - 1) * (count - 1)
    ratio = (count * (offset**2).sum(axis=(0, 1)) / among) / np.maximum((rest**2).sum(axis=(0, 1)) / within, 1e-12)
    values -= np.where(fdtrc(among, within, ratio) < CHANCE, offset, 0.0)
    return {int(v): small(values[row, turn]) for (row, turn), v in np.ndenumerate(turns)}


def vector(transform: Rigid) -> Float:
    """Translation in mm and rotation vector in rad of a transform: (6,)."""
    return np.concatenate([transform.translation, Rotation.from_matrix(transform.rotation).as_rotvec()])


def settle(grid: Grid, head: Mask, transforms: dict[int, Rigid]) -> tuple[Rigid, dict[int, Rigid]]:
    """Where the grid of the output lies against the reference, and the transforms seen from there.

    At the mean position of the volumes where the head is everywhere less than half a voxel from the reference (RMS over
    the head), else at the reference itself.
    """
    points = grid.points(head)
    moves = transforms.values()
    largest = max(float(np.sqrt(np.mean(np.sum((_apply(move, points) - points) ** 2, axis=0)))) for move in moves)
    if largest >= SMALL * grid.voxel_size.min():
        return IDENTITY, transforms
    turns = Rotation.from_matrix(np.array([move.rotation for move in moves]))
    place = Rigid(turns.mean().as_matrix(), np.mean([move.translation for move in moves], axis=0))
    return place, {v: move.after(place.inverse()) for v, move in transforms.items()}


def _apply(transform: Rigid, points: Float) -> Float:
    return transform.rotation @ points + transform.translation[:, None]

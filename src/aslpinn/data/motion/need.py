"""Does a head's motion have to be corrected? A coarse look at it, and what follows from what is seen.

When is motion corrected? Measured on a 2D series of 6 delays and 8 repeats whose head drifted by 0.5 mm (RMS; voxels of
3.4 x 3.4 x 5 mm) and moved by 0.1 mm within pairs. Fits of the odd repeats predict the even ones, as they are and as
corrected (RMS error over the brain, 1e-3 of M0b; the odd half itself: 2.70):

    volumes fitted                                        grid          default
    as they are                                       3.25 / 3.06    2.72 / 2.63
    corrected, at the position of M0                  3.47 / 3.29    3.22 / 3.04
    corrected, at the mean position, what belongs
      to the delay left out of the motion             3.26 / 3.03    2.76 / 2.55

So small motion is corrected in the last way where it is asked for, and by itself only where it is larger than this: on
phantoms, half a millimeter within pairs or encodings leaves more in the difference than all perfusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import InputError
from ...threads import together
from ..calibration import M0
from ..nifti import Image
from ..volumes import Layout
from .correct import HEAD_RADIUS, Motion, correct, vector
from .correct import M0 as M0SCAN
from .image import find_head, require_series, thinned
from .rigid import Grid, Registration

Float = NDArray[np.float64]
Volume = NDArray[np.float32]

#: A motion parameter counts from so many standard errors on: a featureless head may turn without anyone seeing it.
SIGNIFICANT = 6.0
#: RMS displacement in mm between volumes that are subtracted or decoded together, below which they are left where they
#: are: on still phantoms at tSNR 0.3 to 1.5 the estimate itself scatters by 0.02 mm.
MOTION_NEED = 0.2
#: RMS displacement over the session, as a share of the smallest voxel side, below which it is left: it blurs by less
#: than interpolation does.
DRIFT_NEED = 0.25
#: mm or degrees from which a registration has lost its way rather than a head its place.
IMPLAUSIBLE = 25.0
CHOICES = ("auto", "on", "off", "look")


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
    rest = [v for v, word in enumerate(groups) if word != M0SCAN]
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


def correct_motion(
    choice: str, image: Image, layout: Layout, m0: M0, notes: list[str], steps: list[str], progress: Any = None
) -> tuple[Volume, M0, Motion | None]:
    """The volumes on one head position, M0 with them, and the motion found.

    The volumes stay as they are where correction is not needed ("auto") or not wanted ("off"). "look" only says what
    "auto" would do, but for encoded volumes, whose order and sign can only be checked on a still head.

    Raises
    ------
    InputError
        For another choice, or "on" for a series of deltam volumes or one that cannot be registered.
    """
    if choice not in CHOICES:
        raise InputError(f"motion is {choice!r}; expected one of {', '.join(CHOICES)}")
    if choice == "off":
        if layout.raw:
            notes.append("motion is not corrected (switched off)")
        return image.data, m0, None
    if not layout.raw:
        if choice == "on":
            raise InputError(
                f"{image.path}: deltam volumes hold too little of the head to find motion in; "
                "expected control and label or encoded volumes, or --motion auto"
            )
        return image.data, m0, None
    data = np.nan_to_num(image.data, nan=0.0, posinf=0.0, neginf=0.0)
    groups = layout.contrasts()
    before = "decoding" if layout.time_encoding else "subtraction"
    try:
        if choice in ("auto", "look"):
            needed, said = _need(data, image, layout, groups)
            if not needed:
                steps.append(f"motion: none to correct ({said})")
                return image.data, m0, None
            if choice == "look" and layout.time_encoding is None:  # few volumes, and the check of order needs them
                steps.append(f"motion: will be corrected before {before} ({said})")
                return image.data, m0, None
        separate = None if m0.uniform or m0.kind == "Included" else np.nan_to_num(m0.data)
        corrected, motion = correct(
            data, image.affine, groups, m0=separate, progress=progress, conditions=layout.conditions()
        )
    except InputError as error:
        if choice == "on":
            raise InputError(f"{image.path}: {error}") from error
        notes.append(f"motion is not corrected: {str(error).removeprefix('motion correction: ')}")
        return image.data, m0, None
    if choice == "auto" and np.abs(motion.parameters).max() > IMPLAUSIBLE:
        notes.append(f"motion is not corrected: the registration moves by more than {IMPLAUSIBLE:g} mm or degrees")
        return image.data, m0, None
    largest = f"{np.abs(motion.parameters[:, :3]).max():.2f} mm, {np.abs(motion.parameters[:, 3:]).max():.2f} degrees"
    steps.append(f"motion corrected before {before}: up to {largest}, mean framewise {motion.mean_displacement:.2f} mm")
    included = [volume for volume, word in enumerate(layout.types) if word == "m0scan"]
    if m0.kind == "Included":
        m0 = replace(m0, data=corrected[..., included].mean(axis=3))
    elif motion.m0 is not None:
        m0 = replace(m0, data=motion.m0)
    return corrected, m0, motion


def _need(data: Volume, image: Image, layout: Layout, groups: list[str]) -> tuple[bool, str]:
    """Whether motion has to be corrected, and in words why."""
    found = look(data, image.affine, groups, layout.blocks())
    limit = DRIFT_NEED * min(image.voxel_size)
    together = "pairs" if layout.time_encoding is None else "an encoding"
    said = (
        f"{found.within:.2f} mm within {together}, limit {MOTION_NEED:g}; "
        f"{found.drift:.2f} mm over the session, limit {limit:.2g}"
    )
    return found.within >= MOTION_NEED or found.drift >= limit, said

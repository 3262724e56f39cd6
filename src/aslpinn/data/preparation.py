"""Steps between reading a series and its calibration, each on by need and written down: motion, outliers, tissue.

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

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..physics import Acquisition
from . import motion as rigid_motion
from .m0 import M0
from .motion import Motion
from .motion_need import look
from .nifti import Image
from .outliers import find_outliers
from .volumes import Layout

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]

#: RMS displacement in mm between volumes that are subtracted or decoded together, below which they are left where they
#: are: on still phantoms at tSNR 0.3 to 1.5 the estimate itself scatters by 0.02 mm.
MOTION_NEED = 0.2
#: RMS displacement over the session, as a share of the smallest voxel side, below which it is left: it blurs by less
#: than interpolation does.
DRIFT_NEED = 0.25
#: mm or degrees from which a registration has lost its way rather than a head its place.
IMPLAUSIBLE = 25.0
CHOICES = ("auto", "on", "off", "look")


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
    before = "decoding" if layout.encoding else "subtraction"
    try:
        if choice in ("auto", "look"):
            needed, said = _need(data, image, layout, groups)
            if not needed:
                steps.append(f"motion: none to correct ({said})")
                return image.data, m0, None
            if choice == "look" and layout.encoding is None:  # few volumes, and the check of order needs them
                steps.append(f"motion: will be corrected before {before} ({said})")
                return image.data, m0, None
        separate = None if m0.uniform or m0.kind == "Included" else np.nan_to_num(m0.data)
        corrected, motion = rigid_motion.correct(
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
    together = "pairs" if layout.encoding is None else "an encoding"
    said = (
        f"{found.within:.2f} mm within {together}, limit {MOTION_NEED:g}; "
        f"{found.drift:.2f} mm over the session, limit {limit:.2g}"
    )
    return found.within >= MOTION_NEED or found.drift >= limit, said


def shrink_outliers(
    series: Volume, mask: Mask, acquisition: Acquisition, steps: list[str]
) -> tuple[Volume, dict[str, Any]]:
    """The series with outlying volumes and slices shrunk towards the mean of their delay's other repeats.

    An outlier of weight w becomes w times itself plus 1 - w times that mean, so that the mean of its delay is close
    to a weighted one, every volume stays in place, and every estimator sees the weights. Returns also the record.
    """
    _, condition = acquisition.distinct
    axis = acquisition.slice_axis
    found = find_outliers(series, mask, condition, axis)
    report = found.provenance()
    report["Treatment"] = "shrunk towards the mean of the other repeats by weight (usual RMS / its RMS)^2"
    if not found.volumes and not found.slices:
        return series, report
    weights = np.minimum(found.slice_weights, found.weights[:, None])
    out = series.copy()
    for volume in np.flatnonzero((weights < 1).any(axis=1)):
        repeats = np.flatnonzero((condition == condition[volume]) & (np.arange(condition.size) != volume))
        for index in np.flatnonzero(weights[volume] < 1):
            at = (slice(None),) * axis + (index,)
            w = weights[repeats, index].astype(np.float32)
            others = (series[at][..., repeats] @ w) / w.sum()
            share = np.float32(weights[volume, index])
            out[at][..., volume] = share * series[at][..., volume] + (1 - share) * others
    steps.append(
        f"outliers: {len(found.volumes)} of {condition.size} delta-M volumes and {len(found.slices)} single slices "
        "weighted down"
    )
    return out, report


def tissue_maps(
    choice: str, found: tuple[dict[str, Volume], str] | None, m0: Volume, mask: Mask, affine: Any, notes: list[str]
) -> tuple[dict[str, Volume] | None, dict[str, Any]]:
    """Tissue maps that were found; else, with choice "estimate", those of the ICBM atlas registered to M0."""
    if choice not in ("given", "estimate"):
        raise InputError(f"tissue is {choice!r}; expected given or estimate")
    if found is not None:
        return found[0], {"Source": found[1], "OfSubject": True}
    if choice == "given":
        return None, {"Source": "none found", "OfSubject": False}
    from .atlas import estimate_tissue

    try:
        made = estimate_tissue(m0, mask, affine)
    except InputError as error:
        notes.append(str(error))
        return None, {"Source": "none found; the atlas could not be registered", "OfSubject": False}
    return {"gm": made.gm, "wm": made.wm}, made.provenance() | {"OfSubject": False}

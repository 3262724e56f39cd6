"""What a map rests on, as images: the delays of every voxel, the voxels that may be used, and M0's quality."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..estimation.estimate import AT_BOUND, FLAGS, MISFIT, NOT_CONVERGED

if TYPE_CHECKING:
    from ..data.derivatives import Estimate
    from ..data.series import Subject

#: Flags after which CBF or ATT of a voxel should not be used.
UNUSABLE = (AT_BOUND, NOT_CONVERGED, MISFIT)
LOW_M0, HIGH_M0 = 0.3, 2.0  # of the median over the mask
M0_LEVELS = {
    "1": "M0 is not above zero",
    "2": f"M0 below {LOW_M0:g} of its median over the mask: little tissue, or signal that is lost",
    "4": f"M0 above {HIGH_M0:g} times its median over the mask: fluid, or a receive coil nearby",
}


def coverage_maps(subject: Subject, estimate: Estimate) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Images by the ends of their names, with descriptions, for `write_estimate(more=)`.

    desc-effective_pld (X, Y, Z, D): post-labeling delay in s with the slice's own time, for each distinct duration and
    delay; desc-valid_mask (X, Y, Z): 1 where the maps may be used; desc-m0quality_dseg: bits of M0_LEVELS, where M0 is
    an image.
    """
    mask = subject.mask
    distinct, _ = subject.acquisition.distinct
    delays = np.zeros((*mask.shape, len(distinct)), np.float32)
    delays[mask] = distinct.pld_at(np.argwhere(mask))
    valid = mask & np.isfinite(estimate.cbf)
    legend = estimate.info.get("flags_legend", {})
    unusable = [bit for bit in UNUSABLE if str(bit) in legend]
    if estimate.flags is not None:
        valid &= (estimate.flags & sum(unusable)) == 0
    found: dict[str, tuple[Any, dict[str, Any]]] = {
        "desc-effective_pld": (
            delays,
            {
                "Description": "Post-labeling delay at every voxel, the time of its slice added; one volume for each "
                "distinct duration and delay, in order of first appearance; 0 outside the mask",
                "Units": "s",
                "LabelingDuration": distinct.labeling_duration.tolist(),
            },
        ),
    }
    if subject.guide is not None:  # M0 is an image
        m0 = np.nan_to_num(np.asarray(subject.m0, dtype=float))
        above = m0[mask & (m0 > 0)]
        middle = float(np.median(above)) if above.size else 1.0
        quality = 1 * (m0 <= 0) + 2 * ((m0 > 0) & (m0 < LOW_M0 * middle)) + 4 * (m0 > HIGH_M0 * middle)
        valid &= m0 > 0
        found["desc-m0quality_dseg"] = (
            np.where(mask, quality, 0).astype(np.uint8),
            {"Description": "M0 that makes CBF of a voxel doubtful, bits added", "Levels": M0_LEVELS},
        )
    found["desc-valid_mask"] = (
        valid.astype(np.uint8),
        {
            "Description": "1 where the maps may be used: in the mask, M0 above zero, and none of the flags named",
            "Flags": [FLAGS[bit] for bit in unusable],
        },
    )
    return found

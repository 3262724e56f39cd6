"""What every estimator returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Volume = NDArray[np.float32]

#: Bits of a voxel's flags, and what they mean.
AT_BOUND, PRIOR_DOMINATED, NOT_CONVERGED, MISFIT, ARTERY, REGION = 1, 2, 4, 8, 16, 32
FLAGS = {
    AT_BOUND: "CBF or ATT at a physiological bound",
    PRIOR_DOMINATED: "the data narrow CBF or ATT by less than 30 % from its spread over the brain",
    NOT_CONVERGED: "CBF or ATT still changed by more than half an SD in the last iteration",
    MISFIT: "residual above the 99.9th percentile of noise",
    ARTERY: "an artery passes (probability above 0.5)",
    REGION: "in a focal region whose arrival is not that of its surroundings (probability above 0.5)",
}


@dataclass
class Estimate:
    """Maps of one fit; float32, zero outside the mask.

    Attributes
    ----------
    cbf, att : (X, Y, Z) array
        Perfusion in ml/100g/min and arterial transit time in s; att is None where there is one delay (consensus).
    cbf_sd, att_sd : (X, Y, Z) array or None
        Their standard deviations in the same units; None where the estimator has none.
    fitted : (X, Y, Z, D) array
        Fitted delta-M / M0b, one volume for each distinct (tau, PLD) in order of first appearance.
    estimator : str
        Name of the estimator, as on the command line.
    settings : dict
        Every setting that it ran with, the seed included; ready for JSON.
    info : dict
        What the run reports of itself (seconds, loss history, noise SD, chosen kernel, ...).
    member_errors : (K, 2, N) float32 array or None
        Errors of CBF and ATT of the K members at the N voxels of the mask, in C order: draws from the posterior around
        its mean, which say how errors of different voxels go together. Estimator field only.
    offset : (2, N) float32 array or None
        By how much CBF and ATT at these voxels are off on average, by the model: smoothing between tissues where their
        shares are known, and the curvature of the signal. Part of the error of a region's mean. Estimator field only.
    by_tissue : (4, X, Y, Z) array or None
        CBF of gray and of white matter and their SDs, where estimator field was given the tissues' shares, and
        `apart` was not turned off.
    abv, flags : (X, Y, Z) array or None
        Arterial blood volume (fraction) and per-voxel flags, where the estimator has them.
    """

    cbf: Volume
    att: Any  # Volume; None for consensus alone, so that users of the others need not ask
    cbf_sd: Volume | None
    att_sd: Volume | None
    fitted: Volume
    estimator: str
    settings: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    member_errors: NDArray[np.float32] | None = field(default=None, repr=False)
    offset: NDArray[np.float32] | None = field(default=None, repr=False)
    by_tissue: Volume | None = field(default=None, repr=False)
    abv: Volume | None = None
    flags: NDArray[np.uint8] | None = None

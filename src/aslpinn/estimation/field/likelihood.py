"""What a series says of maps: Buxton's model linearized around them, noise, and less weight for outliers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from ...fields.gaussian import Floats
from ...fields.threads import over_voxels
from ..kinetic_kernels import sigma_point_sums
from ..problem import Problem, Timing, chi2_quantile
from .prior import CBF_UNIT

Doubles = NDArray[np.float64]

NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(5)
NODE_WEIGHTS = NODE_WEIGHTS / NODE_WEIGHTS.sum()
FREEDOMS = (3.0, 5.0, 8.0, 14.0, 30.0, 1e3)  # of Student's t; the last is as good as Gaussian


@dataclass(frozen=True)
class Likelihood:
    """Log likelihood -theta' L theta / 2 + pull' theta of theta = (CBF, ATT) around their means, (2, N).

    precision (3, N) holds the elements cbf-cbf, cbf-att and att-att of L in every voxel; CBF in CBF_UNIT.
    """

    precision: Floats
    pull: Floats

    @classmethod
    def of(cls, sums: Doubles, weight: Doubles, cbf: Doubles, att: Doubles, mean: Doubles) -> Likelihood:
        """From sums (N, 5) of `linearize` at cbf and att (N,), the precision of one volume (N,), and the means (2,)."""
        cc, ca, aa, rc, ra = sums.T * weight
        cc, ca, rc = cc * CBF_UNIT**2, ca * CBF_UNIT, rc * CBF_UNIT
        cbf, att = cbf / CBF_UNIT - mean[0], att - mean[1]
        pull = np.stack([rc + cc * cbf + ca * att, ra + ca * cbf + aa * att])
        return cls(np.stack([cc, ca, aa]).astype(np.float32), pull.astype(np.float32))

    def apply(self, theta: Floats) -> Floats:
        """L theta for theta (2, N)."""
        cc, ca, aa = self.precision
        return np.stack([cc * theta[0] + ca * theta[1], ca * theta[0] + aa * theta[1]])

    def noise(self, rng: np.random.Generator) -> Floats:
        """A draw of N(0, L): (2, N)."""
        cc, ca, aa = self.precision
        first, second = rng.standard_normal((2, cc.size), dtype=np.float32)
        root = np.sqrt(np.maximum(cc, np.float32(1e-20)))
        across = ca / root
        return np.stack([root * first, across * first + np.sqrt(np.maximum(aa - across**2, 0)) * second])


def linearize(y: Doubles, timing: Timing, cbf: Doubles, att: Doubles, att_sd: float) -> tuple[Doubles, Doubles]:
    """Expected signal (N, D) and weighted sums (N, 5) of `sigma_point_sums` for an ATT that is known to att_sd (s)."""
    fitted, sums = np.empty_like(y), np.empty((len(y), 5))
    over_voxels(sigma_point_sums, len(y), y, cbf, att, att_sd, *timing, NODES, NODE_WEIGHTS, fitted, sums)
    return fitted, sums


def student_weights(squares: Doubles, effective: float, scale: float) -> tuple[Doubles, float, float]:
    """Weights (N,), degrees of freedom and scale of Student's t for the voxels' sums of squares, by its likelihood.

    A voxel's residuals share one weight: an artery or motion spoils the voxel, not one sample. `effective` is the
    number of samples a voxel less what the fit used up. On Gaussian data the last of FREEDOMS wins and all
    weights are 1.
    """
    best = -math.inf
    found = np.ones_like(squares), FREEDOMS[-1], scale
    for freedom in FREEDOMS:
        here = max(scale, 1e-30)
        for _ in range(6):
            here = float(((freedom + effective) / (freedom + squares / here) * squares).mean()) / effective
        half = (freedom + effective) / 2
        likelihood = gammaln(half) - gammaln(freedom / 2) - effective / 2 * math.log(freedom * here)
        likelihood -= half * float(np.log1p(squares / here / freedom).mean())
        if likelihood > best:
            best = likelihood
            found = (freedom + effective) / (freedom + squares / here), freedom, here
    return found


def repeat_noise(problem: Problem) -> float | None:
    """Noise variance of one volume from the spread between repeats; None without at least one repeat for every pair.

    The median over voxels against its chi-square median: pulsation and motion of some voxels do not raise it.
    """
    freedom = len(problem.pair) - len(problem.counts)
    if freedom < len(problem.counts) or problem.counts.min() < 2:
        return None
    squares = np.square(problem.volumes - problem.signal[:, problem.pair]).sum(axis=1, dtype=np.float64)
    value = float(np.median(squares) / chi2_quantile(0.5, freedom))
    return value if value > 0 else None

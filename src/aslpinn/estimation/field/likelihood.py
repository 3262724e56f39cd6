"""What a series says of maps: Buxton's model linearized around them, noise, and less weight for outliers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaln, polygamma

from ...fields.gaussian import Floats, GaussianLevels
from ...smoothing import smooth_inside
from ...threads import over_voxels
from ..kinetic_kernels import sigma_point_sums
from ..problem import Problem, Timing
from .prior import CBF_UNIT

Doubles = NDArray[np.float64]

NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(5)
NODE_WEIGHTS = NODE_WEIGHTS / NODE_WEIGHTS.sum()
NOISE_WIDTH = 6.0  # mm, SD of the Gaussian over which the spread of repeats is averaged
FREEDOMS = (3.0, 5.0, 8.0, 14.0, 30.0, 1e3)  # of Student's t; the last is as good as Gaussian


@dataclass(frozen=True)
class Likelihood:
    """Log likelihood -theta' L theta / 2 + pull' theta of theta = (CBF, ATT) around their means, (2, N).

    precision (3, N) holds the elements cbf-cbf, cbf-att and att-att of L in every voxel; CBF in CBF_UNIT. Where noise
    is correlated in space, `spectrum` is that of noise of SD 1, at the frequencies of the fields; None is white noise.
    """

    precision: Floats
    pull: Floats
    spectrum: Floats | None = None

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

    def marginal(self, alone: Floats) -> Likelihood:
        """That of theta's smooth part, where every voxel adds a part of its own of covariance `alone` (3, N).

        Precision (L^-1 + V)^-1 and pull (1 + L V)^-1 pull with V = alone: no voxel counts for more than 1 / V.
        """
        (cc, ca, aa), (vc, vca, va), (of_cbf, of_att) = self.precision, alone, self.pull
        p, q = 1 + cc * vc + ca * vca, cc * vca + ca * va
        r, s = ca * vc + aa * vca, 1 + ca * vca + aa * va
        det = p * s - q * r
        precision = np.stack([s * cc - q * ca, s * ca - q * aa, p * aa - r * ca]) / det
        return replace(
            self, precision=precision, pull=np.stack([s * of_cbf - q * of_att, p * of_att - r * of_cbf]) / det
        )

    def noise(self, rng: np.random.Generator, levels: GaussianLevels) -> Floats:
        """A draw (2, N) of the pull that noise makes: N(0, L), neighbors correlated as the noise is."""
        cc, ca, aa = self.precision
        if self.spectrum is None:
            first, second = rng.standard_normal((2, cc.size), dtype=np.float32)
        else:
            first, second = levels.down(np.sqrt(self.spectrum) * levels.white(rng, 2))
        root = np.sqrt(np.maximum(cc, np.float32(1e-20)))
        across = ca / root
        return np.stack([root * first, across * first + np.sqrt(np.maximum(aa - across**2, 0)) * second])


def linearize(
    y: Doubles,
    timing: Timing,
    cbf: Doubles,
    att: Doubles,
    att_sd: float,
    variance: Doubles | None = None,
    relaxation: Doubles | None = None,
) -> tuple[Doubles, Doubles]:
    """Expected signal (N, D) and weighted sums (N, 5) of `sigma_point_sums` for an ATT that is known to att_sd (s).

    variance (N, 2) of CBF and ATT at the voxels; None: as if they were known. relaxation (N,): 1 / T1t of the voxels;
    None: that of the constants.
    """
    fitted, sums = np.empty_like(y), np.empty((len(y), 5))
    known = np.zeros((len(y), 2)) if variance is None else variance
    rate = np.full(len(y), timing.physics.tissue_rate) if relaxation is None else relaxation
    over_voxels(sigma_point_sums, len(y), y, cbf, att, att_sd, known, rate, *timing, NODES, NODE_WEIGHTS, fitted, sums)
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


def repeat_noise(problem: Problem, voxel_size: Sequence[float]) -> Doubles | None:
    """Noise variance (N,) of one volume from the spread between repeats; None without a repeat for every pair.

    A voxel's own spread has few degrees of freedom. It is averaged with that of its surroundings, which counts for as
    many degrees of freedom as the spread's variation beyond chance allows (Smyth 2004, doi:10.2202/1544-6115.1027).
    """
    found = _spread(problem, voxel_size)
    if found is None:
        return None
    squares, log, around, freedom = found
    beyond = float(np.var(log - around)) - float(polygamma(1, freedom / 2))
    prior = 2 * inverse_trigamma(beyond) if beyond > 0 else math.inf
    if math.isinf(prior):
        return np.exp(around)
    return (prior * np.exp(around) + freedom * squares) / (prior + freedom)


def noise_around(problem: Problem, voxel_size: Sequence[float]) -> Doubles | None:
    """The same from a voxel's surroundings alone: what single voxels, such as pulsating arteries, do is not in it."""
    found = _spread(problem, voxel_size)
    return None if found is None else np.exp(found[2])


def _spread(problem: Problem, voxel_size: Sequence[float]) -> tuple[Doubles, Doubles, Doubles, int] | None:
    """Variance (N,) between repeats, its logarithm without bias, that smoothed, and the degrees of freedom."""
    freedom = len(problem.pair) - len(problem.counts)
    if freedom < len(problem.counts) or problem.counts.min() < 2:
        return None
    squares = np.square(problem.volumes - problem.signal[:, problem.pair]).sum(axis=1, dtype=np.float64) / freedom
    if not np.median(squares) > 0:
        return None
    log = np.log(np.maximum(squares, 1e-6 * np.median(squares))) - digamma(freedom / 2) + math.log(freedom / 2)
    around = smooth_inside(log, problem.mask, [max(NOISE_WIDTH / size, 0.5) for size in voxel_size])
    return squares, log, around, freedom


def noise_spectrum(problem: Problem, noise: Doubles, levels: GaussianLevels, seed: int) -> Floats:
    """Spectrum of noise of SD 1 as the repeats show it, noise (N,) being the variance of one volume.

    Noise is white to a part only: readout blurs it, vessels and breathing make it common to a neighborhood, and single
    volumes are off as a whole. The noise has levels like the maps: shares that are not negative are fitted to the power
    of the repeats' spread in the band of each level, against that of draws of the levels inside the mask.
    """
    spread = (problem.volumes - problem.signal[:, problem.pair]).T / np.sqrt(noise, dtype=np.float32)
    found = levels.power(spread).sum(axis=0)
    rng = np.random.default_rng(seed)
    from scipy.optimize import nnls  # slow to import, and networks take repeat_noise from here

    of_levels = np.zeros((len(found), len(found)))
    for _ in range(4):
        of_levels += levels.power(levels.down(np.sqrt(levels.spectra) * levels.white(rng, len(found)))).T
    share, _ = nnls(of_levels / found[:, None], np.ones(len(found)))
    return levels.spectrum(share[None] / share.sum())[0]


def inverse_trigamma(value: float) -> float:
    """x with trigamma(x) = value > 0, by Newton's method on its reciprocal (Smyth 2004, appendix)."""
    x = 0.5 + 1 / value
    for _ in range(20):
        slope = float(polygamma(2, x))
        now = float(polygamma(1, x))
        x += now * (1 - now / value) / slope
    return x

"""What is common to whole volumes: factors by which they are off as a whole, and what is left of them in the maps.

Labeling and flow fluctuate, and with them all voxels of a volume at once. Neither repeats of other delays nor the field
average that out over the brain as they do noise. But it is a shape that maps cannot take: a delay that is too high
everywhere is not what any CBF and ATT of each voxel predicts. So the factors are estimated, and taken out of the
signals. What the data cannot tell of them, above all the factor of all delays together, goes into the SDs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...physics import sensitivities
from ...smoothing import smooth_inside
from ..problem import Problem

Floats = NDArray[np.float64]

SLOPE_REACH = 0.15  # s around ATT over which slopes are averaged for errors of maps: they jump at samples
#: SDs of the factor of one volume, and of the model's misfit at a delay relative to the signal: none or any.
FACTOR_SDS, MISFIT_SDS = np.geomspace(0.005, 0.3, 24), np.array([0.0, *np.geomspace(0.01, 0.5, 12)])
COMMON_WIDTH = 8.0  # mm, SD of the Gaussian over which the fit to what is common to volumes is made


@dataclass(frozen=True)
class VolumeFactors:
    """By how much the mean volume of each of D delays is off as a whole, relative to its signal.

    sd: of one volume, 0 where repeats show none; mean (D,) and covariance (D, D): by the data.
    """

    sd: float
    mean: Floats
    covariance: Floats

    @classmethod
    def none(cls, delays: int) -> VolumeFactors:
        """Volumes that are not off."""
        return cls(0.0, np.zeros(delays), np.zeros((delays, delays)))

    def without(self, signals: NDArray[np.floating]) -> Floats:
        """Signals (N, D) with the factors taken out."""
        return np.asarray(signals / (1 + self.mean), np.float64)


def volume_variance(problem: Problem, fitted: Floats, noise: Floats) -> tuple[float, float]:
    """Variance of the size of repeats of fitted (N, D) around that of their delay, and how much of it is chance.

    noise (N,) is the variance of one volume. What is beyond chance are global fluctuations of labeling and of flow.
    """
    expected = fitted[:, problem.pair]
    weight = expected / noise[:, None]
    power = np.maximum((weight * expected).sum(axis=0), 1e-30)
    factor = (weight * problem.volumes).sum(axis=0) / power
    mean = np.bincount(problem.pair, factor) / np.bincount(problem.pair)
    return float(np.square(factor - mean[problem.pair]).sum()) / _freedom(problem), float(np.mean(1 / power))


def _freedom(problem: Problem) -> int:
    return len(problem.pair) - len(problem.counts)


def volume_factors(
    problem: Problem, y: Floats, fitted: Floats, maps: tuple[Floats, Floats], weight: Floats, noise: Floats
) -> VolumeFactors:
    """The factors in signals y (N, D) that are fitted by CBF and ATT (maps); weight (N,) is the precision of a volume.

    Least squares of the residuals in what every voxel's CBF and ATT cannot take up. What is found there may be the
    model's fault as well, and then it has to stay in. Repeats tell how large factors are, and so what share of it they
    can be. All that is averaged over the SD of factors and of misfits, for repeats are few.
    """
    spread, chance = volume_variance(problem, fitted, noise)
    counts, freedom = problem.counts.astype(np.float64), _freedom(problem)
    if spread <= chance:
        return VolumeFactors.none(len(counts))
    by_cbf, by_att = sensitivities(
        maps[0][:, None], maps[1][:, None], problem.pld, problem.tau, problem.acquisition.constants
    )
    precision = counts * weight[:, None]
    cc, ca, aa = ((precision * a * b).sum(axis=1) for a, b in ((by_cbf, by_cbf), (by_cbf, by_att), (by_att, by_att)))
    of_cbf, of_att = precision * fitted * by_cbf, precision * fitted * by_att
    taken_cbf, taken_att = _solve(cc[:, None], ca[:, None], aa[:, None], of_cbf, of_att, 1e-6)
    rest = precision * (y - fitted)
    seen = np.diag((precision * fitted**2).sum(axis=0)) - of_cbf.T @ taken_cbf - of_att.T @ taken_att
    left_cbf, left_att = (rest * by_cbf).sum(axis=1), (rest * by_att).sum(axis=1)
    said = (fitted * rest).sum(axis=0) - left_cbf @ taken_cbf - left_att @ taken_att

    sd, misfit = (grid.ravel() for grid in np.meshgrid(FACTOR_SDS, MISFIT_SDS, indexing="ij"))
    of_factors = sd[:, None] ** 2 / counts
    whole = of_factors + misfit[:, None] ** 2
    alike = np.eye(len(counts))
    inverse = np.linalg.inv(seen + alike / whole[:, None])
    found = inverse @ said
    expected = sd**2 + chance
    log = (found @ said - np.linalg.slogdet(alike + whole[:, :, None] * seen)[1]) / 2
    log -= freedom / 2 * (np.log(expected) + spread / expected)
    log -= np.where(misfit > 0, np.log(len(MISFIT_SDS) - 1), 0.0)
    chances = np.exp(log - log.max())
    chances /= chances.sum()
    share = of_factors / whole
    means = share * found
    mean = chances @ means
    second = share[:, :, None] * share[:, None] * inverse + means[:, :, None] * means[:, None]
    second += ((1 - share) * of_factors)[:, :, None] * alike
    return VolumeFactors(float(chances @ sd), mean, np.tensordot(chances, second, 1) - np.outer(mean, mean))


def errors_by_factors(
    problem: Problem,
    factors: VolumeFactors,
    fitted: Floats,
    maps: tuple[Floats, Floats],
    noise: Floats,
    voxel_size: Sequence[float],
) -> Floats:
    """Errors (K, 2, N) of CBF and ATT by one SD of each of the K independent parts of what the factors may still be.

    That is what a least squares fit to the surroundings of a voxel makes of signals that are off by such factors.
    """
    if factors.sd == 0:
        return np.zeros((0, 2, len(fitted)))
    cbf, att = maps
    slopes = [
        sensitivities(cbf[:, None], at[:, None], problem.pld, problem.tau, problem.acquisition.constants)
        for at in (np.maximum(att - SLOPE_REACH, 0.01), att + SLOPE_REACH)
    ]
    by_cbf, by_att = np.mean(slopes, axis=0)
    by_cbf = by_cbf * cbf[:, None]  # relative: a common factor changes CBF in proportion
    precision = problem.counts / noise[:, None]
    off = precision * fitted
    parts = np.linalg.cholesky(factors.covariance)
    pairs = (by_cbf, by_cbf), (by_cbf, by_att), (by_att, by_att)
    alone = np.stack([(precision * a * b).sum(axis=1) for a, b in pairs], axis=1)
    sums = np.concatenate([alone, (by_cbf * off) @ parts, (by_att * off) @ parts], axis=1)
    sums = smooth_inside(sums / sums[:, :1].mean(), problem.mask, [COMMON_WIDTH / size for size in voxel_size])
    cc, ca, aa = sums[:, :3].T
    of_cbf, of_att = np.split(sums[:, 3:].T, 2)
    relative, late = _solve(cc, ca, aa, of_cbf, of_att, 1e-3)
    return np.stack([relative * cbf, late], axis=1)


def _solve(cc: Floats, ca: Floats, aa: Floats, of_cbf: Floats, of_att: Floats, least: float) -> tuple[Floats, Floats]:
    """Solution of the symmetric systems of CBF and ATT; their determinant is at least that share of cc aa."""
    det = np.maximum(cc * aa - ca**2, least * cc * aa + 1e-30)
    return (aa * of_cbf - ca * of_att) / det, (cc * of_att - ca * of_cbf) / det

"""How far maps are off, as the data and a rehearsal tell: fits of signals simulated from the maps.

Their errors are known, and have in them what noise and shrinkage do to a fit in each place. A first rehearsal tells how
much of the truth a fit leaves out; a second one starts from maps as varied as the truth, and its errors, averaged over
voxels with as much CBF and over what lies around, give the SDs. They are still too small, for what a fit never shows a
rehearsal cannot miss. How much is missing the data say: with f the model, m the maps, J the model's slopes by them and
n the noise, the residuals y - f(m) within the span of J are J (truth - m) + n; so their mean square is that of the
errors in the signals, plus that of the noise, less twice what the fit takes up of the noise, which the rehearsal shows,
too (Stein's unbiased estimate of risk; Ramani et al. 2008, doi:10.1109/TIP.2008.2001404). The rehearsal's variances are
raised to that mean, by one factor.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...physics import ATT_BOUNDS, CBF_BOUNDS
from ...physics.kinetics import sensitivities
from ...smoothing import smooth_inside
from ..contrast import local_contrast
from ..problem import Floats, Problem, chi2_quantile
from ..voxelwise import KINK

AROUND = 16.0  # mm, SD of the Gaussian over which squared errors of the rehearsal are averaged
CLASSES, ENOUGH = 20, 50  # classes of CBF over which they are averaged before, and voxels that each has at least
ODD = 0.999  # quantile of chi-square above which a voxel's residuals say nothing of the fit: arteries, motion
MOST = 4.0  # largest factor of the rehearsal's variances


class Rehearsal:
    """What fits of simulated signals say of maps (2, N), CBF and ATT, of a problem."""

    def __init__(
        self, problem: Problem, voxel_size: tuple[float, float, float], maps: Floats, noise_sd: float, seed: int
    ) -> None:
        self.problem, self.voxel_size, self.maps = problem, voxel_size, maps
        self.rng, self.noise = np.random.default_rng(seed), np.zeros(0, np.float32)
        constants, pld, tau = problem.acquisition.constants, problem.pld, problem.tau
        beside = (maps[1][:, None] + KINK * side for side in (-1, 1))
        slopes: Floats = np.mean([sensitivities(maps[0][:, None], at, pld, tau, constants) for at in beside], axis=0)
        self.slopes = np.moveaxis(slopes, 0, 2) * np.sqrt(problem.counts)[:, None]  # (N, D, 2), of unit noise
        fitted = problem.model(maps[0], maps[1])
        nearest = fitted + self.within(self.residuals(fitted)) / np.sqrt(problem.counts)
        free = problem.noise_sd(nearest.astype(np.float32))
        self.noise_sd = free if free > 0 else noise_sd

    def signal(self, truth: Floats) -> Floats:
        """Signals (N, D) of maps (2, N) with new noise."""
        noise = self.rng.standard_normal(self.problem.signal.shape).astype(np.float32)
        self.noise = noise * np.float32(self.noise_sd)
        fitted = self.problem.model(truth[0], truth[1])
        return (fitted + self.noise / np.sqrt(self.problem.counts)).astype(np.float32)

    def residuals(self, fitted: Floats) -> Floats:
        """Of the signals, each with the noise of one volume."""
        residuals: Floats = (self.problem.signal - fitted) * np.sqrt(self.problem.counts)
        return residuals

    def within(self, values: Floats) -> Floats:
        """The part of (N, D) values that lies in the span of the slopes."""
        coordinates = self._inverse @ (self.slopes.swapaxes(1, 2) @ values[..., None])
        part: Floats = (self.slopes @ coordinates)[..., 0].astype(np.float32)
        return part

    @cached_property
    def _inverse(self) -> NDArray[np.floating]:
        square = (self.slopes.swapaxes(1, 2) @ self.slopes).astype(np.float64)
        inverse: NDArray[np.floating] = np.linalg.pinv(square, rcond=1e-6, hermitian=True)
        return inverse

    def as_varied(self, again: Floats) -> Floats:
        """The maps, as varied in every neighborhood as the truth is, by a fit `again` (2, N) of their signals.

        The truth's local variance is that of the map plus that of its errors. Of CBF, which follows the tissues, the
        contrast is raised to it. What a map of ATT lacks is not in it: from ATT the errors of the fit are taken, as
        large a share of them as gives this variance.
        """
        _, variance = self.variance(self.maps, again, self.maps)
        gains, errors = self.gains(variance), again[1] - self.maps[1]
        truth = self.raised(self.maps, gains**0.5)
        local = local_contrast(np.stack([self.maps[1], errors], axis=1), self.problem.mask, self.voxel_size)
        (own, both), (_, other) = np.cov(local.T)
        share = (both + (both**2 + other * own * (gains[1] - 1)) ** 0.5) / max(other, 1e-12)
        truth[1] = np.maximum(self.maps[1] - np.float32(share) * errors, ATT_BOUNDS[0])
        return truth

    def judge(self, truth: Floats, again: Floats, shrunken: bool) -> tuple[Floats, Floats, dict[str, Any]]:
        """Maps and SDs, both (2, N), by a fit `again` (2, N) of the signals of `truth` (2, N).

        Of shrunken maps the local contrast of CBF is restored: high CBF came out low and low CBF high.
        """
        gains = np.ones(2, np.float32)
        factor, variance = self.variance(self.maps, again, truth)
        maps = self.maps
        if shrunken:
            gains[0] = self.gains(variance)[0] ** 0.5
            maps = self.raised(maps, gains)
            factor, variance = self.variance(maps, self.raised(again, gains), truth)
        found = {"contrast_restored": float(gains[0]), "error_factor": factor}
        return maps, np.sqrt(variance).astype(np.float32), found

    def variance(self, maps: Floats, again: Floats, truth: Floats) -> tuple[float, Floats]:
        """Variances (2, N) of the errors of maps, by those of a rehearsal; first the factor between the two."""
        residuals, change = self.residuals(self.problem.model(maps[0], maps[1])), self.in_signals(again - truth)
        plain = np.square(residuals).sum(axis=1) < self.noise_sd**2 * chi2_quantile(ODD, residuals.shape[1])
        seen = np.square(self.within(residuals)).sum(axis=1)
        risk = seen - 2 * self.noise_sd**2 + 2 * (self.noise * change).sum(axis=1)
        rehearsed = np.square(change).sum(axis=1)
        weight = plain / np.maximum(self.around(rehearsed), 1e-3 * rehearsed.mean())  # so that all voxels count alike
        factor = float(np.clip((weight * risk).sum() / max((weight * rehearsed).sum(), 1e-30), 1.0, MOST))
        return factor, np.float32(factor) * self.averaged(np.square(again - truth), again[0], maps[0])

    def gains(self, variance: Floats) -> Floats:
        """The truth's local variance over that of the maps, (2,), from the variance (2, N) of their errors."""
        local = local_contrast(self.maps.T, self.problem.mask, self.voxel_size).var(axis=0)
        return np.minimum(1 + variance.mean(axis=1) / np.maximum(local, 1e-12), MOST).astype(np.float32)

    def raised(self, maps: Floats, gains: Floats) -> Floats:
        """Maps (2, N) with their local contrast times gains (2,)."""
        raised = maps + (gains[:, None] - 1) * local_contrast(maps.T, self.problem.mask, self.voxel_size).T
        low = np.array([[CBF_BOUNDS[0]], [ATT_BOUNDS[0]]], np.float32)
        return np.maximum(raised, low).astype(np.float32)

    def in_signals(self, errors: Floats) -> Floats:
        """What errors (2, N) of the maps are in the signals (N, D), to first order."""
        change: Floats = np.einsum("ndk,kn->nd", self.slopes, errors)
        return change

    def averaged(self, squares: Floats, again: Floats, cbf: Floats) -> Floats:
        """Squared errors (2, N) of a rehearsal whose CBF is `again`, averaged for the voxels of a map of CBF.

        First over voxels of about as much CBF, for tissues differ in what is found of them; then what the errors are
        in ratio to that over what lies around a voxel.
        """
        order = np.argsort(again, kind="stable")
        classes = np.array_split(order, min(max(len(order) // ENOUGH, 1), CLASSES))
        centers = [float(again[one].mean()) for one in classes]
        means = np.maximum([squares[:, one].mean(axis=1) for one in classes], 1e-12).T

        def typical(values: Floats) -> Floats:
            return np.array([np.interp(values, centers, mean) for mean in means], np.float32)

        averaged: Floats = typical(cbf) * self.around((squares / typical(again)).T).T
        return averaged

    def around(self, values: Floats) -> Floats:
        """Values (N,) or (N, 2) averaged over what lies around a voxel."""
        smooth: Floats = smooth_inside(values, self.problem.mask, [max(AROUND / size, 0.5) for size in self.voxel_size])
        return smooth

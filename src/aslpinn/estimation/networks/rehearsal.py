"""How far maps are off, as the data and a rehearsal tell: fits of signals simulated from the maps.

Their errors are known, and have in them what noise and shrinkage do to a fit in each place. A first rehearsal tells how
much flatter than the truth a fit comes out; a second one starts from maps as varied as the truth, and its errors give
the SDs. They are still too small, for what a fit never shows a rehearsal cannot miss. How much is missing the data say:
with f the model, m the maps, J the model's slopes by them and n the noise, the residuals y - f(m) within the span
of J are J (truth - m) + n; so their mean square is that of the errors in the signals, plus that of the noise, less
twice what the fit takes up of the noise, which the rehearsal shows, too (Stein's unbiased estimate of risk; Ramani et
al. 2008, doi:10.1109/TIP.2008.2001404). The rehearsal's variances are raised to that mean, by one factor.
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
from ..problem import Floats, Problem, chi2_quantile, own_variance
from ..voxelwise import KINK

AROUND = 16.0  # mm, SD of the Gaussian over which squared errors of the rehearsal are averaged
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
        """The maps, their local contrast raised to the truth's, by a fit `again` (2, N) of their signals.

        The truth's local variance is that of the map plus that of its errors.
        """
        _, variance = self.variance(self.maps, again - self.maps)
        return self.raised(self.maps, self.gains(variance) ** 0.5)

    def judge(self, truth: Floats, again: Floats, shrunken: bool) -> tuple[Floats, Floats, dict[str, Any]]:
        """Maps and SDs, both (2, N), by a fit `again` (2, N) of the signals of `truth` (2, N).

        Of shrunken maps the local contrast of CBF is restored: high CBF came out low and low CBF high.
        """
        gains = np.ones(2, np.float32)
        factor, variance = self.variance(self.maps, again - truth)
        maps = self.maps
        if shrunken:
            gains[0] = self.gains(variance)[0] ** 0.5
            maps = self.raised(maps, gains)
            factor, variance = self.variance(maps, self.raised(again, gains) - truth)
        found = {"contrast_restored": float(gains[0]), "error_factor": factor}
        return maps, np.sqrt(variance).astype(np.float32), found

    def variance(self, maps: Floats, errors: Floats) -> tuple[float, Floats]:
        """Variances (2, N) of the errors of maps, by those of a rehearsal; first the factor between the two."""
        residuals, change = self.residuals(self.problem.model(maps[0], maps[1])), self.in_signals(errors)
        plain = np.square(residuals).sum(axis=1) < self.noise_sd**2 * chi2_quantile(ODD, residuals.shape[1])
        seen = np.square(self.within(residuals)).sum(axis=1)
        risk = seen - 2 * self.noise_sd**2 + 2 * (self.noise * change).sum(axis=1)
        rehearsed = np.square(change).sum(axis=1)
        weight = plain / np.maximum(self.around(rehearsed), 1e-3 * rehearsed.mean())  # so that all voxels count alike
        factor = float(np.clip((weight * risk).sum() / max((weight * rehearsed).sum(), 1e-30), 1.0, MOST))
        return factor, np.float32(factor) * self.averaged(np.square(errors))

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

    def averaged(self, squares: Floats) -> Floats:
        """Squared errors (2, N) averaged over what lies around a voxel, in ratio to what its own data suggest."""
        precision = np.square(self.slopes).sum(axis=1).T / self.noise_sd**2
        rows = zip(squares, precision, strict=True)
        typical = np.array([own_variance(float(raw.mean()), own) for raw, own in rows], np.float32)
        averaged: Floats = (typical * self.around((squares / typical).T).T).astype(np.float32)
        return averaged

    def around(self, values: Floats) -> Floats:
        """Values (N,) or (N, 2) averaged over what lies around a voxel."""
        smooth: Floats = smooth_inside(values, self.problem.mask, [max(AROUND / size, 0.5) for size in self.voxel_size])
        return smooth

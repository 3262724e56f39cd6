"""The iteration of the field: its state on one set of signals, step by step until it settles, and what comes of it.

A step linearizes Buxton's model around the maps (`likelihood`), solves for the field (`solver`), and learns the
variances of the levels, the coupling, the guide's function, the noise and the weights of outliers from the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ...fields.gaussian import Fourier, GaussianLevels
from ...physics import ATT_BOUNDS
from ...smoothing import smooth_inside
from ...threads import workers
from ..contrast import RESTORED, local_contrast
from ..mixture import VoxelPrior
from ..options import FieldOptions
from ..problem import Problem, Request, own_variance
from ..regions import Region, RegionSearch, outside_of
from ..voxelwise import grid_search
from .common import VolumeFactors, volume_factors
from .likelihood import (
    FREEDOMS,
    Likelihood,
    linearize,
    noise_around,
    noise_spectrum,
    repeat_noise,
    student_weights,
)
from .prior import (
    CBF_UNIT,
    Prior,
    depth_features,
    guide_features,
    guide_function,
    is_constant,
    region_variances,
    start_variances,
)
from .solver import STEPS, Posterior, condition, learned, sample

Floats = NDArray[np.float64]

UNLIKELY = 0.05  # probability of the other side of a region's border that the SD of ATT leaves out
AGAIN = 4  # iterations after a region was put in
STEPS_WITH_REGION = 40  # most solver steps for the map where a region's fields share voxels with those of the brain
START_KERNEL = 1.13  # shortest voxel edges, SD of the Gaussian before the grid search that starts the fit
START_TILT = 3e-4  # of that search: of equal fits rounding would choose, and the whole fit would follow
START_ATT_SD, REGION_ATT_SD = 0.15, 0.1  # s, width of the first linearization, of the first with a region at least
COUPLING_REACH = 0.03  # s per CBF_UNIT, largest first step of the coupling
#: Most iterations with everything learned, and changes in SDs (99.9th percentile): settled, and far from it.
SETTLE, SETTLED_SD, FAR_SD = 6, 0.05, 0.5
CORRELATED_DRAWS = 2  # pairs of members that tell how much wider errors are with correlated noise
MEMBER_SEEDS = 7919  # keeps the members' seeds apart from those of the hyperparameters
UNITS = np.array([CBF_UNIT, 1.0])
UNITS_SQUARED = np.array([[CBF_UNIT**2], [CBF_UNIT], [1.0]])  # of cbf-cbf, cbf-att and att-att


class Brain:
    """What stays the same between the passes of one fit: signals and their timing, levels, the guide's features."""

    def __init__(
        self, problem: Problem, request: Request, options: FieldOptions, report: Callable[[str], None]
    ) -> None:
        self.problem, self.voxel_size, self.seed, self.report = problem, request.voxel_size, options.seed, report
        self.levels = GaussianLevels(problem.mask, request.voxel_size, options.gaussian_levels, workers())
        self.by_depth = request.guide is None or is_constant(request.guide, problem.mask)
        if request.guide is None or self.by_depth:
            self.features = depth_features(problem.mask, request.voxel_size)
        else:
            self.features = guide_features(request.guide, problem.mask, request.voxel_size)
        self.y = problem.signal.astype(np.float64)
        self.timing = problem.timing
        self.noise = repeat_noise(problem, request.voxel_size)
        # For the mixture: repeats vary most where arteries pulsate, and against its own noise an artery is missed.
        self.noise_around = noise_around(problem, request.voxel_size)
        self.noise_spectrum = (
            None if self.noise is None else noise_spectrum(problem, self.noise, self.levels, self.seed)
        )
        self.search = RegionSearch(problem.mask, request.voxel_size, self.timing)

    def start(self) -> tuple[Floats, Floats]:
        """CBF and ATT (N,) of a grid search on smoothed signals."""
        problem, edge = self.problem, min(self.voxel_size)
        signal = smooth_inside(problem.signal, problem.mask, [START_KERNEL * edge / size for size in self.voxel_size])
        found = grid_search(
            signal, problem.pld, problem.tau, problem.counts, problem.acquisition, 0.05, 0, tilt=START_TILT
        )
        return np.clip(found[0].astype(np.float64), 1.0, 150.0), np.clip(found[1].astype(np.float64), 0.1, 3.0)

    def local(self, maps: NDArray[np.floating]) -> Floats:
        """Maps (F, N) minus their smooth part: contrast between tissues, without that between regions."""
        return local_contrast(maps.T.astype(np.float64), self.problem.mask, self.voxel_size).T

    def covariance(self, errors: Sequence[NDArray[np.floating]], precision: NDArray[np.floating]) -> Floats:
        """Covariance (3, N) of members' errors, averaged with nearby voxels, for few members say little of one voxel.

        What is averaged is the ratio to the variance that the voxel's own data suggest, 1 / (precision + constant):
        variances differ between neighbors of different tissue as the precisions do.
        """
        sigma, mask = [max(1.0, 4.0 / size) for size in self.voxel_size], self.problem.mask
        squares: Floats = np.mean(np.array([[e[0] ** 2, e[0] * e[1], e[1] ** 2] for e in errors], np.float64), axis=0)
        plain = smooth_inside(squares.T, mask, sigma).T
        correlation = np.clip(plain[1] / np.sqrt(np.maximum(plain[0] * plain[2], 1e-30)), -0.95, 0.95)
        variances = [self.averaged(squares[k], precision[k]) for k in (0, 2)]
        return np.stack([variances[0], correlation * np.sqrt(variances[0] * variances[1]), variances[1]])

    def averaged(self, raw: NDArray[np.floating], precision: NDArray[np.floating]) -> Floats:
        """Variances (N,) from mean squares of members' errors, averaged as in `covariance`."""
        sigma = [max(1.0, 4.0 / size) for size in self.voxel_size]
        typical = own_variance(max(float(np.mean(raw)), 1e-30), precision)
        return np.maximum(typical * smooth_inside(raw / typical, self.problem.mask, sigma), 1e-12)


@dataclass
class FieldFit:
    """Posterior of the field at N voxels, in ml/100g/min and s.

    Attributes
    ----------
    cbf, att : (N,)
        Posterior mode.
    fitted : (N, D)
        Expected signal.
    covariance, precision : (3, N)
        cbf-cbf, cbf-att, att-att of the posterior (from the members), and of the data.
    reported : (2, N)
        Variances of CBF and ATT once the contrast is restored; of ATT, that a voxel may be in the region or not counts.
    member_errors : (K, 2, N)
        Estimates minus draws of CBF and ATT, once the contrast is restored.
    factors : VolumeFactors
        By which whole volumes are off; they are taken out of what was fitted.
    wider : (2, 1)
        Factors by which noise that is correlated between voxels widens errors of CBF and ATT.
    remainder : (2, N)
        Gradient of the log likelihood by CBF and ATT at the mode.
    noise_variance, freedom : float
        Of one volume, and Student's degrees of freedom.
    restore : (2,)
        Factors of the local contrast of CBF and ATT that give back what shrinkage took off it.
    prior_sd : (2,)
        SD of CBF and ATT over the brain in the learned model.
    prior : Prior
        As learned; its guide is psi, the function of the guide or of depth.
    region, found : Region or None
        The focal region that the field has, and the one that its search found.
    outside : (N,)
        Probability that a voxel is in no focal region.
    steps : list of int
        Of the solver, in each iteration.
    change : (2, N)
        Of CBF and ATT in the last iteration.
    """

    cbf: Floats
    att: Floats
    fitted: Floats
    covariance: Floats
    reported: Floats
    member_errors: NDArray[np.float32]
    precision: Floats
    factors: VolumeFactors
    wider: Floats
    remainder: Floats
    noise_variance: float
    freedom: float
    restore: Floats
    prior_sd: Floats
    prior: Prior
    region: Region | None
    outside: Floats
    found: Region | None
    steps: list[int]
    change: Floats = field(repr=False)

    def cavity(self) -> VoxelPrior:
        """The field's prediction of each voxel without its own data.

        Precision of the posterior minus that of the data, kept at a tenth of the posterior's or more.
        """
        cc, ca, aa = self.covariance
        det = np.maximum(cc * aa - ca**2, 1e-12 * cc * aa)
        low = np.stack([0.1 / cc, 0.1 / aa])
        pc = np.maximum(aa / det - self.precision[0], low[0])
        pa = np.maximum(cc / det - self.precision[2], low[1])
        limit = 0.9 * np.sqrt(pc * pa)
        pca = np.clip(-ca / det - self.precision[1], -limit, limit)
        det = pc * pa - pca**2
        vc, vca, va = pa / det, -pca / det, pc / det
        cbf = self.cbf - (vc * self.remainder[0] + vca * self.remainder[1])
        att = self.att - (vca * self.remainder[0] + va * self.remainder[1])
        mean = np.stack([np.clip(cbf, 1.0, 150.0), np.clip(att, 0.1, 3.0)], axis=1)
        return VoxelPrior(mean, np.stack([vc, va], axis=1), self.fitted)


class FieldRun:
    """The field's state on measured signals (N, D): maps, hyperparameters, and coefficients to start the solver from.

    Fitted is y, what was measured without the factors by which whole volumes are off.
    """

    def __init__(self, brain: Brain, measured: Floats, start: tuple[Floats, Floats], factors: VolumeFactors) -> None:
        self.brain, self.measured, self.factors = brain, measured, factors
        self.y = y = factors.without(measured)
        self.cbf, self.att = start
        self.mean = np.array([self.cbf.mean() / CBF_UNIT, self.att.mean()])
        self.att_sd = START_ATT_SD
        self.dof = 0.4 * len(y)
        self.scale = 0.0
        self.relative = np.ones(len(y)) if brain.noise is None else brain.noise / np.median(brain.noise)
        self.freedom = FREEDOMS[-1]
        self.variances, self.coupling = start_variances(brain.levels.widths), 0.0
        self.reach, self.turn = COUPLING_REACH, 0.0
        self.gain, self.moved = np.ones((2, len(y))), np.zeros((2, len(y)))
        self.error_sd, self.settled = np.zeros(2), False
        self.psi: NDArray[np.float32] | None = None
        self.region: Region | None = None
        self.found: Region | None = None
        self.posterior: Posterior | None = None
        self.u_simulated: Fourier | None = None
        self.steps: list[int] = []

    def resume(self, start: tuple[Floats, Floats], region: Region) -> None:
        """Go on from other maps with a region; what was learned stays as a start."""
        self.cbf, self.att = start
        self.insert(region)
        self.att_sd = START_ATT_SD

    def iterate(self, iterations: int, settled: int, insert: bool) -> None:
        """Gauss-Newton steps; after `settled` of them a field without a focal region is searched for one (0: never).

        With `insert` the field has the region from then on, and AGAIN steps to adapt. Without it the steps end there:
        the caller has to rule out arteries first.
        """
        done, last = 0, iterations
        while done < last:
            self.step(learn=bool(self.steps))
            done += 1
            self.brain.report(f"field, iteration {done} of {last}")
            if done == min(settled, iterations) and self.region is None:
                self.found = self.search()
                if self.found is not None and insert:
                    self.insert(self.found)
                    last = done + AGAIN
                elif self.found is not None:
                    break
        self.settle(hasty=not insert)

    def settle(self, hasty: bool = False) -> None:
        """Gauss-Newton steps with everything learned until the maps stay; the hasty give up where they are far off."""
        self._take_out_factors()
        for done in range(SETTLE):
            self.step(learn=False)
            moved = float((np.quantile(np.abs(self.change), 0.999, axis=1) / np.maximum(self.error_sd, 1e-9)).max())
            self.settled = moved < SETTLED_SD
            if self.settled or (hasty and done > 0 and moved > FAR_SD):
                break

    def _take_out_factors(self) -> None:
        brain = self.brain
        if brain.noise is not None:
            weight = self.weight / (self.scale * self.relative)
            fitted, _ = linearize(self.y, brain.timing, self.cbf, self.att, self.att_sd)
            maps = self.cbf, self.att
            self.factors = volume_factors(brain.problem, self.measured, fitted, maps, weight, brain.noise)
            self.y = self.factors.without(self.measured)

    def step(self, learn: bool) -> None:
        """One Gauss-Newton step; with learn, one step of the hyperparameters after it."""
        brain, likelihood = self.brain, self.likelihood()
        start = self.posterior
        if self.psi is None or len(self.steps) == 3:
            self._learn_guide(likelihood)
            start = self.u_simulated = None
        member = None if self.region is None else self.region.member.astype(np.float32)
        prior = Prior(brain.levels, self.variances, self.psi, self.coupling, member, brain.by_depth)
        most = STEPS if member is None else STEPS_WITH_REGION
        self.posterior = condition(prior, likelihood, None if start is None else start.start(prior), most)
        self.steps.append(self.posterior.steps)
        if learn:
            self._learn_prior(self.posterior)
        self.move_to(self.posterior, turning=not learn and len(self.steps) > 1)

    def move_to(self, posterior: Posterior, turning: bool = False) -> None:
        """CBF and ATT of a posterior; turning: a voxel that swings around its solution moves by half each time."""
        target = posterior.mean.astype(np.float64) + self.mean[:, None]
        target = np.array([np.maximum(target[0] * CBF_UNIT, 0.5), np.clip(target[1], *ATT_BOUNDS)])
        change = target - (self.cbf, self.att)
        if turning:
            self.gain[change * self.moved < 0] /= 2
            change *= self.gain
        self.moved = change
        self.cbf, self.att = self.cbf + change[0], self.att + change[1]
        self.change = change

    def search(self) -> Region | None:
        """A focal region in what the field leaves of the signals."""
        fitted, _ = linearize(self.y, self.brain.timing, self.cbf, self.att, 1e-2)
        variance = float(self.variances[0, 1:].sum()) * CBF_UNIT**2
        return self.brain.search.find(
            self.y, self.cbf, self.att, fitted, self.weight / (self.scale * self.relative), variance
        )

    def insert(self, region: Region) -> None:
        """Give the field levels of its own in a region, and the region's ATT to start from."""
        self.region = region
        self.att = np.where(region.zone, region.att, self.att)
        self.variances = np.concatenate([self.variances, region_variances(self.brain.levels.widths)])
        self.u_simulated = None
        self.att_sd = max(self.att_sd, REGION_ATT_SD)

    def likelihood(self, spread: bool = False, relaxation: Floats | None = None) -> Likelihood:
        """The model linearized around the present maps, with the noise and the weights of its residuals.

        With spread the signal's variance within the posterior counts too, and 1 / T1t (N,) of the voxels may be that of
        their own tissues (`linearize`).
        """
        variance = None
        if spread and self.posterior is not None:
            own = self.posterior.likelihood.precision[[0, 2]] / UNITS_SQUARED[[0, 2]]
            variance = np.stack([own_variance(v, p) for v, p in zip(self.error_sd**2, own, strict=True)], axis=1)
        self.fitted, sums = linearize(self.y, self.brain.timing, self.cbf, self.att, self.att_sd, variance, relaxation)
        squares = (self.brain.timing.counts * (self.y - self.fitted) ** 2).sum(axis=1) / self.relative
        effective = max(self.y.shape[1] - self.dof / len(self.y), 0.2)
        start = self.scale or float(np.median(squares)) / effective
        self.weight, self.freedom, self.scale = student_weights(squares, effective, start)
        return Likelihood.of(sums, self.weight / (self.scale * self.relative), self.cbf, self.att, self.mean)

    def _learn_guide(self, likelihood: Likelihood) -> None:
        cc, ca, _ = likelihood.precision.astype(np.float64)
        observed = (likelihood.pull[0] - ca * (self.att - self.mean[1])) / np.maximum(cc, 1e-9)
        self.psi = guide_function(self.brain.features, observed, cc).astype(np.float32)

    def _learn_prior(self, posterior: Posterior) -> None:
        """Level variances and coupling by marginal likelihood, and the fit's degrees of freedom."""
        rng = np.random.default_rng(self.brain.seed)
        draw, simulated = sample(posterior.prior, posterior.likelihood, rng, self.u_simulated)
        self.u_simulated = simulated.u
        error = simulated.mean - draw
        self.dof = float((error * posterior.likelihood.apply(error)).sum(dtype=np.float64))
        self.variances, step = learned(posterior.prior, posterior, simulated)
        if step * self.turn < 0:  # past the root: come back more slowly, so that the iteration settles
            self.reach /= 2
        self.turn = step
        # less flow never means earlier arrival
        self.coupling = min(self.coupling + float(np.clip(step, -self.reach, self.reach)), 0.0)
        self.error_sd = np.maximum(np.sqrt(np.square(error, dtype=np.float64).mean(axis=1)), 1e-3) * UNITS
        self.att_sd = float(self.error_sd[1])

    def _restore(self, errors: Sequence[NDArray[np.floating]], there: NDArray[np.bool_]) -> Floats:
        """Factors (2,) for the local contrast of CBF and ATT, from the voxels that are there.

        The truth's variance is that of the estimate plus that of its errors: `gain` makes the map as varied as the
        truth, and `gain` squared would make means over tissues unbiased.
        """
        lost = np.mean([self.brain.local(e)[:, there].var(axis=1) for e in errors], axis=0)
        kept = self.brain.local(np.array([self.cbf / CBF_UNIT, self.att]))[:, there].var(axis=1)
        gain = np.sqrt(1.0 + lost / np.maximum(kept, 1e-12))
        return np.clip(gain**RESTORED, 1.0, 2.0)

    def _wider(self, prior: Prior, likelihood: Likelihood) -> Floats:
        """Factors (2, 1) by which errors of CBF and ATT grow where noise is correlated between voxels."""
        if self.brain.noise_spectrum is None:
            return np.ones((2, 1))
        squares = np.zeros((2, 2))
        for k in range(CORRELATED_DRAWS):
            for which, spectrum in enumerate((None, self.brain.noise_spectrum)):
                rng = np.random.default_rng([MEMBER_SEEDS, self.brain.seed, k])
                draw, member = sample(prior, replace(likelihood, spectrum=spectrum), rng)
                squares[which] += np.square(member.mean - draw, dtype=np.float64).mean(axis=1)
        return np.sqrt(np.maximum(squares[1] / squares[0], 1.0))[:, None]

    def _side_of_region(self) -> Floats:
        """Variances (2, N) of CBF and ATT because a voxel may be in the region or not.

        Only ATT has one: CBF of a voxel on the wrong side is found by the fields that are everywhere. What is less
        likely than UNLIKELY is no part of a 95 % interval.
        """
        variance = np.zeros((2, len(self.cbf)))
        if self.region is not None and self.posterior is not None:
            cbf, att = self.posterior.fields[-2:].astype(np.float64)
            member = self.region.member
            unsure = np.abs(member - 0.5) < 0.5 - UNLIKELY
            variance[1] = unsure * member * (1 - member) * (att + self.posterior.prior.coupling * cbf) ** 2
        return variance

    def finish(self, members: int) -> FieldFit:
        """Draw the members and put everything into physical units."""
        assert self.posterior is not None
        brain, prior, likelihood = self.brain, self.posterior.prior, self.posterior.likelihood
        draws, estimates = [], []
        for k in range(members):
            draw, member = sample(prior, likelihood, np.random.default_rng([MEMBER_SEEDS, brain.seed, k]))
            draws.append(draw)
            estimates.append(member.mean)
            brain.report(f"member {k + 1} of {members}")
        outside = outside_of(self.region, len(self.cbf))
        wider = self._wider(prior, likelihood)
        errors = [e - d for e, d in zip(estimates, draws, strict=True)]
        restore = self._restore(errors, outside > 0.95)
        widen = (restore[:, None] - 1) * outside
        restored = [wider * (error + widen * brain.local(e)) for error, e in zip(errors, estimates, strict=True)]
        return FieldFit(
            cbf=self.cbf,
            att=self.att,
            fitted=self.fitted,
            covariance=brain.covariance(errors, likelihood.precision) * UNITS_SQUARED,
            reported=brain.covariance(restored, likelihood.precision)[[0, 2]] * UNITS_SQUARED[[0, 2]]
            + self._side_of_region(),
            member_errors=np.array([e * UNITS[:, None] for e in restored], np.float32),
            precision=likelihood.precision.astype(np.float64) / UNITS_SQUARED,
            factors=self.factors,
            wider=wider,
            remainder=self.posterior.remainder.astype(np.float64) / UNITS[:, None],
            noise_variance=self.scale,
            freedom=self.freedom,
            restore=restore,
            prior_sd=np.mean([d.std(axis=1) for d in draws], axis=0) * UNITS,
            prior=prior,
            region=self.region,
            outside=outside,
            found=self.found,
            steps=self.steps,
            change=self.change,
        )

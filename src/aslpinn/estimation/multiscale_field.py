"""The multiscale field fitted to a series: Gauss-Newton with sigma points, hyperparameters by marginal likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from ..fields.multiscale import Fourier, MultiscaleField
from ..physics import ATT_BOUNDS
from .bayes_linear import Likelihood, LinearFields
from .grid import grid_search
from .guide import guide_features, guide_function, smooth_inside
from .kinetic_kernels import physics_of, sigma_point_sums
from .parallel import over_voxels, workers
from .problem import Problem

Floats = NDArray[np.float64]

CBF_UNIT = 20.0  # ml/100g/min in the field's unit, so that both fields are of order 1
TOLERANCE, SOLVER = 2e-3, 20  # of the conjugate gradients: fall of the residual, and most iterations
NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(5)
NODE_WEIGHTS = NODE_WEIGHTS / NODE_WEIGHTS.sum()
FREEDOMS = (3.0, 5.0, 8.0, 14.0, 30.0, 1e3)  # of Student's t; the last is as good as Gaussian
LOCAL = 5.0  # shortest voxel edges, SD of the Gaussian whose residual is called local contrast
#: Largest variances that a level of the fields of CBF, ATT and the guide may learn; the data don't bound broad levels.
LARGEST = np.array([1.0, 0.2**2, 1.0])
START_KERNEL = 1.13  # shortest voxel edges, SD of the Gaussian before the grid search that starts the fit
MEMBER_SEEDS = 7919  # keeps the members' seeds apart from those of the hyperparameters


@dataclass
class FieldFit:
    """Posterior of the field at N voxels.

    Attributes
    ----------
    cbf, att : (N,)
        Posterior mode in ml/100g/min and s.
    fitted : (N, D)
        Expected signal.
    covariance, precision : (3, N)
        cbf-cbf, cbf-att, att-att of the posterior (from the members), and of the data.
    reported : (2, N)
        Variances of CBF and ATT once the contrast is restored.
    member_errors : (K, 2, N)
        Estimates minus draws of CBF and ATT, once the contrast is restored.
    remainder : (2, N)
        Gradient of the log likelihood by CBF and ATT at the mode.
    noise_variance, freedom : float
        Of one volume, and Student's degrees of freedom.
    restore : (2,)
        SD of the fields' draws over SD of their estimates, for CBF and ATT: what shrinkage takes off the contrast.
    prior_sd : (2,)
        SD of CBF and ATT over the brain in the learned model.
    guided : (N,) or None
        psi, the function of the guide.
    """

    cbf: Floats
    att: Floats
    fitted: Floats
    covariance: Floats
    reported: Floats
    member_errors: NDArray[np.float32]
    precision: Floats
    remainder: Floats
    noise_variance: float
    freedom: float
    restore: Floats
    prior_sd: Floats
    guided: NDArray[np.float32] | None
    variances: Floats
    coupling: float
    iterations: list[int]
    change: Floats = field(repr=False)


class FieldEstimator:
    """What stays the same between the passes of one fit: the field, the delays, the guide's features."""

    def __init__(
        self,
        problem: Problem,
        voxel_size: tuple[float, float, float],
        guide: NDArray[np.floating] | None,
        levels: int,
        seed: int,
        members: int,
        report: Callable[[str], None],
    ) -> None:
        self.problem, self.voxel_size, self.seed, self.members, self.report = problem, voxel_size, seed, members, report
        self.field = MultiscaleField(problem.mask, voxel_size, levels, workers())
        self.features = None if guide is None else guide_features(guide, problem.mask, voxel_size)
        self.pld, row = np.unique(problem.pld.astype(np.float64), axis=0, return_inverse=True)
        n = len(problem.signal)
        self.row = np.zeros(n, np.int64) if len(problem.pld) == 1 else row.ravel().astype(np.int64)
        self.tau, self.count = problem.tau.astype(np.float64), problem.counts.astype(np.float64)
        self.tolerance, self.solver = TOLERANCE, SOLVER
        self.physics = physics_of(problem.acquisition.constants)

    def start(self) -> tuple[Floats, Floats]:
        """CBF and ATT (N,) of a grid search on smoothed signals."""
        problem, edge = self.problem, min(self.voxel_size)
        sigma = [START_KERNEL * edge / size for size in self.voxel_size]
        signal = np.stack([smooth_inside(volume, problem.mask, sigma) for volume in problem.signal.T], axis=1)
        found = grid_search(
            signal.astype(np.float32), problem.pld, problem.tau, problem.counts, problem.acquisition, 0.05, 0
        )
        return np.clip(found[0].astype(np.float64), 1.0, 150.0), np.clip(found[1].astype(np.float64), 0.1, 3.0)

    def local(self, maps: NDArray[np.floating]) -> Floats:
        """Maps (F, N) minus their smooth part: contrast between tissues, without that between regions."""
        sigma = [LOCAL * min(self.voxel_size) / size for size in self.voxel_size]
        return np.stack([values - smooth_inside(values, self.problem.mask, sigma) for values in maps])

    def covariance(self, errors: Sequence[NDArray[np.floating]], precision: NDArray[np.floating]) -> Floats:
        """Covariance (3, N) of members' errors, averaged with nearby voxels, for few members say little of one voxel.

        What is averaged is the ratio to the variance that the voxel's own data suggest, 1 / (precision + constant):
        variances differ between neighbors of different tissue as the precisions do.
        """
        sigma = [max(1.0, 4.0 / size) for size in self.voxel_size]
        mask = self.problem.mask
        squares: Floats = np.mean(
            np.array([[e[0] ** 2, e[0] * e[1], e[1] ** 2] for e in errors], np.float64), axis=0, keepdims=True
        )[0]
        plain = np.stack([smooth_inside(values, mask, sigma) for values in squares])
        correlation = np.clip(plain[1] / np.sqrt(np.maximum(plain[0] * plain[2], 1e-30)), -0.95, 0.95)
        variances = []
        for raw, own in ((squares[0], precision[0]), (squares[2], precision[2])):
            mean = max(float(np.mean(raw)), 1e-30)
            typical = 1.0 / (own + max(1.0 / mean - float(np.mean(own)), 1e-3 / mean))
            variances.append(np.maximum(typical * smooth_inside(raw / typical, mask, sigma), 1e-12))
        return np.stack([variances[0], correlation * np.sqrt(variances[0] * variances[1]), variances[1]])

    def linearize(self, y: Floats, cbf: Floats, att: Floats, att_sd: float) -> tuple[Floats, Floats]:
        """Expected signal (N, D) and weighted sums (N, 5) of `sigma_point_sums`."""
        fitted, sums = np.empty_like(y), np.empty((len(y), 5))
        over_voxels(
            sigma_point_sums, len(y), y, cbf, att, att_sd, self.row, self.pld, self.tau, self.count, self.physics,
            NODES, NODE_WEIGHTS, fitted, sums,
        )  # fmt: skip
        return fitted, sums

    def fit(self, y: Floats, start: tuple[Floats, Floats], iterations: int, before: FieldFit | None = None) -> FieldFit:
        """Iterate linearization, solve and hyperparameters on signals y (N, D); then draw the members."""
        state = _State(self, y, start, before)
        for k in range(iterations):
            state.step(k, learn=k > 0 or before is not None)
            self.report(f"field, iteration {k + 1} of {iterations}")
        state.step(iterations, learn=False)
        return state.finish()


class _State:
    """One fit in progress."""

    def __init__(self, owner: FieldEstimator, y: Floats, start: tuple[Floats, Floats], before: FieldFit | None) -> None:
        self.owner, self.y = owner, y
        self.cbf, self.att = start
        self.mean = np.array([self.cbf.mean() / CBF_UNIT, self.att.mean()])
        self.att_sd = 0.15
        self.dof = 0.4 * len(y)
        self.scale = 0.0
        self.freedom = FREEDOMS[-1]
        fields = 2 if owner.features is None else 3
        self.variances = _start_variances(fields, len(owner.field.widths)) if before is None else before.variances
        self.guided = None if before is None else before.guided
        self.coupling = 0.0 if before is None else before.coupling
        self.prior: LinearFields | None = None
        self.u: Fourier | None = None
        self.u_sample: Fourier | None = None
        self.iterations: list[int] = []

    def step(self, k: int, learn: bool) -> None:
        """One Gauss-Newton step; with learn, one step of the hyperparameters after it."""
        owner = self.owner
        self.fitted, sums = owner.linearize(self.y, self.cbf, self.att, self.att_sd)
        squares = (owner.count * (self.y - self.fitted) ** 2).sum(axis=1)
        effective = max(self.y.shape[1] - self.dof / len(self.y), 0.2)
        start = self.scale or float(np.median(squares)) / effective
        weights, self.freedom, self.scale = student_weights(squares, effective, start)
        self.likelihood = self._likelihood(sums, weights / self.scale)
        if owner.features is not None and (self.guided is None or k == 3):
            self._learn_guide()
        before = None if self.prior is None else self.prior.spectrum
        prior = self.prior = LinearFields(
            owner.field, self.variances, self.guided, self.coupling, owner.tolerance, owner.solver
        )
        if self.u is not None and before is not None:  # the fields stay, their coordinates change with the spectrum
            self.u *= np.sqrt(before / np.maximum(prior.spectrum, np.float32(1e-20)))
        self.u, self.theta, used = prior.solve(self.likelihood, self.likelihood.pull, self.u)
        self.iterations.append(used)
        if learn:
            self._learn_variances(prior)
        last = self.cbf, self.att
        self.cbf = np.maximum((self.theta[0] + self.mean[0]) * CBF_UNIT, 0.5)
        self.att = np.clip(self.theta[1] + self.mean[1], *ATT_BOUNDS)
        self.change = np.array([self.cbf - last[0], self.att - last[1]])

    def _likelihood(self, sums: Floats, weight: Floats) -> Likelihood:
        cc, ca, aa, rc, ra = sums.T * weight
        cc, ca, rc = cc * CBF_UNIT**2, ca * CBF_UNIT, rc * CBF_UNIT
        cbf, att = self.cbf / CBF_UNIT - self.mean[0], self.att - self.mean[1]
        pull = np.stack([rc + cc * cbf + ca * att, ra + ca * cbf + aa * att])
        return Likelihood(np.stack([cc, ca, aa]).astype(np.float32), pull.astype(np.float32))

    def _learn_guide(self) -> None:
        cc, ca, _ = self.likelihood.precision.astype(np.float64)
        observed = (self.likelihood.pull[0] - ca * (self.att - self.mean[1])) / np.maximum(cc, 1e-9)
        assert self.owner.features is not None
        self.guided = guide_function(self.owner.features, observed, cc).astype(np.float32)
        self.u = self.u_sample = None

    def _learn_variances(self, prior: LinearFields) -> None:
        """A multiplicative step on the marginal likelihood of the level variances, and the fit's degrees of freedom.

        The expectation in its derivative comes from one draw, the same at every iteration, so that the steps settle.
        """
        rng = np.random.default_rng(self.owner.seed)
        draw, estimate, left, self.u_sample = prior.sample(self.likelihood, rng, self.u_sample)
        error = estimate - draw
        self.dof = float((error * self.likelihood.apply(error)).sum(dtype=np.float64))
        found = prior.power(self.likelihood.pull - self.likelihood.apply(self.theta))
        remainder = self.likelihood.pull - self.likelihood.apply(self.theta)
        (slope, _), (chance, scale) = prior.coupling_slope(remainder), prior.coupling_slope(left)
        step = float(np.clip(1.5 * (slope - chance) / max(scale, 1e-30), -0.03, 0.03))
        self.coupling = min(self.coupling + step, 0.0)  # less flow never means earlier arrival
        ratio = np.clip(found / np.maximum(prior.power(left), 1e-30), 0.2, 5.0)
        learned = self.variances[:, 1:]  # the constant's variance is a fixed, broad prior of the mean
        self.variances = self.variances.copy()
        self.variances[:, 1:] = np.where(learned > 0, np.maximum(learned * ratio[:, 1:] ** 1.5, 1e-6), 0)
        self.variances[:, 1:] = np.minimum(self.variances[:, 1:], LARGEST[: len(self.variances), None])
        self.att_sd = max(float(np.sqrt((error[1].astype(np.float64) ** 2).mean())), 1e-3)

    def finish(self) -> FieldFit:
        """Draw the members and put everything into physical units."""
        assert self.prior is not None
        owner, unit = self.owner, np.array([CBF_UNIT, 1.0])
        draws, estimates = [], []
        for k in range(owner.members):
            rng = np.random.default_rng([MEMBER_SEEDS, owner.seed, k])
            draw, estimate, _, _ = self.prior.sample(self.likelihood, rng)
            draws.append(draw)
            estimates.append(estimate)
            owner.report(f"member {k + 1} of {owner.members}")
        local = [owner.local(values) for values in estimates]
        spread = np.mean([owner.local(values).std(axis=1) for values in draws], axis=0)
        restore = np.clip(spread / np.maximum(np.mean([v.std(axis=1) for v in local], axis=0), 1e-12), 1.0, 2.0)
        if self.guided is not None and self.guided.std() > 0:
            restore[0] = 1 + (restore[0] - 1) * (1 - np.corrcoef(self.guided, self.cbf)[0, 1] ** 2)
        precision = self.likelihood.precision
        errors = [e - d for e, d in zip(estimates, draws, strict=True)]
        restored = [e + (restore[:, None] - 1) * v for e, v in zip(errors, local, strict=True)]
        pair: Floats = np.array([[unit[0] ** 2], [unit[0]], [1.0]])
        left = self.likelihood.pull - self.likelihood.apply(self.theta)
        return FieldFit(
            cbf=self.cbf,
            att=self.att,
            fitted=self.fitted,
            covariance=owner.covariance(errors, precision) * pair,
            reported=owner.covariance(restored, precision)[[0, 2]] * pair[[0, 2]],
            member_errors=np.array([e * unit[:, None] for e in restored], np.float32),
            precision=precision.astype(np.float64) / pair,
            remainder=left.astype(np.float64) / unit[:, None],
            noise_variance=self.scale,
            freedom=self.freedom,
            restore=restore,
            prior_sd=np.mean([d.std(axis=1) for d in draws], axis=0) * unit,
            guided=self.guided,
            variances=self.variances,
            coupling=self.coupling,
            iterations=self.iterations,
            change=self.change,
        )


def _start_variances(fields: int, levels: int) -> Floats:
    """Variances (F, levels + 2) before any is learned; the constant's are those of a broad prior of the mean."""
    variances = np.zeros((fields, levels + 2))
    variances[0] = [4.0, 0.005, *[0.4 / levels] * levels]
    variances[1] = [1.0, 0.001, *[0.02] * levels]
    if fields == 3:
        variances[2, 0], variances[2, -2] = 0.2, 0.02
    return variances


def student_weights(squares: Floats, effective: float, scale: float) -> tuple[Floats, float, float]:
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

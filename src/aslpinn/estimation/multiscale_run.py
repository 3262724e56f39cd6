"""One fit of the multiscale field in progress: Gauss-Newton, hyperparameters by marginal likelihood, the members."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..fields.multiscale import Fourier
from ..physics import ATT_BOUNDS
from .bayes_linear import Likelihood, LinearFields
from .guide import guide_function
from .multiscale_field import CBF_UNIT, FREEDOMS, FieldEstimator, FieldFit, student_weights
from .regions import Region, outside_of

Floats = NDArray[np.float64]

#: Largest variances that a level of the fields of CBF, ATT and the guide may learn; the data don't bound broad levels.
LARGEST = np.array([1.0, 0.2**2, 1.0])
#: SDs of a region's levels, for widths up to 7, up to 12 and above 12 mm: CBF in the field's unit, ATT in s. A region's
#: few voxels cannot teach them; they let it be anything physiological that is smooth inside.
REGION_WIDTHS, REGION_CBF, REGION_ATT = (7.0, 12.0), (0.0, 0.0, 0.3), (0.0, 0.1, 0.3)
SOLVER_WITH_REGION = 40  # most iterations for the map where a region's fields share voxels with those of the brain
#: Exponents of the gain that restores the contrast of CBF and ATT: at 1 a map is as varied as the truth, at 2 means
#: over tissues are unbiased and noise is raised as much. Means over tissues are what is reported of CBF.
RESTORED = np.array([1.25, 1.0])
AGAIN = 4  # iterations after a region was put in
START_ATT_SD, REGION_ATT_SD = 0.15, 0.1  # s, width of the first linearization, of the first with a region at least
MEMBER_SEEDS = 7919  # keeps the members' seeds apart from those of the hyperparameters


class FieldRun:
    """The field's state on signals y (N, D): maps, hyperparameters, and coefficients to start the solver from."""

    def __init__(self, owner: FieldEstimator, y: Floats, start: tuple[Floats, Floats]) -> None:
        self.owner, self.y = owner, y
        self.cbf, self.att = start
        self.mean = np.array([self.cbf.mean() / CBF_UNIT, self.att.mean()])
        self.att_sd = START_ATT_SD
        self.dof = 0.4 * len(y)
        self.scale = 0.0
        self.freedom = FREEDOMS[-1]
        self.variances = _start_variances(len(owner.field.widths))
        self.guided: NDArray[np.float32] | None = None
        self.coupling = 0.0
        self.region: Region | None = None
        self.found: Region | None = None
        self.prior: LinearFields | None = None
        self.u: Fourier | None = None
        self.u_sample: Fourier | None = None
        self.iterations: list[int] = []

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
            self.step(learn=bool(self.iterations))
            done += 1
            self.owner.report(f"field, iteration {done} of {last}")
            if done == min(settled, iterations) and self.region is None:
                self.found = self.search()
                if self.found is not None and insert:
                    self.insert(self.found)
                    last = done + AGAIN
                elif self.found is not None:
                    break
        self.step(learn=False)

    def step(self, learn: bool) -> None:
        """One Gauss-Newton step; with learn, one step of the hyperparameters after it."""
        owner = self.owner
        self.fitted, sums = owner.linearize(self.y, self.cbf, self.att, self.att_sd)
        squares = (owner.count * (self.y - self.fitted) ** 2).sum(axis=1)
        effective = max(self.y.shape[1] - self.dof / len(self.y), 0.2)
        start = self.scale or float(np.median(squares)) / effective
        self.weight, self.freedom, self.scale = student_weights(squares, effective, start)
        self.likelihood = self._likelihood(sums, self.weight / self.scale)
        if self.guided is None or len(self.iterations) == 3:
            self._learn_guide()
        before = None if self.prior is None else self.prior.spectrum
        member = None if self.region is None else self.region.member.astype(np.float32)
        prior = self.prior = LinearFields(
            owner.field, self.variances, self.guided, self.coupling, owner.tolerance, owner.solver, member, owner.depth
        )
        if self.u is not None and before is not None:  # the fields stay, their coordinates change with the spectrum
            self.u[: len(before)] *= np.sqrt(before / np.maximum(prior.spectrum[: len(before)], np.float32(1e-20)))
        most = None if member is None else SOLVER_WITH_REGION
        self.u, self.theta, used = prior.solve(self.likelihood, self.likelihood.pull, self.u, most)
        self.iterations.append(used)
        if learn:
            self._learn_variances(prior)
        last = self.cbf, self.att
        self.cbf = np.maximum((self.theta[0] + self.mean[0]) * CBF_UNIT, 0.5)
        self.att = np.clip(self.theta[1] + self.mean[1], *ATT_BOUNDS)
        self.change = np.array([self.cbf - last[0], self.att - last[1]])

    def search(self) -> Region | None:
        """A focal region in what the field leaves of the signals."""
        fitted, _ = self.owner.linearize(self.y, self.cbf, self.att, 1e-2)
        variance = float(self.variances[0, 1:].sum()) * CBF_UNIT**2
        return self.owner.search.find(self.y, self.cbf, self.att, fitted, self.weight / self.scale, variance)

    def insert(self, region: Region) -> None:
        """Give the field levels of its own in a region, and the region's ATT to start from."""
        self.region = region
        self.att = np.where(region.zone, region.att, self.att)
        self.variances = np.concatenate([self.variances, _region_variances(self.owner.field.widths)])
        if self.u is not None:
            self.u = np.concatenate([self.u, np.zeros_like(self.u[:2])])
        self.u_sample = None
        self.att_sd = max(self.att_sd, REGION_ATT_SD)

    def _likelihood(self, sums: Floats, weight: Floats) -> Likelihood:
        cc, ca, aa, rc, ra = sums.T * weight
        cc, ca, rc = cc * CBF_UNIT**2, ca * CBF_UNIT, rc * CBF_UNIT
        cbf, att = self.cbf / CBF_UNIT - self.mean[0], self.att - self.mean[1]
        pull = np.stack([rc + cc * cbf + ca * att, ra + ca * cbf + aa * att])
        return Likelihood(np.stack([cc, ca, aa]).astype(np.float32), pull.astype(np.float32))

    def _learn_guide(self) -> None:
        cc, ca, _ = self.likelihood.precision.astype(np.float64)
        observed = (self.likelihood.pull[0] - ca * (self.att - self.mean[1])) / np.maximum(cc, 1e-9)
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
        remainder = self.likelihood.pull - self.likelihood.apply(self.theta)
        found = prior.power(remainder)
        (slope, _), (chance, scale) = prior.coupling_slope(remainder), prior.coupling_slope(left)
        step = float(np.clip(1.5 * (slope - chance) / max(scale, 1e-30), -0.03, 0.03))
        self.coupling = min(self.coupling + step, 0.0)  # less flow never means earlier arrival
        ratio = np.clip(found / np.maximum(prior.power(left), 1e-30), 0.2, 5.0)
        learned = self.variances[: len(ratio), 1:]  # the constant's variance is a fixed, broad prior of the mean
        learned = np.where(learned > 0, np.maximum(learned * ratio[:, 1:] ** 1.5, 1e-6), 0)
        self.variances = self.variances.copy()
        self.variances[: len(ratio), 1:] = np.minimum(learned, LARGEST[: len(ratio), None])
        self.att_sd = max(float(np.sqrt((error[1].astype(np.float64) ** 2).mean())), 1e-3)

    def _restore(self, errors: Sequence[NDArray[np.floating]], there: NDArray[np.bool_]) -> Floats:
        """Factors (2,) for the local contrast of CBF and ATT, from the voxels that are there.

        The truth's variance is that of the estimate plus that of its errors: `gain` makes the map as varied as the
        truth, and `gain` squared would make means over tissues unbiased.
        """
        lost = np.mean([self.owner.local(e)[:, there].var(axis=1) for e in errors], axis=0)
        kept = self.owner.local(np.array([self.cbf / CBF_UNIT, self.att]))[:, there].var(axis=1)
        gain = np.sqrt(1.0 + lost / np.maximum(kept, 1e-12))
        return np.clip(gain**RESTORED, 1.0, 2.0)

    def finish(self, members: int) -> FieldFit:
        """Draw the members and put everything into physical units."""
        assert self.prior is not None
        assert self.guided is not None
        owner, unit = self.owner, np.array([CBF_UNIT, 1.0])
        draws, estimates = [], []
        for k in range(members):
            rng = np.random.default_rng([MEMBER_SEEDS, owner.seed, k])
            draw, estimate, _, _ = self.prior.sample(self.likelihood, rng)
            draws.append(draw)
            estimates.append(estimate)
            owner.report(f"member {k + 1} of {members}")
        outside = outside_of(self.region, len(self.cbf))
        local = [owner.local(values) for values in estimates]
        precision = self.likelihood.precision
        errors = [e - d for e, d in zip(estimates, draws, strict=True)]
        restore = self._restore(errors, outside > 0.95)
        restored = [e + (restore[:, None] - 1) * outside * v for e, v in zip(errors, local, strict=True)]
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
            region=self.region,
            outside=outside,
            found=self.found,
            variances=self.variances,
            coupling=self.coupling,
            iterations=self.iterations,
            change=self.change,
        )


def _start_variances(levels: int) -> Floats:
    """Variances (3, levels + 2) before any is learned; the constant's are those of a broad prior of the mean."""
    variances = np.zeros((3, levels + 2))
    variances[0] = [4.0, 0.005, *[0.4 / levels] * levels]
    variances[1] = [1.0, 0.001, *[0.02] * levels]
    variances[2, 0], variances[2, -2] = 0.2, 0.02
    return variances


def _region_variances(widths: Sequence[float]) -> Floats:
    """Variances (2, levels + 2) of a region's fields of CBF and ATT for levels of the given widths in mm."""
    sd = np.array([REGION_CBF, REGION_ATT])[:, np.searchsorted(REGION_WIDTHS, widths)]
    return np.concatenate([np.zeros((2, 2)), sd**2], axis=1)

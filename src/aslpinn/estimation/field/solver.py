"""The posterior of the fields given linearized data: preconditioned conjugate gradients, samples, evidence.

The unknowns are fields x = K^(1/2) u with K the prior's spectrum and u standard normal. What voxels have of their own,
the prior's level of independent voxels, is integrated out and added at the end in closed form.
"""

# mypy: allow-untyped-defs, disable-error-code="call-arg"

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ...fields.gaussian import Floats, Fourier
from .likelihood import Likelihood
from .prior import LARGEST, Prior

TOLERANCE, STEPS = 2e-3, 20  # of the conjugate gradients: fall of the residual, and most steps
NARROW = 4  # Gaussian levels whose contrast couples ATT to CBF


@dataclass(frozen=True)
class Posterior:
    """What prior and likelihood say together.

    u, ahead : (F, *frequencies)
        Mean of the coefficients, and one preconditioned step beyond.
    mean : (2, N)
        Of CBF and ATT.
    steps : int
        Of the conjugate gradients.
    """

    prior: Prior
    likelihood: Likelihood
    u: Fourier
    ahead: Fourier
    mean: Floats
    steps: int

    @property
    def fields(self) -> Floats:
        """The fields at the voxels, (F, N), without their level of independent voxels."""
        return self.prior.levels.down(np.sqrt(self.prior.spectrum) * self.u)

    @property
    def remainder(self) -> Floats:
        """Gradient (2, N) of the log likelihood at the mean: what the estimate leaves over, taken as K^(-1/2) u.

        It is pull - L mean once the solver has converged. Before that pull - L mean holds the solver's own residual
        too. In the broad bands, where data leave next to nothing, that is most of it, and what is made of it would
        follow the last bits of the input; so there it is left out, by the step ahead, which is short in these bands.
        """
        prior = self.prior
        if prior.own is not None:  # the first field is not that of CBF
            return self.likelihood.pull - self.likelihood.apply(self.mean)
        root = np.sqrt(np.maximum(prior.spectrum[:2], np.float32(1e-20)))
        cbf, att = prior.levels.down((self.ahead[:2] / root).astype(np.complex64, copy=False))
        return np.stack([cbf - np.float32(prior.coupling) * att, att])

    def start(self, prior: Prior) -> Fourier:
        """Coefficients of the same fields under another prior that has these fields, and more: new ones are 0."""
        known = len(self.u)
        u = self.u * np.sqrt(self.prior.spectrum)
        u[1] -= np.float32(prior.coupling - self.prior.coupling) * u[0]  # so that ATT stays where it was
        u /= np.sqrt(np.maximum(prior.spectrum[:known], np.float32(1e-20)))
        return np.concatenate([u, np.zeros((len(prior.spectrum) - known, *u.shape[1:]), u.dtype)])

    def power(self) -> NDArray[np.float64]:
        """Power of the remainder in the band of every level, of the fields that are everywhere: (F, levels).

        In the marginal likelihood's derivative by a level's variance it stands against its own expectation: where
        data leave more than simulated data do, the variance has to grow.
        """
        prior = self.prior
        return prior.levels.power(prior.spread(self.remainder)[: prior.everywhere])

    def coupling_slope(self) -> tuple[float, float]:
        """Derivative of half the remainder's quadratic form by the coupling, and its scale, in the narrow levels.

        The slow ones are left out, but for those of an image's function: they hold few independent patches to
        correlate, and are the last to converge. A function of depth is left out: ATT follows depth for its own reasons.
        """
        prior, levels, remainder = self.prior, self.prior.levels, self.remainder
        image = None if prior.by_depth else prior.guide
        variances = np.delete(prior.variances[: prior.everywhere], 1, axis=0)[: 1 if image is None else 2]
        variances[0, 0] = variances[0, 2 + NARROW :] = 0

        def cbf_fields(values: Floats) -> Fourier:
            own = values if prior.own is None else prior.own * values
            return levels.up(np.stack([own] if image is None else [own, image * values]))

        of_att = cbf_fields(remainder[1])
        weighted = levels.spectrum(variances) * of_att
        of_both = cbf_fields(remainder[0] + np.float32(prior.coupling) * remainder[1])
        return levels.inner(weighted, of_both), levels.inner(weighted, of_att)


def condition(prior: Prior, likelihood: Likelihood, start: Fourier | None = None, most: int = STEPS) -> Posterior:
    """The posterior's mean by conjugate gradients, from coefficients `start`, in at most so many steps.

    The system is (1 + K^(1/2) A' L A K^(1/2)) u = K^(1/2) A' pull with A = prior.combine, L and pull of the marginal
    likelihood; the preconditioner has `precision_seen` in place of L. It ends when the residual's norm has fallen by
    TOLERANCE.
    """
    levels, root, smooth = prior.levels, np.sqrt(prior.spectrum), likelihood.marginal(prior.alone)
    precondition = 1 / (1 + precision_seen(prior, smooth)[:, None, None, None] * prior.spectrum)

    def system(scaled: Fourier) -> Fourier:
        """K^(-1/2) of the system's second part, of u times K^(1/2)."""
        return levels.up(prior.spread(smooth.apply(prior.combine(levels.down(scaled)))))

    r = root * levels.up(prior.spread(smooth.pull))
    target = TOLERANCE**2 * levels.inner(r, precondition * r)
    u = np.zeros_like(r)
    if start is not None and start.shape == r.shape:
        u = start.copy()
        r -= u + root * system(root * u)
    direction, scaled = np.zeros_like(r), np.empty_like(r)
    flat_root, flat_precondition, weight = _flat(root), _flat(precondition), levels.weight.ravel()
    p, ap = _flat(direction), _flat(np.zeros_like(r))
    rz, slope, done = descend(_flat(u), _flat(r), p, ap, 0.0, flat_precondition, weight), 0.0, 0
    while done < most and rz > target:
        turn(p, _flat(r), flat_precondition, slope, flat_root, _flat(scaled))
        step = rz / finish_system(_flat(system(scaled)), p, flat_root, weight, ap)
        before, rz = rz, descend(_flat(u), _flat(r), p, ap, step, flat_precondition, weight)
        slope = rz / before
        done += 1
    mean = prior.combine(levels.down(root * u))
    own = replace(smooth, precision=prior.alone).apply(smooth.pull - smooth.apply(mean))
    return Posterior(prior, likelihood, u, u + precondition * r, mean + own, done)


def precision_seen(prior: Prior, likelihood: Likelihood) -> Floats:
    """Mean precision (F,) of the data about each field; a region's over the region."""
    cc, ca, aa = likelihood.precision
    cc = cc + np.float32(2 * prior.coupling) * ca + np.float32(prior.coupling**2) * aa
    seen = [(cc if prior.own is None else cc * prior.own**2).mean(), aa.mean()]
    if prior.guide is not None:
        seen.append((cc * prior.guide**2).mean())
    if prior.late is not None:
        seen.append((aa * prior.late**2).mean())
    if prior.region is not None:
        square = prior.region**2
        share = square / max(square.sum(), np.float32(1e-6))
        seen += [(share * square * cc).sum(), (share * square * aa).sum()]
    return np.array(seen, np.float32)


def sample_fields(
    prior: Prior, likelihood: Likelihood, rng: np.random.Generator, start: Fourier | None = None
) -> tuple[Floats, Posterior]:
    """A draw of the fields (F, N) from the prior, and the posterior given data that were simulated from it.

    Its mean minus the draw is distributed as the posterior around its mean (Papandreou and Yuille 2010, "Gaussian
    sampling by local perturbations"): the members of the ensemble.
    """
    white = prior.levels.white(rng, len(prior.variances))
    white[:, 0, 0, 0] = 0  # the broad constant: the data find it whatever it is, the solver only after many steps
    whole = np.maximum(prior.whole, np.float32(1e-30))
    draw = prior.levels.down(np.sqrt(whole) * white)
    pull = likelihood.apply(prior.combine(draw)) + likelihood.noise(rng, prior.levels)
    begun = white * np.sqrt(prior.spectrum / whole) if start is None else start
    return draw, condition(prior, replace(likelihood, pull=pull), begun)


def sample(
    prior: Prior, likelihood: Likelihood, rng: np.random.Generator, start: Fourier | None = None
) -> tuple[Floats, Posterior]:
    """The same with the draw as CBF and ATT (2, N)."""
    draw, posterior = sample_fields(prior, likelihood, rng, start)
    return prior.combine(draw), posterior


def learned(prior: Prior, given: Posterior, simulated: Posterior) -> tuple[NDArray[np.float64], float]:
    """Level variances after a multiplicative step on the marginal likelihood, and a Newton step of the coupling.

    The expectation in its derivative comes from one draw, the same at every iteration, so that the steps settle.
    """
    (slope, _), (chance, scale) = given.coupling_slope(), simulated.coupling_slope()
    step = 1.5 * (slope - chance) / max(scale, 1e-30)
    ratio = np.clip(given.power() / np.maximum(simulated.power(), 1e-30), 0.2, 5.0)
    variances = prior.variances.copy()
    free = variances[: len(ratio), 1:]  # the constant's variance is a fixed, broad prior of the mean
    free[:] = np.where(free > 0, np.maximum(free * ratio[:, 1:] ** 1.5, 1e-6), 0)
    free[:] = np.minimum(free, LARGEST[: len(ratio), None])
    return variances, step


# The vectors of a step are longer than the processor's cache: each of its three passes reads them once. They are taken
# as (F, coefficients, 2) real numbers, which compiles to better loops than complex ones.


def _flat(values: NDArray[Any]) -> Floats:
    """(F, coefficients, 2) of complex coefficients, (F, coefficients) of real ones; the same memory."""
    flat = values.reshape(len(values), -1)
    return flat.view(np.float32).reshape(*flat.shape, 2) if np.iscomplexobj(flat) else flat


@njit(cache=True, nogil=True, fastmath=True)
def descend(u, r, p, ap, step, precondition, weight):
    """u += step p, r -= step ap in place, and the residual's norm r' M r with M the preconditioner."""
    step, total = np.float32(step), 0.0
    for f in range(u.shape[0]):
        for k in range(u.shape[1]):
            square = np.float32(0)
            for c in range(2):
                u[f, k, c] += step * p[f, k, c]
                r[f, k, c] -= step * ap[f, k, c]
                square += r[f, k, c] * r[f, k, c]
            total += weight[k] * precondition[f, k] * square
    return total


@njit(cache=True, nogil=True, fastmath=True)
def turn(p, r, precondition, slope, root, scaled):
    """The next direction p = M r + slope p in place, and p times root."""
    slope = np.float32(slope)
    for f in range(p.shape[0]):
        for k in range(p.shape[1]):
            for c in range(2):
                p[f, k, c] = precondition[f, k] * r[f, k, c] + slope * p[f, k, c]
                scaled[f, k, c] = root[f, k] * p[f, k, c]


@njit(cache=True, nogil=True, fastmath=True)
def finish_system(part, p, root, weight, ap):
    """ap = root part + p, and the inner product of p and ap."""
    total = 0.0
    for f in range(p.shape[0]):
        for k in range(p.shape[1]):
            product = np.float32(0)
            for c in range(2):
                ap[f, k, c] = root[f, k] * part[f, k, c] + p[f, k, c]
                product += p[f, k, c] * ap[f, k, c]
            total += weight[k] * product
    return total

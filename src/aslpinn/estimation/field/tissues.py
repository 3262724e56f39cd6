"""CBF of gray and of white matter as two fields of the same model, where the voxels' shares of both are known.

CBF = p_GM f_GM + p_WM f_WM, and ATT is that of the field plus p_WM times one number for the brain; all through Buxton's
closed form. Against `fit`, the field of CBF has a weight in every voxel, and a second one takes the place of the
guide's. It starts from the field's maps, noise, coupling and region, and learns the variances of the two anew; their
means are free.

White matter also relaxes faster than gray. A map of one CBF a voxel has one T1 for all tissue, and so have the two
fields while they are compared with it; in the end white matter has its own (`Constants.t1_white`). A voxel of both
relaxes at the mean of their rates, weighted by what they add to its CBF: to first order in the difference of the rates
that is the signal of both.

The model knows what the field does not: that CBF changes steeply between tissues. So it also says by how much the mean
of the field's map over a region is off because smoothing has leveled that contrast. For that alone one step of it with
the field's variances is enough (`whole_by_tissues`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .iteration import Brain, FieldFit, FieldRun
from .likelihood import linearize
from .prior import CBF_UNIT, Prior
from .solver import Posterior, condition, learned, sample_fields

Floats = NDArray[np.float64]

#: Most steps of the solver; Gauss-Newton steps that learn variances, after them, and with white matter's own T1.
STEPS, LEARNING, MORE, OWN = 60, 4, 2, 3
SEEDS = 104729  # keeps the members' seeds apart from those of the field
LATER = 0.5  # s, SD of what white matter is fed later than gray, one number for the brain
UNITS = np.array([CBF_UNIT, 1.0])[:, None]


@dataclass(frozen=True)
class Tissues:
    """What the model of two tissues says of N voxels.

    cbf, sd : (2, N)
        CBF of gray and of white matter, per 100 g of it, and their SDs.
    whole : (2, N)
        CBF and ATT of the voxel, with one T1 for all tissue as the map has it.
    errors : (K, 2, N)
        Of `whole`: draws from its posterior around it.
    level_sd : (2, levels + 2)
        SDs of the levels of the two, in ml/100g/min.
    """

    cbf: Floats
    sd: Floats
    whole: Floats
    errors: NDArray[np.float32]
    level_sd: Floats


def fit_tissues(brain: Brain, run: FieldRun, fit: FieldFit, shares: Floats, members: int) -> Tissues:
    """The two fields of CBF by shares (2, N) of gray and white matter; goes on with a field's run that is finished."""
    gray, white = shares.astype(np.float32)
    constants = brain.problem.acquisition.constants
    _make_two(run)
    posterior: Posterior | None = None
    simulated: Posterior | None = None
    for step in range(LEARNING + MORE):
        likelihood = run.likelihood(spread=True)
        prior = _prior(brain, run, shares)
        posterior = condition(prior, likelihood, None if posterior is None else posterior.start(prior), STEPS)
        run.move_to(posterior)
        if step < LEARNING:
            start = None if simulated is None else simulated.u
            _, simulated = sample_fields(prior, likelihood, np.random.default_rng(brain.seed), start)
            run.variances, _ = learned(prior, posterior, simulated)
        brain.report("two tissues")
    assert posterior is not None
    prior, likelihood = posterior.prior, posterior.likelihood
    of_tissue, of_voxel = [], []
    for k in range(members):
        draw, drawn = sample_fields(prior, likelihood, np.random.default_rng([SEEDS, brain.seed, k]))
        of_tissue.append((drawn.fields - draw)[[0, 2]] * CBF_UNIT)
        of_voxel.append((drawn.mean - prior.combine(draw)) * UNITS)
        brain.report(f"two tissues, member {k + 1} of {members}")
    precision = likelihood.precision[0].astype(np.float64) / CBF_UNIT**2
    whole = np.stack([run.cbf, run.att])
    for _ in range(OWN):
        likelihood = run.likelihood(spread=True, relaxation=_relaxation(brain, posterior, shares))
        posterior = condition(prior, likelihood, posterior.start(prior), STEPS)
        run.move_to(posterior)
        brain.report("two tissues, T1 of either")
    squares = np.square(np.array(of_tissue, np.float64)).mean(axis=0)
    variance = [brain.averaged(each, precision * share**2) for each, share in zip(squares, (gray, white), strict=True)]
    # Signal of the same flow where it decays faster: CBF and its error both grow by what is missing.
    variance[1] *= _signal(brain, run, constants.t1_tissue) / _signal(brain, run, constants.t1_white)
    return Tissues(
        cbf=posterior.fields[[0, 2]].astype(np.float64) * CBF_UNIT,
        sd=np.sqrt(variance) * fit.wider[0],
        whole=whole,
        errors=np.array([fit.wider * error for error in of_voxel], np.float32),
        level_sd=CBF_UNIT * np.sqrt(run.variances[[0, 2]]),
    )


def whole_by_tissues(brain: Brain, run: FieldRun, shares: Floats) -> Floats:
    """CBF and ATT (2, N) after one step of the two fields from a field's run that is finished; none are learned."""
    _make_two(run)
    run.move_to(condition(_prior(brain, run, shares), run.likelihood(spread=True)))
    brain.report("two tissues")
    return np.stack([run.cbf, run.att])


def _relaxation(brain: Brain, posterior: Posterior, shares: Floats) -> Floats:
    """1 / T1t in 1/s (N,) of voxels of gray and white matter with the CBF that a posterior says they have."""
    constants = brain.problem.acquisition.constants
    gray, white = shares * np.maximum(posterior.fields[[0, 2]], 0.05)
    part = np.where(shares.sum(axis=0) > 0, white / np.maximum(gray + white, 1e-6), 0.0)
    return np.asarray((1 - part) / constants.t1_tissue + part / constants.t1_white)


def _signal(brain: Brain, run: FieldRun, t1: float) -> Floats:
    """Sum of squares (N,) of the signal of 1 ml/100g/min in tissue of that T1 in s."""
    rate = np.full(len(run.cbf), 1 / t1)
    sums = linearize(run.y, brain.timing, run.cbf, run.att, run.att_sd, relaxation=rate)[1]
    return np.maximum(sums[:, 0], 1e-30)


def _make_two(run: FieldRun) -> None:
    """Means and variances of the two fields, and of how much later white matter is fed, from those of the field."""
    run.mean = np.array([0.0, run.mean[1]])  # a voxel without either tissue has no flow
    region = run.variances[-2:] if run.region is not None else run.variances[:0]
    late = np.zeros((1, run.variances.shape[1]))
    late[0, 0] = LATER**2
    run.variances = np.concatenate([run.variances[:2], run.variances[:1], late, region])


def _prior(brain: Brain, run: FieldRun, shares: Floats) -> Prior:
    gray, white = shares.astype(np.float32)
    member = None if run.region is None else run.region.member.astype(np.float32)
    return Prior(brain.levels, run.variances, white, run.coupling, member, own=gray, late=white)

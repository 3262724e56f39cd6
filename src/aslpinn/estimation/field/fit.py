"""The default estimator: a multiresolution field, linear in its weights, behind Buxton's closed form.

The paper's f_ode is a network on a multiresolution grid encoding. Here its head is linear and its weights Gaussian, one
variance for each level and separate ones for CBF and ATT: in the limit of many random grid origins that is a sum of
stationary Gaussian processes, one a level (`fields.gaussian`). What is left of the fit is physics-informed in
the strict sense, the field can only speak through Buxton's closed form, but it is no longer trained by
stochastic gradient descent: each Gauss-Newton step, Buxton's model linearized by sigma points, is a linear solve by
preconditioned conjugate gradients. The variances of the levels (which say how fine a map the data support), the
coupling of ATT to CBF, the noise level and the weight of outliers are learned from the data by marginal likelihood;
none is set for a data set.

The ensemble are draws from the posterior (each member is the fit of simulated data of its own seed), which give the
SDs. Then every voxel is weighed on its own: it stays with the field, deviates from it, or holds an artery, by evidence
learned over the brain (`mixture`). A guide such as M0, or else depth below the surface of the mask, enters as a
function learned from the ASL data times one more field (`prior`).

A focal region that is fed much later than its surroundings is beyond what one variance for the whole brain allows. It
is looked for, and where the evidence is strong it gets levels of its own (`regions`).

Where delays repeat, the field gives every voxel a noise variance of its own, from the spread of its repeats and of
those around it, the mixture one from those around it. Factors by which whole volumes are off are taken out (`common`),
and the intervals are widened by what is left of them, and by what noise that is correlated between voxels does to the
field. Known limit: without repeats such noise is in part taken for signal and the intervals are too narrow.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FitError
from ...physics import ATT_BOUNDS, CBF_BOUNDS
from ..estimate import ARTERY, AT_BOUND, FLAGS, MISFIT, NOT_CONVERGED, PRIOR_DOMINATED, REGION, Estimate
from ..mixture import Mixture, VoxelMixture
from ..options import FieldOptions
from ..problem import Problem, Request, chi2_quantile
from .common import VolumeFactors, errors_by_factors
from .iteration import AGAIN, MEMBER_SEEDS, STEPS_WITH_REGION, UNITS, Brain, FieldFit, FieldRun
from .prior import CBF_UNIT
from .solver import condition
from .tissues import LEARNING, MORE, OWN, fit_tissues, whole_by_tissues

Floats = NDArray[np.float64]

SETTLED = 5  # iterations before the field is searched for a focal region


def fit_field(problem: Problem, request: Request, options: FieldOptions) -> Estimate:
    """CBF, ATT, their SDs, aBV and flags by the field and the voxel mixture.

    Raises FitError for a result that is not finite.
    """
    arterial, iterations, members = options.arterial, options.iterations, options.members
    if arterial == "auto" and problem.acquisition.crushed:
        arterial = "off"
    began = time.perf_counter()
    total = (1 if arterial == "off" else 2) * (iterations + members) + 1
    if request.tissue is not None:
        total += LEARNING + MORE + OWN + members if request.apart else 1
    counter = iter(range(1, total + 1))

    def report(message: str) -> None:
        request.report(next(counter, total), total, message)

    brain = Brain(problem, request, options, report)
    run, fit, mixture, noise = _passes(brain, arterial, iterations, members, options.regions == "auto")
    here = fit.cbf, fit.att
    common = errors_by_factors(problem, fit.factors, fit.fitted, here, noise, brain.voxel_size)
    maps = _combined(brain, fit, mixture)
    maps[2:] = np.sqrt(maps[2:] ** 2 + np.square(common).sum(axis=0))
    if not (np.isfinite(maps).all() and np.isfinite(mixture.fitted).all()):
        raise FitError("the field's fit is not finite; check the series for extreme values, or use --estimator nlls")
    settings = options.as_dict() | {"arterial": arterial, "guide": request.guide is not None}
    info = _info(brain, fit, mixture, noise) | {"seconds": time.perf_counter() - began}
    cbf, att, cbf_sd, att_sd = maps.astype(np.float32)
    cbf = cbf.clip(-CBF_BOUNDS[1], CBF_BOUNDS[1])  # noise makes it as often too low as too high: no bound at 0
    estimate = problem.estimate("field", cbf, att.clip(*ATT_BOUNDS), cbf_sd, att_sd, settings, info)
    estimate.fitted = problem.volume(mixture.fitted)
    errors = fit.member_errors
    if request.tissue is None:
        estimate.offset = _without_spread(run).astype(np.float32)
    else:
        shares = request.tissue[:, problem.mask]
        if request.apart:
            tissues = fit_tissues(brain, run, fit, shares, members)
            whole, errors = tissues.whole, tissues.errors
            estimate.by_tissue = np.stack([problem.volume(each) for each in (*tissues.cbf, *tissues.sd)])
        else:
            whole = whole_by_tissues(brain, run, shares)
        own = np.stack([fit.cbf, fit.att])  # a voxel that left the field has no part in this
        own += (fit.restore - 1)[:, None] * fit.outside * brain.local(own)
        estimate.offset = (mixture.stay * (own - whole)).astype(np.float32)
        settings["tissue"] = "apart" if request.apart else "bias of means"
    chance = np.random.default_rng([MEMBER_SEEDS, options.seed]).standard_normal((len(errors), len(common)))
    estimate.member_errors = errors + np.tensordot(chance, common, 1).astype(np.float32)
    if mixture.artery_share > 0 or arterial == "on":
        estimate.abv = problem.volume(mixture.abv)
    estimate.flags = problem.volume(_flags(problem, fit, mixture, maps, noise), np.uint8)
    request.report(total, total, "field done")
    return estimate


def _passes(
    brain: Brain, arterial: str, iterations: int, members: int, search: bool
) -> tuple[FieldRun, FieldFit, Mixture, Floats]:
    """Field, then mixture; where arteries or a focal region were found, both again.

    An artery looks like an early region. So where there are arteries the field starts anew on the signals without their
    arterial part, and the region is looked for again; otherwise it goes on with the region. The first time only
    prepares then, and half of the members serve.
    """
    settled, once = SETTLED if search else 0, arterial == "off"
    run = FieldRun(brain, brain.y, brain.start(), VolumeFactors.none(brain.y.shape[1]))
    run.iterate(iterations, settled, insert=once)
    for last in (True,) if once else (False, True):
        fit = run.finish(members if last or run.found is None else max(members // 2, 1))
        one = np.full(len(brain.y), fit.noise_variance)
        noise = one if brain.noise is None else brain.noise
        around = one if brain.noise_around is None else brain.noise_around
        voxels = VoxelMixture(brain.timing, fit.factors.without(brain.y), around, fit.cavity(), arterial, brain.seed)
        voxels.learn()
        mixture = voxels.result()
        arteries = mixture.artery_share > 0
        if last or (run.settled and not (arteries or fit.found)):
            break
        if not (arteries or fit.found):
            run.settle()
            continue
        cbf, att = mixture.mixed(fit.cbf, fit.att)
        start = np.clip(cbf, 1.0, 150.0), np.clip(att, 0.1, 3.0)
        if fit.found and not arteries:
            run.resume(start, fit.found)
            run.iterate(AGAIN, 0, insert=True)
        else:
            arterial_part = mixture.arterial * (1 + fit.factors.mean)
            run = FieldRun(brain, brain.y - arterial_part, start, fit.factors)
            run.iterate(iterations, settled, insert=True)
    return run, fit, mixture, noise


def _combined(brain: Brain, fit: FieldFit, mixture: Mixture) -> Floats:
    """CBF, ATT and their SDs (4, N) over the voxel's explanations, with the contrast that shrinkage took off restored.

    A posterior mean is flatter than the truth: high values come out low and low ones high. Local deviations are
    widened by what their spread and that of their errors say was lost; a focal region is left as it is.
    """
    means, sds = np.array(mixture.mixed(fit.cbf, fit.att)), []
    for mean, own, variance, other, other_variance in zip(
        means, (fit.cbf, fit.att), fit.reported, (mixture.cbf, mixture.att),
        (mixture.cbf_variance, mixture.att_variance), strict=True,
    ):  # fmt: skip
        second = mixture.stay * (variance + own**2) + (1 - mixture.stay) * (other_variance + other**2)
        sds.append(np.sqrt(np.maximum(second - mean**2, 1e-12)))
    lost = (fit.restore - 1)[:, None] * fit.outside * brain.local(means)
    return np.array([*(means + lost), *sds])


def _without_spread(run: FieldRun) -> Floats:
    """By how much CBF and ATT (2, N) are off for the signal's variance that the iterations left out, to first order."""
    assert run.posterior is not None
    known = condition(run.posterior.prior, run.likelihood(spread=True), run.posterior.u, STEPS_WITH_REGION)
    return (run.posterior.mean - known.mean).astype(np.float64) * UNITS[:, None]


def _flags(problem: Problem, fit: FieldFit, mixture: Mixture, maps: Floats, noise: Floats) -> NDArray[np.uint8]:
    bounds = np.array([CBF_BOUNDS, ATT_BOUNDS])
    outside = ((maps[:2] <= bounds[:, :1]) | (maps[:2] >= bounds[:, 1:])).any(axis=0)
    sds = np.sqrt(fit.covariance[[0, 2]])
    little = (sds > 0.7 * fit.prior_sd[:, None]).any(axis=0)
    moved = (np.abs(fit.change) > 0.5 * sds).any(axis=0)
    squares = (problem.counts * np.square(fit.factors.without(problem.signal) - mixture.fitted)).sum(axis=1)
    misfit = squares > noise * chi2_quantile(0.999, problem.signal.shape[1])
    flags = np.zeros(maps.shape[1], np.uint8)
    for bit, where in (
        (AT_BOUND, outside),
        (PRIOR_DOMINATED, little & (mixture.stay > 0.5)),
        (NOT_CONVERGED, moved),
        (MISFIT, misfit),
        (ARTERY, mixture.artery > 0.5),
        (REGION, fit.outside < 0.5),
    ):
        flags[where] |= bit
    return flags


def _info(brain: Brain, fit: FieldFit, mixture: Mixture, noise: Floats) -> dict[str, Any]:
    """What was learned; level SDs of CBF, the guide and a region in ml/100g/min, of ATT in s."""
    names = ["constant", "voxel", *(f"{width:.3g} mm" for width in brain.levels.widths)]
    rows = {"cbf": CBF_UNIT, "att": 1.0, "guide": CBF_UNIT}
    if fit.region is not None:
        rows |= {"region cbf": CBF_UNIT, "region att": 1.0}
    return {
        "noise_sd": float(np.sqrt(np.median(noise))),
        "volume_sd": fit.factors.sd,
        "coupling": fit.prior.coupling / CBF_UNIT,
        "student_freedom": fit.freedom,
        "contrast_restored": [float(v) for v in fit.restore],
        "level_sd": {
            row: dict(zip(names, (unit * np.sqrt(values)).tolist(), strict=True))
            for (row, unit), values in zip(rows.items(), fit.prior.variances, strict=True)
        },
        "units": {
            "coupling": "s per ml/100g/min",
            "level_sd": {row: "s" if unit == 1.0 else "ml/100g/min" for row, unit in rows.items()},
        },
        "scale_shares": mixture.scale_share.tolist(),
        "artery_share": mixture.artery_share,
        "abv_sd": mixture.abv_sd,
        "region_voxels": 0 if fit.region is None else fit.region.voxels,
        "region_evidence": 0.0 if fit.region is None else fit.region.evidence,
        "solver_iterations": fit.steps,
        "flags_legend": {str(bit): meaning for bit, meaning in FLAGS.items()},
    }

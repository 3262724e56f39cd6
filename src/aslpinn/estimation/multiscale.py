"""The default estimator: a multiresolution field, linear in its weights, behind Buxton's closed form.

The paper's f_ode is a network on a multiresolution grid encoding. Here its head is linear and its weights Gaussian, one
variance for each level and separate ones for CBF and ATT: in the limit of many random grid origins that is a sum of
stationary Gaussian processes, one a level (`fields.multiscale`). What is left of the fit is physics-informed in
the strict sense, the field can only speak through Buxton's closed form, but it is no longer trained by
stochastic gradient descent: each Gauss-Newton step, Buxton's model linearized by sigma points, is a linear solve by
preconditioned conjugate gradients. The variances of the levels (which say how fine a map the data support), the
coupling of ATT to CBF, the noise level and the weight of outliers are learned from the data by marginal likelihood;
none is set for a data set.

The ensemble are draws from the posterior (each member is the fit of simulated data of its own seed), which give the
SDs. Then every voxel is weighed on its own: it stays with the field, deviates from it, or holds an artery, by evidence
learned over the brain (`voxel_mixture`). A guide such as M0, or else depth below the surface of the mask, enters
as a function learned from the ASL data times one more field; where CBF does not follow it, that field's variance goes
to zero (`guide`).

A focal region that is fed much later than its surroundings is beyond what one variance for the whole brain allows. It
is looked for, and where the evidence is strong it gets levels of its own (`regions`).

Known limit: noise that is correlated between voxels is in part taken for signal, and the intervals are too narrow then.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FitError, InputError
from ..fields.multiscale import LEVELS
from ..physics import ATT_BOUNDS, CBF_BOUNDS
from .estimate import Estimate
from .multiscale_field import FieldEstimator, FieldFit
from .multiscale_run import AGAIN, FieldRun
from .problem import Problem, Request, chi2_quantile
from .voxel_mixture import Mixture, VoxelMixture

Floats = NDArray[np.float64]

ARTERIAL = ("auto", "on", "off")
REGIONS = ("auto", "off")
MEMBERS = 8
SETTLED = 5  # iterations before the field is searched for a focal region
AT_BOUND, PRIOR_DOMINATED, NOT_CONVERGED, MISFIT, ARTERY, REGION = 1, 2, 4, 8, 16, 32
FLAGS = {
    AT_BOUND: "CBF or ATT at a physiological bound",
    PRIOR_DOMINATED: "the data narrow CBF or ATT by less than 30 % from its spread over the brain",
    NOT_CONVERGED: "CBF or ATT still changed by more than half an SD in the last iteration",
    MISFIT: "residual above the 99.9th percentile of noise",
    ARTERY: "an artery passes (probability above 0.5)",
    REGION: "in a focal region whose arrival is not that of its surroundings (probability above 0.5)",
}


@dataclass
class _Maps:
    cbf: Floats
    att: Floats
    cbf_sd: Floats
    att_sd: Floats


def fit_multiscale(
    problem: Problem,
    request: Request,
    *,
    arterial: str = "auto",
    regions: str = "auto",
    levels: int = LEVELS,
    iterations: int = 7,
) -> Estimate:
    """CBF, ATT, their SDs, aBV and flags by the multiscale field and the voxel mixture.

    Parameters
    ----------
    arterial : str
        auto (an arterial component where there is evidence for arteries), on, or off.
    regions : str
        auto (levels of its own for a focal region where there is evidence for one), or off.
    levels, iterations : int
        Gaussian levels of the field; Gauss-Newton iterations.

    Raises
    ------
    InputError
        An option that is out of range, or a series of label minus control.
    FitError
        A result that is not finite.
    """
    members = MEMBERS if request.members is None else request.members
    _check(arterial, regions, levels, iterations, members)
    _check_sign(problem)
    began = time.perf_counter()
    passes = 1 if arterial == "off" else 2
    total = passes * (iterations + members) + 1
    counter = iter(range(1, total + 1))

    def report(message: str) -> None:
        request.report(next(counter, total), total, message)

    owner = FieldEstimator(problem, request.voxel_size, request.guide, levels, request.seed, report)
    fit, mixture, noise = _passes(
        owner, problem.signal.astype(np.float64), arterial, iterations, members, regions == "auto"
    )
    maps = _combine(owner, fit, mixture)
    if not all(np.isfinite(v).all() for v in (maps.cbf, maps.att, maps.cbf_sd, maps.att_sd, mixture.fitted)):
        raise FitError("the field's fit is not finite; check the series for extreme values, or use --estimator nlls")
    settings = {
        "preset": request.preset, "seed": request.seed, "members": members, "levels": levels,
        "iterations": iterations, "arterial": arterial, "regions": regions, "guide": request.guide is not None,
    }  # fmt: skip
    info = _info(owner, fit, mixture, noise) | {"seconds": time.perf_counter() - began}
    estimate = problem.estimate("pinn", *_clipped(maps), settings, info)
    estimate.fitted = problem.volume(mixture.fitted)
    estimate.member_errors = fit.member_errors
    if mixture.artery_share > 0 or arterial == "on":
        estimate.abv = problem.volume(mixture.abv)
    estimate.flags = problem.volume(_flags(problem, fit, mixture, maps, noise), np.uint8)
    request.report(total, total, "field done")
    return estimate


def _check(arterial: str, regions: str, levels: int, iterations: int, members: Any) -> None:
    if arterial not in ARTERIAL:
        raise InputError(f"arterial is {arterial!r}; expected one of {', '.join(ARTERIAL)}")
    if regions not in REGIONS:
        raise InputError(f"regions is {regions!r}; expected one of {', '.join(REGIONS)}")
    for name, value, low, high in (
        ("levels", levels, 1, 12),
        ("iterations", iterations, 2, 100),
        ("members", members, 1, 1000),
    ):
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"{name} is {value!r}; expected a whole number")
        if not low <= value <= high:
            raise InputError(f"{name} is {value}; expected {low} to {high}")


def _check_sign(problem: Problem) -> None:
    mean = problem.signal.mean(axis=1, dtype=np.float64)
    if np.mean(mean < 0) > 0.9:
        raise InputError(
            f"the mean signal is negative in {100 * np.mean(mean < 0):.0f} % of the mask's voxels; expected control "
            "minus label: is label minus control given for control minus label?"
        )


def _passes(
    owner: FieldEstimator, y: Floats, arterial: str, iterations: int, members: int, search: bool
) -> tuple[FieldFit, Mixture, float]:
    """Field, then mixture; where arteries or a focal region were found, both again.

    An artery looks like an early region. So where there are arteries the field starts anew on the signals without their
    arterial part, and the region is looked for again; otherwise it goes on with the region. The first time only
    prepares then, and half of the members serve.
    """
    repeats = repeat_noise(owner.problem)
    settled, once = SETTLED if search else 0, arterial == "off"
    run = FieldRun(owner, y, owner.start())
    run.iterate(iterations, settled, insert=once)
    for last in (True,) if once else (False, True):
        fit = run.finish(members if last or run.found is None else max(members // 2, 1))
        noise = fit.noise_variance if repeats is None else repeats
        voxels = VoxelMixture(owner, fit, y, noise, arterial)
        voxels.learn()
        mixture = voxels.result()
        arteries = mixture.artery_share > 0
        if last or not (arteries or fit.found):
            break
        stay = mixture.stay
        cbf = stay * fit.cbf + (1 - stay) * mixture.cbf
        att = stay * fit.att + (1 - stay) * mixture.att
        start = np.clip(cbf, 1.0, 150.0), np.clip(att, 0.1, 3.0)
        if fit.found and not arteries:
            run.resume(start, fit.found)
            run.iterate(AGAIN, 0, insert=True)
        else:
            run = FieldRun(owner, y - mixture.arterial, start)
            run.iterate(iterations, settled, insert=True)
    return fit, mixture, noise


def repeat_noise(problem: Problem) -> float | None:
    """Noise variance of one volume from the spread between repeats; None without at least one repeat for every pair.

    The median over voxels against its chi-square median: pulsation and motion of some voxels do not raise it.
    """
    freedom = len(problem.pair) - len(problem.counts)
    if freedom < len(problem.counts) or problem.counts.min() < 2:
        return None
    squares = np.square(problem.volumes - problem.signal[:, problem.pair]).sum(axis=1, dtype=np.float64)
    value = float(np.median(squares) / chi2_quantile(0.5, freedom))
    return value if value > 0 else None


def _combine(owner: FieldEstimator, fit: FieldFit, mixture: Mixture) -> _Maps:
    """Means and SDs over the voxel's explanations, with the contrast that shrinkage took off restored.

    A posterior mean is flatter than the truth: high values come out low and low ones high. Local deviations are
    widened by what their spread and that of their errors say was lost; a focal region is left as it is.
    """
    stay, leave = mixture.stay, 1 - mixture.stay
    cbf = stay * fit.cbf + leave * mixture.cbf
    att = stay * fit.att + leave * mixture.att
    cbf_second = stay * (fit.reported[0] + fit.cbf**2) + leave * (mixture.cbf_variance + mixture.cbf**2)
    att_second = stay * (fit.reported[1] + fit.att**2) + leave * (mixture.att_variance + mixture.att**2)
    maps = []
    for values, second, factor in ((cbf, cbf_second, fit.restore[0]), (att, att_second, fit.restore[1])):
        lost = (factor - 1) * fit.outside * owner.local(values[None])[0]
        maps += [values + lost, np.sqrt(np.maximum(second - values**2, 1e-12))]
    return _Maps(maps[0], maps[2], maps[1], maps[3])


def _clipped(maps: _Maps) -> tuple[Any, Any, Any, Any]:
    cbf = np.clip(maps.cbf, *CBF_BOUNDS).astype(np.float32)
    att = np.clip(maps.att, *ATT_BOUNDS).astype(np.float32)
    return cbf, att, maps.cbf_sd.astype(np.float32), maps.att_sd.astype(np.float32)


def _flags(problem: Problem, fit: FieldFit, mixture: Mixture, maps: _Maps, noise: float) -> NDArray[np.uint8]:
    outside = (maps.cbf <= CBF_BOUNDS[0]) | (maps.cbf >= CBF_BOUNDS[1])
    outside |= (maps.att <= ATT_BOUNDS[0]) | (maps.att >= ATT_BOUNDS[1])
    little = (np.sqrt(fit.covariance[[0, 2]]) > 0.7 * fit.prior_sd[:, None]).any(axis=0)
    moved = (np.abs(fit.change) > 0.5 * np.sqrt(fit.covariance[[0, 2]])).any(axis=0)
    squares = (problem.counts * np.square(problem.signal - mixture.fitted)).sum(axis=1)
    misfit = squares > noise * chi2_quantile(0.999, problem.signal.shape[1])
    flags = np.zeros(len(maps.cbf), np.uint8)
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


def _info(owner: FieldEstimator, fit: FieldFit, mixture: Mixture, noise: float) -> dict[str, Any]:
    names = ["constant", "voxel", *(f"{width:.3g} mm" for width in owner.field.widths)]
    rows = ["cbf", "att", "guide"]
    if fit.region is not None:
        rows += ["region cbf", "region att"]
    return {
        "noise_sd": float(np.sqrt(noise)),
        "coupling": fit.coupling,
        "student_freedom": fit.freedom,
        "contrast_restored": [float(v) for v in fit.restore],
        "level_sd": {
            row: dict(zip(names, np.sqrt(values).tolist(), strict=True))
            for row, values in zip(rows, fit.variances, strict=True)
        },
        "scale_shares": mixture.scale_share.tolist(),
        "artery_share": mixture.artery_share,
        "abv_sd": mixture.abv_sd,
        "region_voxels": 0 if fit.region is None else fit.region.voxels,
        "region_evidence": 0.0 if fit.region is None else fit.region.evidence,
        "solver_iterations": fit.iterations,
        "flags_legend": {str(bit): meaning for bit, meaning in FLAGS.items()},
    }

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
learned over the brain (`voxel_mixture`). A guide, such as M0, enters as a function learned from the ASL data times one
more field; where CBF does not follow the image, that field's variance goes to zero.

Known limits: a focal region that is much later than all else (ATT +0.9 s) keeps about two thirds of its ATT contrast;
noise that is correlated between voxels is in part taken for signal, and the intervals are too narrow then.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from ..errors import FitError, InputError
from ..fields.multiscale import LEVELS
from ..physics import ATT_BOUNDS, CBF_BOUNDS
from .estimate import Estimate
from .multiscale_field import FieldEstimator, FieldFit
from .problem import Problem, Request
from .voxel_mixture import Mixture, VoxelMixture

Floats = NDArray[np.float64]

ARTERIAL = ("auto", "on", "off")
MEMBERS = 8
AT_BOUND, PRIOR_DOMINATED, NOT_CONVERGED, MISFIT, ARTERY = 1, 2, 4, 8, 16
FLAGS = {
    AT_BOUND: "CBF or ATT at a physiological bound",
    PRIOR_DOMINATED: "the data narrow CBF or ATT by less than 30 % from its spread over the brain",
    NOT_CONVERGED: "CBF or ATT still changed by more than half an SD in the last iteration",
    MISFIT: "residual above the 99.9th percentile of noise",
    ARTERY: "an artery passes (probability above 0.5)",
}


@dataclass
class _Maps:
    cbf: Floats
    att: Floats
    cbf_sd: Floats
    att_sd: Floats


def fit_multiscale(
    problem: Problem, request: Request, *, arterial: str = "auto", levels: int = LEVELS, iterations: int = 7
) -> Estimate:
    """CBF, ATT, their SDs, aBV and flags by the multiscale field and the voxel mixture.

    Parameters
    ----------
    arterial : str
        auto (an arterial component where there is evidence for arteries), on, or off.
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
    _check(arterial, levels, iterations, members)
    _check_sign(problem)
    began = time.perf_counter()
    passes = 1 if arterial == "off" else 2
    total = passes * (iterations + members) + 1
    counter = iter(range(1, total + 1))

    def report(message: str) -> None:
        request.report(next(counter, total), total, message)

    owner = FieldEstimator(problem, request.voxel_size, request.guide, levels, request.seed, members, report)
    fit, mixture, noise = _passes(owner, problem.signal.astype(np.float64), arterial, iterations, passes)
    maps = _combine(owner, fit, mixture)
    if not all(np.isfinite(v).all() for v in (maps.cbf, maps.att, maps.cbf_sd, maps.att_sd, mixture.fitted)):
        raise FitError("the field's fit is not finite; check the series for extreme values, or use --estimator nlls")
    settings = {
        "preset": request.preset, "seed": request.seed, "members": members, "levels": levels,
        "iterations": iterations, "arterial": arterial, "guide": request.guide is not None,
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


def _check(arterial: str, levels: int, iterations: int, members: Any) -> None:
    if arterial not in ARTERIAL:
        raise InputError(f"arterial is {arterial!r}; expected one of {', '.join(ARTERIAL)}")
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
    owner: FieldEstimator, y: Floats, arterial: str, iterations: int, passes: int
) -> tuple[FieldFit, Mixture, float]:
    """Field, then mixture; where arteries were found, both again on the signals without the arterial part."""
    repeats = repeat_noise(owner.problem)
    start, rest = owner.start(), y
    before = None
    for done in range(passes):
        fit = owner.fit(rest, start, iterations, before)
        noise = fit.noise_variance if repeats is None else repeats
        voxels = VoxelMixture(owner, fit, y, noise, arterial)
        voxels.learn()
        mixture = voxels.result()
        if mixture.artery_share == 0 or done + 1 == passes:
            break
        rest, stay = y - mixture.arterial, mixture.stay
        cbf = stay * fit.cbf + (1 - stay) * mixture.cbf
        att = stay * fit.att + (1 - stay) * mixture.att
        start = np.clip(cbf, 1.0, 150.0), np.clip(att, 0.1, 3.0)
    return fit, mixture, noise


def repeat_noise(problem: Problem) -> float | None:
    """Noise variance of one volume from the spread between repeats; None without at least one repeat for every pair.

    The median over voxels against its chi-square median: pulsation and motion of some voxels do not raise it.
    """
    freedom = len(problem.pair) - len(problem.counts)
    if freedom < len(problem.counts) or problem.counts.min() < 2:
        return None
    squares = np.square(problem.volumes - problem.signal[:, problem.pair]).sum(axis=1, dtype=np.float64)
    value = float(np.median(squares) / chi2.median(freedom))
    return value if value > 0 else None


def _combine(owner: FieldEstimator, fit: FieldFit, mixture: Mixture) -> _Maps:
    """Means and SDs over the voxel's explanations, with the contrast that shrinkage took off restored.

    A posterior mean is flatter than the truth: high values come out low and low ones high. Local
    deviations are widened by the factor that makes draws of the model and their estimates equally wide; what a guide
    carries is not shrunk and is left as it is.
    """
    stay, leave = mixture.stay, 1 - mixture.stay
    cbf = stay * fit.cbf + leave * mixture.cbf
    att = stay * fit.att + leave * mixture.att
    cbf_second = stay * (fit.reported[0] + fit.cbf**2) + leave * (mixture.cbf_variance + mixture.cbf**2)
    att_second = stay * (fit.reported[1] + fit.att**2) + leave * (mixture.att_variance + mixture.att**2)
    maps = []
    for values, second, factor in ((cbf, cbf_second, fit.restore[0]), (att, att_second, fit.restore[1])):
        maps += [values + (factor - 1) * owner.local(values[None])[0], np.sqrt(np.maximum(second - values**2, 1e-12))]
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
    misfit = squares > noise * chi2.ppf(0.999, problem.signal.shape[1])
    flags = np.zeros(len(maps.cbf), np.uint8)
    for bit, where in (
        (AT_BOUND, outside),
        (PRIOR_DOMINATED, little & (mixture.stay > 0.5)),
        (NOT_CONVERGED, moved),
        (MISFIT, misfit),
        (ARTERY, mixture.artery > 0.5),
    ):
        flags[where] |= bit
    return flags


def _info(owner: FieldEstimator, fit: FieldFit, mixture: Mixture, noise: float) -> dict[str, Any]:
    names = ["constant", "voxel", *(f"{width:.3g} mm" for width in owner.field.widths)]
    rows = ["cbf", "att", "guide"][: len(fit.variances)]
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
        "solver_iterations": fit.iterations,
        "flags_legend": {str(bit): meaning for bit, meaning in FLAGS.items()},
    }

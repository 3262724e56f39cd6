"""Compiled residuals: Buxton's solution with its derivatives, and the three objectives, on blocks of LANES samples.

The same formulas as `aslpinn.physics.kinetics` and `objectives`, which tests compare them with. Signals are scaled.
"""

from __future__ import annotations

from typing import Any

from numba import njit
from numba.extending import register_jitable

from ...fields.compiled import KERNEL, LANES, decay, f32
from ...physics import Constants
from ...physics.kinetics import Factors, Formulas, factors, formulas


def physics_of(constants: Constants, scale: float) -> Factors:
    """The factors of `physics.kinetics` for signals scaled by `scale`, in single precision."""
    return Factors(*map(f32, factors(constants, scale)))  # type: ignore[arg-type]


@register_jitable
def exponential(x: Any) -> Any:
    """Return exp(x) of x <= 0."""
    return decay(-x)


@register_jitable
def positive(x: Any, width: Any) -> Any:
    """A sharp edge's positive part."""
    return max(x, f32(0.0))


@register_jitable
def step(x: Any, width: Any) -> Any:
    """Its derivative."""
    return f32(1.0) if x > f32(0.0) else f32(0.0)


@register_jitable
def bend(x: Any, width: Any) -> Any:
    """Its second derivative, but for the infinite value at 0."""
    return f32(0.0)


@register_jitable
def softplus(x: Any, width: Any) -> Any:
    """Return a soft edge's positive part, width * log(1 + exp(x / width)), within 2e-7 of width.

    It is max(x, 0) + width * log(1 + e), e = exp(-|x| / width); log(1 + e) is a polynomial fitted on [0, 1].
    """
    e = decay(abs(x / width))
    log = f32(-0.0064527555)
    log = log * e + f32(0.036085106)
    log = log * e + f32(-0.09532347)
    log = log * e + f32(0.16764872)
    log = log * e + f32(-0.24073118)
    log = log * e + f32(0.33179837)
    log = log * e + f32(-0.49987406)
    log = log * e + f32(0.9999964)
    return max(x, f32(0.0)) + width * (log * e)


@register_jitable
def logistic(x: Any, width: Any) -> Any:
    """Return its derivative, 1 / (1 + exp(-x / width))."""
    e = decay(abs(x / width))
    return (f32(1.0) if x > f32(0.0) else e) / (f32(1.0) + e)


@register_jitable
def logistic_slope(x: Any, width: Any) -> Any:
    """Return its second derivative."""
    e = decay(abs(x / width))
    share = f32(1.0) / (f32(1.0) + e)
    return e * share * share / width


# Not cached: what calls them is, with them inside.
INSIDE_KERNEL = {name: value for name, value in KERNEL.items() if name != "cache"}
sharp = formulas(exponential, positive, step, bend, compiled=njit(**INSIDE_KERNEL))
soft = formulas(exponential, softplus, logistic, logistic_slope, compiled=njit(**INSIDE_KERNEL))
inflow, signal_slopes = sharp.inflow, sharp.signal_slopes

#: Rows of a block's samples, LANES values each: what they are, then gradients.
CBF, ATT, PLD, TAU, SLOPE, MEASURED, WEIGHT, INSIDE, TIME, G_CBF, G_ATT, G_FITTED = (row * LANES for row in range(12))
#: Rows of what `solution` or `rates` finds: a value (S, dS/dt or the inflow), its slopes by CBF and ATT; 1/T1'.
VALUE, BY_CBF, BY_ATT, RATE = (row * LANES for row in range(4))
#: Rows of f_tissue's outputs: signal, its rate, gradients of both.
FITTED, FITTED_RATE, G_OUT, G_OUT_RATE = (row * 2 * LANES for row in range(4))


@njit(**KERNEL)
def solution(lane: Any, of: Any, model: Any) -> None:
    """Write Buxton's solution at the samples in lane, with its slopes by CBF and ATT, into the rows of model."""
    for s in range(LANES):
        cbf, att, tau = lane[CBF + s], lane[ATT + s], lane[TAU + s]
        rate = of.tissue_rate + cbf * of.rate_per_cbf
        found = signal_slopes(cbf, inflow(att, of), lane[PLD + s] + tau - att, tau, rate, of, f32(0.0))
        model[VALUE + s], model[BY_CBF + s], model[BY_ATT + s] = found


def _rates(use: Formulas) -> Any:
    growing_slopes, entering_slopes = use.growing_slopes, use.entering_slopes

    @njit(**INSIDE_KERNEL)
    def rates(lane: Any, of: Any, ode: bool, width: Any, model: Any) -> None:
        for s in range(LANES):
            cbf, att, tau, slope = lane[CBF + s], lane[ATT + s], lane[TAU + s], lane[SLOPE + s]
            rate, since = of.tissue_rate + cbf * of.rate_per_cbf, lane[PLD + s] + tau - att
            if ode:
                found = entering_slopes(cbf, inflow(att, of), since, tau, slope, rate, of, width)
            else:
                found = growing_slopes(cbf, inflow(att, of), since, tau, slope, rate, of, width)
            model[VALUE + s], model[BY_CBF + s], model[BY_ATT + s] = found
            model[RATE + s] = rate

    return rates


sharp_rates, soft_rates = _rates(sharp), _rates(soft)


@njit(**KERNEL)
def rates(lane: Any, of: Any, ode: bool, width: Any, model: Any) -> None:
    """The same of the solution's time derivative, or of the inflow of the ODE, and 1/T1'; width: of the edges, in s."""
    if width > f32(0.0):
        soft_rates(lane, of, ode, width, model)
    else:
        sharp_rates(lane, of, ode, width, model)


@njit(**KERNEL)
def closed_form_residual(lane: Any, model: Any, factor: Any, g_cbf: Any, g_att: Any) -> Any:
    """Add the gradients of factor * sum(weight * (S - measured)^2) of a block; return the plain sum."""
    total = f32(0.0)
    for s in range(LANES):
        error = model[VALUE + s] - lane[MEASURED + s]
        total += lane[WEIGHT + s] * error * error
        g = f32(2.0) * factor * lane[WEIGHT + s] * error
        g_cbf[s] += g * model[BY_CBF + s]
        g_att[s] += g * model[BY_ATT + s]
    return total


@njit(**KERNEL)
def data_residual(lane: Any, factor: Any, out: Any) -> Any:
    """The same for f_tissue: write the gradient of its output."""
    total = f32(0.0)
    for s in range(LANES):
        error = out[FITTED + s] - lane[MEASURED + s]
        total += lane[WEIGHT + s] * error * error
        out[G_OUT + s] = f32(2.0) * factor * lane[WEIGHT + s] * error
    return total


@njit(**KERNEL)
def rate_residual(lane: Any, model: Any, factor: Any, unit: Any, of: Any, ode: bool, out: Any) -> Any:
    """The pointwise objective (`objectives.pointwise`): add to G_OUT, write the other gradients, return the sum.

    P is the value of the model, and with `ode` what decays of f_tissue's signal taken off; unit: s in the unit of t.
    """
    total = f32(0.0)
    for s in range(LANES):
        decaying = model[RATE + s] if ode else f32(0.0)
        fitted = out[FITTED + s]
        error = (out[FITTED_RATE + s] - unit * (model[VALUE + s] - fitted * decaying)) * lane[INSIDE + s]
        total += error * error
        g = f32(2.0) * factor * error
        out[G_OUT_RATE + s] = g
        g *= -unit
        out[G_OUT + s] -= g * decaying
        through = fitted * of.rate_per_cbf if ode else f32(0.0)
        lane[G_CBF + s] = g * (model[BY_CBF + s] - through)
        lane[G_ATT + s] = g * model[BY_ATT + s]
    return total


@njit(**KERNEL)
def increment_residual(lane: Any, model: Any, voxels: int, times: int, factor: Any, order: Any, out: Any) -> Any:
    """The increments objective (`objectives.increments`): add to G_OUT, write the other gradients, return the sum.

    The samples of a voxel are `times` lanes side by side; order (times,) is room for sorting them by t.
    """
    total = f32(0.0)
    lane[G_FITTED : G_FITTED + LANES] = f32(0.0)
    for voxel in range(voxels):
        start = voxel * times
        for k in range(times):
            t, place = lane[TIME + start + k], k
            while place > 0 and lane[TIME + start + order[place - 1]] > t:
                order[place] = order[place - 1]
                place -= 1
            order[place] = k
        early = start + order[0]
        before = out[FITTED + early] - model[VALUE + early]
        for k in range(1, times):
            late = start + order[k]
            after = out[FITTED + late] - model[VALUE + late]
            step = after - before
            total += step * step
            lane[G_FITTED + late] += f32(2.0) * factor * step
            lane[G_FITTED + early] -= f32(2.0) * factor * step
            early, before = late, after
    for s in range(LANES):
        g = lane[G_FITTED + s]
        out[G_OUT + s] += g
        lane[G_CBF + s] = -g * model[BY_CBF + s]
        lane[G_ATT + s] = -g * model[BY_ATT + s]
    return total

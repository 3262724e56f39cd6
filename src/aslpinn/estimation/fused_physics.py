"""Compiled residuals: Buxton's solution with its derivatives, and the three objectives, on blocks of LANES samples.

The same formulas as `aslpinn.physics.kinetics` and `objectives`, which tests compare them with. Signals are scaled.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import njit

from ..fields.fused import KERNEL, LANES, decay, f32
from ..physics import Constants
from ..physics.constants import CBF_PER_FLOW


class Physics(NamedTuple):
    """Constants of the model, as the kernels want them."""

    height: float  # scale * 2 * efficiency / CBF_PER_FLOW: signal of a full, undecayed bolus, per ml/100g/min and s
    blood_rate: float  # 1 / T1 blood
    tissue_rate: float  # 1 / T1 tissue
    rate_per_cbf: float  # d(1 / T1') / d cbf


def physics_of(constants: Constants, scale: float) -> Physics:
    """The factors of `buxton` for signals scaled by `scale`."""
    per_cbf = 1.0 / (CBF_PER_FLOW * constants.partition_coefficient)
    height = scale * 2.0 * constants.efficiency / CBF_PER_FLOW
    return Physics(height, 1.0 / constants.t1_blood, 1.0 / constants.t1_tissue, per_cbf)


#: Rows of a block's samples, LANES values each: what they are, then gradients.
CBF, ATT, PLD, TAU, SLOPE, MEASURED, WEIGHT, INSIDE, TIME, G_CBF, G_ATT, G_FITTED = (row * LANES for row in range(12))
#: Rows of what `buxton` finds: signal S, dS/dcbf, dS/datt; inflow I, dI/dcbf, dI/datt; 1/T1'.
SIGNAL, SIGNAL_CBF, SIGNAL_ATT, INFLOW, INFLOW_CBF, INFLOW_ATT, RATE = (row * LANES for row in range(7))
#: Rows of f_tissue's outputs: signal, its rate, gradients of both.
FITTED, FITTED_RATE, G_OUT, G_OUT_RATE = (row * 2 * LANES for row in range(4))


@njit(**KERNEL)
def buxton(lane: Any, physics: Any, model: Any) -> None:
    """Write Buxton's solution and its inflow at the samples in lane, with derivatives, into the rows of model.

    dS/dt = I - S / T1' (`delta_m_ode`); I is what arrives, and what a longer bolus adds after its end.
    """
    height, blood, per_cbf = f32(physics.height), f32(physics.blood_rate), f32(physics.rate_per_cbf)
    tissue = f32(physics.tissue_rate)
    for s in range(LANES):
        cbf, att, tau, slope = lane[CBF + s], lane[ATT + s], lane[TAU + s], lane[SLOPE + s]
        rate = tissue + cbf * per_cbf
        entering = height * decay(att * blood)  # K / T1' a unit of CBF
        since = lane[PLD + s] + tau - att
        inflow = min(max(since, f32(0.0)), tau)
        outflow = max(since - tau, f32(0.0))
        left, kept = decay(inflow * rate), decay(outflow * rate)
        arriving = f32(1.0) if since > f32(0.0) and since <= tau else f32(0.0)
        after = f32(1.0) if since > tau else f32(0.0)
        level = cbf * entering / rate  # K
        signal = level * (f32(1.0) - left) * kept
        per_flow = (f32(1.0) - left) * kept * entering * tissue / (rate * rate)
        model[SIGNAL + s] = signal
        model[SIGNAL_CBF + s] = per_flow + per_cbf * (level * kept * inflow * left - outflow * signal)
        model[SIGNAL_ATT + s] = (rate * after - blood) * signal - level * kept * rate * left * arriving
        lengthening = after * kept * slope
        model[INFLOW + s] = cbf * entering * (arriving + lengthening)
        model[INFLOW_CBF + s] = entering * (arriving + lengthening - cbf * lengthening * outflow * per_cbf)
        model[INFLOW_ATT + s] = cbf * entering * (rate * lengthening - blood * (arriving + lengthening))
        model[RATE + s] = rate


@njit(**KERNEL)
def closed_form_residual(lane: Any, model: Any, factor: Any, g_cbf: Any, g_att: Any) -> Any:
    """Add the gradients of factor * sum(weight * (S - measured)^2) of a block; return the plain sum."""
    total = f32(0.0)
    for s in range(LANES):
        error = model[SIGNAL + s] - lane[MEASURED + s]
        total += lane[WEIGHT + s] * error * error
        g = f32(2.0) * factor * lane[WEIGHT + s] * error
        g_cbf[s] += g * model[SIGNAL_CBF + s]
        g_att[s] += g * model[SIGNAL_ATT + s]
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
def rate_residual(lane: Any, model: Any, factor: Any, unit: Any, physics: Any, ode: bool, out: Any) -> Any:
    """The pointwise objective (`objectives.pointwise`): add to G_OUT, write the other gradients, return the sum.

    unit: s in the unit of t.
    """
    total, per_cbf = f32(0.0), f32(physics.rate_per_cbf)
    for s in range(LANES):
        rate = model[RATE + s]
        signal = out[FITTED + s] if ode else model[SIGNAL + s]
        error = (out[FITTED_RATE + s] - unit * (model[INFLOW + s] - signal * rate)) * lane[INSIDE + s]
        total += error * error
        g = f32(2.0) * factor * error
        out[G_OUT_RATE + s] = g
        g *= -unit
        through = g * rate  # of -S / T1', through f_tissue or through Buxton's solution
        out[G_OUT + s] -= through if ode else f32(0.0)
        through = f32(0.0) if ode else through
        lane[G_CBF + s] = g * (model[INFLOW_CBF + s] - signal * per_cbf) - through * model[SIGNAL_CBF + s]
        lane[G_ATT + s] = g * model[INFLOW_ATT + s] - through * model[SIGNAL_ATT + s]
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
        before = out[FITTED + early] - model[SIGNAL + early]
        for k in range(1, times):
            late = start + order[k]
            after = out[FITTED + late] - model[SIGNAL + late]
            step = after - before
            total += step * step
            lane[G_FITTED + late] += f32(2.0) * factor * step
            lane[G_FITTED + early] -= f32(2.0) * factor * step
            early, before = late, after
    for s in range(LANES):
        g = lane[G_FITTED + s]
        out[G_OUT + s] += g
        lane[G_CBF + s] = -g * model[SIGNAL_CBF + s]
        lane[G_ATT + s] = -g * model[SIGNAL_ATT + s]
    return total

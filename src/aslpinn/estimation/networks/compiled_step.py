"""One compiled training step: codes, both fields, residuals and every gradient, block by block of LANES voxels.

A unit of work is a fixed share of a batch's blocks with its own sum of weight gradients; units are added up in their
order, so results do not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from ...fields.compiled import (
    ENTRY,
    KERNEL,
    LANES,
    ONCE,
    adamw,
    add_bias,
    add_outer,
    add_rows,
    backward,
    copy,
    f32,
    forward,
    gather_block,
    multiply,
)
from .compiled_physics import (
    ATT,
    CBF,
    G_ATT,
    G_CBF,
    INSIDE,
    MEASURED,
    PLD,
    SLOPE,
    TAU,
    TIME,
    WEIGHT,
    closed_form_residual,
    data_residual,
    increment_residual,
    rate_residual,
    rates,
    solution,
)

CLOSED_FORM, INCREMENTS, DERIVATIVE, ODE = range(4)


class Batch(NamedTuple):
    """What does not change during a fit: N voxels, D acquired times, tau and its slope in between."""

    signal: Any  # (N, D), scaled
    weight: Any  # (1 or N, D)
    pld: Any  # (1 or N, D) effective delays in s
    tau: Any  # (D,)
    slope: Any  # (D,)
    durations: Any  # (points, 2): tau and slope at delays from first to last
    first: float
    last: float
    nominal: float  # first acquired delay, slice time not counted
    cbf_scale: float
    att_scale: float
    time_scale: float
    edge_width: float  # s, of P; 0: sharp


class Lookup(NamedTuple):
    """A hash table with the precomputed rows and weights of all voxels."""

    table: Any  # (rows, features)
    rows: Any  # (N, levels, 8) uint32
    weights: Any  # (N, levels, 8)


class Task(NamedTuple):
    """What is fitted to what: all that does not change during a fit but the weights."""

    nets: Any  # f_ode, ATT's own, f_tissue
    first: Lookup
    second: Lookup  # of ATT's own network, or the first again
    batch: Batch
    physics: Any
    objective: int


class Work(NamedTuple):
    """Buffers of each thread (first axis), reused from step to step; networks are f_ode, ATT's own, f_tissue."""

    code: Any  # (threads, 2, 3, inputs * LANES): codes of two encodings, their gradients, spare
    place: Any  # (threads, 2, hidden * LANES): f_tissue's first layer before time is added, and its gradient
    buffers: Any  # (threads, 3 networks, 4, layers * hidden * LANES): value, slope, before, tangent of `forward`
    gradient: Any  # (threads, 3, hidden * LANES)
    out: Any  # (threads, 3 networks, 4, 2 * LANES): outputs, their rates, and gradients of both
    at: Any  # (threads, 4, LANES): cbf, att, their gradients
    model: Any  # (threads, 4 * LANES), rows of `solution`
    lane: Any  # (threads, 12 * LANES)
    order: Any  # (threads, LANES) int64


@njit(**KERNEL)
def first_layer(theta: Any, net: Any, code: Any, y: Any) -> None:
    """Write W x + b of a network's first layer, without time."""
    multiply(theta, net.base, net.inputs, 1, net.hidden, net.inputs, code, y)
    add_bias(theta, net.base + net.hidden * net.inputs, net.hidden, y)


@njit(**KERNEL)
def first_layer_gradient(theta: Any, net: Any, code: Any, g: Any, grad: Any, g_code: Any) -> None:
    """Add the gradients of `first_layer`'s weights; write that of the code."""
    add_outer(g, code, net.hidden, net.inputs, grad, net.base)
    add_rows(g, net.hidden, grad, net.base + net.hidden * net.inputs)
    multiply(theta, net.base, 1, net.inputs, net.inputs, net.hidden, g, g_code)


@njit(**ONCE)
def stage(batch: Any, points: Any, drawn: Any, at: Any, begin: int, count: int, lane: Any) -> None:
    """Lay out the samples of `count` voxels from `begin` in lanes, a voxel's times side by side.

    Lanes left over repeat the first one, with weight and inside 0.
    """
    acquired = batch.signal.shape[1]
    span, highest = f32(batch.last - batch.first), batch.durations.shape[0] - 2
    step = f32((highest + 1) / (batch.last - batch.first) if batch.last > batch.first else 0.0)
    unit = f32(1.0 / batch.time_scale)
    s = 0
    for voxel in range(begin, begin + count):
        p = points[voxel]
        row, own = p if batch.pld.shape[0] > 1 else 0, p if batch.weight.shape[0] > 1 else 0
        shift = batch.pld[row, 0] - f32(batch.nominal) + f32(batch.first)
        for k in range(acquired + drawn.shape[1]):
            lane[CBF + s], lane[ATT + s], lane[INSIDE + s] = at[0, voxel], at[1, voxel], f32(1.0)
            if k < acquired:
                lane[PLD + s], lane[TAU + s], lane[SLOPE + s] = batch.pld[row, k], batch.tau[k], batch.slope[k]
                lane[MEASURED + s], lane[WEIGHT + s] = batch.signal[p, k], batch.weight[own, k]
            else:
                since = drawn[voxel, k - acquired] * span
                lower = min(np.int64(since * step), highest)
                share = since * step - f32(lower)
                tau, slope = batch.durations[lower, 0], batch.durations[lower, 1]
                lane[PLD + s] = since + shift
                lane[TAU + s] = tau + share * (batch.durations[lower + 1, 0] - tau)
                lane[SLOPE + s] = slope + share * (batch.durations[lower + 1, 1] - slope)
                lane[MEASURED + s], lane[WEIGHT + s] = f32(0.0), f32(0.0)
            lane[TIME + s] = (lane[PLD + s] + lane[TAU + s]) * unit
            s += 1
    for left in range(s, LANES):
        for k in range(CBF, TIME + LANES, LANES):
            lane[k + left] = lane[k]
        lane[WEIGHT + left], lane[INSIDE + left] = f32(0.0), f32(0.0)


@njit(**ONCE)
def add_times(
    theta: Any, net: Any, place: Any, begin: int, count: int, times: int, lane: Any, start: Any, along: Any
) -> None:
    """Write f_tissue's first W x + b of all samples: the voxels' own part `place`, and the column for time times t.

    along receives its time derivative, the column itself.
    """
    column = net.base + net.hidden * (net.inputs + 1)
    for h in range(net.hidden):
        weight, here = theta[column + h], place[h * LANES + begin : h * LANES + begin + count]
        row = start[h * LANES : (h + 1) * LANES]
        along[h * LANES : (h + 1) * LANES] = weight
        for s in range(LANES):
            row[s] = weight * lane[TIME + s]
        for v in range(count):
            voxel = row[v * times : (v + 1) * times]
            for k in range(voxel.size):
                voxel[k] += here[v]


@njit(**ONCE)
def add_times_gradient(
    net: Any, gradient: Any, begin: int, count: int, times: int, lane: Any, rate: bool, grad: Any, g_place: Any
) -> None:
    """Transpose of `add_times`: add the gradient of the column for time; write those of the voxels' own part."""
    column = net.base + net.hidden * (net.inputs + 1)
    for h in range(net.hidden):
        row, row_rate = gradient[0, h * LANES : (h + 1) * LANES], gradient[1, h * LANES : (h + 1) * LANES]
        total = f32(0.0)
        for s in range(LANES):
            total += row[s] * lane[TIME + s]
        if rate:
            for s in range(LANES):
                total += row_rate[s]
        grad[column + h] += total
        for v in range(count):
            voxel, total = row[v * times : (v + 1) * times], f32(0.0)
            for k in range(voxel.size):
                total += voxel[k]
            g_place[h * LANES + begin + v] = total


@njit(**ONCE)
def closed_form_block(batch: Any, points: Any, physics: Any, factor: Any, at: Any, model: Any, lane: Any) -> Any:
    """Residuals of the closed form of one block of voxels; the sum of squares. at (4, LANES): cbf, att, gradients."""
    total = 0.0
    own_weight, own_pld = batch.weight.shape[0] > 1, batch.pld.shape[0] > 1
    copy(at[0], lane[CBF : CBF + LANES])
    copy(at[1], lane[ATT : ATT + LANES])
    lane[SLOPE : SLOPE + LANES] = f32(0.0)
    for d in range(batch.signal.shape[1]):
        for s in range(LANES):
            p = points[s if s < points.size else 0]
            lane[MEASURED + s] = batch.signal[p, d]
            lane[WEIGHT + s] = batch.weight[p if own_weight else 0, d] if s < points.size else f32(0.0)
            lane[PLD + s] = batch.pld[p if own_pld else 0, d]
            lane[TAU + s] = batch.tau[d]
        solution(lane, physics, model)
        total += closed_form_residual(lane, model, factor, at[2], at[3])
    return total


@njit(**ONCE)
def signal_block(
    theta: Any, task: Any, points: Any, drawn: Any, factors: Any, work: Any, thread: int, grad: Any, sums: Any
) -> None:
    """f_tissue at all times of one block of voxels: residuals, gradients; adds data and physics sums to sums (2,).

    drawn (n, collocation) in [0, 1): where the collocation times of the block's voxels fall.
    """
    net, batch, physics, objective = task.nets[2], task.batch, task.physics, task.objective
    times = batch.signal.shape[1] + drawn.shape[1]
    rate, together = objective >= DERIVATIVE, LANES // times
    buffers, out, gradient, place = (
        work.buffers[thread, 2],
        work.out[thread, 2],
        work.gradient[thread],
        work.place[thread],
    )
    lane, model, at, flat = work.lane[thread], work.model[thread], work.at[thread], out.ravel()
    for begin in range(0, points.size, together):
        count = min(together, points.size - begin)
        stage(batch, points, drawn, at, begin, count, lane)
        add_times(theta, net, place[0], begin, count, times, lane, buffers[0], buffers[2])
        forward(theta, net, buffers, out, rate)
        sums[0] += data_residual(lane, factors[0], flat)
        if rate:
            unit = f32(batch.time_scale)
            rates(lane, physics, objective == ODE, f32(batch.edge_width), model)
            sums[1] += rate_residual(lane, model, factors[1], unit, physics, objective == ODE, flat)
        else:
            solution(lane, physics, model)
            sums[1] += increment_residual(lane, model, count, times, factors[1], work.order[thread], flat)
        backward(theta, net, buffers, out, gradient, grad, rate)
        add_times_gradient(net, gradient, begin, count, times, lane, rate, grad, place[1])
        for v in range(count):
            for k in range(v * times, (v + 1) * times):
                at[2, begin + v] += lane[G_CBF + k]
                at[3, begin + v] += lane[G_ATT + k]


@njit(**KERNEL)
def add(x: Any, y: Any) -> None:
    """Add x to y."""
    for q in range(y.size):
        y[q] += x[q]


@njit(**KERNEL)
def spread(lanes: Any, rows: Any) -> None:
    """Write (width, LANES) values into (n, width) rows of voxels."""
    for s in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            rows[s, c] = lanes[c * LANES + s]


@njit(**ENTRY)
def gradients(
    thread: int,
    threads: int,
    theta: Any,
    task: Any,
    points: Any,
    drawn: Any,
    factors: Any,
    work: Any,
    partial: Any,
    g_first: Any,
    g_second: Any,
    sums: Any,
) -> None:
    """Losses and gradients of a batch of voxels `points` (n,): one thread's share of the units.

    partial (units, weights) and sums (units, 2), data and physics, are overwritten; so are g_first and g_second
    (n, levels * features), the gradients of the codes. factors (2,): of the data and of the physics sum in the loss.
    """
    ode, att_net, tissue = task.nets
    first, second, batch = task.first, task.second, task.batch
    code, buffers, out = work.code[thread], work.buffers[thread], work.out[thread]
    gradient, place, at = work.gradient[thread], work.place[thread], work.at[thread]
    own = att_net.hidden > 0  # ATT has its own encoding and network
    units = partial.shape[0]
    for unit in range(thread, units, threads):
        partial[unit, :] = f32(0.0)
        sums[unit, :] = 0.0
        grad = partial[unit]
        for start in range(unit * LANES, points.size, units * LANES):
            end = min(start + LANES, points.size)
            block = points[start:end]
            gather_block(first.table, first.rows, first.weights, block, code[0, 0])
            first_layer(theta, ode, code[0, 0], buffers[0, 0])
            forward(theta, ode, buffers[0], out[0], False)
            if own:
                gather_block(second.table, second.rows, second.weights, block, code[1, 0])
                first_layer(theta, att_net, code[1, 0], buffers[1, 0])
                forward(theta, att_net, buffers[1], out[1], False)
            for s in range(LANES):
                at[0, s] = f32(batch.cbf_scale) * np.exp(out[0, 0, s])
                at[1, s] = f32(batch.att_scale) * np.exp(out[1 if own else 0, 0, LANES + s])
                at[2, s] = f32(0.0)
                at[3, s] = f32(0.0)
            if task.objective == CLOSED_FORM:
                sums[unit, 0] += closed_form_block(
                    batch, block, task.physics, factors[0], at, work.model[thread], work.lane[thread]
                )
            else:
                first_layer(theta, tissue, code[0, 0], place[0])
                place[1, :] = f32(0.0)
                signal_block(theta, task, block, drawn[start:end], factors, work, thread, grad, sums[unit])
            for s in range(LANES):
                out[0, 2, s] = at[2, s] * at[0, s]
                out[0, 2, LANES + s] = f32(0.0) if own else at[3, s] * at[1, s]
                out[1, 2, s] = f32(0.0)
                out[1, 2, LANES + s] = at[3, s] * at[1, s]
            backward(theta, ode, buffers[0], out[0], gradient, grad, False)
            first_layer_gradient(theta, ode, code[0, 0], gradient[0], grad, code[0, 1])
            if task.objective != CLOSED_FORM:
                first_layer_gradient(theta, tissue, code[0, 0], place[1], grad, code[0, 2])
                add(code[0, 2], code[0, 1])
            spread(code[0, 1], g_first[start:end])
            if own:
                backward(theta, att_net, buffers[1], out[1], gradient, grad, False)
                first_layer_gradient(theta, att_net, code[1, 0], gradient[0], grad, code[1, 1])
                spread(code[1, 1], g_second[start:end])


@njit(**ENTRY)
def weights_step(partial: Any, total: Any, theta: Any, m: Any, v: Any, rates: Any) -> None:
    """Add up the units' gradients in their order into total (weights,), and take an AdamW step."""
    total[:] = f32(0.0)
    for unit in range(partial.shape[0]):
        for q in range(total.size):
            total[q] += partial[unit, q]
    adamw(theta, m, v, total, rates)

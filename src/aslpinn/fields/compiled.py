"""Compiled networks and hash tables: values, a time tangent, gradients and AdamW, on blocks of points.

A block holds LANES points, lane by lane beside each other: row i of an array is value i of all its points. The constant
length lets the compiler keep sums in vector registers. Numbers of units and inputs are padded to multiples of PAD with
weights of zero, which stay zero. A network's weights lie in one flat array (`Network` says where). No physics.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

LANES = 64  # points in a block: a layer of 16 units then takes 4 KB
PAD = 4
#: Reordering of sums and fused multiply-adds; not "nnan" and "ninf": a loss that is not finite has to be seen.
FAST = {"reassoc", "contract", "nsz", "arcp"}
EXACT = {"contract"}  # where the order of operations carries the accuracy
#: Options of a kernel that only other kernels call; without wrappers for Python it compiles faster.
INNER: dict[str, Any] = {"error_model": "numpy", "cache": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
KERNEL: dict[str, Any] = {"fastmath": FAST, **INNER}
#: Options of a kernel that is called in one place: put in there before compiling, it is compiled once.
ONCE: dict[str, Any] = {"inline": "always", **KERNEL}
#: Options of a kernel that Python calls, from several threads.
ENTRY: dict[str, Any] = {
    "fastmath": FAST,
    "error_model": "numpy",
    "cache": True,
    "nogil": True,
    "no_cfunc_wrapper": True,
}

f32 = np.float32


class Network(NamedTuple):
    """Place and shape of one network in the flat array of weights; sizes are padded.

    From `base`: first layer (hidden, inputs), its bias, its column for time; then weights and bias of each other hidden
    layer; then of the output layer.
    """

    base: int
    inputs: int
    hidden: int
    layers: int
    outputs: int
    omega_first: float
    omega_hidden: float


def padded(count: int) -> int:
    """Return count rounded up to a multiple of PAD."""
    return -(-count // PAD) * PAD


@intrinsic
def as_float(typing: Any, bits: Any) -> Any:
    """Read the bits of an int32 as a float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.int32), generate


@njit(fastmath=EXACT, **INNER)
def decay(x: Any) -> Any:
    """Return exp(-x) of a float32 x >= 0, within 4e-7 relative; exp(-87) beyond 87.

    exp(-x) = 2^k exp(r) with |r| <= ln(2) / 2; the exponent bits hold 2^k, a Taylor polynomial gives exp(r).
    """
    x = -min(x, f32(87.0))
    k = np.rint(x * f32(1.4426950408889634))
    r = (x - k * f32(0.693359375)) + k * f32(2.1219444e-4)
    power = f32(1.0 / 720.0)
    power = power * r + f32(1.0 / 120.0)
    power = power * r + f32(1.0 / 24.0)
    power = power * r + f32(1.0 / 6.0)
    power = power * r + f32(0.5)
    power = power * r + f32(1.0)
    power = power * r + f32(1.0)
    return power * as_float((np.int32(k) + np.int32(127)) << np.int32(23))  # type: ignore[call-arg]


@njit(fastmath=EXACT, **INNER)
def sincos(x: Any) -> Any:
    """Return sine and cosine of a float32, within 2e-7 for |x| up to 100, 6e-7 up to 1e4.

    x is reduced to r in [-pi/2, pi/2] by the nearest multiple of pi, itself subtracted in three parts of few bits (Cody
    and Waite 1980); polynomials fitted to smallest largest error on that interval follow.
    """
    k = np.rint(x * f32(0.31830988618379067))
    r = ((x - k * f32(3.140625)) - k * f32(0.0009670257568359375)) - k * f32(6.277114152908325e-07)
    sign = f32(1.0) - f32(2.0) * f32(np.int32(k) & np.int32(1))
    z = r * r
    sine = f32(-2.38464572e-08)
    sine = sine * z + f32(2.75226051e-06)
    sine = sine * z + f32(-1.98408038e-04)
    sine = sine * z + f32(8.33333049e-03)
    sine = sine * z + f32(-1.66666666e-01)
    cosine = f32(-2.61935473e-07)
    cosine = cosine * z + f32(2.47692914e-05)
    cosine = cosine * z + f32(-1.38885690e-03)
    cosine = cosine * z + f32(4.16666558e-02)
    cosine = cosine * z + f32(-0.5)
    return sign * (r + r * z * sine), sign * (f32(1.0) + z * cosine)


@njit(**KERNEL)
def multiply(theta: Any, start: int, by_out: int, by_in: int, n_out: int, n_in: int, x: Any, y: Any) -> None:
    """Write y = W x for W[o, i] = theta[start + o * by_out + i * by_in]; the strides also give the transpose.

    x (n_in, LANES) and y (n_out, LANES), flat; n_out and n_in are multiples of PAD. Slices of constant length tell the
    compiler that no index is negative, and that rows of x are a constant distance apart.
    """
    for o in range(0, n_out, 2):
        rows = y[o * LANES : (o + 2) * LANES]
        rows[:] = f32(0.0)
        for i in range(0, n_in, 4):
            a = start + o * by_out + i * by_in
            w0, w1, w2, w3 = theta[a], theta[a + by_in], theta[a + 2 * by_in], theta[a + 3 * by_in]
            a += by_out
            u0, u1, u2, u3 = theta[a], theta[a + by_in], theta[a + 2 * by_in], theta[a + 3 * by_in]
            four = x[i * LANES : (i + 4) * LANES]
            for s in range(LANES):
                x0, x1, x2, x3 = four[s], four[s + LANES], four[s + 2 * LANES], four[s + 3 * LANES]
                rows[s] += w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3
                rows[s + LANES] += u0 * x0 + u1 * x1 + u2 * x2 + u3 * x3


@njit(**KERNEL)
def add_outer(g: Any, x: Any, n_out: int, n_in: int, grad: Any, start: int) -> None:
    """Add the sum over lanes of g[o] x[i] to grad[start + o * n_in + i]: a layer's gradient from a block."""
    for o in range(0, n_out, 2):
        rows = g[o * LANES : (o + 2) * LANES]
        for i in range(0, n_in, 4):
            four = x[i * LANES : (i + 4) * LANES]
            a0, a1, a2, a3 = f32(0.0), f32(0.0), f32(0.0), f32(0.0)
            b0, b1, b2, b3 = f32(0.0), f32(0.0), f32(0.0), f32(0.0)
            for s in range(LANES):
                g0, g1 = rows[s], rows[s + LANES]
                x0, x1, x2, x3 = four[s], four[s + LANES], four[s + 2 * LANES], four[s + 3 * LANES]
                a0 += g0 * x0
                a1 += g0 * x1
                a2 += g0 * x2
                a3 += g0 * x3
                b0 += g1 * x0
                b1 += g1 * x1
                b2 += g1 * x2
                b3 += g1 * x3
            k = start + o * n_in + i
            grad[k] += a0
            grad[k + 1] += a1
            grad[k + 2] += a2
            grad[k + 3] += a3
            k += n_in
            grad[k] += b0
            grad[k + 1] += b1
            grad[k + 2] += b2
            grad[k + 3] += b3


@njit(**KERNEL)
def add_rows(g: Any, n: int, grad: Any, start: int) -> None:
    """Add the sum over lanes of each of n rows of g to grad[start + row]: a bias's gradient."""
    for o in range(n):
        total = f32(0.0)
        row = g[o * LANES : (o + 1) * LANES]
        for s in range(LANES):
            total += row[s]
        grad[start + o] += total


@njit(**KERNEL)
def add_bias(theta: Any, start: int, n: int, y: Any) -> None:
    """Add theta[start + row] to each of n rows of y."""
    for o in range(n):
        bias, row = theta[start + o], y[o * LANES : (o + 1) * LANES]
        for s in range(LANES):
            row[s] += bias


@njit(**KERNEL)
def activate(value: Any, slope: Any, omega: Any) -> None:
    """Turn W x + b into sin(omega (W x + b)) in place, and write its derivative omega cos(.) into slope."""
    for q in range(value.size):
        sine, cosine = sincos(omega * value[q])
        value[q] = sine
        slope[q] = omega * cosine


@njit(**KERNEL)
def times(x: Any, y: Any, product: Any) -> None:
    """Write x * y."""
    for q in range(product.size):
        product[q] = x[q] * y[q]


@njit(**KERNEL)
def copy(x: Any, y: Any) -> None:
    """Write x into y of the same length; a slice assignment compiles longer."""
    for q in range(y.size):
        y[q] = x[q]


@njit(**KERNEL)
def activation_gradient(value: Any, slope: Any, before: Any, omega: Any, g: Any, g_rate: Any, rate: bool) -> None:
    """Turn gradients of a layer's activations (and of their tangents) into those of W x + b (and its tangent)."""
    if rate:
        square = omega * omega
        for q in range(g.size):
            along = g_rate[q]
            g[q] = slope[q] * g[q] - square * value[q] * before[q] * along
            g_rate[q] = slope[q] * along
    else:
        for q in range(g.size):
            g[q] *= slope[q]


@njit(**KERNEL)
def output(theta: Any, at: int, net: Any, last: Any, bias: bool, out: Any) -> None:
    """Write the output layer of the last activations (hidden * LANES), or of their tangents without the bias."""
    for o in range(net.outputs):
        row = out[o * LANES : (o + 1) * LANES]
        row[:] = theta[at + net.outputs * net.hidden + o] if bias else f32(0.0)
        for i in range(net.hidden):
            weight, unit = theta[at + o * net.hidden + i], last[i * LANES : (i + 1) * LANES]
            for s in range(LANES):
                row[s] += weight * unit[s]


@njit(**KERNEL)
def output_gradient(theta: Any, at: int, net: Any, last: Any, g_out: Any, g: Any, grad: Any) -> None:
    """Transpose of `output`: write g, the gradient of last, and add that of the weights."""
    g[:] = f32(0.0)
    for o in range(net.outputs):
        seed = g_out[o * LANES : (o + 1) * LANES]
        for i in range(net.hidden):
            weight, total = theta[at + o * net.hidden + i], f32(0.0)
            unit, row = last[i * LANES : (i + 1) * LANES], g[i * LANES : (i + 1) * LANES]
            for s in range(LANES):
                total += seed[s] * unit[s]
                row[s] += weight * seed[s]
            grad[at + o * net.hidden + i] += total


@njit(**KERNEL)
def forward(theta: Any, net: Any, buffers: Any, out: Any, rate: bool) -> None:
    """Run a network from the first layer's W x + b, which the caller put into buffers[0, : hidden * LANES].

    buffers (4, layers * hidden * LANES), kept for `backward`: activations, omega cos(.), and with `rate` the time
    derivatives of W x + b (the caller puts the first layer's) and of the activations. out (2 or more, outputs *
    LANES): values, rates.
    """
    size, hidden = net.hidden * LANES, net.hidden
    at = net.base + hidden * (net.inputs + 2)
    value, slope, before, tangent = buffers[0], buffers[1], buffers[2], buffers[3]
    for layer in range(net.layers):
        here, end = layer * size, (layer + 1) * size
        if layer > 0:
            multiply(theta, at, hidden, 1, hidden, hidden, value[here - size : here], value[here:end])
            add_bias(theta, at + hidden * hidden, hidden, value[here:end])
            if rate:
                multiply(theta, at, hidden, 1, hidden, hidden, tangent[here - size : here], before[here:end])
            at += hidden * (hidden + 1)
        activate(value[here:end], slope[here:end], f32(net.omega_first if layer == 0 else net.omega_hidden))
        if rate:
            times(slope[here:end], before[here:end], tangent[here:end])
    last = (net.layers - 1) * size
    output(theta, at, net, value[last : last + size], True, out[0])
    if rate:
        output(theta, at, net, tangent[last : last + size], False, out[1])


@njit(**KERNEL)
def backward(theta: Any, net: Any, buffers: Any, out: Any, gradient: Any, grad: Any, rate: bool) -> None:
    """Add gradients of all layers but the first to grad, given those of `forward`'s outputs in out[2] and out[3].

    gradient (3, hidden * LANES): rows 0 and 1 are left with the gradients of the first layer's W x + b and of its
    tangent; row 2 is spare.
    """
    size, hidden = net.hidden * LANES, net.hidden
    value, slope, before, tangent = buffers[0], buffers[1], buffers[2], buffers[3]
    g, g_rate, spare = gradient[0, :size], gradient[1, :size], gradient[2, :size]
    at = net.base + hidden * (net.inputs + 2) + (net.layers - 1) * hidden * (hidden + 1)
    last = (net.layers - 1) * size
    add_rows(out[2], net.outputs, grad, at + net.outputs * hidden)
    output_gradient(theta, at, net, value[last : last + size], out[2], g, grad)
    if rate:
        output_gradient(theta, at, net, tangent[last : last + size], out[3], g_rate, grad)
    for layer in range(net.layers - 1, -1, -1):
        here, end = layer * size, (layer + 1) * size
        omega = f32(net.omega_first if layer == 0 else net.omega_hidden)
        activation_gradient(value[here:end], slope[here:end], before[here:end], omega, g, g_rate, rate)
        if layer == 0:
            break
        at -= hidden * (hidden + 1)
        add_outer(g, value[here - size : here], hidden, hidden, grad, at)
        add_rows(g, hidden, grad, at + hidden * hidden)
        multiply(theta, at, 1, hidden, hidden, hidden, g, spare)
        copy(spare, g)
        if rate:
            add_outer(g_rate, tangent[here - size : here], hidden, hidden, grad, at)
            multiply(theta, at, 1, hidden, hidden, hidden, g_rate, spare)
            copy(spare, g_rate)


@njit(**KERNEL)
def gather_block(table: Any, rows: Any, weights: Any, points: Any, code: Any) -> None:
    """Write the codes of at most LANES points, (levels * features) rows of code; lanes left over repeat the first."""
    features = table.shape[1]
    for s in range(LANES):
        p = points[s if s < points.size else 0]
        for level in range(rows.shape[1]):
            if features == 2:  # the published size, with its sums kept in registers
                one, two = f32(0.0), f32(0.0)
                for k in range(8):
                    weight, row = weights[p, level, k], rows[p, level, k]
                    one += weight * table[row, 0]
                    two += weight * table[row, 1]
                code[2 * level * LANES + s] = one
                code[(2 * level + 1) * LANES + s] = two
                continue
            for f in range(features):
                total = f32(0.0)
                for k in range(8):
                    total += weights[p, level, k] * table[rows[p, level, k], f]
                code[(level * features + f) * LANES + s] = total


@njit(**KERNEL)
def adamw(p: Any, m: Any, v: Any, g: Any, rates: Any) -> None:
    """One AdamW step in place (Loshchilov and Hutter 2019), in torch's order of operations; `rates` as from `rates_of`.

    p, m, v, g: flat arrays of parameters, first and second moments, gradients.
    """
    keep, step, root, b1, b2, eps = rates
    for q in range(p.size):
        m[q] += (f32(1.0) - b1) * (g[q] - m[q])
        v[q] = b2 * v[q] + (f32(1.0) - b2) * g[q] * g[q]
        p[q] = p[q] * keep - step * m[q] / (np.sqrt(v[q]) * root + eps)


def rates_of(lr: float, weight_decay: float, step: int, betas: tuple[float, float] = (0.9, 0.999)) -> tuple[Any, ...]:
    """Return `adamw`'s factors at a step counted from 1: decay, step size, root of v's correction, betas, epsilon."""
    size = lr / (1.0 - betas[0] ** step)
    root = 1.0 / np.sqrt(1.0 - betas[1] ** step)
    return tuple(f32(x) for x in (1.0 - lr * weight_decay, size, root, betas[0], betas[1], 1e-8))


@njit(**ENTRY)
def table_gradient_step(
    thread: int,
    threads: int,
    g_code: Any,
    rows: Any,
    weights: Any,
    points: Any,
    offsets: Any,
    table: Any,
    m: Any,
    v: Any,
    scratch: Any,
    rates: Any,
    keeps: Any,
) -> None:
    """Carry the gradients of codes (n, levels * features) back to the table and take an AdamW step, level by level.

    Levels own disjoint rows, so threads never meet; a thread takes every `threads`-th level, which shares out the small
    ones. A level's gradient lives in its thread's scratch (threads, largest level's rows * features) and is used while
    it is in the cache. table, m, v: flat. keeps (levels,): what each level's weight decay leaves of its rows.
    """
    features = g_code.shape[1] // rows.shape[1]
    for level in range(thread, rows.shape[1], threads):
        first, last = offsets[level] * features, offsets[level + 1] * features
        grad = scratch[thread, : last - first]
        grad[:] = f32(0.0)
        for i in range(points.size):
            p = points[i]
            if features == 2:
                one, two = g_code[i, 2 * level], g_code[i, 2 * level + 1]
                for k in range(8):
                    place, weight = np.uint64(rows[p, level, k]) * np.uint64(2) - np.uint64(first), weights[p, level, k]
                    grad[place] += weight * one
                    grad[place + np.uint64(1)] += weight * two
                continue
            for k in range(8):
                row, weight = np.int64(rows[p, level, k]) * features - first, weights[p, level, k]
                for f in range(features):
                    grad[row + f] += weight * g_code[i, level * features + f]
        own = (keeps[level], rates[1], rates[2], rates[3], rates[4], rates[5])
        adamw(table[first:last], m[first:last], v[first:last], grad, own)

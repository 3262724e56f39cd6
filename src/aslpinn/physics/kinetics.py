"""Buxton's general kinetic model of pCASL, written once: signal, time derivative, slopes by CBF and ATT, arteries.

All shapes broadcast; time in s, cbf in ml/100g/min, signals as fractions of M0b. With f = cbf / 6000,
R = 1/T1' = 1/T1t + f/lambda, t = tau + PLD, M0b = M0t / lambda (Buxton et al. 1998, eq. 3)::

    S(t) = S_inf (L(t - att - tau) - L(t - att))
    L(x) = exp(-R x+), x+ = max(x, 0)
    S_inf = 2 alpha f / R exp(-att/T1b)

L is what is left in the tissue of label that came in x s ago: a bolus is label that begins to arrive at att, less
label that begins to arrive at att + tau. Written out, S is 0 before att, S_inf (1 - exp(-R (t - att))) while label
arrives, and S_inf (1 - exp(-R tau)) exp(-R (t - att - tau)) afterwards.

`formulas` makes them from a library's exponential and from the two functions that say what an edge of the bolus is: x+
and its derivative, the step. NumPy, torch and the compiled loops of `aslpinn.estimation` share this text. Edges are

- sharp: x+ = max(x, 0), the step 0 or 1. The step has no derivative, so autograd cannot move ATT by it;
- soft, of width w: x+ = w log(1 + exp(x/w)), the step 1 / (1 + exp(-x/w)): smooth, and symmetric about att;
- dispersed (`Constants.dispersion_sharpness`): the bolus is convolved with a gamma kernel on its way (Chappell et al.
  2013, doi:10.1002/mrm.24260), which shifts its arrival by the kernel's mean.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .constants import CBF_PER_FLOW, Constants

Array = Any  # numpy.ndarray, torch.Tensor or float: the formulas are the same
Function = Callable[..., Any]

DEFAULT = Constants()


class Factors(NamedTuple):
    """What the formulas need of the constants."""

    height: float  # 2 alpha / 6000, times a scale of the signals: inflow of 1 ml/100g/min that no decay has weakened
    blood_rate: float  # 1 / T1b
    tissue_rate: float  # 1 / T1t
    rate_per_cbf: float  # d(1 / T1') / d cbf


def factors(constants: Constants, scale: float = 1.0) -> Factors:
    """The factors of signals that are `scale` times delta-M / M0b."""
    height = scale * 2.0 * constants.efficiency / CBF_PER_FLOW
    per_cbf = 1.0 / (CBF_PER_FLOW * constants.partition_coefficient)
    return Factors(height, 1.0 / constants.t1_blood, 1.0 / constants.t1_tissue, per_cbf)


class Formulas(NamedTuple):
    """Buxton's model for one library and one kind of edge.

    `since` is t - att; rate R; slope d tau/dt; width that of the edges in s; `of` the `Factors`; `inflow` what the
    function of that name gives, constant from sample to sample.
    """

    inflow: Function  # (att, of): S_inf R of 1 ml/100g/min
    stored: Function  # (since, tau, rate, width): S / S_inf
    passing: Function  # (since, tau, width): share of the bolus's height that is just arriving
    growing: Function  # (since, tau, slope, rate, width): dS/dt / (S_inf R)
    entering: Function  # (since, tau, slope, rate, width): what the ODE's inflow is of S_inf R
    signal_slopes: Function  # (cbf, inflow, since, tau, rate, of, width): S, its derivatives with CBF and with ATT
    growing_slopes: Function  # (cbf, inflow, since, tau, slope, rate, of, width): the same of dS/dt
    entering_slopes: Function  # and of the ODE's inflow


def _missing(x: Array, width: Array) -> Array:
    raise NotImplementedError("these edges have no slopes: take differences")


def formulas(
    exp: Function,
    positive: Function,
    step: Function,
    bend: Function = _missing,
    own_left: Function | None = None,
    own_falling: Function | None = None,
    compiled: Callable[[Function], Function] = lambda function: function,
) -> Formulas:
    """Buxton's model made from an exponential and from the edges of the bolus.

    Parameters
    ----------
    exp : function
        Of arrays, tensors or numbers, 0 or less.
    positive, step, bend : function of (x, width)
        x+, its first and its second derivative; `bend` is needed for the slopes of the rates only.
    own_left, own_falling : function of (x, rate, width)
        L up to a constant, and -dL/dx / R, where they are not exp(-R x+) and step times that.
    compiled : function
        What compiles each formula for use in a compiled loop. They contain no literal, so float32 stays float32.
    """

    def of_edge(x: Array, rate: Array, width: Array) -> Array:
        return exp(-rate * positive(x, width))

    def falling_of_edge(x: Array, rate: Array, width: Array) -> Array:
        return step(x, width) * left(x, rate, width)

    left = own_left or compiled(of_edge)
    falling = own_falling or compiled(falling_of_edge)

    @compiled
    def inflow(att: Array, of: Factors) -> Array:
        return of.height * exp(-att * of.blood_rate)

    @compiled
    def stored(since: Array, tau: Array, rate: Array, width: Array) -> Array:
        return left(since - tau, rate, width) - left(since, rate, width)

    @compiled
    def passing(since: Array, tau: Array, width: Array) -> Array:
        return step(since, width) - step(since - tau, width)

    @compiled
    def growing(since: Array, tau: Array, slope: Array, rate: Array, width: Array) -> Array:
        end = falling(since - tau, rate, width)
        return falling(since, rate, width) - end + slope * end

    @compiled
    def entering(since: Array, tau: Array, slope: Array, rate: Array, width: Array) -> Array:
        return passing(since, tau, width) + slope * falling(since - tau, rate, width)

    @compiled
    def signal_slopes(
        cbf: Array, inflow: Array, since: Array, tau: Array, rate: Array, of: Factors, width: Array
    ) -> tuple[Array, Array, Array]:
        end = since - tau
        first, last, level = left(since, rate, width), left(end, rate, width), inflow / rate
        unit = level * (last - first)
        by_rate = level * (positive(since, width) * first - positive(end, width) * last) - unit / rate
        by_since = inflow * (falling(since, rate, width) - falling(end, rate, width))
        return cbf * unit, unit + cbf * of.rate_per_cbf * by_rate, -cbf * (of.blood_rate * unit + by_since)

    @compiled
    def growing_slopes(
        cbf: Array, inflow: Array, since: Array, tau: Array, slope: Array, rate: Array, of: Factors, width: Array
    ) -> tuple[Array, Array, Array]:
        end = since - tau
        first, last = left(since, rate, width), left(end, rate, width)
        last = last - slope * last
        rising, ending = step(since, width) * first, step(end, width) * last
        unit = inflow * (rising - ending)
        by_rate = inflow * (positive(end, width) * ending - positive(since, width) * rising)
        by_since = bend(since, width) * first - rate * step(since, width) * rising
        by_since = by_since - bend(end, width) * last + rate * step(end, width) * ending
        return cbf * unit, unit + cbf * of.rate_per_cbf * by_rate, -cbf * (of.blood_rate * unit + inflow * by_since)

    @compiled
    def entering_slopes(
        cbf: Array, inflow: Array, since: Array, tau: Array, slope: Array, rate: Array, of: Factors, width: Array
    ) -> tuple[Array, Array, Array]:
        end = since - tau
        longer = slope * left(end, rate, width)
        later, turn = step(end, width) * longer, bend(end, width)
        unit = inflow * (step(since, width) - step(end, width) + later)
        by_rate = -inflow * positive(end, width) * later
        by_since = bend(since, width) - turn + turn * longer - rate * step(end, width) * later
        return cbf * unit, unit + cbf * of.rate_per_cbf * by_rate, -cbf * (of.blood_rate * unit + inflow * by_since)

    return Formulas(inflow, stored, passing, growing, entering, signal_slopes, growing_slopes, entering_slopes)


def _is_torch(*values: Array) -> bool:
    return any(type(value).__module__.startswith("torch") for value in values)


@cache
def _with_numpy(kind: str) -> Formulas:
    """The formulas for arrays and numbers with sharp, soft or dispersed edges."""

    def softplus(x: Array, width: float) -> Array:
        return width * np.logaddexp(0.0, x / width)

    def logistic(x: Array, width: float) -> Array:
        return np.exp(-np.logaddexp(0.0, -x / width))

    if kind == "soft":
        return formulas(np.exp, softplus, logistic, lambda x, w: logistic(x, w) * logistic(-x, w) / w)
    if kind == "dispersed":
        return formulas(np.exp, _missing, _came_in, _missing, _left_of_kernel, _falling_of_kernel)
    return formulas(np.exp, lambda x, _: np.maximum(x, 0.0), lambda x, _: np.heaviside(x, 0.0), lambda x, _: 0.0 * x)


@cache
def _with_torch(kind: str) -> Formulas:
    """The same for tensors."""
    import torch
    from torch.nn.functional import softplus

    def tensor(x: Array) -> Any:
        return x if isinstance(x, torch.Tensor) else torch.as_tensor(x, dtype=torch.float64)

    def exp(x: Array) -> Array:
        return torch.exp(tensor(x))

    def step(x: Array, _: float) -> Array:
        return (tensor(x) > 0).to(tensor(x).dtype)

    def logistic(x: Array, width: float) -> Array:
        return torch.sigmoid(tensor(x) / width)

    if kind == "soft":
        return formulas(exp, lambda x, w: w * softplus(tensor(x) / w, threshold=50.0), logistic)
    if kind == "dispersed":
        return formulas(exp, _missing, _came_in, _missing, _left_of_kernel, _falling_of_kernel)
    return formulas(exp, lambda x, _: torch.clamp_min(tensor(x), 0.0), step)


def _gamma_share(shape: float, x: Array) -> Array:
    """Regularized lower incomplete gamma function of x, 0 where x is negative."""
    if _is_torch(x):
        import torch

        x = torch.clamp_min(x, 0.0)
        return torch.special.gammainc(torch.full_like(x, shape), x)
    from scipy.special import gammainc

    x = np.maximum(x, 0.0)
    return gammainc(np.asarray(shape, dtype=x.dtype), x)


def _came_in(x: Array, kernel: tuple[float, float]) -> Array:
    """Dispersed step: the gamma distribution P(k, s x) of the kernel s^k x^(k-1) exp(-s x) / Gamma(k), k = 1 + s p."""
    sharpness, shape = kernel
    return _gamma_share(shape, sharpness * x)


def _left_of_kernel(x: Array, rate: Array, kernel: tuple[float, float]) -> Array:
    """Dispersed L, less 1: minus the convolution of `_came_in` with R exp(-R x), by parts.

    -P(k, s x) + (s / (s - R))^k exp(-R x) P(k, (s - R) x).
    """
    sharpness, shape = kernel
    slower, decay = sharpness - rate, -rate * x
    left = decay.exp() if _is_torch(decay) else np.exp(decay)
    return (sharpness / slower) ** shape * left * _gamma_share(shape, slower * x) - _came_in(x, kernel)


def _falling_of_kernel(x: Array, rate: Array, kernel: tuple[float, float]) -> Array:
    return _came_in(x, kernel) + _left_of_kernel(x, rate, kernel)


def _edges(constants: Constants, edge_width: float, *values: Array) -> tuple[Formulas, Any]:
    """The formulas for these values, and what they want as width."""
    library = _with_torch if _is_torch(*values) else _with_numpy
    if not constants.disperses:
        return library("soft" if edge_width else "sharp"), edge_width
    if edge_width:
        raise ValueError(f"edge_width is {edge_width} and the bolus disperses; expected 0: it has no edges")
    sharpness = constants.dispersion_sharpness
    return library("dispersed"), (sharpness, 1.0 + sharpness * constants.dispersion_time_to_peak)


def _rate(cbf: Array, of: Factors, t1_apparent: Array | None) -> Array:
    """R = 1/T1' in 1/s."""
    return of.tissue_rate + cbf * of.rate_per_cbf if t1_apparent is None else 1.0 / t1_apparent


def apparent_t1(cbf: Array, constants: Constants = DEFAULT) -> Array:
    """T1' in s, the tissue's relaxation time with the outflow of labeled water (Buxton 1998, eq. 2)."""
    return 1.0 / _rate(cbf, factors(constants), None)


def delta_m(
    cbf: Array,
    att: Array,
    pld: Array,
    tau: Array,
    constants: Constants = DEFAULT,
    t1_apparent: Array | None = None,
    edge_width: float = 0.0,
) -> Array:
    """Buxton's pCASL signal, delta-M / M0b (Buxton et al. 1998, eq. 3).

    Parameters
    ----------
    cbf, att : array
        Perfusion in ml/100g/min and arterial transit time in s.
    pld, tau : array
        Post-labeling delay and labeling duration in s; all four broadcast together.
    t1_apparent : array, optional
        T1' in s, where it is held fixed; by default it follows from cbf. At fixed T1' the signal is
        linear in cbf.
    edge_width : float
        Width in s of the bolus's edges; 0 is Buxton's own, sharp.
    """
    use, width = _edges(constants, edge_width, cbf, att, pld, tau)
    of = factors(constants)
    rate = _rate(cbf, of, t1_apparent)
    return cbf * use.inflow(att, of) / rate * use.stored(pld + tau - att, tau, rate, width)


def delta_m_rate(
    cbf: Array,
    att: Array,
    pld: Array,
    tau: Array,
    tau_slope: Array = 0.0,
    constants: Constants = DEFAULT,
    t1_apparent: Array | None = None,
    edge_width: float = 0.0,
) -> Array:
    """d(delta-M / M0b)/dt in 1/s along t = tau + PLD: the paper's P, read as the derivative of Buxton's solution.

    Parameters
    ----------
    tau_slope : array
        d tau / d t in s/s where the labeling duration changes from one sample to the next (time-encoded
        series): the derivative of the paper's fifth-order spline (its appendix A.4). 0 for a constant one.
    edge_width : float
        As for `delta_m`: it is the derivative of the signal with these edges.
    """
    use, width = _edges(constants, edge_width, cbf, att, pld, tau)
    of = factors(constants)
    growing = use.growing(pld + tau - att, tau, tau_slope, _rate(cbf, of, t1_apparent), width)
    return cbf * use.inflow(att, of) * growing


def delta_m_ode(
    signal: Array,
    cbf: Array,
    att: Array,
    pld: Array,
    tau: Array,
    tau_slope: Array = 0.0,
    constants: Constants = DEFAULT,
    t1_apparent: Array | None = None,
    edge_width: float = 0.0,
) -> Array:
    """Right-hand side of Buxton's ODE in 1/s for a given signal: inflow minus signal / T1' (P, second reading).

    The inflow is S_inf/T1' = 2 alpha f exp(-att/T1b) while label arrives, zero before and after; where tau changes with
    t, what a longer bolus adds after its end comes on top. With soft edges the inflow is a difference of logistic
    steps, and on the soft signal P differs from `delta_m_rate` by up to 0.37 edge_width / T1' of the largest inflow.
    """
    use, width = _edges(constants, edge_width, signal, cbf, att, pld, tau)
    of = factors(constants)
    rate = _rate(cbf, of, t1_apparent)
    return cbf * use.inflow(att, of) * use.entering(pld + tau - att, tau, tau_slope, rate, width) - signal * rate


def increment(
    cbf: Array,
    att: Array,
    pld: tuple[Array, Array],
    tau: tuple[Array, Array],
    constants: Constants = DEFAULT,
    t1_apparent: Array | None = None,
) -> Array:
    """S at the second (pld, tau) minus S at the first: the integral of the rate, with no bias from coarse sampling."""
    later = delta_m(cbf, att, pld[1], tau[1], constants, t1_apparent)
    return later - delta_m(cbf, att, pld[0], tau[0], constants, t1_apparent)


def sensitivities(
    cbf: ArrayLike, att: ArrayLike, pld: ArrayLike, tau: ArrayLike, constants: Constants = DEFAULT
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Derivatives of Buxton's delta-M / M0b with CBF, in 1/(ml/100g/min), and with ATT, in 1/s; T1' follows CBF.

    All four arguments broadcast; ml/100g/min and s. Where a sample falls on ATT or ATT + tau, at a kink of the signal,
    the derivative is that of the earlier phase.
    """
    flow, arrival, delay, duration = (np.asarray(v, dtype=float) for v in (cbf, att, pld, tau))
    use, width = _edges(constants, 0.0)
    of = factors(constants)
    rate, since, inflow = _rate(flow, of, None), delay + duration - arrival, use.inflow(arrival, of)
    if constants.disperses:
        step = 1e-4
        more, less = (delta_m(flow + d, arrival, delay, duration, constants) for d in (step, -step))
        by_cbf = (more - less) / (2 * step)
        unit = inflow / rate * use.stored(since, duration, rate, width)
        by_att = -flow * (of.blood_rate * unit + inflow * use.growing(since, duration, 0.0, rate, width))
    else:
        _, by_cbf, by_att = use.signal_slopes(flow, inflow, since, duration, rate, of, width)
    by_cbf, by_att = np.broadcast_arrays(by_cbf, by_att)
    return by_cbf, by_att


def arterial(abv: Array, arrival: Array, pld: Array, tau: Array, constants: Constants = DEFAULT) -> Array:
    """Signal of labeled blood still in arteries, as a fraction of M0b (Chappell et al. 2010, doi:10.1002/mrm.22320).

    2 alpha aBV exp(-arrival/T1b) while the bolus passes (arrival < t < arrival + tau), zero otherwise; abv is
    the arterial blood volume as a fraction of the voxel, arrival in s.
    """
    use = (_with_torch if _is_torch(abv, arrival, pld, tau) else _with_numpy)("sharp")
    entering = CBF_PER_FLOW * abv * use.inflow(arrival, factors(constants))
    return entering * use.passing(pld + tau - arrival, tau, 0.0)


def single_delay_cbf(
    signal: ArrayLike, pld: ArrayLike, tau: ArrayLike, constants: Constants = DEFAULT
) -> NDArray[np.float64]:
    """CBF in ml/100g/min from delta-M / M0b at one delay (Alsop et al. 2015, equation for pCASL).

    signal, pld, tau broadcast; s. It assumes that all label has arrived (ATT < pld), that it decays with T1 of blood
    throughout, and that none leaves the voxel: where ATT is longer than pld the CBF comes out too low. With
    M0b = M0t / lambda, lambda is in the signal already.
    """
    # Buxton's solution for label that arrives at once and relaxes as blood does.
    use, of, duration = _with_numpy("sharp"), factors(constants), np.asarray(tau, dtype=float)
    stored = use.stored(np.asarray(pld) + duration, duration, of.blood_rate, 0.0)
    return np.asarray(signal) * of.blood_rate / (use.inflow(0.0, of) * stored)

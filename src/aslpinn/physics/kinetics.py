"""Buxton's general kinetic model of pCASL: the signal, its time derivative, its increments.

Pure functions of arrays. The same formula serves NumPy arrays and torch tensors (and so autograd).
All shapes broadcast; time in s, cbf in ml/100g/min, signals as fractions of M0b.

With f = cbf / 6000, 1/T1' = 1/T1t + f/lambda, t = tau + PLD (Buxton et al. 1998, eq. 3, with
M0b = M0t / lambda)::

    S(t) = 0                                                             t <= att
         = K (1 - exp(-(t - att)/T1'))                                   att < t < att + tau
         = K (1 - exp(-tau/T1')) exp(-(t - att - tau)/T1')               att + tau <= t
    K    = 2 alpha f T1' exp(-att/T1b)

With dispersion (`Constants.dispersion_sharpness`) the bolus is convolved with a gamma kernel on its way (Chappell et
al. 2013, doi:10.1002/mrm.24260), and S(t) = K (G(t - att) - G(t - att - tau)), see `_arrived`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .constants import CBF_PER_FLOW, Constants

Array = Any  # numpy.ndarray, torch.Tensor or float: the formulas are the same

DEFAULT = Constants()


def _is_torch(*values: Array) -> bool:
    return any(type(value).__module__.startswith("torch") for value in values)


def _ops(*values: Array) -> tuple[Any, Any, Any]:
    """exp, clip(x, low, high) and where of the library that the arguments belong to."""
    if _is_torch(*values):
        import torch

        def clip(x: Array, low: Array, high: Array | None) -> Array:
            x = torch.clamp_min(torch.as_tensor(x), 0.0) if low == 0 else torch.maximum(x, low)
            return x if high is None else torch.minimum(x, torch.as_tensor(high, dtype=x.dtype, device=x.device))

        return torch.exp, clip, torch.where
    return np.exp, np.clip, np.where


def apparent_t1(cbf: Array, constants: Constants = DEFAULT) -> Array:
    """T1' in s, the tissue's relaxation time with the outflow of labeled water (Buxton 1998, eq. 2)."""
    flow = cbf / CBF_PER_FLOW
    return 1.0 / (1.0 / constants.t1_tissue + flow / constants.partition_coefficient)


def _gamma_share(shape: float, x: Array) -> Array:
    """Regularized lower incomplete gamma function of x, 0 where x is negative."""
    if _is_torch(x):
        import torch

        x = torch.clamp_min(x, 0.0)
        return torch.special.gammainc(torch.full_like(x, shape), x)
    from scipy.special import gammainc

    x = np.maximum(x, 0.0)
    return gammainc(np.asarray(shape, dtype=x.dtype), x)


def _arrived(since: Array, t1: Array, constants: Constants) -> tuple[Array, Array]:
    """Dispersed step: share of label that has come in `since` s after arrival, and G, what of it is left in the tissue.

    The share is the gamma distribution P(k, s x) of the kernel s^k x^(k-1) exp(-s x) / Gamma(k), k = 1 + s p (s the
    sharpness, p the time to peak); G is its convolution with exp(-x/T1') / T1', by parts
    G(x) = P(k, s x) - (s / (s - R))^k exp(-R x) P(k, (s - R) x) with R = 1/T1'.
    """
    exp, clip, _ = _ops(since, t1)
    s = constants.dispersion_sharpness
    shape = 1.0 + s * constants.dispersion_time_to_peak
    x = clip(since, 0.0, None)
    slower = s - 1.0 / t1
    share = _gamma_share(shape, s * x)
    return share, share - (s / slower) ** shape * exp(-x / t1) * _gamma_share(shape, slower * x)


def _amplitude(cbf: Array, att: Array, t1_apparent: Array, constants: Constants, exp: Any) -> Array:
    """K of the module's formula: the signal that an endless bolus would reach, as a fraction of M0b."""
    flow = cbf / CBF_PER_FLOW
    return 2.0 * constants.efficiency * flow * t1_apparent * exp(-att / constants.t1_blood)


def delta_m(
    cbf: Array, att: Array, pld: Array, tau: Array, constants: Constants = DEFAULT, t1_apparent: Array | None = None
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
    """
    exp, clip, _ = _ops(cbf, att, pld, tau)
    t1 = apparent_t1(cbf, constants) if t1_apparent is None else t1_apparent
    since_arrival = pld + tau - att
    if constants.disperses:
        stored = _arrived(since_arrival, t1, constants)[1] - _arrived(since_arrival - tau, t1, constants)[1]
        return _amplitude(cbf, att, t1, constants, exp) * stored
    inflow = clip(since_arrival, 0.0, tau)  # time for which label has come in
    outflow = clip(since_arrival - tau, 0.0, None)  # time since its end arrived
    return _amplitude(cbf, att, t1, constants, exp) * (1.0 - exp(-inflow / t1)) * exp(-outflow / t1)


def delta_m_rate(
    cbf: Array,
    att: Array,
    pld: Array,
    tau: Array,
    tau_slope: Array = 0.0,
    constants: Constants = DEFAULT,
    t1_apparent: Array | None = None,
) -> Array:
    """d(delta-M / M0b)/dt in 1/s along t = tau + PLD: the paper's P, read as the derivative of Buxton's solution.

    Parameters
    ----------
    tau_slope : array
        d tau / d t in s/s where the labeling duration changes from one sample to the next (time-encoded
        series): the derivative of the paper's fifth-order spline (its appendix A.4). 0 for a constant one.
    """
    signal = delta_m(cbf, att, pld, tau, constants, t1_apparent)
    return delta_m_ode(signal, cbf, att, pld, tau, tau_slope, constants, t1_apparent)


def delta_m_ode(
    signal: Array,
    cbf: Array,
    att: Array,
    pld: Array,
    tau: Array,
    tau_slope: Array = 0.0,
    constants: Constants = DEFAULT,
    t1_apparent: Array | None = None,
) -> Array:
    """Right-hand side of Buxton's ODE in 1/s for a given signal: inflow minus signal / T1' (P, second reading).

    The inflow is K/T1' = 2 alpha f exp(-att/T1b) while label arrives, zero before
    and after; where tau changes with t, what a longer bolus adds after its end comes on top.
    """
    exp, clip, where = _ops(signal, cbf, att, pld, tau)
    t1 = apparent_t1(cbf, constants) if t1_apparent is None else t1_apparent
    amplitude = _amplitude(cbf, att, t1, constants, exp)
    since_arrival = pld + tau - att
    since_end = since_arrival - tau
    if constants.disperses:
        coming, (ended, left) = _arrived(since_arrival, t1, constants)[0], _arrived(since_end, t1, constants)
        return amplitude / t1 * (coming - ended + tau_slope * (ended - left)) - signal / t1
    arriving = where((since_arrival > 0) & (since_end <= 0), amplitude / t1, 0.0 * amplitude)
    outflow = exp(-clip(since_end, 0.0, None) / t1)
    lengthening = where(since_end > 0, amplitude / t1 * outflow * tau_slope, 0.0 * amplitude)
    return arriving + lengthening - signal / t1


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


def arterial(abv: Array, arrival: Array, pld: Array, tau: Array, constants: Constants = DEFAULT) -> Array:
    """Signal of labeled blood still in arteries, as a fraction of M0b (Chappell et al. 2010, doi:10.1002/mrm.22320).

    2 alpha aBV exp(-arrival/T1b) while the bolus passes (arrival < t < arrival + tau), zero otherwise; abv is
    the arterial blood volume as a fraction of the voxel, arrival in s.
    """
    exp, _, where = _ops(abv, arrival, pld, tau)
    since_arrival = pld + tau - arrival
    height = 2.0 * constants.efficiency * abv * exp(-arrival / constants.t1_blood)
    passing = (since_arrival > 0) & (since_arrival <= tau)
    return where(passing, height + 0.0 * since_arrival, 0.0 * since_arrival)

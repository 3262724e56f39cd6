"""Buxton's model: limits, continuity, conservation, and the equation it solves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from aslpinn.physics import Constants, apparent_t1, arterial, delta_m, delta_m_ode, delta_m_rate, increment

cbf_values = st.floats(1.0, 150.0)
att_values = st.floats(0.1, 3.0)
tau_values = st.floats(0.1, 2.0)
pld_values = st.floats(0.0, 4.0)


@given(cbf_values, att_values, pld_values, tau_values)
def test_no_signal_before_arrival_and_never_negative(cbf: float, att: float, pld: float, tau: float) -> None:
    signal = delta_m(cbf, att, pld, tau)
    assert signal >= 0
    if pld + tau <= att:
        assert signal == 0


@given(cbf_values, att_values, tau_values)
def test_continuous_at_arrival_and_at_the_end_of_the_bolus(cbf: float, att: float, tau: float) -> None:
    step = 1e-7
    for end in (att, att + tau):
        before, after = (delta_m(cbf, att, end + sign * step - tau, tau) for sign in (-1, 1))
        assert abs(after - before) < 1e-7


@given(cbf_values, att_values, pld_values, tau_values, st.floats(0.1, 10.0))
def test_linear_in_cbf_at_fixed_t1(cbf: float, att: float, pld: float, tau: float, factor: float) -> None:
    t1 = apparent_t1(60.0)
    scaled = delta_m(factor * cbf, att, pld, tau, t1_apparent=t1)
    assert scaled == pytest.approx(factor * delta_m(cbf, att, pld, tau, t1_apparent=t1), rel=1e-12, abs=1e-18)


@given(cbf_values, att_values, pld_values)
def test_sub_boli_add_up_to_the_whole_bolus(cbf: float, att: float, pld: float) -> None:
    """Label is conserved: a bolus cut in pieces gives the signal of the whole, the reason why time encoding works."""
    pieces = np.array([0.5, 0.3, 0.2])
    later = np.array([0.5, 0.2, 0.0])  # time labeled after each piece
    assert delta_m(cbf, att, pld + later, pieces).sum() == pytest.approx(delta_m(cbf, att, pld, 1.0), rel=1e-10)


def test_steady_state_of_an_endless_bolus_is_inflow_times_lifetime() -> None:
    constants = Constants()
    expected = 2 * 0.85 * (60 / 6000) * apparent_t1(60.0) * np.exp(-1.0 / 1.65)
    assert delta_m(60.0, 1.0, 0.0, 100.0, constants) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("att", "tau"), [(0.7, 1.8), (1.3, 0.33), (2.1, 1.0)])
def test_closed_form_solves_the_differential_equation(att: float, tau: float) -> None:
    """Integrate dM/dt = inflow(t) - M / T1' numerically and meet the closed form everywhere."""
    cbf = 65.0
    inflow = 2 * 0.85 * cbf / 6000 * np.exp(-att / 1.65)
    times = np.linspace(0.0, 4.0, 81)

    def rate(time: float, signal: np.ndarray) -> np.ndarray:
        return inflow * (att < time <= att + tau) - signal / apparent_t1(cbf)

    solution = solve_ivp(rate, (0, 4), [0.0], t_eval=times, max_step=2e-3, rtol=1e-8, atol=1e-12)
    # the solver starts labeling at t = 0: t = tau + PLD may be shorter than tau, so PLD may be negative here
    np.testing.assert_allclose(delta_m(cbf, att, times - tau, tau), solution.y[0], atol=3e-6)


@given(cbf_values, att_values, pld_values, tau_values, st.floats(-0.5, 0.9))
def test_rate_is_the_derivative_along_a_changing_duration(
    cbf: float, att: float, pld: float, tau: float, slope: float
) -> None:
    """t grows by dt, of which tau takes slope * dt and PLD the rest."""
    step = 1e-6
    since = pld + tau - att
    if min(abs(since), abs(since - tau)) < 1e-3:
        return  # the derivative jumps at arrival and at the end of the bolus
    ends = [delta_m(cbf, att, pld + sign * (1 - slope) * step, tau + sign * slope * step) for sign in (-1.0, 1.0)]
    numeric = (ends[1] - ends[0]) / (2 * step)
    assert delta_m_rate(cbf, att, pld, tau, slope) == pytest.approx(numeric, rel=1e-4, abs=1e-8)


@given(cbf_values, att_values, pld_values, tau_values)
def test_both_readings_of_the_papers_p_agree_on_the_solution(cbf: float, att: float, pld: float, tau: float) -> None:
    signal = delta_m(cbf, att, pld, tau)
    assert delta_m_ode(signal, cbf, att, pld, tau) == pytest.approx(delta_m_rate(cbf, att, pld, tau), abs=1e-12)
    # too much signal decays faster: the second reading pulls back, the first does not know the signal
    assert delta_m_ode(signal + 1e-3, cbf, att, pld, tau) < delta_m_rate(cbf, att, pld, tau)


@given(cbf_values, att_values, st.tuples(pld_values, pld_values), st.tuples(tau_values, tau_values))
def test_increments_add_up(cbf: float, att: float, pld: tuple[float, float], tau: tuple[float, float]) -> None:
    forth = increment(cbf, att, pld, tau)
    back = increment(cbf, att, pld[::-1], tau[::-1])
    assert forth == pytest.approx(-back, abs=1e-15)
    assert forth == pytest.approx(delta_m(cbf, att, pld[1], tau[1]) - delta_m(cbf, att, pld[0], tau[0]), abs=1e-15)


def test_numpy_and_torch_share_one_formula_and_autograd_agrees() -> None:
    cbf, att = np.array([20.0, 60.0, 90.0])[:, None], np.array([0.8, 1.2, 2.0])[:, None]
    pld, tau = np.array([0.05, 0.4, 1.5, 2.9]), np.array([0.3, 0.5, 0.7, 0.9])
    tensors = [torch.tensor(value, dtype=torch.float64) for value in (cbf, att, pld, tau)]
    np.testing.assert_allclose(delta_m(*tensors).numpy(), delta_m(cbf, att, pld, tau), rtol=1e-12)
    np.testing.assert_allclose(delta_m_rate(*tensors, 0.2).numpy(), delta_m_rate(cbf, att, pld, tau, 0.2), rtol=1e-12)
    time = torch.zeros(4, dtype=torch.float64, requires_grad=True)  # autograd knows nothing of our derivative
    delta_m(tensors[0], tensors[1], tensors[2] + time, tensors[3]).sum().backward()
    np.testing.assert_allclose(time.grad, delta_m_rate(cbf, att, pld, tau).sum(axis=0), rtol=1e-10)


def test_arterial_blood_passes_and_is_gone() -> None:
    times = np.array([0.3, 0.6, 1.0, 2.5])
    signal = arterial(0.02, 0.5, times - 1.8, 1.8)
    expected = 2 * 0.85 * 0.02 * np.exp(-0.5 / 1.65)
    np.testing.assert_allclose(signal, [0, expected, expected, 0])


def test_background_suppression_costs_five_percent_a_pulse() -> None:
    plain, suppressed = Constants(), Constants(suppression_pulses=2)
    assert delta_m(60, 1, 0.5, 1.8, suppressed) == pytest.approx(0.95**2 * delta_m(60, 1, 0.5, 1.8, plain))


@pytest.mark.parametrize("wrong", [{"t1_blood": 0.0}, {"t1_tissue": 1300.0}, {"labeling_efficiency": 1.2}])
def test_impossible_constants_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Constants(**wrong)

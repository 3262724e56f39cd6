"""Soft edges of the bolus: what they leave of Buxton's model, and the gradient by ATT that sharp ones do not have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from aslpinn import Acquisition, InputError, fit, simulate
from aslpinn.estimation import prepare
from aslpinn.estimation.networks import compiled_physics
from aslpinn.estimation.networks.config import PinnOptions
from aslpinn.estimation.networks.objectives import TorchDurations
from aslpinn.estimation.networks.train import Samples, edge_width
from aslpinn.physics import Constants, delta_m, delta_m_ode, delta_m_rate

widths = st.sampled_from([0.01, 0.05, 0.2])
T = np.linspace(-2.0, 8.0, 20001)


@settings(max_examples=50, deadline=None)
@given(st.floats(5, 120), st.floats(0.3, 2.5), st.floats(0.1, 2.0), st.floats(-0.5, 0.9), widths)
def test_the_derivative_reading_is_the_derivative_of_the_soft_signal(cbf, att, tau, slope, width):
    t = torch.linspace(0.0, 5.0, 101, dtype=torch.float64, requires_grad=True)
    duration = tau + slope * (t - t.detach())
    signal = delta_m(torch.tensor(cbf), att, t - duration, duration, edge_width=width)
    (numeric,) = torch.autograd.grad(signal.sum(), t)
    rate = delta_m_rate(torch.tensor(cbf), att, t - duration, duration, slope, edge_width=width)
    np.testing.assert_allclose(rate.detach(), numeric, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(("att", "tau"), [(0.7, 0.327), (1.4, 0.135), (1.0, 1.8)])
def test_soft_edges_become_sharp_ones_as_they_narrow_and_do_not_shift_arrival(att, tau):
    sharp = delta_m(60.0, att, T - tau, tau)
    constants = Constants()
    inflow = 2 * constants.efficiency * 60 / 6000 * np.exp(-att / constants.t1_blood)
    off = []
    for width in (0.2, 0.1, 0.05, 0.025):
        soft = delta_m(60.0, att, T - tau, tau, edge_width=width)
        off.append(np.abs(soft - sharp).max())
        entering = delta_m_ode(0.0, 60.0, att, T - tau, tau, edge_width=width)
        assert np.trapezoid(entering, T) == pytest.approx(inflow * tau, rel=1e-6)  # no label is lost
        middle = np.trapezoid(entering * T, T) / np.trapezoid(entering, T)
        assert middle == pytest.approx(att + tau / 2, abs=1e-5)
        mirrored = delta_m_ode(0.0, 60.0, att, 2 * att + tau - T - tau, tau, edge_width=width)
        np.testing.assert_allclose(entering, mirrored, atol=1e-12)  # the same from either end
    assert np.all(np.diff(off) < 0)
    assert off[-1] < 0.7 * 0.025 * inflow  # log(2) w of inflow at an edge


def readings_differ(width, att, tau):
    """Largest difference of the two readings on the soft signal, as a share of the largest P."""
    signal = delta_m(60.0, att, T - tau, tau, edge_width=width)
    ode = delta_m_ode(signal, 60.0, att, T - tau, tau, edge_width=width)
    rate = delta_m_rate(60.0, att, T - tau, tau, edge_width=width)
    return np.abs(ode - rate).max() / np.abs(rate).max()


@pytest.mark.parametrize("tau", [0.327, 1.8])
def test_the_readings_differ_by_a_share_that_vanishes_with_the_width(tau):
    shares = [readings_differ(width, 1.1, tau) for width in (0.1, 0.05, 0.025, 0.0125)]
    assert shares[1] == pytest.approx(0.017, abs=0.001)  # at 0.05 s, about the default for sub-boli of 0.3 s
    assert np.array(shares[2:]) / np.array(shares[1:-1]) == pytest.approx(0.5, abs=0.06)
    assert readings_differ(1e-6, 1.1, tau) < 1e-5


def test_only_soft_edges_let_the_rate_move_att():
    """In the middle of the bolus the sharp inflow's slope by ATT is its decay alone, and near an edge too."""

    def slope(at, width):
        att = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        inflow = delta_m_ode(0.0, torch.tensor(60.0), att, torch.tensor(at - 0.3), 0.3, edge_width=width)
        (found,) = torch.autograd.grad(inflow, att)
        return float(found) / float(delta_m_ode(0.0, 60.0, 1.0, 0.85, 0.3))

    assert slope(1.02, 0.0) == pytest.approx(-1 / 1.65, rel=1e-6)
    assert slope(0.98, 0.0) == 0
    assert slope(1.02, 0.05) < -4.0
    assert slope(0.98, 0.05) < -4.0
    assert slope(1.32, 0.05) > 4.0


def test_values_and_gradients_are_finite_far_from_the_edges_in_single_precision():
    width = 0.05
    att = torch.tensor(1.5, requires_grad=True)
    cbf = torch.tensor(60.0, requires_grad=True)
    far = torch.tensor([-1e3, -1e2, -1.0, 0.0, 1.0, 1e2, 1e3]) * width
    for function in (delta_m, delta_m_rate):
        found = function(cbf, att, far + 1.5 - 0.3, torch.tensor(0.3), edge_width=width)
        gradients = torch.autograd.grad(found.sum(), (cbf, att))
        assert found.dtype == torch.float32
        assert torch.isfinite(found).all()
        assert all(torch.isfinite(g) for g in gradients)
    found = delta_m_rate(
        np.float32(60), np.float32(1.5), far.numpy() + np.float32(1.2), np.float32(0.3), edge_width=width
    )
    assert np.isfinite(found).all()


def test_the_compiled_edges_are_exact_to_single_precision_and_finite_far_out():
    @njit
    def table(x, width, out):
        for i in range(x.size):
            out[i, 0] = compiled_physics.softplus(x[i], width)
            out[i, 1] = compiled_physics.logistic(x[i], width)
            out[i, 2] = compiled_physics.logistic_slope(x[i], width)

    width = np.float32(0.05)
    z = np.concatenate([np.linspace(-30, 30, 100_001), [-1e3, 1e3, -1e6, 1e6]]).astype(np.float32)
    out = np.empty((z.size, 3), np.float32)
    table(z * width, width, out)
    assert np.isfinite(out).all()
    z = (z * width).astype(float) / float(width)
    share = np.exp(-np.logaddexp(0.0, -z))
    assert np.abs(out[:, 0] - width * np.logaddexp(0.0, z))[:-4].max() < 2e-7
    assert np.abs(out[:, 1] - share).max() < 4e-7
    assert np.abs(out[:, 2] - share * (1 - share) / width).max() < 1e-5


@pytest.fixture(scope="module")
def coarse():
    return simulate("te11-t1adjusted", tsnr=1.5, voxel_size=(6.0, 6.0, 10.0), seed=5)


SMALL = {"levels": 4, "base": 8, "finest": 48, "epochs": 30, "batch": 300, "lr": 1e-2, "schedule": "one-cycle"}


def trained(phantom, **settings):
    """A small network fitted with the paper's loss: the estimate, CBF in gray matter over the truth, r of ATT."""
    options = {"preset": "paper", "objective": "pointwise", **SMALL, **settings}
    found = fit(
        phantom.series, phantom.mask, phantom.acquisition, voxel_size=(6.0, 6.0, 10.0), estimator="pinn", **options
    )
    gray, mask = phantom.gm > 0.7, phantom.mask
    share = found.cbf[gray].mean() / phantom.cbf[gray].mean()
    return found, share, np.corrcoef(found.att[mask], phantom.att[mask])[0, 1]


@pytest.mark.parametrize("reading", ["ode", "derivative"])
def test_the_papers_loss_finds_cbf_and_att_with_soft_edges_and_fails_with_steps(coarse, reading):
    found, share, att = trained(coarse, reading=reading)
    assert share == pytest.approx(1.0, abs=0.1)
    assert att > 0.85
    assert found.settings["edge_width"] == pytest.approx(0.0519, abs=1e-4)
    _, share, att = trained(coarse, reading=reading, edge_width=0.0)
    assert share < 0.6
    assert att < 0.4


@pytest.mark.parametrize(
    ("protocol", "width", "initial"),
    [("te11", 0.0491, "off"), ("te11-t1adjusted", 0.0519, "off"), ("mpld6", 0.0725, "on")],
)
def test_width_and_initial_condition_follow_the_sampling_and_are_written_down(protocol, width, initial):
    phantom = simulate(protocol, tsnr=3.0, voxel_size=(9.0, 9.0, 12.0))
    known = {"pointwise": width, "increments": None, "closed-form": None}
    for objective, expected in known.items():
        settings = trained(phantom, objective=objective, epochs=1)[0].settings
        assert settings["edge_width"] == pytest.approx(expected, abs=1e-4)
        assert settings["initial_condition"] == ("off" if objective == "closed-form" else initial)
        settings = trained(phantom, preset="default", objective=objective, level_decay=3.0, epochs=1)[0].settings
        assert settings["initial_condition"] == ("off" if objective == "closed-form" else "on")
    assert trained(phantom, edge_width=0.1, initial_condition="off", epochs=1)[0].settings["edge_width"] == 0.1


def test_a_width_is_refused_where_there_is_no_edge(coarse):
    for objective in ("increments", "closed-form"):
        with pytest.raises(InputError, match=r"edge_width is 0\.05, and objective"):
            trained(coarse, objective=objective, edge_width=0.05)
    with pytest.raises(InputError, match="edge_width is -1"):
        trained(coarse, edge_width=-1.0)
    kernel = Constants(dispersion_sharpness=7.4, dispersion_time_to_peak=0.15)
    dispersed = Acquisition(
        coarse.acquisition.labeling_duration, coarse.acquisition.post_labeling_delay, constants=kernel
    )
    problem = prepare(coarse.series, coarse.mask, dispersed)
    assert edge_width(problem, PinnOptions(objective="pointwise")) == 0
    with pytest.raises(InputError, match="dispersed"):
        edge_width(problem, PinnOptions(objective="pointwise", edge_width=0.05))


def test_the_initial_condition_is_one_more_sample_and_times_fall_from_there():
    phantom = simulate("mpld6", tsnr=3.0, voxel_size=(9.0, 9.0, 12.0))
    problem = prepare(phantom.series, phantom.mask, phantom.acquisition)
    config = PinnOptions(objective="pointwise")
    samples = Samples.of(problem, (9.0, 9.0, 12.0), config)
    n, delays = problem.signal.shape
    assert samples.signal.shape == (n, delays + 1)
    assert not samples.signal[:, -1].any()
    assert samples.weight[0, -1] == pytest.approx(samples.weight[0, :-1].mean())
    drawn = torch.rand(500, 4, generator=torch.Generator().manual_seed(0))
    times = TorchDurations(samples.durations).collocated(torch.tensor(samples.pld), drawn)
    assert times.t[:, delays].abs().max() < 1e-6
    between = times.t[:, delays + 1 :]
    assert 0 <= float(between.min()) < 0.05
    assert float(between.max()) > problem.acquisition.time.max() - 0.05
    early = between < problem.acquisition.time.min()
    assert 0.3 < float(early.float().mean()) < 0.7
    assert torch.all(times.tau[:, delays + 1 :][early] == float(problem.tau[0]))
    assert torch.all(times.slope[:, delays + 1 :][early] == 0)
    other = samples.with_signal(np.ones((n, delays), np.float32))
    assert (other.signal[:, :-1] == np.float32(samples.scale)).all()
    assert not other.signal[:, -1].any()


@pytest.mark.parametrize("objective", ["pointwise", "increments"])
def test_ordinary_multi_delay_data_need_the_initial_condition(objective):
    """Every sample comes long after label began to arrive: without it the loss does not know the signal's constant."""
    phantom = simulate("mpld6", tsnr=1.5, voxel_size=(6.0, 6.0, 10.0), seed=5)
    reading = {"reading": "ode"} if objective == "pointwise" else {}
    off = {}
    for initial in ("on", "off"):
        _, share, _ = trained(phantom, objective=objective, initial_condition=initial, **reading)
        off[initial] = abs(share - 1)
    assert off["on"] < 0.1
    assert off["on"] < 0.5 * off["off"]

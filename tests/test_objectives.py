"""The three objectives as functions: what each is at the truth, and how much of P's slope a smooth curve has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline, PchipInterpolator

from aslpinn import Acquisition
from aslpinn.estimation.networks.durations import Durations
from aslpinn.estimation.networks.objectives import TorchDurations, closed_form, increments, pointwise
from aslpinn.physics import delta_m, delta_m_rate
from aslpinn_book.chapters.losses import match_slope

SHORTENING = np.array([0.890, 0.575, 0.426, 0.338, 0.280, 0.240, 0.209, 0.186, 0.167, 0.151, 0.139])
EQUAL = Acquisition(np.full(11, 3.6 / 11), 0.049 + 3.6 / 11 * np.arange(10, -1, -1))
UNEQUAL = Acquisition(SHORTENING, 0.049 + SHORTENING[::-1].cumsum()[::-1] - SHORTENING)
PROTOCOLS = pytest.mark.parametrize("acquisition", [EQUAL, UNEQUAL], ids=["equal", "T1-adjusted"])
WEIGHT = torch.ones(1, 1)


def truth(acquisition, n=40, collocation=4, seed=0):
    """Random CBF and ATT, acquired and collocated times, and Buxton's signal and rate there."""
    rng = np.random.default_rng(seed)
    cbf = 20 + 60 * torch.from_numpy(rng.random(n, np.float32))
    att = 0.7 + 1.0 * torch.from_numpy(rng.random(n, np.float32))
    durations = Durations(acquisition)
    drawn = torch.from_numpy(durations.draw(n, collocation, rng))
    times = TorchDurations(durations).collocated(torch.from_numpy(durations.nominal), drawn)
    signal = delta_m(cbf[:, None], att[:, None], times.pld, times.tau)
    rate = delta_m_rate(cbf[:, None], att[:, None], times.pld, times.tau, times.slope)
    return cbf, att, times, signal, rate


@PROTOCOLS
def test_every_objective_is_zero_at_the_truth(acquisition):
    cbf, att, times, signal, rate = truth(acquisition)
    scale, measured = 200.0, 200.0 * signal[:, : len(acquisition)]
    constants = acquisition.constants
    acquired = TorchDurations(Durations(acquisition)).acquired(times.pld[:, : len(acquisition)])
    losses = [
        closed_form(measured, WEIGHT, cbf, att, acquired, constants, scale),
        increments(measured, WEIGHT, scale * signal, cbf, att, times, constants, scale),
        pointwise(measured, WEIGHT, scale * signal, scale * rate, cbf, att, times, constants, scale),
        pointwise(measured, WEIGHT, scale * signal, scale * rate, cbf, att, times, constants, scale, reading="ode"),
    ]
    for each in losses:
        assert float(each["total"]) < 1e-9
        assert float(each["total"]) == pytest.approx(sum(float(v) for k, v in each.items() if k != "total"), abs=1e-9)


@PROTOCOLS
def test_every_objective_rises_away_from_the_truth(acquisition):
    cbf, att, times, signal, rate = truth(acquisition)
    measured = signal[:, : len(acquisition)]
    constants = acquisition.constants
    for moved in ((cbf * 1.2, att), (cbf, att + 0.2)):
        losses = [
            increments(measured, WEIGHT, signal, *moved, times, constants, 200.0),
            pointwise(measured, WEIGHT, signal, rate, *moved, times, constants, 200.0),
        ]
        for each in losses:
            assert float(each["physics"]) > 1e-3


def test_collocation_times_are_uniform_between_the_first_and_the_last_delay_of_each_slice():
    durations = Durations(UNEQUAL)
    shift = torch.tensor([[0.0], [0.4]])
    places = torch.from_numpy(durations.draw(2, 4000, np.random.default_rng(1)))
    times = TorchDurations(durations).collocated(torch.from_numpy(durations.nominal) + shift, places)
    drawn = times.pld[:, 11:] - shift
    low, high = UNEQUAL.post_labeling_delay.min(), UNEQUAL.post_labeling_delay.max()
    assert float(drawn.min()) >= low - 1e-5
    assert float(drawn.max()) <= high + 1e-5
    quartiles = np.quantile(drawn.numpy(), [0.25, 0.5, 0.75])
    assert quartiles == pytest.approx(low + (high - low) * np.array([0.25, 0.5, 0.75]), abs=0.05)
    tau, slope = UNEQUAL.duration_at(drawn.numpy())
    assert times.tau[:, 11:].numpy() == pytest.approx(tau, abs=2e-4)
    assert times.slope[:, 11:].numpy() == pytest.approx(slope, abs=2e-3)


def test_weight_zero_leaves_a_sample_out():
    cbf, att, times, signal, _ = truth(EQUAL, collocation=0)
    measured = signal.clone()
    measured[:, 3] += 100.0
    weight = torch.ones(1, 11)
    weight[:, 3] = 0
    assert float(closed_form(measured, weight, cbf, att, times, EQUAL.constants)["total"]) < 1e-12


def best_cbf_share(interpolator, acquisition, rng, voxels=60, collocation=4):
    """Mean share of CBF that matching slopes finds, and mean error of ATT, over random voxels."""
    truth = np.stack([rng.uniform(20, 80, voxels), rng.uniform(0.7, 1.7, voxels)], axis=1)
    found = np.array([match_slope(*pair, acquisition, collocation, rng, interpolator) for pair in truth])
    return (found[:, 0] / truth[:, 0]).mean(), (found[:, 1] - truth[:, 1]).mean()


@PROTOCOLS
@pytest.mark.parametrize(("interpolator", "low", "high"), [(CubicSpline, 0.5, 0.78), (PchipInterpolator, 0.3, 0.5)])
def test_a_smooth_curve_through_time_encoded_samples_has_about_half_of_the_slope(
    acquisition, interpolator, low, high, rng
):
    share, shift = best_cbf_share(interpolator, acquisition, rng)
    assert low < share < high
    assert abs(shift) < 0.1


@PROTOCOLS
def test_more_collocation_times_find_more_of_the_slope_but_not_all(acquisition, rng):
    few, _ = best_cbf_share(PchipInterpolator, acquisition, rng)
    many, _ = best_cbf_share(PchipInterpolator, acquisition, rng, collocation=1000)
    assert few + 0.2 < many < 0.85


def test_a_smooth_curve_has_the_whole_slope_where_samples_are_dense_against_the_bolus(rng):
    """A long bolus seen every 50 ms: the slope is resolved, and the same matching finds CBF."""
    dense = Acquisition(1.8, np.arange(0.05, 3.0, 0.05))
    share, _ = best_cbf_share(PchipInterpolator, dense, rng, voxels=10)
    assert share == pytest.approx(1.0, abs=0.1)


@PROTOCOLS
def test_increments_of_a_spline_find_cbf_without_bias(acquisition, rng):
    """The same spline, compared over the acquired times by its increments: CBF within 1 %."""
    order = np.argsort(acquisition.time)
    tau, pld = acquisition.labeling_duration[order], acquisition.post_labeling_delay[order]
    for _ in range(10):
        cbf, att = rng.uniform(20, 80), rng.uniform(0.7, 1.7)
        spline = PchipInterpolator(pld + tau, delta_m(cbf, att, pld, tau))
        step = np.diff(spline(pld + tau))
        unit = np.diff(delta_m(cbf, att, pld, tau) / cbf)
        assert (unit @ step) / (unit @ unit) == pytest.approx(cbf, rel=0.01)

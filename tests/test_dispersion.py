"""A gamma kernel spreads the bolus: no label is lost, a sharp one is Buxton's, and estimators that cannot say so."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import gamma

from aslpinn import Acquisition, InputError, fit
from aslpinn.data import simulate
from aslpinn.estimation.networks.durations import Durations
from aslpinn.estimation.networks.objectives import TorchDurations, closed_form
from aslpinn.physics import Constants, delta_m, delta_m_rate

TYPICAL = Constants(dispersion_sharpness=7.4, dispersion_time_to_peak=0.15)
TIME = np.linspace(0.05, 4, 80)


@given(cbf=st.floats(5, 120), att=st.floats(0.3, 2.0), tau=st.floats(0.2, 1.8))
@settings(max_examples=25, deadline=None)
def test_a_sharp_kernel_is_no_dispersion(cbf, att, tau):
    sharp = Constants(dispersion_sharpness=5000.0)
    plain = delta_m(cbf, att, TIME - tau, tau)
    np.testing.assert_allclose(delta_m(cbf, att, TIME - tau, tau, sharp), plain, atol=2e-3 * plain.max())


@pytest.mark.parametrize(("sharpness", "peak"), [(2.0, 0.0), (7.4, 0.15), (20.0, 0.5)])
def test_no_label_is_lost_where_none_decays(sharpness, peak):
    without = {"t1_blood": 9.9, "t1_tissue": 9.9, "partition_coefficient": 9.9}
    constants = Constants(dispersion_sharpness=sharpness, dispersion_time_to_peak=peak, **without)
    endless = delta_m(60.0, 1.0, 40.0, 0.7, constants, t1_apparent=1e7)
    assert endless == pytest.approx(delta_m(60.0, 1.0, 40.0, 0.7, Constants(**without), t1_apparent=1e7), rel=1e-3)


def test_it_is_the_convolution_of_buxtons_signal_with_the_kernel():
    s, p = TYPICAL.dispersion_sharpness, TYPICAL.dispersion_time_to_peak
    kernel = gamma(1 + s * p, scale=1 / s)

    def dispersed(t):
        # The kernel shifts arrival; blood decays with the ATT of the first label, in both.
        at = [1.1, 1.8, t]
        return quad(
            lambda u: kernel.pdf(u) * delta_m(50.0, 1.1, t - u - 0.7, 0.7),
            0,
            t,
            points=[t - a for a in at if t - a > 0],
        )[0]

    for t in (1.2, 1.5, 2.0, 3.0):
        assert delta_m(50.0, 1.1, t - 0.7, 0.7, TYPICAL) == pytest.approx(dispersed(t), rel=2e-3)


def test_rate_is_the_derivative_of_the_signal_and_torch_agrees():
    step = 1e-5
    for slope in (0.0, 0.3):  # tau grows with t
        up, down = (delta_m(50.0, 1.1, TIME - 0.7 + (1 - slope) * h, 0.7 + slope * h, TYPICAL) for h in (step, -step))
        rate = delta_m_rate(50.0, 1.1, TIME - 0.7, 0.7, slope, TYPICAL)
        np.testing.assert_allclose(rate, (up - down) / (2 * step), atol=1e-6)
    cbf = torch.tensor(50.0, dtype=torch.float64)
    time = torch.tensor(TIME)
    np.testing.assert_allclose(
        delta_m(cbf, torch.tensor(1.1, dtype=torch.float64), time - 0.7, 0.7, TYPICAL).numpy(),
        delta_m(50.0, 1.1, TIME - 0.7, 0.7, TYPICAL),
        atol=1e-9,
    )


@pytest.fixture(scope="module")
def dispersed():
    return simulate("te11", tsnr=None, voxel_size=(9.0, 9.0, 12.0), constants=TYPICAL)


@pytest.mark.parametrize("estimator", ["nlls", "smoothed"])
def test_estimators_that_know_of_it_find_the_truth(dispersed, estimator):
    options = {"kernel": 0.0} if estimator == "smoothed" else {}
    found = fit(dispersed.series, dispersed.mask, dispersed.acquisition, estimator=estimator, **options)
    inside = dispersed.mask
    assert np.abs(found.cbf - dispersed.cbf)[inside].max() < 1.0
    assert np.median(np.abs(found.att - dispersed.att)[inside]) < 0.01
    blind = Acquisition(dispersed.acquisition.labeling_duration, dispersed.acquisition.post_labeling_delay)
    late = fit(dispersed.series, dispersed.mask, blind, estimator=estimator, **options)
    mean_delay = 0.15 + 1 / 7.4  # a fit without dispersion takes the kernel's delay for transit time
    assert np.median((late.att - dispersed.att)[inside]) == pytest.approx(mean_delay, abs=0.08)


def test_a_network_takes_the_kernel_into_its_loss(dispersed):
    inside, timing = dispersed.mask, dispersed.acquisition
    measured, cbf, att = (torch.tensor(1e3 * v[inside]) for v in (dispersed.series, dispersed.cbf, dispersed.att))
    times = TorchDurations(Durations(timing)).acquired(
        torch.tensor(timing.post_labeling_delay, dtype=torch.float32)[None]
    )
    losses = [
        float(closed_form(measured, torch.ones(1, 11), cbf / 1e3, att / 1e3, times, constants, 1e3)["total"])
        for constants in (timing.constants, Constants())
    ]
    assert losses[0] < 1e-9 < 1e-3 < losses[1]


@pytest.mark.parametrize("estimator", ["field", "vb", "svb"])
def test_estimators_that_do_not_know_of_it_refuse(dispersed, estimator):
    with pytest.raises(InputError, match="dispersion"):
        fit(dispersed.series, dispersed.mask, dispersed.acquisition, estimator=estimator)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dispersion_sharpness": 1.0},
        {"dispersion_sharpness": -3.0},
        {"dispersion_time_to_peak": 0.1},
        {"dispersion_sharpness": 5.0, "dispersion_time_to_peak": 30.0},
    ],
)
def test_impossible_kernels_are_refused(wrong):
    with pytest.raises(ValueError, match="dispersion"):
        Constants(**wrong)


def test_the_command_line_takes_a_kernel_and_writes_it_down(dispersed, tmp_path, capsys):
    from aslpinn.cli import main
    from aslpinn.data import write_phantom

    # A volume that is exactly zero is refused; without noise the last sub-bolus, which has not arrived, is one.
    measured = replace(dispersed, series=dispersed.series + np.where(dispersed.mask, np.float32(1e-6), 0)[..., None])
    series = str(write_phantom(measured, tmp_path / "bids")[0])
    arguments = ["fit", series, "--out", str(tmp_path / "out"), "--estimator", "nlls"]
    assert main([*arguments, "--dispersion", "7.4,0.15"]) == 0
    constants = json.loads((tmp_path / "out" / "sub-01" / "perf" / "sub-01_cbf.json").read_text())["Constants"]
    assert constants["dispersion_sharpness"] == {"Value": 7.4, "Units": "1/s"}
    assert constants["dispersion_time_to_peak"] == {"Value": 0.15, "Units": "s"}
    for wrong in ("7.4", "sharp,0.1", "0.5,0.1"):
        assert main([*arguments, "--dispersion", wrong]) == 2
        assert "dispersion" in capsys.readouterr().err

"""The ATT grid: recovery of noise-free signals, timing, bounds, SDs; the smoothed grid and its kernel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aslpinn import Acquisition, InputError, fit
from aslpinn.estimation.problem import Request, prepare
from aslpinn.estimation.voxelwise import fit_grid
from aslpinn.physics import delta_m

EQUAL = Acquisition(np.full(11, 0.327), 0.049 + 0.327 * np.arange(10, -1, -1))
LONG_TO_SHORT = np.array([0.890, 0.575, 0.426, 0.338, 0.280, 0.240, 0.209, 0.186, 0.167, 0.151, 0.139])
UNEQUAL = Acquisition(LONG_TO_SHORT, 0.049 + LONG_TO_SHORT[::-1].cumsum()[::-1] - LONG_TO_SHORT)
MULTI_PLD = Acquisition(1.4, np.repeat([0.25, 0.5, 0.75, 1.0, 1.25, 1.5], 2), slice_offset=0.045 * np.arange(4))


def brain(acquisition, rng, shape=(6, 5, 4), att=(0.6, 2.2)):
    """Random maps and the noise-free series that belongs to them, each slice at its own delay."""
    cbf = rng.uniform(10, 100, shape)
    att = rng.uniform(*att, shape)
    mask = np.ones(shape, bool)
    pld = acquisition.pld_at(np.argwhere(mask)).reshape(-1, 1, len(acquisition))
    pld = np.broadcast_to(pld, (cbf.size, 1, len(acquisition))).reshape((*shape, -1))
    series = delta_m(cbf[..., None], att[..., None], pld, acquisition.labeling_duration, acquisition.constants)
    return cbf, att, mask, series


def grid_fit(series, mask, acquisition):
    return fit_grid(prepare(series, mask, acquisition), Request())


@pytest.mark.parametrize(
    ("acquisition", "att"),
    [(EQUAL, (0.6, 2.2)), (UNEQUAL, (0.6, 2.2)), (MULTI_PLD, (0.6, 2.2))],
    ids=["equal sub-boli", "T1-adjusted sub-boli", "multi-PLD, slices, repeats"],
)
def test_noise_free_maps_are_recovered(acquisition, att, rng):
    cbf, att_true, mask, series = brain(acquisition, rng, att=att)
    estimate = grid_fit(series, mask, acquisition)
    assert np.abs(estimate.cbf / cbf - 1).max() < 0.01
    assert np.abs(estimate.att - att_true).max() < 0.02
    assert estimate.fitted.shape[-1] == len(acquisition.distinct[0])


@settings(max_examples=30, deadline=None)
@given(cbf=st.floats(5, 150), att=st.floats(0.4, 3.0), t1=st.floats(1.0, 2.0))
def test_any_single_voxel_is_recovered_whatever_the_tissue_t1(cbf, att, t1):
    from aslpinn import Constants

    acquisition = Acquisition(0.327, EQUAL.post_labeling_delay, constants=Constants(t1_tissue=t1))
    series = delta_m(cbf, att, acquisition.post_labeling_delay, 0.327, acquisition.constants)[None, None, None]
    estimate = grid_fit(series, np.ones((1, 1, 1)), acquisition)
    assert abs(float(estimate.cbf[0, 0, 0]) / cbf - 1) < 0.01
    assert abs(float(estimate.att[0, 0, 0]) - att) < 0.02


def test_ignoring_slice_times_biases_att_by_the_slice_time(rng):
    _, att, mask, series = brain(MULTI_PLD, rng)
    unaware = Acquisition(MULTI_PLD.labeling_duration, MULTI_PLD.post_labeling_delay)
    shift = (att - grid_fit(series, mask, unaware).att)[..., 3]
    assert np.median(shift) == pytest.approx(0.135, abs=0.03)


def test_repeats_are_averaged_and_weigh_by_their_number(rng):
    acquisition = Acquisition(1.4, [0.25, 1.0, 0.25, 1.5, 0.25])
    series = rng.normal(0.005, 0.001, (2, 2, 2, 5))
    problem = prepare(series, np.ones((2, 2, 2)), acquisition)
    assert problem.counts.tolist() == [3, 1, 1]
    assert problem.signal[:, 0] == pytest.approx(series.reshape(8, 5)[:, [0, 2, 4]].mean(axis=1), rel=1e-5)


def test_negative_signal_gives_zero_cbf_not_negative(rng):
    _, _, mask, series = brain(EQUAL, rng)
    series[0, 0, 0] *= -1
    estimate = grid_fit(series, mask, EQUAL)
    assert estimate.cbf[0, 0, 0] == 0
    assert estimate.info["zero_cbf_share"] == pytest.approx(1 / mask.sum())
    assert estimate.att_sd[0, 0, 0] > 1  # nothing is known of it


def test_sd_of_cbf_is_the_scatter_over_noise_realizations(rng):
    """At high SNR the Gauss-Newton SD matches the scatter of a thousand fits; the noise SD is found from residuals."""
    cbf, att, noise = 60.0, 1.05, 2e-4
    clean = delta_m(cbf, att, MULTI_PLD.post_labeling_delay, 1.4)
    series = clean + noise * rng.standard_normal((1000, 1, 1, 12))
    timing = Acquisition(1.4, MULTI_PLD.post_labeling_delay)
    estimate = grid_fit(series, np.ones((1000, 1, 1)), timing)
    assert estimate.info["noise_sd"] == pytest.approx(noise, rel=0.05)
    assert np.median(estimate.cbf_sd) == pytest.approx(estimate.cbf.std(), rel=0.2)
    assert np.median(estimate.att_sd) == pytest.approx(estimate.att.std(), rel=0.3)


def test_smoothing_does_not_darken_the_edge_of_the_mask():
    mask = np.zeros((9, 9, 5), bool)
    mask[2:7, 2:7, 1:4] = True
    signal = delta_m(50.0, 1.2, EQUAL.post_labeling_delay, 0.327)
    series = np.where(mask[..., None], signal, 1.0)  # something bright outside
    estimate = fit(series, mask, EQUAL, estimator="smoothed", kernel=2.0, voxel_size=(1, 1, 1))
    assert estimate.cbf[mask] == pytest.approx(50.0, rel=0.01)
    assert not estimate.cbf[~mask].any()


@pytest.mark.parametrize("noise", [1e-4, 1.2e-3])
def test_more_noise_makes_the_data_choose_a_wider_kernel(noise, rng):
    x, y, z = np.meshgrid(*(np.linspace(0, 2 * np.pi, n) for n in (24, 24, 10)), indexing="ij")
    cbf, att = 40 + 25 * np.sin(2 * x) * np.cos(2 * y), 1.2 + 0.3 * np.sin(z)
    clean = delta_m(cbf[..., None], att[..., None], EQUAL.post_labeling_delay, 0.327)
    series = clean + noise * rng.standard_normal(clean.shape)
    estimate = fit(series, np.ones(cbf.shape), EQUAL, estimator="smoothed", voxel_size=(3, 3, 3))
    if noise < 5e-4:
        assert estimate.settings["kernel"] <= 2.4
    else:
        assert estimate.settings["kernel"] >= 3
    assert estimate.settings["kernel_source"] == "leave-one-delay-out"


def test_two_delays_need_a_given_kernel(rng):
    acquisition = Acquisition(1.4, [0.5, 1.5])
    series = rng.normal(0.005, 1e-4, (3, 3, 3, 2))
    with pytest.raises(InputError, match="give kernel"):
        fit(series, np.ones((3, 3, 3)), acquisition, estimator="smoothed", voxel_size=(1, 1, 1))
    assert (
        fit(series, np.ones((3, 3, 3)), acquisition, estimator="smoothed", kernel=3, voxel_size=(1, 1, 1)).cbf_sd
        is None
    )

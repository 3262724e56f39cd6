"""Metrics equal their definitions, say what they are over, and reproduce what was measured on the reference fits."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aslpinn import InputError
from aslpinn.maps import metrics


@pytest.fixture
def brain(rng):
    mask = np.zeros((16, 18, 12), dtype=bool)
    mask[3:13, 3:15, 2:10] = True
    truth = np.where(mask, 40 + 12 * rng.standard_normal(mask.shape), 0)
    return mask, truth


def test_pcc_is_pearsons_and_only_of_the_region(brain, rng):
    mask, truth = brain
    estimate = truth + 5 * rng.standard_normal(mask.shape)
    expected = stats.pearsonr(estimate[mask], truth[mask]).statistic
    assert metrics.pcc(estimate, truth, mask) == pytest.approx(expected, abs=1e-12)
    broken_outside = np.where(mask, estimate, 1e6)
    assert metrics.pcc(broken_outside, truth, mask) == pytest.approx(expected, abs=1e-12)


@given(st.floats(0.1, 10), st.floats(-50, 50))
@settings(max_examples=30, deadline=None)
def test_pcc_sees_neither_scale_nor_offset_but_bias_does(scale, offset):
    rng = np.random.default_rng(0)
    mask = np.ones((5, 5, 5), dtype=bool)
    truth = 40 + rng.standard_normal(mask.shape)
    assert metrics.pcc(scale * truth + offset, truth, mask) == pytest.approx(1)
    assert metrics.bias(scale * truth + offset, truth, mask) == pytest.approx((scale - 1) * truth.mean() + offset)


def test_whole_volume_flatters_a_map_without_information(brain):
    mask, truth = brain
    constant = np.where(mask, 40.0, 0)
    assert metrics.pcc(constant, truth, metrics.everywhere(mask)) > 0.8
    noisy = np.where(mask, 40 + np.random.default_rng(3).standard_normal(mask.shape), 0)
    assert abs(metrics.pcc(noisy, truth, mask)) < 0.1
    assert np.isnan(metrics.pcc(constant, truth, mask))


def test_ssim_is_one_for_the_truth_and_ignores_what_is_outside(brain, rng):
    mask, truth = brain
    assert metrics.ssim(truth, truth, mask) == pytest.approx(1)
    estimate = truth + 8 * rng.standard_normal(mask.shape)
    inside = metrics.ssim(estimate, truth, mask)
    assert 0.2 < inside < 0.95
    assert metrics.ssim(np.where(mask, estimate, -300), truth, mask) == pytest.approx(inside, abs=1e-12)
    assert metrics.ssim(truth + 16 * rng.standard_normal(mask.shape), truth, mask) < inside


def test_ssim_follows_its_formula_where_one_window_fits():
    rng = np.random.default_rng(5)
    truth, estimate = 10 + rng.random((7, 7, 7)), 10 + rng.random((7, 7, 7))
    center = np.zeros(truth.shape, dtype=bool)
    center[3, 3, 3] = True
    span = np.ptp(truth)
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    covariance = np.cov(truth.ravel(), estimate.ravel())
    top = (2 * truth.mean() * estimate.mean() + c1) * (2 * covariance[0, 1] + c2)
    bottom = (truth.mean() ** 2 + estimate.mean() ** 2 + c1) * (covariance[0, 0] + covariance[1, 1] + c2)
    everything = np.ones(truth.shape, dtype=bool)
    assert metrics.ssim(estimate, truth, center, everything) == pytest.approx(top / bottom, rel=1e-9)


def test_errors_and_bias_have_the_units_of_the_map(brain):
    mask, truth = brain
    estimate = truth * 1.1
    assert metrics.relative_bias(estimate, truth, mask) == pytest.approx(0.1)
    assert metrics.rmse(truth + 3, truth, mask) == pytest.approx(3)
    error = metrics.relative_error(estimate, truth, mask)
    assert np.isnan(error[~mask]).all()
    np.testing.assert_allclose(error[mask & (np.abs(truth) > 1)], 10, rtol=1e-4)


def test_bias_and_sd_are_told_apart_whatever_the_number_of_seeds(rng):
    region = np.ones((20, 20, 20), dtype=bool)
    truth = rng.random(region.shape)
    offset = 2.0 * rng.standard_normal(region.shape)
    for count in (2, 5):
        maps = truth + offset + 3.0 * rng.standard_normal((count, *region.shape))
        bias, sd = metrics.bias_and_sd(maps.sum(axis=0), (maps**2).sum(axis=0), count, truth, region)
        assert bias == pytest.approx(2.0, rel=0.05)
        assert sd == pytest.approx(3.0, rel=0.03)
    noise = 40.0 * rng.standard_normal((2, *region.shape))  # so strong that two seeds do not tell a bias of 2 voxelwise
    noise[1] = -noise[0]
    maps = truth + 2.0 + noise
    assert metrics.bias_and_sd(maps.sum(axis=0), (maps**2).sum(axis=0), 2, truth, region)[0] == pytest.approx(2.0)
    with pytest.raises(InputError, match="two noise seeds"):
        metrics.bias_and_sd(truth, truth, 1, truth, region)


def test_coverage_of_a_calibrated_and_of_an_overconfident_interval(rng):
    region = np.ones((30, 30, 30), dtype=bool)
    truth = np.zeros(region.shape)
    estimate = rng.standard_normal(region.shape)
    assert metrics.coverage(estimate, np.ones(region.shape), truth, region) == pytest.approx(0.95, abs=0.01)
    assert metrics.coverage(estimate, np.full(region.shape, 0.5), truth, region) == pytest.approx(0.673, abs=0.01)
    assert metrics.coverage(estimate, np.ones(region.shape), truth, region, level=0.5) == pytest.approx(0.5, abs=0.01)


def test_held_out_error_averages_repeats_first_and_residual_does_not(rng):
    region = np.ones((12, 12, 12), dtype=bool)
    fitted = rng.random((*region.shape, 3))
    index = np.array([2, 0, 1] * 4)
    series = fitted[..., index] + 0.2 * rng.standard_normal((*region.shape, 12))
    assert metrics.residual_rmse(series, fitted, region, index) == pytest.approx(0.2, rel=0.03)
    assert metrics.held_out_error(series, fitted, region, index) == pytest.approx(0.2 / 2, rel=0.03)


def test_contrast_of_a_lesion(brain):
    mask, _ = brain
    lesion = np.zeros_like(mask)
    lesion[6:9, 7:10, 4:7] = True
    truth = np.where(lesion, 20.0, np.where(mask, 50.0, 0))
    assert metrics.contrast(truth, lesion, mask) == pytest.approx(-30)
    half = np.where(lesion, 35.0, np.where(mask, 50.0, 0))
    assert metrics.contrast_kept(half, truth, lesion, mask) == pytest.approx(0.5)


def test_spatial_cov(brain):
    mask, truth = brain
    assert metrics.spatial_cov(truth, mask) == pytest.approx(truth[mask].std() / truth[mask].mean())


def test_a_metric_without_region_or_with_missing_values_is_refused(brain):
    mask, truth = brain
    with pytest.raises(InputError, match="no voxel"):
        metrics.pcc(truth, truth, np.zeros_like(mask))
    with pytest.raises(InputError, match="same grid"):
        metrics.rmse(truth[1:], truth, mask)
    holes = truth.copy()
    holes[5, 5, 5] = np.nan
    with pytest.raises(InputError, match="not finite"):
        metrics.ssim(holes, truth, mask)


@pytest.mark.parametrize(
    ("run", "tsnr", "key", "pcc", "ssim"),
    [
        ("vb_gridinit", "1.5", "cbf", 0.78, 0.85),
        ("vb_gridinit", "1.5", "att", 0.66, 0.73),
        ("vb_gridinit", "0.5", "cbf", 0.26, 0.33),
        ("vb_gridinit", "0.5", "att", 0.23, 0.46),
        ("svb_oxasl_bat1.3", "1.5", "cbf", 0.88, 0.93),
        ("svb_oxasl_bat1.3", "1.5", "att", 0.72, 0.80),
        ("svb_oxasl_bat1.3", "0.5", "cbf", 0.64, 0.80),
        ("svb_oxasl_bat1.3", "0.5", "att", 0.33, 0.60),
    ],
)
def test_scores_of_the_reference_fits_are_those_measured_before(shared, run, tsnr, key, pcc, ssim):
    folder = shared / "reference" / "basil"
    mask = nib.load(folder / "mask.nii.gz").get_fdata() > 0
    truth = nib.load(folder / f"{key}.nii.gz").get_fdata()
    estimate = nib.load(folder / f"tsnr{tsnr}_{run}_{key}.nii.gz").get_fdata()
    assert metrics.pcc(estimate, truth, mask) == pytest.approx(pcc, abs=0.0051)
    assert metrics.ssim(estimate, truth, mask) == pytest.approx(ssim, abs=0.006)  # known to two digits

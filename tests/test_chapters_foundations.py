"""What the chapters on perfusion, Buxton's model, time encoding and classical estimation say in words, in numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aslpinn import Acquisition, Constants, fit, simulate
from aslpinn.data.phantom.protocols import PROTOCOLS
from aslpinn.maps import metrics
from aslpinn.physics import cramer_rao, delta_m, fisher_information, hadamard, sensitivities, single_delay_cbf

ONE_IMAGE = 0.003  # noise SD of an image as a share of M0b


def timing(name):
    return np.array(PROTOCOLS[name].post_labeling_delay), np.array(PROTOCOLS[name].labeling_duration)


# Perfusion


def test_one_delay_finds_cbf_where_all_label_has_arrived_and_decays_as_in_blood():
    constants = Constants()
    signal = delta_m(60.0, np.array([0.3, 1.0, 1.8, 2.2]), 1.8, 1.8, constants, t1_apparent=constants.t1_blood)
    assert single_delay_cbf(signal, 1.8, 1.8)[:3] == pytest.approx(60.0, rel=1e-9)
    assert single_delay_cbf(signal, 1.8, 1.8)[3] < 50


def test_late_blood_looks_like_little_blood_to_one_delay():
    share = single_delay_cbf(delta_m(60.0, np.array([0.8, 1.8, 2.6]), 1.8, 1.8), 1.8, 1.8) / 60
    assert 0.7 < share[0] < share[1] < 0.95
    assert share[2] < 0.5


# Buxton's model


@given(st.floats(1, 150), st.floats(0.3, 2.5), st.floats(0.05, 3), st.floats(0.1, 2))
def test_sensitivities_are_the_derivatives_of_the_signal(cbf, att, pld, tau):
    for kink in (att, att + tau):
        if abs(pld + tau - kink) < 1e-3:
            return
    by_cbf, by_att = sensitivities(cbf, att, pld, tau)
    step = 1e-4
    numeric = (delta_m(cbf + step, att, pld, tau) - delta_m(cbf - step, att, pld, tau)) / (2 * step)
    assert by_cbf == pytest.approx(numeric, rel=1e-5, abs=1e-10)
    numeric = (delta_m(cbf, att + step, pld, tau) - delta_m(cbf, att - step, pld, tau)) / (2 * step)
    assert by_att == pytest.approx(numeric, rel=1e-4, abs=1e-8)


def test_sensitivities_follow_a_dispersed_bolus():
    """The derivatives of the dispersed signal, and close to those of the plug where the kernel is narrow."""
    pld, tau = timing("te11")
    plug = sensitivities(50.0, 1.2, pld, tau)
    narrow = sensitivities(50.0, 1.2, pld, tau, Constants(dispersion_sharpness=1e4))
    for a, b in zip(plug, narrow, strict=True):
        np.testing.assert_allclose(a, b, rtol=0.02, atol=2e-2 * np.abs(a).max())
    wide = sensitivities(50.0, 1.2, pld, tau, Constants(dispersion_sharpness=5.0, dispersion_time_to_peak=0.1))
    assert np.count_nonzero(np.abs(wide[1]) > 0.2 * np.abs(wide[1]).max()) > np.count_nonzero(
        np.abs(plug[1]) > 0.2 * np.abs(plug[1]).max()
    )


def test_one_delay_cannot_give_two_numbers_however_often_repeated():
    assert np.isinf(cramer_rao(50.0, 1.2, np.full(72, 1.8), 1.8, 1e-6)).all()
    assert np.isfinite(cramer_rao(50.0, 1.2, [0.5, 1.8], 1.8, 1e-3)).all()


def test_information_adds_up_and_repeats_lower_the_bound_by_the_square_root():
    pld, tau = timing("te11")
    once = fisher_information(50.0, [0.8, 1.2], pld, tau, 1e-3)
    assert once.shape == (2, 2, 2)
    np.testing.assert_allclose(fisher_information(50.0, [0.8, 1.2], np.tile(pld, 4), tau[0], 1e-3), 4 * once)
    np.testing.assert_allclose(
        cramer_rao(50.0, 0.8, pld, tau, 1e-3), 2 * np.array(cramer_rao(50.0, 0.8, pld, tau, 5e-4))
    )


def test_least_squares_reaches_the_bound_at_low_noise_and_not_at_high(rng):
    pld, tau = timing("te11")
    for sd, low, high in ((2e-5, 0.9, 1.1), (5e-4, 1.25, 3.0)):
        series = delta_m(50.0, 1.5, pld, tau) + sd * rng.standard_normal((1500, 1, 1, 11))
        found = fit(series, np.ones((1500, 1, 1)), Acquisition(tau, pld), estimator="smoothed", kernel=0)
        assert low < found.att.std() / cramer_rao(50.0, 1.5, pld, tau, sd)[1] < high


# Time encoding


@pytest.mark.parametrize("size", [4, 8, 12])
def test_encoding_gains_the_root_of_n_minus_1_over_sub_boli_one_by_one(size, rng):
    matrix, blocks = hadamard.matrix("Hadamard", size), size - 1
    images = rng.standard_normal((4000, 2 * blocks, size))  # 2 (N - 1) repeats of N images
    encoded = hadamard.decode(images.mean(axis=1), matrix).std()
    single = np.diff(rng.standard_normal((4000, blocks, size, 2)))[..., 0].mean(axis=-1).std()  # as many images
    assert single / encoded == pytest.approx(np.sqrt(blocks), rel=0.03)


def in_ten_minutes(pld, tau, encoded):
    """RMS over ATT 0.7 to 1.7 s of the smallest SD of CBF and ATT."""
    if encoded:
        sd = 2 * ONE_IMAGE / np.sqrt(600 / ((tau + pld).max() + 0.5))
    else:
        sd = ONE_IMAGE * np.sqrt(2 / (600 / (2 * np.sum(tau + pld + 0.5))))
    return [np.sqrt(np.mean(v**2)) for v in cramer_rao(60.0, np.linspace(0.7, 1.7, 41), pld, tau, sd)]


def test_designs_rank_as_the_chapter_says():
    equal, adjusted, lunch = (
        in_ten_minutes(*timing(f"te11{kind}"), True) for kind in ("", "-t1adjusted", "-freelunch")
    )
    sequential = in_ten_minutes(np.linspace(0.2, 2.2, 6), np.full(6, 1.8), False)
    assert lunch[0] < sequential[0] < adjusted[0] < equal[0]
    assert max(equal[1], adjusted[1], lunch[1]) < 0.65 * sequential[1]
    assert np.isinf(cramer_rao(60.0, 1.9, *timing("te11-freelunch"), 1e-3)[1])


def test_t1_adjusted_sub_boli_arrive_with_equal_magnetization():
    spread = {}
    for name in ("te11", "te11-t1adjusted"):
        pld, tau = timing(name)
        left = np.exp(-pld / 1.65) - np.exp(-(pld + tau) / 1.65)
        spread[name] = left.max() / left.min()
    assert spread["te11-t1adjusted"] < 1.02
    assert spread["te11"] > 6


def test_motion_in_one_image_enters_every_sub_bolus():
    matrix = hadamard.matrix("Hadamard", 12)
    moved = np.zeros(12)
    moved[5] = 0.01 * 0.9
    assert np.abs(hadamard.decode(moved, matrix)) == pytest.approx(np.full(11, 0.0015))


# Classical estimation


def share_off(name, tsnr, start, rng, count=1500):
    """Share of random voxels whose ATT is off by more than 0.3 s, and mean CBF over the truth where ATT > 1.5 s."""
    cbf, att = rng.uniform(20, 80, count), rng.uniform(0.5, 2.5, count)
    acquisition = PROTOCOLS[name].acquisition(1)
    clean = delta_m(cbf[:, None], att[:, None], acquisition.post_labeling_delay, acquisition.labeling_duration)
    series = clean + clean.mean() / tsnr * rng.standard_normal(clean.shape)
    found = fit(series[:, None, None], np.ones((count, 1, 1)), acquisition, estimator="vb", vb_start=start)
    late = att > 1.5
    return np.mean(np.abs(found.att.ravel() - att) > 0.3), found.cbf.ravel()[late].mean() / cbf[late].mean()


def test_a_single_start_fails_on_short_sub_boli_and_calls_late_blood_little_blood(rng):
    failing, cbf_share = share_off("te11", 1000, "prior", rng)
    assert 0.5 < failing < 0.65
    assert cbf_share < 0.4
    assert share_off("te11", 1000, "grid", rng)[0] < 0.005
    assert share_off("mpld6", 1000, "prior", rng)[0] < 0.01
    assert share_off("te11", 1.5, "prior", rng)[0] > 4 * share_off("te11", 1.5, "grid", rng)[0]


@pytest.fixture(scope="module")
def slab():
    """Slices of the phantom around its tumor, as keyword arguments of fit; and the truth."""
    whole = simulate("te11", tsnr=1.5, seed=0, tumor=True)
    crop = (slice(None), slice(None), slice(12, 19))
    given = {"series": whole.series[crop], "mask": whole.mask[crop], "acquisition": whole.acquisition}
    return given | {"voxel_size": whole.voxel_size}, whole, crop


def test_spatial_priors_raise_correlation_and_flatten_borders(slab):
    given, whole, crop = slab
    truth, tumor, mask = whole.cbf[crop], whole.tumor[crop], whole.mask[crop]
    gray = metrics.tissue_region(whole.gm[crop], mask)
    maps = {name: fit(**given, estimator=name).cbf for name in ("vb", "svb", "smoothed")}
    kept = {name: metrics.contrast_kept(cbf, truth, tumor, mask) for name, cbf in maps.items()}
    assert kept["vb"] > 0.85
    assert max(kept["svb"], kept["smoothed"]) < 0.75
    correlation = {name: metrics.pcc(cbf, truth, mask) for name, cbf in maps.items()}
    assert min(correlation["svb"], correlation["smoothed"]) > correlation["vb"] + 0.05
    bias = {name: metrics.relative_bias(cbf, truth, gray) for name, cbf in maps.items()}
    assert bias["svb"] < -0.02 < 0 < bias["vb"] + 0.02
    assert bias["smoothed"] < bias["vb"] - 0.04


def test_noisier_data_choose_a_wider_kernel_near_the_best_one(slab):
    given, whole, crop = slab
    noisier = simulate("te11", tsnr=0.5, seed=0, tumor=True).series[crop]
    chosen = []
    for series in (given["series"], noisier):
        found = fit(**(given | {"series": series}), estimator="smoothed")
        unsmoothed = fit(**(given | {"series": series}), estimator="smoothed", kernel=0)
        chosen.append(found.settings["kernel"])
        error, raw = (metrics.rmse(e.cbf, whole.cbf[crop], given["mask"]) for e in (found, unsmoothed))
        assert error < 0.6 * raw
    assert 1.2 <= chosen[0] < chosen[1]


def test_at_a_lesion_with_late_blood_a_single_start_calls_the_delay_missing_blood():
    whole = simulate("te11", tsnr=1.5, seed=0, lesion=True)
    filled = np.flatnonzero(whole.lesion.any(axis=(0, 1)))
    crop = (slice(None), slice(None), slice(filled[0] - 2, filled[-1] + 3))
    cases = {"nlls": {}, "smoothed": {}, "svb": {"prior_on": "both"}, "vb": {"vb_start": "prior"}}
    kept = {}
    for name, options in cases.items():
        found = fit(
            whole.series[crop],
            whole.mask[crop],
            whole.acquisition,
            estimator=name,
            voxel_size=whole.voxel_size,
            **options,
        )
        pairs = ((found.cbf, whole.cbf), (found.att, whole.att))
        kept[name] = [metrics.contrast_kept(a, b[crop], whole.lesion[crop], whole.mask[crop]) for a, b in pairs]
    assert kept["vb"][0] > 1.3
    assert abs(kept["vb"][1]) < 0.1
    assert kept["svb"][1] < 0.25 < 0.4 < kept["nlls"][1] < kept["smoothed"][1] < 0.85

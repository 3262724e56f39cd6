"""What the chapters say, held by numbers on small data; and references to figures that a study leaves out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter

from aslpinn import Acquisition, fit, simulate
from aslpinn.data.phantom.anatomy import build_anatomy
from aslpinn.errors import InputError
from aslpinn.fields import MultiresHashEncoding, Siren
from aslpinn.maps import metrics
from aslpinn_book.chapters import uncertainty
from aslpinn_book.chapters.losses import match_slope
from aslpinn_book.study.pages import labels_of, without_links

VOXEL = (9.0, 9.0, 9.0)


def test_references_to_figures_of_chapters_that_are_not_there_become_words():
    chapter = "---\nmystnb:\n  figure:\n    name: fig-slopes\n---\n(section-a)=\n## A\n$$ x $$ (eq-b)\n"
    assert labels_of(chapter) == {"fig-slopes", "section-a"}
    text = "See {ref}`the slopes <fig-slopes>`, {numref}`fig-slopes` and {ref}`fig-here`."
    assert without_links(text, "book/a", set(), {"fig-slopes"}) == "See the slopes, fig-slopes and {ref}`fig-here`."


def test_a_relu_network_learns_low_frequencies_first_and_a_siren_both_at_once():
    x = torch.arange(-1, 1, 2 / 128)
    waves = torch.stack([torch.sin(torch.pi * f * x) for f in (1, 8)])
    shares = {}
    for activation in ("relu", "sine"):
        network = Siren(1, 1, hidden=32, omega_first=25, omega_hidden=5, activation=activation, seed=0)
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        for _ in range(60):
            optimizer.zero_grad()
            output = network(x[:, None])[:, 0]
            (output - waves.sum(dim=0)).square().mean().backward()
            optimizer.step()
        shares[activation] = (waves @ output.detach() / waves.square().sum(dim=1)).numpy()
    assert shares["relu"][0] > 0.6
    assert shares["relu"][1] < 0.3
    assert shares["sine"].min() > 0.9


def test_a_level_finer_than_the_voxels_has_eight_vertices_a_voxel_and_collides_where_the_table_is_short():
    place = np.argwhere(build_anatomy(VOXEL).mask) * np.array(VOXEL)
    place = torch.tensor((place - place.min(axis=0)) / np.ptp(place, axis=0).max())
    for log2_table, collides in ((20, False), (10, True)):
        encoding = MultiresHashEncoding(levels=1, base=256, finest=256, log2_table=log2_table)
        rows = encoding.precompute(place).rows.numpy()
        own = len(np.unique(rows)) / rows.size
        assert (own < 0.1) if collides else (own > 0.95)


def test_matched_slopes_find_half_of_cbf_with_one_sample_a_bolus_and_all_with_many():
    rng, tau = np.random.default_rng(0), 0.327
    voxels = [(rng.uniform(20, 80), rng.uniform(0.7, 1.7)) for _ in range(20)]

    def share(samples: int) -> float:
        timing = Acquisition(tau, np.arange(0.049, 3.3, tau / samples))
        return float(np.median([match_slope(*v, timing, 4, rng, PchipInterpolator)[0] / v[0] for v in voxels]))

    assert 0.25 < share(1) < 0.65
    assert share(16) > 0.9


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 60), st.integers(0, 2**16))
def test_errors_that_all_voxels_share_are_worth_one_voxel(count, seed):
    rng = np.random.default_rng(seed)
    shared = np.repeat(rng.standard_normal((40, 1)), count, axis=1)
    region = np.ones(count, bool)
    assert uncertainty.effective_voxels(shared, region) == pytest.approx(1.0)
    assert uncertainty.regional_sd(shared, region) == pytest.approx(np.sqrt(np.mean(shared[:, 0] ** 2)))


def test_independent_errors_are_worth_the_voxels_that_there_are():
    rng = np.random.default_rng(0)
    errors = 3.0 * rng.standard_normal((4000, 50))
    assert uncertainty.effective_voxels(errors, np.arange(50)) == pytest.approx(50, rel=0.1)
    assert uncertainty.regional_sd(errors, np.arange(50)) == pytest.approx(3 / np.sqrt(50), rel=0.05)
    with pytest.raises(InputError, match="no voxel"):
        uncertainty.regional_sd(errors, np.zeros(50, bool))


def test_lag_correlation_finds_that_of_smoothed_noise():
    rng = np.random.default_rng(0)
    mask = np.zeros((30, 20, 10), bool)
    mask[2:-2, 2:-2, 2:-2] = True
    smooth = np.stack([gaussian_filter(rng.standard_normal(mask.shape), 1.5, mode="wrap")[mask] for _ in range(20)])
    steps = np.arange(5)
    expected = np.exp(-(steps**2) / (4 * 1.5**2))
    np.testing.assert_allclose(uncertainty.lag_correlation(smooth, mask, 4), expected, atol=0.06)


def test_reliability_of_exact_standard_deviations_is_the_diagonal():
    rng = np.random.default_rng(0)
    sd = rng.uniform(1, 5, 40_000)
    truth = rng.normal(40, 10, sd.size)
    estimate = truth + sd * rng.standard_normal(sd.size)
    everywhere = np.ones(sd.size, bool)
    np.testing.assert_allclose(uncertainty.reliability(estimate, sd, truth, everywhere), uncertainty.LEVELS, atol=0.01)
    assert uncertainty.z_scores(estimate, sd, truth, everywhere).std() == pytest.approx(1, abs=0.02)


def test_spheres_hold_the_voxels_within_their_radius():
    mask = np.ones((9, 9, 9), bool)
    found = uncertainty.spheres(mask, (2.0, 2.0, 2.0), 2.1, 5, np.random.default_rng(0))
    place = 2.0 * np.argwhere(mask)
    for part in found:
        assert 4 <= len(part) <= 7
        assert np.ptp(place[part], axis=0).max() <= 4.2


@pytest.fixture(scope="module")
def low_tsnr():
    """The phantom of large voxels at tSNR 0.5, and fits of it."""
    phantom = simulate(tsnr=0.5, seed=1, voxel_size=VOXEL)
    own = {"field": {}, "vb": {}, "smoothed": {"kernel": 9.0}}
    fits = {
        name: fit(phantom.series, phantom.mask, phantom.acquisition, estimator=name, voxel_size=VOXEL, **options)
        for name, options in own.items()
    }
    return phantom, fits


def test_intervals_of_the_default_hold_where_those_of_smoothing_and_vb_do_not(low_tsnr):
    phantom, fits = low_tsnr
    gm = metrics.tissue_region(phantom.gm, phantom.mask, 0.6)

    def covered(name: str, key: str) -> float:
        e = fits[name]
        return metrics.coverage(getattr(e, key), getattr(e, f"{key}_sd"), getattr(phantom, key), gm)

    assert 0.88 < covered("field", "cbf") <= 1
    assert 0.88 < covered("field", "att") <= 1
    assert covered("smoothed", "cbf") < 0.8
    assert covered("vb", "att") < 0.85


def test_members_know_the_sd_of_a_region_and_the_square_root_law_does_not(low_tsnr):
    phantom, fits = low_tsnr
    estimate, mask = fits["field"], phantom.mask
    members = estimate.member_errors[:, 0]
    assert estimate.member_errors.shape == (8, 2, mask.sum())
    ratio = np.sqrt((members**2).mean(axis=0)).mean() / estimate.cbf_sd[mask].mean()
    assert 0.8 < ratio < 1.2
    actual = (estimate.cbf - phantom.cbf)[mask][None]
    parts = uncertainty.spheres(mask, VOXEL, 27.0, 300, np.random.default_rng(0))
    measured = np.sqrt(np.mean([uncertainty.regional_sd(actual, part) ** 2 for part in parts]))
    told = np.sqrt(np.mean([uncertainty.regional_sd(members, part) ** 2 for part in parts]))
    naive = np.sqrt(np.mean([np.sum(estimate.cbf_sd[mask][part] ** 2) / len(part) ** 2 for part in parts]))
    assert 0.6 < told / measured < 1.6
    assert naive < 0.5 * measured

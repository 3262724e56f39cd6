"""Unkind phantoms: each is what its name says, with the truth that belongs to it."""

from __future__ import annotations

import numpy as np
import pytest

from aslpinn import InputError, fit, simulate
from aslpinn.data.phantom.unkind import ARTERIES, NOISE_RATIO, UNKIND, VOLUME_SD, unkind
from aslpinn.estimation.field.common import volume_factors, volume_variance
from aslpinn.estimation.field.likelihood import repeat_noise
from aslpinn.estimation.problem import prepare

SIZE = (6.0, 6.0, 7.0)


@pytest.fixture(scope="module")
def phantoms():
    kind = simulate("mpld6", tsnr=1.5, repeats=4, voxel_size=SIZE)
    return kind, {name: unkind(name, tsnr=1.5, voxel_size=SIZE) for name in UNKIND}


def noise(phantom):
    return (phantom.series - phantom.clean)[phantom.mask]


def test_every_one_has_repeats_and_nothing_outside_the_mask(phantoms):
    for name, phantom in phantoms[1].items():
        assert phantom.series.shape[-1] == 24, name
        assert not phantom.series[~phantom.mask].any(), name
        assert np.isfinite(phantom.series).all(), name


def test_noise_varies_over_the_brain(phantoms):
    sd = noise(phantoms[1]["heteroscedastic"]).std(axis=1) / phantoms[0].noise_sd
    assert np.median(sd) < 1.7
    assert 0.6 * NOISE_RATIO < np.quantile(sd, 0.99) < 1.5 * NOISE_RATIO


def test_whole_volumes_are_off_by_a_common_factor(phantoms):
    kind, phantom = phantoms[0], phantoms[1]["global"]
    left = phantom.series[phantom.mask] - kind.series[phantom.mask]
    clean = kind.clean[phantom.mask]
    factor = (left * clean).sum(axis=0) / (clean**2).sum(axis=0)
    assert np.abs(left - factor * clean).max() < 1e-6
    assert factor.std() == pytest.approx(VOLUME_SD, rel=0.4)


def test_blurred_noise_keeps_its_sd_and_is_correlated(phantoms):
    phantom = phantoms[1]["blurred"]
    assert noise(phantom).std() == pytest.approx(phantom.noise_sd, rel=0.05)
    left = phantom.series - phantom.clean
    both = phantom.mask[..., 1:] & phantom.mask[..., :-1]
    assert np.corrcoef(left[:, :, 1:][both].ravel(), left[:, :, :-1][both].ravel())[0, 1] > 0.1
    assert np.corrcoef(noise(phantom)[:, 1:].ravel(), noise(phantom)[:, :-1].ravel())[0, 1] > 0.08


def test_dropout_takes_signal_near_air_only(phantoms):
    kind, phantom = phantoms[0], phantoms[1]["dropout"]
    ratio = phantom.clean[phantom.mask].mean(axis=1) / np.maximum(kind.clean[phantom.mask].mean(axis=1), 1e-6)
    assert np.mean(ratio < 0.5) > 0.005
    assert 0.9 < np.median(ratio) < 1.1
    assert np.array_equal(phantom.m0, kind.m0)


def test_motion_shows_where_m0_changes(phantoms):
    kind, phantom = phantoms[0], phantoms[1]["motion"]
    extra = (phantom.series - kind.series).std(axis=-1)
    edge = np.linalg.norm(np.gradient(np.where(kind.mask, kind.m0, 0.0)), axis=0)
    assert np.corrcoef(extra[kind.mask], edge[kind.mask])[0, 1] > 0.8


def test_arteries_pulsate_in_a_tenth_of_the_voxels(phantoms):
    phantom = phantoms[1]["pulsatile"]
    where = phantom.abv[phantom.mask] > 0
    assert where.mean() == pytest.approx(ARTERIES, abs=0.005)
    assert noise(phantom)[where].std() > 1.3 * noise(phantom)[~where].std()


def test_white_matter_with_a_shorter_t1_gives_less_signal(phantoms):
    kind, phantom = phantoms[0], phantoms[1]["tissue-t1"]
    white, gray = (kind.mask & (getattr(kind, name) > 0.8) for name in ("wm", "gm"))
    assert phantom.clean[white].mean() < 0.9 * kind.clean[white].mean()
    assert phantom.clean[gray].mean() > 0.97 * kind.clean[gray].mean()
    assert np.array_equal(phantom.cbf, kind.cbf)


def test_unrelated_m0_says_nothing_of_cbf(phantoms):
    kind, phantom = phantoms[0], phantoms[1]["unrelated-m0"]
    assert abs(np.corrcoef(phantom.m0[kind.mask], kind.cbf[kind.mask])[0, 1]) < 0.2
    assert np.array_equal(phantom.series, kind.series)


def test_a_name_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="no unkind phantom 'kind'; expected one of heteroscedastic"):
        unkind("kind")


@pytest.mark.parametrize("name", ["pulsatile", "heteroscedastic"])
def test_the_last_bits_of_the_input_leave_the_default_where_it_is(phantoms, name):
    """A relative change of 1e-7 moves one voxel in a thousand by a tenth of its SD at most, arteries among them."""
    phantom = phantoms[1][name]
    moved = phantom.series * (1 + 1e-7 * np.random.default_rng(1).standard_normal(phantom.series.shape))
    one, other = (
        fit(series.astype(np.float32), phantom.mask, phantom.acquisition, voxel_size=SIZE, guide=phantom.m0)
        for series in (phantom.series, moved)
    )
    assert (one.info["artery_share"] > 0.05) == (name == "pulsatile")
    for of in ("cbf", "att"):
        change = np.abs(getattr(one, of) - getattr(other, of))[phantom.mask] / getattr(one, f"{of}_sd")[phantom.mask]
        assert np.quantile(change, 0.999) < 0.1, of


def test_repeats_tell_how_much_whole_volumes_are_off(phantoms):
    def sd(phantom):
        problem = prepare(phantom.series, phantom.mask, phantom.acquisition)
        spread, chance = volume_variance(problem, phantom.clean[phantom.mask][:, :6], repeat_noise(problem, SIZE))
        return max(spread - chance, 0.0) ** 0.5

    assert sd(phantoms[1]["global"]) == pytest.approx(VOLUME_SD, rel=0.4)
    assert sd(phantoms[0]) < 0.1 * VOLUME_SD


def factors_of(phantom, series=None):
    """Of the true maps, as if they had been fitted."""
    problem = prepare(phantom.series if series is None else series, phantom.mask, phantom.acquisition)
    noise = repeat_noise(problem, SIZE)
    maps = phantom.cbf[phantom.mask].astype(float), phantom.att[phantom.mask].astype(float)
    fitted = problem.model(*(m.astype(np.float32) for m in maps)).astype(float)
    return volume_factors(problem, problem.signal.astype(float), fitted, maps, 1 / noise, noise)


def test_factors_of_whole_volumes_are_found(phantoms):
    """All but the mean of them, and a trend along the delays as CBF and ATT may have it."""
    kind, phantom = phantoms[0], phantoms[1]["global"]
    clean = kind.clean[phantom.mask]
    off = ((phantom.series[phantom.mask] - kind.series[phantom.mask]) * clean).sum(axis=0) / (clean**2).sum(axis=0)
    true = phantom.acquisition.mean_over_repeats(off)
    found = factors_of(phantom)
    assert found.sd == pytest.approx(VOLUME_SD, rel=0.4)
    left = np.polyfit(np.arange(6), true - found.mean, 1, full=True)[1][0]
    assert left < 0.1 * np.polyfit(np.arange(6), true, 1, full=True)[1][0]
    errors = true - found.mean
    assert errors @ np.linalg.solve(found.covariance, errors) < 20  # chi-square of 6 degrees of freedom


def test_a_misfit_of_the_model_is_not_taken_for_a_factor_of_volumes(phantoms):
    """All repeats of a delay are off alike, which repeats that hardly differ from one another contradict."""
    kind = phantoms[0]
    assert factors_of(kind).sd < 0.1 * VOLUME_SD
    shape = kind.series * np.tile([1.0, 0.8, 1.2, 0.8, 1.2, 1.0], 4)
    rng = np.random.default_rng(3)
    found = factors_of(kind, (shape * (1 + 0.03 * rng.standard_normal(24))).astype(np.float32))
    assert found.sd == pytest.approx(0.03, rel=0.5)
    assert np.abs(found.mean).max() < 0.04

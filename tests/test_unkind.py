"""Unkind phantoms: each is what its name says, with the truth that belongs to it."""

from __future__ import annotations

import numpy as np
import pytest

from aslpinn import InputError, fit, simulate
from aslpinn.data.phantom.unkind import ARTERIES, NOISE_RATIO, UNKIND, VOLUME_SD, unkind
from aslpinn.estimation.field.likelihood import repeat_noise, volume_variance
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
        return volume_variance(problem, phantom.clean[phantom.mask][:, :6], repeat_noise(problem, SIZE)) ** 0.5

    assert sd(phantoms[1]["global"]) == pytest.approx(VOLUME_SD, rel=0.4)
    assert sd(phantoms[0]) < 0.1 * VOLUME_SD

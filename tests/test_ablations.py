"""Ablations are configs that the same code fits; the grid search is judged by samples kept from the loss."""

from __future__ import annotations

import numpy as np
import pytest

from aslpinn import Acquisition, InputError
from aslpinn.estimation.networks.config import PinnOptions
from aslpinn.estimation.networks.durations import Durations
from aslpinn_book.chapters import ablations


@pytest.fixture(scope="module")
def case():
    return ablations.slab(slices=3)


def test_every_entry_of_every_group_is_a_valid_config():
    for group, entries in ablations.GROUPS.items():
        assert len(entries) >= 2, group
        for own in entries.values():
            PinnOptions().changed(**{**ablations.BASE, **own})


def test_a_slab_keeps_the_truth_of_its_slices(case):
    whole = ablations.slab(slices=5)
    assert case.mask.shape[2] == 3
    np.testing.assert_array_equal(case.cbf, whole.cbf[:, :, 1:4])
    np.testing.assert_array_equal(case.series, whole.series[:, :, 1:4])


def test_step_edges_starve_the_pointwise_loss_and_soft_ones_do_not(case):
    rows = ablations.run(case, ["objective"], epochs=30, batch=500)
    bias = {row["name"]: row["cbf_bias_gm"] for row in rows}
    assert bias["pointwise, step edges"] < -0.5
    assert abs(bias["pointwise"]) < 0.08
    assert abs(bias["closed form"]) < 0.08
    assert all(-1 <= row["cbf_pcc"] <= 1 and row["residual"] > 0 for row in rows)
    assert ablations.scores_by_setting(rows, {"cbf_pcc": ("CBF PCC", 1.0), "cbf_bias_gm": ("bias, GM (%)", 100.0)}).axes


def test_an_unknown_group_is_refused(case):
    with pytest.raises(InputError, match="hash levels"):
        ablations.run(case, ["colour"])


def test_grid_search_tries_every_combination_and_sorts_by_the_held_out_error(case):
    rows = ablations.grid_search(case, {"lr": [1e-2, 1e-4]}, epochs=4)
    assert [row["lr"] for row in rows] == [1e-2, 1e-4]
    assert rows[0]["held_out"] < rows[1]["held_out"]
    assert 0.8 < rows[0]["held_out"] < 2  # in noise SDs


@pytest.mark.parametrize("at", ["between", "near"])
def test_collocation_times_fall_where_they_are_told(at):
    acquisition = Acquisition([0.4, 0.4, 0.4], [1.2, 0.6, 0.1])
    generator = np.random.default_rng(0)
    pld = 0.1 + 1.1 * Durations(acquisition).draw(500, 4, generator, at).ravel()
    assert pld.min() >= 0.1
    assert pld.max() <= 1.2
    sample = np.abs(pld[:, None] - np.array([0.1, 0.6, 1.2])).min(axis=1)
    middle = np.abs(pld[:, None] - np.array([0.35, 0.9])).min(axis=1)
    assert np.mean(middle < sample) == (1.0 if at == "between" else 0.0)


def test_scaling_the_signal_leaves_the_closed_form_almost_alone(case):
    settings = {**ablations.BASE, "epochs": 5}
    plain, scaled = (ablations.fit_config(case, {**settings, "signal_scale": scale}) for scale in (1.0, 3.0))
    assert plain.info["signal_scale"] * 3 == pytest.approx(scaled.info["signal_scale"])
    difference = np.abs(plain.cbf - scaled.cbf)[case.mask]
    assert np.median(difference) < 1.0  # AdamW does not see the scale of the loss

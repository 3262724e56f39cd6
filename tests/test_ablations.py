"""Ablations are configs that the same code fits; the search finds what it is asked for and says what it tried."""

from __future__ import annotations

import numpy as np
import pytest

from aslpinn import Acquisition, InputError
from aslpinn.estimation.networks.config import PinnOptions
from aslpinn.estimation.objectives import Durations
from aslpinn_book.chapters import ablations


@pytest.fixture(scope="module")
def case():
    return ablations.slab(slices=3)


def test_every_entry_of_every_group_is_a_valid_config():
    for group, entries in ablations.GROUPS.items():
        assert len(entries) >= 2, group
        for own in entries.values():
            PinnOptions().changed(**{**ablations.BASE, **own})
    PinnOptions().changed(**ablations.AS_PUBLISHED)


def test_a_slab_keeps_the_truth_of_its_slices(case):
    whole = ablations.slab(slices=5)
    assert case.mask.shape[2] == 3
    np.testing.assert_array_equal(case.cbf, whole.cbf[:, :, 1:4])
    np.testing.assert_array_equal(case.series, whole.series[:, :, 1:4])


def test_the_pointwise_loss_is_biased_and_the_closed_form_is_not(case):
    rows = ablations.run(case, ["objective"], epochs=25)
    bias = {row["name"]: row["cbf_bias_gm"] for row in rows}
    assert bias["pointwise"] < -0.3
    assert bias["pointwise, ODE"] < -0.3
    assert abs(bias["closed form"]) < 0.08
    assert all(-1 <= row["cbf_pcc"] <= 1 and row["residual"] > 0 for row in rows)
    assert ablations.scores_by_setting(rows, {"cbf_pcc": ("CBF PCC", 1.0), "cbf_bias_gm": ("bias, GM (%)", 100.0)}).axes


def test_an_unknown_group_or_search_is_refused(case):
    with pytest.raises(InputError, match="hash levels"):
        ablations.run(case, ["colour"])
    with pytest.raises(InputError, match="unsaid"):
        ablations.suggest(None, "all")


def test_grid_search_tries_every_combination_and_sorts_by_the_held_out_error(case):
    rows = ablations.grid_search(case, {"lr": [1e-2, 1e-4]}, epochs=4)
    assert [row["lr"] for row in rows] == [1e-2, 1e-4]
    assert rows[0]["held_out"] < rows[1]["held_out"]
    assert 0.8 < rows[0]["held_out"] < 2  # in noise SDs


def test_search_is_reproducible_and_its_rows_survive_a_file(tmp_path):
    first = ablations.search_pointwise(3, "free", seed=4, slices=3, epochs=2)
    second = ablations.search_pointwise(3, "free", seed=4, slices=3, epochs=2)
    assert [row["trial"] for row in first] == [row["trial"] for row in second]
    assert first[0]["skill"] == second[0]["skill"] == max(row["skill"] for row in first)
    back = ablations.read_csv(ablations.write_csv(first, tmp_path / "search.csv"))
    assert back[0]["skill"] == pytest.approx(first[0]["skill"], rel=1e-4)
    assert back[0]["protocol"] == first[0]["protocol"]
    panels = {"time_scale": "unit of t (s)", "reading": "reading of P"}
    assert len(ablations.search_results(back, panels, "skill", "skill").axes) >= 2


def test_the_papers_schedule_starts_from_its_preset_or_from_a_trial():
    trial = {"protocol": "te11", "reading": "ode", "time_scale": 2.0, "signal_scale": 0.5, "cbf_scale": 20.0}
    trial |= {"att_scale": 1.0, "collocation_at": "near", "search": "unsaid", "trial": 7}
    preset, found = (ablations.paper_schedule(start, 1, slices=3) for start in (None, trial))
    assert preset["search"] == "paper's schedule, preset paper"
    assert found["search"] == "paper's schedule, trial 7 of search unsaid"
    assert found["cbf_bias_gm"] < preset["cbf_bias_gm"]  # one epoch leaves CBF near its start, 20 or 40


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

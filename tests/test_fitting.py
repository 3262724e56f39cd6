"""fit() as a whole: recovery by the networks, determinism, schedules, refusals."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest

import aslpinn
from aslpinn import Acquisition, FitError, InputError
from aslpinn.estimation import ESTIMATORS, FieldOptions, NllsOptions, PinnOptions, options_for
from aslpinn.estimation.contrast import local_contrast
from aslpinn.estimation.networks.config import PRESETS
from aslpinn.estimation.networks.fit import weakest_alike
from aslpinn.estimation.networks.rehearsal import Rehearsal
from aslpinn.estimation.networks.train import learning_rate, minibatches, unit_positions
from aslpinn.estimation.problem import prepare
from aslpinn.physics import delta_m

fit = partial(aslpinn.fit, voxel_size=(1.0, 1.0, 1.0))
TIMING = Acquisition(np.full(11, 0.327), 0.049 + 0.327 * np.arange(10, -1, -1))
QUICK = {"members": 1, "epochs": 2, "batch": 400}


@pytest.fixture(scope="module")
def phantom():
    """A smooth 14 x 14 x 8 phantom, noise-free."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (14, 14, 8)), indexing="ij")
    cbf, att = 45 + 20 * np.sin(2 * x) * np.cos(2 * y), 1.2 + 0.3 * y + 0.1 * z
    mask = x**2 + y**2 + z**2 < 1.3
    series = delta_m(cbf[..., None], att[..., None], TIMING.post_labeling_delay, 0.327) * mask[..., None]
    return series.astype(np.float32), mask, cbf, att


def test_closed_form_recovers_a_smooth_phantom(phantom):
    series, mask, cbf, att = phantom
    estimate = fit(series, mask, TIMING, estimator="pinn", objective="closed-form", members=1, epochs=60, batch=300)
    assert np.median(np.abs(estimate.cbf / cbf - 1)[mask]) < 0.03
    assert np.median(np.abs(estimate.att - att)[mask]) < 0.03
    assert abs((estimate.cbf[mask] / cbf[mask]).mean() - 1) < 0.02
    assert not estimate.cbf[~mask].any()
    assert np.abs(estimate.fitted - series).max() < 0.25 * series.max()  # a kink between two samples is hard
    assert np.sqrt(np.square(estimate.fitted - series)[mask].mean()) < 0.03 * series.max()


@pytest.mark.slow
def test_the_pointwise_loss_loses_cbf_with_steps_and_finds_it_with_soft_edges_as_increments_do(phantom):
    series, mask, cbf, _ = phantom
    settings = {"members": 1, "epochs": 60, "batch": 300, "seed": 1, "base": 6, "finest": 48}
    bias = {}
    losses = {"increments": {}, "pointwise": {}, "steps": {"objective": "pointwise", "edge_width": 0.0}}
    for name, loss in losses.items():
        estimate = fit(series, mask, TIMING, estimator="pinn", **{"objective": name, **loss}, **settings)
        bias[name] = (estimate.cbf[mask] / cbf[mask]).mean() - 1
    assert abs(bias["increments"]) < 0.08
    assert abs(bias["pointwise"]) < 0.08
    assert bias["steps"] < -0.25


def test_same_seed_same_maps_other_seed_other_maps(phantom):
    series, mask, _, _ = phantom
    for objective in ("closed-form", "increments", "pointwise"):
        first, again, other = (
            fit(series, mask, TIMING, estimator="pinn", objective=objective, seed=seed, **QUICK).cbf
            for seed in (3, 3, 4)
        )
        assert np.array_equal(first, again)
        assert not np.allclose(first, other)


def test_ensemble_reports_its_members_its_settings_and_a_positive_spread(phantom):
    series, mask, _, _ = phantom
    calls = []
    estimate = fit(
        series, mask, TIMING, estimator="pinn", members=3, epochs=4, batch=400, progress=lambda *a: calls.append(a)
    )
    assert len(estimate.info["history"]) == 3
    assert len(estimate.info["history"][0]["total"]) == 4
    assert estimate.settings["members"] == 3
    assert estimate.settings["objective"] == PinnOptions().objective
    assert (estimate.cbf_sd[mask] > 0).all()
    assert (estimate.att_sd[mask] > 0).all()
    done, total, message = calls[-1]
    assert done == total == 20  # three members and two networks for the SDs
    assert "loss" in message


def test_a_loss_that_is_not_finite_ends_the_fit_with_its_epoch_and_cause(phantom):
    series, mask, _, _ = phantom
    with pytest.raises(FitError, match=r"epoch \d+ of 5 .*lr \(1e\+06\) is too large"):
        fit(series, mask, TIMING, estimator="pinn", members=1, epochs=5, batch=400, lr=1e6, schedule="constant")


def test_preset_paper_is_the_papers_table_2():
    paper = PRESETS["paper"]
    expected = {
        "objective": "pointwise", "alpha": 1.0, "lambda_physics": 0.5, "collocation": 4, "layers": 3, "hidden": 16,
        "activation": "sine", "omega_signal": 15.0, "omega_signal_first": 15.0, "omega_parameters": 5.0,
        "omega_parameters_first": 25.0, "lr": 1e-3, "schedule": "cosine", "t_max": 5000, "final_lr": 1e-10,
        "epochs": 5000, "batch": 1000, "levels": 16, "features": 2, "log2_table": 15, "base": 16, "finest": 4096,
    }  # fmt: skip
    assert {name: getattr(paper, name) for name in expected} == expected
    assert all(item.metadata["meaning"] for item in dataclasses.fields(paper))


def test_paper_preset_runs_and_its_annealing_follows_the_epochs(phantom):
    series, mask, _, _ = phantom
    estimate = fit(series, mask, TIMING, estimator="pinn", preset="paper", epochs=2)
    assert estimate.settings["t_max"] == 2
    assert estimate.settings["batch"] == 1000
    assert np.isfinite(estimate.cbf).all()


def test_schedules_start_and_end_where_they_should():
    cosine = PRESETS["paper"]
    assert learning_rate(cosine, 0, 0, 10**6) == pytest.approx(1e-3)
    assert learning_rate(cosine, 2500, 0, 10**6) == pytest.approx(5e-4, rel=1e-6)
    assert learning_rate(cosine, 5000, 0, 10**6) == pytest.approx(1e-10)
    cycle = PinnOptions(lr=1e-2, final_lr=1e-6, schedule="one-cycle")
    rates = [learning_rate(cycle, 0, step, 101) for step in range(101)]
    assert max(rates) == pytest.approx(1e-2, rel=1e-2)
    assert rates[-1] == pytest.approx(1e-6)
    assert np.argmax(rates) == pytest.approx(30, abs=1)


@pytest.mark.parametrize(("n", "batch"), [(7, 3), (1, 1000), (1001, 1000)])
def test_minibatches_hold_every_voxel_once(n, batch):
    parts = minibatches(n, batch, np.random.default_rng(0))
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    assert max(len(p) for p in parts) - min(len(p) for p in parts) <= 1
    assert max(len(p) for p in parts) <= batch


def test_positions_are_in_the_unit_cube_and_keep_the_proportions_of_the_brain(phantom):
    series, mask, _, _ = phantom
    x = unit_positions(prepare(series, mask, TIMING), (3.0, 3.0, 7.0))
    assert x.min() > 0
    assert x.max() < 1
    steps = [np.diff(np.unique(x[:, axis])).min() for axis in range(3)]
    assert steps[2] / steps[0] == pytest.approx(7 / 3, rel=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"series": np.zeros((14, 14, 8))}, r"shape \(14, 14, 8\); expected \(X, Y, Z, T\)"),
        ({"mask": np.ones((14, 14, 7))}, r"mask has shape \(14, 14, 7\); expected .*\(14, 14, 8\)"),
        ({"acquisition": Acquisition(0.327, [1.0, 2.0])}, "11 volumes and the acquisition 2"),
        ({"mask": np.zeros((14, 14, 8))}, "mask is empty"),
        ({"series": np.zeros((14, 14, 8, 11))}, "zero everywhere inside the mask"),
        ({"acquisition": Acquisition(1.8, np.full(11, 1.8)), "estimator": "field"}, "at least 2"),
        ({"estimator": "magic"}, "expected one of field, pinn"),
        ({"estimator": "pinn", "preset": "best"}, "expected one of default, paper"),
        ({"estimator": "pinn", "frequency": 3}, "does not use frequency; it takes seed, objective"),
        ({"estimator": "smoothed", "fwhm": 3}, "does not use fwhm; it takes seed, kernel"),
        ({"estimator": "smoothed", "kernel": -1.0}, "kernel is -1.0; expected a finite number, 0 or more, or None"),
        ({"estimator": "pinn", "epochs": 0}, "epochs is 0; expected a whole number, 1 or more"),
        ({"estimator": "pinn", "members": 1.5}, "members is 1.5; expected a whole number"),
        ({"estimator": "pinn", "objective": "weak"}, "expected one of pointwise, increments, closed-form"),
        ({"voxel_size": (3, 3)}, "three positive lengths in mm"),
        ({"estimator": "pinn", "device": "abacus"}, "device is 'abacus'"),
        ({"estimator": "pinn", "engine": "steam"}, "steam"),
        ({"guide": np.zeros((2, 2, 2))}, "guide has shape"),
    ],
)
def test_bad_input_is_refused_with_what_was_found_and_expected(phantom, change, message):
    series, mask, _, _ = phantom
    arguments = {"series": series, "mask": mask, "acquisition": TIMING} | change
    with pytest.raises(InputError, match=message):
        fit(arguments.pop("series"), arguments.pop("mask"), arguments.pop("acquisition"), **arguments)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named_inside_the_mask_and_ignored_outside(phantom, value):
    series, mask, _, _ = phantom
    broken = series.copy()
    broken[0, 0, 0, 2] = value  # outside
    assert not mask[0, 0, 0]
    fit(broken, mask, TIMING, estimator="nlls")
    broken[7, 7, 4, 2] = value
    with pytest.raises(InputError, match=r"1 values .* voxel \(7, 7, 4\), volume 2"):
        fit(broken, mask, TIMING, estimator="nlls")


def test_a_series_that_was_not_divided_by_m0_is_refused(phantom):
    series, mask, _, _ = phantom
    with pytest.raises(InputError, match="divide it by M0b"):
        fit(series * 1000, mask, TIMING)


def test_label_minus_control_is_refused(phantom):
    series, mask, _, _ = phantom
    with pytest.raises(InputError, match="label minus control"):
        fit(-np.abs(series) - 1e-4, mask, TIMING)


def test_every_estimator_has_its_function():
    for name, kind in ESTIMATORS.items():
        assert kind.load().__name__ == f"fit_{name}"
        assert options_for(name) == kind.options()
        assert all(item.metadata["meaning"] for item in dataclasses.fields(kind.options))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimator": "closed-form"}, "now estimator 'pinn' with objective closed-form and members 1"),
        ({"estimator": "svb", "spatial": "both"}, "spatial of estimator 'svb' is now prior_on"),
        ({"estimator": "svb", "iterations": 5}, "iterations of estimator 'svb' is now sweeps"),
        ({"levels": 4}, "levels of estimator 'field' is now gaussian_levels"),
        ({"preset": "network"}, "now preset 'default' of estimator 'pinn'"),
        ({"estimator": "pinn", "preset": "network"}, "now preset 'default' of estimator 'pinn'"),
        ({"preset": "paper"}, "estimator 'field' has no presets; expected estimator pinn"),
        ({"epochs": 5}, r"estimator 'field' does not use epochs \(pinn would\); it takes seed, members, arterial"),
        ({"device": "cuda"}, r"estimator 'field' does not use device \(pinn would\)"),
        ({"engine": "fused"}, r"estimator 'field' does not use engine \(pinn would\)"),
        (
            {"estimator": "nlls", "members": 3},
            r"'nlls' does not use members \(field, pinn would\); it takes seed, att_penalty",
        ),
        (
            {"estimator": "vb", "guide": np.ones((14, 14, 8))},
            r"'vb' does not use guide as its options are \(field, pinn would\)",
        ),
        (
            {"estimator": "pinn", "guide": np.ones((14, 14, 8)), "anatomy": "off"},
            "'pinn' does not use guide as its options are",
        ),
        ({"voxel_size": None}, "voxel_size is not given; estimator 'field' needs it"),
        ({"estimator": "smoothed", "voxel_size": None}, "voxel_size is not given; estimator 'smoothed' needs it"),
        ({"options": NllsOptions(), "estimator": "field"}, "options is of type NllsOptions; expected FieldOptions"),
        ({"options": FieldOptions(), "members": 3}, "options and members are given; expected either"),
        ({"options": PinnOptions(), "preset": "paper"}, "options and preset are given; expected either"),
    ],
)
def test_former_names_and_what_an_estimator_does_not_use_are_refused(phantom, change, message):
    series, mask, _, _ = phantom
    with pytest.raises(InputError, match=message):
        fit(series, mask, TIMING, **change)


def test_options_are_the_same_as_their_names(phantom):
    series, mask, _, _ = phantom
    named = fit(series, mask, TIMING, estimator="nlls", att_penalty=0.3)
    given = fit(series, mask, TIMING, options=NllsOptions(att_penalty=0.3))
    assert np.array_equal(named.cbf, given.cbf)
    assert named.settings == given.settings
    assert named.settings["att_penalty"] == 0.3


@pytest.mark.parametrize("kind", [kind.options for kind in ESTIMATORS.values()])
def test_every_option_refuses_what_is_outside_its_limits(kind):
    rest = {"objective": "pointwise"} if kind is PinnOptions else {}  # which has all of them
    for item in dataclasses.fields(kind):
        limits = item.metadata
        wrong = [object(), float("nan")]
        if limits["choices"]:
            wrong.append("something else")
            for value in limits["choices"]:
                kind(**(rest | {item.name: value}))
        if limits["low"] is not None:
            kind(**(rest | {item.name: limits["low"]}))
            wrong.append(limits["low"] - 1)
        if limits["above"] is not None:
            wrong += [limits["above"], True]
        if limits["high"] is not None:
            kind(**(rest | {item.name: limits["high"]}))
            wrong.append(limits["high"] + 1)
        if item.type == "int":
            wrong.append(1.5)
        for value in wrong:
            with pytest.raises(InputError, match=f"{item.name} is .*; expected "):
                kind(**(rest | {item.name: value}))


def test_pinn_by_name_alone_says_that_the_former_default_is_field(phantom):
    series, mask, _, _ = phantom
    with pytest.warns(UserWarning, match="is now the estimator field"), pytest.raises(InputError):
        fit(series, mask * 0, TIMING, estimator="pinn")


@pytest.mark.slow
def test_reference_phantom_at_tsnr_1_5(shared):
    """Closed form against the truth of the reference phantom, inside the mask."""
    nib = pytest.importorskip("nibabel")
    import json

    folder = shared / "reference" / "basil"
    load = lambda name: np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj)  # noqa: E731
    timing = json.loads((folder / "params.json").read_text())
    mask, cbf, att = load("mask") > 0, load("cbf"), load("att")
    gm, wm = (load(name) > 0.6 for name in ("gm", "wm"))
    acquisition = Acquisition(timing["tau"], timing["pld"])
    estimate = fit(load("deltam_tsnr1.5"), mask, acquisition, estimator="pinn", members=2, voxel_size=(3, 3, 7))
    assert np.corrcoef(estimate.cbf[mask], cbf[mask])[0, 1] > 0.85
    assert np.corrcoef(estimate.att[mask], att[mask])[0, 1] > 0.95
    assert abs(estimate.cbf[gm & mask].mean() / cbf[gm & mask].mean() - 1) < 0.05
    assert abs(estimate.cbf[wm & mask].mean() / cbf[wm & mask].mean() - 1) < 0.08


def rehearsal_of(mask, truth, wrong, noise=5e-4):
    """A rehearsal of maps (2, N) that are off by `wrong`."""
    rng = np.random.default_rng(4)
    signal = delta_m(truth[0][:, None], truth[1][:, None], TIMING.post_labeling_delay, TIMING.labeling_duration)
    signal = signal + noise * rng.standard_normal(signal.shape)
    problem = prepare(signal.reshape(*mask.shape, -1).astype(np.float32), mask, TIMING)
    return Rehearsal(problem, (3.0, 3.0, 7.0), (truth + wrong).astype(np.float32), noise, 0)


@pytest.fixture(scope="module")
def waves():
    """A mask, and maps (2, N) that vary in it."""
    mask = np.ones((24, 24, 10), bool)
    x = (np.argwhere(mask) / 24).astype(np.float32).T
    truth = np.stack([50 + 20 * np.sin(9 * x[0]) * np.cos(7 * x[1]), 1.2 + 0.2 * np.sin(5 * x[2] + 4 * x[0])])
    return mask, x, truth


def test_a_rehearsal_is_scaled_to_the_errors_that_the_data_show(waves):
    """Maps with errors that no one knows; a rehearsal whose errors are 0.7 times as large is taken for what it is."""
    mask, x, truth = waves
    wrong = np.stack([6 * np.sin(20 * x[1] + 15 * x[0]), 0.05 * np.cos(22 * x[0])])
    rehearsal = rehearsal_of(mask, truth, wrong)
    assert rehearsal.noise_sd == pytest.approx(5e-4, rel=0.02)
    rehearsal.signal(rehearsal.maps)
    again = (rehearsal.maps + 0.7 * wrong).astype(np.float32)
    factor, variance = rehearsal.variance(rehearsal.maps, again, rehearsal.maps)
    assert factor == pytest.approx(1 / 0.7**2, rel=0.15)
    np.testing.assert_allclose(variance.mean(axis=1), np.square(wrong).mean(axis=1), rtol=0.2)


def test_sds_of_a_rehearsal_are_those_of_voxels_with_as_much_cbf_around(waves, rng):
    """Where errors are twice as large in high CBF, and twice as large at one end of the volume, SDs are, too."""
    mask, x, truth = waves
    size = np.stack([2 + 2 * (truth[0] > 50), 0.02 + 0.02 * (x[2] > x[2].mean())])
    rehearsal = rehearsal_of(mask, truth, 0 * truth)
    rehearsal.signal(rehearsal.maps)
    again = (truth + size * rng.standard_normal(truth.shape)).astype(np.float32)
    _, variance = rehearsal.variance(rehearsal.maps, again, rehearsal.maps)
    for sd, true, apart in zip(
        variance**0.5, size, (np.abs(truth[0] - 50) > 10, np.ones(len(x[0]), bool)), strict=True
    ):
        low, high = (np.median(sd[apart & (true == level)]) for level in np.unique(true))
        assert 1.4 < high / low < 2.1


def test_a_rehearsal_starts_from_maps_as_varied_as_the_truth(waves):
    """A fit flattens fine detail to 0.6 of it: what it is given next has the variance of map and errors together."""
    mask, _, truth = waves
    rehearsal = rehearsal_of(mask, truth, 0 * truth)
    rehearsal.signal(rehearsal.maps)
    maps, local = rehearsal.maps, local_contrast(rehearsal.maps.T, mask, (3.0, 3.0, 7.0)).T
    again = (maps - 0.4 * local).astype(np.float32)
    _, variance = rehearsal.variance(maps, again, maps)
    varied = local_contrast(rehearsal.as_varied(again).T, mask, (3.0, 3.0, 7.0)).T
    assert variance.min() > 0
    np.testing.assert_allclose(varied.var(axis=1), local.var(axis=1) + variance.mean(axis=1), rtol=0.1)
    for one, other in zip(varied, local, strict=True):
        assert np.corrcoef(one, other)[0, 1] > 0.99


def test_of_strengths_that_predict_alike_the_weakest_is_taken():
    """Squared errors of 100 samples; the standard error of what two strengths differ by is 0.05."""
    either = 0.5 * (-1.0) ** np.arange(100)
    squares = {3.0: 1.2 + either, 10.0: 1.04 + either, 30.0: np.ones(100), 100.0: 1.01 + either}
    assert weakest_alike(squares) == 10.0
    assert weakest_alike({3.0: 1.2 + either, 30.0: np.ones(100)}) == 30.0
    assert weakest_alike({3.0: np.ones(100), 30.0: 1.2 + either}) == 3.0


def test_a_training_whose_label_never_arrives_is_lost_and_says_so(phantom):
    series, mask, _, _ = phantom
    late = {"objective": "pointwise", "reading": "ode", "att_scale": 6.0, "lr": 1e-6, "level_decay": 0.0}
    with pytest.raises(FitError, match=r"ATT of every voxel lies past the last sample, 3\.65 s"):
        fit(series, mask, TIMING, estimator="pinn", **late, **QUICK)

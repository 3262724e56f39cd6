"""The fused CPU engine against PyTorch's autograd: losses, gradients, AdamW, whole fits; its fast functions' errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numba import njit

from aslpinn import Acquisition, fit
from aslpinn.estimation.config import PRESETS, FitConfig
from aslpinn.estimation.fitting import AutogradTrainer, Fields, batch_losses, make_trainer, training_data
from aslpinn.estimation.fused import FusedTrainer, unsupported
from aslpinn.estimation.problem import Request, prepare
from aslpinn.fields import set_threads
from aslpinn.fields.fused import decay, sincos
from aslpinn.fields.fused_table import adamw, rates_of
from aslpinn.fields.threads import workers
from aslpinn.physics import delta_m

SHORTENING = np.array([0.890, 0.575, 0.426, 0.338, 0.280, 0.240, 0.209, 0.186, 0.167, 0.151, 0.139])
TIMING = Acquisition(SHORTENING, 0.049 + SHORTENING[::-1].cumsum()[::-1] - SHORTENING, slice_offset=np.arange(8) * 0.03)
PAPER = {"att_levels": 0, "levels": 16, "base": 16, "finest": 4096}
CASES = {
    "closed form": {"objective": "closed-form"},
    "closed form, odd sizes, held out": {
        "objective": "closed-form", "held_out": 0.2, "att_levels": 0, "hidden": 13, "layers": 2, "features": 3,
    },
    "increments": {"objective": "increments", "alpha": 0.7},
    "increments, held out, one layer": {"objective": "increments", "held_out": 0.3, "layers": 1, **PAPER},
    "derivative": {"objective": "pointwise", "time_scale": 0.5, **PAPER},
    "derivative, own ATT": {"objective": "pointwise", "collocation": 0, "hidden": 10},
    "ode": {"objective": "pointwise", "reading": "ode", "time_scale": 2.0, "lambda_physics": 0.2},
}  # fmt: skip


@pytest.fixture(scope="module")
def problem():
    """936 noisy voxels with slice times and unequal sub-boli."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (14, 14, 8)), indexing="ij")
    cbf, att = 45 + 20 * np.sin(2 * x) * np.cos(2 * y), 1.2 + 0.3 * y + 0.1 * z
    mask = x**2 + y**2 + z**2 < 1.3
    series = delta_m(cbf[..., None], att[..., None], TIMING.post_labeling_delay, SHORTENING)
    series = series + 1e-3 * np.random.default_rng(0).standard_normal(series.shape)
    return prepare(series.astype(np.float32), mask, TIMING)


def make(problem, settings, engine):
    """Fields away from their start, where codes are almost zero, with their data and indices."""
    config = FitConfig(**settings)
    data = training_data(problem, Request(), config)
    fields = Fields(config, 1, engine)
    for name, parameter in fields.named_parameters():
        if name.endswith("table"):
            parameter.data *= 3000
    return config, data, fields, fields.precompute(data.positions)


def seeded(seed=5):
    return np.random.default_rng(seed)


def some(data, n, rng):
    return torch.from_numpy(rng.permutation(len(data.signal))[:n])


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
@pytest.mark.parametrize("n", [201, 64, 1])
def test_losses_and_all_gradients_agree_with_autograd(problem, settings, n):
    config, data, reference, index = make(problem, settings, "torch")
    subset = some(data, n, seeded(3))
    expected = batch_losses(reference, index, data, config, subset, seeded())
    expected["total"].backward()
    config, data, fields, index = make(problem, settings, "fused")
    trainer = FusedTrainer(fields, index, data, config)
    found = trainer.gradients(subset, seeded())
    assert found == pytest.approx({name: float(value.detach()) for name, value in expected.items()}, rel=2e-6)
    engine = trainer.engine
    for parameter in fields.parameters():
        parameter.grad = torch.zeros_like(parameter)
    gradient_of = {parameter.data_ptr(): parameter.grad.numpy() for parameter in fields.parameters()}
    weights = [gradient_of[array.ctypes.data] for array, *_ in engine.packed.slots]
    engine.packed.write_back(engine.partial.sum(axis=0), weights)
    for state, index, g in zip(engine.tables, engine.index, engine.g_codes, strict=True):
        rows, weights = index.rows[subset.numpy()], index.weights[subset.numpy()]
        terms = weights[..., None] * g.reshape(len(g), rows.shape[1], 1, -1)
        np.add.at(gradient_of[state.table.ctypes.data], rows, terms)
    for (name, right), given in zip(reference.named_parameters(), fields.parameters(), strict=True):
        error = (given.grad - right.grad).abs().max()
        assert float(error) <= 2e-5 * float(right.grad.abs().max()), name


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_training_steps_follow_autograd_with_adamw(problem, settings):
    """A few steps with weight decay: the same losses and maps (single weights of tiny gradient may differ)."""
    maps, losses = [], []
    for engine, trainer_class in (("torch", AutogradTrainer), ("fused", FusedTrainer)):
        config, data, fields, index = make(problem, settings | {"weight_decay": 0.1}, engine)
        trainer = trainer_class(fields, index, data, config)
        generator = seeded(9)
        losses.append([])
        for _ in range(4):
            subset = some(data, 300, generator)
            losses[-1].append(trainer.step(subset, 1e-3, generator)["total"])
        trainer.sync()
        with torch.no_grad():
            maps.append(fields(index)[1:])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    for expected, found in zip(*maps, strict=True):
        assert float((found / expected - 1).abs().median()) < 1e-3
        assert float((found / expected - 1).abs().max()) < 2e-2


def test_adamw_is_torchs_for_changing_rates_and_untouched_rows(rng):
    start = rng.standard_normal(3001).astype(np.float32)
    expected = torch.nn.Parameter(torch.tensor(start))
    optimizer = torch.optim.AdamW([expected], lr=1e-2, weight_decay=0.05, foreach=False)
    found, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)

    @njit
    def step(p, m, v, g, rates):
        adamw(p, m, v, g, rates)

    for k in range(1, 8):
        g = (rng.standard_normal(3001) * 10.0 ** rng.uniform(-9, 1, 3001)).astype(np.float32)
        g[rng.random(3001) < 0.6] = 0
        lr = 1e-2 / k
        optimizer.param_groups[0]["lr"] = lr
        expected.grad = torch.tensor(g)
        optimizer.step()
        step(found, m, v, g, rates_of(lr, 0.05, k))
    assert np.abs(found - expected.detach().numpy()).max() < 2e-6


def test_results_do_not_depend_on_the_number_of_threads(problem):
    before = workers()
    results = []
    try:
        for threads in (1, 2):
            set_threads(threads)
            config, data, fields, index = make(problem, CASES["derivative, own ATT"], "auto")
            trainer, generator = make_trainer(fields, index, data, config), seeded()
            for _ in range(3):
                trainer.step(some(data, 500, generator), 1e-2, generator)
            trainer.sync()
            results.append([parameter.detach().clone() for parameter in fields.parameters()])
    finally:
        set_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.parametrize(("reach", "bound"), [(100.0, 2e-7), (1e4, 6e-7)])
def test_the_fast_sine_and_cosine_are_exact_to_float32_rounding(reach, bound):
    @njit
    def table(x, sine, cosine):
        for q in range(x.size):
            sine[q], cosine[q] = sincos(x[q])

    x = np.concatenate([np.linspace(-reach, reach, 400_001), np.arange(-30, 31) * np.pi / 2]).astype(np.float32)
    sine, cosine = np.empty_like(x), np.empty_like(x)
    table(x, sine, cosine)
    assert np.abs(sine - np.sin(x.astype(float))).max() < bound
    assert np.abs(cosine - np.cos(x.astype(float))).max() < bound


def test_the_fast_exponential_is_exact_to_float32_rounding_and_keeps_nan():
    @njit
    def table(x, out):
        for q in range(x.size):
            out[q] = decay(x[q])

    x = np.linspace(0, 87, 400_001).astype(np.float32)
    out = np.empty_like(x)
    table(x, out)
    assert np.abs(out / np.exp(-x.astype(float)) - 1).max() < 4e-7
    last = np.array([np.nan, 1e5], np.float32)
    out = np.empty_like(last)
    table(last, out)
    assert math.isnan(out[0])
    assert 0 < out[1] < 2e-38


def test_what_the_engine_cannot_do_goes_to_autograd(problem):
    config, data, fields, index = make(problem, {"activation": "relu"}, "fused")
    assert "relu" in unsupported(data, config)
    assert isinstance(make_trainer(fields, index, data, config), AutogradTrainer)
    config, data, fields, index = make(problem, {"objective": "increments", "collocation": 60}, "fused")
    assert "71 times" in unsupported(data, config)
    assert isinstance(make_trainer(fields, index, data, config), AutogradTrainer)
    config, data, fields, index = make(problem, {}, "torch")
    assert isinstance(make_trainer(fields, index, data, config), AutogradTrainer)


def test_a_nan_in_a_field_is_seen_in_the_loss(problem):
    config, data, fields, index = make(problem, {}, "fused")
    with torch.no_grad():
        fields.att_field.network.biases[-1][1] = float("nan")
    assert math.isnan(FusedTrainer(fields, index, data, config).gradients(torch.arange(100), seeded())["total"])


def test_a_whole_fit_gives_the_same_maps_on_both_engines(problem):
    series, mask = problem.volume(problem.signal), problem.mask
    settings = {"estimator": "pinn", "members": 1, "epochs": 5, "batch": 300}
    one, two = (fit(series, mask, TIMING, engine=engine, **settings) for engine in ("torch", "fused"))
    assert np.median(np.abs(one.cbf / np.where(mask, two.cbf, 1) - 1)[mask]) < 5e-3
    assert np.median(np.abs(one.att - two.att)[mask]) < 5e-3
    assert two.info["history"][0]["total"] == pytest.approx(one.info["history"][0]["total"], rel=5e-3)


def test_the_paper_preset_is_one_the_engine_serves(problem):
    assert not unsupported(training_data(problem, Request(), PRESETS["paper"]), PRESETS["paper"])

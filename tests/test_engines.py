"""Every engine against PyTorch's autograd: starts, losses, gradients, AdamW, whole fits; errors of fast functions."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from numba import njit

import aslpinn
from aslpinn import Acquisition, InputError
from aslpinn.estimation.networks.autograd import AutogradEngine
from aslpinn.estimation.networks.compiled import CompiledEngine, Packed, unsupported
from aslpinn.estimation.networks.config import PRESETS, PinnOptions
from aslpinn.estimation.networks.fit import engine_of
from aslpinn.estimation.networks.train import Samples, train
from aslpinn.estimation.problem import prepare
from aslpinn.fields.compiled import adamw, decay, rates_of, sincos
from aslpinn.physics import Constants, delta_m
from aslpinn.threads import set_threads, workers

SHORTENING = np.array([0.890, 0.575, 0.426, 0.338, 0.280, 0.240, 0.209, 0.186, 0.167, 0.151, 0.139])
fit = partial(aslpinn.fit, voxel_size=(1.0, 1.0, 1.0))
TIMING = Acquisition(SHORTENING, 0.049 + SHORTENING[::-1].cumsum()[::-1] - SHORTENING, slice_offset=np.arange(8) * 0.03)
PAPER = {"att_levels": 0, "levels": 16, "base": 16, "finest": 4096}
CASES = {
    "closed form": {"objective": "closed-form"},
    "closed form, odd sizes, held out": {
        "objective": "closed-form", "held_out": 0.2, "att_levels": 0, "hidden": 13, "layers": 2, "features": 3,
    },
    "closed form, finer levels decay faster": {"objective": "closed-form", "level_decay": 30.0},
    "increments": {"objective": "increments", "alpha": 0.7, "initial_condition": "off"},
    "increments, held out, one layer": {"objective": "increments", "held_out": 0.3, "layers": 1, **PAPER},
    "derivative": {"objective": "pointwise", "time_scale": 0.5, **PAPER},
    "derivative, own ATT": {"objective": "pointwise", "collocation": 0, "hidden": 10},
    "ode": {
        "objective": "pointwise", "reading": "ode", "time_scale": 2.0, "lambda_physics": 0.2,
        "initial_condition": "off",
    },
    "derivative, steps": {"objective": "pointwise", "edge_width": 0.0},
    "ode, steps": {"objective": "pointwise", "reading": "ode", "edge_width": 0.0},
    "ode, from t = 0": {"objective": "pointwise", "reading": "ode", "edge_width": 0.1},
    "no anatomy": {"anatomy": "off"},
    "increments, from t = 0, held out": {"objective": "increments", "held_out": 0.2, "levels": 6, "finest": 64},
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


def make(problem, settings, kind, seed=1):
    """An engine away from its start, where codes are almost zero, with the samples and a batch as it wants them."""
    config = PinnOptions(**settings)
    samples = Samples.of(problem, (3.0, 3.0, 7.0), config)
    engine = kind(samples, config, seed)
    if kind is CompiledEngine:
        for state in engine.tables:
            state.table *= 3000
    else:
        with torch.no_grad():
            for name, parameter in engine.fields.named_parameters():
                if name.endswith("table"):
                    parameter *= 3000
    return config, samples, engine


def batch(samples, config, n, seed=3):
    rng = np.random.default_rng(seed)
    points = rng.permutation(len(samples))[:n]
    count = 0 if config.objective == "closed-form" else config.collocation
    return points, rng.random((n, count), np.float32)


def gradients_of(engine, points):
    """Gradients of a compiled engine in the order and shape of the arrays it trains: tables, weights and biases."""
    weights = [np.zeros_like(array) for array, *_ in engine.packed.slots]
    engine.packed.write_back(engine.partial.sum(axis=0), weights)
    found = {array.ctypes.data: [] for array, *_ in engine.packed.slots}
    for (array, *_), gradient in zip(engine.packed.slots, weights, strict=True):
        found[array.ctypes.data].append(gradient)
    networks = [network for network in engine.networks if network is not None]
    arrays = [array for network in networks for array in (*network.weights, *network.biases)]
    out = [sum(found[array.ctypes.data]) for array in arrays]
    for state, index, g in zip(engine.tables, engine.index, engine.g_codes, strict=True):
        table = np.zeros_like(state.table)
        rows, weights = index.rows[points], index.weights[points]
        np.add.at(table, rows, weights[..., None] * g.reshape(len(g), rows.shape[1], 1, -1))
        out.append(table)
    return out


def parameters_of(fields):
    parts = [part for part in (fields.parameter_field, fields.att_field, fields.signal_field) if part is not None]
    networks = [p for part in parts for p in (*part.network.weights, *part.network.biases)]
    encodings = [part.encoding.table for part in (fields.parameter_field, fields.att_field) if part is not None]
    return networks + encodings


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_a_seed_gives_the_same_start_on_every_engine(problem, settings):
    config, samples = PinnOptions(**settings), Samples.of(problem, (3.0, 3.0, 7.0), PinnOptions(**settings))
    compiled, reference = CompiledEngine(samples, config, 11), AutogradEngine(samples, config, 11)
    networks = [network for network in compiled.networks if network is not None]
    ours = [array for network in networks for array in (*network.weights, *network.biases)]
    ours += [encoding.table for encoding in compiled.encodings]
    for own, theirs in zip(ours, parameters_of(reference.fields), strict=True):
        assert np.array_equal(own, theirs.detach().numpy())
    for (rows, weights), index in zip(compiled.positions, reference.indices, strict=True):
        assert np.array_equal(rows, index.rows.numpy().view(np.uint32))
        assert np.abs(weights - index.weights.numpy()).max() < 1e-7


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
@pytest.mark.parametrize("n", [201, 64, 1])
def test_losses_and_all_gradients_agree_with_autograd(problem, settings, n):
    config, samples, reference = make(problem, settings, AutogradEngine)
    points, drawn = batch(samples, config, n)
    expected = reference.losses(torch.from_numpy(points), torch.from_numpy(drawn))
    expected["total"].backward()
    config, samples, engine = make(problem, settings, CompiledEngine)
    found = engine.gradients(points, drawn)
    assert found == pytest.approx({name: float(value.detach()) for name, value in expected.items()}, rel=2e-6)
    right = [parameter.grad.numpy() for parameter in parameters_of(reference.fields)]
    for given, wanted in zip(gradients_of(engine, points), right, strict=True):
        assert np.abs(given - wanted).max() <= 2e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_training_steps_follow_autograd_with_adamw(problem, settings):
    """A few steps with weight decay: the same losses and maps (single weights of tiny gradient may differ)."""
    maps, losses = [], []
    for kind in (AutogradEngine, CompiledEngine):
        config, samples, engine = make(problem, settings | {"weight_decay": 0.1}, kind)
        batches = [batch(samples, config, 300, seed) for seed in range(4)]
        losses.append([float(engine.step(*one, 1e-3)["total"]) for one in engine.load(batches)])
        maps.append(engine.maps())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    for expected, found in zip(*maps, strict=True):
        assert np.median(np.abs(found / expected - 1)) < 1e-3
        assert np.abs(found / expected - 1).max() < 2e-2


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_networks_side_by_side_are_those_trained_one_by_one(problem, settings):
    """Losses to 1e-6, gradients to 1e-5; a few steps later the maps are the same, and twice the same bit for bit."""
    seeds, (config, samples, _) = [1, 5, 6], make(problem, settings, CompiledEngine)
    noise = np.random.default_rng(2).standard_normal((3, *samples.signal.shape)).astype(np.float32)
    series = [
        replace(samples, signal=samples.signal + 0.1 * one, scale=samples.scale * (1 + k / 10))
        for k, one in enumerate(noise)
    ]
    points, drawn = (torch.from_numpy(values) for values in batch(samples, config, 200))
    together = AutogradEngine(Samples.stack(series), config, seeds)
    total = together.losses(points, drawn)["total"]
    total.sum().backward()
    alone = [AutogradEngine(one, config, seed) for one, seed in zip(series, seeds, strict=True)]
    for k, one in enumerate(alone):
        loss = one.losses(points, drawn)["total"]
        loss.backward()
        assert float(total[k].detach()) == pytest.approx(float(loss.detach()), rel=1e-6)
        for name, parameter in together.fields.named_parameters():
            wanted = dict(one.fields.named_parameters())[name].grad
            stacked = parameter.grad
            given = stacked.view(len(wanted), 3, -1)[:, k] if name.endswith("table") else stacked[k]
            assert float((given - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max()), name
    again = AutogradEngine(Samples.stack(series), config, seeds)
    for engine in (together, *alone, again):
        for one in engine.load([batch(samples, config, 300, seed) for seed in range(3)]):
            engine.step(*one, 1e-3)
    maps = together.maps()
    for ours, other in zip(maps, again.maps(), strict=True):
        assert np.array_equal(ours, other)
    for k, one in enumerate(alone):
        for ours, (own,) in zip(maps, one.maps(), strict=True):
            assert np.abs(ours[k] / own - 1).max() < 1e-3


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
            config, samples, engine = make(problem, CASES["derivative, own ATT"], CompiledEngine)
            for seed in range(3):
                engine.step(*batch(samples, config, 500, seed), 1e-2)
            results.append(engine.maps())
    finally:
        set_threads(before)
    assert all(np.array_equal(one, two) for one, two in zip(*results, strict=True))


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


def test_what_the_compiled_engine_cannot_do_goes_to_autograd(problem):
    def chosen(settings, **more):
        config = PinnOptions(**(settings | more))
        samples = Samples.of(problem, (3.0, 3.0, 7.0), config)
        return type(engine_of(samples, config, [0])), unsupported(samples, config)

    assert chosen({}) == (CompiledEngine, "")
    assert chosen({"held_out": 0.1}, engine="fused") == (CompiledEngine, "")
    assert chosen({}, engine="torch") == (AutogradEngine, "")
    kind, why = chosen({"activation": "relu"})
    assert (kind, "relu" in why) == (AutogradEngine, True)
    kind, why = chosen({"objective": "increments", "collocation": 60}, engine="fused")
    assert (kind, "72 times" in why) == (AutogradEngine, True)
    assert chosen(PRESETS["paper"].as_dict()) == (CompiledEngine, "")
    spread = Acquisition(SHORTENING, TIMING.post_labeling_delay, constants=Constants(dispersion_sharpness=7.0))
    dispersed = prepare(np.ones((4, 4, 4, 11), np.float32) * 0.01, np.ones((4, 4, 4)), spread)
    assert "dispersed" in unsupported(Samples.of(dispersed, (3.0, 3.0, 7.0), PinnOptions()), PinnOptions())


@pytest.mark.parametrize(
    ("request_", "message"),
    [({"engine": "cuda"}, "expected device cuda"), ({"engine": "fused", "device": "cuda"}, "expected device cpu")],
)
def test_an_engine_that_is_not_for_the_device_is_refused(problem, request_, message):
    samples = Samples.of(problem, (3.0, 3.0, 7.0), PinnOptions())
    with pytest.raises(InputError, match=message):
        engine_of(samples, PinnOptions(**request_), [0])


def test_a_nan_in_a_field_is_seen_in_the_loss(problem):
    config, samples, engine = make(problem, {}, CompiledEngine)
    engine.networks[1].biases[-1][1] = float("nan")
    engine.packed = Packed(engine.networks)
    assert math.isnan(engine.gradients(*batch(samples, config, 100))["total"])


def test_a_whole_fit_gives_the_same_maps_on_both_engines(problem):
    series, mask = problem.volume(problem.signal), problem.mask
    settings = {"estimator": "pinn", "members": 1, "epochs": 5, "batch": 300}
    one, two = (fit(series, mask, TIMING, engine=engine, **settings) for engine in ("torch", "fused"))
    assert np.median(np.abs(one.cbf / np.where(mask, two.cbf, 1) - 1)[mask]) < 5e-3
    assert np.median(np.abs(one.att - two.att)[mask]) < 5e-3
    assert two.info["history"][0]["total"] == pytest.approx(one.info["history"][0]["total"], rel=5e-3)


def test_settings_that_define_no_encoding_are_refused(problem):
    series = problem.volume(problem.signal)
    with pytest.raises(InputError, match="finest: found 4, expected at least base"):
        fit(series, problem.mask, problem.acquisition, estimator="pinn", finest=4, epochs=1)


@pytest.mark.parametrize("kind", [CompiledEngine, AutogradEngine])
def test_samples_held_out_choose_the_maps_of_the_best_epoch(problem, kind):
    config = PinnOptions(epochs=12, batch=300, held_out=0.2, finest=512, schedule="constant")
    noisy = replace(
        problem,
        signal=problem.signal + 3e-3 * np.float32(np.random.default_rng(1).standard_normal(problem.signal.shape)),
    )
    samples, kept = Samples.of(noisy, (3.0, 3.0, 7.0), config), []
    engine = kind(samples, config, 0)
    (one,) = train(engine, samples, config, lambda *_: kept.append(engine.maps()))
    errors = one.history.losses["held-out"]
    assert one.history.best == int(np.argmin(errors)) < 11
    assert np.array_equal(one.cbf, kept[one.history.best][0][0])
    for error, ((cbf,), (att,)) in zip(errors, kept, strict=True):
        fitted = samples.scale * delta_m(cbf[:, None], att[:, None], noisy.pld, noisy.tau)
        off = (samples.signal - fitted)[samples.held_out]
        assert error == pytest.approx(np.sqrt(np.square(off).mean()), rel=1e-5)

"""The closed form without PyTorch: start, encoding and maps are those of the same fit with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aslpinn import Acquisition, InputError, fit
from aslpinn.estimation.closed_form import CompiledMembers, Field, serves
from aslpinn.estimation.config import FitConfig
from aslpinn.estimation.fitting import Fields, TorchMembers
from aslpinn.estimation.problem import Request, prepare
from aslpinn.fields import MultiresHashEncoding
from aslpinn.fields.plain import PlainEncoding
from aslpinn.physics import Constants, delta_m

TAU = np.full(6, 0.6)
TIMING = Acquisition(TAU, 0.05 + 0.6 * np.arange(5, -1, -1), slice_offset=np.arange(8) * 0.04)


@pytest.fixture(scope="module")
def problem():
    """936 noisy voxels with slice times, a delay repeated."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (14, 14, 8)), indexing="ij")
    cbf, att = 45 + 20 * np.sin(2 * x) * np.cos(2 * y), 1.2 + 0.3 * y + 0.1 * z
    timing = TIMING.select([0, 1, 2, 2, 3, 4, 5])
    series = delta_m(cbf[..., None], att[..., None], timing.post_labeling_delay, timing.labeling_duration)
    series = series + 1e-3 * np.random.default_rng(0).standard_normal(series.shape)
    return prepare(series.astype(np.float32), x**2 + y**2 + z**2 < 1.3, timing)


def test_table_rows_and_weights_are_the_reference_encodings():
    settings = {"levels": 7, "features": 3, "log2_table": 11, "base": 5, "finest": 900}
    positions = torch.rand(500, 3, generator=torch.Generator().manual_seed(1))
    positions[0], positions[1] = 0.0, 1.0
    expected = MultiresHashEncoding(**settings, seed=4)
    found = PlainEncoding.start(4, **settings)
    assert np.array_equal(found.table, expected.table.detach().numpy())
    index = expected.precompute(positions)
    rows, weights = found.index(positions.numpy())
    assert {level.dense for level in found.levels} == {True, False}
    assert np.array_equal(rows, index.rows.numpy().view(np.uint32))
    assert np.abs(weights - index.weights.numpy()).max() < 1e-7
    found.table = found.table * 1e4
    with torch.no_grad():
        expected.table.mul_(1e4)
        assert np.abs(found.codes(rows, weights) - expected.lookup(index).numpy()).max() < 1e-5


def test_networks_start_as_those_of_the_same_seed():
    config = FitConfig(hidden=13, layers=2)
    expected, rng = Fields(config, 11), np.random.default_rng(11)
    for part, sizes in (
        (expected.parameter_field, (config.levels, config.base, config.finest)),
        (expected.att_field, (config.att_levels, config.att_base, config.att_finest)),
    ):
        found = Field(config, rng, *sizes)
        assert part is not None
        assert np.array_equal(found.encoding.table, part.encoding.table.detach().numpy())
        for ours, theirs in (
            (found.network.weights, part.network.weights),
            (found.network.biases, part.network.biases),
        ):
            assert all(np.array_equal(a, b.detach().numpy()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("settings", [{}, {"att_levels": 0, "features": 4}], ids=["own ATT", "shared"])
def test_maps_are_those_of_the_fit_with_torch(problem, settings):
    config = FitConfig(epochs=3, batch=200, **settings)
    request = Request(engine="fused", voxel_size=(3.0, 3.0, 7.0))
    assert serves(problem, request, config)
    expected, found = TorchMembers(problem, request, config), CompiledMembers(problem, request, config)
    assert found.scale == expected.scale
    added = 1e-4 * np.ones_like(problem.signal)
    for seed, more in ((3, None), (4, added)):
        one, two = (networks.train(seed, lambda *_: None, more) for networks in (expected, found))
        assert two.engine == one.engine == "fused"
        assert np.allclose(two.cbf, one.cbf, rtol=1e-4)
        assert np.allclose(two.att, one.att, rtol=1e-4)
        assert two.history.losses["total"] == pytest.approx(one.history.losses["total"], rel=1e-6)


def test_what_the_compiled_engine_cannot_do_goes_to_torch(problem):
    config, request = FitConfig(), Request()
    for other in ({"objective": "increments"}, {"activation": "relu"}, {"held_out": 0.1}):
        assert not serves(problem, request, FitConfig(**other)), other
    for asked in (Request(engine="torch"), Request(device="cuda"), Request(engine="tinycudann")):
        assert not serves(problem, asked, config), asked
    spread = Acquisition(TAU, TIMING.post_labeling_delay, constants=Constants(dispersion_sharpness=7.0))
    dispersed = prepare(np.ones((4, 4, 4, 6), np.float32) * 0.01, np.ones((4, 4, 4)), spread)
    assert not serves(dispersed, request, config)


def test_settings_that_define_no_encoding_are_refused(problem):
    series = problem.volume(problem.signal)
    with pytest.raises(InputError, match="finest: found 4, expected at least base"):
        fit(series, problem.mask, problem.acquisition, estimator="pinn", members=1, finest=4, epochs=1)

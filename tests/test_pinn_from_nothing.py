"""What the chapter "A PINN from nothing" writes by itself is what the core computes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
jupytext = pytest.importorskip("jupytext")

from aslpinn import fields, physics  # noqa: E402
from aslpinn.fields.arrays import PRIMES  # noqa: E402

CHAPTER = Path(__file__).resolve().parents[1] / "notebooks" / "pinn-from-nothing.md"
TAU = 0.33


@pytest.fixture(scope="module")
def chapter() -> SimpleNamespace:
    """The functions and classes of the chapter's visible cells, without running its trainings."""
    names = {"math": __import__("math"), "np": np, "torch": torch, "nn": torch.nn, "tau": TAU}
    for cell in jupytext.read(CHAPTER).cells:
        source = cell.source
        if cell.cell_type == "code" and not cell.metadata.get("tags") and "simulate" not in source:
            definitions = source.split("\n\n\nmiddle")[0]
            if definitions.startswith(("ALPHA", "def ", "class ")):
                exec(compile(definitions, CHAPTER.name, "exec"), names)
    return SimpleNamespace(**names)


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(0)
    return rng.uniform(1, 120, 500), rng.uniform(0.3, 2.5, 500), rng.uniform(0.35, 3.6, 500)


def tensors(*arrays):
    return [torch.as_tensor(array, dtype=torch.float64) for array in arrays]


def test_its_solution_is_the_cores(chapter, points):
    cbf, att, t = points
    expected = physics.delta_m(cbf, att, t - TAU, TAU)
    assert np.abs(chapter.buxton(*tensors(cbf, att, t)).numpy() - expected).max() < 1e-15


def test_its_equation_is_the_cores(chapter, points):
    cbf, att, t = points
    signal = 0.01 * np.sin(t)
    expected = physics.delta_m_ode(signal, cbf, att, t - TAU, TAU)
    found = chapter.P(*tensors(signal, cbf, att, t), 0).numpy()
    assert np.abs(found - expected).max() < 1e-8  # its edges are float32


def test_its_solution_obeys_its_equation(chapter):
    t = torch.linspace(0.4, 3.6, 2000, dtype=torch.float64, requires_grad=True)
    cbf, att = torch.tensor(60.0), torch.tensor(1.1)
    signal = chapter.buxton(cbf, att, t)
    (slope,) = torch.autograd.grad(signal.sum(), t)
    left = (slope - chapter.P(signal, cbf, att, t, 0)).detach().abs().max()
    assert left < 1e-6 * slope.abs().max()


def test_only_a_soft_edge_has_a_derivative_by_att(chapter):
    """Between the sample times and far from them: what ATT does to the bracket, not to the height."""
    t = torch.linspace(0.4, 3.6, 50)
    derivatives = {}
    for width in (0.0, 0.05):
        x = (t - 1.1).requires_grad_()
        edge = chapter.edge(x, width)
        derivatives[width] = torch.autograd.grad(edge.sum(), x)[0].abs().max() if edge.requires_grad else 0.0
    assert derivatives[0.0] == 0
    assert derivatives[0.05] > 1


def test_its_network_is_the_cores(chapter):
    mine, core = chapter.Siren(5, 2, 25.0, 5.0), fields.Siren(5, 2, 16, 3, 25.0, 5.0)
    with torch.no_grad():
        for layer, weight, bias in zip(mine.layers, core.weights, core.biases, strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    x = torch.rand(100, 5)
    assert torch.allclose(mine(x), core(x), atol=1e-6)


def test_its_hash_is_the_cores_and_its_codes_interpolate(chapter):
    grid = chapter.HashGrid((8, 64), rows=512)
    i, j = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    assert torch.equal(grid.row(i, j, 64), ((i * PRIMES[0]) ^ (j * PRIMES[1])) % 512)
    with torch.no_grad():
        vertex = torch.tensor([[3 / 7, 5 / 7]])
        assert torch.allclose(grid(vertex)[0, :2], grid.table[0, 3 + 8 * 5], atol=1e-9)
        a, b, middle = torch.tensor([[0.30, 0.40]]), torch.tensor([[0.34, 0.40]]), torch.tensor([[0.32, 0.40]])
        assert torch.allclose((grid(a) + grid(b))[:, :2] / 2, grid(middle)[:, :2], atol=1e-9)  # same cell: linear
        grid.table.fill_(1.0)
        assert torch.allclose(grid(torch.rand(200, 2)), torch.ones(200, 4), atol=1e-6)

"""The hash encoding against a slow loop written from the paper and tiny-cuda-nn, without any of our code."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aslpinn.errors import InputError
from aslpinn.fields import MultiresHashEncoding
from aslpinn.fields.arrays import Table
from aslpinn.threads import set_threads, workers

PAPER = {"levels": 16, "features": 2, "log2_table": 15, "base": 16, "finest": 4096}
CONFIGS = {
    "paper": PAPER,
    "one level": {"levels": 1, "base": 16},
    "coarse": {"levels": 4, "base": 8, "finest": 48},
    "all dense, odd sizes": {"levels": 3, "features": 1, "base": 3, "finest": 7, "log2_table": 10},
    "collisions": {"levels": 3, "features": 3, "log2_table": 6, "base": 4, "finest": 33},
}


def slow_rows(levels: int, log2_table: int, base: int, finest: int) -> list[int]:
    return [rows for _, _, rows in slow_levels(levels, log2_table, base, finest)]


def slow_levels(levels: int, log2_table: int, base: int, finest: int) -> list[tuple[float, int, int]]:
    b = math.exp(math.log(finest / base) / (levels - 1)) if levels > 1 else 1.0
    out = []
    for level in range(levels):
        scale = base * b**level - 1
        resolution = math.ceil(scale) + 1
        rows = resolution**3
        while rows % 8:
            rows += 1
        out.append((scale, resolution, min(rows, 2**log2_table)))
    return out


def slow_encode(
    points: np.ndarray,
    table: np.ndarray,
    upstream: np.ndarray,
    levels: int = 16,
    features: int = 2,
    log2_table: int = 15,
    base: int = 16,
    finest: int = 4096,
) -> tuple[np.ndarray, np.ndarray]:
    """Codes, and the table's gradient of sum(codes * upstream), one multiplication at a time."""
    codes = np.zeros((len(points), levels * features))
    gradient = np.zeros(table.shape)
    first_row = 0
    for level, (scale, resolution, rows) in enumerate(slow_levels(levels, log2_table, base, finest)):
        for n, point in enumerate(points):
            position = [float(v) * scale + 0.5 for v in point]
            for dx in (0, 1):
                for dy in (0, 1):
                    for dz in (0, 1):
                        weight, vertex = 1.0, []
                        for p, d in zip(position, (dx, dy, dz), strict=True):
                            cell = math.floor(p)
                            weight *= p - cell if d else 1 - (p - cell)
                            vertex.append(cell + d)
                        x, y, z = vertex
                        if resolution**3 <= rows:
                            place = x + y * resolution + z * resolution**2
                        else:
                            place = x % 2**32 ^ (y * 2654435761) % 2**32 ^ (z * 805459861) % 2**32
                        row = first_row + place % rows
                        for f in range(features):
                            codes[n, level * features + f] += weight * table[row, f]
                            gradient[row, f] += weight * upstream[n, level * features + f]
        first_row += rows
    return codes, gradient


def points_with_corners(rng: np.random.Generator, count: int) -> np.ndarray:
    """Random points, and the corners and edges of the cube where an index may run out of the grid."""
    edges = [[0, 0, 0], [1, 1, 1], [1, 0, 0.5], [0, 1, 1], [0.5, 0.5, 0.5]]
    return np.concatenate([rng.random((count, 3)), edges]).astype(np.float32)


@pytest.mark.parametrize("name", CONFIGS)
def test_values_and_gradients_are_those_of_the_slow_loop(name: str, rng: np.random.Generator) -> None:
    config = CONFIGS[name]
    encoding = MultiresHashEncoding(**config)
    x = points_with_corners(rng, 12)
    table = rng.standard_normal(encoding.table.shape).astype(np.float32)
    upstream = rng.standard_normal((len(x), encoding.width)).astype(np.float32)
    with torch.no_grad():
        encoding.table.copy_(torch.from_numpy(table))
    codes = encoding(torch.from_numpy(x))
    codes.backward(torch.from_numpy(upstream))
    expected, gradient = slow_encode(x, table, upstream, **config)
    assert codes.dtype == torch.float32
    np.testing.assert_allclose(codes.detach().numpy(), expected, atol=2e-6)
    np.testing.assert_allclose(encoding.table.grad.numpy(), gradient, atol=4e-6)


@settings(max_examples=20, deadline=None)
@given(
    levels=st.integers(1, 5),
    features=st.integers(1, 3),
    log2_table=st.integers(4, 12),
    base=st.integers(2, 12),
    growth=st.integers(1, 40),
    seed=st.integers(0, 2**31),
)
def test_values_and_gradients_are_right_for_any_settings(
    levels: int, features: int, log2_table: int, base: int, growth: int, seed: int
) -> None:
    config = {"levels": levels, "features": features, "log2_table": log2_table, "base": base, "finest": base * growth}
    rng = np.random.default_rng(seed)
    x = points_with_corners(rng, 3)
    reference = MultiresHashEncoding(**config, seed=seed)
    upstream = torch.from_numpy(rng.standard_normal((len(x), reference.width)).astype(np.float32))
    expected, gradient = slow_encode(x, reference.table.detach().numpy(), upstream.numpy(), **config)
    codes = reference(torch.from_numpy(x))
    codes.backward(upstream)
    np.testing.assert_allclose(codes.detach().numpy(), expected, atol=1e-9)  # values are at most 1e-4
    np.testing.assert_allclose(reference.table.grad.numpy(), gradient, atol=1e-5)


def test_rows_of_the_papers_settings() -> None:
    encoding = MultiresHashEncoding(**PAPER)
    rows = [level.rows for level in encoding.levels]
    # 16^3, 24^3 (scale 22.2), then 14 full tables; two such tables, for f_tissue and f_ode, have 953,344 rows
    assert rows == [4096, 13824, *[32768] * 14]
    assert rows == slow_rows(16, 15, 16, 4096)
    assert encoding.table.shape == (476_672, 2)
    assert [level.dense for level in encoding.levels] == [True, True] + [False] * 14


def test_table_starts_uniform_in_the_published_range_and_follows_its_seed() -> None:
    table = MultiresHashEncoding(seed=3).table.detach()
    assert float(table.abs().max()) <= 1e-4
    assert float(table.std()) == pytest.approx(1e-4 / math.sqrt(3), rel=0.01)
    assert float(table.mean()) == pytest.approx(0, abs=2e-7)
    assert torch.equal(table, MultiresHashEncoding(seed=3).table)
    assert torch.equal(table, MultiresHashEncoding(seed=np.random.default_rng(3)).table)
    assert not torch.equal(table, MultiresHashEncoding(seed=4).table)


def test_lookup_of_precomputed_positions_is_forward(rng: np.random.Generator) -> None:
    encoding = MultiresHashEncoding(levels=4, base=8, finest=48)
    x = torch.from_numpy(rng.random((50, 3)).astype(np.float32))
    index = encoding.precompute(x)
    assert len(index) == 50
    assert torch.equal(encoding.lookup(index), encoding(x))
    subset = torch.tensor([7, 3, 3, 49])
    assert torch.equal(encoding.lookup(index, subset), encoding(x[subset]))
    repeated = MultiresHashEncoding(levels=4, base=8, finest=48)
    encoding.lookup(index, subset).sum().backward()
    repeated(x[subset]).sum().backward()
    assert torch.equal(encoding.table.grad, repeated.table.grad)
    assert encoding(x[:0]).shape == (0, 8)


def test_codes_are_continuous_and_weights_sum_to_one() -> None:
    encoding = MultiresHashEncoding(levels=5, base=4, finest=64, log2_table=8)
    line = torch.linspace(0, 1, 4001)[:, None] * torch.tensor([[1.0, 0.7, 0.3]])
    steps = encoding(line).detach().diff(dim=0).abs().max()
    # a cell of the finest level is 1/63 wide and rows differ by at most 2e-4 along each of three axes
    assert float(steps) < 3 * 2e-4 * 63 / 4000 * 1.01
    with torch.no_grad():
        encoding.table.fill_(1.0)
    torch.testing.assert_close(encoding(line), torch.ones(len(line), encoding.width))


def test_a_dense_level_reproduces_a_linear_function() -> None:
    encoding = MultiresHashEncoding(levels=1, features=1, base=9, log2_table=12)
    size = encoding.levels[0].resolution
    z, y, x = np.mgrid[:size, :size, :size]
    with torch.no_grad():
        encoding.table[: size**3, 0] = torch.from_numpy((x + 10 * y + 100 * z).ravel().astype(np.float32))
    at = torch.rand((200, 3), generator=torch.Generator().manual_seed(0)) * 0.9
    expected = (at * encoding.levels[0].scale + 0.5) @ torch.tensor([1.0, 10.0, 100.0])
    torch.testing.assert_close(encoding(at)[:, 0], expected, rtol=1e-5, atol=1e-4)


def test_reference_is_differentiable_in_position() -> None:
    encoding = MultiresHashEncoding(levels=2, base=4, finest=7)
    at = torch.tensor([[0.31, 0.52, 0.13]], requires_grad=True)
    (slope,) = torch.autograd.grad(encoding(at)[0, 3], at)
    step = 1e-3
    for axis in range(3):
        shift = torch.zeros(3)
        shift[axis] = step
        numeric = (encoding(at + shift)[0, 3] - encoding(at - shift)[0, 3]).item() / (2 * step)
        assert slope[0, axis].item() == pytest.approx(numeric, rel=1e-3, abs=1e-8)


def test_results_do_not_depend_on_the_number_of_threads(rng: np.random.Generator) -> None:
    before = workers()
    x = torch.from_numpy(rng.random((3000, 3)).astype(np.float32))
    upstream = torch.from_numpy(rng.standard_normal((3000, 32)).astype(np.float32))
    results = []
    for count in (1, 2):
        set_threads(count)
        encoding = MultiresHashEncoding()
        codes = encoding(x)
        codes.backward(upstream)
        results.append((codes.detach(), encoding.table.grad))
    set_threads(before)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_threads_must_be_a_positive_integer() -> None:
    for count in (0, -1, 2.0, True):
        with pytest.raises(InputError, match="threads"):
            set_threads(count)


def test_positions_outside_the_cube_or_of_wrong_shape_are_refused() -> None:
    encoding = MultiresHashEncoding(levels=2)
    for bad in ([[0.5, 0.5, 1.001]], [[-1e-6, 0.5, 0.5]], [[0.5, float("nan"), 0.5]], [[0.5, 0.5, float("inf")]]):
        with pytest.raises(InputError, match=r"expected all in \[0, 1\]"):
            encoding(torch.tensor(bad))
    for shape in ((3,), (4, 2), (2, 2, 3)):
        with pytest.raises(InputError, match=r"expected \(N, 3\)"):
            encoding(torch.zeros(shape))


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ({"levels": 0}, "levels"),
        ({"features": 0}, "features"),
        ({"log2_table": 2}, "log2_table"),
        ({"base": 0}, "base"),
        ({"levels": 2.5}, "levels"),
        ({"finest": 8}, "finest"),
        ({"engine": "gpu"}, "engine"),
    ],
)
def test_settings_that_define_no_encoding_are_refused(setting: dict, word: str) -> None:
    with pytest.raises(InputError, match=word):
        MultiresHashEncoding(**setting)


@pytest.mark.skipif(importlib.util.find_spec("tinycudann") is not None, reason="tinycudann is installed")
def test_tinycudann_that_is_not_installed_is_a_clear_error() -> None:
    with pytest.raises(InputError, match="conda install -c conda-forge tiny-cuda-nn"):
        MultiresHashEncoding(engine="tinycudann")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_codes_and_gradients_on_cuda_are_those_of_the_cpu(rng: np.random.Generator) -> None:
    x = torch.from_numpy(points_with_corners(rng, 1000))
    upstream = torch.from_numpy(rng.standard_normal((len(x), 32)).astype(np.float32))
    cpu, cuda = MultiresHashEncoding(), MultiresHashEncoding().cuda()
    expected, codes = cpu(x), cuda(x.cuda())
    expected.backward(upstream)
    codes.backward(upstream.cuda())
    torch.testing.assert_close(codes.cpu(), expected, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(cuda.table.grad.cpu(), cpu.table.grad, rtol=1e-4, atol=1e-5)
    if importlib.util.find_spec("tinycudann") is not None:
        native = MultiresHashEncoding(engine="tinycudann").cuda()
        codes = native(x.cuda())
        codes.backward(upstream.cuda())
        torch.testing.assert_close(codes.cpu(), expected, rtol=1e-3, atol=1e-7)
        torch.testing.assert_close(native.table.grad.cpu(), cpu.table.grad, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("arrays", [False, True], ids=["torch", "numpy"])
def test_a_line_interpolates_along_a_coordinate_of_its_own(arrays):
    """Its code is that of `np.interp` between its rows, those of the grids in space stay what they were."""
    rng = np.random.default_rng(0)
    settings, lines = {"levels": 2, "features": 2, "log2_table": 10, "base": 4, "finest": 8}, (9, 5)
    points = rng.random((50, 5), np.float32)
    points[:2, 3:] = [[0.0, 1.0], [1.0, 0.0]]
    if arrays:
        encoding = Table.start(0, **settings, lines=lines)
        table, codes = encoding.table, encoding.codes(*encoding.index(points))
    else:
        module = MultiresHashEncoding(**settings, lines=lines)
        table, codes = module.table.detach().numpy(), module(torch.from_numpy(points)).detach().numpy()
    space = MultiresHashEncoding(**settings)
    with torch.no_grad():
        space.table.copy_(torch.from_numpy(table[: len(space.table)]))
    np.testing.assert_allclose(codes[:, :4], space(torch.from_numpy(points[:, :3])).detach().numpy(), atol=1e-9)
    first = len(space.table)
    for number, vertices in enumerate(lines):
        for feature in range(2):
            expected = np.interp(
                points[:, 3 + number], np.linspace(0, 1, vertices), table[first : first + vertices, feature]
            )
            np.testing.assert_allclose(codes[:, 4 + 2 * number + feature], expected, atol=1e-9)
        first += vertices
    assert first == len(table)

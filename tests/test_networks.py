"""SIREN and the two fields: initialization, tangent against autograd, shapes that carry meaning, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from aslpinn.errors import InputError
from aslpinn.fields import MultiresHashEncoding, ParameterField, SignalField, Siren


def uniform(values: torch.Tensor, bound: float) -> None:
    """Assert that the values fill a uniform distribution of this half width."""
    values = values.detach()
    assert float(values.abs().max()) <= bound
    assert float(values.abs().max()) > 0.97 * bound
    assert float(values.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert abs(float(values.mean())) < 0.05 * bound


def test_siren_starts_from_the_published_distributions() -> None:
    siren = Siren(50, 40, hidden=64, layers=3, omega_first=25, omega_hidden=5, seed=1)
    assert [tuple(w.shape) for w in siren.weights] == [(64, 50), (64, 64), (64, 64), (40, 64)]
    uniform(siren.weights[0], 1 / 50)
    for weight in list(siren.weights)[1:]:
        uniform(weight, math.sqrt(6 / 64) / 5)


def test_siren_activations_keep_their_spread_with_depth() -> None:
    # Sitzmann et al., theorem 1.8: the input of every sine is normal with SD 1, its output arcsine with SD 0.7
    siren = Siren(3, 1, hidden=256, layers=6, omega_first=30, omega_hidden=30, seed=0)
    siren.requires_grad_(False)
    x = torch.rand((2000, 3), generator=torch.Generator().manual_seed(0)) * 2 - 1
    hidden = siren.activate(x @ siren.weights[0].T + siren.biases[0], 0)
    for layer in range(1, 6):
        phase = siren.omega_hidden * (hidden @ siren.weights[layer].T)
        assert float(phase.std()) == pytest.approx(1.0, rel=0.15)
        hidden = siren.activate(hidden @ siren.weights[layer].T + siren.biases[layer], layer)
        assert float(hidden.std()) == pytest.approx(0.7, rel=0.1)


def test_siren_is_the_written_formula() -> None:
    siren = Siren(2, 1, hidden=4, layers=2, omega_first=7, omega_hidden=3, seed=5)
    x = torch.rand(6, 2)
    first = torch.sin(7 * (x @ siren.weights[0].T + siren.biases[0]))
    second = torch.sin(3 * (first @ siren.weights[1].T + siren.biases[1]))
    torch.testing.assert_close(siren(x), second @ siren.weights[2].T + siren.biases[2])


def test_networks_follow_their_seed() -> None:
    encoding = MultiresHashEncoding(levels=2)
    for kind in (SignalField, ParameterField):
        one, same, other = (kind(encoding, seed=s).network.weights[1] for s in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
    state = torch.random.get_rng_state()
    Siren(3, 1, seed=9)
    MultiresHashEncoding(levels=1, seed=9)
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator is never drawn from


def field(activation: str = "sine") -> tuple[SignalField, torch.Tensor]:
    encoding = MultiresHashEncoding(levels=3, base=4, finest=16, seed=2)
    with torch.no_grad():
        encoding.table.normal_(generator=torch.Generator().manual_seed(2))
    signal_field = SignalField(encoding, activation=activation, seed=3)
    return signal_field, encoding(torch.rand((9, 3), generator=torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("activation", ["sine", "relu"])
def test_signal_field_is_a_network_of_code_and_time(activation: str) -> None:
    signal_field, code = field(activation)
    t = torch.linspace(0.3, 4.0, 5)
    stacked = torch.cat([code[:, None].expand(-1, 5, -1), t.expand(9, 5)[..., None]], -1)
    torch.testing.assert_close(signal_field(code, t), signal_field.network(stacked).squeeze(-1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(signal_field(code, t.expand(9, 5)), signal_field(code, t))


@pytest.mark.parametrize("activation", ["sine", "relu"])
def test_rate_is_that_of_autograd_and_so_are_its_gradients(activation: str) -> None:
    signal_field, code = field(activation)
    t = torch.rand((9, 5), generator=torch.Generator().manual_seed(6)).requires_grad_()
    signal, rate = signal_field.with_rate(code, t)
    (expected,) = torch.autograd.grad(signal_field(code, t).sum(), t, create_graph=True)
    torch.testing.assert_close(signal, signal_field(code, t))
    torch.testing.assert_close(rate, expected, rtol=1e-4, atol=1e-5)
    # the paper's loss goes back through the rate: its gradient in every weight and in the table
    weights = [p for p in signal_field.parameters() if p.requires_grad]
    ours = torch.autograd.grad((rate**2).sum(), weights, retain_graph=True, allow_unused=True)
    theirs = torch.autograd.grad((expected**2).sum(), weights, allow_unused=True, materialize_grads=True)
    for mine, other in zip(ours, theirs, strict=True):
        scale = float(other.abs().max()) + 1e-6
        torch.testing.assert_close(torch.zeros_like(other) if mine is None else mine, other, rtol=0, atol=1e-4 * scale)


def test_parameter_field_is_positive_and_starts_near_its_scales() -> None:
    encoding = MultiresHashEncoding(seed=1)
    cbf, att = ParameterField(encoding, seed=1)(encoding(torch.rand(500, 3)))
    assert cbf.shape == att.shape == (500,)
    cbf, att = cbf.detach(), att.detach()
    assert float(cbf.min()) > 0
    assert float(att.min()) > 0
    assert 20 < float(cbf.mean()) < 80
    assert 0.6 < float(att.mean()) < 2.4
    doubled, later = ParameterField(encoding, seed=1, cbf_scale=80, att_scale=2.4)(encoding(torch.rand(500, 3)))
    assert float(doubled.mean() / cbf.mean()) == pytest.approx(2, rel=0.05)
    assert float(later.mean() / att.mean()) == pytest.approx(2, rel=0.05)


def test_defaults_are_those_of_the_papers_table_2() -> None:
    encoding = MultiresHashEncoding()
    tissue, ode = SignalField(encoding).network, ParameterField(encoding).network
    assert (tissue.omega_first, tissue.omega_hidden) == (15, 15)
    assert (ode.omega_first, ode.omega_hidden) == (25, 5)
    assert [tuple(w.shape) for w in tissue.weights] == [(16, 33), (16, 16), (16, 16), (1, 16)]
    assert [tuple(w.shape) for w in ode.weights] == [(16, 32), (16, 16), (16, 16), (2, 16)]


def test_the_code_learns_fine_detail_that_a_relu_network_of_coordinates_does_not() -> None:
    x = torch.rand((400, 3), generator=torch.Generator().manual_seed(0))
    target = torch.sign(torch.sin(8 * math.pi * x[:, 0]) * torch.sin(8 * math.pi * x[:, 1]))  # SD 1
    encoding = MultiresHashEncoding(levels=3, base=8, finest=24)
    index = encoding.precompute(x)
    head = Siren(encoding.width, 1, omega_first=25, omega_hidden=5)
    plain = Siren(3, 1, activation="relu")

    def residual(parameters: list, predict: Callable[[], torch.Tensor]) -> float:
        optimizer = torch.optim.Adam(parameters, lr=1e-2)
        for _ in range(80):
            optimizer.zero_grad()
            loss = ((predict().squeeze(-1) - target) ** 2).mean()
            loss.backward()
            optimizer.step()
        return loss.item() ** 0.5

    with_code = residual([*head.parameters(), encoding.table], lambda: head(encoding.lookup(index)))
    without = residual(list(plain.parameters()), lambda: plain(2 * x - 1))
    assert with_code < 0.2
    assert without > 0.8


def test_bad_settings_and_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="activation"):
        Siren(3, 1, activation="tanh")
    with pytest.raises(InputError, match="positive"):
        Siren(3, 1, omega_first=0)
    with pytest.raises(InputError, match="cbf_scale"):
        ParameterField(MultiresHashEncoding(levels=1), cbf_scale=-1)
    signal_field, code = field()
    with pytest.raises(InputError, match=r"expected \(T,\) or \(9, T\)"):
        signal_field(code, torch.zeros(8, 5))
    with pytest.raises(InputError, match=r"expected \(n, 6\)"):
        signal_field(code[:, :5], torch.zeros(5))

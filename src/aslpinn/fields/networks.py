"""Sinusoidal networks (Sitzmann et al. 2020) and the two fields of the paper: f_tissue and f_ode."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from .arrays import Seed, siren_start
from .encoding import MultiresHashEncoding

ACTIVATIONS = ("sine", "relu")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """W x + b of inputs (..., in) with a weight (out, in); or of (K, n, in) with those of K networks, (K, out, in)."""
    if weight.ndim == 2:
        return functional.linear(x, weight, bias)
    return torch.bmm(x, weight.mT) if bias is None else torch.baddbmm(bias[:, None], x, weight.mT)


class Siren(nn.Module):
    """Fully connected network with sine activations: sin(omega * (W x + b)), then a linear last layer.

    Parameters
    ----------
    in_features, out_features : int
        Size of input and output.
    hidden, layers : int
        Units of a hidden layer, and number of hidden layers.
    omega_first, omega_hidden : float
        Frequency factor of the first and of the other hidden layers; "relu" has none.
    activation : str
        "sine", or "relu" with He's initialization, for comparison.
    seed : int or numpy.random.Generator
        Of the initial weights.

    The parameters may be those of K networks, stacked on a first axis; inputs and outputs then have one more axis, too.
    Weights of n inputs start uniform: first layer in +-1/n, others in +-sqrt(6/n)/omega_hidden, biases in +-1/sqrt(n)
    (Sitzmann et al. 2020, section 3.2 and supplement 1.5; biases as in their code). Raises InputError for an unknown
    activation, or sizes and frequencies that are not positive.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: int = 16,
        layers: int = 3,
        omega_first: float = 30.0,
        omega_hidden: float = 30.0,
        activation: str = "sine",
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise InputError(f"activation: found {activation!r}, expected one of {', '.join(ACTIVATIONS)}")
        if min(in_features, out_features, hidden, layers, omega_first, omega_hidden) <= 0:
            raise InputError("Siren: expected positive sizes, layers and omegas")
        self.activation = activation
        self.omega_first = omega_first
        self.omega_hidden = omega_hidden
        widths = [in_features, *[hidden] * layers, out_features]
        weights, biases = siren_start(seed, widths, activation, omega_hidden)
        self.weights = nn.ParameterList(torch.from_numpy(weight) for weight in weights)
        self.biases = nn.ParameterList(torch.from_numpy(bias) for bias in biases)

    def omega(self, layer: int) -> float:
        """Return the frequency factor of a hidden layer (1 for "relu")."""
        if self.activation == "relu":
            return 1.0
        return self.omega_first if layer == 0 else self.omega_hidden

    def activate(self, before: Tensor, layer: int) -> Tensor:
        """Return the activation of W x + b of a hidden layer."""
        return torch.relu(before) if self.activation == "relu" else torch.sin(self.omega(layer) * before)

    def activate_with_tangent(self, before: Tensor, tangent: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Return the activation and its directional derivative, given those of W x + b."""
        if self.activation == "relu":
            return torch.relu(before), (before > 0) * tangent
        phase = self.omega(layer) * before
        return torch.sin(phase), torch.cos(phase) * (self.omega(layer) * tangent)

    def after_first(self, hidden: Tensor) -> Tensor:
        """Return the output, given the first layer's activations (..., hidden)."""
        last = len(self.weights) - 1
        for layer in range(1, last):
            hidden = self.activate(linear(hidden, self.weights[layer], self.biases[layer]), layer)
        return linear(hidden, self.weights[last], self.biases[last])

    def after_first_with_tangent(self, hidden: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output and its directional derivative, given those of the first layer's activations."""
        last = len(self.weights) - 1
        for layer in range(1, last):
            before = linear(hidden, self.weights[layer], self.biases[layer])
            along = linear(tangent, self.weights[layer])
            hidden, tangent = self.activate_with_tangent(before, along, layer)
        output = linear(hidden, self.weights[last], self.biases[last])
        return output, linear(tangent, self.weights[last])

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (..., out_features) of inputs (..., in_features)."""
        return self.after_first(self.activate(linear(x, self.weights[0], self.biases[0]), 0))


class SignalField(nn.Module):
    """f_tissue: the signal at a position and a time; the position comes as its hash code (paper, Table 2).

    The code of a voxel does not depend on time: it passes its columns of the first layer once, and each time is added
    through a column of its own. Seconds, or any other unit of t, are the caller's choice; the rate is per that unit.

    Parameters
    ----------
    encoding : MultiresHashEncoding
        Of the positions; its table is a parameter of this field.
    hidden, layers, omega_first, omega_hidden, activation, seed
        As in `Siren`; defaults are the paper's: 3 hidden layers of 16, omega 15 and 15.
    """

    def __init__(
        self,
        encoding: MultiresHashEncoding,
        hidden: int = 16,
        layers: int = 3,
        omega_first: float = 15.0,
        omega_hidden: float = 15.0,
        activation: str = "sine",
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        self.encoding = encoding
        width = encoding.width + 1
        self.network = Siren(width, 1, hidden, layers, omega_first, omega_hidden, activation, seed)

    def _first(self, code: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first layer's W x + b and its derivative by t, both (n * T, hidden): a voxel's times in a row."""
        weight, n = self.network.weights[0], code.shape[-2]
        if t.ndim < 1 or (t.ndim > 1 and t.shape[-2] not in (1, n)):
            raise InputError(f"t: found shape {tuple(t.shape)}, expected (T,) or ({n}, T)")
        if code.shape[-1] != weight.shape[-1] - 1:
            raise InputError(f"code: found shape {tuple(code.shape)}, expected (n, {weight.shape[-1] - 1})")
        place = linear(code, weight[..., :-1], self.network.biases[0])
        column = weight[..., None, None, :, -1]
        before = place[..., None, :] + t[..., None] * column
        return before.flatten(-3, -2), column.expand_as(before).flatten(-3, -2)

    def forward(self, code: Tensor, t: Tensor) -> Tensor:
        """Return the signal (n, T) of codes (n, C) at times t, (n, T) or (T,) for all."""
        before, _ = self._first(code, t)
        return (
            self.network.after_first(self.network.activate(before, 0)).unflatten(-2, (code.shape[-2], -1)).squeeze(-1)
        )

    def with_rate(self, code: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the signal and its time derivative, both (n, T), the derivative carried forward with the values."""
        before, column = self._first(code, t)
        hidden, tangent = self.network.activate_with_tangent(before, column, 0)
        signal, rate = (
            values.unflatten(-2, (code.shape[-2], -1)).squeeze(-1)
            for values in self.network.after_first_with_tangent(hidden, tangent)
        )
        return signal, rate


class ParameterField(nn.Module):
    """f_ode: CBF and ATT at a position, positive through an exponential (paper, Table 2).

    Parameters
    ----------
    encoding : MultiresHashEncoding
        Of the positions; its table is a parameter of this field.
    cbf_scale, att_scale : float
        CBF in ml/100g/min and ATT in s where the network's outputs are zero.
    hidden, layers, omega_first, omega_hidden, activation, seed
        As in `Siren`; defaults are the paper's: 3 hidden layers of 16, omega 25 (first) and 5.
    """

    def __init__(
        self,
        encoding: MultiresHashEncoding,
        hidden: int = 16,
        layers: int = 3,
        omega_first: float = 25.0,
        omega_hidden: float = 5.0,
        activation: str = "sine",
        seed: Seed = 0,
        cbf_scale: float = 40.0,
        att_scale: float = 1.2,
    ) -> None:
        super().__init__()
        if cbf_scale <= 0 or att_scale <= 0:
            raise InputError(f"cbf_scale, att_scale: found {cbf_scale} and {att_scale}, expected positive numbers")
        self.encoding = encoding
        self.network = Siren(encoding.width, 2, hidden, layers, omega_first, omega_hidden, activation, seed)
        self.cbf_scale = cbf_scale
        self.att_scale = att_scale

    def forward(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """Return CBF (n,) in ml/100g/min and ATT (n,) in s of codes (n, C)."""
        log_cbf, log_att = self.network(code).unbind(-1)
        return self.cbf_scale * log_cbf.exp(), self.att_scale * log_att.exp()

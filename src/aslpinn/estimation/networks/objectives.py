"""What a fit minimizes: the paper's pointwise loss, its integral form (increments), the closed form.

Pure functions of tensors: a field's values in, named losses out. n voxels, D acquired times, K = D + collocation times,
the acquired ones first. Values of several networks have one more axis before these; losses are then one for each.
Signals are scaled (`scale` times delta-M / M0b); times are in s.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...physics import Constants, delta_m, delta_m_ode, delta_m_rate
from .durations import Durations

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Times:
    """Delays, labeling durations and d tau/dt at which a batch is compared: each (n, K) or (1, K), in s, s, s/s."""

    pld: Tensor
    tau: Tensor
    slope: Tensor

    @property
    def t(self) -> Tensor:
        """Time since labeling began, tau + PLD."""
        return self.pld + self.tau


class TorchDurations:
    """`Durations` as tensors on a device."""

    def __init__(self, durations: Durations, device: str | torch.device = "cpu") -> None:
        self.first, self.last = durations.first, durations.last
        self.table, self.tau, self.slope, self.nominal = (
            torch.as_tensor(values, device=device)
            for values in (durations.table, durations.tau, durations.slope, durations.nominal)
        )

    def at(self, pld: Tensor) -> tuple[Tensor, Tensor]:
        """Tau in s and d tau/dt at nominal delays (slice time not added), linear between the table's points."""
        if self.last == self.first:
            return self.table[0, 0].expand_as(pld), self.table[0, 1].expand_as(pld)
        place = (pld - self.first) / (self.last - self.first) * (len(self.table) - 1)
        lower = place.floor().clamp(0, len(self.table) - 2).long()
        values = torch.lerp(self.table[lower], self.table[lower + 1], (place - lower)[..., None])
        return values[..., 0], values[..., 1]

    def acquired(self, pld: Tensor) -> Times:
        """The acquired times of voxels with effective delays (n, D) or (1, D)."""
        return Times(pld, self.tau.expand_as(pld), self.slope.expand_as(pld))

    def collocated(self, pld: Tensor, drawn: Tensor) -> Times:
        """The acquired times at effective delays (n, D) or (1, D), then collocation times as `Durations.draw`."""
        acquired = self.acquired(pld.expand(len(drawn), -1))
        nominal = self.first + drawn * (self.last - self.first)
        tau, slope = self.at(nominal)
        offset = pld[:, :1] - self.nominal[:, :1]  # slice time
        return Times(
            torch.cat([acquired.pld, nominal + offset], 1),
            torch.cat([acquired.tau, tau], 1),
            torch.cat([acquired.slope, slope], 1),
        )


def weighted_square(residual: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean square of (n, D) residuals; weights (n, D) or (1, D), 0 leaves a sample out."""
    weight = weight.expand_as(residual)
    return (weight * residual.square()).sum((-2, -1)) / weight.sum((-2, -1)).clamp_min(1e-12)


def closed_form(
    measured: Tensor,
    weight: Tensor,
    cbf: Tensor,
    att: Tensor,
    times: Times,
    constants: Constants,
    scale: float | Tensor = 1.0,
) -> Losses:
    """Buxton's solution against the measured signal: no f_tissue, no derivative.

    measured (n, D); weight (n, D) or (1, D); cbf, att (n,); times of the D samples.
    """
    signal = scale * delta_m(cbf[..., None], att[..., None], times.pld, times.tau, constants)
    data = weighted_square(measured - signal, weight)
    return {"data": data, "total": data}


def increments(
    measured: Tensor,
    weight: Tensor,
    fitted: Tensor,
    cbf: Tensor,
    att: Tensor,
    times: Times,
    constants: Constants,
    scale: float | Tensor = 1.0,
    alpha: float = 1.0,
    lambda_physics: float = 0.5,
) -> Losses:
    """The physics in its integral form: f_tissue(t2) - f_tissue(t1) against S(t2) - S(t1), S Buxton's solution.

    t1, t2 are successive times of a voxel, acquired and collocated, sorted by t = tau + PLD. fitted (n, K) is f_tissue
    at `times`. An increment is the integral of the rate over the interval, so that a rise which falls between
    two samples counts in full; a slope at the samples sees a part of it.
    """
    data = weighted_square(measured - fitted[..., : measured.shape[-1]], weight)
    signal = scale * delta_m(cbf[..., None], att[..., None], times.pld, times.tau, constants)
    order = times.t.expand_as(fitted).argsort(dim=-1)
    physics = (fitted - signal).gather(-1, order).diff(dim=-1).square().mean((-2, -1))
    return {"data": data, "physics": physics, "total": alpha * data + lambda_physics * physics}


def pointwise(
    measured: Tensor,
    weight: Tensor,
    fitted: Tensor,
    rate: Tensor,
    cbf: Tensor,
    att: Tensor,
    times: Times,
    constants: Constants,
    scale: float | Tensor = 1.0,
    alpha: float = 1.0,
    lambda_physics: float = 0.5,
    time_scale: float | Tensor = 1.0,
    reading: str = "derivative",
    edge_width: float = 0.0,
) -> Losses:
    """The paper's loss: d f_tissue/dt against P at every acquired and collocated time.

    fitted and rate (n, K) are f_tissue at `times` and its derivative per unit of t (`time_scale` s; the paper does not
    state it, and the meaning of lambda depends on it). P is read as the derivative of Buxton's solution ("derivative"),
    or as the right-hand side of the ODE with f_tissue in its decay term ("ode"). edge_width (s) makes the edges of P
    soft: with sharp ones, 0, P has no gradient by which ATT could move them.
    """
    data = weighted_square(measured - fitted[..., : measured.shape[-1]], weight)
    place = (cbf[..., None], att[..., None], times.pld, times.tau, times.slope, constants)
    if reading == "ode":
        expected = scale * delta_m_ode(fitted / scale, *place, edge_width=edge_width)
    else:
        expected = scale * delta_m_rate(*place, edge_width=edge_width)
    physics = (rate - time_scale * expected).square().mean((-2, -1))
    return {"data": data, "physics": physics, "total": alpha * data + lambda_physics * physics}

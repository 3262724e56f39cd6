"""The second teaching notebook, on losses: a training loop whose loss a student writes, reference losses, a figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aslpinn.maps.style import CATEGORICAL, styled, subplots
from aslpinn.physics import Acquisition, apparent_t1, delta_m
from aslpinn.physics.constants import CBF_PER_FLOW

from .shared import Float

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What a loss may look at, for n voxels: D acquired times, then 4 random ones; signals are scaled to about 1.

    measured (n, D); t, fitted, rate, signal, since, ended (n, D + 4): time in s, f_tissue and its slope, Buxton signal
    S at the CBF and ATT of f_ode, t - ATT and t - ATT - tau in s. inflow, decay (n, 1): of Buxton's equation, per s.
    """

    measured: Tensor
    t: Tensor
    fitted: Tensor
    rate: Tensor
    signal: Tensor
    since: Tensor
    ended: Tensor
    inflow: Tensor
    decay: Tensor

    @property
    def acquired(self) -> int:
        """D."""
        return int(self.measured.shape[1])


def closed_form(batch: Batch) -> Any:
    """Mean square of Buxton's signal minus the measured one."""
    return (batch.signal[:, : batch.acquired] - batch.measured).square().mean()


def step(x: Any) -> Any:
    """1 where x is positive, else 0."""
    return (x > 0).float()


def soft_step(x: Any, width: float = 0.05) -> Any:
    """A logistic step that rises from 0 to 1 over a few widths (s)."""
    return (x / width).sigmoid()


def pointwise(batch: Batch, edge: Callable[[Any], Any] = step) -> Any:
    """The paper's loss: f_tissue through the samples, its slope equal to P; the physics weighs a half."""
    p = batch.inflow * (edge(batch.since) - edge(batch.ended)) - batch.decay * batch.fitted
    data = (batch.fitted[:, : batch.acquired] - batch.measured).square().mean()
    return data + 0.5 * (batch.rate - p).square().mean()


def slope_of(edge: Callable[[Any], Any], x: Any) -> Any:
    """Derivative of an edge at times x (n,) by automatic differentiation; 0 where nothing depends on x."""
    import torch

    x = x.detach().requires_grad_()
    return torch.autograd.grad((edge(x) + 0 * x).sum(), x)[0]


def increments(batch: Batch) -> Any:
    """The same with differences between successive times in place of slopes."""
    data = (batch.fitted[:, : batch.acquired] - batch.measured).square().mean()
    order = batch.t.argsort(dim=1)
    physics = (batch.fitted - batch.signal).gather(1, order).diff(dim=1)
    return data + 0.5 * physics.square().mean()


Objective = Callable[[Batch], Any]


class Lesson:
    """A series to train on with any loss: the two networks of the paper on one small hash encoding, plain AdamW.

    Parameters
    ----------
    series : (X, Y, Z, T) array, delta-M / M0b; mask : (X, Y, Z) array; acquisition; voxel_size in mm
    seed : int
        Of start values, batches and random times.
    """

    def __init__(
        self, series: Float, mask: NDArray[Any], acquisition: Acquisition, voxel_size: Any, seed: int = 0
    ) -> None:
        from aslpinn.estimation import prepare
        from aslpinn.estimation.networks.config import PinnOptions
        from aslpinn.estimation.networks.train import Samples

        self.config = PinnOptions(
            objective="pointwise", levels=4, base=8, finest=48, att_levels=0, batch=300, collocation=4, seed=seed
        )
        self.problem = prepare(series, mask, acquisition)
        self.samples = Samples.of(self.problem, tuple(voxel_size), self.config)

    def _engine(self, objective: Objective | None = None) -> Any:
        """New networks, and an engine that trains them with an objective instead of the config's."""
        from aslpinn.estimation.networks.autograd import AutogradEngine

        class Own(AutogradEngine):
            def batch(self, points: Tensor, drawn: Tensor) -> Batch:
                code, cbf, att = self.fields(self.indices, points)
                times = self.durations.collocated(self.pld if len(self.pld) == 1 else self.pld[points], drawn)
                assert self.fields.signal_field is not None
                fitted, rate = self.fields.signal_field.with_rate(code, times.t)
                place = (cbf[:, None], att[:, None], times.pld, times.tau)
                signal = self.scale * delta_m(*place, self.constants)
                decay = 1.0 / apparent_t1(place[0], self.constants)
                flow = place[0] / CBF_PER_FLOW * (-place[1] / self.constants.t1_blood).exp()
                inflow = self.scale * 2 * self.constants.efficiency * flow
                since = times.t - place[1]
                return Batch(
                    self.signal[points], times.t, fitted, rate, signal, since, since - times.tau, inflow, decay
                )

            def losses(self, points: Tensor, drawn: Tensor) -> dict[str, Tensor]:
                assert objective is not None
                return {"total": objective(self.batch(points, drawn))}

        return Own(self.samples, self.config, self.config.seed)

    def example(self) -> Batch:
        """The batch of at most 50 voxels before training, to try a loss on."""
        engine = self._engine()
        points, drawn = next(engine.load(self.samples.batches(self.config, np.random.default_rng(self.config.seed))))
        batch: Batch = engine.batch(points[:50], drawn[:50])
        return batch

    def train(self, objective: Objective, epochs: int) -> tuple[Float, Float, list[float]]:
        """Train new networks: maps of CBF and ATT (X, Y, Z), and the mean loss of every epoch.

        Raises FitError where the loss is not finite.
        """
        from aslpinn.estimation.networks.train import train

        (one,) = train(self._engine(objective), self.samples, self.config.changed(epochs=epochs))
        return self.problem.volume(one.cbf), self.problem.volume(one.att), one.history.losses["total"]


@styled
def training_bias(loss: Mapping[str, Sequence[float]], share: Mapping[str, float]) -> Figure:
    """Left the loss of every epoch relative to the first, right the CBF found in gray matter in % of the truth."""
    figure, (left, right) = subplots(1, 2, figsize=(8.6, 3.5))
    for color, dashes, (name, values) in zip(CATEGORICAL, ("-", "--", "-."), loss.items(), strict=False):
        left.plot(range(1, len(values) + 1), np.asarray(values) / values[0], dashes, color=color, label=name)
    left.set(xlabel="epoch", ylabel="loss / loss of the first epoch", yscale="log")
    left.legend()
    right.barh(range(len(share)), list(share.values()), color=CATEGORICAL[: len(share)], height=0.6)
    for row, value in enumerate(share.values()):  # clear of the line at 100
        inside = value > 25
        x, side = (min(value, 100) - 2, "right") if inside else (value + 2, "left")
        right.text(x, row, f"{value:.0f} %", ha=side, va="center", color="white" if inside else "black")
    right.axvline(100, color="0.3", linewidth=1)
    right.set(xlabel="CBF found in gray matter (% of the truth)", xlim=(0, 1.2 * max(100, *share.values())))
    right.set_yticks(range(len(share)), list(share))
    right.invert_yaxis()
    right.grid(axis="y", visible=False)
    return figure

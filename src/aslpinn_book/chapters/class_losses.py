"""The second teaching notebook, on losses: a training loop whose loss a student writes, reference losses, a figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aslpinn.maps.style import CATEGORICAL, styled, subplots
from aslpinn.physics import Acquisition, delta_m, delta_m_rate

from .shared import Float

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What a loss may look at, for n voxels: D acquired times, then 4 random ones; signals are scaled to about 1.

    measured (n, D); t, fitted, rate, signal, p (n, D + 4): time in s, f_tissue and its slope, and Buxton's signal S and
    its slope P at the CBF and ATT of f_ode.
    """

    measured: Tensor
    t: Tensor
    fitted: Tensor
    rate: Tensor
    signal: Tensor
    p: Tensor

    @property
    def acquired(self) -> int:
        """D."""
        return int(self.measured.shape[1])


def closed_form(batch: Batch) -> Any:
    """Mean square of Buxton's signal minus the measured one."""
    return (batch.signal[:, : batch.acquired] - batch.measured).square().mean()


def pointwise(batch: Batch) -> Any:
    """The paper's loss: f_tissue through the samples, its slope equal to P; the physics weighs a half."""
    data = (batch.fitted[:, : batch.acquired] - batch.measured).square().mean()
    return data + 0.5 * (batch.rate - batch.p).square().mean()


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
        from aslpinn.estimation.config import FitConfig
        from aslpinn.estimation.fitting import training_data
        from aslpinn.estimation.problem import Request

        self.config = FitConfig(
            objective="pointwise", levels=4, base=8, finest=48, att_levels=0, batch=1000, collocation=4
        )
        self.problem = prepare(series, mask, acquisition)
        self.data = training_data(self.problem, Request(voxel_size=tuple(voxel_size)), self.config)
        self.seed = seed

    def _start(self) -> tuple[Any, Any, Any]:
        import torch

        from aslpinn.estimation.fitting import Fields

        fields = Fields(self.config, self.seed)
        return fields, fields.precompute(self.data.positions), np.random.default_rng(self.seed)

    def _batch(self, fields: Any, indices: Any, subset: Any, generator: Any) -> Batch:
        data = self.data
        code, cbf, att = fields(indices, subset)
        pld = data.pld if len(data.pld) == 1 else data.pld[subset]
        times = data.durations.collocated(pld, len(subset), self.config.collocation, generator)
        fitted, rate = fields.signal_field.with_rate(code, times.t)
        place = (cbf[:, None], att[:, None], times.pld, times.tau)
        signal = data.scale * delta_m(*place, data.constants)
        p = data.scale * delta_m_rate(*place, times.slope, data.constants)
        return Batch(data.signal[subset], times.t, fitted, rate, signal, p)

    def example(self) -> Batch:
        """The batch of 50 voxels before training, to try a loss on."""
        import torch

        fields, indices, generator = self._start()
        return self._batch(fields, indices, torch.arange(min(50, len(self.data.signal))), generator)

    def train(self, objective: Objective, epochs: int) -> tuple[Float, Float, list[float]]:
        """Train new networks: maps of CBF and ATT (X, Y, Z), and the mean loss of every epoch.

        Raises FitError where the loss is not finite.
        """
        import torch

        from aslpinn.errors import FitError
        from aslpinn.estimation.fitting import evaluate, learning_rate, minibatches

        fields, indices, generator = self._start()
        optimizer = torch.optim.AdamW(fields.parameters(), lr=self.config.lr, weight_decay=0.01)
        n = len(self.data.signal)
        per_epoch, step, history = math.ceil(n / self.config.batch), 0, []
        for epoch in range(epochs):
            total = 0.0
            for subset in map(torch.from_numpy, minibatches(n, self.config.batch, generator)):
                rate = learning_rate(self.config, epoch, step, per_epoch * epochs)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                loss = objective(self._batch(fields, indices, subset, generator))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += float(loss.detach()) * len(subset) / n
                step += 1
            if not math.isfinite(total):
                raise FitError(f"the loss is {total} in epoch {epoch + 1}; expected a finite number: check its formula")
            history.append(total)
        cbf, att = evaluate(fields, indices)
        return self.problem.volume(cbf), self.problem.volume(att), history


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

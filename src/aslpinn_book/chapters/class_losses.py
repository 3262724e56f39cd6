"""The second teaching notebook, on losses: the data, networks without a loss, reference answers, a figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aslpinn.errors import FitError
from aslpinn.maps.style import CATEGORICAL, styled, subplots
from aslpinn.physics import Acquisition, apparent_t1, delta_m
from aslpinn.physics.constants import CBF_PER_FLOW

from .classroom import solved
from .shared import Float

if TYPE_CHECKING:
    from torch import Tensor

RATE = 1e-2  # largest learning rate


def slope_of(f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Derivative of f by each of the times t, which can itself be differentiated by whatever f depends on."""
    import torch

    t = t.detach().requires_grad_()
    return torch.autograd.grad(f(t).sum(), t, create_graph=True)[0]


def solved_slope(task: str, mine: Callable[..., Any]) -> Callable[..., Any]:
    """As `classroom.solved`, for a derivative that has to be differentiable again: tried on a sine of w t."""

    def tried(slope_of: Callable[..., Any]) -> Callable[[], Any]:
        def found() -> Any:
            import torch

            w, t = torch.tensor(3.0, requires_grad=True), torch.linspace(0, 1, 7)
            slope = slope_of(lambda t: torch.sin(w * t), t)
            return None if slope is None else (slope, torch.autograd.grad(slope.sum(), w)[0])

        return found

    student = tried(mine)
    return mine if solved(task, student, tried(slope_of)) is student else slope_of


def residual(
    slope: Any, fitted: Any, inflow: Any, decay: Any, att: Any, tau: float, t: Any, edge: Callable[[Any], Any]
) -> Any:
    """By how much a slope misses the P of Buxton's equation."""
    return slope - (inflow * (edge(t - att) - edge(t - att - tau)) - decay * fitted)


def step(x: Any) -> Any:
    """1 where x is positive, else 0."""
    return (x > 0).float()


def soft_step(x: Any, width: float = 0.05) -> Any:
    """A logistic step that rises from 0 to 1 over a few widths (s)."""
    return (x / width).sigmoid()


def train(networks: Any, loss_of: Callable[[Any], Tensor], optimizer: Any, steps: int) -> list[float]:
    """The losses of so many steps of an optimizer; FitError where one is not finite."""
    losses = []
    for k in range(steps):
        optimizer.zero_grad()
        loss = loss_of(networks)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if not np.isfinite(losses[-1]):
            raise FitError(f"the loss is {losses[-1]} in step {k + 1}; expected a finite number")
    return losses


def toy() -> tuple[Any, Callable[[Any], Tensor], Any, int]:
    """Arguments to try a training loop on: one number, to be made equal to 3."""
    import torch

    line = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(line.weight)
    return line, lambda net: (net.weight - 3).square().sum(), torch.optim.Adam(line.parameters(), 0.5), 12


class Lesson:
    """A series to train on: its scaled signals, its times, and the two networks of the paper on one small encoding.

    Attributes
    ----------
    measured : (N, D) tensor
        Signals, scaled to about 1.
    acquired : (D,) tensor
        Their times t in s.
    tau : float
        Labeling duration in s, the same for all samples.

    Parameters
    ----------
    series : (X, Y, Z, T) array, delta-M / M0b; mask : (X, Y, Z) array; acquisition; voxel_size in mm
    seed : int
        Of start values, batches and random times.
    """

    def __init__(
        self, series: Float, mask: NDArray[Any], acquisition: Acquisition, voxel_size: Any, seed: int = 0
    ) -> None:
        import torch

        from aslpinn.estimation import prepare
        from aslpinn.estimation.networks.config import PinnOptions
        from aslpinn.estimation.networks.train import Samples

        self.seed, self.constants, self.problem = seed, acquisition.constants, prepare(series, mask, acquisition)
        samples = Samples.of(self.problem, tuple(voxel_size), PinnOptions(anatomy="off"))
        self.scale = float(samples.scale)
        self.measured = torch.tensor(samples.signal)
        self.places = torch.tensor(samples.positions)
        self.acquired = torch.tensor(self.problem.tau + self.problem.pld[0])
        self.tau = float(self.problem.tau[0])

    def networks(self) -> Any:
        """New networks: f_tissue(voxels, t) and f_ode(voxels), for voxels by their numbers (n,) and times (n, K)."""
        import torch
        from torch import nn

        from aslpinn.fields import MultiresHashEncoding, ParameterField, SignalField

        places = self.places

        class Networks(nn.Module):
            def __init__(self, seed: int) -> None:
                super().__init__()
                self.encoding = MultiresHashEncoding(levels=4, base=8, finest=48, seed=seed)
                self.signal = SignalField(self.encoding, seed=seed + 1)
                self.parameter = ParameterField(self.encoding, seed=seed + 2)
                self.index = self.encoding.precompute(places)

            def f_tissue(self, voxels: Tensor, t: Tensor) -> Tensor:
                """Scaled signals (n, K)."""
                signal: Tensor = self.signal(self.encoding.lookup(self.index, voxels), t)
                return signal

            def f_ode(self, voxels: Tensor) -> tuple[Tensor, Tensor]:
                """CBF in ml/100g/min and ATT in s, (n, 1) each."""
                cbf, att = self.parameter(self.encoding.lookup(self.index, voxels))
                return cbf[:, None], att[:, None]

        torch.manual_seed(self.seed)
        return Networks(self.seed)

    def optimizer(self, networks: Any, steps: int) -> Any:
        """AdamW whose learning rate rises and falls once in so many steps."""
        import torch

        optimizer = torch.optim.AdamW(networks.parameters(), RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
        optimizer.register_step_post_hook(lambda *_: schedule.step() if schedule.last_epoch < steps else None)
        return optimizer

    def draw(self, voxels: int = 300, extra: int = 4) -> tuple[Tensor, Tensor]:
        """Numbers (n,) of random voxels, and times (n, D + extra) for them: the acquired ones, then random ones."""
        import torch

        some = torch.randperm(len(self.measured))[:voxels]
        first, last = self.acquired.min(), self.acquired.max()
        drawn = first + (last - first) * torch.rand(len(some), extra)
        return some, torch.cat([self.acquired.expand(len(some), -1), drawn], dim=1)

    def inflow(self, cbf: Any, att: Any) -> Any:
        """What arrives a second while label arrives, in scaled signals: 2 alpha f exp(-ATT / T1b)."""
        on_the_way = (-att / self.constants.t1_blood).exp()
        return self.scale * 2 * self.constants.efficiency * cbf / CBF_PER_FLOW * on_the_way

    def decay(self, cbf: Any) -> Any:
        """1 / T1', the share of the signal that is lost a second."""
        return 1.0 / apparent_t1(cbf, self.constants)

    def buxton(self, cbf: Any, att: Any, t: Any) -> Any:
        """Buxton's solution S at times t, in scaled signals."""
        return self.scale * delta_m(cbf, att, t - self.tau, self.tau, self.constants)

    def maps(self, networks: Any) -> dict[str, Float]:
        """CBF and ATT (X, Y, Z) that the networks say."""
        import torch

        with torch.no_grad():
            found = networks.f_ode(torch.arange(len(self.measured)))
        return {
            key: self.problem.volume(values[:, 0].numpy()) for key, values in zip(("cbf", "att"), found, strict=True)
        }


def closed_form(lesson: Lesson, networks: Any, some: Tensor, t: Tensor) -> Tensor:
    """Mean square of Buxton's signal minus the measured one."""
    cbf, att = networks.f_ode(some)
    found: Tensor = (lesson.buxton(cbf, att, lesson.acquired) - lesson.measured[some]).square().mean()
    return found


@styled
def training_bias(loss: Mapping[str, Sequence[float]], share: Mapping[str, float]) -> Figure:
    """Left the loss of every step over that at the start, smoothed; right the CBF of gray matter in % of the truth."""
    figure, (left, right) = subplots(1, 2, figsize=(8.6, 3.5))
    for color, dashes, (name, values) in zip(CATEGORICAL, ("-", "--", "-."), loss.items(), strict=False):
        smooth = np.convolve(values, np.full(10, 0.1), "valid")  # batches differ
        left.plot(range(10, len(values) + 1), smooth / smooth[0], dashes, color=color, label=name)
    left.set(xlabel="step", ylabel="loss / loss at the start", yscale="log")
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

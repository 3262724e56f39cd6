"""The chapter on physics-informed losses: a network while it trains, and the figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import PchipInterpolator

from aslpinn import markdown
from aslpinn.estimation.networks.config import PRESETS
from aslpinn.estimation.networks.fit import MEMBER_SEEDS, engine_of
from aslpinn.estimation.networks.train import Samples, train
from aslpinn.estimation.problem import prepare
from aslpinn.maps.style import CATEGORICAL, styled, subplots
from aslpinn.physics import Acquisition, delta_m, delta_m_ode, delta_m_rate

from .shared import DASHES, MARKERS, Float


@dataclass(frozen=True)
class Snapshots:
    """Maps of one network while it trains.

    Attributes
    ----------
    epochs : tuple of int
        After which epochs, E of them.
    maps : dict
        "cbf" in ml/100g/min and "att" in s: (E, X, Y, Z) float32, zero outside the mask.
    losses : dict
        Name -> mean loss of every epoch.
    """

    epochs: tuple[int, ...]
    maps: dict[str, NDArray[np.float32]]
    losses: dict[str, list[float]]


def snapshots(
    series: ArrayLike,
    mask: ArrayLike,
    acquisition: Acquisition,
    epochs: Sequence[int],
    *,
    voxel_size: tuple[float, float, float],
    seed: int = 0,
    **settings: Any,
) -> Snapshots:
    """Train one network of preset "default" for max(epochs) epochs and keep its maps after each of `epochs`.

    Without weight decay by level and without anatomy unless settings say so, and without arteries; the last maps are
    then those of `aslpinn.fit` with one member, the same seed and the same settings.
    """
    problem = prepare(series, mask, acquisition)
    config = PRESETS["default"].changed(
        **{"level_decay": 0.0, "anatomy": "off", **settings, "members": 1, "epochs": max(epochs), "seed": seed}
    )
    samples = Samples.of(problem, voxel_size, config)
    engine = engine_of(samples, config, [config.seed * MEMBER_SEEDS])
    kept: dict[str, list[NDArray[np.float32]]] = {"cbf": [], "att": []}

    def on_epoch(epoch: int, losses: dict[str, float]) -> None:
        if epoch + 1 in epochs:
            for name, (values,) in zip(kept, engine.maps(), strict=True):
                kept[name].append(problem.volume(values))

    (trained,) = train(engine, samples, config, on_epoch)
    maps = {name: np.stack(values) for name, values in kept.items()}
    return Snapshots(tuple(sorted(set(epochs))), maps, trained.history.losses)


@dataclass(frozen=True)
class Voxel:
    """One voxel after its training; time in s, signals and slopes scaled.

    Attributes
    ----------
    way : list of (CBF, ATT)
        After every step, in ml/100g/min and s.
    sampled, samples : (D,) array
        Times of the samples, and the samples.
    time, fitted, slope, wanted : (n,) array
        f_tissue and its slope along a fine axis, and P of the last CBF and ATT.
    """

    way: list[tuple[float, float]]
    sampled: Float
    samples: Float
    time: Float
    fitted: Float
    slope: Float
    wanted: Float

    @classmethod
    def of(
        cls, f_tissue: Any, way: list[tuple[float, float]], sampled: Any, samples: Any, scale: float, tau: float,
        edge_width: float,
    ) -> Voxel:  # fmt: skip
        """Evaluate a trained f_tissue(t), a module of (n, 1) tensors, and the P that it was trained with (the ODE)."""
        import torch

        t = torch.linspace(float(sampled.min()), float(sampled.max()), 400)[:, None].requires_grad_()
        fitted = f_tissue(t)
        (slope,) = torch.autograd.grad(fitted.sum(), t)
        t, fitted = t.detach(), fitted.detach()
        cbf, att = (torch.tensor(value) for value in way[-1])
        wanted = scale * delta_m_ode(fitted / scale, cbf, att, t - tau, tau, edge_width=edge_width)
        return cls(way, sampled.numpy(), samples.numpy(), *(x[:, 0].numpy() for x in (t, fitted, slope, wanted)))


@styled
def edge_gradient(att: Float, terms: Mapping[float, Float], gradients: Mapping[float, Float], truth: float) -> Figure:
    """Left the physics term, right its gradient by ATT, against the ATT tried (n,) in s; width of the edges -> (n,)."""
    figure, panels = subplots(1, 2, figsize=(8.8, 3.7))
    for axes, curves in zip(panels, (terms, gradients), strict=True):
        for color, dashes, (width, values) in zip(CATEGORICAL, DASHES, curves.items(), strict=False):
            axes.plot(att, values, linestyle=dashes, color=color, label=f"w = {width:g} s" if width else "w = 0, steps")
        axes.axvline(truth, color="0.3", linewidth=1, linestyle=":")
        axes.set(xlabel="ATT of the model (s)", xlim=(att[0], att[-1]))
    panels[1].axhline(0, color="0.3", linewidth=0.8)
    panels[0].set(ylabel="physics term ((%/s)²)", ylim=(0, None))
    panels[1].set(ylabel="its gradient by ATT")
    panels[0].legend(fontsize=9)
    return figure


@styled
def one_voxel(voxels: Mapping[float, Voxel], truth: tuple[float, float]) -> Figure:
    """A column a width of the edges: samples and f_tissue, its slope and P, CBF and ATT over the truth on the way."""
    size = (3.05 * len(voxels) + 0.4, 7.0)
    figure, grid = subplots(3, len(voxels), figsize=size, sharey="row", squeeze=False)
    for axes, (width, one) in zip(grid.T, voxels.items(), strict=True):
        cbf, att = one.way[-1]
        title = f"w = {width:g} s" if width else "w = 0, steps"
        axes[0].set_title(f"{title}\nCBF {cbf:.0f} ml/100g/min, ATT {att:.2f} s", fontsize=10.5)
        axes[0].plot(one.sampled, one.samples, "o", color="black", markersize=5, label="samples")
        axes[0].plot(one.time, one.fitted, color=CATEGORICAL[0], label="f_tissue")
        axes[1].plot(one.time, one.slope, color=CATEGORICAL[0], label="slope of f_tissue")
        axes[1].plot(one.time, one.wanted, "--", color=CATEGORICAL[1], label="P")
        for values, name, color, dashes in zip(
            np.transpose(one.way), ("CBF", "ATT"), CATEGORICAL[2:], "-:", strict=False
        ):
            of_truth = values / truth[0 if name == "CBF" else 1]
            axes[2].plot(range(1, len(values) + 1), of_truth, dashes, color=color, label=name)
        axes[2].axhline(1, color="0.3", linewidth=0.8)
        for panel in axes[:2]:
            panel.set_xlabel("t (s)")
        axes[2].set_xlabel("step")
    for row, label in zip(grid, ("signal (scaled)", "rate (1/s, scaled)", "found / truth"), strict=True):
        row[0].set_ylabel(label)
        row[-1].legend(fontsize=9)
    return figure


@styled
def bias_by_epochs(
    loss: Mapping[str, Sequence[float]], epochs: Sequence[int], bias: Mapping[str, Sequence[float]]
) -> Figure:
    """Left the loss of every epoch over that of the first, right the bias of CBF in % after each of `epochs`."""
    figure, (left, right) = subplots(1, 2, figsize=(8.8, 3.8))
    for color, dashes, (name, values) in zip(CATEGORICAL, DASHES, loss.items(), strict=False):
        left.plot(range(1, len(values) + 1), np.asarray(values) / values[0], linestyle=dashes, color=color, label=name)
        right.plot(epochs, bias[name], linestyle=dashes, color=color, label=name)
    right.axhline(0, color="0.3", linewidth=1)
    left.set(xlabel="epoch", ylabel="loss / that of the first epoch", ylim=(0, None))
    right.set(xlabel="epoch", ylabel="bias of CBF in gray matter (%)")
    left.legend(fontsize=9)
    return figure


@styled
def by_edge_width(
    widths: Sequence[float], bias: Mapping[str, Sequence[float]], correlation: Mapping[str, Sequence[float]]
) -> Figure:
    """Left the bias of CBF in % (tissue -> values), right correlations with the truth, against the width in s."""
    figure, (left, right) = subplots(1, 2, figsize=(8.4, 3.5))
    for axes, curves in ((left, bias), (right, correlation)):
        for color, marker, (name, values) in zip(CATEGORICAL, MARKERS, curves.items(), strict=False):
            axes.plot(widths, values, marker=marker, color=color, label=name)
        axes.set(xlabel="width of the edges, w (s)")
        axes.legend(loc="lower right")
    left.axhline(0, color="0.3", linewidth=1)
    left.set(ylabel="bias of CBF (%)")
    right.set(ylabel="correlation with the truth", ylim=(None, 1))
    return figure


def edge_study(stored: str | Path) -> tuple[Any, str]:
    """A stored run of benchmarks/edges.py, means over protocols and seeds: as a pandas table, and in markdown.

    The table's index is (reading, edges), edges a width in s or a name; bias is in %, the error of ATT in ms.
    """
    import pandas as pd

    rows = pd.read_csv(stored)
    named = {"shrinking": "0.2 shrinking to 0.025", "gamma": "gamma kernel"}
    rows["edges"] = rows["edges"].map(named).fillna(rows["width"].map("{:g}".format))
    scores = {
        "cbf_bias_gm": ("bias GM (%)", 100.0), "cbf_bias_wm": ("bias WM (%)", 100.0), "cbf_pcc": ("r CBF", 1.0),
        "att_pcc": ("r ATT", 1.0), "att_error": ("ATT error (ms)", 1000.0), "toward": ("toward the truth (%)", 100.0),
        "slope": ("size of the gradient", 1.0),
    }  # fmt: skip
    means = rows.groupby(["reading", "edges"], sort=False)[list(scores)].mean()
    means = means.mul([factor for _, factor in scores.values()]).set_axis([name for name, _ in scores.values()], axis=1)
    digits = [".2f" if name.startswith("r ") or "size" in name else "+.0f" if "%)" in name else ".0f" for name in means]
    digits[list(means).index("toward the truth (%)")] = ".0f"
    cells = [
        [*key, *(format(value, form) for value, form in zip(values, digits, strict=True))]
        for key, values in zip(means.index, means.to_numpy(), strict=True)
    ]
    head = ["P read as", "width (s)", *means]
    return means, markdown.table(head, cells, right=list(means))


def held_out_table(stored: str | Path) -> tuple[Any, str]:
    """A stored run of benchmarks/objectives.py: error of the best decay of each data set (rows) and objective.

    As a pandas table in shares of the closed form's, and in markdown.
    """
    import pandas as pd

    rows = pd.read_csv(stored)
    best = rows.groupby(["data", "objective"], sort=False)["held_out"].min().unstack()
    best = best[list(dict.fromkeys(rows["objective"]))]
    shares = best.div(best["closed form"], axis=0)
    cells = [
        [name, *(f"{value:.3f}" for value in values)]
        for name, values in zip(shares.index, shares.to_numpy(), strict=True)
    ]
    return shares, markdown.table(["data", *shares], cells, right=list(shares))


def trainings_table(stored: str | Path) -> tuple[Any, str]:
    """A stored run of benchmarks/objectives.py --trainings: held-out errors of ways to train (rows) and objectives.

    As a pandas table with a row a training, errors ("share") as shares of the closed form's in the trial from the same
    seed on the same data; and in markdown, from the smallest to the largest of the seeds, with how many were lost: all
    ATT past the end.
    """
    import pandas as pd

    rows, start = pd.read_csv(stored), ["data", "seed"]
    plain = rows[(rows["objective"] == "closed form") & (rows["training"] == "trial")].set_index(start)["held_out"]
    rows["share"] = rows["held_out"] / plain.loc[pd.MultiIndex.from_frame(rows[start])].to_numpy()
    rows["lost"] = rows["past"] > 0.5
    objectives = list(dict.fromkeys(rows["objective"]))

    def cell(some: Any) -> str:
        kept = some[~some["lost"]]["share"]
        told = [f"{kept.min():.2f}–{kept.max():.2f}"] if len(kept) else []
        return ", ".join(told + ([f"{some['lost'].sum()} lost"] if some["lost"].any() else []))

    cells = [
        [*names, *(cell(of[of["objective"] == objective]) for objective in objectives)]
        for names, of in rows.groupby(["data", "training"], sort=False)
    ]
    return rows, markdown.table(["data", "training", *objectives], cells, right=objectives)


@styled
def objective_scores(scores: Mapping[str, Mapping[str, float]]) -> Figure:
    """One panel a score with a bar an objective, its value written beside it: score's label -> objective -> value."""
    names = list(next(iter(scores.values())))
    columns = 3
    rows = -(-len(scores) // columns)
    figure, grid = subplots(rows, columns, figsize=(8.6, (0.45 * len(names) + 0.9) * rows), sharey=True, squeeze=False)
    for axes, (label, values) in zip(grid.flat, scores.items(), strict=False):
        numbers = np.array([values[name] for name in names])
        bars = axes.barh(range(len(names)), numbers, color=CATEGORICAL[: len(names)], height=0.65)
        digits = 0 if np.abs(numbers).max() > 5 else 2
        axes.bar_label(
            bars, [f"{round(number, digits) + 0.0:.{digits}f}" for number in numbers.tolist()], padding=3, fontsize=9
        )
        low, high = min(0.0, float(numbers.min())), max(0.0, float(numbers.max()))
        margin = 0.28 * (high - low)
        axes.set_xlim(low - margin * (low < 0), high + margin)
        axes.axvline(0, color="0.3", linewidth=1)
        axes.set_title(label, fontsize=11)
        axes.set_yticks(range(len(names)), names)
        axes.grid(axis="y", visible=False)
    grid[0, 0].invert_yaxis()
    for axes in grid.flat[len(scores) :]:
        axes.set_axis_off()
    return figure


def interpolate(cbf: float, att: float, acquisition: Acquisition, interpolator: Callable[..., Any]) -> Any:
    """Interpolant in t = tau + PLD through Buxton's noise-free samples of one voxel; has .derivative()."""
    order = np.argsort(acquisition.time)
    signal = delta_m(cbf, att, acquisition.post_labeling_delay, acquisition.labeling_duration, acquisition.constants)
    return interpolator(acquisition.time[order], signal[order])


def match_slope(
    cbf: float,
    att: float,
    acquisition: Acquisition,
    collocation: int,
    rng: np.random.Generator,
    interpolator: Callable[..., Any] = PchipInterpolator,
) -> tuple[float, float]:
    """CBF and ATT whose P matches the slope of an interpolant through a voxel's noise-free samples best.

    The slope is compared at the acquired times and at `collocation` random delays, as in the paper's loss. ATT is
    searched on a grid of 0.01 s, CBF is linear at the voxel's own T1'. Without bias the truth would come back.
    """
    pld = acquisition.post_labeling_delay
    drawn = rng.uniform(pld.min(), pld.max(), collocation)
    tau_drawn, slope_drawn = acquisition.duration_at(drawn)
    every_pld, every_tau = np.r_[pld, drawn], np.r_[acquisition.labeling_duration, tau_drawn]
    slope = np.r_[acquisition.duration_at(pld)[1], slope_drawn]
    rate = interpolate(cbf, att, acquisition, interpolator).derivative()(every_pld + every_tau)
    grid = np.arange(0.3, 2.8, 0.01)
    unit = delta_m_rate(cbf, grid[:, None], every_pld, every_tau, slope, acquisition.constants) / cbf
    overlap, power = unit @ rate, np.maximum((unit**2).sum(axis=1), 1e-30)
    best = int(np.argmax(np.maximum(overlap, 0) ** 2 / power))
    return float(overlap[best] / power[best]), float(grid[best])

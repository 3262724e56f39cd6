"""The first teaching notebook, on kinetics: reference answers, a scan to plan, figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from aslpinn.maps.style import CATEGORICAL, styled, subplots
from aslpinn.physics import delta_m

from .shared import MARKERS, Float

if TYPE_CHECKING:
    pass


def sensitivity(cbf: ArrayLike, att: ArrayLike, pld: ArrayLike, tau: ArrayLike) -> tuple[Float, Float]:
    """dS/dCBF per ml/100g/min and dS/dATT per s of Buxton's signal, by central differences."""
    c, a = np.asarray(cbf, float), np.asarray(att, float)
    by_cbf = (delta_m(c + 0.5, a, pld, tau) - delta_m(c - 0.5, a, pld, tau)) / 1.0
    by_att = (delta_m(c, a + 0.005, pld, tau) - delta_m(c, a - 0.005, pld, tau)) / 0.01
    return by_cbf, by_att


@dataclass(frozen=True)
class Budget:
    """A scan to plan: label-control pairs at any delays, in a given time.

    scan, tau, readout in s; noise is the SD of one pair's difference (fraction of M0b); atts (K,) s are the transit
    times that have to be served, at cbf ml/100g/min.
    """

    scan: float = 300.0
    tau: float = 1.8
    readout: float = 0.7
    noise: float = 0.002
    cbf: float = 50.0
    atts: tuple[float, ...] = (0.7, 0.9, 1.1, 1.3, 1.5, 1.7, 1.9)

    def repeats(self, delays: ArrayLike) -> float:
        """How often all delays can be measured."""
        return self.scan / float(np.sum(2 * (self.tau + np.asarray(delays, float) + self.readout)))

    def bounds(self, delays: ArrayLike) -> tuple[float, float]:
        """Smallest SD (Cramer-Rao) of CBF in ml/100g/min and of ATT in s, root mean square over atts."""
        by = np.stack(sensitivity(self.cbf, np.array(self.atts)[:, None], np.asarray(delays, float), self.tau))
        fisher = np.einsum("iat,jat->aij", by, by) * self.repeats(delays) / self.noise**2
        if np.any(np.linalg.cond(fisher) > 1e12):
            return math.inf, math.inf
        variances = np.linalg.inv(fisher)[:, [0, 1], [0, 1]]
        cbf, att = np.sqrt(variances.mean(axis=0))
        return float(cbf), float(att)


def fit_voxel(samples: ArrayLike, pld: ArrayLike, tau: ArrayLike) -> tuple[float, float]:
    """CBF in ml/100g/min and ATT in s of one voxel: a grid over ATT of 0.01 s, CBF as a quotient, T1' at CBF 50."""
    att = np.arange(0.1, 3.0, 0.01)
    unit = delta_m(50.0, att[:, None], np.asarray(pld, float), np.asarray(tau, float)) / 50.0
    cbf = (unit @ np.asarray(samples, float)) / np.maximum((unit**2).sum(axis=1), 1e-30)
    cost = ((np.asarray(samples, float) - cbf[:, None] * unit) ** 2).sum(axis=1)
    best = int(np.argmin(cost))
    return float(cbf[best]), float(att[best])


@styled
def sensitivities(pld: Float, curves: Mapping[str, tuple[Float, Float]]) -> Figure:
    """Change of the signal in % of M0b for 10 ml/100g/min more CBF and for 0.1 s more ATT, against PLD in s.

    curves: name -> (dS/dCBF per ml/100g/min, dS/dATT per s), each (n,).
    """
    figure, panels = subplots(1, 2, figsize=(8.6, 3.5))
    for color, dashes, (name, (by_cbf, by_att)) in zip(CATEGORICAL, ("-", "--", "-."), curves.items(), strict=False):
        panels[0].plot(pld, 100 * 10 * by_cbf, dashes, color=color, label=name)
        panels[1].plot(pld, 100 * 0.1 * by_att, dashes, color=color, label=name)
    for axes, title in zip(panels, ("10 ml/100g/min more CBF", "0.1 s more ATT"), strict=True):
        axes.axhline(0, color="0.5", linewidth=0.8)
        axes.set(xlabel="PLD (s)", ylabel="change of ΔM / M0b (%)", title=title, xlim=(pld[0], pld[-1]))
    panels[0].legend()
    return figure


@styled
def designs(tried: Float, named: Mapping[str, tuple[float, float]]) -> Figure:
    """Smallest SD of ATT in s against that of CBF in ml/100g/min: tried (n, 2) plans as dots, named ones as markers."""
    figure, axes = subplots(figsize=(6.6, 4.0))
    axes.plot(tried[:, 0], tried[:, 1], ".", color="0.7", markersize=3, label="random plans", zorder=1)
    for color, marker, (name, (cbf, att)) in zip(CATEGORICAL, MARKERS, named.items(), strict=False):
        axes.plot(cbf, att, marker, color=color, markersize=9, label=name, zorder=3)
    everything = np.concatenate([tried, list(named.values())])
    low, high = everything.min(axis=0), 2.5 * everything.min(axis=0)
    axes.set(xlim=(0.95 * low[0], high[0]), ylim=(0.9 * low[1], high[1]))
    axes.set(xlabel="SD of CBF (ml/100g/min)", ylabel="SD of ATT (s)")
    axes.legend(loc="upper right")
    return figure


@styled
def estimate_clouds(clouds: Mapping[str, Float], truth: tuple[float, float]) -> Figure:
    """Estimates (n, 2) of one voxel under fresh noise, CBF against ATT, a panel a name; the truth is a cross."""
    figure, panels = subplots(1, len(clouds), figsize=(4.3 * len(clouds), 3.6), sharex=True, sharey=True, squeeze=False)
    for axes, color, (name, cloud) in zip(panels[0], CATEGORICAL, clouds.items(), strict=False):
        axes.plot(cloud[:, 1], cloud[:, 0], ".", color=color, markersize=4, alpha=0.5)
        axes.plot(truth[1], truth[0], "x", color="black", markersize=11, markeredgewidth=2.5)
        axes.set(xlabel="ATT (s)", title=name)
    panels[0][0].set_ylabel("CBF (ml/100g/min)")
    everything = np.concatenate(list(clouds.values()))
    low, high = np.percentile(everything, (0.5, 99.5), axis=0)
    panels[0][0].set(xlim=(low[1] - 0.1, high[1] + 0.1), ylim=(max(0, low[0] - 8), high[0] + 8))
    return figure


@styled
def arrival_costs(att: Float, costs: Sequence[Float], truth: float) -> Figure:
    """Sum of squares relative to its minimum against ATT in s, a line a noise draw, local minima as dots."""
    figure, axes = subplots(figsize=(6.6, 3.6))
    for color, cost in zip(CATEGORICAL, costs, strict=False):
        ratio = cost / cost.min()
        axes.plot(att, ratio, color=color, linewidth=1.3)
        lowest = 1 + np.flatnonzero((ratio[1:-1] < ratio[:-2]) & (ratio[1:-1] < ratio[2:]))
        axes.plot(att[lowest], ratio[lowest], "o", color=color, markersize=5)
    axes.axvline(truth, color="0.3", linestyle="--", linewidth=1, label="true ATT")
    axes.set(xlabel="ATT (s)", ylabel="misfit / smallest misfit", xlim=(att[0], att[-1]))
    axes.set(yscale="log", ylim=(0.9, 40))
    axes.legend(loc="upper right")
    return figure

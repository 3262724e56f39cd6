"""Figures of the chapter on ablations: scores by setting, and what a search found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from aslpinn.maps.style import CATEGORICAL, styled, subplots


@styled
def ablation(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, tuple[str, float]]) -> Figure:
    """A row a setting, in its group; a panel a score.

    rows: each with "group", "name" and the scores; columns: score -> (panel title, factor). A panel whose values have
    both signs has a line at zero.
    """
    groups = list(dict.fromkeys(row["group"] for row in rows))
    places, ticks, place = [], [], 0.0
    for group in groups:
        ticks.append((place, group))
        for row in rows:
            if row["group"] == group:
                place += 1
                places.append((place, row))
        place += 1.4
    figure, grid = subplots(1, len(columns), figsize=(1.95 * len(columns) + 2.3, 0.235 * place + 0.8), sharey=True)
    for axes, (score, (title, factor)) in zip(np.atleast_1d(grid), columns.items(), strict=True):
        for k, group in enumerate(groups):
            here = [(at, factor * float(row[score])) for at, row in places if row["group"] == group]
            heights, values = zip(*here, strict=True)
            axes.plot(values, heights, "o-", color=CATEGORICAL[k % 6], markersize=5, linewidth=0.8)
        low, high = axes.get_xlim()
        if low < 0 < high or high <= 0:
            axes.axvline(0, color="0.3", linewidth=1, zorder=0)
        axes.set_title(title, fontsize=10)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    first = np.atleast_1d(grid)[0]
    first.set_yticks([at for at, _ in places] + [at for at, _ in ticks], [row["name"] for _, row in places] + groups)
    for label in first.get_yticklabels()[len(places) :]:
        label.set_fontweight("bold")
    first.set_ylim(place - 1.0, -0.8)
    return figure


@styled
def search(rows: Sequence[Mapping[str, Any]], settings: Mapping[str, str], score: str, label: str) -> Figure:
    """What a search tried: a score against each setting, a dot a trial, the best trial ringed; numbers on a log axis.

    settings: setting -> its axis label; trials that do not have a setting are left out of its panel.
    """
    columns = min(4, len(settings))
    lines = -(-len(settings) // columns)
    figure, grid = subplots(lines, columns, figsize=(2.3 * columns + 0.6, 2.3 * lines), sharey=True, squeeze=False)
    best = max(rows, key=lambda row: float(row[score]))
    for axes, (name, title) in zip(grid.flat, settings.items(), strict=False):
        known = [row for row in rows if name in row]
        values = [row[name] for row in known]
        heights = [float(row[score]) for row in known]
        words = any(isinstance(value, str) for value in values)
        names = sorted({str(value) for value in values})
        across = [names.index(str(value)) if words else float(value) for value in values]
        spread = 0.18 * np.sin(np.arange(len(across)) * 2.4) if words else np.zeros(len(across))
        axes.plot(np.asarray(across) + spread, heights, "o", color=CATEGORICAL[0], markersize=3.5, alpha=0.5)
        if name in best:
            at = (np.asarray(across) + spread)[known.index(best)]
            axes.plot(at, float(best[score]), "o", color=CATEGORICAL[1], markersize=11, markerfacecolor="none")
        if words:
            axes.set_xticks(range(len(names)), names, fontsize=8.5)
            axes.set_xlim(-0.6, len(names) - 0.4)
        elif min(across) > 0 and max(across) > 4 * min(across):
            axes.set_xscale("log")
        axes.set_xlabel(title, fontsize=9.5)
    for axes in grid.flat[len(settings) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel(label)
    return figure

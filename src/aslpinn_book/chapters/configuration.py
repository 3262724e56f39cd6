"""Figure of the chapter on configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from aslpinn.maps.style import CATEGORICAL, styled, subplots


@styled
def level_resolutions(ladders: Mapping[str, Sequence[int]], voxels: int, rows: int) -> Figure:
    """Vertices along an axis of every level of several hash encodings, against the level's number.

    Parameters
    ----------
    ladders : mapping
        Name -> resolution of each level, coarsest first.
    voxels : int
        Voxels along the longest axis of the image, drawn as a line: finer grids give every voxel rows of its own.
    rows : int
        Largest number of rows in a table, drawn as a line at its cube root: finer grids share rows (collide).
    """
    figure, axes = subplots(figsize=(6.4, 3.4))
    for color, marker, (name, resolutions) in zip(CATEGORICAL, "osD^v", ladders.items(), strict=False):
        axes.plot(range(1, len(resolutions) + 1), resolutions, marker + "-", color=color, label=name, markersize=5)
    longest = max(len(resolutions) for resolutions in ladders.values())
    for height, text in ((voxels, "voxels along the longest axis"), (rows ** (1 / 3), "rows are shared above")):
        axes.axhline(height, color="0.4", linewidth=0.9, linestyle="--")
        axes.text(longest, height * 1.06, text, ha="right", va="bottom", fontsize=8.5)
    axes.set(xlabel="level", ylabel="vertices along an axis", yscale="log", ylim=(2, None))
    axes.legend(loc="upper left")
    return figure

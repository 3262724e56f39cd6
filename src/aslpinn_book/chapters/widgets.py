"""Moving figures that need numbers of a run: a notebook's cell ends with one, and the built book brings it to life."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aslpinn.errors import InputError
from aslpinn.files import write_atomic
from aslpinn.maps.style import QUANTITIES, Quantity

from .shared import axial_slices

Map = NDArray[np.floating]
Mask = NDArray[np.bool_]

BASES = (4, 8, 16, 32)
FINESTS = (32, 48, 64, 128, 256, 512, 1024, 2048, 4096)
MOST_LEVELS = 16
UNDERLAY = "m0.nii.gz"  # beside a subject's measures: what the 3D viewer lays the maps over
NOTE = "This figure moves in the built book, where the browser allows scripts."


@dataclass(frozen=True)
class Widget:
    """A moving figure as HTML: name of the script that fills it, its data, its caption, and what it shows in words."""

    name: str
    data: dict[str, Any]
    caption: str
    alt: str

    def _repr_html_(self) -> str:
        text = json.dumps(self.data, separators=(",", ":")).replace("<", "\\u003c")
        return (
            f'<div class="widget" role="group" data-widget="{self.name}" aria-label="{escape(self.alt)}">'
            f'<p class="widget-note">{NOTE}</p><script type="application/json">{text}</script>'
            f'<div class="widget-caption"><p>{escape(self.caption)}</p></div></div>'
        )

    def __repr__(self) -> str:
        return self.alt


def hash_grid(
    mask: Mask,
    voxel_size: Sequence[float],
    levels: int = 16,
    base: int = 16,
    finest: int = 4096,
    log2_table: int = 15,
    caption: str = "Levels of the hash encoding over the brain of this chapter.",
) -> Widget:
    """The grids of the hash encoding over a brain: (X, Y, Z) mask, voxel size in mm, and the settings to start from.

    Raises InputError for a start that the controls do not offer, or an empty mask.
    """
    if base not in BASES or finest not in FINESTS or not 2 <= levels <= MOST_LEVELS or not 8 <= log2_table <= 19:
        raise InputError(
            f"hash_grid starts at levels {levels}, base {base}, finest {finest}, log2_table {log2_table}; expected "
            f"2 to {MOST_LEVELS} levels, base in {BASES}, finest in {FINESTS}, 8 to 19"
        )
    inside = np.asarray(mask, dtype=bool)
    if not inside.any():
        raise InputError("mask is empty; expected a brain mask")
    box = tuple(slice(v.min(), v.max() + 1) for v in np.nonzero(inside))
    data = {
        "shape": list(inside[box].shape),
        "voxel_size": [float(size) for size in voxel_size],
        "mask": _text(np.packbits(inside[box])),
        "bases": BASES,
        "finests": FINESTS,
        "resolutions": resolutions(),
        "start": {"levels": levels, "base": base, "finest": finest, "log2_table": log2_table},
    }
    return Widget(
        "hash-grid", data, caption, "Levels of the hash encoding over a brain, and which vertices share a row"
    )


def resolutions() -> dict[str, list[int]]:
    """The core's vertices along an axis of every level, by "levels base finest", for all settings of the controls."""
    from aslpinn.fields.encoding import grid_levels

    return {
        f"{levels} {base} {finest}": [level.resolution for level in grid_levels(levels, 19, base, finest)]
        for levels in range(2, MOST_LEVELS + 1)
        for base in BASES
        for finest in FINESTS
    }


def training(
    frames: Mapping[str, Mapping[str, Map]],
    truth: Mapping[str, Map],
    epochs: Sequence[int],
    mask: Mask,
    region: Mask,
    caption: str = "Maps of a slice after each epoch, and the mean over gray matter.",
) -> Widget:
    """Maps by epoch, objectives side by side, with a play button.

    Parameters
    ----------
    frames : mapping
        Objective -> quantity ("cbf", "att") -> (E, X, Y, Z) maps after each of the E epochs.
    truth : mapping
        Quantity -> (X, Y, Z).
    epochs : sequence of int
        E numbers.
    mask, region : (X, Y, Z) bool array
        What is drawn, and over what the means are taken.
    """
    k = axial_slices(mask, 3)[1]
    x, y = (np.flatnonzero(mask[..., k].any(axis=axis)) for axis in (1, 0))
    box = (slice(x[0], x[-1] + 1), slice(y[0], y[-1] + 1))
    inside = np.rot90(mask[(*box, k)])
    panels = list(frames)
    quantities = {}
    for key, true in truth.items():
        drawn = QUANTITIES[key]
        maps = np.stack([np.asarray(frames[name][key]) for name in panels])  # (P, E, X, Y, Z)
        slices = np.rot90(maps[(..., *box, k)], axes=(2, 3))
        quantities[key] = {
            "name": drawn.name,
            "unit": drawn.unit,
            "label": drawn.label,
            "low": drawn.low,
            "high": drawn.high,
            "digits": 1 if key == "cbf" else 2,
            "lut": lookup_table(drawn),
            "frames": _text(_indices(slices, drawn, inside)),
            "truth": _text(_indices(np.rot90(true[(*box, k)]), drawn, inside)),
            "means": np.round(maps[..., region].mean(axis=-1).astype(float), 4).tolist(),
            "true_mean": round(float(true[region].mean()), 4),
        }
    data = {"panels": panels, "epochs": [int(e) for e in epochs], "shape": list(inside.shape), "quantities": quantities}
    return Widget("training", data, caption, f"Maps after each epoch of training by {', '.join(panels)}, and the truth")


def write_underlay(m0: ArrayLike, affine: ArrayLike, measures: str | Path) -> Path:
    """Write M0 in percent of its 99th percentile as a small NIfTI beside a subject's measures; returns the file."""
    import nibabel as nib

    values = np.nan_to_num(np.asarray(m0, dtype=float))
    top = float(np.percentile(values[values > 0], 99)) if (values > 0).any() else 1.0
    image = nib.Nifti1Image(np.clip(100 * values / top, 0, 127).astype(np.uint8), np.asarray(affine, dtype=float))
    target = Path(measures).with_name(UNDERLAY)
    write_atomic(target, gzip.compress(image.to_bytes(), mtime=0))
    return target


def lookup_table(quantity: Quantity) -> str:
    """The 256 colors of a quantity's map as base64 of RGB bytes."""
    from matplotlib import colormaps

    colors = colormaps[quantity.cmap](np.arange(256))[:, :3]
    return _text(np.round(255 * colors).astype(np.uint8))


def _indices(values: Map, quantity: Quantity, inside: Mask) -> NDArray[np.uint8]:
    """Index 1 to 255 of the color of each value, 0 outside."""
    assert quantity.low is not None
    assert quantity.high is not None
    share = (np.asarray(values, dtype=float) - quantity.low) / (quantity.high - quantity.low)
    return np.where(inside, 1 + np.round(254 * np.clip(share, 0, 1)), 0).astype(np.uint8)


def _text(values: NDArray[np.uint8]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")

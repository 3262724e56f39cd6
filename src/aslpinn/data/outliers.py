"""Outlying pairs and slices of an ASL series: found by their distance from the other repeats, reported, down-weighted.

The z-score filter of Tan et al. 2009 (doi:10.1002/jmri.21721) rejects pairs whose mean or SD is far from that of the
others; SCORE (Dolui et al. 2017, doi:10.1002/jmri.25436) rejects those that spoil the mean. Here the score is the RMS
difference from the voxelwise median of the repeats at the same delay, and its scale is robust (MAD), so that a few bad
pairs neither hide each other nor move the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..physics import Acquisition

Float = NDArray[np.float64]
Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]

#: Fewest repeats of a delay from which a median says what is usual.
FEWEST = 4
#: Robust z from which a pair or slice is an outlier, ...
LIMIT = 5.0
#: ... where its RMS difference is also so many times the usual one.
RATIO = 1.5
#: Fewest mask voxels of a slice that is judged.
SLICE_VOXELS = 30


@dataclass(frozen=True, eq=False)
class Outliers:
    """Outliers of a series.

    weights: (T,) 1 for a usual volume, (usual RMS / its RMS)^2 for an outlier; slice_weights: (T, S) the same by slice;
    score: (T,) RMS difference over the usual one at that delay, NaN where it is not judged; volumes: outlying
    volumes; slices: outlying (volume, slice) of the other volumes; judged: number of volumes that could be judged.
    """

    weights: Float
    slice_weights: Float
    score: Float
    volumes: list[int]
    slices: list[tuple[int, int]]
    judged: int

    def provenance(self) -> dict[str, Any]:
        """What goes into an output's JSON."""
        return {
            "Judged": self.judged,
            "Volumes": self.volumes,
            "Slices": [list(pair) for pair in self.slices],
            "Criterion": f"RMS difference from the median of its delay: robust z > {LIMIT:g} and > {RATIO:g} x usual",
        }


def outliers_line(report: dict[str, Any] | None) -> str:
    """The record of outliers in words: which volumes, and how many slices of which others."""
    found = report or {}
    if not found.get("Judged"):
        return f"fewer than {FEWEST} repeats of a delay: a spoilt volume cannot be told from a good one"
    volumes = ", ".join(map(str, found["Volumes"]))
    by_volume: dict[int, list[int]] = {}
    for volume, index in found["Slices"]:
        by_volume.setdefault(volume, []).append(index)
    slices = "; ".join(f"volume {volume}: {_ranges(indices)}" for volume, indices in by_volume.items()) or "none"
    told = f"delta-M volumes weighted down: {len(found['Volumes'])} of {found['Judged']}"
    told += f" (number {volumes}, counted from 0)" if found["Volumes"] else ""
    return f"{told}; single slices of others: {slices}"


def _ranges(numbers: list[int]) -> str:
    """1, 2, 3, 7 as "1-3, 7"."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


def find_outliers(series: ArrayLike, mask: ArrayLike, condition: ArrayLike, slice_axis: int = 2) -> Outliers:
    """Outlying volumes and slices of a delta-M series.

    Parameters
    ----------
    series : (X, Y, Z, T) array
        delta-M, one volume a pair or decoded sub-bolus.
    mask : (X, Y, Z) array
    condition : (T,) array of int
        Which volumes are repeats of each other: the second entry of `Acquisition.distinct`.
    slice_axis : int

    Raises
    ------
    InputError
        Where shapes do not fit or the mask is empty.
    """
    data, inside = np.asarray(series, dtype=float), np.asarray(mask, dtype=bool)
    groups = np.asarray(condition)
    if data.ndim != 4 or data.shape[:3] != inside.shape or groups.shape != data.shape[3:]:
        raise InputError(
            f"outliers: series {data.shape}, mask {inside.shape} and condition {groups.shape} do not fit; "
            "expected (X, Y, Z, T), (X, Y, Z) and (T,)"
        )
    if not inside.any():
        raise InputError("outliers: the mask is empty")
    values = data[inside]  # (voxels, T)
    slices = np.nonzero(inside)[slice_axis]
    count = inside.shape[slice_axis]
    total = np.full(groups.shape, np.nan)
    by_slice = np.full((groups.size, count), np.nan)
    enough = np.bincount(slices, minlength=count) >= SLICE_VOXELS
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        if members.size < FEWEST:
            continue
        square = (values[:, members] - np.median(values[:, members], axis=1, keepdims=True)) ** 2
        total[members] = _relative(np.sqrt(square.mean(axis=0)))
        for index in np.flatnonzero(enough):
            by_slice[members, index] = _relative(np.sqrt(square[slices == index].mean(axis=0)))
    bad = _outlying(total)
    bad_slices = _outlying(by_slice)
    weights = np.where(bad, 1.0 / np.maximum(np.nan_to_num(total, nan=1.0), 1.0) ** 2, 1.0)
    slice_weights = np.where(bad_slices, 1.0 / np.maximum(np.nan_to_num(by_slice, nan=1.0), 1.0) ** 2, 1.0)
    slice_weights[bad] = np.minimum(slice_weights[bad], weights[bad][:, None])
    listed = [(int(v), int(s)) for v, s in np.argwhere(bad_slices) if not bad[v]]
    return Outliers(weights, slice_weights, total, np.flatnonzero(bad).tolist(), listed, int(np.isfinite(total).sum()))


def _relative(rms: Float) -> Float:
    """RMS over its median: what is usual is 1."""
    usual = float(np.median(rms))
    return rms / usual if usual > 0 else np.where(rms > 0, np.inf, 1.0)


def _outlying(score: Float) -> NDArray[np.bool_]:
    """Scores above the limit, by the median and MAD of all that are judged."""
    judged = score[np.isfinite(score)]
    if judged.size == 0:
        return np.nan_to_num(score, nan=0.0, posinf=np.inf) > RATIO
    middle = float(np.median(judged))
    spread = max(1.4826 * float(np.median(np.abs(judged - middle))), 1e-3)
    filled = np.nan_to_num(score, nan=0.0, posinf=np.inf)
    return np.asarray(((filled - middle) / spread > LIMIT) & (filled > RATIO))


def shrink_outliers(
    series: Volume, mask: Mask, acquisition: Acquisition, steps: list[str]
) -> tuple[Volume, dict[str, Any]]:
    """The series with outlying volumes and slices shrunk towards the mean of their delay's other repeats.

    An outlier of weight w becomes w times itself plus 1 - w times that mean, so that the mean of its delay is close
    to a weighted one, every volume stays in place, and every estimator sees the weights. Returns also the record.
    """
    _, condition = acquisition.distinct
    axis = acquisition.slice_axis
    found = find_outliers(series, mask, condition, axis)
    report = found.provenance()
    report["Treatment"] = "shrunk towards the mean of the other repeats by weight (usual RMS / its RMS)^2"
    if not found.volumes and not found.slices:
        return series, report
    weights = np.minimum(found.slice_weights, found.weights[:, None])
    out = series.copy()
    for volume in np.flatnonzero((weights < 1).any(axis=1)):
        repeats = np.flatnonzero((condition == condition[volume]) & (np.arange(condition.size) != volume))
        for index in np.flatnonzero(weights[volume] < 1):
            at = (slice(None),) * axis + (index,)
            w = weights[repeats, index].astype(np.float32)
            others = (series[at][..., repeats] @ w) / w.sum()
            share = np.float32(weights[volume, index])
            out[at][..., volume] = share * series[at][..., volume] + (1 - share) * others
    steps.append(
        f"outliers: {len(found.volumes)} of {condition.size} delta-M volumes and {len(found.slices)} single slices "
        "weighted down"
    )
    return out, report

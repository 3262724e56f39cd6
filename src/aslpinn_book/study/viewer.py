"""Maps of a subject for the 3D viewer on its page: a script with small copies in it, and the files themselves.

A script, because a page that is opened from a folder (file://) may load scripts but not fetch files.
"""

from __future__ import annotations

import base64
import gzip
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aslpinn.maps.style import QUANTITIES, Quantity

from ..chapters.widgets import UNDERLAY, lookup_table
from .notebooks import Task, file_digest

#: End of a map's file name -> key of QUANTITIES, digits shown, factor to the unit shown; in the order of the choice.
SHOWN = {
    "_cbf.nii.gz": ("cbf", 1, 1.0),
    "_att.nii.gz": ("att", 2, 1.0),
    "_desc-sd_cbf.nii.gz": ("cbf_sd", 1, 1.0),
    "_desc-sd_att.nii.gz": ("att_sd", 2, 1.0),
    "_desc-arterial_abv.nii.gz": ("abv", 2, 100.0),
}
STEPS = 254  # colors inside the mask; a copy is four times finer than the colors


def map_files(task: Task, state: Mapping[str, Any], estimators: Sequence[str]) -> list[tuple[str, Path]]:
    """(estimator, file) of every map of a subject that the viewer shows, those of the first estimator first."""
    if task.maps is None:
        return []
    folders = {_made_by(task.maps, state) or estimators[0]: task.maps}
    folders |= {name: Path(folder) for name, folder in task.parameters.get("compare", {}).items()}
    found = []
    for name, folder in folders.items():
        for file in state.get("maps", []):
            if _ending(file) and (folder / file).is_file():
                found.append((name, folder / file))
    return found


def _made_by(folder: Path, state: Mapping[str, Any]) -> str | None:
    """The estimator that the JSON of a subject's CBF names, where it is not that of the study (one delay)."""
    for file in state.get("maps", []):
        about = folder / file.replace("_cbf.nii.gz", "_cbf.json")
        if _ending(file) == "_cbf.nii.gz" and about.is_file():
            made = json.loads(about.read_text(encoding="utf-8")).get("Estimator")
            return made if made == "consensus" else None
    return None


def sources(task: Task, state: Mapping[str, Any], estimators: Sequence[str]) -> str:
    """A line that changes where a subject's viewer does."""
    files = [path for _, path in map_files(task, state, estimators)]
    return " ".join(file_digest(path) for path in [*files, task.report.with_name(UNDERLAY)])


def write_viewer(
    folder: Path, task: Task, state: Mapping[str, Any], estimators: Sequence[str], files: bool = True
) -> None:
    """Write FOLDER/KEY.js, and with `files` the maps themselves to FOLDER/KEY/ESTIMATOR/."""
    maps = []
    copies: list[str] = []
    listed = map_files(task, state, estimators)
    inside = {name: _inside([path for other, path in listed if other == name]) for name, _ in listed}
    wide = _wide_enough([(path, inside[name]) for name, path in listed])
    for estimator, path in listed:
        maps.append(_entry(estimator, path, inside[estimator], wide))
        if files:
            target = folder / task.key / _plain(estimator) / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            copies.append(target.relative_to(folder).as_posix())
    order = [name for name, *_ in SHOWN.values()]
    names = list(dict.fromkeys(entry["estimator"] for entry in maps))
    maps.sort(key=lambda entry: (names.index(entry["estimator"]), order.index(entry["quantity"])))
    underlay = task.report.with_name(UNDERLAY)
    data = {
        "maps": maps,
        "underlay": base64.b64encode(underlay.read_bytes()).decode("ascii") if underlay.is_file() else None,
        "files": copies,
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = f"window.aslpinn.maps({json.dumps(task.key)}, {json.dumps(data, separators=(',', ':'))});\n"
    (folder / f"{task.key}.js").write_text(text, encoding="utf-8")


def _inside(paths: Sequence[Path]) -> NDArray[np.bool_]:
    """Where any of an estimator's maps is not zero: a CBF of zero is a result, not the outside."""
    import nibabel as nib

    maps = [np.nan_to_num(np.asarray(nib.Nifti1Image.from_filename(path).dataobj)) != 0 for path in paths]
    return np.logical_or.reduce(maps)


def _wide_enough(maps: Sequence[tuple[Path, NDArray[np.bool_]]]) -> dict[str, Quantity]:
    """Quantities shown, with ranges up to the largest 95th percentile of their maps: the same for all estimators."""
    import nibabel as nib

    found: dict[str, Quantity] = {}
    for path, inside in maps:
        key, _, factor = SHOWN[_ending(path.name)]
        quantity = found.setdefault(key, QUANTITIES[key])
        values = np.asarray(nib.Nifti1Image.from_filename(path).dataobj, dtype=float)[inside] * factor
        top = float(np.nanpercentile(values, 95)) if np.isfinite(values).any() else 0.0
        found[key] = replace(quantity, high=max(quantity.high or 1e-3, float(f"{top:.2g}")))
    return found


def _entry(estimator: str, path: Path, inside: NDArray[np.bool_], wide: Mapping[str, Quantity]) -> dict[str, Any]:
    """What the viewer needs of one map."""
    key, digits, factor = SHOWN[_ending(path.name)]
    quantity = wide[key]
    content = small_copy(path, quantity, inside, factor)
    return {
        "estimator": estimator,
        "quantity": key,
        "name": quantity.name,
        "unit": quantity.unit,
        "digits": digits,
        "low": quantity.low,
        "high": quantity.high,
        "lut": lookup_table(quantity),
        "volume": base64.b64encode(content).decode("ascii"),
    }


def small_copy(path: Path, quantity: Quantity, inside: NDArray[np.bool_], factor: float = 1.0) -> bytes:
    """A map as gzipped int16 NIfTI in steps of a quarter color; below the range it is the range's end, outside less.

    Outside, and where the map is not a number, it is two colors below the range, which the viewer leaves transparent.
    """
    import nibabel as nib

    assert quantity.low is not None
    assert quantity.high is not None
    image = nib.Nifti1Image.from_filename(path)
    values: NDArray[np.floating] = np.asarray(image.dataobj, dtype=float) * factor
    step = (quantity.high - quantity.low) / STEPS / 4
    inside = inside & np.isfinite(values)
    codes = 8 + np.round((np.maximum(np.where(inside, values, quantity.low), quantity.low) - quantity.low) / step)
    copy = nib.Nifti1Image(np.where(inside, np.minimum(codes, 32767), 0).astype(np.int16), image.affine)
    copy.header.set_slope_inter(step, quantity.low - 8 * step)
    return gzip.compress(copy.to_bytes(), compresslevel=6, mtime=0)


def _ending(name: str) -> str:
    """The ending of SHOWN that a file name has; empty where it has none, or a description that is not among them."""
    found = max((ending for ending in SHOWN if name.endswith(ending)), key=len, default="")
    return "" if "_desc-" in name and "_desc-" not in found else found


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)

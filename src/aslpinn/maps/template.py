"""Maps in a template's space, where a transform of the subject's is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from ..data.atlases import MNI, to_template
from ..errors import InputError

if TYPE_CHECKING:
    from ..data.derivatives import Estimate
    from ..data.series import Subject

Float = NDArray[np.float64]

STEPS, CLOSE = 30, 0.05  # of the inversion: most steps; mm by which a point may miss
LEAST_SHARE = 0.5  # of a voxel's interpolation weights that have to lie in the mask


def template_maps(
    subject: Subject, estimate: Estimate, transform: Path
) -> dict[str, tuple[Any, dict[str, Any], Float]]:
    """CBF, ATT and their SDs on the 2 mm grid of MNI152NLin2009cAsym: by the ends of their names, data, what is said of
    them, and the grid's affine, for `write_estimate(more=)`.

    Linear interpolation between voxels of the mask; 0 where less than half of the weights lie in it.

    Raises
    ------
    InputError
        A transform that cannot be read, or by which the head does not come to lie on the template.
    """
    from nilearn.datasets import load_mni152_brain_mask

    template = load_mni152_brain_mask(resolution=2)
    inside, grid = np.asarray(template.dataobj) > 0, np.asarray(template.affine, dtype=float)
    wanted = np.argwhere(inside) @ grid[:3, :3].T + grid[:3, 3]
    points, way, files = _points_of(wanted, subject, transform)
    inverse = np.linalg.inv(subject.affine)
    at = (points @ inverse[:3, :3].T + inverse[:3, 3]).T
    weight = map_coordinates(subject.mask.astype(float), at, order=1, mode="constant")
    kept = weight >= LEAST_SHARE
    if not kept.any():
        raise InputError(f"{transform}: by it no voxel of the mask lies in the template; is it this subject's?")
    subject.provenance["inputs"].setdefault("transforms", []).extend(files)
    found: dict[str, tuple[Any, dict[str, Any], Float]] = {}
    for kind, words, unit in (
        ("cbf", "Cerebral blood flow", "relative" if subject.relative else "ml/100g/min"),
        ("att", "Arterial transit time", "s"),
        ("desc-sd_cbf", "Standard deviation of the cerebral blood flow", "ml/100g/min"),
        ("desc-sd_att", "Standard deviation of the arterial transit time", "s"),
    ):
        name = "_".join(reversed(kind.removeprefix("desc-").split("_")))
        values = getattr(estimate, name)
        if values is None or (subject.relative and name == "cbf_sd"):
            continue
        sums = map_coordinates(np.where(subject.mask, values, 0).astype(float), at, order=1, mode="constant")
        volume = np.zeros(inside.shape, np.float32)
        volume[inside] = np.where(kept, sums / np.maximum(weight, LEAST_SHARE), 0.0)
        told = {"Description": f"{words} in {MNI}, 2 mm", "Units": unit, "Resampled": f"linear, by {way}"}
        if name.endswith("sd"):
            told["Note"] = (
                "interpolated as the map is: of a voxel of the series, not of the smaller one of the template"
            )
        before, _, suffix = kind.rpartition("_")
        found["_".join(part for part in (f"space-{MNI}", before, suffix) if part)] = (volume, told, grid)
    return found


def _points_of(wanted: Float, subject: Subject, transform: Path) -> tuple[Float, str, tuple[Path, ...]]:
    """Points of the series that the transform takes to points of the template: world mm, by which way, files read.

    By fixed-point iteration: the transform is given from points of the subject to those of the template, and a warp is
    close to its affine part.
    """
    voxels = np.argwhere(subject.mask) @ subject.affine[:3, :3].T + subject.affine[:3, 3]
    some = voxels[:: max(1, len(voxels) // 2000)]
    there, way, files = to_template(some, subject, transform)
    design = np.column_stack([there, np.ones(len(there))])
    back = np.linalg.lstsq(design, some, rcond=None)[0]
    points = np.column_stack([wanted, np.ones(len(wanted))]) @ back
    left = np.arange(len(points))
    for _ in range(STEPS):
        miss = wanted[left] - to_template(points[left], subject, transform)[0]
        points[left] += miss @ back[:3]
        left = left[np.linalg.norm(miss, axis=1) > CLOSE]
        if not len(left):
            break
    return points, way, files

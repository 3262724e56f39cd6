"""Anatomy of the digital phantom: ICBM 152 tissue maps on a scanner's grid, warped for each virtual volunteer.

The maps (ICBM 152 2009, 1 mm, Fonov et al. 2011, doi:10.1016/j.neuroimage.2010.07.033) lie inside nilearn: nothing is
downloaded. A voxel's partial volume is the average of the 1 mm map over the voxel: over points at most 1.75 mm apart,
each linearly interpolated. Averaging is the low-pass filter that keeps thin structures from aliasing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ...errors import InputError
from ..interpolation import sample

Float = NDArray[np.float32]

#: Empty space around the brain in mm, room for larger heads.
MARGIN = 9.0
#: Correlation length in mm of the displacement that makes one head differ from another.
WARP_LENGTH = 40.0

#: Vascular territories, and points in MNI mm (right side, x > 0) that each of them feeds.
TERRITORIES = ("ACA-L", "ACA-R", "MCA-L", "MCA-R", "PCA-L", "PCA-R", "VB")
_FED = {
    "ACA": [(6, 48, -5), (8, 58, 20), (8, 35, 42), (10, 5, 58), (10, -22, 65), (8, 20, 5)],
    "MCA": [
        (50, 22, 8),
        (54, -8, 32),
        (58, -35, 22),
        (52, -5, -18),
        (38, 0, 8),
        (45, 5, 45),
        (28, 5, 0),
        (45, -50, 35),
    ],
    "PCA": [(10, -88, 5), (26, -80, -8), (18, -58, 2), (30, -40, -16), (9, -20, 6), (42, -62, -14), (15, -70, 30)],
    "VB": [
        (20, -60, -42),
        (36, -65, -34),
        (2, -55, -28),
        (2, -30, -42),
        (15, -45, -22),
        (-20, -60, -42),
        (-36, -65, -34),
    ],
}
#: Where blood of each enters, MNI mm: the circle of Willis, and the vertebral arteries for the cerebellum.
_ENTRY = {"ACA": (0, 8, -12), "MCA": (22, 4, -14), "PCA": (8, -18, -14), "VB": (0, -25, -52)}


@dataclass(frozen=True)
class Anatomy:
    """Tissue of one head on one grid; arrays (X, Y, Z), read-only because they are shared.

    gm, wm: partial volumes, 0 to 1; brain: share of the voxel inside the brain; mask: brain > 0.5, in one piece;
    points (X, Y, Z, 3): template (MNI) coordinates in mm of each voxel's center; territory (7, X, Y, Z): membership
    of each of TERRITORIES, adding up to 1; watershed: 0 in a territory's middle, 1 where two meet;
    path: distance in mm from where the voxel's blood enters the brain.
    """

    gm: Float
    wm: Float
    brain: Float
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    points: Float
    territory: Float
    watershed: Float
    path: Float


@lru_cache(maxsize=1)
def _templates() -> tuple[Float, Float, Float, NDArray[np.float64]]:
    """T1, GM and WM of the ICBM 152 template at 1 mm, each scaled to at most 1, and their affine."""
    import nibabel as nib

    # nilearn's loaders import scikit-learn and pandas first (seconds); its files can be read without.
    spec = find_spec("nilearn")
    folder = Path(spec.origin).parent / "datasets" / "data" if spec and spec.origin else Path()
    files = [folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz" for kind in ("t1", "gm", "wm")]
    images: list[Any]
    if all(file.is_file() for file in files):
        images = [nib.load(file) for file in files]  # type: ignore[attr-defined]
    else:
        from nilearn import datasets

        loaders = (datasets.load_mni152_template, datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
        images = [load(resolution=1) for load in loaders]
    t1, gm, wm = (np.asarray(image.dataobj, dtype=np.float32) for image in images)
    return t1 / t1.max(), gm / gm.max(), wm / wm.max(), images[0].affine


@lru_cache(maxsize=1)
def _stacked() -> Float:
    """Brain, GM and WM of the template side by side, (X, Y, Z, 3)."""
    t1, gm, wm, _ = _templates()
    return np.stack([(t1 > 0).astype(np.float32), gm, wm], axis=-1)


def smooth_field(points: Float, length: float, rng: np.random.Generator) -> Float:
    """A random field of mean 0 and SD 1, correlated over `length` mm, at points (..., 3) in mm.

    It is drawn on a grid in space, so that the same generator gives the same field on any voxel size.
    """
    low, high, step = np.array([-110.0, -150.0, -100.0]), np.array([110.0, 120.0, 130.0]), length / 4
    shape = np.ceil((high - low) / step).astype(int) + 1
    field = ndimage.gaussian_filter(rng.standard_normal(shape), sigma=2.0, mode="wrap").astype(np.float32)
    field /= field.std()
    return sample(field[..., None], points, np.full(3, 1 / step), -low / step, clamp=True)[..., 0]


def _grid(voxel_size: tuple[float, float, float]) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Shape and affine of the scanner's grid: the template's brain in the middle, MARGIN around it."""
    t1, _, _, affine = _templates()
    size = np.asarray(voxel_size, dtype=float)
    inside = np.argwhere(t1[::2, ::2, ::2] > 0) * 2
    corners = np.stack([inside.min(axis=0), inside.max(axis=0)]) @ affine[:3, :3].T + affine[:3, 3]
    shape = np.ceil((np.ptp(corners, axis=0) + 2 * MARGIN) / size).astype(int)
    grid = np.diag([*size, 1.0])
    grid[:3, 3] = np.round(corners.mean(axis=0) - size * (shape - 1) / 2, 3)
    return tuple(int(n) for n in shape), grid


def _memberships(points: Float) -> tuple[Float, Float, Float]:
    """Territory memberships, watershed and path length of Anatomy at points (N, 3) in MNI mm."""
    from scipy.spatial import cKDTree

    distance = []
    path = []
    for name, fed in _FED.items():
        for side in (-1, 1) if name != "VB" else (1,):
            mirror = np.array([side, 1, 1])
            distance.append(cKDTree(np.array(fed) * mirror).query(points)[0])
            path.append(np.linalg.norm(points - np.array(_ENTRY[name]) * mirror, axis=1))
    score = -np.stack(distance) / 6.0
    member = np.exp(score - score.max(axis=0))
    member /= member.sum(axis=0)
    by_artery = np.sort(
        np.stack([member[0] + member[1], member[2] + member[3], member[4] + member[5], member[6]]), axis=0
    )
    watershed = 1.0 - (by_artery[-1] - by_artery[-2])
    length = (member * np.stack(path)).sum(axis=0)
    return member.astype(np.float32), watershed.astype(np.float32), length.astype(np.float32)


@lru_cache(maxsize=8)
def build_anatomy(voxel_size: tuple[float, float, float] = (3.0, 3.0, 7.0), volunteer: int | None = None) -> Anatomy:
    """Anatomy of a volunteer (None: the template) on a grid of voxel_size mm; InputError for impossible sizes."""
    if len(voxel_size) != 3 or not all(0.8 <= v <= 30 for v in voxel_size):
        raise InputError(f"voxel_size is {voxel_size}; expected three numbers in mm, between 0.8 and 30")
    person = get_volunteer(volunteer)
    shape, grid = _grid(voxel_size)
    _, _, _, affine = _templates()

    parts = [int(np.ceil(v / 1.75)) for v in voxel_size]
    axes = [
        (grid[i, 3] + voxel_size[i] * ((np.arange(n * p) + 0.5) / p - 0.5)).astype(np.float32)
        for i, (n, p) in enumerate(zip(shape, parts, strict=True))
    ]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    if person.displacement:
        center = np.array([0.0, -18.0, 5.0], dtype=np.float32)
        shift = np.random.default_rng([*person.seed, 1])
        moved = [person.displacement * smooth_field(points, WARP_LENGTH, shift) for _ in range(3)]
        points = center + (points - center) / np.array(person.scale, dtype=np.float32) + np.stack(moved, axis=-1)

    def average(values: Float) -> Float:
        split = [size for pair in zip(shape, parts, strict=True) for size in pair]
        return values.reshape(*split, *values.shape[3:]).mean(axis=(1, 3, 5))

    steps = np.diag(affine)[:3]
    brain, gm, wm = np.moveaxis(average(sample(_stacked(), points, 1 / steps, -affine[:3, 3] / steps)), -1, 0).copy()
    mask = _one_piece(brain > 0.5)
    centers = average(points)
    territory, watershed, path = _memberships(centers.reshape(-1, 3))
    result = Anatomy(
        gm, wm, brain, mask, grid, centers, territory.reshape(-1, *shape), watershed.reshape(shape), path.reshape(shape)
    )
    for array in vars(result).values():
        array.setflags(write=False)
    return result


def _one_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part of a mask, its holes filled."""
    labels, count = ndimage.label(mask)
    if count == 0:
        raise InputError("no voxel lies inside the brain; expected a smaller voxel_size")
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return ndimage.binary_fill_holes(largest)


#: Seed of the template's own smooth variation, so that it is the same phantom for everyone.
_TEMPLATE_SEED = 1998


@dataclass(frozen=True)
class Volunteer:
    """How one virtual person is made from the template.

    Attributes
    ----------
    number : int or None
        None is the template itself.
    cbf_gm, cbf_wm : float
        Mean CBF of pure gray and pure white matter in ml/100g/min.
    att : float
        Offset of all arrival times in s.
    territory_att : (7,) tuple
        Offset of each territory's arrival in s, in the order of anatomy.TERRITORIES.
    displacement : float
        SD in mm of each component of the smooth displacement field; 0 for the template.
    scale : (3,) tuple
        Size of the head along x, y and z, relative to the template.
    seed : tuple of int
        Seeds the smooth random fields of anatomy, CBF, ATT and M0.
    """

    number: int | None
    cbf_gm: float
    cbf_wm: float
    att: float
    territory_att: tuple[float, ...]
    displacement: float
    scale: tuple[float, float, float]
    seed: tuple[int, ...]


def get_volunteer(number: int | None) -> Volunteer:
    """Virtual volunteer `number` (0 or more), or the template for None; the same number is always the same person.

    Between persons GM perfusion varies by about 15 % (SD) and arrival by 0.1 s, as in healthy adults
    (Parkes et al. 2004, doi:10.1002/mrm.20023; MacIntosh et al. 2010, doi:10.1002/mrm.22256).
    """
    if number is None:
        return Volunteer(None, 62.0, 22.0, 0.0, (0.0,) * 7, 0.0, (1.0, 1.0, 1.0), (_TEMPLATE_SEED,))
    if number < 0:
        raise InputError(f"volunteer is {number}; expected 0 or more, or None for the template")
    rng = np.random.default_rng([_TEMPLATE_SEED, 7, number])
    level = float(np.clip(rng.normal(1.0, 0.15), 0.65, 1.4))
    return Volunteer(
        number=number,
        cbf_gm=62.0 * level,
        cbf_wm=22.0 * level * float(np.clip(rng.normal(1.0, 0.06), 0.85, 1.15)),
        att=float(np.clip(rng.normal(0.0, 0.1), -0.2, 0.25)),
        territory_att=tuple(float(v) for v in rng.normal(0.0, 0.05, 7)),
        displacement=2.5,
        scale=tuple(float(v) for v in np.clip(rng.normal(1.0, 0.025, 3), 0.95, 1.05)),  # type: ignore[arg-type]
        seed=(_TEMPLATE_SEED, number),
    )

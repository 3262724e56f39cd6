"""What maps of CBF and ATT are likely: Gaussian levels, a guide, the tie between the two, and a focal region.

CBF is x_0 plus, with a guide, psi x_2; ATT is x_1 plus rho times CBF: white matter has less flow and later arrival, so
one tells of the other. A focal region q adds q times a field of its own to either: levels that are there inside the
region only. Every x is a sum of Gaussian levels (`fields.gaussian`) with variances of its own.

The guide is a function psi of an anatomical image, learned from the ASL data, that a field modulates; where CBF does
not follow it, that field's variance goes to zero. Without an image, depth below the surface of the mask takes its
place: gray matter is the rim of the brain, white matter its core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from ...fields.gaussian import Floats, GaussianLevels
from ...smoothing import smooth_inside

Doubles = NDArray[np.float64]

CBF_UNIT = 20.0  # ml/100g/min in the field's unit, so that both fields are of order 1
#: Largest variances that a level of the fields of CBF, ATT, guide and `late` may learn; data don't bound broad levels.
LARGEST = np.array([1.0, 0.2**2, 1.0, 0.2**2])
#: SDs of a region's levels, for widths up to 7, up to 12 and above 12 mm: CBF in the field's unit, ATT in s. A region's
#: few voxels cannot teach them; they let it be anything physiological that is smooth inside.
REGION_WIDTHS, REGION_CBF, REGION_ATT = (7.0, 12.0), (0.0, 0.0, 0.3), (0.0, 0.1, 0.3)
VOXEL = 1  # the level of independent voxels
BACKGROUND = 30.0  # mm; the image's variation on this scale is receive sensitivity rather than tissue
SCALES = ((0.0, 9), (3.0, 7), (6.0, 5), (12.0, 4))  # mm of smoothing, hat functions
DEPTHS = ((0.0, 9), (8.0, 7), (20.0, 5))  # the same for depth: distance to the surface, share of the mask around


@dataclass(frozen=True)
class Prior:
    """Fields of given level variances (F, levels), and how they make CBF (in CBF_UNIT) and ATT (in s).

    Order of the fields: CBF, ATT, that of the guide, that of `late`, CBF and ATT in the region. guide (N,) is psi or
    None, of depth rather than of an image with `by_depth`; region (N,) is q or None; coupling is rho. own (N,) weighs
    the first field, None as 1: with shares of two tissues as `own` and `guide` the two fields are those of their CBF.
    late (N,) weighs a second field of ATT, as a share of white matter does. `spectrum` is that of the fields but for
    their level of independent voxels, whose covariance of CBF and ATT in every voxel is `alone`, (3, N).
    """

    levels: GaussianLevels
    variances: Doubles
    guide: Floats | None = None
    coupling: float = 0.0
    region: Floats | None = None
    by_depth: bool = False
    own: Floats | None = None
    late: Floats | None = None
    spectrum: Floats = field(init=False, repr=False)
    alone: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        smooth = self.variances.copy()
        smooth[:, VOXEL] = 0
        object.__setattr__(self, "spectrum", self.levels.spectrum(smooth))
        single = self.variances[:, VOXEL].astype(np.float32)
        cbf = np.full(self.levels.size, single[0])
        if self.own is not None:
            cbf *= self.own**2
        if self.guide is not None:
            cbf = cbf + single[2] * self.guide**2
        rho = np.float32(self.coupling)
        object.__setattr__(self, "alone", np.stack([cbf, rho * cbf, single[1] + rho**2 * cbf]))

    @property
    def whole(self) -> Floats:
        """Spectrum of the fields with the independent voxels, which are as strong at every frequency."""
        whole: Floats = self.spectrum + self.variances[:, VOXEL, None, None, None].astype(np.float32)
        return whole

    @property
    def everywhere(self) -> int:
        """Number of fields that are not a region's."""
        return 2 + (self.guide is not None) + (self.late is not None)

    def combine(self, x: Floats) -> Floats:
        """(CBF, ATT) as (2, N) of the fields at the voxels, (F, N)."""
        cbf, att = x[:2]
        if self.own is not None:
            cbf = self.own * cbf
        if self.guide is not None:
            cbf = cbf + self.guide * x[2]
        if self.late is not None:
            att = att + self.late * x[self.everywhere - 1]
        if self.region is not None:
            cbf, att = cbf + self.region * x[-2], att + self.region * x[-1]
        return np.stack([cbf, att + np.float32(self.coupling) * cbf])

    def spread(self, theta: Floats) -> Floats:
        """The adjoint of `combine`: (2, N) to (F, N)."""
        cbf = theta[0] + np.float32(self.coupling) * theta[1]
        rows = [cbf if self.own is None else self.own * cbf, theta[1]]
        if self.guide is not None:
            rows.append(self.guide * cbf)
        if self.late is not None:
            rows.append(self.late * theta[1])
        if self.region is not None:
            rows += [self.region * cbf, self.region * theta[1]]
        return np.stack(rows)


def start_variances(widths: Sequence[float]) -> Doubles:
    """Variances (3, levels + 2) before any is learned, for levels of the given widths in mm.

    The constant's are those of a broad prior of the mean. Broad levels of ATT start small: a brain has few features of
    their width, so a large start would stay, and the level would take up what the model lacks, as T1 of white matter.
    """
    levels = len(widths)
    variances = np.zeros((3, levels + 2))
    variances[0] = [4.0, 0.005, *[0.4 / levels] * levels]
    variances[1] = [1.0, 0.001, *(0.02 * widths[0] / np.array(widths))]
    variances[2, 0], variances[2, -2] = 0.2, 0.02
    return variances


def region_variances(widths: Sequence[float]) -> Doubles:
    """Variances (2, levels + 2) of a region's fields of CBF and ATT for levels of the given widths in mm."""
    sd = np.array([REGION_CBF, REGION_ATT])[:, np.searchsorted(REGION_WIDTHS, widths)]
    return np.concatenate([np.zeros((2, 2)), sd**2], axis=1)


def is_constant(image: NDArray[np.floating], mask: NDArray[np.bool_]) -> bool:
    """Whether an image says nothing of the voxels of the mask, as M0 does that is one number."""
    inside = np.asarray(image, dtype=np.float64)[mask]
    inside = inside[np.isfinite(inside)]
    return inside.size == 0 or float(np.ptp(inside)) <= 1e-6 * float(np.abs(inside).max())


def guide_features(image: NDArray[np.floating], mask: NDArray[np.bool_], voxel_size: Sequence[float]) -> Doubles:
    """Hat functions of `guide_ranks`: (features, N), each of mean 0."""
    return np.array([hat for rank, count in guide_ranks(image, mask, voxel_size) for hat in _hats(rank, count)])


def guide_ranks(
    image: NDArray[np.floating], mask: NDArray[np.bool_], voxel_size: Sequence[float]
) -> list[tuple[Doubles, int]]:
    """Rank (N,) in [0, 1] of the image's logarithm at four scales, and the number of hat functions of each.

    Ranks serve any contrast and scaling of the image; its slow part, receive sensitivity, is taken away first. A value
    that is not finite or not positive counts as the smallest one.
    """
    inside = np.asarray(image, dtype=np.float64)[mask]
    inside = np.where(np.isfinite(inside), inside, 0.0)
    typical = np.median(inside[inside > 0]) if np.any(inside > 0) else 1.0
    log = np.log(np.maximum(inside, 1e-3 * typical))
    log -= smooth_inside(log, mask, [BACKGROUND / size for size in voxel_size])
    return [
        (_ranks(log if width == 0 else smooth_inside(log, mask, [width / size for size in voxel_size])), hats)
        for width, hats in SCALES
    ]


def depth_features(mask: NDArray[np.bool_], voxel_size: Sequence[float]) -> Doubles:
    """Hat functions of `depth_ranks`: (features, N), each of mean 0."""
    return np.array([hat for rank, count in depth_ranks(mask, voxel_size) for hat in _hats(rank, count)])


def depth_ranks(mask: NDArray[np.bool_], voxel_size: Sequence[float]) -> list[tuple[Doubles, int]]:
    """Rank (N,) of how deep a voxel lies in the mask, at three scales, and the number of hat functions of each.

    The volume's own border is no surface: a slab that the field of view cuts goes on behind it.
    """
    depth = np.zeros(mask.shape) if mask.all() else distance_transform_edt(mask, voxel_size)
    found = [(_ranks(depth[mask]), DEPTHS[0][1])]
    for width, hats in DEPTHS[1:]:
        sigma = [width / size for size in voxel_size]
        found.append((_ranks(gaussian_filter(mask.astype(np.float32), sigma, mode="nearest")[mask]), hats))
    return found


def _ranks(values: NDArray[np.floating]) -> Doubles:
    """Rank in [0, 1] of each of the values (N,); equal values have equal ranks."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values) + np.searchsorted(ordered, values, "right")) / (2 * len(values))


def _hats(rank: Doubles, count: int) -> list[Doubles]:
    """Hat functions (N,) of ranks (N,), each of mean 0."""
    hats = [np.maximum(0.0, 1.0 - np.abs(rank * (count - 1) - k)) for k in range(count)]
    return [hat - hat.mean() for hat in hats]


def guide_function(features: Doubles, observed: Doubles, precision: Doubles) -> Doubles:
    """psi (N,): ridge regression of observed CBF deviations on the features, scaled to SD 1; zeros if flat."""
    weighted = features * precision
    gram = weighted @ features.T
    ridge = 1e-3 * np.trace(gram) / len(features)
    if not ridge > 0:
        return np.zeros(features.shape[1])
    psi = np.linalg.solve(gram + ridge * np.eye(len(features)), weighted @ observed) @ features
    spread = psi.std()
    return psi / spread if spread > 0 else np.zeros_like(psi)

"""Contrast between tissues: what a prior flattens, and by how much it is given back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..smoothing import smooth_inside

LOCAL = 5.0  # shortest voxel edges, SD of the Gaussian whose residual is called local contrast
#: Exponents of the gain that restores the contrast of CBF and ATT: at 1 a map is as varied as the truth, at 2 means
#: over tissues are unbiased and noise is raised as much. Means over tissues are what is reported of CBF.
RESTORED = np.array([1.25, 1.0])


def local_contrast(
    values: NDArray[np.floating], mask: NDArray[np.bool_], voxel_size: tuple[float, ...]
) -> NDArray[Any]:
    """Maps (N,) or (N, F) minus their smooth part: contrast between tissues, without that between regions."""
    return values - smooth_inside(values, mask, [LOCAL * min(voxel_size) / size for size in voxel_size])

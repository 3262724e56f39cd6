"""Tissue maps that other tools made, found by their BIDS names."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .images import Image, read_image, require_same_grid
from .sidecar import dataset_root


def find_tissue(path: Path, folder: str, image: Image) -> dict[str, NDArray[np.float32]] | None:
    """Partial volumes of gray and white matter by BIDS name (label-GM_probseg, label-WM_probseg) on the series' grid.

    folder: the subject's, 'sub-01' or 'sub-01/ses-02'.
    Looked for beside the series, in the subject's anat folder, and in the same places under derivatives/*.
    """
    root = dataset_root(path)
    places = [path.absolute().parent]
    if root is not None:
        tops = [root, *sorted((root / "derivatives").glob("*/"))]
        places += [top / folder / kind for top in tops for kind in ("perf", "anat")]
    found: dict[str, NDArray[np.float32]] = {}
    pattern = partial("{}_*label-{}_probseg.nii*".format, folder.split("/")[0])
    for key, label in (("gm", "GM"), ("wm", "WM")):
        for file in (file for place in places for file in sorted(place.glob(pattern(label)))):
            try:
                candidate = read_image(file, dimensions=(3,))
                require_same_grid(candidate, image, "tissue map")
            except InputError:  # another grid (fMRIPrep's T1w space) or not an image: not usable here, look further
                continue
            found[key] = np.clip(np.nan_to_num(candidate.data), 0, 1)
            break
    return found if len(found) == 2 else None

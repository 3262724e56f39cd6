"""Tissue maps: those that other tools made, found by their BIDS names and brought onto the grid of the series."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .nifti import UNREADABLE, Image, averaged, read_header, read_image, same_grid
from .sidecar import dataset_root, entities, split_name

Volume = NDArray[np.float32]
Affine = NDArray[np.float64]

#: Spaces of the subject's own anatomy: fMRIPrep and ASLPrep name their T1w space so, or leave the entity out.
SUBJECT_SPACES = ("T1w", "individual", "orig")
#: Mean of gray and white matter together inside the mask, from which maps of another grid are taken to lie on it.
FITS = 0.5


def find_tissue(
    path: Path, folder: str, image: Image, mask: NDArray[np.bool_], notes: list[str]
) -> tuple[dict[str, Volume], str] | None:
    """Partial volumes of gray and white matter by BIDS name (label-GM_probseg, label-WM_probseg), and where from.

    Looked for beside the series, in the subject's perf and anat folders, and in the same places under derivatives/*.
    Maps on the grid of the series are taken as they are. Maps in the subject's T1w space, as fMRIPrep writes them, are
    averaged over each voxel: through the transform that ASLPrep leaves (from-aslref_to-T1w_mode-image_xfm.txt) where
    there is one, else by scanner coordinates, that is without a registration. Where they then miss the mask they are
    left out, with a note, as are maps that cannot be read. Maps in a template's space are not used.

    folder: the subject's, 'sub-01' or 'sub-01/ses-02'.

    Raises
    ------
    InputError
        Where a transform cannot be read.
    """
    places = _places(path, folder)
    for file in _named(places, folder, "label-GM_probseg.nii*"):
        other = file.with_name(file.name.replace("label-GM", "label-WM"))
        maps = _read_pair(file, other, image, notes) if other.is_file() else None
        if maps is None:
            continue
        if all(same_grid(found, image) for found in maps):
            return dict(zip(("gm", "wm"), (_clean(found) for found in maps), strict=True)), "given"
        if entities(split_name(file)[0]).get("space", "T1w") not in SUBJECT_SPACES:
            continue  # of another grid and no space of this head
        to_t1w, way, _ = subject_to_t1w(path, folder)
        gm, wm = (np.clip(averaged(_clean(found), found, image, to_t1w), 0, 1) for found in maps)
        share = float((gm + wm)[mask].mean())
        if share >= FITS:
            return {"gm": gm, "wm": wm}, f"given: {file.name}, averaged over voxels by {way}"
        notes.append(
            f"{file.name} is not used: by {way} tissue fills {100 * share:.0f} % of the mask; expected "
            f"{100 * FITS:.0f} % or more (maps on the grid of the series are taken as they are)"
        )
    return None


def tissue_maps(
    choice: str,
    found: tuple[dict[str, Volume], str] | None,
    m0: Volume,
    mask: NDArray[np.bool_],
    affine: Any,
    notes: list[str],
) -> tuple[dict[str, Volume] | None, dict[str, Any]]:
    """Tissue maps that were found; else, with choice "estimate", those of the ICBM atlas registered to M0."""
    if choice not in ("given", "estimate"):
        raise InputError(f"tissue is {choice!r}; expected given or estimate")
    if found is not None:
        return found[0], {"Source": found[1], "OfSubject": True}
    if choice == "given":
        return None, {"Source": "none found", "OfSubject": False}
    from .icbm_tissue import estimate_tissue

    try:
        made = estimate_tissue(m0, mask, affine)
    except InputError as error:
        notes.append(str(error))
        return None, {"Source": "none found; the atlas could not be registered", "OfSubject": False}
    return {"gm": made.gm, "wm": made.wm}, made.provenance() | {"OfSubject": False}


def find_derivative(path: Path, folder: str, ending: str) -> Path | None:
    """A file of the subject whose name ends so, beside the series or in its derivatives; None where there is none."""
    return next(_named(_places(path, folder), folder, ending), None)


def subject_to_t1w(path: Path, folder: str) -> tuple[Affine, str, tuple[Path, ...]]:
    """World mm of the series to those of the subject's T1w image, (4, 4), in words by which way, and the file of it.

    By the transform that ASLPrep leaves, else as it is: by scanner coordinates.
    """
    transform = find_derivative(path, folder, "from-asl*_to-T1w_mode-image*xfm.txt")
    if transform is None:
        return np.eye(4), "scanner coordinates", ()
    return np.asarray(np.linalg.inv(read_itk_affine(transform))), transform.name, (transform,)


def _places(path: Path, folder: str) -> list[Path]:
    """Where tools leave maps of a subject, the nearest first; fMRIPrep leaves those of all sessions in sub-XX/anat."""
    root = dataset_root(path)
    places = [path.absolute().parent]
    if root is not None:
        own = dict.fromkeys((folder, folder.split("/")[0]))
        tops = [root, *sorted((root / "derivatives").glob("*/"))]
        places += [top / name / kind for top in tops for name in own for kind in ("perf", "anat")]
    return list(dict.fromkeys(places))


def _named(places: list[Path], folder: str, ending: str) -> Iterator[Path]:
    for place in places:
        yield from sorted(place.glob(f"{folder.split('/')[0]}_*{ending}"))


def _read_pair(gm: Path, wm: Path, image: Image, notes: list[str]) -> tuple[Image, Image] | None:
    """Both maps; None where one is damaged (noted), or a template's on another grid (not read: they are large)."""
    try:
        template = entities(split_name(gm)[0]).get("space", "T1w") not in SUBJECT_SPACES
        if template and read_header(gm, (3,)).shape != image.data.shape[:3]:
            return None
        return read_image(gm, dimensions=(3,)), read_image(wm, dimensions=(3,))
    except UNREADABLE as error:  # an InputError, of read_image, is a ValueError
        said = " ".join(str(error).replace(f"{gm.parent}/", "").split())[:200]
        notes.append(f"{gm.name} and {wm.name} are not used: {said}")
        return None


def _clean(found: Image) -> Volume:
    return np.clip(np.nan_to_num(found.data), 0, 1)


def read_itk_affine(file: Path) -> Affine:
    """The affine of an ITK text transform, in world mm of NIfTI (x to the right, y to the front): (4, 4).

    y = A (x - c) + c + t, in ITK's axes (x to the left, y to the back). A transform "from A to B, mode image" takes
    points of B to points of A, as resampling an image of A on the grid of B needs it.

    Raises
    ------
    InputError
        Where the file is not such a transform.
    """
    try:
        lines = dict(line.split(":", 1) for line in file.read_text(encoding="utf-8").splitlines() if ":" in line)
        numbers = np.array(lines["Parameters"].split(), dtype=float)
        center = np.array(lines["FixedParameters"].split(), dtype=float)[:3]
        linear = numbers[:9].reshape(3, 3)
        shift = numbers[9:12] + center - linear @ center
        matrix = np.vstack([np.column_stack([linear, shift]), [0, 0, 0, 1]])
        if numbers.size != 12 or not np.isfinite(matrix).all() or abs(np.linalg.det(linear)) < 1e-6:
            raise ValueError
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{file}: not an affine transform; expected an ITK text file with 12 parameters") from error
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    return np.asarray(flip @ matrix @ flip)

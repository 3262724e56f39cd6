"""Atlases for tables by region: label images with their names, brought onto the grid of the series.

An image on the grid of the series is taken as it is. One of MNI152NLin2009cAsym comes through the transform given, or
through the affine registration of the ICBM 152 template to M0 (`icbm_tissue`); one of the subject's anatomy by scanner
coordinates and, where ASLPrep left one, its transform to T1w. Labels are those of the nearest voxel.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .icbm_tissue import register_template
from .nifti import read_image
from .series import Subject
from .sidecar import entities, shorten, split_name
from .tissue import SUBJECT_SPACES, find_derivative, subject_to_t1w

Labels = NDArray[np.int32]
Float = NDArray[np.float64]

MNI = "MNI152NLin2009cAsym"
#: Least share of the atlas' regions that has to lie in the mask; with fewer it belongs to another head or space.
LEAST_FOUND = 0.1


@dataclass(frozen=True, eq=False)
class Atlas:
    """Labels (X, Y, Z) on the grid of a series, 0 for none.

    names: label -> name; expected: label -> voxels of the series that the region would fill if all of it were in view;
    provenance: file, space and transform, ready for JSON; files: what was read.
    """

    name: str
    labels: Labels
    names: dict[int, str]
    expected: dict[int, float]
    provenance: dict[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


def read_atlases(files: Sequence[Path], subject: Subject, transform: Path | None = None) -> list[Atlas]:
    """The atlases of some label images, on the grid of a subject.

    transform: from points of the subject's T1w (or ASL) space to points of MNI152NLin2009cAsym: what fMRIPrep and
    ASLPrep call from-MNI152NLin2009cAsym_to-T1w_mode-image_xfm.h5 (an affine may be of either direction); by default
    one that lies in the subject's derivatives.

    Raises
    ------
    InputError
        A file that is no label image, two of one name, a space that is not known, or regions outside of the brain.
    """
    transform = transform or find_transform(subject)
    found: list[Atlas] = []
    registered: list[Any] = []
    for file in files:
        atlas = _read(Path(file), subject, transform, registered)
        if atlas.name in [other.name for other in found]:
            raise InputError(f"{file}: a second atlas called {atlas.name}; expected another atlas- or seg- entity")
        found.append(atlas)
    return found


def find_transform(subject: Subject) -> Path | None:
    """The transform to MNI that fMRIPrep or ASLPrep left of the subject; None where there is none."""
    return find_derivative(subject.path, subject.folder, f"from-{MNI}_to-T1w_mode-image_xfm.h5")


def atlas_name(file: Path) -> str:
    """What an atlas is called in the names of its tables: its atlas- or seg- entity, else the letters of its stem."""
    stem, _ = split_name(file)
    own = entities(stem)
    return own.get("atlas") or own.get("seg") or "".join(c for c in stem if c.isalnum()) or "atlas"


def _read(file: Path, subject: Subject, transform: Path | None, registered: list[Any]) -> Atlas:
    image = read_image(file, dimensions=(3,))
    values = np.nan_to_num(image.data)
    labels = np.rint(values).astype(np.int32)
    if np.abs(values - labels).max() > 1e-3 or labels.min() < 0 or not labels.any():
        raise InputError(f"{file}: holds no labels; expected whole numbers, 0 for no region and above for regions")
    names, table = _names(file, labels)
    name = atlas_name(file)
    files = (file, *((table,) if table else ()))
    space = entities(split_name(file)[0]).get("space") or entities(split_name(file)[0]).get("tpl")
    brain = _brain(subject)
    used: tuple[Path, ...] = ()
    if image.data.shape == subject.mask.shape and np.allclose(image.affine, subject.affine, atol=1e-2):
        points, way = brain, "the grid of the series"
    elif space == MNI:
        points, way, used = _to_mni(brain, subject, transform, registered)
    elif space is None or space in SUBJECT_SPACES:
        to_t1w, way, used = subject_to_t1w(subject.path, subject.folder)
        points = brain @ to_t1w[:3, :3].T + to_t1w[:3, 3]
    else:
        raise InputError(
            f"{file}: is in space {space}; expected the grid of the series, the subject's own space (T1w), or {MNI}"
        )
    on_grid = np.zeros(subject.mask.shape, np.int32)
    on_grid[subject.mask] = _nearest(labels, image.affine, points)
    present = [label for label in names if np.any(on_grid == label)]
    if len(present) < LEAST_FOUND * len(names):
        raise InputError(
            f"{file}: {len(present)} of its {len(names)} regions lie in the brain mask, by {way}; expected "
            f"{100 * LEAST_FOUND:.0f} % or more: is it this subject's, or is space-{MNI} missing in its name?"
        )
    # the size of a region in voxels of the series: by how much the way to the atlas stretches
    linear = np.linalg.lstsq(brain - brain.mean(axis=0), points - points.mean(axis=0), rcond=None)[0]
    ratio = abs(np.linalg.det(image.affine[:3, :3]) / np.linalg.det(subject.affine[:3, :3]) / np.linalg.det(linear))
    expected = {label: float(ratio * np.sum(labels == label)) for label in names}
    about = {"Atlas": name, "File": file.name, "Space": space or "subject", "Resampled": way}
    return Atlas(name, on_grid, names, expected, about, (*files, *used))


def _names(file: Path, labels: Labels) -> tuple[dict[int, str], Path | None]:
    """Label -> name from the dseg.tsv beside the image; the label's number where there is none."""
    present = [int(label) for label in np.unique(labels) if label]
    stem, _ = split_name(file)
    places = [file.with_name(f"{stem}.tsv"), *sorted(file.parent.glob(f"*{atlas_name(file)}*dseg.tsv"))]
    table = next((place for place in places if place.is_file()), None)
    if table is None:
        return {label: str(label) for label in present}, None
    try:
        rows = list(csv.DictReader(table.read_text(encoding="utf-8-sig").splitlines(), delimiter="\t"))
        told = {int(float(row["index"])): str(row.get("name") or row.get("label") or row["index"]) for row in rows}
    except (ValueError, OSError, KeyError, TypeError, csv.Error) as error:
        raise InputError(
            f"{table}: is not a table of labels ({shorten(str(error))}); expected columns index and name"
        ) from error
    told.pop(0, None)
    missing = [label for label in present if label not in told]
    if missing:
        raise InputError(f"{table}: has no row for label {missing[0]} of {file.name}; expected one for every label")
    return told, table


def _brain(subject: Subject) -> Float:
    """World mm of the centers of the mask's voxels: (N, 3)."""
    return np.argwhere(subject.mask) @ subject.affine[:3, :3].T + subject.affine[:3, 3]


def _nearest(labels: Labels, affine: Float, points: Float) -> Labels:
    """The labels at points (N, 3) in the label image's world mm; 0 outside of it."""
    inverse = np.linalg.inv(affine)
    at = np.rint(points @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    inside = np.all((at >= 0) & (at < labels.shape), axis=1)
    found = np.zeros(len(points), np.int32)
    found[inside] = labels[tuple(at[inside].T)]
    return found


def _to_mni(
    points: Float, subject: Subject, transform: Path | None, registered: list[Any]
) -> tuple[Float, str, tuple[Path, ...]]:
    """Points of the series as those of MNI, by which way, and the files that it took."""
    if transform is None:
        if not registered:  # once for all atlases
            registered.append(register_template(subject.m0, subject.mask, subject.affine))
        affine, overlap = registered[0]
        linear, center = np.array(affine.GetMatrix()).reshape(3, 3), np.array(affine.GetCenter())
        moved = (points - center) @ linear.T + center + np.array(affine.GetTranslation())
        return moved, f"affine registration of ICBM 152 to M0 (overlap {overlap:.2f}); it follows no one's folds", ()
    return to_template(points, subject, transform)


def to_template(points: Float, subject: Subject, transform: Path) -> tuple[Float, str, tuple[Path, ...]]:
    """Points (N, 3) of the series, world mm, as those of MNI by a transform, in words by which way, and what was read.

    A transform of T1w comes after that of the series to T1w (`subject_to_t1w`).
    """
    if "T1w" not in transform.name:  # from the series itself
        return transformed(transform, points), transform.name, (transform,)
    to_t1w, by, used = subject_to_t1w(subject.path, subject.folder)
    moved = transformed(transform, points @ to_t1w[:3, :3].T + to_t1w[:3, 3])
    return moved, f"{transform.name} after {by}", (transform, *used)


def transformed(file: Path, points: Float) -> Float:
    """Points (N, 3) of the subject, world mm as NIfTI, through an ITK transform (.h5, .txt, .mat) to those of MNI.

    A transform "from-MNI..._to-X" takes points of X to points of MNI. One "from-X_to-MNI..." is inverted where it is
    affine, and refused where it is not.
    """
    import SimpleITK as sitk

    try:
        found = sitk.ReadTransform(str(file))
    except RuntimeError as error:
        raise InputError(f"{file}: cannot be read as an ITK transform; expected .h5, .mat or .txt") from error
    if "_to-MNI152" in file.name:
        if not found.IsLinear():
            raise InputError(
                f"{file}: takes points of {MNI} to the subject, and is not affine; expected its inverse, "
                f"{file.name.replace('from-T1w_to-' + MNI, f'from-{MNI}_to-T1w')}"
            )
        found = found.GetInverse()
    flip = np.array([-1.0, -1.0, 1.0])
    return np.array([found.TransformPoint(point) for point in (points * flip).tolist()]) * flip

"""Tissue maps of fMRIPrep and ASLPrep are found by their BIDS names and brought onto the grid of the series."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from aslpinn import InputError, load_subject, simulate
from aslpinn.data import write_phantom
from aslpinn.data.tissue import read_itk_affine

#: From points of the head in the T1w scan to where they lie in the ASL scan, in RAS mm: the head moved in between.
MOVED = np.eye(4)
MOVED[:3, :3] = Rotation.from_euler("xyz", [6, -4, 9], degrees=True).as_matrix()
MOVED[:3, 3] = [7.0, -12.0, 9.0]


@pytest.fixture(scope="module")
def phantom():
    return simulate("te7", tsnr=3.0, voxel_size=(5.0, 5.0, 6.0))


@pytest.fixture
def asl(phantom, tmp_path: Path) -> Path:
    """A data set without tissue maps."""
    file = write_phantom(phantom, tmp_path / "raw")[0]
    shutil.rmtree(tmp_path / "raw" / "derivatives")
    return file


def write_t1w_maps(phantom, folder: Path, name: str, to_asl: np.ndarray | None = None) -> None:
    """Maps of 2.5 mm on a grid of their own, tilted against that of the series, as an anatomical scan has one."""
    grid = np.eye(4)
    grid[:3, :3] = 2.5 * Rotation.from_euler("z", 8, degrees=True).as_matrix()
    corner = phantom.affine @ np.append((np.array(phantom.mask.shape) - 1) / 2, 1)
    grid[:3, 3] = corner[:3] - grid[:3, :3] @ np.array([42, 42, 36])
    to_voxel = np.linalg.inv(phantom.affine) @ (np.eye(4) if to_asl is None else to_asl) @ grid
    folder.mkdir(parents=True, exist_ok=True)
    for label, values in (("GM", phantom.gm), ("WM", phantom.wm)):
        fine = ndimage.affine_transform(values, to_voxel[:3, :3], to_voxel[:3, 3], output_shape=(85, 85, 73), order=1)
        nib.save(nib.Nifti1Image(fine.astype(np.float32), grid), folder / name.format(label))


def agree(phantom, person) -> float:
    inside = person.mask
    return min(
        float(np.corrcoef(person.tissue[key][inside], truth[inside])[0, 1])
        for key, truth in (("gm", phantom.gm), ("wm", phantom.wm))
    )


def test_maps_of_fmriprep_in_t1w_space_are_averaged_over_each_voxel(phantom, asl: Path) -> None:
    anat = asl.parents[2] / "derivatives" / "fmriprep" / "sub-01" / "anat"
    assert load_subject(asl).tissue is None
    write_t1w_maps(phantom, anat, "sub-01_space-MNI152NLin2009cAsym_label-{}_probseg.nii.gz")
    assert load_subject(asl).tissue is None  # a template's space says nothing of this head
    write_t1w_maps(phantom, anat, "sub-01_label-{}_probseg.nii.gz")
    person = load_subject(asl)
    assert agree(phantom, person) > 0.93  # interpolated twice: the fine maps come from the coarse ones
    source = person.provenance["tissue"]["Source"]
    assert source.startswith("given: sub-01_label-GM_probseg.nii.gz")
    assert "scanner coordinates" in source


def test_maps_on_the_grid_of_the_series_are_taken_as_they_are_and_first(phantom, asl: Path) -> None:
    write_t1w_maps(
        phantom, asl.parents[2] / "derivatives" / "fmriprep" / "sub-01" / "anat", "sub-01_label-{}_probseg.nii.gz"
    )
    for label, values in (("GM", phantom.gm), ("WM", phantom.wm)):
        file = asl.with_name(f"sub-01_space-aslref_label-{label}_probseg.nii.gz")
        nib.save(nib.Nifti1Image(values, phantom.affine), file)
    person = load_subject(asl)
    assert person.provenance["tissue"]["Source"] == "given"
    np.testing.assert_allclose(person.tissue["gm"], np.clip(phantom.gm, 0, 1), atol=1e-6)


def test_the_transform_of_aslprep_brings_maps_of_a_moved_head_back(phantom, asl: Path) -> None:
    derivatives = asl.parents[2] / "derivatives" / "aslprep" / "sub-01"
    write_t1w_maps(phantom, derivatives / "anat", "sub-01_label-{}_probseg.nii.gz", to_asl=MOVED)
    untouched = agree(phantom, load_subject(asl))
    sitk = pytest.importorskip("SimpleITK")
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    lps = flip @ MOVED @ flip
    transform = sitk.AffineTransform(3)
    center = np.array([3.0, -20.0, 11.0])
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetCenter(center.tolist())
    transform.SetTranslation((lps[:3, 3] - center + lps[:3, :3] @ center).tolist())
    (derivatives / "perf").mkdir()
    file = derivatives / "perf" / "sub-01_from-aslref_to-T1w_mode-image_desc-coreg_xfm.txt"
    sitk.WriteTransform(transform, str(file))
    np.testing.assert_allclose(read_itk_affine(file), MOVED, atol=1e-6)
    person = load_subject(asl)
    assert agree(phantom, person) > 0.93 > untouched + 0.1
    assert "xfm.txt" in person.provenance["tissue"]["Source"]
    file.write_text("no transform")
    with pytest.raises(InputError, match="expected an ITK text file"):
        load_subject(asl)


def test_maps_that_miss_the_brain_are_left_out_with_a_note(phantom, asl: Path) -> None:
    away = np.eye(4)
    away[:3, 3] = [90.0, 0, 0]
    anat = asl.parents[2] / "derivatives" / "fmriprep" / "sub-01" / "anat"
    write_t1w_maps(phantom, anat, "sub-01_label-{}_probseg.nii.gz", to_asl=away)
    person = load_subject(asl)
    assert person.tissue is None
    assert any("is not used: by scanner coordinates tissue fills" in note for note in person.provenance["notes"])
    (anat / "sub-01_label-GM_probseg.nii.gz").write_bytes(b"no image")
    person = load_subject(asl)
    assert person.tissue is None
    (note,) = (note for note in person.provenance["notes"] if "probseg" in note)
    assert "are not used: sub-01_label-GM_probseg.nii.gz: cannot be read" in note

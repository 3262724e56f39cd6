"""What a map rests on, as images, and maps in MNI space: by an affine and by a warp in an .h5 file."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from aslpinn import InputError, load_subject, simulate
from aslpinn.cli import main
from aslpinn.data import write_phantom
from aslpinn.data.atlases import MNI, to_template, transformed


@pytest.fixture(scope="module")
def asl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = simulate("te7", voxel_size=(7.0, 7.0, 8.0), tsnr=3.0, slice_time=0.04)
    return write_phantom(made, tmp_path_factory.mktemp("further") / "raw")[0]


def warp(file: Path, shift: float) -> Path:
    """A smooth displacement field of the template's space as fMRIPrep writes it: a composite in .h5."""
    sitk = pytest.importorskip("SimpleITK")
    size, spacing = (26, 30, 26), 8.0
    at = np.stack(np.meshgrid(*(np.arange(n) * spacing - 104.0 for n in size), indexing="ij"), axis=-1)
    field = shift * np.stack([np.sin(at[..., 1] / 40.0), np.cos(at[..., 2] / 50.0), np.sin(at[..., 0] / 45.0)], axis=-1)
    image = sitk.GetImageFromArray(np.ascontiguousarray(field.transpose(2, 1, 0, 3)), isVector=True)
    image.SetSpacing((spacing,) * 3)
    image.SetOrigin((-104.0,) * 3)
    composite = sitk.CompositeTransform(3)
    composite.AddTransform(sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64)))
    sitk.WriteTransform(composite, str(file))
    return file


def test_delays_and_voxels_are_images(asl: Path, tmp_path: Path) -> None:
    assert main(["fit", str(asl), "--out", str(tmp_path), "--estimator", "nlls"]) == 0
    perf = tmp_path / "sub-01" / "perf"
    person = load_subject(asl)
    distinct, _ = person.acquisition.distinct
    delays = nib.load(perf / "sub-01_desc-effective_pld.nii.gz").get_fdata()
    assert delays.shape == (*person.mask.shape, len(distinct))
    for z in np.unique(np.argwhere(person.mask)[:, 2])[[0, -1]]:
        here = delays[:, :, z][person.mask[:, :, z]]
        np.testing.assert_allclose(here, np.tile(distinct.post_labeling_delay + 0.04 * z, (len(here), 1)), atol=1e-5)
    assert not delays[~person.mask].any()
    valid = np.asarray(nib.load(perf / "sub-01_desc-valid_mask.nii.gz").dataobj) > 0
    assert not valid[~person.mask].any()
    assert valid[person.mask].mean() > 0.8
    quality = np.asarray(nib.load(perf / "sub-01_desc-m0quality_dseg.nii.gz").dataobj)
    assert np.mean(quality[person.mask] > 0) < 0.05
    told = json.loads((perf / "sub-01_desc-m0quality_dseg.json").read_text())
    assert set(told["Levels"]) == {"1", "2", "4"}
    assert not list(perf.glob("*space-*"))


def test_a_warp_is_read_from_h5_and_inverted_for_maps_in_mni_space(asl: Path, tmp_path: Path) -> None:
    file = warp(tmp_path / f"sub-01_from-{MNI}_to-T1w_mode-image_xfm.h5", shift=5.0)
    person = load_subject(asl)
    points = np.argwhere(person.mask)[::50] @ person.affine[:3, :3].T + person.affine[:3, 3]
    # ITK's axes: x to the left, y to the back
    expected = points + 5.0 * np.stack(
        [-np.sin(-points[:, 1] / 40), -np.cos(points[:, 2] / 50), np.sin(-points[:, 0] / 45)], axis=1
    )
    np.testing.assert_allclose(transformed(file, points), expected, atol=0.2)  # linear between the grid's 8 mm
    out = tmp_path / "out"
    assert main(["fit", str(asl), "--out", str(out), "--estimator", "nlls", "--transform", str(file)]) == 0
    perf = out / "sub-01" / "perf"
    image = nib.load(perf / f"sub-01_space-{MNI}_cbf.nii.gz")
    assert image.shape == (99, 117, 95)
    there = image.get_fdata()
    own = nib.load(perf / "sub-01_cbf.nii.gz").get_fdata()
    # the voxel nearest to where the transform takes the center of a voxel has that voxel's value, but for interpolation
    voxels = np.argwhere(person.mask)[::20]
    moved = to_template(voxels @ person.affine[:3, :3].T + person.affine[:3, 3], person, file)[0]
    inverse = np.linalg.inv(image.affine)
    at = np.rint(moved @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    found = there[tuple(at.T)]
    seen = found != 0
    assert seen.mean() > 0.8
    assert np.corrcoef(found[seen], own[tuple(voxels.T)][seen])[0, 1] > 0.9
    assert json.loads((perf / f"sub-01_space-{MNI}_att.json").read_text())["Units"] == "s"
    assert (perf / f"sub-01_space-{MNI}_desc-sd_cbf.nii.gz").is_file() == (perf / "sub-01_desc-sd_cbf.nii.gz").is_file()
    # a run without the transform takes them away
    assert main(["fit", str(asl), "--out", str(out), "--estimator", "nlls"]) == 0
    assert not list(perf.glob("*space-*"))


def test_a_warp_of_the_other_direction_and_one_of_another_head_are_refused(asl: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected its inverse"):
        transformed(warp(tmp_path / f"sub-01_from-T1w_to-{MNI}_mode-image_xfm.h5", 5.0), np.zeros((1, 3)))
    (tmp_path / "damaged_xfm.h5").write_bytes(b"no transform")
    with pytest.raises(InputError, match="cannot be read as an ITK transform"):
        transformed(tmp_path / "damaged_xfm.h5", np.zeros((1, 3)))
    away = tmp_path / f"sub-01_from-{MNI}_to-T1w_mode-image_xfm.txt"
    away.write_text(
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        "Parameters: 1 0 0 0 1 0 0 0 1 900 0 0\nFixedParameters: 0 0 0\n"
    )
    assert main(["fit", str(asl), "--out", str(tmp_path / "o"), "--estimator", "nlls", "--transform", str(away)]) == 2
    assert not (tmp_path / "o").exists()

"""Tables by region: what is in them, where the regions come from, and how sure the mean of a region is."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from aslpinn import InputError, fit, load_subject, simulate
from aslpinn.cli import main
from aslpinn.data import Subject, write_phantom
from aslpinn.data.atlases import MNI, atlas_name, read_atlases, transformed
from aslpinn.maps.regions import sd_of_mean, tissue_parcellation


@pytest.fixture(scope="module")
def asl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("regions") / "raw"
    return write_phantom(simulate("te7", voxel_size=(7.0, 7.0, 8.0), tsnr=2.0), root)[0]


@pytest.fixture(scope="module")
def person(asl: Path) -> Subject:
    return load_subject(asl)


def save(file: Path, labels: np.ndarray, affine: np.ndarray, names: dict[int, str] | None = None) -> Path:
    nib.save(nib.Nifti1Image(labels.astype(np.int16), affine), file)
    if names:
        lines = ["index\tname", *(f"{k}\t{name}" for k, name in names.items())]
        file.with_name(file.name.replace(".nii.gz", ".tsv")).write_text("\n".join(lines) + "\n")
    return file


def halves(person: Subject, file: Path) -> Path:
    x = np.indices(person.mask.shape)[0]
    return save(file, np.where(x < x.max() / 2, 1, 2), person.affine, {1: "Half A", 2: "Half B"})


def read(file: Path) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_an_atlas_of_two_halves_gives_two_rows(asl: Path, person: Subject, tmp_path: Path) -> None:
    atlas = halves(person, tmp_path / "atlas-Halves_dseg.nii.gz")
    out = tmp_path / "out"
    assert main(["fit", str(asl), "--out", str(out), "--atlas", str(atlas)]) == 0
    perf = out / "sub-01" / "perf"
    found = read(perf / "sub-01_atlas-Halves_cbf.tsv")
    assert [row["name"] for row in found] == ["Half A", "Half B"]
    cbf = nib.load(perf / "sub-01_cbf.nii.gz").get_fdata()
    inside = person.mask & (np.asarray(nib.load(atlas).dataobj) == 1)
    assert float(found[0]["mean"]) == pytest.approx(cbf[inside].mean(), rel=1e-4)
    assert float(found[0]["median"]) == pytest.approx(np.median(cbf[inside]), rel=1e-4)
    assert int(found[0]["voxels"]) == inside.sum()
    assert float(found[0]["coverage"]) == pytest.approx(
        inside.sum() / (np.asarray(nib.load(atlas).dataobj) == 1).sum(), rel=1e-3
    )
    sd = nib.load(perf / "sub-01_desc-sd_cbf.nii.gz").get_fdata()[inside]
    # of a mean over hundreds of voxels whose errors go together: below a voxel's, above that of independent ones
    assert sd.mean() / np.sqrt(inside.sum()) < float(found[0]["sd_of_mean"]) < sd.mean()
    assert 0 <= float(found[0]["flagged"]) <= 1
    assert 0 <= float(found[0]["prior_dominated"]) <= float(found[0]["flagged"])
    about = json.loads((perf / "sub-01_atlas-Halves_att.json").read_text())
    assert about["mean"]["Units"] == "s"
    assert json.loads((perf / "sub-01_cbf.json").read_text())["Settings"]["tissue"] == "apart"
    assert len(read(perf / "sub-01_atlas-tissue_cbf.tsv")) >= 3
    # a run without the atlas takes its tables away, and an estimator without draws says so
    assert main(["fit", str(asl), "--out", str(out), "--estimator", "nlls"]) == 0
    assert not list(perf.glob("*atlas-Halves*"))
    assert read(perf / "sub-01_atlas-tissue_cbf.tsv")[0]["sd_of_mean"] == "n/a"
    assert (
        "only estimator field" in json.loads((perf / "sub-01_atlas-tissue_cbf.json").read_text())["sd_of_mean"]["Note"]
    )


def test_hemispheres_are_the_person_s_own(person: Subject) -> None:
    regions = {region.name: region.voxels for region in tissue_parcellation(person).regions}
    left, right = regions["left hemisphere"], regions["right hemisphere"]
    x = {
        name: (np.argwhere(region) @ person.affine[:3, :3].T + person.affine[:3, 3])[:, 0]
        for name, region in regions.items()
    }
    assert x["left hemisphere"].max() < x["right hemisphere"].min()  # RAS: x grows to the right
    assert abs(int(left.sum()) - int(right.sum())) < 0.1 * person.mask.sum()
    assert {"brain", "GM", "WM", "GM left"} <= set(regions)


def test_an_mni_atlas_comes_by_registration_or_by_the_transform_given(person: Subject, tmp_path: Path) -> None:
    """The phantom stands in MNI space: there the atlas is known to belong."""
    pytest.importorskip("SimpleITK")
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = [-96, -130, -76]
    index = np.moveaxis(np.indices((49, 58, 49)), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    labels = 1 + (index[..., 0] > 0) + 2 * (index[..., 1] > -20)
    file = save(tmp_path / f"tpl-{MNI}_atlas-Quarters_dseg.nii.gz", labels, affine)
    world = np.argwhere(person.mask) @ person.affine[:3, :3].T + person.affine[:3, 3]
    truth = 1 + (world[:, 0] > 0) + 2 * (world[:, 1] > -20)
    (registered,) = read_atlases([file], person)
    assert np.mean(registered.labels[person.mask] == truth) > 0.85
    identity = tmp_path / f"sub-01_from-{MNI}_to-T1w_mode-image_xfm.txt"
    identity.write_text(
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        "Parameters: 1 0 0 0 1 0 0 0 1 0 0 0\nFixedParameters: 0 0 0\n"
    )
    (given,) = read_atlases([file], person, identity)
    assert np.mean(given.labels[person.mask] == truth) > 0.97  # the nearest of 4 mm
    shifted = tmp_path / f"sub-01_from-T1w_to-{MNI}_mode-image_xfm.txt"
    shifted.write_text(identity.read_text().replace("1 0 0 0\n", "1 10 0 0\n"))
    # ITK's x grows to the left, and the file is of the other direction
    np.testing.assert_allclose(transformed(shifted, np.zeros((1, 3))), [[10.0, 0, 0]], atol=1e-6)
    sizes = [given.expected[label] for label in given.names]
    voxel = abs(np.linalg.det(person.affine[:3, :3])) / 64.0
    np.testing.assert_allclose(sizes, [np.sum(labels == k) / voxel for k in given.names], rtol=0.01)


def test_wrong_atlases_are_refused(person: Subject, asl: Path, tmp_path: Path) -> None:
    first = halves(person, tmp_path / "atlas-Halves_dseg.nii.gz")
    (tmp_path / "b").mkdir()
    again = halves(person, tmp_path / "b" / "seg-Halves_dseg.nii.gz")
    assert atlas_name(first) == atlas_name(again) == "Halves"
    with pytest.raises(InputError, match="a second atlas called Halves"):
        read_atlases([first, again], person)
    probabilities = tmp_path / "atlas-P_probseg.nii.gz"
    nib.save(nib.Nifti1Image(np.full(person.mask.shape, 0.4, np.float32), person.affine), probabilities)
    with pytest.raises(InputError, match="no labels"):
        read_atlases([probabilities], person)
    other = save(tmp_path / "space-fsaverage_atlas-F_dseg.nii.gz", np.ones((4, 4, 4)), np.eye(4))
    with pytest.raises(InputError, match="space fsaverage"):
        read_atlases([other], person)
    away = np.diag([2.0, 2.0, 2.0, 1.0])
    away[:3, 3] = 500
    with pytest.raises(InputError, match="0 of its 1 regions"):
        read_atlases([save(tmp_path / "atlas-Away_dseg.nii.gz", np.ones((4, 4, 4)), away)], person)
    unnamed = save(tmp_path / "atlas-U_dseg.nii.gz", np.full(person.mask.shape, 3), person.affine, {1: "one"})
    with pytest.raises(InputError, match="no row for label 3"):
        read_atlases([unnamed], person)
    assert main(["fit", str(asl), "--out", str(tmp_path / "o"), "--transform", str(first)]) == 2


@pytest.mark.slow
def test_the_interval_of_a_region_s_mean_holds_the_truth() -> None:
    """95 % intervals of the means of blocks of the brain, over noise draws: 88 to 99 % hold the truth."""
    held = []
    for seed in range(6):
        made = simulate("te11", voxel_size=(8.0, 8.0, 8.0), tsnr=1.5, seed=seed)
        estimate = fit(made.series, made.mask, made.acquisition, voxel_size=(8.0, 8.0, 8.0), guide=made.m0, seed=seed)
        blocks = np.indices(made.mask.shape) // 6
        labels = np.where(made.mask, 1 + blocks[0] + 10 * blocks[1] + 100 * blocks[2], 0)
        for label in np.unique(labels[labels > 0]):
            region = labels == label
            if region.sum() < 30:
                continue
            sd = sd_of_mean(estimate, made.mask, region)
            errors = [
                float(getattr(estimate, n)[region].mean() - getattr(made, n)[region].mean()) for n in ("cbf", "att")
            ]
            held.append([abs(e) < 1.96 * s for e, s in zip(errors, sd, strict=True)])
    share = np.mean(held, axis=0)
    assert len(held) > 60
    assert np.all((share > 0.8) & (share <= 1.0))

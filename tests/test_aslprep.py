"""ASLPrep's preprocessed series as input, in a data set laid out as its documentation says (docs/outputs.rst)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from aslpinn import InputError, load_subject, simulate
from aslpinn.cli import main
from aslpinn.data import write_phantom
from aslpinn_book.study.notebooks import find_series


@pytest.fixture
def aslprep(tmp_path: Path) -> Path:
    """Raw data, and in its derivatives the level `full` of ASLPrep: series, mask and reference, no table of volumes."""
    made = simulate("te7", voxel_size=(9.0, 9.0, 10.0), tsnr=4.0)
    raw = write_phantom(made, tmp_path / "raw")[0]
    root = tmp_path / "raw" / "derivatives" / "aslprep"
    perf = root / "sub-01" / "perf"
    perf.mkdir(parents=True)
    (root / "dataset_description.json").write_text(
        json.dumps(
            {
                "Name": "ASLPrep outputs",
                "BIDSVersion": "1.9.0",
                "DatasetType": "derivative",
                "GeneratedBy": [{"Name": "ASLPrep"}],
            }
        )
    )
    image = nib.load(raw)
    for name in ("sub-01_desc-preproc_asl", "sub-01_space-T1w_desc-preproc_asl"):
        shutil.copy(raw, perf / f"{name}.nii.gz")
        shutil.copy(raw.with_name("sub-01_asl.json"), perf / f"{name}.json")
    smaller = made.mask & (np.indices(made.mask.shape)[0] > 3)
    nib.save(nib.Nifti1Image(smaller.astype(np.uint8), image.affine), perf / "sub-01_desc-brain_mask.nii.gz")
    for ending in (".nii.gz", ".json"):
        if (source := raw.with_name(f"sub-01_m0scan{ending}")).is_file():
            shutil.copy(source, perf / f"sub-01_desc-preproc_m0scan{ending}")
    (perf / "sub-01_desc-qualitycontrol_cbf.tsv").write_text("fd\n0.1\n")
    return perf / "sub-01_desc-preproc_asl.nii.gz"


def test_its_series_is_read_with_its_mask_and_the_raw_table_of_volumes(aslprep: Path, tmp_path: Path) -> None:
    person = load_subject(aslprep)
    mask = np.asarray(nib.load(aslprep.with_name("sub-01_desc-brain_mask.nii.gz")).dataobj) > 0
    np.testing.assert_array_equal(person.mask, mask)
    assert person.name == "sub-01"
    assert person.folder == "sub-01"
    out = tmp_path / "out"
    assert main(["fit", str(aslprep), "--out", str(out), "--estimator", "nlls", "--motion", "off"]) == 0
    perf = out / "sub-01" / "perf"
    assert (perf / "sub-01_cbf.nii.gz").is_file()
    about = json.loads((perf / "sub-01_cbf.json").read_text())
    assert any(source.endswith("sub-01_desc-preproc_asl.nii.gz") for source in about["Sources"])
    assert any(source.endswith("sub-01_aslcontext.tsv") for source in about["Sources"])


def test_a_study_of_its_folder_takes_the_series_of_the_scan_s_own_grid(aslprep: Path) -> None:
    assert find_series(aslprep.parents[2]) == [aslprep]


def test_without_the_raw_data_the_table_of_volumes_is_asked_for(aslprep: Path, tmp_path: Path) -> None:
    shutil.copytree(aslprep.parents[2], tmp_path / "alone")
    series = tmp_path / "alone" / "sub-01" / "perf" / aslprep.name
    with pytest.raises(InputError, match=r"desc-preproc_aslcontext.tsv: not found"):
        load_subject(series)
    raw = aslprep.parents[4] / "sub-01" / "perf" / "sub-01_aslcontext.tsv"
    shutil.copy(raw, series.with_name("sub-01_desc-preproc_aslcontext.tsv"))
    assert load_subject(series).series.shape[3] > 1

"""The BIDS validator finds no error in what is written: data sets, maps by every option, a study, decoded series."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from one_delay import one_delay

from aslpinn import load_subject, simulate
from aslpinn.cli import main
from aslpinn.data import write_phantom
from aslpinn.data.atlases import MNI
from aslpinn_book import bids_app

COARSE = (10.0, 10.0, 10.0)
IDENTITY = (
    "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
    "Parameters: 1 0 0 0 1 0 0 0 1 0 0 0\nFixedParameters: 0 0 0\n"
)


def errors(folder: Path) -> list[dict[str, Any]]:
    """Errors that the validator finds in a data set."""
    beside = Path(sys.executable).with_name("bids-validator-deno")
    program = str(beside) if beside.is_file() else shutil.which("bids-validator-deno")
    if program is None:
        pytest.skip("bids-validator-deno is not installed (extra test)")
    done = subprocess.run([program, str(folder), "--format", "json"], capture_output=True, text=True, timeout=120)
    found = json.loads(done.stdout)
    assert found["summary"]["totalFiles"] >= 1, "it has looked at what .bidsignore leaves"
    return [issue for issue in found["issues"]["issues"] if issue.get("severity") == "error"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects, and for the second a series of one delay."""
    root = tmp_path_factory.mktemp("validator") / "raw"
    write_phantom(simulate("te7", tsnr=3.0, voxel_size=COARSE, slice_time=0.04), root)
    series = write_phantom(simulate("mpld6", tsnr=3.0, voxel_size=COARSE, volunteer=1), root.parent / "mpld")[0]
    single = one_delay(series, root.parent / "one").parent
    (root / "sub-02" / "perf").mkdir(parents=True)
    for file in single.iterdir():
        shutil.copy(file, root / "sub-02" / "perf" / file.name.replace("sub-01", "sub-02"))
    people = root / "participants.tsv"
    columns = people.read_text().split("\n")[0].split("\t")
    people.write_text(people.read_text() + "\t".join(["sub-02", *("n/a" for _ in columns[1:])]) + "\n")
    return root


def test_a_validator_that_finds_nothing_can_find_something(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "spoiled")
    file = tmp_path / "spoiled" / "sub-01" / "perf" / "sub-01_asl.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"PostLabelingDelay": "soon"}))
    assert any(issue["location"].endswith("sub-01_asl.json") for issue in errors(tmp_path / "spoiled"))
    assert errors(raw) == []


def test_simulated_data_sets_of_several_protocols_pass(tmp_path: Path) -> None:
    write_phantom(simulate("te7", voxel_size=COARSE, lesion=True), tmp_path, "01")
    write_phantom(simulate("mpld6", voxel_size=COARSE, repeats=2), tmp_path, "02", pairs=True)
    for root in (tmp_path, tmp_path / "derivatives" / "truth"):
        assert errors(root) == []


@pytest.mark.parametrize(
    ("subject", "options"),
    [
        ("01", []),
        ("02", []),
        ("01", ["--pvc", "field", "--atlas", "ATLAS", "--transform", "WARP", "--hematocrit", "0.3"]),
        ("01", ["--pvc", "linear", "--estimator", "nlls"]),
    ],
    ids=["default", "one delay", "field, atlas and template", "linear"],
)
def test_maps_pass(raw: Path, tmp_path: Path, subject: str, options: list[str]) -> None:
    asl = raw / f"sub-{subject}" / "perf" / f"sub-{subject}_asl.nii.gz"
    person = load_subject(asl)
    halves = np.where(np.indices(person.mask.shape)[0] < person.mask.shape[0] / 2, 1, 2).astype(np.int16)
    files = {
        "ATLAS": tmp_path / "atlas-Halves_dseg.nii.gz",
        "WARP": tmp_path / f"sub-01_from-{MNI}_to-T1w_mode-image_xfm.txt",
    }
    nib.save(nib.Nifti1Image(halves, person.affine), files["ATLAS"])
    files["WARP"].write_text(IDENTITY)
    out = tmp_path / "out"
    assert main(["fit", str(asl), "--out", str(out), *(str(files.get(word, word)) for word in options)]) == 0
    written = {file.name for file in (out / f"sub-{subject}" / "perf").iterdir()}
    assert ("sub-02_att.nii.gz" in written) is False
    if options[:2] == ["--pvc", "field"]:
        assert {f"sub-01_space-{MNI}_cbf.nii.gz", "sub-01_label-GM_desc-pvc_cbf.nii.gz"} <= written
        assert "sub-01_atlas-Halves_cbf.tsv" in written
    assert errors(out) == []


@pytest.mark.slow
def test_a_study_by_the_bids_app_passes(raw: Path, tmp_path: Path) -> None:
    common = [str(raw), str(tmp_path / "out")]
    options = ["--estimator", "nlls", "--n-cpus", "2", "--fast"]
    for level in ("participant", "group"):
        assert bids_app.main([*common, level, *options]) == 0
    made = tmp_path / "out" / "derivatives" / "aslpinn"
    assert {folder.name for folder in made.glob("sub-*")} == {"sub-01", "sub-02"}
    assert errors(made) == []


@pytest.mark.slow
@pytest.mark.parametrize("form", ["deltam", "encoded", "pairs"])
def test_data_sets_and_what_is_made_of_each_form_pass(tmp_path: Path, form: str) -> None:
    phantom = simulate("te7", tsnr=3.0, seed=1, voxel_size=(6.0, 6.0, 7.0), lesion=True)
    raw = tmp_path / "raw"
    asl = write_phantom(phantom, raw, encoded=form == "encoded", pairs=form == "pairs")[0]
    out = tmp_path / "derivatives"
    motion = [] if form == "deltam" else ["--motion", "on"]
    assert main(["fit", str(asl), "--out", str(out), "--estimator", "smoothed", *motion]) == 0
    perf = out / "sub-01" / "perf"
    assert json.loads((perf / "sub-01_desc-qc_quality.json").read_text())["Measures"]["qei"] > 0.5
    assert (perf / "sub-01_desc-motion_timeseries.svg").is_file() == bool(motion)
    assert errors(raw) == []
    assert errors(raw / "derivatives" / "truth") == []
    assert errors(out) == []
    if form == "encoded":
        assert main(["decode", str(asl), "--out", str(tmp_path / "decoded"), *motion]) == 0
        assert errors(tmp_path / "decoded") == []

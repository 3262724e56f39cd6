"""The command line: exit codes, what is printed where, nothing written on failure."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import aslpinn
from aslpinn.cli import main
from aslpinn.errors import FitError


@pytest.fixture
def asl(tmp_path: Path) -> Path:
    """A small decoded series of a ball with uniform perfusion, 60 ml/100g/min and 1.1 s, written as BIDS."""
    acquisition = aslpinn.Acquisition([1.8] * 5, [0.4, 0.8, 1.2, 1.6, 2.0])
    perf = tmp_path / "raw" / "sub-07" / "perf"
    perf.mkdir(parents=True)
    grid = np.indices((10, 10, 6)).reshape(3, -1).T - np.array([4.5, 4.5, 2.5])
    brain = ((grid / np.array([4.5, 4.5, 2.8])) ** 2).sum(axis=1).reshape(10, 10, 6) < 1
    from aslpinn.physics import delta_m

    signal_ = delta_m(60.0, 1.1, acquisition.post_labeling_delay, acquisition.labeling_duration)
    series = np.where(brain[..., None], signal_ * 1000 / 0.9, 0)
    affine = np.diag([3.0, 3.0, 5.0, 1.0])
    nib.save(nib.Nifti1Image(series.astype(np.float32), affine), perf / "sub-07_asl.nii.gz")
    nib.save(nib.Nifti1Image(np.where(brain, 1000, 0).astype(np.float32), affine), perf / "sub-07_m0scan.nii.gz")
    (perf / "sub-07_aslcontext.tsv").write_text("volume_type\n" + "deltam\n" * 5)
    sidecar = {
        "ArterialSpinLabelingType": "PCASL",
        "MRAcquisitionType": "3D",
        "LabelingDuration": 1.8,
        "PostLabelingDelay": acquisition.post_labeling_delay.tolist(),
        "M0Type": "Separate",
        "BackgroundSuppression": False,
    }
    (perf / "sub-07_asl.json").write_text(json.dumps(sidecar))
    (tmp_path / "raw" / "dataset_description.json").write_text('{"Name": "t", "BIDSVersion": "1.10.0"}')
    return perf / "sub-07_asl.nii.gz"


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.strip().splitlines()


def test_fit_recovers_what_was_put_in_and_says_where_the_maps_are(
    asl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["fit", str(asl), "--out", str(out), "--estimator", "nlls"]) == 0
    printed = capsys.readouterr()
    assert str(out / "sub-07" / "perf") in printed.out
    assert "100 %" in printed.err
    perf = out / "sub-07" / "perf"
    cbf, att = (nib.load(perf / f"sub-07_{name}.nii.gz").get_fdata() for name in ("cbf", "att"))
    inside = nib.load(asl.with_name("sub-07_m0scan.nii.gz")).get_fdata() > 0
    np.testing.assert_allclose(cbf[inside], 60, rtol=0.01)
    np.testing.assert_allclose(att[inside], 1.1, atol=0.01)
    fitted = nib.load(perf / "sub-07_desc-fit_deltam.nii.gz").get_fdata()
    measured = nib.load(asl).get_fdata()
    np.testing.assert_allclose(fitted[inside], measured[inside], rtol=0.01)  # in the input's units


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            ["--estimator", "nlls", "--epochs", "3"],
            "estimator 'nlls' does not use epochs (pinn would); it takes seed, att_penalty, grid_step",
        ),
        (["--estimator", "nlls", "--members", "3"], "estimator 'nlls' does not use members (field, pinn would)"),
        (["--estimator", "vb", "--device", "cuda"], "estimator 'vb' does not use device (pinn would)"),
        (["--estimator", "svb", "--arterial", "on"], "estimator 'svb' does not use arterial (field, pinn would)"),
        (
            ["--objective", "increments"],
            "estimator 'field' does not use objective (pinn would); it takes seed, members",
        ),
        (["--estimator", "pinn", "--engine", "steam"], "engine is 'steam'; expected one of auto, torch, fused"),
        (["--preset", "paper"], "estimator 'field' has no presets; expected estimator pinn"),
        (["--preset", "network"], "now preset 'default' of estimator 'pinn'"),
        (["--estimator", "closed-form"], "now estimator 'pinn' with objective closed-form and members 1"),
        (["--estimator", "pinn", "--vb-start", "grid"], "estimator 'pinn' does not use vb_start (vb, svb would)"),
    ],
)
def test_what_an_estimator_does_not_use_is_refused(
    asl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], told: str
) -> None:
    out = tmp_path / "out"
    assert main(["fit", str(asl), "--out", str(out), *given]) == 2
    assert told in capsys.readouterr().err
    assert not out.exists()


def test_pinn_without_more_says_that_the_former_default_is_field(
    asl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", str(asl), "--out", str(tmp_path / "out"), "--estimator", "pinn", "--members", "1"]
    assert main([*command, "--mask", "absent.nii.gz"]) == 2
    assert "is now the estimator field" in capsys.readouterr().err
    assert main([*command, "--epochs", "1"]) == 0
    assert "is now the estimator field" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit"],
        ["fit", "{asl}"],
        ["nothing"],
        ["fit", "{asl}", "--out", "{out}", "--estimator", "nope"],
        ["fit", "{asl}", "--out", "{out}", "--members", "0"],
        ["fit", "{asl}", "--out", "{out}", "--epochs", "many"],
        ["fit", "{asl}", "--out", "{out}", "--seed", "-1"],
        ["fit", "{asl}", "--out", "{out}", "--mask", "absent.nii.gz"],
        ["fit", "{asl}", "--out", "{out}", "--constant", "t1_blood"],
        ["fit", "{asl}", "--out", "{out}", "--constant", "t1_blood=1650"],
        ["fit", "{asl}", "--out", "{out}", "--constant", "t1_bloody=1.6"],
        ["fit", "{asl}x", "--out", "{out}"],
        ["check", "{asl}x"],
        ["simulate", "{out}", "--protocol", "te99"],
        ["simulate", "{out}", "--tsnr", "-1"],
        ["simulate", "{out}", "--subjects", "0"],
    ],
)
def test_wrong_arguments_end_with_2_one_or_two_lines_and_nothing_written(
    arguments: list[str], asl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([a.format(asl=asl, out=out) for a in arguments]) == 2
    said = lines(capsys)
    assert 1 <= len(said) <= 2
    assert said[0].startswith("aslpinn")
    assert "Traceback" not in "".join(said)
    assert not out.exists()


def test_broken_input_ends_with_2_and_debug_shows_the_traceback(
    asl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asl.with_name("sub-07_aslcontext.tsv").write_text("volume_type\ndeltam\n")
    command = ["fit", str(asl), "--out", str(tmp_path / "out"), "--estimator", "nlls"]
    assert main(command) == 2
    said = lines(capsys)
    assert len(said) == 1
    assert "has 1 rows; expected 5" in said[0]
    assert main([*command, "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_a_folder_is_refused_before_the_fit(
    asl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("aslpinn.estimation.fit", lambda *a, **k: pytest.fail("fitted before OUT was looked at"))
    (tmp_path / "file").write_text("")
    assert main(["fit", str(asl), "--out", str(tmp_path / "file" / "out")]) == 2
    assert main(["fit", str(asl), "--out", str(tmp_path / "raw")]) == 2  # the raw data set itself
    assert lines(capsys)[-1].startswith(f"aslpinn: {tmp_path / 'raw'}: is the raw data set")
    assert (tmp_path / "file").read_text() == ""


def test_an_output_that_may_not_be_looked_at_is_refused(
    asl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exists = Path.exists

    def closed(path: Path, **options: bool) -> bool:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path, **options)

    monkeypatch.setattr(Path, "exists", closed)
    assert main(["fit", str(asl), "--out", str(tmp_path / "closed" / "out"), "--estimator", "nlls"]) == 2
    assert lines(capsys)[-1].endswith(
        "cannot be written to (Permission denied); expected a writable folder for the output"
    )
    assert not exists(tmp_path / "closed")


@pytest.mark.parametrize(
    "command",
    [["simulate", "{file}", "--protocol", "te7"], ["benchmark", "--quick", "--out", "{file}"]],
)
def test_an_output_that_is_a_file_is_refused_before_the_work(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("aslpinn.estimation.fit", lambda *a, **k: pytest.fail("fitted before OUT was looked at"))
    file = tmp_path / "file"
    file.write_text("mine")
    assert main([word.format(file=file) for word in command]) == 2
    assert lines(capsys) == [
        f"aslpinn: {file}: cannot be written to (File exists); expected a writable folder for the output"
    ]
    assert file.read_text() == "mine"


def test_a_module_of_an_extra_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert main(["fetch", "asltk-tepcasl", "--to", str(tmp_path)]) == 2
    assert lines(capsys) == [
        "aslpinn: pooch is not installed; expected it for this command: pip install 'aslpinn[data]'"
    ]


@pytest.mark.parametrize(
    ("error", "code"), [(FitError("loss is not finite"), 1), (RuntimeError("bug"), 1), (KeyboardInterrupt(), 130)]
)
def test_a_failed_fit_writes_nothing(
    asl: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr("aslpinn.estimation.fit", fail)
    assert main(["fit", str(asl), "--out", str(tmp_path / "out")]) == code
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_sigterm_ends_a_run_without_half_written_files(asl: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time, aslpinn.estimation as e\n"
        "def slow(*a, **k):\n    print('fitting', flush=True)\n    time.sleep(60)\n"
        "e.fit = slow\nfrom aslpinn.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "fit", str(asl), "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline().strip() == "fitting"
        time.sleep(0.1)
        os.kill(run.pid, signal.SIGTERM)
        _, said = run.communicate(timeout=30)
    assert run.returncode == 130
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_check_prints_a_table_or_json_and_writes_nothing(
    asl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert main(["check", str(asl)]) == 0
    assert "5 deltam volumes" in capsys.readouterr().out
    assert main(["check", str(asl), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["post_labeling_delay"] for entry in found["delays"]] == [0.4, 0.8, 1.2, 1.6, 2.0]
    assert len(found["slices"]) == 6
    assert sorted(tmp_path.rglob("*")) == before


#: Options of 0.1.0. One that goes is taken out here, and named in CHANGELOG.md.
OPTIONS = {
    "fit": "arterial calibration constant debug device dispersion engine epochs estimator force mask members "
    "motion out outliers preset seed smooth-m0 tissue vb-start",
    "check": "calibration constant debug force json mask motion outliers smooth-m0 tissue",
    "decode": "debug force mask motion out",
    "simulate": "debug encoded lesion protocol seed subjects tsnr",
    "benchmark": "debug estimator out phantom quick seeds tsnr",
    "fetch": "base-url debug to",
    "study": "bids collect debug estimator fast force init jobs list no-book only out "
    "participant plan preset seed session virtual volunteers",
}


@pytest.mark.parametrize("command", OPTIONS)
def test_options_of_the_version_before_are_still_there(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = set(re.findall(r"--[a-z0-9-]+", capsys.readouterr().out))
    assert set(OPTIONS[command].split()) <= {option.removeprefix("--") for option in shown}


def test_help_and_version_load_nothing_heavy() -> None:
    code = (
        "import sys\nfrom aslpinn.cli import main\nassert main(sys.argv[1:]) == 0\n"
        "print(sorted({'torch', 'numba', 'nilearn', 'matplotlib', 'nibabel', 'scipy', 'pandas'} & set(sys.modules)))"
    )
    for option in ("--help", "--version"):
        done = subprocess.run([sys.executable, "-c", code, option], capture_output=True, text=True, check=True)
        assert done.stdout.strip().splitlines()[-1] == "[]"
        assert "fit" in done.stdout or aslpinn.__version__ in done.stdout


def test_simulate_writes_subjects_that_fit_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "virtual"
    assert main(["simulate", str(out), "--subjects", "2", "--protocol", "te7", "--seed", "3"]) == 0
    series = [Path(line) for line in capsys.readouterr().out.split()]
    assert [file.name for file in series] == ["sub-01_asl.nii.gz", "sub-02_asl.nii.gz"]
    first, second = (nib.load(file).get_fdata() for file in series)
    assert not np.array_equal(first, second)
    assert main(["check", str(series[0])]) == 0
    assert "1.8 0.8 0.4 0.15 0.15 0.1 0.1" in capsys.readouterr().out


@pytest.mark.slow
def test_a_real_brain_gives_plausible_maps(shared: Path, tmp_path: Path) -> None:
    asl = shared / "data" / "oxford-mpld" / "sub-01" / "perf" / "sub-01_asl.nii.gz"
    assert main(["fit", str(asl), "--out", str(tmp_path), "--estimator", "nlls"]) == 0
    cbf, att = (nib.load(tmp_path / "sub-01" / "perf" / f"sub-01_{name}.nii.gz").get_fdata() for name in ("cbf", "att"))
    inside = att > 0
    assert 25 < np.median(cbf[inside]) < 65
    upper = cbf[inside][cbf[inside] > np.percentile(cbf[inside], 100 * 2 / 3)]
    assert 45 < np.median(upper) < 110
    assert 0.6 < np.median(att[inside]) < 1.5


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "aslpinn", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"aslpinn {aslpinn.__version__}\n")

"""A study in parts: what the cluster's files call, what they ask for, and what a larger study would need."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from templates import dataset as named
from templates import program

from aslpinn.cli import main
from aslpinn.errors import InputError
from aslpinn_book.study.needs import measured, plan_table, read_record
from aslpinn_book.study.pool import cores

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = ROOT / "workflow"


def find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))


@pytest.fixture
def dataset(tmp_path) -> Path:
    """A data set of which only the names are looked at."""
    named(tmp_path / "data", **{"01": "x", "02": "x", "03": "x"})
    (tmp_path / "STUDY.toml").write_text('bids = ["data"]\n')
    return tmp_path


@pytest.fixture
def command(tmp_path) -> Path:
    """The program aslpinn, as a file that shell scripts can call."""
    return program(tmp_path)


def fake_study(out: Path, seconds: list[float]) -> None:
    states = {}
    for number, value in enumerate(seconds):
        key = f"sub-{number:02d}"
        folder = out / "subjects" / key
        folder.mkdir(parents=True)
        (folder / "report.ipynb").write_bytes(b"0" * 1000)
        maps = out / "derivatives" / "aslpinn" / key / "perf"
        maps.mkdir(parents=True)
        (maps / f"{key}_cbf.nii.gz").write_bytes(b"0" * 3000)
        states[key] = {"state": "done", "seconds": value, "threads": 2, "cpu_seconds": 50.0, "peak_memory_mb": 700.0}
    states["sub-99"] = {"state": "failed", "seconds": 1000.0, "peak_memory_mb": None}
    (out / "study.json").write_text(json.dumps({"subjects": states}))


def test_needs_are_those_of_the_fitted_subjects(tmp_path):
    fake_study(tmp_path, [30.0, 36.0, 90.0])
    per = measured(tmp_path, read_record(tmp_path))
    assert per["subjects"] == 3
    assert per["core_seconds"] == 72.0
    assert per["kept_bytes"] == 4000
    assert per["kept_files"] == 2
    table = plan_table(tmp_path, 1000, cores=100)
    assert "20.0 core-hours; 12 min on 100 cores" in table
    assert "of which the processor worked 50 s" in table
    assert "700 MB at most: ask for 1500 MB" in table
    assert "0.00 GB in 2000 files" in table


def test_a_folder_without_a_study_cannot_be_planned_from(tmp_path, capsys):
    with pytest.raises(InputError, match="a study that has run"):
        read_record(tmp_path)
    assert main(["study", "--plan", "10", "--out", str(tmp_path)]) == 2
    assert "study.json" in capsys.readouterr().err


def test_under_slurm_the_cores_are_those_that_were_asked_for(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert cores() == 3
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "")
    assert cores() >= 1


def test_the_profile_names_slurm_and_keeps_going():
    profile = yaml.safe_load((WORKFLOW / "profiles" / "slurm" / "config.yaml").read_text())
    assert profile["executor"] == "slurm"
    assert profile["keep-going"] is True
    snakefile = (WORKFLOW / "Snakefile").read_text()
    assert "retries: TRIES - 1" in snakefile
    assert snakefile.count("mem_mb=") == 3


@pytest.mark.slow
def test_snakemake_plans_one_job_a_subject_one_for_the_group_one_for_the_book(dataset, command):
    snakemake = os.environ.get("SNAKEMAKE") or find("snakemake")
    if snakemake is None:
        pytest.skip('snakemake is not installed: pip install "aslpinn[cluster]"')
    settings = [f"study={dataset / 'STUDY.toml'}", f"out={dataset / 'out'}", f"aslpinn={command}"]
    arguments = [
        snakemake,
        "--snakefile",
        str(WORKFLOW / "Snakefile"),
        "--config",
        *settings,
        "--dry-run",
        "--directory",
        str(dataset),
        "--cores",
        "2",
    ]
    run = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    told = run.stdout + run.stderr
    assert run.returncode == 0, told
    for rule, count in {"subject": 3, "group": 1, "book": 1, "total": 5}.items():
        assert f"{rule} {count}" in " ".join(told.split())
    assert not (dataset / "out" / "subjects").exists()

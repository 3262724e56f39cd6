"""The BIDS-App command line, and a wheel that works without a checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from aslpinn import InputError
from aslpinn_book.bids_app import main, study_arguments
from aslpinn_book.study import notebooks
from aslpinn_book.study.notebooks import find_project

ROOT = Path(__file__).resolve().parents[1]


def test_the_levels_and_labels_become_those_of_a_study() -> None:
    words = study_arguments(["raw", "out", "participant", "--participant-label", "01", "sub-02", "--n-cpus", "3"])
    assert words[:5] == ["study", "--bids", "raw", "--out", "out"]
    assert words[words.index("--participant") + 1] == "01"
    assert words.count("--participant") == 2
    assert "--subjects-only" in words
    assert "--collect" not in words
    assert "--collect" in study_arguments(["raw", "out", "group", "--estimator", "nlls"])


def test_wrong_arguments_end_with_two(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["raw", "out", "everyone"]) == 2
    assert "participant" in capsys.readouterr().err
    assert main([str(tmp_path / "none"), str(tmp_path / "out"), "participant"]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_installed_package_has_the_notebooks_of_subjects_and_group_but_no_book(tmp_path: Path, monkeypatch) -> None:
    installed = tmp_path / "site" / "aslpinn_book" / "notebooks"
    installed.mkdir(parents=True)
    for name in ("subject.md", "group.md"):
        shutil.copy(ROOT / "src" / "aslpinn_book" / "notebooks" / name, installed / name)
    monkeypatch.setattr(notebooks, "SOURCES", tmp_path / "site")
    monkeypatch.chdir(tmp_path)
    assert find_project(book=False) == tmp_path / "site" / "aslpinn_book"
    with pytest.raises(InputError, match="--no-book"):
        find_project()


@pytest.mark.slow
def test_the_wheel_holds_what_a_study_without_book_needs(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("build", ".git", ".venv", "*.egg-info", "__pycache__")
    for name in ("src", "notebooks"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", str(source), "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*command, "-w", str(tmp_path)], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        held = set(opened.namelist())
        for name in ("subject.md", "group.md"):
            assert opened.read(f"aslpinn_book/notebooks/{name}") == (ROOT / "notebooks" / name).read_bytes()
        entry = next(name for name in held if name.endswith("entry_points.txt"))
        assert "aslpinn-bids" in opened.read(entry).decode()
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(site)
    code = "import aslpinn_book.study.notebooks as n; print(n.find_project(book=False))"
    told = {"cwd": tmp_path, "env": {"PYTHONPATH": str(site)}, "capture_output": True, "text": True, "check": True}
    done = subprocess.run([sys.executable, "-c", code], **told)
    assert done.stdout.strip() == str(site / "aslpinn_book")

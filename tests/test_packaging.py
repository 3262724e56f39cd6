"""The environments agree with each other, and the package with what it says of itself."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from aslpinn import __version__

ROOT = Path(__file__).resolve().parents[1]
CONDA_NAMES = {"pytorch": "torch"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().split()
    pairs = [line.split("==") for line in lines]
    assert all(len(pair) == 2 for pair in pairs), "every line of requirements.lock pins one version"
    return {normal(name): version for name, version in pairs}


def required() -> dict[str, str]:
    """Direct requirements of pyproject.toml, extras but cluster (it is not locked) included: name -> specifier."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for name, extra in extras.items() if name != "cluster" for line in extra)]
    found = {}
    for line in lines:
        match = re.match(r"[A-Za-z0-9._-]+", line)
        assert match
        found[normal(match[0])] = line[match.end() :]
    return found


def conda(name: str) -> dict[str, str]:
    """Packages of an environment file with an exact version, conda's and pip's, under their PyPI names."""
    found = {}
    for item in yaml.safe_load((ROOT / name).read_text())["dependencies"]:
        for line in item["pip"] if isinstance(item, dict) else [item]:
            match = re.fullmatch(r"([A-Za-z0-9._-]+?)={1,2}([0-9][^=]*)(=.*)?", line)
            if match and match[1] != "python":
                found[normal(CONDA_NAMES.get(match[1], match[1]))] = match[2]
    return found


def as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split(".post")[0]))


@pytest.mark.parametrize("name", ["environment.yml", "environment-gpu.yml"])
def test_conda_environments_hold_the_versions_of_the_lock(name):
    lock, environment = locked(), conda(name)
    assert set(environment) == set(required()), "an environment lists the direct requirements, no more and no less"
    assert environment == {package: lock[package] for package in environment}


def test_the_lock_satisfies_pyproject():
    lock = locked()
    for name, specifiers in required().items():
        for operator, bound in re.findall(r"(>=|<|==)([0-9][^,]*)", specifiers):
            have, want = as_numbers(lock[name]), as_numbers(bound)
            assert {">=": have >= want, "<": have < want, "==": have == want}[operator], f"{name} {specifiers}"


def test_torch_is_pinned_without_a_build_suffix():
    assert re.fullmatch(r"\d+\.\d+\.\d+", locked()["torch"])


def test_versions_and_citation_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project["version"] == __version__ == citation["version"]
    assert citation["preferred-citation"]["title"].startswith("Prior-Free Arterial Spin Labeling Quantification")
    assert len(citation["preferred-citation"]["authors"]) == 7


def test_help_loads_neither_torch_nor_numba_nor_matplotlib():
    code = (
        "import sys\nfrom aslpinn.cli import main\n"
        "try:\n    main(['study', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numba', 'matplotlib', 'nilearn', 'papermill', 'jupytext'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_chapters_are_text_with_parameters_and_not_too_long():
    import jupytext

    from aslpinn_book.study.one_notebook import declared_parameters

    for path in sorted((ROOT / "notebooks").glob("*.md")):
        notebook = jupytext.read(path)
        assert "fast" in declared_parameters(notebook), f"{path.name} has no parameters cell with fast"
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        shown = [cell for cell in cells if not {"hide-input", "remove-cell"} & set(cell.metadata.get("tags", []))]
        lines = [line for cell in shown for line in cell.source.splitlines() if line.strip()]
        most = 150 if path.name == "pinn-from-nothing.md" else 100  # that one imports nothing
        assert len(lines) <= most, f"{path.name}: {len(lines)} lines of code to read; code belongs in the core"
        assert not any(cell.get("outputs") for cell in notebook.cells)


def test_no_executed_notebook_is_committed():
    assert "notebooks/*.ipynb" in (ROOT / ".gitignore").read_text().split()


def test_picture_of_the_readme_exists():
    for image in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / image).is_file(), image

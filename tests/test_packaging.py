"""The environments agree with each other, and the package with what it says of itself."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from aslpinn import __version__
from aslpinn_book.study import reading

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


def test_chapters_are_text_with_parameters_and_without_outputs():
    import jupytext

    from aslpinn_book.study.one_notebook import declared_parameters

    for path in sorted((ROOT / "notebooks").glob("*.md")):
        notebook = jupytext.read(path)
        assert "fast" in declared_parameters(notebook), f"{path.name} has no parameters cell with fast"
        assert not any(cell.get("outputs") for cell in notebook.cells)


def test_no_page_is_too_long_and_no_chapter_shows_too_much_code():
    for page in reading.measured(ROOT):
        assert page.minutes <= 15, f"{page.page}: {page.minutes} minutes; expected 15 at most"
        most = 150 if page.page == "notebooks/pinn-from-nothing" else 100  # that one imports nothing
        assert page.code_lines <= most, f"{page.page}: {page.code_lines} lines of code; what only draws is folded"


def test_no_line_of_a_cell_is_wider_than_its_page():
    import jupytext

    for path in sorted((ROOT / "notebooks").glob("*.md")):
        for cell in jupytext.read(path).cells:
            wide = [line for line in cell.source.splitlines() if len(line) > 76 and cell.cell_type == "code"]
            assert not wide, f"{path.name}: folded or not, a cell has at most 76 columns: {wide[0]}"


def test_the_stored_times_of_reading_are_those_of_the_pages():
    with (ROOT / "book" / "reading.csv").open() as stream:
        stored = {row["page"]: row for row in csv.DictReader(stream)}
    found = {page.page: page for page in reading.measured(ROOT)}
    assert set(stored) == set(found), "`make reading` writes book/reading.csv anew"
    for name, page in found.items():
        apart = abs(page.words - int(stored[name]["words"]))
        assert apart <= 100 + 0.25 * page.words, f"{name} has changed: `make reading` writes book/reading.csv anew"


def test_reading_counts_what_is_seen(tmp_path):
    for name in ("book", "notebooks"):
        (tmp_path / name).mkdir()
    (tmp_path / "_toc.yml").write_text(
        "root: book/intro\nparts:\n- chapters:\n  - file: notebooks/one\n  - file: book/gone\n"
    )
    (tmp_path / "book" / "intro.md").write_text(
        "# Two words\n\n<!-- not seen -->\n$$\nx = 1\n$$ (eq-a)\n\n[three](a.md) more {doc}`words here <there>`.\n\n"
        "```bash\nmake book\n```\n\n````{admonition} Hint\n:class: dropdown\nnot seen\n```python\nx\n```\n````\n\n"
        ":::{note}\nSeen $x + 1$.\n:::\n\n| a | b |\n|---|---|\n"
    )
    (tmp_path / "notebooks" / "one.md").write_text(
        "---\nkernelspec: {name: python3, display_name: P, language: python}\n---\n\nOne.\n\n"
        "```{code-cell} python\n:tags: [hide-input]\ny = 1\n```\n\n```{code-cell} python\n---\nmystnb:\n  figure:\n"
        "    caption: Two words\n---\nx = 1\n\nx\n```\n"
    )
    intro, one = reading.measured(tmp_path)
    # Two words; three more words here; the title of what is folded; Seen and a formula; a b
    assert (intro.words, intro.code_lines) == (2 + 4 + 1 + 2 + 2, 1)
    assert (one.words, one.minutes, one.code_lines) == (3, 0.0, 2)


def test_no_executed_notebook_is_committed():
    assert "notebooks/*.ipynb" in (ROOT / ".gitignore").read_text().split()


def test_picture_of_the_readme_exists():
    for image in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / image).is_file(), image

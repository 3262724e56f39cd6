"""Launch buttons: the repository they name, the notebooks they open, and the workflows that make both."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from aslpinn_book.study import launch_buttons

ROOT = Path(__file__).resolve().parents[1]
URL = "https://github.com/someone/perfusion"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize(
    "address",
    [URL, URL + "/", URL + ".git", "git@github.com:someone/perfusion.git", "ssh://git@github.com/someone/perfusion"],
)
def test_every_spelling_of_an_address_is_understood(address, tmp_path, monkeypatch):
    monkeypatch.setenv("REPOSITORY_URL", address)
    assert launch_buttons.repository(tmp_path) == URL


def test_the_address_comes_from_the_citation_or_from_git_and_only_github_counts(tmp_path, monkeypatch):
    monkeypatch.delenv("REPOSITORY_URL", raising=False)
    assert launch_buttons.repository(tmp_path) is None
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    remote = ["git", "-C", str(tmp_path), "config", "remote.origin.url"]
    subprocess.run([*remote, "/srv/repositories/perfusion"], check=True)
    assert launch_buttons.repository(tmp_path) is None
    subprocess.run([*remote, "git@github.com:fork/perfusion.git"], check=True)
    assert launch_buttons.repository(tmp_path) == "https://github.com/fork/perfusion"
    (tmp_path / "CITATION.cff").write_text(f"repository-code: {URL}\n")
    assert launch_buttons.repository(tmp_path) == URL


def test_the_book_has_buttons_for_a_known_repository_and_none_without():
    config = (ROOT / "_config.yml").read_bytes()
    without = yaml.safe_load(launch_buttons.configured(config, None))
    assert "launch_buttons" not in without
    known = yaml.safe_load(launch_buttons.configured(config, URL))
    assert known["repository"] == {"url": URL, "branch": launch_buttons.BRANCH, "path_to_book": ""}
    assert known["launch_buttons"]["binderhub_url"] == launch_buttons.PROVIDERS["Binder"]
    assert known["launch_buttons"]["colab_url"] == launch_buttons.PROVIDERS["Colab"]
    assert known["launch_buttons"]["thebe"] is False
    assert "sphinx_thebe" not in known["sphinx"]["config"]["extensions"]
    assert launch_buttons.__name__ in known["sphinx"]["config"]["extensions"]


def test_only_chapters_keep_their_buttons():
    connected: list[Any] = []
    launch_buttons.setup(SimpleNamespace(connect=lambda event, function, priority=0: connected.append(function)))
    for page, kept in (("notebooks/losses", 2), ("subjects/sub-01", 1), ("book/intro", 1)):
        context = {"header_buttons": [{"label": "launch-buttons"}, {"label": "download-buttons"}]}
        connected[-1](None, page, "page.html", context, None)
        assert len(context["header_buttons"]) == kept


def test_directives_and_roles_become_what_jupyter_shows():
    text = (
        "See {doc}`losses`, {doc}`the phantom </notebooks/phantom>` and {numref}`fig-a` {cite}`buxton1998`.\n\n"
        "```{admonition} Solution\n:class: dropdown\n\nIt is $x$.\n\n~~~python\nx = 1\n~~~\n```\n\n"
        "1. One\n\n   ```{dropdown} Answer\n   Two.\n   ```\n\n$$ a = b $$ (eq-a)\n"
    )
    out = launch_buttons.plain(text)
    assert "*losses*, *the phantom* and the one shown [buxton1998]" in out
    assert "<details><summary>Solution</summary>\n\n" in out
    assert "~~~python\nx = 1\n~~~" in out
    assert "   <details><summary>Answer</summary>\n\n   Two.\n\n   </details>" in out
    assert "{" not in out.replace("{cite}", "")
    assert "$$ a = b $$\n" in out


def chapters() -> list[Path]:
    from aslpinn_book.study.site import chapters_of

    files = [ROOT / "notebooks" / f"{name}.md" for name in chapters_of(ROOT)]
    return [file for file in files if file.is_file()]


@pytest.mark.parametrize("chapter", chapters(), ids=lambda file: file.stem)
def test_every_chapter_becomes_a_notebook_that_colab_can_install(chapter):
    import nbformat

    node = launch_buttons.as_notebook(chapter, URL)
    nbformat.validate(node)
    first = node.cells[0].source
    assert f'%pip install --quiet "aslpinn[ablation,data] @ git+{URL}@{launch_buttons.BRANCH}"' in first
    assert first.index("google.colab") < first.index("%pip")
    for cell in node.cells:
        if cell.cell_type == "markdown":
            outside = re.sub(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$", "", cell.source, flags=re.DOTALL)
            assert not re.search(r"\{(doc|cite|numref|eq|admonition|dropdown)\}", outside), cell.source[:200]
    assert launch_buttons.as_notebook(chapter, None).cells[0].source != first


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_workflows_pin_their_actions_and_ask_for_little(file):
    text = file.read_text()
    used = [use for use in re.findall(r"uses: (\S+)", text) if not use.startswith("./")]
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", use) for use in used), used
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        if "uses" not in job:
            assert "timeout-minutes" in job, name
        allowed = {"publish": {"pages", "id-token"}, "launch": {"contents"}}.get(name, set())
        assert {key for key, value in job.get("permissions", {}).items() if value == "write"} == allowed, name


def test_every_supported_python_is_tested_and_one_run_a_week_does_everything():
    test = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    assert test["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    weekly = (ROOT / ".github" / "workflows" / "weekly.yml").read_text()
    for command in ("make data", "benchmarks/speed.py", "aslpinn benchmark", "make book PYTHON=python REAL=1"):
        assert command in weekly
    book = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())
    assert any("REAL=1" in step.get("run", "") for step in book["jobs"]["build"]["steps"])  # what is published
    assert set(book["jobs"]["publish"]["needs"]) == {"test", "build"}


def test_binder_installs_the_lock_and_the_notebooks():
    environment = yaml.safe_load((ROOT / ".binder" / "environment.yml").read_text())
    assert environment["dependencies"] == ["python=3.12", "pip"]
    script = ROOT / ".binder" / "postBuild"
    assert script.stat().st_mode & 0o111
    assert "-r requirements.lock" in script.read_text()
    assert f"python -m {launch_buttons.__name__}" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)

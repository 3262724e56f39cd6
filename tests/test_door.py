"""What a stranger meets first: README.md, the picture, the guides, and what a known repository adds to the book."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path

import pytest
import yaml

import aslpinn
from aslpinn.data import write_phantom
from aslpinn.estimation.field.fit import FLAGS
from aslpinn.maps.quality import THRESHOLDS
from aslpinn_book.study import launch_buttons

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = (ROOT / "book" / "guides.md").read_text(encoding="utf-8")
URL = "https://github.com/Someone/perfusion"
COARSE = (6.0, 6.0, 7.0)


def block(text: str, after: str, language: str = "python") -> str:
    """The first block of code after a heading."""
    found = re.search(rf"^```{language}\n(.*?)^```", text.split(f"## {after}\n", 1)[1], re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


def test_the_first_example_runs_without_data_in_five_lines(tmp_path, monkeypatch):
    code = block(README, "Try it without data")
    assert len([line for line in code.splitlines() if line]) == 5
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(aslpinn, "simulate", functools.partial(aslpinn.simulate, voxel_size=COARSE))
    names: dict = {}
    exec(code, names)
    assert (tmp_path / "cbf.png").stat().st_size > 10_000
    brain = names["brain"]
    assert abs(names["estimate"].cbf[brain.mask].mean() / brain.cbf[brain.mask].mean() - 1) < 0.1


def test_the_second_example_runs_on_a_series(tmp_path, monkeypatch):
    write_phantom(aslpinn.simulate("mpld6", tsnr=3.0, voxel_size=COARSE), tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(block(README, "Use it on yours"), names)
    estimate = names["estimate"]
    assert estimate.cbf.shape == estimate.att.shape == estimate.cbf_sd.shape == names["subject"].mask.shape
    assert 20 < estimate.cbf[names["subject"].mask].mean() < 80


def test_what_readme_points_to_is_there():
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", README):
        address = "".join(target)
        if not address.startswith("http"):
            assert (ROOT / address).exists(), address
    makefile = (ROOT / "Makefile").read_text()
    for goal in set(re.findall(r"\bmake ([a-z-]+)", README)) - {"badges-->"}:
        assert re.search(rf"^{goal}:", makefile, re.MULTILINE), goal


def test_bibtex_says_what_the_citation_file_says():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    bibtex = " ".join(block(README, "Cite", "bibtex").split())
    paper = citation["preferred-citation"]
    people = [f"{person['family-names']}, {person['given-names']}" for person in paper["authors"]]
    assert f"author = {{{' and '.join(people)}}}" in bibtex
    for value in (paper["title"], citation["title"], citation["version"], paper["notes"], str(paper["year"])):
        assert f"{{{value}}}" in bibtex, value


def test_guides_explain_every_flag_with_its_range():
    for name, threshold in THRESHOLDS.items():
        row = next(line for line in GUIDES.splitlines() if line.startswith(f"| `{name}`"))
        percent = 100 if "%" in row else 1
        for bound in {threshold.low, threshold.high} - {0.0, 1.0 if name == "qei" else 0.0}:
            assert f"{bound * percent:g}" in row, (name, bound)
    rows = dict(re.findall(r"^\| (\d+) \| (.+) \|$", GUIDES, re.MULTILINE))
    assert {int(bit) for bit in rows} == set(FLAGS)


def test_the_picture_is_small_and_stops_moving():
    from PIL import Image

    file = ROOT / "book" / "_static" / "training.gif"
    assert file.stat().st_size < 300_000
    with Image.open(file) as moving, Image.open(file.with_suffix(".png")) as still:
        assert moving.n_frames >= 15
        assert 0 < moving.info["loop"] < 10  # played some times, then still
        assert moving.size == still.size


@pytest.mark.slow
def test_the_picture_is_drawn_from_the_chapter(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book"))
    sys.modules.pop("picture", None)
    import picture
    from PIL import Image

    picture.training_picture(tmp_path, steps=(1, 3))
    with Image.open(tmp_path / "training.gif") as moving:
        assert moving.n_frames == 2


def test_a_known_repository_gets_a_run_button_badges_and_cards(tmp_path, monkeypatch):
    from docutils.core import publish_doctree

    chapter = f"notebooks/{launch_buttons.FIRST}"
    assert (ROOT / f"{chapter}.md").is_file()
    buttons = launch_buttons.run_now(URL)
    assert f"https://mybinder.org/v2/gh/Someone/perfusion/launch?urlpath=lab/tree/{chapter}.ipynb" in buttons
    assert f"https://colab.research.google.com/github/Someone/perfusion/blob/launch/{chapter}.ipynb" in buttons
    assert "http" not in launch_buttons.run_now(None)
    assert chapter in launch_buttons.run_now(None)
    assert "<!-- run now -->" in (ROOT / "book" / "intro.md").read_text()

    (tmp_path / "README.md").write_text(README)
    monkeypatch.setenv("REPOSITORY_URL", URL)
    assert launch_buttons.write_badges(tmp_path)
    written = (tmp_path / "README.md").read_text()
    assert written.count("[![") >= 5
    assert f"{URL}/actions/workflows/book.yml/badge.svg" in written
    assert "https://someone.github.io/perfusion/" in written
    monkeypatch.delenv("REPOSITORY_URL")
    assert not launch_buttons.write_badges(tmp_path)  # no CITATION.cff, no git
    assert (tmp_path / "README.md").read_text() == README

    config = yaml.safe_load(launch_buttons.configured((ROOT / "_config.yml").read_bytes(), URL))
    assert config["html"]["baseurl"] == "https://someone.github.io/perfusion/"
    assert not yaml.safe_load(launch_buttons.configured((ROOT / "_config.yml").read_bytes(), None))["html"]["baseurl"]
    doctree = publish_doctree(
        'Short.\n\nA paragraph that is long enough to say "what" the page is about, with <signs>.\n'
    )
    made = launch_buttons.card(config["html"]["baseurl"], chapter, "The <em>loss</em> &amp; more", doctree)
    assert 'property="og:title" content="The loss &amp; more"' in made
    assert 'content="A paragraph that is long enough to say &quot;what&quot;' in made
    assert f'content="https://someone.github.io/perfusion/{chapter}.html"' in made
    assert launch_buttons.pages("https://github.com/Someone/someone.github.io") == "https://someone.github.io/"

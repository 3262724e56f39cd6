"""A study from its data to its book, in which whatever a data set says is markup, and one subject is broken."""

from __future__ import annotations

import io
import json
import re
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from test_study_runs import brains

from aslpinn.cli import main

ROOT = Path(__file__).resolve().parents[1]
RUNS = "<img src=x onerror='window.ran=1'>"
MARKUP = (
    f'"`{RUNS}`</pre>{RUNS}<script>window.ran=1</script> | {{{{x}}}} $x$ [a](javascript:window.ran=1)'
    f"\n\n```{{raw}} html\n{RUNS}\n```\n"
)
#: A folder and the files in it may be called anything but "/".
NAMED = 'sub-03`"><img src=x onerror=window.ran=1>'
BROKEN_LINE = "sub-04\n\n```{raw} html\n<img src=x onerror=window.ran=1>\n```\n# Not a title"
pytestmark = pytest.mark.slow


@dataclass
class Ran:
    """What a run of the study left and said."""

    root: Path
    out: Path
    plan: Path
    code: int
    stderr: str


def rename(root: Path, old: str, new: str) -> None:
    for path in sorted(root.glob(f"{old}/**/*"), reverse=True):
        if path.is_file():
            path.rename(path.with_name(path.name.replace(old, new)))
    (root / old).rename(root / new)


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Ran:
    """Two subjects that can be fitted, one without delays, two whose names are markup; the book of them."""
    folder = tmp_path_factory.mktemp("study")
    root, out = brains(folder / "data <b>", 4), folder / "out"
    for number in (1, 2):
        file = root / f"sub-0{number}" / "perf" / f"sub-0{number}_asl.json"
        sidecar = json.loads(file.read_text())
        sidecar |= {"Manufacturer": MARKUP, "PulseSequenceType": MARKUP, "InstitutionName": MARKUP, MARKUP: MARKUP}
        if number == 2:
            sidecar["PostLabelingDelay"] = MARKUP
        file.write_text(json.dumps(sidecar))
    description = root / "dataset_description.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | {"Name": MARKUP, "Authors": [MARKUP]}))
    line = MARKUP.replace("\n", " ")
    (root / "participants.tsv").write_text(f"participant_id\tgroup\nsub-01\t{line}\nsub-02\t{line}\n{line}\t1\n")
    rename(root, "sub-03", NAMED)
    rename(root, "sub-04", BROKEN_LINE)
    plan = folder / "STUDY.toml"
    plan.write_text(
        'bids = ["data <b>"]\nout = "out"\nchapters = false\nfast = true\nestimators = ["nlls"]\n'
        f"participants = {json.dumps(['01', '02', NAMED, BROKEN_LINE, RUNS])}\n"
    )
    patch = pytest.MonkeyPatch()
    patch.chdir(ROOT)
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            code = main(["study", str(plan)])
    finally:
        patch.undo()
    return Ran(root, out, plan, code, told.getvalue())


def test_a_subject_that_fails_leaves_the_others_their_maps_and_a_page_that_says_why(ran):
    assert ran.code == 1
    assert "PostLabelingDelay" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert len(list(ran.out.glob("derivatives/aslpinn/sub-01/perf/*_cbf.nii.gz"))) == 2  # map and SD
    page = (ran.out / "site" / "subjects" / "sub-02.html").read_text()
    assert "not fitted" in page
    assert "PostLabelingDelay" in page
    together = (ran.out / "site" / "subjects" / "group.html").read_text()
    assert 'href="sub-02.html"' in together
    record = json.loads((ran.out / "study.json").read_text())
    state = record["subjects"]["sub-01"]
    assert state["state"] == "done"
    assert state["peak_memory_mb"] > 50
    assert len(state["hashes"]["code"]) == len(state["hashes"]["inputs"]["sub-01/perf/sub-01_asl.nii.gz"]) == 64
    assert record["groups"]["group"]["state"] == "done"
    failed = [state for state in record["subjects"].values() if state["state"] == "failed"]
    assert f"{len(failed)} failed" in together
    assert all(state["input_error"] for state in failed), [state["error"] for state in failed]


def test_no_file_that_is_published_names_a_folder_of_whoever_ran_it(ran):
    here = str(ran.out.parent)
    assert here not in (ran.out / "study.json").read_text()
    pages = list((ran.out / "site").rglob("*.html"))
    assert len(pages) > 8
    assert not [page for page in pages if here in page.read_text()]


def test_a_browser_opens_every_page_and_nothing_runs(ran, browser):
    context = browser.new_context()
    dialogs: list[Any] = []
    found: dict[str, Any] = {}
    shown = ""
    for path in sorted((ran.out / "site").rglob("*.html")):
        name = path.relative_to(ran.out / "site").as_posix()
        if name.startswith(("_static", "_modules")):
            continue
        page = context.new_page()
        page.on("dialog", lambda dialog: (dialogs.append(dialog), dialog.dismiss()))
        page.goto(path.as_uri(), wait_until="load")
        for widget in page.locator("[data-widget]").all():
            widget.scroll_into_view_if_needed()
            page.wait_for_timeout(2000)
        made = page.evaluate(
            """() => [window.ran, document.querySelectorAll("[onerror]").length,
                [...document.querySelectorAll("img")].filter((one) => one.getAttribute("src") === "x").length,
                [...document.links].filter((one) => one.href.startsWith("javascript:")).length]"""
        )
        if made != [None, 0, 0, 0]:
            found[name] = made
        shown += page.inner_text("body")
        page.close()
    context.close()
    assert not found
    assert not dialogs
    assert "onerror" in shown, "what the data say is shown, as text"


def test_the_search_index_and_the_scripts_of_the_site_hold_no_tag_of_the_data(ran):
    for script in [*(ran.out / "site").glob("maps/*.js"), ran.out / "site" / "searchindex.js"]:
        assert not re.search(r"<img src=x", script.read_text()), script.name


def test_the_same_study_run_again_runs_nothing_anew(ran, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["study", str(ran.plan)]) == 1
    told = capsys.readouterr().out
    assert "4 of 4 notebooks are up to date" in told
    assert "the book is up to date" in told

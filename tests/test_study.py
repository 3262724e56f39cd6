"""The runner: what it finds, what it runs again, and what a failure leaves."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import pytest
from templates import FRONT, SUBJECT, dataset

from aslpinn.cli import main
from aslpinn.errors import InputError
from aslpinn.report.execute import sections
from aslpinn.report.forks import FORKS
from aslpinn.report.lock import locked
from aslpinn.report.pages import failed_page, reader_copy, subjects_page, without_links
from aslpinn.report.progress import Progress, Table
from aslpinn.report.runner import cores, run_tasks
from aslpinn.report.settings import ESTIMATORS, PRESETS, SCHEMA, schema_table
from aslpinn.report.site import SIDEBAR_LIMIT, chapters_of, stage
from aslpinn.report.study import Study, found_subjects, read_study, study, summary
from aslpinn.report.tasks import chapter_tasks, digest, find_project, find_series, subject_tasks

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A book with one template and no chapter, in which a test may edit what it likes."""
    root = tmp_path / "project"
    (root / "book").mkdir(parents=True)
    (root / "notebooks").mkdir()
    (root / "notebooks" / "subject.md").write_text(SUBJECT)
    (root / "book" / "intro.md").write_text("# Intro\n\n<!-- study tables -->\n")
    (root / "_config.yml").write_text("title: t\n")
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nparts:\n  - caption: A\n    chapters:\n      - file: notebooks/one\n"
        "  - caption: Z\n    chapters:\n      - file: book/last\n"
    )
    monkeypatch.chdir(root)
    return root


def tasks_of(project: Path, *roots: Path, **options):
    return subject_tasks(roots, project / "out", project / "notebooks" / "subject.md", {"fast": True}, **options)


def test_finds_series_with_and_without_sessions_and_leaves_derivatives_out(tmp_path):
    root = dataset(tmp_path / "data", **{"01": "a"})
    names = ["sub-02/ses-1/perf/sub-02_ses-1_asl.nii", "derivatives/x/sub-01/perf/sub-01_asl.nii.gz"]
    for name in (*names, "sub-01/perf/._sub-01_asl.nii.gz"):  # the last is what macOS leaves on other file systems
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("b")
    assert [path.name for path in find_series(root)] == ["sub-01_asl.nii.gz", "sub-02_ses-1_asl.nii"]


def test_a_folder_without_series_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"no ASL series.*perf"):
        find_series(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find_series(tmp_path / "none")


def test_names_that_occur_in_two_data_sets_get_the_data_set_in_front(project, tmp_path):
    first, second = dataset(tmp_path / "a", **{"01": "x", "02": "x"}), dataset(tmp_path / "b", **{"01": "y"})
    tasks = tasks_of(project, first, second)
    assert [task.key for task in tasks] == ["a_sub-01", "sub-02", "b_sub-01"]
    assert [task.title for task in tasks] == ["a: sub-01", "a: sub-02", "b: sub-01"]
    assert len({task.parameters["out"] + task.parameters["subject"] for task in tasks}) == 3


def test_a_data_set_named_twice_is_one(project, tmp_path):
    root = dataset(tmp_path / "a", **{"01": "x"})
    plan = Study(bids=(root, tmp_path / "b" / ".." / "a"), out=tmp_path / "out")
    assert [task.key for task in found_subjects(plan, project)] == ["sub-01"]


def test_two_runs_of_a_subject_are_told_apart_by_their_stems(project, tmp_path):
    root = dataset(tmp_path / "a", **{"01": "x"})
    (root / "sub-01" / "perf" / "sub-01_run-2_asl.nii.gz").write_text("y")
    assert [task.key for task in tasks_of(project, root)] == ["sub-01", "sub-01_run-2"]


def test_participants_choose_and_an_unknown_one_is_refused(project, tmp_path):
    root = dataset(tmp_path / "a", **{"01": "x", "02": "x"})
    assert [task.key for task in tasks_of(project, root, participants=("sub-02",))] == ["sub-02"]
    with pytest.raises(InputError, match="07"):
        tasks_of(project, root, participants=("07",))


def test_hash_changes_with_input_sidecar_parameters_and_notebook_and_with_nothing_else(project, tmp_path):
    root = dataset(tmp_path / "a", **{"01": "x", "02": "x"})
    (task, other) = tasks_of(project, root)
    start = digest(task)
    assert start == digest(task) != digest(other)
    assert start != digest(replace(task, parameters=task.parameters | {"fast": False}))
    (root / "sub-02" / "perf" / "sub-02_asl.json").write_text('{"a": 1}')
    assert start == digest(task)
    sidecar = root / "sub-01" / "perf" / "sub-01_asl.json"
    sidecar.write_text('{"a": 1}')
    changed = digest(task)
    assert changed != start
    task.notebook.write_text(SUBJECT + "\nMore.\n")
    assert digest(task) not in (start, changed)


@pytest.mark.slow
def test_a_broken_and_a_dying_subject_do_not_stop_the_third(project, tmp_path, capsys):
    root = dataset(tmp_path / "data", **{"01": "fine", "02": "broken", "03": "killed"})
    out = tmp_path / "out"
    arguments = ["study", "--bids", str(root), "--out", str(out), "-j", "2", "--no-book"]
    assert main(arguments) == 1
    stderr = capsys.readouterr().err
    assert "RepetitionTimePreparation is missing" in stderr
    assert "Traceback" not in stderr
    record = json.loads((out / "study.json").read_text())["subjects"]
    assert {key: state["state"] for key, state in record.items()} == {
        "sub-01": "done",
        "sub-02": "failed",
        "sub-03": "failed",
    }
    assert record["sub-02"]["error"].endswith("expected seconds")
    assert record["sub-02"]["input_error"]
    assert not record["sub-03"]["input_error"]
    assert all(state["seconds"] > 0 and len(state["hash"]) == 64 for state in record.values())
    report = out / "subjects" / "sub-01" / "report.ipynb"
    written = report.stat().st_mtime_ns

    # Mended subjects are run again, the one that was done is not; then a lost map makes it run again.
    for label in ("02", "03"):
        (root / f"sub-{label}" / "perf" / f"sub-{label}_asl.nii.gz").write_text("mended")
    assert main(arguments) == 0
    assert report.stat().st_mtime_ns == written
    maps = out / "derivatives" / "aslpinn"
    assert sorted(path.read_text() for path in maps.rglob("*_cbf.nii.gz")) == ["fine", "mended", "mended"]
    lost = maps / "sub-01" / "perf" / "sub-01_cbf.nii.gz"
    lost.unlink()
    assert main(arguments) == 0
    assert lost.read_text() == "fine"
    assert not list(out.rglob("*.part*"))


@pytest.mark.slow
def test_subjects_run_one_by_one_are_collected_into_the_same_study(project, tmp_path, capsys):
    root, out = dataset(tmp_path / "data", **{"01": "fine", "02": "broken", "03": "fine"}), tmp_path / "out"
    common = ["study", "--bids", str(root), "--out", str(out), "--no-book"]
    assert main([*common, "--list"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["sub-01", "sub-02", "sub-03"]
    assert rows[1][1] == str(root / "sub-02" / "perf" / "sub-02_asl.nii.gz")
    assert not out.exists()
    assert main([*common, "--only", "sub-01"]) == 0
    assert main([*common, "--only", "sub-02"]) == 1
    assert not (out / "study.json").exists()
    assert main([*common, "--collect"]) == 1
    states = json.loads((out / "study.json").read_text())["subjects"]
    assert [state["state"] for state in states.values()] == ["done", "failed", "failed"]
    assert "expected seconds" in states["sub-02"]["error"]
    assert "run it with --only sub-03" in states["sub-03"]["error"]
    capsys.readouterr()
    assert main([*common, "--only", "sub-04"]) == 2
    assert "--list" in capsys.readouterr().err


def fake_run(project: Path, root: Path, states: dict[str, str], **plan):
    """Tasks, and the record of a study in which they ended as told, without running anything."""
    tasks = tasks_of(project, root)
    results = {}
    for task in tasks:
        state = states.get(task.key, "done")
        if state == "done":
            task.report.parent.mkdir(parents=True, exist_ok=True)
            cell = {"cell_type": "markdown", "metadata": {}, "source": ["# A\n", "\n", "$$a$$ (eq-a) {eq}`eq-a`"]}
            task.report.write_text(json.dumps({"cells": [cell], "metadata": {"papermill": {"input_path": "/x"}}}))
        error = None if state == "done" else state
        results[task.key] = {
            "state": "failed" if error else "done",
            "seconds": 1.0,
            "error": error,
            "input_error": True,
            "hash": "0" * 64,
        }
    return tasks, summary(Study(**plan), tasks, results)


def test_the_page_of_a_failed_subject_says_what_and_how_and_shows_markup_as_text(project, tmp_path):
    root = dataset(tmp_path / "a", **{"01": "x"})
    message = "bad <script>alert(1)</script> ``` and {raw} html"
    tasks, record = fake_run(project, root, {"sub-01": message})
    page = failed_page(tasks[0], record["subjects"]["sub-01"])
    assert page.startswith("# sub-01: not fitted")
    assert f"````text\n{message}\n````" in page
    assert "aslpinn check" in page
    assert str(tmp_path) not in page


def test_staged_pages_hold_no_path_and_no_repeated_label(project, tmp_path):
    root = dataset(tmp_path / "a", **{"01": "x", "02": "y"})
    tasks, record = fake_run(project, root, {})
    pages = stage(project, tasks, record)
    first = pages["subjects/sub-01.ipynb"].decode()
    assert "papermill" not in first
    assert "(eq-a-sub-01)" in first
    assert "{eq}`eq-a-sub-01`" in first
    assert not any(str(tmp_path).encode() in content for content in pages.values())
    assert b"| torch |" in pages["book/intro.md"]
    toc = pages["_toc.yml"].decode()
    assert "subjects/sub-02" in toc
    assert "notebooks/one" not in toc, "a chapter that was not made is left out"


def test_many_subjects_leave_the_sidebar_but_stay_linked(project, tmp_path):
    names = {f"{number:04d}": "x" for number in range(SIDEBAR_LIMIT + 1)}
    tasks, record = fake_run(project, dataset(tmp_path / "a", **names), {"sub-0003": "gone"})
    pages = stage(project, tasks, record)
    assert b"subjects/sub-0007" not in pages["_toc.yml"]
    assert json.loads(pages["subjects/sub-0007.ipynb"])["metadata"]["orphan"] is True
    assert pages["subjects/sub-0003.md"].startswith(b"---\norphan: true\n---\n")
    table = subjects_page(record)
    assert table.count("](/subjects/sub-") == len(names)
    assert "1 failed" in table


def test_reader_copy_drops_what_papermill_injected():
    cells = [
        {"cell_type": "code", "metadata": {"tags": ["injected-parameters"]}, "source": "asl = '/home/me'"},
        {"cell_type": "code", "metadata": {"papermill": {"duration": 1}}, "source": "1"},
    ]
    copy = json.loads(reader_copy(json.dumps({"cells": cells, "metadata": {}})))
    assert [cell["source"] for cell in copy["cells"]] == ["1"]
    assert copy["cells"][0]["metadata"] == {}


def test_a_templates_page_has_its_own_title_folded_code_and_no_values_of_the_template():
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": "# One subject\n\nFrom one series to maps."},
        {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "subject = 'sub-01'"},
        {"cell_type": "code", "metadata": {}, "source": "1"},
        {"cell_type": "code", "metadata": {"tags": ["remove-input"]}, "source": "2"},
        {"cell_type": "code", "metadata": {"tags": ["hide-output"]}, "source": "3"},
    ]
    text = json.dumps({"cells": cells, "metadata": {}})
    copy = json.loads(reader_copy(text, title="a: sub-07"))
    assert copy["cells"][0]["source"] == "# a: sub-07\n\nFrom one series to maps."
    assert [cell["source"] for cell in copy["cells"][1:]] == ["1", "2", "3"]
    tags = [cell["metadata"]["tags"] for cell in copy["cells"][1:]]
    assert tags == [["hide-input"], ["remove-input"], ["hide-cell"]]
    assert len(json.loads(reader_copy(text))["cells"]) == len(cells), "a chapter keeps its parameters"


def test_study_file_is_read_relative_to_itself_and_overridden_by_options(tmp_path):
    path = tmp_path / "STUDY.toml"
    path.write_text(
        'bids = ["data"]\nout = "result"\nestimators = ["nlls", "pinn:network"]\nseed = 3\nparticipants = ["01"]\n'
    )
    plan = read_study(path)
    assert plan.bids == (tmp_path / "data",)
    assert plan.out == tmp_path / "result"
    assert (plan.main, plan.seed, plan.participants) == (("nlls", "default"), 3, ("01",))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("estimater = 'nlls'", "unknown key 'estimater'"),
        ("estimators = ['nils']", "estimators has 'nils'; expected some of pinn"),
        ("estimators = ['pinn:big']", "expected a preset of default, network, paper"),
        ("estimators = ['vb', 'vb:default']", "expected each once"),
        ("estimators = []", "at least one"),
        ("preset = 'big'", "expected one of default"),
        ("seed = 'one'", "expected a whole number"),
        ("seed = -1", "expected a whole number, 0 or more"),
        ("fast = 1", "expected true or false"),
        ("bids = 'data'", "expected a list of paths"),
        ("out = 3", "expected a path"),
        ("volunteers = 0", "expected 1 to"),
        ("chapters = 'kinetics'", "true, false or a list of strings"),
        ("chapters = ['kinetic']", "chapters has 'kinetic'; expected some of"),
        ("constants = 1", "a table of numbers"),
        ("constants = {t1_blod = 1.6}", "there is no constant 't1_blod'"),
        ("constants = {t1_blood = -1}", "expected a positive number"),
        ("seed = ", "TOML"),
    ],
)
def test_a_wrong_study_file_is_refused_and_nothing_is_written(tmp_path, capsys, text, told):
    path = tmp_path / "STUDY.toml"
    path.write_text(text)
    assert main(["study", str(path), "--out", str(tmp_path / "out")]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_data_set_ends_with_2_and_writes_nothing(project, tmp_path, capsys):
    assert main(["study", "--bids", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "no such folder" in capsys.readouterr().err
    root = dataset(tmp_path / "data", **{"01": "x"})
    assert main(["study", "--bids", str(root), "--out", str(tmp_path / "out"), "--only", "sub-02"]) == 2
    assert "--only sub-02: no such subject" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_what_runs_notebooks_the_extra_is_named_and_nothing_written(project, tmp_path, capsys, monkeypatch):
    root = dataset(tmp_path / "data", **{"01": "x"})
    monkeypatch.setitem(sys.modules, "papermill", None)
    assert main(["study", "--bids", str(root), "--out", str(tmp_path / "out"), "--no-book"]) == 2
    assert "papermill is not installed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["site", "stage", "virtual"])
def test_a_folder_that_no_study_made_is_never_removed(project, tmp_path, capsys, name):
    root = dataset(tmp_path / "data", **{"01": "x"})
    (root / name).mkdir()
    (root / name / "mine.txt").write_text("years of work")
    assert main(["study", "--bids", str(root), "--out", str(root)]) == 2
    assert f"{root / name}: is there already" in capsys.readouterr().err
    assert (root / name / "mine.txt").read_text() == "years of work"
    assert not (root / ".lock").exists()


def test_two_studies_in_one_folder_are_refused(project, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    root, out = dataset(tmp_path / "a", **{"01": "x"}), tmp_path / "out"
    out.mkdir()
    with (out / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another study"):
            study([root], out, book=False, chapters=False)


def test_a_file_system_without_locks_is_told_on_stderr(project, tmp_path, capsys, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(95, "Operation not supported")))
    with locked(tmp_path / "out", shared=True):
        pass
    told = capsys.readouterr()
    assert "has no file locks" in told.err
    assert told.out == "", "--list is read by other programs"


def test_the_book_of_this_project_is_found_and_lists_its_chapters():
    project = find_project(ROOT / "tests")
    assert project == ROOT
    names = chapters_of(project)
    assert {"kinetics", "representations", "hash-encoding", "losses", "phantom", "results", "configuration"} <= set(
        names
    )
    assert [task.key for task in chapter_tasks(names, project, ROOT / "build", {})] == names


def test_nothing_to_run_runs_nothing(project):
    assert run_tasks([], project) == {}


def test_template_of_a_study_file_has_every_key_and_is_read_as_the_defaults(tmp_path, capsys):
    path = tmp_path / "STUDY.toml"
    assert main(["study", str(path), "--init"]) == 0
    text = path.read_text()
    assert all(f"\n# {name} = " in text for name in SCHEMA)
    assert read_study(path) == Study()
    examples = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    path.write_text(examples)
    assert read_study(path).constants == {"t1_blood": 1.65}
    assert main(["study", str(path), "--init"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert path.read_text() == examples


def test_schema_and_study_have_the_same_keys_and_the_core_knows_the_same_names():
    from aslpinn.estimation import ESTIMATORS as CORE
    from aslpinn.estimation import PRESETS as CORE_PRESETS

    assert set(SCHEMA) == {item.name for item in fields(Study)} - {"force"}
    assert set(ESTIMATORS) == set(CORE)
    assert set(PRESETS) == set(CORE_PRESETS)
    assert all(f"| `{name}` |" in schema_table() for name in SCHEMA)


def test_sessions_choose_and_those_without_one_are_left_out(project, tmp_path):
    root = dataset(tmp_path / "a", **{"01": "x"})
    for session in ("one", "two"):
        (root / "sub-02" / f"ses-{session}" / "perf").mkdir(parents=True)
        (root / "sub-02" / f"ses-{session}" / "perf" / f"sub-02_ses-{session}_asl.nii.gz").write_text("y")
    keys = [task.key for task in tasks_of(project, root)]
    assert keys == ["sub-01", "sub-02_ses-one", "sub-02_ses-two"]
    assert [task.key for task in tasks_of(project, root, sessions=("ses-two",))] == ["sub-02"]
    with pytest.raises(InputError, match="ses-three"):
        tasks_of(project, root, sessions=("three",))


def test_a_study_may_be_moved_without_running_again(project, tmp_path):
    root = dataset(tmp_path / "a", **{"01": "x"})
    (before,) = tasks_of(project, root)
    first = digest(before)
    root.rename(tmp_path / "a2")
    (after,) = subject_tasks([tmp_path / "a2"], tmp_path / "elsewhere", before.notebook, {"fast": True})
    assert digest(after) == first


def test_links_to_chapters_that_are_not_there_become_words():
    text = "See [the model](/notebooks/kinetics), {doc}`losses`, {doc}`the page <fields>` and [this](/subjects/index)."
    assert without_links(text, "notebooks/a", {"notebooks/losses"}) == (
        "See the model, {doc}`losses`, the page and [this](/subjects/index)."
    )


def test_remaining_time_is_learned_from_what_is_done(project, tmp_path):
    root = dataset(tmp_path / "a", **{f"{number:02d}": "x" for number in range(1, 6)})
    tasks, lines = tasks_of(project, root), []
    shown = Progress(tasks, {}, 2, len(tasks), lines.append)
    assert shown.remaining() is None
    shown.start(tasks[0])
    shown.end(tasks[0], {"state": "done", "seconds": 10.0, "error": None})
    assert shown.remaining() == pytest.approx(4 * 10 / 2)
    shown.start(tasks[1])
    shown.end(tasks[1], {"state": "failed", "seconds": 1.0, "error": "no M0"})
    assert lines == [
        "[1/5] sub-01 done in 10 s, about 20 s left",
        "[2/5] sub-02 failed in 1 s, about 15 s left: no M0",
    ]


def test_table_on_a_terminal_says_what_runs_and_in_which_section(project, tmp_path):
    root = dataset(tmp_path / "a", **{"01": "x", "02": "x"})
    tasks, stream = tasks_of(project, root), io.StringIO()
    shown = Table(tasks, {}, 1, 2, lambda text: stream.write(text + "\n"), stream=stream)
    shown.start(tasks[0])
    shown.stage(tasks[0], "Perfusion and transit time", 0.5)
    shown.tick()
    assert re.search(r"sub-01 +Perfusion and transit time +50% ", stream.getvalue())
    assert "0 of 2 done, 1 waiting" in stream.getvalue()


def test_every_cell_is_told_its_section():
    import jupytext

    names = sections(jupytext.read(ROOT / "notebooks" / "subject.md"))
    assert {"What was found", "Perfusion and transit time", "How sure they are"} <= set(names)


SELF = (
    FRONT
    + """asl = ""
measures = ""
```

```{code-cell} python
import json
import os
import signal
import sys
from pathlib import Path

told = {"loaded": "aslpinn.estimation" in sys.modules, "pid": os.getpid(), "parent": os.getppid()}
Path(measures).write_text(json.dumps(told | {"threads": os.environ["NUMBA_NUM_THREADS"]}))
if Path(asl).read_text() == "parent":
    os.kill(os.getppid(), signal.SIGKILL)
```

```{code-cell} python
import matplotlib.pyplot as plt

plt.plot([1, 2]);
```
"""
)


@pytest.mark.slow
def test_notebooks_are_copies_of_one_process_and_the_death_of_one_is_its_own(project, tmp_path):
    if not FORKS:
        pytest.skip("notebooks get new interpreters here")
    (project / "notebooks" / "subject.md").write_text(SELF)
    psutil = pytest.importorskip("psutil")
    before = psutil.Process().children()  # of other tests in this process
    tasks = tasks_of(project, dataset(tmp_path / "a", **{"01": "x", "02": "parent", "03": "x"}))
    states = run_tasks(tasks, project, jobs=2)
    assert [states[task.key]["state"] for task in tasks] == ["done", "failed", "done"]
    assert "ended early" in states["sub-02"]["error"]
    told = [json.loads(task.measures.read_text()) for task in tasks]
    assert len({entry["pid"] for entry in told} | {entry["parent"] for entry in told}) == 6
    assert all(entry["loaded"] for entry in told)
    assert tasks[0].report.read_text().count('"image/png"') == 1
    assert {entry["threads"] for entry in told} == {str(max(1, cores() // 2))}
    assert set(psutil.Process().children()) <= set(before), "nothing that was started is left"


# What follows runs real fits of tiny brains, with a template that leaves the figures out.

TINY = (
    FRONT
    + """asl = ""
out = ""
measures = ""
```

```{code-cell} python
import time

from aslpinn import fit, load_subject
from aslpinn.data import write_estimate

person = load_subject(asl)
estimate = fit(person.series, person.mask, person.acquisition, estimator="nlls")
write_estimate(person, estimate, out)
time.sleep(1)
```
"""
)


def brains(root: Path, count: int) -> Path:
    from aslpinn.data import simulate, write_phantom

    for number in range(1, count + 1):
        phantom = simulate(volunteer=number, seed=number, voxel_size=(12.0, 12.0, 14.0))
        write_phantom(phantom, root, subject=f"{number:02d}")
    return root


def maps_of(out: Path) -> dict[str, bytes]:
    folder = out / "derivatives" / "aslpinn"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.nii.gz"))}


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again_the_maps_are_those_of_an_undisturbed_run(project, tmp_path):
    psutil = pytest.importorskip("psutil")
    (project / "notebooks" / "subject.md").write_text(TINY)
    root, out, still = brains(tmp_path / "data", 3), tmp_path / "killed", tmp_path / "undisturbed"
    arguments = [sys.executable, "-m", "aslpinn.cli", "study", "--bids", str(root), "-j", "1", "--no-book", "--out"]
    run = subprocess.Popen([*arguments, str(out)], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert "[1/3]" in run.stdout.readline()
    time.sleep(1.5)  # the second's kernel is starting, or fits
    family = psutil.Process(run.pid).children(recursive=True)
    assert family
    run.kill()
    run.wait()
    assert not psutil.wait_procs(family, timeout=20)[1], "what a killed study started ends with it"
    states = {path.parent.name for path in out.glob("subjects/*/report.json")}
    assert len(states) == 1

    again = subprocess.run([*arguments, str(out)], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "1 of 3 notebooks are up to date" in again.stdout
    assert subprocess.run([*arguments, str(still)], capture_output=True, check=False).returncode == 0
    assert len(maps_of(still)) >= 9
    assert maps_of(out) == maps_of(still)
    assert not [path for path in out.rglob(".*") if path.name not in (".lock", ".bidsignore", ".virtual.lock")]


@pytest.mark.parametrize("folders", ["lock", "do not lock"])
def test_subjects_of_several_data_sets_written_at_the_same_time_leave_every_link(tmp_path, monkeypatch, folders):
    if folders == "do not lock":  # as on NFS
        fcntl = pytest.importorskip("fcntl")
        lock = fcntl.flock

        def of_files_only(descriptor: int, how: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(9, "Bad file descriptor")
            lock(descriptor, how)

        monkeypatch.setattr(fcntl, "flock", of_files_only)
    from concurrent.futures import ThreadPoolExecutor

    from aslpinn import fit, load_subject, simulate
    from aslpinn.data import write_estimate, write_phantom

    phantom = simulate(voxel_size=(12.0, 12.0, 14.0))
    people = [load_subject(write_phantom(phantom, tmp_path / f"set{n}", subject=f"{n}")[0]) for n in range(8)]
    estimate = fit(phantom.series, people[0].mask, people[0].acquisition, estimator="nlls")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda person: write_estimate(person, estimate, tmp_path / "out"), people))
    description = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert set(description["DatasetLinks"]) == {f"set{n}" for n in range(8)}
    assert not list((tmp_path / "out").glob(".aslpinn*"))


def test_a_folder_that_another_process_removes_meanwhile_is_made_again(tmp_path, monkeypatch):
    import tempfile

    from aslpinn.data.derivatives import staging

    out, make, left = tmp_path / "not" / "yet" / "there", tempfile.mkdtemp, [3]

    def after_a_removal(**options: object) -> str:
        if left[0]:
            left[0] -= 1
            out.rmdir()
            out.parent.rmdir()
        return make(**options)

    monkeypatch.setattr(tempfile, "mkdtemp", after_a_removal)
    with staging(out, keep=False) as made:
        assert made.is_dir()
        assert left == [0]
    assert not (tmp_path / "not").exists()


@pytest.mark.slow
def test_a_full_disk_is_told_and_the_next_run_goes_on(project, tmp_path, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("a small file system can be mounted by root only")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        root = dataset(tmp_path / "data", **{"01": "fine", "02": "fine too"})
        out = disk / "out"
        out.mkdir()
        filler = disk / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as stream:
            while True:
                stream.write(b"0" * 4096)
        arguments = ["study", "--bids", str(root), "--out", str(out), "-j", "2", "--no-book"]
        assert main(arguments) in (1, 2)
        stderr = capsys.readouterr().err
        assert "No space left" in stderr
        assert "Traceback" not in stderr
        filler.unlink()
        assert main(arguments) == 0
        assert sorted(path.read_text() for path in out.rglob("*_cbf.nii.gz")) == ["fine", "fine too"]
        assert not list(out.rglob("*.part*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_three_subjects_one_broken_two_maps_and_a_book_that_names_the_third(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    root, out = brains(tmp_path / "data", 3), tmp_path / "out"
    broken = root / "sub-02" / "perf" / "sub-02_asl.json"
    sidecar = json.loads(broken.read_text())
    del sidecar["PostLabelingDelay"]
    broken.write_text(json.dumps(sidecar))
    plan = tmp_path / "STUDY.toml"
    plan.write_text('bids = ["data"]\nout = "out"\nchapters = false\nfast = true\nestimators = ["nlls"]\n')
    start = time.monotonic()
    assert main(["study", str(plan)]) == 1
    first = time.monotonic() - start
    assert "PostLabelingDelay" in capsys.readouterr().err
    assert len(list(out.glob("derivatives/aslpinn/sub-*/perf/*_cbf.nii.gz"))) == 4  # two subjects, map and SD
    page = (out / "site" / "subjects" / "sub-02.html").read_text()
    assert "not fitted" in page
    assert "PostLabelingDelay" in page
    assert str(tmp_path) not in page
    together = (out / "site" / "subjects" / "group.html").read_text()
    assert "1 failed" in together
    assert 'href="sub-02.html"' in together
    record = json.loads((out / "study.json").read_text())
    state = record["subjects"]["sub-01"]
    assert state["state"] == "done"
    assert state["peak_memory_mb"] > 50
    assert len(state["hashes"]["code"]) == len(state["hashes"]["inputs"]["sub-01/perf/sub-01_asl.nii.gz"]) == 64
    assert record["groups"]["group"]["state"] == "done"

    start = time.monotonic()
    assert main(["study", str(plan)]) == 1
    assert time.monotonic() - start < first / 3

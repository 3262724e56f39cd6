"""A study before it runs: what it finds, how subjects are called, what changes a hash, and what is refused."""

from __future__ import annotations

import re
import sqlite3
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from templates import SUBJECT, dataset, tasks_of

from aslpinn.cli import main
from aslpinn.errors import InputError
from aslpinn_book.study.lock import locked
from aslpinn_book.study.notebooks import chapter_tasks, digest, find_project, find_series, subject_tasks
from aslpinn_book.study.plan import SCHEMA, schema_table
from aslpinn_book.study.pool import run_tasks
from aslpinn_book.study.run import Study, found_subjects, read_study, study
from aslpinn_book.study.site import chapters_of

ROOT = Path(__file__).resolve().parents[1]


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


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("sub-01/perf/sub-01_asl.nii", "sub-01/perf/sub-01_asl.nii.gz"),
        ("sub-01/ses-1/perf/sub-01_asl.nii.gz", "sub-01/ses-2/perf/sub-01_asl.nii.gz"),
        ("sub-a b/perf/sub-a b_asl.nii.gz", "sub-a-b/perf/sub-a-b_asl.nii.gz"),
    ],
)
def test_two_series_that_would_be_one_subject_are_refused_by_name_and_nothing_is_written(
    project, tmp_path, capsys, first, second
):
    root = tmp_path / "data"
    for name in (first, second):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    assert main(["study", "--bids", str(root), "--out", str(tmp_path / "out"), "--no-book"]) == 2
    told = capsys.readouterr().err
    assert str(root / first) in told
    assert str(root / second) in told
    assert not (tmp_path / "out").exists()


def test_a_line_of_the_list_is_one_subject_whatever_its_name(project, tmp_path, capsys):
    root = dataset(tmp_path / "data", **{"01": "x", "0\n2\t": "x"})
    assert main(["study", "--bids", str(root), "--out", str(tmp_path / "out"), "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.count("\t") for line in lines] == [2, 2]


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


def test_study_file_is_read_relative_to_itself_and_overridden_by_options(tmp_path):
    path = tmp_path / "STUDY.toml"
    path.write_text(
        'bids = ["data"]\nout = "result"\nestimators = ["nlls", "pinn:paper"]\nseed = 3\nparticipants = ["01"]\n'
    )
    plan = read_study(path)
    assert plan.bids == (tmp_path / "data",)
    assert plan.out == tmp_path / "result"
    assert (plan.main, plan.seed, plan.participants) == (("nlls", ""), 3, ("01",))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("estimater = 'nlls'", "unknown key 'estimater'"),
        ("estimators = ['nils']", "estimators has 'nils': estimator is 'nils'; expected one of field"),
        ("estimators = ['pinn:big']", "expected one of default, paper"),
        ("estimators = ['closed-form']", "now estimator 'pinn' with objective closed-form"),
        ("estimators = ['pinn:network']", "now preset 'default' of estimator 'pinn'"),
        ("preset = 'network'", "now preset 'default' of estimator 'pinn'"),
        ("estimators = ['vb:paper']", "estimator 'vb' has no presets; expected estimator pinn"),
        ("estimators = ['pinn', 'pinn:default']", "expected each once"),
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
    root, out = dataset(tmp_path / "data", **{"01": "x"}), tmp_path / "work"
    (out / name).mkdir(parents=True)
    (out / name / "mine.txt").write_text("years of work")
    assert main(["study", "--bids", str(root), "--out", str(out)]) == 2
    assert f"{out / name}: is there already" in capsys.readouterr().err
    assert (out / name / "mine.txt").read_text() == "years of work"
    assert not (out / ".lock").exists()


@pytest.mark.parametrize("place", ["", "sub-01", "build"])
def test_a_study_is_not_written_into_its_own_input_but_below_its_derivatives(project, tmp_path, capsys, place):
    root = dataset(tmp_path / "data", **{"01": "x"})
    before = sorted(root.rglob("*"))
    arguments = ["study", "--bids", str(root), "--no-book", "--out"]
    assert main([*arguments, str(root / place)]) == 2
    assert "raw data set" in capsys.readouterr().err
    assert sorted(root.rglob("*")) == before


def test_two_studies_in_one_folder_are_refused_and_single_subjects_run_beside_each_other(project, tmp_path):
    root, out = dataset(tmp_path / "a", **{"01": "x"}), tmp_path / "out"
    with locked(out):
        with pytest.raises(InputError, match="another study"):
            study([root], out, book=False, chapters=False)
        with pytest.raises(InputError, match="another study"), locked(out, shared=True):
            pass
    beside = pytest.raises(InputError, match="another study")
    with locked(out, shared=True), locked(out, shared=True), beside, locked(out):
        pass
    with locked(out):
        pass


def test_a_file_system_without_locks_is_told_on_stderr(project, tmp_path, capsys, monkeypatch):
    def without(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("locking protocol")

    monkeypatch.setattr("filelock.ReadWriteLock", without)
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
    for name in re.findall(r'"([^"]+_dseg\.nii\.gz)"', examples):
        (tmp_path / name).touch()
    assert read_study(path).constants == {"t1_blood": 1.65}
    assert main(["study", str(path), "--init"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert path.read_text() == examples


def test_schema_and_study_have_the_same_keys():
    assert set(SCHEMA) == {item.name for item in fields(Study)} - {"force"}
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

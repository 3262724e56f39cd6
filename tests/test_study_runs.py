"""Studies that run: what a failure, a kill or a full disk leaves, and that the next run goes on."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from templates import FRONT, dataset, tasks_of

from aslpinn.cli import main
from aslpinn_book.study.kernels import FORKS
from aslpinn_book.study.pool import cores, run_tasks

ROOT = Path(__file__).resolve().parents[1]


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


SELF = (
    FRONT
    + """asl = ""
measures = ""
out = ""
```

```{code-cell} python
import json
import os
import signal
import sys
from pathlib import Path

told = {"loaded": "aslpinn.estimation" in sys.modules, "pid": os.getpid(), "parent": os.getppid()}
tries = len(list(Path(measures).parent.glob("try-*")))
Path(measures).with_name(f"try-{tries}").touch()
Path(measures).write_text(json.dumps(told | {"threads": os.environ["NUMBA_NUM_THREADS"], "tries": tries + 1}))
word = Path(asl).read_text()
if word == "always" or (word == "once" and not tries):
    os.kill(os.getpid(), signal.SIGKILL)
if word == "all" and not tries:
    os.kill(os.getppid(), signal.SIGKILL)
if word != "nothing":
    folder = Path(out) / "perf"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / Path(asl).name.replace("_asl", "_cbf")).write_text("map")
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
    tasks = tasks_of(project, dataset(tmp_path / "a", **{"01": "x", "02": "always", "03": "x", "04": "once"}))
    lines: list[str] = []
    states = run_tasks(tasks, project, jobs=2, say=lines.append)
    assert [states[task.key]["state"] for task in tasks] == ["done", "failed", "done", "done"]
    assert "ended early" in states["sub-02"]["error"]
    told = [json.loads(task.measures.read_text()) for task in tasks]
    assert [entry["tries"] for entry in told] == [1, 2, 1, 2], "what the machine failed is tried once more, no oftener"
    assert sorted(line.split()[0] for line in lines if "tried once more" in line) == ["sub-02", "sub-04"]
    pids, parents = ({entry[name] for entry in told} for name in ("pid", "parent"))
    assert len(pids) == 4
    assert len(parents - pids) == 1
    assert all(entry["loaded"] for entry in told)
    assert tasks[0].report.read_text().count('"image/png"') == 1
    assert {entry["threads"] for entry in told} == {str(max(1, cores() // 2))}
    assert not [child for child in psutil.Process().children(recursive=True) if child.pid in pids], "none is left"


@pytest.mark.slow
def test_a_notebook_that_ends_without_a_map_has_failed_and_its_message_names_no_folder(project, tmp_path):
    (project / "notebooks" / "subject.md").write_text(SELF)
    root = dataset(tmp_path / "a", **{"01": "nothing", "02": "x"})
    (root / "sub-02" / "perf" / "sub-02_asl.nii.gz").unlink()
    (root / "sub-02" / "perf" / "sub-02_asl.nii.gz").mkdir()
    tasks = tasks_of(project, root)
    states = run_tasks(tasks, project, jobs=2)
    assert "left no map named sub-01_*" in states["sub-01"]["error"]
    assert "sub-02/perf/sub-02_asl.nii.gz" in states["sub-02"]["error"]
    for task in tasks:
        assert str(tmp_path) not in json.loads(task.state_file.read_text())["error"]


@pytest.mark.slow
def test_when_the_process_that_all_are_copies_of_dies_the_notebooks_are_tried_once_more(project, tmp_path):
    if not FORKS:
        pytest.skip("notebooks get new interpreters here")
    (project / "notebooks" / "subject.md").write_text(SELF)
    tasks = tasks_of(project, dataset(tmp_path / "a", **{"01": "all", "02": "x", "03": "x"}))
    states = run_tasks(tasks, project, jobs=2)
    assert [states[task.key]["state"] for task in tasks] == ["done"] * 3


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
    arguments = [sys.executable, "-m", "aslpinn", "study", "--bids", str(root), "-j", "1", "--no-book", "--out"]
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

    from aslpinn.files import staging

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

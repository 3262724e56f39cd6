"""Every subject, then the group, then the book: run notebooks side by side, resume by hash, say what failed.

OUT/chapters/NAME.ipynb             executed chapters
OUT/subjects/KEY/report.ipynb       one executed report a subject, with report.json (state, seconds, error, hashes) and
                                    measures.json (what the group is made of)
OUT/group/report.ipynb              the group
OUT/derivatives/aslpinn/            maps, BIDS derivatives (aslpinn-NAME: those of further estimators)
OUT/study.json                      the whole study: versions, settings, each notebook's state
OUT/site/index.html                 the book
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aslpinn import __version__
from aslpinn.data.derivatives import require_outside_raw
from aslpinn.errors import InputError
from aslpinn.estimation.estimators import PRESETS, former_default
from aslpinn.files import write_atomic

from .lock import locked
from .notebooks import Task, chapter_tasks, find_project, group_task, library_versions, stem_of, subject_tasks
from .paired import take_over
from .plan import Study, check, read_study
from .pool import cores, is_current, read_state, run_tasks, sweep
from .virtual import uses_virtual, write_virtual

__all__ = ["Study", "read_study", "run_study", "study"]


def _print(text: str) -> None:
    print(text, flush=True)


def study(
    bids_dirs: Sequence[str | Path] = (),
    out: str | Path = "build",
    jobs: int = 0,
    fast: bool = False,
    say: Callable[[str], None] = _print,
    **settings: Any,
) -> int:
    """Run a study; 0 where everything was done, 1 where a notebook or the book failed (see Study for the settings).

    Raises
    ------
    InputError
        Where a data set has no ASL series or the book's sources are not found; nothing has been written then.
    """
    plan = Study(bids=tuple(Path(d) for d in bids_dirs), out=Path(out), jobs=jobs, fast=fast, **settings)
    return run_study(plan, say)


def run_study(plan: Study, say: Callable[[str], None] = _print, only: Sequence[str] = (), collect: bool = False) -> int:
    """Run a study as planned; see study().

    only: run these subjects (their keys) and nothing else, beside other processes that do the same. collect: run no
    subject, take what those processes left, then the group, the chapters and the book.
    """
    check(plan)
    for told in dict.fromkeys(filter(None, map(former_default, plan.estimators))):
        say(f"note: {told}")
    for module in ("jupytext", "papermill"):  # of an extra; without them every notebook would fail by itself
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    project = project_of(plan)
    take_over(project, say)  # what was changed in Jupyter
    out = plan.out.resolve()
    first = replace(plan, participants=(), sessions=()) if uses_virtual(plan) else plan
    known = found_subjects(first, project)  # refuses bad input before anything is written
    for task in known:
        require_outside_raw(out, Path(task.series))
    if not uses_virtual(plan):
        _chosen(known, only)
    chapters = _chapters(plan, project)
    with locked(out, shared=bool(only)):
        if not only:
            sweep(out)
        if uses_virtual(plan):
            write_virtual(out / "virtual", plan, say)
        subjects = found_subjects(plan, project)
        if only:
            return _run_only(plan, subjects, only, project, say)
        chapter = chapter_tasks(chapters, project, out, _common(plan), [path.resolve() for path in plan.bids])
        if collect:
            states = {task.key: _left(task) for task in subjects}
            states |= run_tasks(chapter, project / "notebooks", plan.jobs, plan.force, say)
        else:
            states = run_tasks([*chapter, *subjects], project / "notebooks", plan.jobs, plan.force, say)
        tasks = [*chapter, *subjects]
        group = _run_group(plan, project, subjects, states, say)
        if group is not None:
            tasks.append(group)
        record = summary(plan, tasks, states)
        built = _finish(plan, project, tasks, record, say)
    failed = [task for task in tasks if states[task.key]["state"] != "done"]
    for task in failed:
        print(f"aslpinn: {task.title}: {states[task.key]['error']}", file=sys.stderr)
    if not built:
        print(f"aslpinn: the book was not built as it should be; {out / 'logs' / 'site.log'} says why", file=sys.stderr)
    return 1 if failed or not built else 0


def _finish(
    plan: Study, project: Path, tasks: Sequence[Task], record: dict[str, Any], say: Callable[[str], None]
) -> bool:
    """Write study.json and build the book; whether the book stands, or none was asked for."""
    from .site import build_site

    out = plan.out.resolve()
    write_atomic(out / "study.json", json.dumps(record, indent=1, sort_keys=True) + "\n")
    return build_site(project, out, tasks, record, say) if plan.book else True


def _common(plan: Study) -> dict[str, Any]:
    return {"fast": plan.fast, "seed": plan.seed}


def project_of(plan: Study) -> Path:
    """The folder with the notebooks of a study; InputError where it needs those of the book and they are not there."""
    return find_project(book=plan.book or plan.chapters is not False)


def found_subjects(plan: Study, project: Path) -> list[Task]:
    """The subjects of a study; simulated ones are among them where they have been written.

    Raises
    ------
    InputError
        Where a data set cannot be used, or no subject has the labels asked for.
    """
    out = plan.out.resolve()
    bids = list(dict.fromkeys(path.resolve() for path in plan.bids))  # the same one twice is one
    if uses_virtual(plan) and any((out / "virtual").glob("sub-*/perf/*_asl.nii.gz")):
        bids.insert(0, out / "virtual")
    estimator, preset = plan.main
    own = {
        "estimator": estimator,
        "preset": preset,
        "constants": dict(sorted(plan.constants.items())),
        "held_out": plan.held_out,
        "atlases": [str(path.resolve()) for path in plan.atlases],
        "pvc": plan.pvc,
    }
    labels = [file for path in plan.atlases for file in (path, path.with_name(f"{path.name.split('.nii')[0]}.tsv"))]
    template = project / "notebooks" / "subject.md"
    others = [
        f"{name}:{plan.preset}" if name in PRESETS and plan.preset != "default" else name for name in plan.estimators
    ]
    return subject_tasks(bids, out, template, _common(plan) | own, plan.participants, plan.sessions, others[1:], labels)


def _chapters(plan: Study, project: Path) -> list[str]:
    """Names of the chapters to run; InputError where one is named that the book does not have."""
    from .site import chapters_of

    if plan.chapters is False:
        return []
    known = chapters_of(project)
    if plan.chapters is True:
        return known
    for name in plan.chapters:
        if name not in known:
            raise InputError(f"chapters has {name!r}; expected some of {', '.join(known)}")
    return [name for name in known if name in plan.chapters]


def _run_only(
    plan: Study, subjects: Sequence[Task], only: Sequence[str], project: Path, say: Callable[[str], None]
) -> int:
    tasks = _chosen(subjects, only)
    states = run_tasks(tasks, project / "notebooks", plan.jobs, plan.force, say)
    failed = [task for task in tasks if states[task.key]["state"] != "done"]
    for task in failed:
        print(f"aslpinn: {task.title}: {states[task.key]['error']}", file=sys.stderr)
    return 1 if failed else 0


def _chosen(subjects: Sequence[Task], only: Sequence[str]) -> list[Task]:
    """The subjects of these keys; InputError where one is not known."""
    known = {task.key: task for task in subjects}
    for key in only:
        if key not in known:
            raise InputError(f"--only {key}: no such subject; `aslpinn study --list` names those of this study")
    return [known[key] for key in dict.fromkeys(only)]


def _left(task: Task) -> dict[str, Any]:
    """The state of a subject that another process ran; failed where it did not, or where it ran something else."""
    state = read_state(task)
    if state and (state.get("state") == "failed" or is_current(task, state)):
        return state
    told = "was run with other inputs, settings or code" if state else "has not been run, or its process was ended"
    return {
        "state": "failed",
        "error": f"the subject {told}; run it with --only {task.key}",
        "input_error": False,
        "seconds": 0.0,
        "peak_memory_mb": None,
        "hash": None,
        "maps": [],
    }


def _run_group(
    plan: Study,
    project: Path,
    subjects: Sequence[Task],
    states: dict[str, dict[str, Any]],
    say: Callable[[str], None],
) -> Task | None:
    """Write what the group's notebook reads and run it; None where there is no such notebook or no subject."""
    out = plan.out.resolve()
    rows: list[dict[str, Any]] = []
    read: list[Path] = []
    for subject in subjects:
        state = states[subject.key]
        done = state["state"] == "done"
        quality = _quality(subject, state) if done else None
        read += [path for path in (subject.measures, quality) if done and path]
        rows.append(
            {
                "key": subject.key,
                "dataset": subject.dataset,
                "state": state["state"],
                "error": state["error"],
                "seconds": state["seconds"] if done else None,
                "peak_memory_mb": state.get("peak_memory_mb") if done else None,
                "measures": f"../subjects/{subject.key}/measures.json" if done else None,
                "quality": os.path.relpath(quality, out / "group") if quality else None,
                "maps": _cbf_and_att(subject, state, out / "group") if done else None,
            }
        )
    task = group_task(project, out, read, _common(plan))
    if not subjects or not task.notebook.is_file():
        return None
    listed = Path(str(task.parameters["subjects"]))
    write_atomic(
        listed, json.dumps({"estimator": ":".join(filter(None, plan.main)), "subjects": rows}, indent=1) + "\n"
    )
    states |= run_tasks([task], project / "notebooks", 1, plan.force, say)
    return task


def _cbf_and_att(subject: Task, state: dict[str, Any], start: Path) -> dict[str, str]:
    """ "cbf" and "att" -> a subject's map, relative to start."""
    found = {}
    for name in ("cbf", "att"):
        for path in state.get("maps", []):
            if subject.maps and path.endswith(f"{stem_of(Path(subject.series))}_{name}.nii.gz"):
                found[name] = os.path.relpath(subject.maps / path, start)
    return found


def _quality(subject: Task, state: dict[str, Any]) -> Path | None:
    """The quality file that a subject's notebook left beside the maps; None where it has left none."""
    names = [name for name in state.get("maps", []) if name.endswith("_desc-qc_quality.json")]
    return subject.maps / names[0] if names and subject.maps else None


def summary(plan: Study, tasks: Sequence[Task], states: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What study.json holds."""
    settings = {k: v for k, v in asdict(plan).items() if k not in ("bids", "out", "force", "jobs")}
    settings["atlases"] = [path.name for path in plan.atlases]
    record: dict[str, Any] = {
        "aslpinn": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {cores()} logical cores",
        "libraries": library_versions(),
        "settings": settings,
        "chapters": {},
        "subjects": {},
        "groups": {},
    }
    for task in tasks:
        state = dict(states[task.key])
        if task.kind == "subject":
            state |= {"dataset": task.dataset, "series": Path(task.series).name, "title": task.title}
        record[f"{task.kind}s"][task.key] = state
    return record

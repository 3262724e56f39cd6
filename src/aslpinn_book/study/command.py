"""`aslpinn study` on the command line: its arguments, and the study that they ask for."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from aslpinn.errors import InputError

from .plan import Study, check, read_study, write_template


def add_arguments(parser: Any) -> None:
    """Declare the arguments of `aslpinn study` on an argparse parser."""
    add = parser.add_argument
    add("study", nargs="?", type=Path, metavar="STUDY.toml", help="settings; options override it")
    add("--init", action="store_true", help="write a commented STUDY.toml and stop")
    add("--bids", action="append", type=Path, metavar="DIR", help="a BIDS data set; may be repeated")
    add("--out", type=Path, metavar="DIR", help="folder for everything that is made (default: build)")
    add("-j", "--jobs", type=int, metavar="N", help="notebooks at a time (default: one a core)")
    add("--no-book", action="store_true", help="subjects and group only: no chapter, no page")
    add("--virtual", action="store_true", help="the simulated volunteers too, besides --bids")
    add("--volunteers", type=int, metavar="N", help="how many volunteers are simulated (default: 2)")
    add("--participant", action="append", metavar="LABEL", help="only this subject; may be repeated")
    add("--session", action="append", metavar="LABEL", help="only this session; may be repeated")
    add(
        "--estimator",
        action="append",
        metavar="NAME[:PRESET]",
        help="default: field; repeated: compared with the first",
    )
    add("--atlas", action="append", type=Path, metavar="LABELS.nii.gz", help="tables by region; may be repeated")
    add("--pvc", metavar="METHOD", help="partial volume correction: field or linear (default: off)")
    add("--preset", help="preset of pinn: default or paper")
    add("--seed", type=int, help="seed of every random choice (default: 0)")
    add("--fast", action="store_true", help="short settings: minutes become seconds, numbers are worse")
    add("--force", action="store_true", help="run everything again")
    part = parser.add_mutually_exclusive_group()
    add = part.add_argument
    add("--list", action="store_true", help="one line a subject: key, series, hash of code and settings; with tabs")
    add("--only", action="append", metavar="KEY", help="run this subject and nothing else; may be repeated")
    add("--subjects-only", action="store_true", help="run the subjects and nothing else")
    add("--collect", action="store_true", help="run no subject: group, chapters and book from what is there")
    add("--plan", type=int, metavar="N", help="what N subjects need, from the study that ran in --out")


def plan_of(arguments: Any) -> Study:
    """The study that parsed arguments ask for."""
    plan = read_study(arguments.study) if arguments.study else Study()
    changes: dict[str, Any] = {}
    lists = {"bids": "bids", "participant": "participants", "session": "sessions", "estimator": "estimators"}
    lists |= {"atlas": "atlases"}
    for option, name in lists.items():
        if getattr(arguments, option):
            changes[name] = tuple(getattr(arguments, option))
    for name in ("out", "jobs", "preset", "pvc", "seed", "volunteers"):
        if getattr(arguments, name) is not None:
            changes[name] = getattr(arguments, name)
    for name in ("virtual", "fast", "force"):
        if getattr(arguments, name):
            changes[name] = True
    if arguments.no_book:
        changes |= {"book": False, "chapters": False}
    return replace(plan, **changes)


def command(arguments: Any) -> int:
    """Run `aslpinn study` with parsed arguments; returns the exit code."""
    if arguments.init:
        path = arguments.study or Path("STUDY.toml")
        write_template(path)
        print(f"{path}: written; every key is explained there")
        return 0
    plan = plan_of(arguments)
    if arguments.plan is not None:
        from .needs import plan_table

        if arguments.plan < 1:
            raise InputError(f"--plan is {arguments.plan}; expected how many subjects, 1 or more")
        print(plan_table(plan.out, arguments.plan))
        return 0
    from .lock import locked
    from .notebooks import combined, digests
    from .run import found_subjects, project_of, run_study
    from .virtual import uses_virtual, write_virtual

    if arguments.list:
        check(plan)
        if uses_virtual(plan):
            with locked(plan.out.resolve(), shared=True):
                write_virtual(plan.out.resolve() / "virtual", plan, lambda text: print(text, file=sys.stderr))
        for task in found_subjects(plan, project_of(plan)):
            series = "".join(c if c.isprintable() else "?" for c in task.series)  # a line a subject, whatever its name
            print(task.key, series, combined(digests(replace(task, inputs=()))), sep="\t")
        return 0
    only = arguments.only or ()
    if arguments.subjects_only:
        check(plan)
        only = [task.key for task in found_subjects(plan, project_of(plan))]
    return run_study(plan, only=only, collect=arguments.collect)

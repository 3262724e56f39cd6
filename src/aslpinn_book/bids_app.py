"""`aslpinn-bids BIDS OUT participant|group`: the command line that BIDS apps have in common, over `aslpinn study`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from aslpinn import __version__
from aslpinn.parser import _Parser as OneLineParser


def parser() -> argparse.ArgumentParser:
    """The parser of `aslpinn-bids`."""
    made = OneLineParser(
        prog="aslpinn-bids",
        description="CBF and ATT of every subject of a BIDS data set, then the group. OUT/derivatives/aslpinn has the "
        "maps, OUT/subjects the pages as notebooks, OUT/group the group.",
    )
    add = made.add_argument
    add("bids_dir", type=Path, metavar="BIDS", help="BIDS data set")
    add("output_dir", type=Path, metavar="OUT", help="folder for everything that is made")
    add("analysis_level", choices=("participant", "group"), help="participant: the subjects; group: what they left")
    add("--participant-label", "--participant_label", nargs="+", metavar="LABEL", help="with or without sub-")
    add("--session-label", "--session_label", nargs="+", metavar="LABEL", help="with or without ses-")
    add("--estimator", metavar="NAME", help="default: field; consensus where there is one delay")
    add("--atlas", action="append", metavar="LABELS.nii.gz", help="tables by region; may be repeated")
    add("--pvc", metavar="METHOD", help="partial volume correction: field or linear (default: off)")
    add("--n-cpus", "--n_cpus", type=int, metavar="N", help="subjects at a time (default: one a core)")
    add("--fast", action="store_true", help="short settings, for a first look")
    add("--debug", action="store_true", help="show the traceback of an error")
    add("-v", "--version", action="version", version=f"aslpinn-bids {__version__}")
    return made


def study_arguments(argv: Sequence[str]) -> list[str]:
    """The command line of `aslpinn` that a command line of `aslpinn-bids` stands for."""
    given = parser().parse_args(argv)
    words = ["study", "--bids", str(given.bids_dir), "--out", str(given.output_dir), "--no-book"]
    for option, values in (("participant", given.participant_label), ("session", given.session_label)):
        for value in values or ():
            words += [f"--{option}", value]
    for file in given.atlas or ():
        words += ["--atlas", file]
    for option, value in (("estimator", given.estimator), ("pvc", given.pvc), ("jobs", given.n_cpus)):
        words += [f"--{option}", str(value)] if value is not None else []
    words += ["--fast"] * given.fast + ["--debug"] * given.debug
    return [*words, "--subjects-only" if given.analysis_level == "participant" else "--collect"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `aslpinn-bids`; its exit code is that of `aslpinn study`."""
    from aslpinn.cli import main as run

    try:
        words = study_arguments(sys.argv[1:] if argv is None else argv)
    except SystemExit as done:  # --help and --version, or wrong arguments
        return int(done.code or 0)
    return run(words)


if __name__ == "__main__":
    sys.exit(main())

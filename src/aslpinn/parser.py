"""The arguments of every command, their defaults and what --help says of them; nothing heavy imported."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import __version__


def parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of all commands, which it names in `command`; wrong arguments end it with 2, in one line.

    argv: what will be parsed. The arguments of `fit` are those of the estimators, those of `study` belong to the book:
    both are declared where they are called.
    """
    made = _Parser(prog="aslpinn", description="Perfusion maps from arterial spin labeling MRI.")
    made.add_argument("--version", action="version", version=f"aslpinn {__version__}")
    commands = made.add_subparsers(metavar="COMMAND", required=True)
    fit = _command(commands, "fit", "CBF and ATT maps of one series, as BIDS derivatives.")
    if "fit" in argv:
        _add_fit_arguments(fit)
    for add in (_add_check, _add_decode, _add_simulate, _add_benchmark, _add_fetch):
        add(commands)
    study = _command(commands, "study", "Fit every subject, run the chapters, build the book.")
    if "study" in argv:
        from aslpinn_book.study.command import add_arguments

        add_arguments(study)
    return made


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{value} is not in 0 ... 4294967295")
    return value


class _Parser(argparse.ArgumentParser):
    """Errors in one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _command(commands: Any, name: str, summary: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    command.set_defaults(command=name)
    return command


def _add_input(command: argparse.ArgumentParser) -> None:
    command.add_argument("asl", type=Path, metavar="ASL.nii.gz", help="ASL series of a BIDS data set")
    command.add_argument("--mask", type=Path, metavar="FILE", help="brain mask (default: made from M0)")
    command.add_argument(
        "--constant",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="replace a constant: t1_blood, t1_tissue, t1_white (s; the last with --pvc field), partition_coefficient "
        "(ml/g), labeling_efficiency, suppression_pulses; can be repeated",
    )

    command.add_argument(
        "--hematocrit",
        type=float,
        metavar="X",
        help="of the person, a share such as 0.42, for T1 of blood (default: from participants.tsv)",
    )
    command.add_argument(
        "--blood-formula",
        choices=("lu2004", "hales2016"),
        help="T1 of blood from hematocrit: Lu 2004 (default, 3 T) or Hales 2016 (1.5 to 7 T; 0.1 s longer)",
    )
    _add_motion(command)
    command.add_argument("--outliers", choices=("on", "off"), default="on", help="weigh down outlying pairs and slices")
    command.add_argument(
        "--calibration",
        choices=("voxelwise", "reference"),
        default="voxelwise",
        help="M0 of each voxel, or of a region",
    )
    command.add_argument("--smooth-m0", type=float, default=0.0, metavar="MM", help="FWHM of a Gaussian (default: 0)")
    command.add_argument(
        "--tissue", choices=("given", "estimate"), default="given", help="estimate: ICBM maps, where none are given"
    )
    _add_force(command)


def _add_motion(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--motion",
        choices=("auto", "on", "off"),
        default="auto",
        help="rigid motion of raw volumes (auto: corrected where what is subtracted lies 0.2 mm apart or more, or the "
        "session drifts by a quarter of a voxel)",
    )


#: Options of estimators that the command line has; Python has all of them.
OF_ESTIMATORS = {
    "members": "K", "epochs": "N", "seed": "N", "device": "NAME", "engine": "NAME", "objective": "NAME",
    "reading": "NAME", "edge_width": "S", "arterial": "WHEN", "vb_start": "NAME",
}  # fmt: skip


def _add_fit_arguments(command: argparse.ArgumentParser) -> None:
    from dataclasses import fields

    from .estimation.estimators import DEFAULT, ESTIMATORS, ONE_DELAY, PRESETS

    _add_input(command)
    _add_regions(command)
    _add_partial_volume(command)
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the derivatives")
    dispersing = [name for name, kind in ESTIMATORS.items() if kind.disperses]
    command.add_argument(
        "--dispersion",
        metavar="S,P",
        help=f"{', '.join(dispersing)}: a bolus spread by a gamma kernel of sharpness S per s that peaks at P s",
    )
    command.add_argument(
        "--estimator", metavar="NAME", help=f"{', '.join(ESTIMATORS)}; default: {DEFAULT}, or {ONE_DELAY} for one delay"
    )
    for estimator, presets in PRESETS.items():
        command.add_argument("--preset", metavar="NAME", help=f"{estimator}: {' or '.join(presets)}")
    groups: dict[str, Any] = {}
    for name, metavar in OF_ESTIMATORS.items():
        declared = {key: item for key, kind in ESTIMATORS.items() for item in fields(kind.options) if item.name == name}
        users = ", ".join(declared)
        if users not in groups:
            groups[users] = command.add_argument_group(f"options of {users}; others refuse them")
        first = next(iter(declared.values()))
        choices = first.metadata["choices"]
        groups[users].add_argument(
            f"--{name.replace('_', '-')}",
            type={"int": int, "float": float}.get(str(first.type), str),
            metavar=metavar,
            help=_meaning(declared) + (f" ({', '.join(choices)})" if choices else ""),
        )


def _meaning(declared: dict[str, Any]) -> str:
    """What an option means: once where all estimators that have it mean the same, else for each."""
    said = {estimator: item.metadata["meaning"] for estimator, item in declared.items()}
    if len(set(said.values())) == 1:
        return str(next(iter(said.values())))
    return "; ".join(f"{estimator}: {meaning}" for estimator, meaning in said.items())


def _add_regions(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--atlas",
        action="append",
        type=Path,
        metavar="LABELS.nii.gz",
        help="tables by region, names from its dseg.tsv: on the series' grid, of the subject's T1w space, or "
        "space-MNI152NLin2009cAsym; can be repeated",
    )
    command.add_argument(
        "--transform",
        type=Path,
        metavar="FILE",
        help="from-MNI152NLin2009cAsym_to-T1w_mode-image_xfm.h5 of fMRIPrep or ASLPrep (default: affine to M0)",
    )


def _add_partial_volume(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--pvc",
        default="off",
        metavar="METHOD",
        help="CBF of gray and of white matter apart by tissue maps: field, as two fields of estimator field "
        "with T1 of either, or linear, by regression (default: off)",
    )


def _add_check(commands: Any) -> None:
    command = _command(commands, "check", "What a series is, what will be done, what is missing; no fit.")
    _add_input(command)
    command.add_argument("--json", action="store_true", help="print it as JSON")


def _add_decode(commands: Any) -> None:
    command = _command(commands, "decode", "Hadamard-encoded volumes to a deltam series, as BIDS.")
    command.add_argument("asl", type=Path, metavar="ASL.nii.gz", help="encoded series of a BIDS data set")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the decoded data set")
    command.add_argument("--mask", type=Path, metavar="FILE", help="brain mask for the check of order and sign")
    _add_motion(command)
    _add_force(command)


def _add_force(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--force", action="store_true", help="go on where order or sign of encoded volumes contradict the kinetics"
    )


def _add_fetch(commands: Any) -> None:
    command = _command(commands, "fetch", "Public in-vivo data sets, checksummed, as BIDS, de-identified.")
    command.add_argument("name", nargs="?", metavar="NAME", help="oxford-mpld or asltk-tepcasl (default: both)")
    command.add_argument("--to", type=Path, required=True, metavar="DIR", help="the data set becomes DIR/NAME")
    command.add_argument("--base-url", metavar="URL", help="a mirror in place of raw.githubusercontent.com")


def _add_simulate(commands: Any) -> None:
    command = _command(commands, "simulate", "Virtual subjects as a BIDS data set, with their truth.")
    command.add_argument("out", type=Path, metavar="OUT", help="folder of the data set")
    command.add_argument("--subjects", type=_positive, default=1, metavar="N")
    command.add_argument("--tsnr", type=float, default=1.5, metavar="X", help="temporal SNR (default: 1.5)")
    command.add_argument(
        "--protocol", default="te11", metavar="NAME", help="te11 (default), te11-t1adjusted, te11-freelunch, te7, mpld6"
    )
    command.add_argument("--encoded", action="store_true", help="Hadamard-encoded volumes instead of deltam")
    command.add_argument("--lesion", action="store_true", help="a focal lesion: CBF -45 %%, ATT +0.9 s")
    command.add_argument("--seed", type=_seed, default=0, metavar="N")


def _add_benchmark(commands: Any) -> None:
    command = _command(commands, "benchmark", "Every estimator on the phantom, where the truth is known.")
    command.add_argument("--quick", action="store_true", help="coarse voxels, one seed, three estimators")
    command.add_argument("--out", type=Path, default=Path("build/benchmark"), metavar="DIR", help="folder of the CSV")
    command.add_argument(
        "--estimator",
        action="append",
        metavar="NAME",
        help="only this one: field, field-unguided (without M0), pinn, pinn-single (one network), nlls, smoothed, vb, "
        "vb-prior (BASIL's own start), svb, basil; can be repeated",
    )
    command.add_argument(
        "--phantom",
        action="append",
        metavar="NAME",
        help="only this one: healthy, lesion, tumor, correlated, delayed, arterial, or an unkind one: heteroscedastic, "
        "global, blurred, dropout, motion, pulsatile, tissue-t1, unrelated-m0 (not in the default); can be repeated",
    )
    command.add_argument("--tsnr", action="append", type=float, metavar="X", help="1.5 and 0.5 by default; repeatable")
    command.add_argument("--seeds", type=_positive, metavar="N", help="noise seeds (default: 3)")

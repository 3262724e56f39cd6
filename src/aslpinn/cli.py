"""The command line: arguments in, functions of the core called, errors as exit codes; nothing heavy imported."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from .errors import FitError, InputError, Problems
from .parser import OF_ESTIMATORS, parser
from .progress import ProgressReport, say

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
#: Modules that not every installation has, and the extra of this package that brings each.
EXTRAS = {"pooch": "data", "dcm2niix": "data", "SimpleITK": "data", "optuna": "ablation"}
EXTRAS |= dict.fromkeys(("yaml", "jupytext", "nbformat", "papermill", "jupyter_book"), "book")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 a subject failed, 2 the input or the arguments are wrong."""
    _open_streams()
    return _flushed(_run(sys.argv[1:] if argv is None else argv))


def _run(given: Sequence[str]) -> int:
    try:
        arguments = parser(given).parse_args(given)
    except SystemExit as done:  # --help and --version, or wrong arguments
        return int(done.code or DONE)
    debug = arguments.debug
    previous = _terminate_as_interrupt()
    try:
        _check_paths(arguments)
        return int(COMMANDS[arguments.command](arguments) or DONE)
    except KeyboardInterrupt:
        return _stop("interrupted: nothing half-written is left", INTERRUPTED, debug)
    except InputError as error:
        return _stop(str(error), WRONG, debug)
    except FitError as error:
        return _stop(str(error), FAILED, debug)
    except BrokenPipeError:  # the reader of our output, such as head, has gone
        return _reader_gone()
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _stop(f"{where}{error.strerror or error}", FAILED, debug)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module in EXTRAS:
            said = f"{module} is not installed; expected it for this command: pip install 'aslpinn[{EXTRAS[module]}]'"
            return _stop(said, WRONG, debug)
        return _stop(f"{error} (a bug: --debug shows where)", FAILED, debug)
    except Exception as error:
        lacking = _shortage(error)
        if lacking:
            return _stop(lacking, FAILED, debug)
        return _stop(f"{type(error).__name__}: {error} (a bug: --debug shows where)", FAILED, debug)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _open_streams() -> None:
    """Put nothing in the place of standard streams that are closed, so that no file of ours takes their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is not None:
            if number and isinstance(stream, io.TextIOWrapper):  # a file name need not be text
                stream.reconfigure(errors="backslashreplace")
            continue
        while True:  # the lowest free number comes first
            opened = os.open(os.devnull, os.O_RDWR)
            if opened >= number:
                break
        os.close(opened) if opened > number else os.set_inheritable(opened, True)
        setattr(sys, name, open(os.devnull, "r" if number == 0 else "w"))  # noqa: SIM115 (for as long as we run)


def _flushed(code: int) -> int:
    """The exit code, after what was printed is in its place; 1 where it cannot be."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _reader_gone()
    except OSError as error:
        _reader_gone()
        code = _stop(f"standard output: {error.strerror or error}", FAILED, False)
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (as below)
    return code


def _reader_gone() -> int:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (the interpreter flushes it at its end)
    return FAILED


def _shortage(error: BaseException | None) -> str | None:
    """What the machine lacked, where an error says so in the words of the library that met it."""
    while error is not None:
        text = str(error).lower()
        if isinstance(error, MemoryError) or "can't allocate memory" in text or "cannot allocate memory" in text:
            said = str(error).splitlines()[0][:80] if text else "none is left"
            return f"this machine has too little memory for it ({said})"
        if isinstance(error, RuntimeError) and "start new thread" in text:
            return "no thread could be started: the memory or the processes that are allowed here are used up"
        error = error.__cause__ or error.__context__
    return None


def _check_paths(arguments: argparse.Namespace) -> None:
    """InputError for a path that no file can have."""
    from pathlib import Path

    for name, value in vars(arguments).items():
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path) and "\0" in str(path):
                raise InputError(f"{name} is {str(path)!r}; expected a path without the character NUL")


def _stop(message: str, code: int, debug: bool) -> int:
    if debug:
        import traceback

        say(traceback.format_exc())
    lines = [line for line in message.splitlines() if line.strip()][:3]
    say("aslpinn: " + "\n".join(lines))
    return code


def _terminate_as_interrupt() -> dict[int, Any]:
    """Let the end of a job's time and of a terminal clean up as Ctrl-C does; the handlers of before, if set."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before: dict[int, Any] = {}
    with suppress(ValueError):  # not the main thread
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, stop)
        hangup = getattr(signal, "SIGHUP", None)
        if hangup is not None and signal.getsignal(hangup) == signal.SIG_DFL:  # nohup ignores it
            before[hangup] = signal.signal(hangup, stop)
    return before


def _fit(arguments: argparse.Namespace) -> int:
    from .data.derivatives import check_output, require_outside_raw, write_estimate
    from .data.series import load_subject
    from .estimation import fit, prepare
    from .estimation.estimators import DEFAULT, default_preset, estimator_for, former_default, options_for, uses
    from .maps.choices import check_choice, check_constants

    given = {name: value for name in OF_ESTIMATORS if (value := getattr(arguments, name)) is not None}
    preset = arguments.preset
    options_for(arguments.estimator or DEFAULT, preset, **given)  # refused now, not after the data are read
    if told := former_default(arguments.estimator, preset, given):
        say(f"note: {told}")
    constants = _constants(arguments.constant) | _dispersion(arguments.dispersion)
    check_constants(constants, arguments.pvc)
    require_outside_raw(arguments.out, arguments.asl)
    with ProgressReport() as progress:
        subject = load_subject(arguments.asl, arguments.mask, constants, **_preparation(arguments), progress=progress)
    prepare(subject.series, subject.mask, subject.acquisition)
    check_output(arguments.out, subject)
    distinct, _ = subject.acquisition.distinct
    estimator = estimator_for(len(distinct), arguments.estimator)
    if arguments.pvc != "off":
        check_choice(arguments.pvc, subject.tissue, estimator)  # refused now, not after the fit
    atlases = []
    if arguments.atlas:
        from .data.atlases import read_atlases

        atlases = read_atlases(arguments.atlas, subject, arguments.transform)
        subject.provenance["inputs"]["atlases"] = [file for atlas in atlases for file in atlas.files]
    delays = "1 delay" if len(distinct) == 1 else f"{len(distinct)} delays"
    say(f"{subject.name}: {subject.mask.sum()} voxels, {subject.series.shape[3]} volumes, {delays}")
    for line in [*subject.provenance["steps"], *(f"note: {note}" for note in subject.provenance["notes"])]:
        say(f"  {line}")
    say(f"fit: {estimator}")
    begun = time.perf_counter()
    with ProgressReport() as progress:
        estimate = fit(
            subject.series,
            subject.mask,
            subject.acquisition,
            estimator=estimator,
            preset=preset or default_preset(estimator),
            voxel_size=subject.voxel_size,
            guide=subject.guide if options_for(estimator, preset, **given).takes_guide else None,
            tissue=subject.tissue if uses(estimator, "tissue") else None,
            apart=bool(atlases) or arguments.pvc == "field",
            progress=progress,
            **given,
        )
    from .maps import quality as qc
    from .maps.further import further_maps
    from .maps.regions import parcellation_of, tables, tissue_parcellation

    found = qc.quality(subject, estimate)
    parcels = [tissue_parcellation(subject), *(parcellation_of(atlas, subject.mask) for atlas in atlases)]
    beside = qc.beside(subject, estimate, found) | tables(subject, estimate, parcels)
    more = further_maps(subject, estimate, arguments.pvc, arguments.transform)
    written = write_estimate(subject, estimate, arguments.out, beside, more)
    inside = subject.mask
    unit = "(relative)" if subject.relative else "ml/100g/min"
    att = f"ATT {_median(estimate.att[inside]):.2f} s" if estimate.att is not None else "no ATT (one delay)"
    say(f"median in the mask: CBF {_median(estimate.cbf[inside]):.1f} {unit}, {att}")
    say(qc.line(found))
    _print(f"{len(written)} maps in {written[0].parent} ({time.perf_counter() - begun:.1f} s)")
    return DONE


def _median(values: Any) -> float:
    import numpy as np

    return float(np.median(values))


def _check(arguments: argparse.Namespace) -> int:
    from .data.check import describe, require_agreement, table
    from .data.series import load_subject
    from .estimation import prepare

    constants = _constants(arguments.constant)
    options = _preparation(arguments) | {"force": True}
    if arguments.motion == "auto":
        options["motion"] = "look"  # how far the head moves, without correcting it
    wrong = Problems()
    found: dict[str, Any] = {}
    with ProgressReport() as progress, wrong.gather():
        subject = load_subject(arguments.asl, arguments.mask, constants, **options, progress=progress)
        found = describe(subject)
        if not arguments.force:
            with wrong.gather():
                require_agreement(subject)
        with wrong.gather():
            prepare(subject.series, subject.mask, subject.acquisition)
    found["missing"] = wrong.messages()
    _print(json.dumps(found, indent=2, ensure_ascii=False) if arguments.json else table(found))
    wrong.stop()
    return DONE


def _decode(arguments: argparse.Namespace) -> int:
    from .data.decode import decode

    for file in decode(arguments.asl, arguments.out, arguments.mask, motion=arguments.motion, force=arguments.force):
        _print(file)
    return DONE


def _fetch(arguments: argparse.Namespace) -> int:
    from .data.public.fetch import NAMES, fetch

    for name in [arguments.name] if arguments.name else NAMES:
        with ProgressReport() as progress:
            _print(fetch(name, arguments.to, base_url=arguments.base_url, progress=progress))
    return DONE


def _preparation(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of load_subject."""
    return {
        "motion": arguments.motion,
        "outliers": arguments.outliers == "on",
        "calibration": arguments.calibration,
        "m0_fwhm": arguments.smooth_m0,
        "tissue": arguments.tissue,
        "hematocrit": arguments.hematocrit,
        "blood_formula": arguments.blood_formula,
        "force": arguments.force,
    }


def _constants(given: Sequence[str]) -> dict[str, float]:
    values: dict[str, float] = {}
    for entry in given:
        name, _, number = (part.strip() for part in entry.partition("="))
        if name in values:
            raise InputError(f"--constant {name} is given twice; expected it once")
        try:
            values[name] = float(number)
        except ValueError:
            raise InputError(f"--constant {entry}: expected NAME=NUMBER, for example t1_blood=1.65") from None
    return values


def _dispersion(text: str | None) -> dict[str, float]:
    """The constants of --dispersion SHARPNESS,PEAK."""
    if text is None:
        return {}
    try:
        sharpness, peak = (float(number) for number in text.split(","))
    except ValueError:
        raise InputError(f"--dispersion {text}: expected SHARPNESS,PEAK in 1/s and s, for example 7.4,0.15") from None
    return {"dispersion_sharpness": sharpness, "dispersion_time_to_peak": peak}


def _print(text: object) -> None:
    """A result on stdout; an error of the file system names it."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _reader_gone()
        raise OSError(error.errno, error.strerror, "standard output") from error


def _simulate(arguments: argparse.Namespace) -> int:
    from .data import simulate, write_phantom
    from .data.derivatives import require_new

    require_new(arguments.out)
    for number in range(1, arguments.subjects + 1):
        phantom = simulate(
            arguments.protocol,
            tsnr=arguments.tsnr,
            seed=arguments.seed + number - 1,
            volunteer=None if number == 1 else number - 1,  # the first is the template brain
            lesion=arguments.lesion,
        )
        written = write_phantom(phantom, arguments.out, subject=f"{number:02d}", encoded=arguments.encoded)
        _print(written[0])
    return DONE


def _benchmark(arguments: argparse.Namespace) -> int:
    from aslpinn_book.chapters import benchmark, benchmark_tables

    from .data.derivatives import require_outside_raw
    from .files import staging

    require_outside_raw(arguments.out)
    with staging(arguments.out, keep=False):  # refused now, not after the fits
        pass
    for name in dict.fromkeys(arguments.estimator or ()):
        if name in benchmark.METHODS:
            say(f"{name}: {benchmark.described(name)}")
    rows = benchmark.run(
        estimators=arguments.estimator or None,
        tsnrs=arguments.tsnr or None,
        seeds=range(arguments.seeds) if arguments.seeds else None,
        phantoms=arguments.phantom or None,
        quick=arguments.quick,
        progress=lambda done, total, message: say(f"{done}/{total} {message}"),
    )
    for name in benchmark_tables.phantoms_in(rows):
        _print(benchmark_tables.table(rows, phantom=name) + "\n")
    if any(row.phantom == "healthy" and row.tsnr in benchmark.TSNRS for row in rows):
        _print(benchmark_tables.published(rows) + "\n")
    _print(benchmark.write_csv(rows, arguments.out / "benchmark.csv"))
    return DONE


def _study(arguments: argparse.Namespace) -> int:
    from aslpinn_book.study.command import command

    return command(arguments)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "fit": _fit,
    "check": _check,
    "decode": _decode,
    "simulate": _simulate,
    "benchmark": _benchmark,
    "fetch": _fetch,
    "study": _study,
}

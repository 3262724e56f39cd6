"""The real BASIL, where it is installed: estimator "basil" runs fabber_asl.

Series and mask are written as NIfTI into a temporary folder, the maps of the last step read back. The options are those
that "vb" and "svb" repeat: tissue only, white noise, flat prior on perfusion, normal prior on ATT.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from ..errors import FitError, InputError
from ..physics import CBF_PER_FLOW, Acquisition
from .estimate import Estimate
from .options import BasilOptions
from .problem import Floats, Problem, Request

SCALE = 1e4  # of the data; fabber's noise prior wants them well above 1e-3
PROGRAM = "fabber_asl"
MAPS = ("mean_ftiss", "mean_delttiss", "std_ftiss", "std_delttiss")


def find_program() -> Path:
    """fabber_asl, on PATH or in $FSLDIR/bin or $FSLDIR/share/fsl/bin; InputError where it is not."""
    folders: list[str | None] = [None]
    if os.environ.get("FSLDIR"):
        base = Path(os.environ["FSLDIR"])
        folders += [str(base / "bin"), str(base / "share" / "fsl" / "bin")]
    for folder in folders:
        found = shutil.which(PROGRAM, path=folder)
        if found:
            return Path(found)
    fsl = os.environ.get("FSLDIR")
    where = f"PATH or in $FSLDIR ({fsl})" if fsl else "PATH, and FSLDIR is not set"
    raise InputError(
        f"estimator 'basil' needs fabber_asl, and it is not on {where}; install FSL, "
        "or choose estimator 'vb' or 'svb', which compute the same"
    )


def slice_timing(acquisition: Acquisition) -> dict[str, str]:
    """fabber's slicedt and sliceband options for the slice offsets.

    Raises
    ------
    InputError
        Offsets that do not rise by one step along the third axis, once or band by band: fabber knows nothing else.
    """
    offset = acquisition.slice_offset
    if offset is None:
        return {}
    steps = np.diff(offset)
    step = float(steps[0])
    falls = np.flatnonzero(steps < 0)
    band = int(falls[0]) + 1 if falls.size else 0
    order = np.arange(offset.size)
    expected = offset[0] + step * (order % band if band else order)
    if acquisition.slice_axis != 2 or step <= 0 or offset[0] != 0 or not np.allclose(offset, expected, atol=1e-4):
        raise InputError(
            "SliceTiming does not rise evenly along the third axis from 0; fabber_asl takes one step for all slices: "
            "choose estimator 'vb' or 'svb'"
        )
    return {"slicedt": f"{step:.6g}"} | ({"sliceband": str(band)} if band else {})


def fabber_command(
    program: Path,
    folder: Path,
    problem: Problem,
    spatial: bool,
    att_prior: float,
    att_prior_sd: float,
    start: Path | None = None,
) -> list[str]:
    """Command of one step of fabber_asl, voxelwise or spatial, on folder/data.nii.gz and folder/mask.nii.gz.

    Every volume is given its own time and labeling duration, so repeats need no order. `start` is the posterior of the
    step before.
    """
    acquisition, constants = problem.acquisition, problem.acquisition.constants
    options = {
        "data": str(folder / "data.nii.gz"),
        "mask": str(folder / "mask.nii.gz"),
        "output": str(folder / ("spatial" if spatial else "voxelwise")),
        "model": "aslrest",
        "disp": "none",
        "exch": "mix",
        "noise": "white",
        "t1": f"{constants.t1_tissue:g}",
        "t1b": f"{constants.t1_blood:g}",
        "lambda": f"{constants.partition_coefficient:g}",
        "bat": f"{att_prior:g}",
        "batsd": f"{att_prior_sd:g}",
        "max-iterations": "20",
    } | slice_timing(acquisition)
    if spatial:
        options |= {
            "method": "spatialvb",
            "convergence": "maxits",
            "param-spatial-priors": "N+",
            "PSP_byname1": "ftiss",
            "PSP_byname1_type": "M",
        }
    else:
        options |= {"method": "vb", "convergence": "trialmode", "max-trials": "10"}
    if start is not None:
        options["continue-from-mvn"] = str(start)
    for i, pair in enumerate(problem.pair, start=1):
        options[f"ti{i}"] = f"{acquisition.time[pair]:.6f}"
        options[f"tau{i}"] = f"{acquisition.labeling_duration[pair]:.6f}"
        options[f"rpt{i}"] = "1"
    flags = ["casl", "inctiss", "infertiss", "incbat", "inferbat", "save-mean", "save-std", "save-mvn", "overwrite"]
    return [str(program), *(f"--{key}={value}" for key, value in options.items()), *(f"--{flag}" for flag in flags)]


def fit_basil(problem: Problem, request: Request, options: BasilOptions) -> Estimate:
    """Run the installed BASIL, with its own single start.

    Raises
    ------
    InputError
        fabber_asl is not installed, or cannot take the slice times.
    FitError
        The program failed; its last lines are in the message.
    """
    began = time.perf_counter()
    program, spatial, prior = find_program(), options.spatial, (options.att_prior, options.att_prior_sd)
    with tempfile.TemporaryDirectory(prefix="aslpinn-basil-") as name:
        folder = Path(name)
        _write_inputs(problem, request, folder)
        request.report(0, 2 if spatial else 1, "fabber_asl, voxelwise")
        _run(fabber_command(program, folder, problem, False, *prior))
        result = folder / "voxelwise"
        if spatial:
            request.report(1, 2, "fabber_asl, spatial")
            _run(fabber_command(program, folder, problem, True, *prior, result / "finalMVN.nii.gz"))
            result = folder / "spatial"
        flow, att, flow_sd, att_sd = (_read(result, map_name, problem) for map_name in MAPS)
    unit = np.float32(CBF_PER_FLOW / (problem.acquisition.constants.efficiency * SCALE))
    settings = options.as_dict() | {"program": program.stem}
    info = {"seconds": time.perf_counter() - began}
    return problem.estimate("basil", flow * unit, att, flow_sd * unit, att_sd, settings, info)


def _write_inputs(problem: Problem, request: Request, folder: Path) -> None:
    import nibabel as nib

    affine = np.diag([*request.voxel_size, 1.0])
    nib.save(nib.Nifti1Image(problem.volume(problem.volumes * np.float32(SCALE)), affine), folder / "data.nii.gz")
    nib.save(nib.Nifti1Image(problem.mask.astype(np.uint8), affine), folder / "mask.nii.gz")


def _run(command: list[str]) -> None:
    environment = os.environ | {"FSLOUTPUTTYPE": "NIFTI_GZ"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        last = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise FitError(f"{Path(command[0]).name} ended with code {done.returncode}: {last or 'it said nothing'}")


def _read(folder: Path, name: str, problem: Problem) -> Floats:
    from nibabel.nifti1 import Nifti1Image

    path = folder / f"{name}.nii.gz"
    if not path.exists():
        raise FitError(f"BASIL ended without writing {name}.nii.gz")
    values = np.asarray(Nifti1Image.from_filename(path).dataobj, dtype=np.float32)[tuple(problem.voxels.T)]
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)

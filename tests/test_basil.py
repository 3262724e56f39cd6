"""The estimator that runs an installed BASIL: its refusal where there is none, and the commands that it builds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aslpinn import Acquisition, InputError, fit
from aslpinn.estimation.basil import fabber_command, find_program, slice_timing
from aslpinn.estimation.problem import prepare

TAU = np.array([0.5, 0.4, 0.3, 0.5])
PLD = np.array([1.0, 0.6, 0.3, 1.0])


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("FSLDIR", raising=False)
    return tmp_path


@pytest.fixture
def problem(rng):
    return prepare(rng.normal(0.005, 0.001, (2, 3, 2, 4)), np.ones((2, 3, 2)), Acquisition(TAU, PLD))


def install(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    return program


def options(command: list[str]) -> dict[str, str]:
    return dict(part.removeprefix("--").partition("=")[::2] for part in command[1:])


def test_without_basil_the_error_says_what_to_do(nowhere, rng):
    with pytest.raises(InputError, match="needs fabber_asl") as error:
        fit(
            rng.normal(0.005, 0.001, (2, 2, 2, 4)),
            np.ones((2, 2, 2)),
            Acquisition(TAU, PLD),
            estimator="basil",
            voxel_size=(1, 1, 1),
        )
    assert "FSLDIR is not set" in str(error.value)
    assert "'svb'" in str(error.value)


def test_fabber_is_found_in_fsldir(nowhere, monkeypatch):
    fabber = install(nowhere / "fsl" / "bin", "fabber_asl")
    with pytest.raises(InputError, match="needs fabber_asl"):
        find_program()
    monkeypatch.setenv("FSLDIR", str(nowhere / "fsl"))
    assert find_program() == fabber


def test_voxelwise_command_states_model_priors_and_every_volume(problem):
    given = options(fabber_command(Path("fabber_asl"), Path("/x"), problem, False, 1.0, 1.0))
    assert given["model"] == "aslrest"
    assert (given["method"], given["convergence"], given["max-trials"]) == ("vb", "trialmode", "10")
    assert (given["disp"], given["exch"], given["noise"]) == ("none", "mix", "white")
    assert (given["t1"], given["t1b"], given["lambda"], given["bat"], given["batsd"]) == (
        "1.3",
        "1.65",
        "0.9",
        "1",
        "1",
    )
    assert {"casl", "inctiss", "infertiss", "incbat", "inferbat"} <= given.keys()
    assert "ti5" not in given
    for i in range(4):
        assert float(given[f"ti{i + 1}"]) == pytest.approx(TAU[i] + PLD[i])
        assert float(given[f"tau{i + 1}"]) == pytest.approx(TAU[i])


def test_spatial_command_continues_with_a_markov_prior_on_perfusion(problem):
    given = options(fabber_command(Path("fabber_asl"), Path("/x"), problem, True, 1.3, 1.0, Path("/x/finalMVN.nii.gz")))
    assert (given["method"], given["max-iterations"], given["param-spatial-priors"]) == ("spatialvb", "20", "N+")
    assert (given["PSP_byname1"], given["PSP_byname1_type"]) == ("ftiss", "M")
    assert given["continue-from-mvn"] == "/x/finalMVN.nii.gz"
    assert given["bat"] == "1.3"
    assert "max-trials" not in given


def test_slice_times_become_a_step_and_a_band():
    assert slice_timing(Acquisition(TAU, PLD)) == {}
    assert slice_timing(Acquisition(TAU, PLD, slice_offset=0.045 * np.arange(5))) == {"slicedt": "0.045"}
    banded = Acquisition(TAU, PLD, slice_offset=0.05 * (np.arange(8) % 4))
    assert slice_timing(banded) == {"slicedt": "0.05", "sliceband": "4"}


@pytest.mark.parametrize("offset", [[0, 0.1, 0.05, 0.15], [0.15, 0.1, 0.05, 0.0], [0, 0.1, 0.15, 0.2]])
def test_other_slice_orders_are_refused(offset):
    with pytest.raises(InputError, match="SliceTiming"):
        slice_timing(Acquisition(TAU, PLD, slice_offset=offset))

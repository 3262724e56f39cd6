"""Every estimator computes what it computed; golden/make.py says how a golden is made and when it may change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import unified_diff

import numpy as np
import pytest
from golden import make
from numpy.typing import NDArray

import aslpinn
from aslpinn.estimation import ESTIMATORS


@dataclass(frozen=True)
class Tolerance:
    """Largest mean absolute difference over the mask, as a share of the golden's mean absolute value.

    maps: of CBF and ATT. others: of SDs, arterial volume and the fitted signal at some voxels. A mean, so that one
    voxel that ends in another minimum (some 10 % in one of 2608) does not matter and a change of all voxels does.

    What rounding does was measured with loops compiled for a generic x86-64, OpenBLAS for Nehalem and torch without
    vector instructions, and with T1 of blood changed by 1e-7; what a change does with T1 of blood changed by 1e-3.
    """

    maps: float
    others: float


# One voxel after the other in float64: other machines agree to the last bit, T1 + 1e-7 moves CBF by 1e-7 and its SD by
# 8e-6. The tolerance leaves room for one voxel in another minimum. T1 + 1e-3 moves CBF by 7e-4.
VOXELWISE = Tolerance(2e-5, 1e-4)
# The same, but ATT comes from a grid whose best point changes in some voxels: T1 + 1e-7 moves CBF by 1e-4.
ON_A_GRID = Tolerance(2e-4, 3e-4)
# Float32, but 3 epochs are a few dozen steps: rounding moves maps by 2e-6 (torch, ATT) and SDs by 5e-6. The maps have
# hardly left their start, so that T1 + 1e-3 is seen in the SDs (2e-4) or the fitted signal; a learning rate of + 1e-3
# is seen in both maps (4e-5).
NETWORK = Tolerance(1e-5, 3e-5)
# Conjugate gradients and FFT: rounding moves maps by 1e-6 and SDs by 7e-6; T1 + 1e-3 moves CBF by 7e-4.
FIELD = Tolerance(2e-5, 1e-4)
# The guide's learned function multiplies rounding by a thousand: CBF 1e-4, its SD 2e-3. T1 + 1e-3 still moves CBF by
# 7e-4.
GUIDED = Tolerance(4e-4, 5e-3)
# So does the second pass after arteries or a region were found, more strongly: CBF 2e-3, SDs 3e-2. A change of T1 by
# 1e-3 is not told from that; what this golden holds is which voxels are arteries and region, and their values to 1 %.
FOCAL = Tolerance(6e-3, 6e-2)

TOLERANCES = {
    "field": FIELD,
    "field-guided": GUIDED,
    "field-focal": FOCAL,
    **dict.fromkeys(("nlls", "nlls-slices", "vb", "vb-prior", "svb"), VOXELWISE),
    **dict.fromkeys(("nlls-dispersion", "smoothed"), ON_A_GRID),
    **{name: NETWORK for name in make.FITS if name.startswith("pinn")},
}
#: Share of voxels whose flags may differ, because a value lies at the threshold: rounding changed 1 in 2608.
FLAGS = 0.002


def differences(name: str, found: dict[str, NDArray[np.float32]]) -> list[str]:
    """What differs from a golden of a fit by more than its tolerance, in words."""
    told = []
    with np.load(make.HERE / f"{name}.npz") as golden:
        if set(golden) != set(found):
            return [f"the golden has {sorted(golden)}, the fit {sorted(found)}"]
        for key, stored in golden.items():
            if found[key].shape != stored.shape or found[key].dtype != stored.dtype:
                told.append(f"{key}: {found[key].dtype} {found[key].shape}, golden {stored.dtype} {stored.shape}")
                continue
            if key == "flags":
                limit, off = FLAGS, float(np.mean(found[key] != stored))
            else:
                limit = TOLERANCES[name].maps if key in ("cbf", "att") else TOLERANCES[name].others
                off = float(np.abs(found[key] - stored.astype(np.float64)).mean() / np.abs(stored).mean())
            if not off <= limit:
                told.append(f"{key} differs by {off:.1e}; expected at most {limit:.0e}")
    return told


@pytest.mark.slow
@pytest.mark.parametrize("name", make.FITS)
def test_an_estimator_computes_what_it_computed(name):
    assert differences(name, make.fit_arrays(name)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in make.FITS if TOLERANCES[name] is not FOCAL])
def test_a_constant_changed_by_a_thousandth_is_seen(name, monkeypatch):
    call = make.FITS[name]
    changed = call.constants | {"t1_blood": 1.001 * aslpinn.Constants().t1_blood}
    monkeypatch.setitem(make.FITS, name, replace(call, constants=changed))
    assert differences(name, make.fit_arrays(name))


@pytest.mark.parametrize("name", make.PHANTOMS)
def test_the_phantom_is_what_it_was(name):
    with np.load(make.HERE / f"phantom-{name}.npz") as golden:
        found = make.phantom_arrays(name)
        assert set(golden) == set(found)
        for key, stored in golden.items():
            # Interpolation and filters in float32; the noise is drawn the same everywhere
            np.testing.assert_allclose(found[key], stored, rtol=1e-5, atol=1e-6 * np.abs(stored).max(), err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", make.TREES)
def test_a_command_writes_the_files_and_keys_that_it_wrote(name, tmp_path):
    stored = (make.HERE / f"tree-{name}.txt").read_text().splitlines()
    told = list(unified_diff(stored, make.tree(name, tmp_path), "golden", "written", lineterm=""))
    assert not told, "\n".join(told)


def test_every_estimator_has_a_golden_or_a_reason_to_have_none():
    used = {call.options.get("estimator", "field") for call in make.FITS.values()}
    assert used | set(make.LEFT_OUT) == set(ESTIMATORS)


def test_every_golden_is_of_a_call_in_the_table():
    known = {f"phantom-{name}.npz" for name in make.PHANTOMS} | {f"{name}.npz" for name in make.FITS}
    known |= {f"tree-{name}.txt" for name in make.TREES}
    assert {path.name for path in make.HERE.iterdir() if path.suffix in (".npz", ".txt")} == known

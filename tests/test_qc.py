"""The quality line: what each measure says of maps whose quality is known; outputs pass the BIDS validator."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aslpinn import Estimate, load_subject, simulate
from aslpinn.cli import main
from aslpinn.data import write_phantom
from aslpinn.maps import figures
from aslpinn.maps import quality as qc
from aslpinn.physics import delta_m


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    phantom = simulate("te7", tsnr=1.5, voxel_size=(5.0, 5.0, 7.0))
    return phantom, load_subject(write_phantom(phantom, tmp_path_factory.mktemp("qc"))[0])


def truth(phantom, scale: float = 1.0) -> Estimate:
    acquisition = phantom.acquisition
    signal = delta_m(
        scale * phantom.cbf[..., None],
        phantom.att[..., None],
        acquisition.post_labeling_delay,
        acquisition.labeling_duration,
        acquisition.constants,
    )
    return Estimate(scale * phantom.cbf, phantom.att, None, None, signal.astype(np.float32), "truth")


def test_the_true_maps_raise_no_flag_and_fit_to_the_noise(subject) -> None:
    phantom, person = subject
    found = qc.quality(person, truth(phantom))
    measures = found["Measures"]
    assert found["Flags"] == []
    assert measures["residual_over_noise"] == pytest.approx(1, abs=0.1)
    assert measures["qei"] > 0.8
    assert measures["negative_share"] < 0.05
    assert measures["gm_cbf"] == pytest.approx(phantom.cbf[person.mask & (phantom.gm > 0.7)].mean(), rel=1e-3)
    assert measures["mean_framewise_displacement"] is None
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert "QEI" in qc.line(found)
    assert all(entry["Source"] for entry in found["Thresholds"].values())


def test_wrong_maps_are_flagged(subject, rng) -> None:
    phantom, person = subject
    doubled = qc.quality(person, truth(phantom, 3.0))
    assert {"gm_cbf", "residual_over_noise"} <= set(doubled["Flags"])
    noise = truth(phantom)
    noise.cbf = np.where(person.mask, rng.normal(0, 60, person.mask.shape), 0).astype(np.float32)
    assert "qei" in qc.quality(person, noise)["Flags"]


def test_noise_is_the_same_from_repeats_and_from_neighbors(tmp_path: Path) -> None:
    for repeats in (1, 4):
        phantom = simulate("mpld6", tsnr=1.0, repeats=repeats, voxel_size=(5.0, 5.0, 7.0))
        person = load_subject(write_phantom(phantom, tmp_path / str(repeats))[0], outliers=False)
        within = phantom.noise_sd / 1.0
        assert qc.noise_sd(person) == pytest.approx(within, rel=0.15)


def test_the_quality_index_falls_with_noise_and_negative_gray_matter(subject, rng) -> None:
    phantom, person = subject
    size = person.voxel_size
    scores = [
        qc.quality_index(phantom.cbf + rng.normal(0, sd, phantom.cbf.shape), phantom.gm, phantom.wm, person.mask, size)
        for sd in (0, 30, 90)
    ]
    assert scores[0] > scores[1] > scores[2]
    assert qc.quality_index(-phantom.cbf, phantom.gm, phantom.wm, person.mask, size) < 0.1


def test_motion_is_drawn_with_units() -> None:
    figure = figures.motion(np.zeros((5, 6)), np.zeros(5))
    assert [axes.get_ylabel() for axes in figure.axes] == ["translation (mm)", "rotation (degrees)", "framewise (mm)"]


def validate(folder: Path) -> list[dict]:
    """Errors that the BIDS validator finds."""
    program = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("bids-validator-deno is not installed (extra test)")
    done = subprocess.run([program, str(folder), "--format", "json"], capture_output=True, text=True, timeout=120)
    issues = json.loads(done.stdout)["issues"]["issues"]
    return [issue for issue in issues if issue.get("severity") == "error"]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["deltam", "encoded", "pairs"])
def test_what_is_written_passes_the_bids_validator(tmp_path: Path, form: str) -> None:
    phantom = simulate("te7", tsnr=3.0, seed=1, voxel_size=(6.0, 6.0, 7.0), lesion=True)
    raw = tmp_path / "raw"
    asl = write_phantom(phantom, raw, encoded=form == "encoded", pairs=form == "pairs")[0]
    out = tmp_path / "derivatives"
    motion = [] if form == "deltam" else ["--motion", "on"]
    assert main(["fit", str(asl), "--out", str(out), "--estimator", "smoothed", *motion]) == 0
    perf = out / "sub-01" / "perf"
    assert json.loads((perf / "sub-01_desc-qc_quality.json").read_text())["Measures"]["qei"] > 0.5
    assert (perf / "sub-01_desc-motion_timeseries.svg").is_file() == bool(motion)
    assert validate(raw) == []
    assert validate(raw / "derivatives" / "truth") == []
    assert validate(out) == []
    if form == "encoded":
        assert main(["decode", str(asl), "--out", str(tmp_path / "decoded"), *motion]) == 0
        assert validate(tmp_path / "decoded") == []

"""The quality line: what each measure says of maps whose quality is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from aslpinn import Estimate, load_subject, simulate
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


def test_voxels_without_flow_are_told_by_where_they_are(subject) -> None:
    """Negative values count with those that are exactly 0, and fluid is known where tissue maps are."""
    phantom, person = subject
    estimate = truth(phantom)
    fluid = person.mask & (phantom.gm + phantom.wm < 0.5)
    deep = np.argwhere(ndimage.binary_erosion(person.mask) & ~fluid)[:10]
    estimate.cbf = np.where(person.mask, 40.0, 0.0).astype(np.float32)
    estimate.cbf[fluid] = 0
    estimate.cbf[tuple(deep.T)] = -3.0
    voxels = person.mask.sum()
    known = replace(person, tissue={"gm": phantom.gm, "wm": phantom.wm})
    found = qc.quality(known, estimate)["CbfNotAboveZero"]
    assert found["All"] == pytest.approx((fluid.sum() + 10) / voxels, abs=1e-4)
    assert found["Zero"] == found["Fluid"] == pytest.approx(fluid.sum() / voxels, abs=1e-4)
    assert found["Elsewhere"] == pytest.approx(10 / voxels, abs=1e-4)
    assert found["Edge"] == 0
    unknown = qc.quality(replace(person, tissue=None), estimate)["CbfNotAboveZero"]
    assert unknown["Fluid"] is None
    assert unknown["Edge"] + unknown["Elsewhere"] == pytest.approx(unknown["All"], abs=2e-4)

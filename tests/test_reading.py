"""What a page says can and cannot be read follows from the data, whatever they are called."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from aslpinn import Estimate, fit, load_subject, simulate
from aslpinn.cli import main
from aslpinn.data import write_phantom
from aslpinn.data.motion.correct import Motion
from aslpinn.maps import caveats as reading
from aslpinn.maps import quality as qc


@pytest.fixture(scope="module")
def repeated(tmp_path_factory):
    """Control-label pairs with repeats and tissue maps: nothing is missing."""
    phantom = simulate("mpld6", tsnr=3.0, repeats=4, voxel_size=(5.0, 5.0, 7.0), slice_time=0.03)
    person = load_subject(write_phantom(phantom, tmp_path_factory.mktemp("whole"), pairs=True)[0], motion="off")
    return phantom, person, fit(person.series, person.mask, person.acquisition, voxel_size=person.voxel_size)


def cannot(person, estimate) -> str:
    return "\n".join(reading.readings(person, estimate)["cannot"])


def test_complete_data_leave_little_that_cannot_be_read(repeated) -> None:
    _, person, estimate = repeated
    found = reading.readings(person, estimate)
    can = "\n".join(found["can"])
    for words in ("ml/100g/min", "Means over the brain", "tissue maps given", "measured 4 times", "mean curve"):
        assert words in can
    assert not any("whole brain" in s or "Motion" in s or "level of CBF" in s for s in found["cannot"])
    text = reading.as_markdown(found)
    assert text.index("What can be read") < text.index("What cannot")


def test_a_part_of_a_brain_without_repeats_raw_volumes_and_m0_timing_is_called_so(repeated) -> None:
    _, person, estimate = repeated
    part = np.zeros_like(person.mask)
    part[8:20, 8:20, 6:10] = person.mask[8:20, 8:20, 6:10]
    first = np.arange(6)
    poor = replace(
        person,
        mask=part,
        series=person.series[..., first],
        acquisition=person.acquisition.select(first),
        tissue=None,
        provenance={"volumes": {"deltam": 6}, "m0": {"type": "Separate", "repetition_time": None}, "sidecar": {}},
    )
    said = cannot(poor, estimate)
    for words in ("a part of one", "only difference images", "27 % too high", "without repeats", "no tissue maps"):
        assert words in said
    assert "suppression is not recorded" in said


def test_late_arrival_one_m0_for_all_and_missing_sds_are_said(repeated) -> None:
    _, person, estimate = repeated
    late = replace(estimate, att=np.full_like(estimate.att, 2.9), cbf_sd=None)
    given = replace(person, provenance=person.provenance | {"m0": {"type": "Estimate"}})
    said = cannot(given, late)
    assert "still arriving" in said.replace("\n", " ")
    assert "no standard deviation" in said
    assert "one M0 of blood" in said
    early = replace(estimate, att=np.full_like(estimate.att, 0.1))
    assert "upper bound" in cannot(person, early)
    wrong = replace(estimate, fitted=3 * estimate.fitted)
    assert "times the noise" in cannot(person, wrong)
    noisy = replace(estimate, cbf_sd=estimate.cbf, att_sd=np.ones_like(estimate.att))
    assert "SD is 100 % of the value. Means over many voxels" in cannot(person, noisy)


def test_a_delay_that_the_model_cannot_follow_is_named(repeated) -> None:
    _, person, estimate = repeated
    assert reading.mean_misfit(person, estimate) is None
    distinct, index = person.acquisition.distinct
    series = person.series.copy()
    series[person.mask] += np.where(index == 2, 0.3, 0.0) * series[person.mask].mean(axis=0).max()
    found = reading.mean_misfit(replace(person, series=series), estimate)
    assert found is not None
    assert found["pld"] == distinct.post_labeling_delay[2]
    assert found["measured"] > found["fitted"]


def test_flags_are_counted_over_the_mask() -> None:
    mask = np.ones((2, 2, 1), bool)
    mask[0, 0] = False
    flags = np.array([[[7], [1]], [[3], [0]]], dtype=np.uint8)
    text = qc.flagged_voxels(flags, {"1": "at a bound", "2": "unsure"}, mask)
    assert text.splitlines() == [" 66.7 %  at a bound", " 33.3 %  unsure", " 33.3 %  none of these"]
    assert "flags no voxels" in qc.flagged_voxels(None, {}, mask)


def test_flagged_measures_come_with_their_range_and_source(repeated) -> None:
    _, person, estimate = repeated
    wild = Estimate(3 * estimate.cbf, estimate.att, None, None, 3 * estimate.fitted, "wrong")
    found = qc.quality(person, wild)
    lines = qc.details(found)
    assert [line.split(":")[0] for line in lines] == found["Flags"]
    assert any("gm_cbf" in line and "20 to 120" in line and "Clement" in line for line in lines)
    assert set(qc.beside(person, estimate)) == {"_desc-qc_quality.json"}


def test_the_figure_of_motion_goes_beside_the_maps_the_same_on_every_run(repeated) -> None:
    _, person, estimate = repeated
    shifts = np.zeros((len(person.acquisition), 6))
    moved = replace(person, motion=Motion(shifts, shifts[:, 0], person.mask, "M0", "", 3))
    first, again = qc.beside(moved, estimate), qc.beside(moved, estimate)
    assert set(first) == {"_desc-qc_quality.json", "_desc-motion_timeseries.svg"}
    assert first == again


def test_a_crop_of_one_brain_fits_and_is_called_what_it_is(shared, tmp_path) -> None:
    asl = shared / "data" / "asltk-tepcasl" / "sub-01" / "perf" / "sub-01_asl.nii.gz"
    assert main(["fit", str(asl), "--out", str(tmp_path), "--estimator", "nlls"]) == 0
    written = json.loads((tmp_path / "sub-01" / "perf" / "sub-01_desc-qc_quality.json").read_text())
    assert "residual_over_noise" in written["Flags"]
    person = load_subject(asl)
    estimate = fit(person.series, person.mask, person.acquisition, estimator="nlls", voxel_size=person.voxel_size)
    said = cannot(person, estimate)
    for words in ("309 ml", "repetition time of M0 is not recorded", "only difference images", "without repeats"):
        assert words in said
    assert "no tissue maps" in said
    assert "Means over the brain" not in "\n".join(reading.readings(person, estimate)["can"])

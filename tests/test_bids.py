"""Reading BIDS and writing derivatives: pairs, timing, M0, masks, refusals, round trips."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aslpinn import Acquisition, Estimate, InputError, load_subject
from aslpinn.data import describe, write_estimate
from aslpinn.data.brain_mask import brain_mask
from aslpinn.data.calibration import calibrate, relaxation_factor
from aslpinn.data.check import table
from aslpinn.data.series import subject_name
from aslpinn.data.volumes import form_pairs

SHAPE = (12, 13, 5)
AFFINE = np.array([[-3.0, 0, 0, 18], [0, 3.0, 0, -19], [0, 0, 6.0, -12], [0, 0, 0, 1.0]])
PLD = [0.5, 1.0, 1.5]


def ball() -> np.ndarray:
    grid = np.indices(SHAPE).reshape(3, -1).T - (np.array(SHAPE) - 1) / 2
    return ((grid / (0.45 * np.array(SHAPE))) ** 2).sum(axis=1).reshape(SHAPE) < 1


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    nib.save(nib.Nifti1Image(np.asarray(data, dtype=np.float32), affine), path)


class DataSet:
    """A small BIDS data set of control-label pairs at three delays, with an M0 scan, that a test may spoil."""

    def __init__(self, root: Path, types: list[str] | None = None, pld: list[float] | None = None) -> None:
        self.root, self.perf = root, root / "sub-01" / "perf"
        self.perf.mkdir(parents=True)
        (root / "dataset_description.json").write_text('{"Name": "t", "BIDSVersion": "1.10.0"}')
        self.asl = self.perf / "sub-01_asl.nii.gz"
        self.m0 = self.perf / "sub-01_m0scan.nii.gz"
        self.types = types or ["label", "control"] * 3
        self.pld = pld or [d for d in PLD for _ in range(2)]
        self.brain = ball()
        self.m0_data = np.where(self.brain, 1000.0, 0.0)
        rows = zip(self.types, self.pld, strict=True)
        # Control minus label is 10 x PLD everywhere in the brain, so that a wrong pair shows.
        volumes = [np.where(self.brain, 500.0 - (10 * d if word == "label" else 0), 0.0) for word, d in rows]
        self.data = np.stack(volumes, axis=-1)
        self.sidecar: dict[str, Any] = {
            "ArterialSpinLabelingType": "PCASL",
            "MRAcquisitionType": "3D",
            "LabelingDuration": 1.8,
            "PostLabelingDelay": self.pld,
            "M0Type": "Separate",
            "BackgroundSuppression": False,
            "TotalAcquiredPairs": len(self.types) // 2,
        }
        self.m0_sidecar = {"RepetitionTimePreparation": 6.0, "IntendedFor": "bids::sub-01/perf/sub-01_asl.nii.gz"}
        self.context = "volume_type\n" + "".join(f"{word}\n" for word in self.types)

    def write(self) -> Path:
        save(self.asl, self.data)
        save(self.m0, self.m0_data)
        (self.perf / "sub-01_asl.json").write_text(json.dumps(self.sidecar))
        (self.perf / "sub-01_m0scan.json").write_text(json.dumps(self.m0_sidecar))
        (self.perf / "sub-01_aslcontext.tsv").write_text(self.context)
        return self.asl


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return DataSet(tmp_path / "raw")


# --- what is read ---


def test_pairs_are_control_minus_label_over_m0_of_blood(data: DataSet) -> None:
    subject = load_subject(data.write())
    assert subject.name == "sub-01"
    assert subject.series.dtype == np.float32
    np.testing.assert_array_equal(subject.pair_index, [[1, 0], [3, 2], [5, 4]])
    # 10 x PLD over M0b = 1000 / 0.9
    inside = subject.series[subject.mask]
    np.testing.assert_allclose(inside, np.broadcast_to(np.array(PLD) * 10 * 0.9 / 1000, inside.shape), rtol=1e-5)
    np.testing.assert_array_equal(subject.acquisition.post_labeling_delay, PLD)
    np.testing.assert_array_equal(subject.acquisition.labeling_duration, [1.8] * 3)
    np.testing.assert_array_equal(subject.mask, data.brain)
    assert not subject.series[~subject.mask].any()


def test_scaled_integers_are_read_with_their_scaling(data: DataSet) -> None:
    data.write()
    image = nib.Nifti1Image(np.round(data.data * 10).astype(np.int16), AFFINE)
    image.header.set_slope_inter(0.1, 0)
    expected = load_subject(data.asl).series
    nib.save(image, data.asl)
    np.testing.assert_allclose(load_subject(data.asl).series, expected, atol=1e-5)


def test_included_m0_is_corrected_for_its_repetition_time(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "raw", ["m0scan", *["control", "label"] * 3], [0.0, *[d for d in PLD for _ in range(2)]])
    data.data[..., 0] = data.m0_data
    data.sidecar |= {"M0Type": "Included", "RepetitionTimePreparation": 2.0, "TotalAcquiredPairs": 3}
    data.sidecar["LabelingDuration"] = [0.0] + [1.8] * 6
    subject = load_subject(data.write())
    assert subject.m0[6, 6, 2] == pytest.approx(1000 / (1 - np.exp(-2 / 1.3)), rel=1e-5)
    assert len(subject.acquisition) == 3
    assert subject.provenance["m0"]["relaxation"] == pytest.approx(1 - np.exp(-2 / 1.3))
    data.sidecar["RepetitionTimePreparation"] = 8.0
    assert load_subject(data.write()).m0[6, 6, 2] == pytest.approx(1000)
    data.sidecar["RepetitionTimePreparation"] = 0  # a placeholder
    subject = load_subject(data.write())
    assert subject.m0[6, 6, 2] == pytest.approx(1000)
    assert any("RepetitionTimePreparation" in note for note in subject.provenance["notes"])


def test_an_m0_estimate_is_that_of_blood(data: DataSet) -> None:
    data.sidecar |= {"M0Type": "Estimate", "M0Estimate": 1200.0}
    subject = load_subject(data.write())
    np.testing.assert_allclose(subject.m0b[subject.mask], 1200)
    np.testing.assert_allclose(subject.series[subject.mask][:, 1], 10 / 1200, rtol=1e-5)


@pytest.mark.parametrize("direction", ["k", "k-", "i", None])
def test_slice_times_lengthen_the_delays_along_their_axis(data: DataSet, direction: str | None) -> None:
    axis = 0 if direction == "i" else 2
    times = [0.05 * k for k in range(SHAPE[axis])]
    data.sidecar |= {"MRAcquisitionType": "2D", "SliceTiming": times, "RepetitionTimePreparation": 4.0}
    if direction:
        data.sidecar["SliceEncodingDirection"] = direction
    acquisition = load_subject(data.write()).acquisition
    last = np.array([[SHAPE[0] - 1, 0, SHAPE[2] - 1]])
    expected = 0.0 if direction == "k-" else times[-1]
    assert acquisition.slice_axis == axis
    np.testing.assert_allclose(acquisition.pld_at(last)[0], np.array(PLD) + expected)


def test_slice_times_of_a_3d_readout_are_not_used(data: DataSet) -> None:
    data.sidecar["SliceTiming"] = [0.1 * k for k in range(SHAPE[2])]
    subject = load_subject(data.write())
    assert subject.acquisition.slice_offset is None
    assert any("SliceTiming" in note for note in subject.provenance["notes"])


def test_suppression_pulses_and_constants_reach_the_model(data: DataSet) -> None:
    data.sidecar |= {"BackgroundSuppression": True, "BackgroundSuppressionNumberPulses": 2}
    assert load_subject(data.write()).acquisition.constants.efficiency == pytest.approx(0.85 * 0.95**2)
    assert load_subject(data.asl, constants={"t1_blood": 1.5}).acquisition.constants.t1_blood == 1.5
    with pytest.raises(InputError, match="no constant 't2'"):
        load_subject(data.asl, constants={"t2": 1.0})
    assert load_subject(data.asl, constants={"suppression_pulses": 3.0}).acquisition.constants.suppression_pulses == 3
    for wrong in (1.7, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"suppression_pulses is .*expected a whole number"):
            load_subject(data.asl, constants={"suppression_pulses": wrong})


def test_a_sidecar_higher_in_the_data_set_is_inherited_and_the_nearest_wins(data: DataSet) -> None:
    higher = {"LabelingDuration": 1.4, "PostLabelingDelay": 9.0, "ArterialSpinLabelingType": "PCASL"}
    del data.sidecar["LabelingDuration"]
    data.write()
    (data.root / "asl.json").write_text(json.dumps(higher))
    (data.root / "sub-02_asl.json").write_text(json.dumps({"LabelingDuration": 0.3}))
    acquisition = load_subject(data.asl).acquisition
    np.testing.assert_array_equal(acquisition.labeling_duration, [1.4] * 3)
    np.testing.assert_array_equal(acquisition.post_labeling_delay, PLD)


def test_m0_is_found_by_intended_for_before_its_name(data: DataSet) -> None:
    data.write()
    other = data.perf / "sub-01_acq-long_m0scan.nii.gz"
    save(other, data.m0_data * 2)
    other.with_name("sub-01_acq-long_m0scan.json").write_text(json.dumps(data.m0_sidecar))
    (data.perf / "sub-01_m0scan.json").write_text("{}")
    assert load_subject(data.asl).m0[6, 6, 2] == pytest.approx(2000)


@pytest.mark.parametrize(
    ("file", "name", "folder"),
    [
        ("sub-01_asl.nii.gz", "sub-01", "sub-01"),
        ("sub-01_ses-02_asl.nii", "sub-01_ses-02", "sub-01/ses-02"),
        ("sub-01_run-2_asl.nii.gz", "sub-01_run-2", "sub-01"),
        ("brain_asl.nii.gz", "brain", "brain"),
        ("sub-pilot_1_asl.nii.gz", "sub-pilot_1", "sub-pilot"),
        ("sub-01_run1_asl.nii.gz", "sub-01_run1", "sub-01"),
        ("sub-01.v2_asl.nii.gz", "sub-01.v2", "sub-01.v2"),
    ],
)
def test_names_of_outputs(file: str, name: str, folder: str) -> None:
    assert subject_name(Path(file)) == (name, folder)


@pytest.mark.parametrize(
    "file", ["..._asl.nii.gz", "_asl.nii", "sub-1<b>_asl.nii.gz", "a b.nii", "sub-01_desc-sd_asl.nii.gz", "x" * 200]
)
def test_names_that_could_not_be_kept_are_refused(file: str) -> None:
    with pytest.raises(InputError, match="rename"):
        subject_name(Path(file))


@given(st.text(max_size=40) | st.from_regex(r"[A-Za-z0-9._+-]{1,40}", fullmatch=True))
def test_a_file_name_is_kept_or_refused_and_never_leads_out_of_the_output_folder(stem: str) -> None:
    stem = stem.replace("/", "_").replace("\0", "")
    try:
        name, folder = subject_name(Path(f"{stem}_asl.nii.gz"))
    except InputError:
        return
    assert name == stem
    for part in (name, *folder.split("/")):
        assert part not in ("", ".", "..")
        assert set(part) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.+")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_order_of_control_and_label_gives_the_same_pairs(draw: st.DataObject) -> None:
    delays = draw.draw(st.lists(st.sampled_from([0.3, 0.8, 1.4, 2.0]), min_size=1, max_size=4, unique=True))
    repeats = draw.draw(st.integers(1, 4))
    volumes = [(word, d) for d in delays for word in ("control", "label") for _ in range(repeats)]
    volumes = draw.draw(st.permutations(volumes))
    types, pld = [v[0] for v in volumes], [v[1] for v in volumes]
    pairs, lone = form_pairs(types, [1.8] * len(types), pld)
    assert not lone
    assert len(pairs) == repeats * len(delays)
    assert sorted(pairs.ravel().tolist()) == list(range(len(types)))  # every volume once
    for control, label in pairs:
        assert (types[control], types[label]) == ("control", "label")
        assert pld[control] == pld[label]
    assert pairs.min(axis=1).tolist() == sorted(pairs.min(axis=1).tolist())


@given(st.floats(0.3, 20), st.floats(0.5, 4))
def test_short_repetition_times_show_less_m0_and_long_ones_all(repetition: float, t1: float) -> None:
    share = relaxation_factor(repetition, t1)
    assert 0 < share <= 1
    assert share == (1 if repetition >= 5 else pytest.approx(1 - np.exp(-repetition / t1)))
    assert relaxation_factor(None, t1) == relaxation_factor(0, t1) == 1


def test_m0_near_zero_in_a_given_mask_gives_no_huge_signal(data: DataSet, tmp_path: Path) -> None:
    data.m0_data[6, 6, 2] = 1e-12
    data.m0_data[5, 6, 2] = -3
    data.write()
    save(tmp_path / "mask.nii.gz", data.brain)
    subject = load_subject(data.asl, tmp_path / "mask.nii.gz")
    assert np.isfinite(subject.series).all()
    assert subject.m0[6, 6, 2] == pytest.approx(1000)  # the local median
    assert any("2 mask voxels" in note for note in subject.provenance["notes"])
    clean = calibrate(data.m0_data.astype(np.float32), data.brain, 0.9)
    assert clean.m0b[data.brain].min() >= 0.1 * 1000 / 0.9 - 1e-3


def test_the_mask_leaves_out_noise_and_scalp_and_fills_holes(rng: np.random.Generator) -> None:
    grid = np.indices((48, 48, 12)).astype(float) - np.array([23.5, 23.5, 5.5]).reshape(3, 1, 1, 1)
    radius = np.sqrt((grid[:2] ** 2).sum(axis=0))
    brain = radius < 16
    image = np.where(brain, 1000.0, 0.0) + np.where((radius > 19) & (radius < 21), 600.0, 0.0)
    image[(radius < 3)] = 80.0  # dark inside
    noisy = np.abs(image + rng.normal(0, 40, image.shape)).astype(np.float32)
    mask = brain_mask(noisy, (3.5, 3.5, 5.0))
    dice = 2 * (mask & brain).sum() / (mask.sum() + brain.sum())
    assert dice > 0.97


def test_the_mask_of_suppressed_controls_leaves_out_scalp_as_bright_as_brain_elsewhere(
    rng: np.random.Generator,
) -> None:
    """A coil makes scalp on one side as bright as brain on the other; it touches the brain along a quarter of it."""
    x, y, _ = np.indices((48, 48, 12)).astype(float) - np.array([23.5, 23.5, 5.5]).reshape(3, 1, 1, 1)
    radius = np.hypot(x, y)
    brain = radius < 15
    scalp = (radius >= 15) & (radius < 20) & (x > 10)
    coil = np.exp(x / 60)
    image = (np.where(brain, 1000.0, 0.0) + np.where(scalp, 420.0, 0.0)) * coil
    image[(radius < 3)] *= 0.3  # what the pulses null
    noisy = np.abs(image + rng.normal(0, 20, image.shape)).astype(np.float32)
    control, m0 = (brain_mask(noisy, (3.5, 3.5, 5.0), control=which) for which in (True, False))
    assert (m0 & scalp).sum() > 0.5 * scalp.sum()
    assert (control & scalp).sum() < 0.02 * scalp.sum()
    assert (control & brain).sum() > 0.98 * brain.sum()
    assert np.array_equal(control, brain_mask(1e6 * noisy, (3.5, 3.5, 5.0), control=True))


def test_tissue_maps_are_found_by_their_bids_names(data: DataSet) -> None:
    data.write()
    assert load_subject(data.asl).tissue is None
    for label in ("GM", "WM"):
        save(data.perf / f"sub-01_label-{label}_probseg.nii.gz", data.brain * 0.5)
    tissue = load_subject(data.asl).tissue
    assert tissue is not None
    assert set(tissue) == {"gm", "wm"}


def test_check_says_what_will_be_done_and_what_is_missing(data: DataSet) -> None:
    del data.sidecar["BackgroundSuppression"]
    found = describe(load_subject(data.write()))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert [entry["post_labeling_delay"] for entry in found["delays"]] == PLD
    text = table(found)
    assert "3 control-label pairs" in text
    assert "BackgroundSuppression is missing" in text


def test_the_shadows_that_macos_leaves_beside_files_are_not_read(data: DataSet) -> None:
    data.write()
    (data.perf / "sub-01_m0scan.json").write_text("{}")
    for file in list(data.perf.iterdir()):
        file.with_name(f"._{file.name}").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")
    assert load_subject(data.asl).m0[6, 6, 2] == pytest.approx(1000)


# --- what is refused ---


def _edit(**values: Any) -> Callable[[DataSet], None]:
    return lambda data: data.sidecar.update(values)


def _drop(name: str) -> Callable[[DataSet], None]:
    return lambda data: data.sidecar.pop(name) and None


def _context(text: str) -> Callable[[DataSet], None]:
    return lambda data: setattr(data, "context", text)


def _nan(data: DataSet) -> None:
    data.data[6, 6, 2, 0] = np.nan


def _zeros(data: DataSet) -> None:
    data.data[:] = 0


def _zero_volume(data: DataSet) -> None:
    data.data[..., 3] = 0


def _flat(data: DataSet) -> None:
    data.data[:] = 500


def _three_dimensions(data: DataSet) -> None:
    data.data = data.data[..., 0]


def _empty_m0(data: DataSet) -> None:
    data.m0_data[:] = 0


def _other_m0(data: DataSet) -> None:
    data.m0_data = data.m0_data[:6]


BROKEN: dict[str, tuple[Callable[[DataSet], None], str]] = {
    "PASL": (_edit(ArterialSpinLabelingType="PASL"), "ArterialSpinLabelingType"),
    "no labeling type": (_drop("ArterialSpinLabelingType"), "ArterialSpinLabelingType"),
    "PLD in ms": (_edit(PostLabelingDelay=[500, 500, 1000, 1000, 1500, 1500]), "PostLabelingDelay.*milliseconds"),
    "duration in ms": (_edit(LabelingDuration=1800), "LabelingDuration.*milliseconds"),
    "PLD count": (_edit(PostLabelingDelay=PLD), "PostLabelingDelay has 3 entries"),
    "PLD missing": (_drop("PostLabelingDelay"), "PostLabelingDelay is missing"),
    "PLD a word": (_edit(PostLabelingDelay="1.8"), "PostLabelingDelay"),
    "PLD true": (_edit(PostLabelingDelay=True), "PostLabelingDelay"),
    "PLD negative": (_edit(PostLabelingDelay=-1), "PostLabelingDelay"),
    "PLD NaN": (_edit(PostLabelingDelay=float("nan")), "PostLabelingDelay"),
    "PLD enormous": (_edit(PostLabelingDelay=10**400), "PostLabelingDelay"),
    "duration zero": (_edit(LabelingDuration=0), "LabelingDuration"),
    "PLD differs in a pair": (
        _edit(PostLabelingDelay=[0.5, 1.0, 1.0, 1.0, 1.5, 1.5]),
        "perf/sub-01_aslcontext.tsv: . control and . label",
    ),
    "M0 of no kind": (_edit(M0Type="None"), "M0Type"),
    "M0Type missing": (_drop("M0Type"), "M0Type is missing"),
    "M0 not included": (_edit(M0Type="Included"), "M0Type.*m0scan"),
    "no estimate": (_edit(M0Type="Estimate"), "M0Estimate is missing"),
    "estimate beyond float32": (_edit(M0Type="Estimate", M0Estimate=1e300), r"M0Estimate is 1e\+300"),
    "estimate zero": (_edit(M0Type="Estimate", M0Estimate=0), "M0Estimate is 0"),
    "M0 empty": (_empty_m0, "m0scan.nii.gz.*above zero"),
    "M0 on another grid": (_other_m0, "6 x 13 x 5 voxels.*reaches 50 %"),
    "too few pairs": (_edit(TotalAcquiredPairs=2), "TotalAcquiredPairs"),
    "pulses without suppression": (_edit(BackgroundSuppressionNumberPulses=2), "BackgroundSuppressionNumberPulses"),
    "half a pulse": (
        _edit(BackgroundSuppression=True, BackgroundSuppressionNumberPulses=1.5),
        "BackgroundSuppressionNumberPulses",
    ),
    "suppression a word": (_edit(BackgroundSuppression="yes"), "BackgroundSuppression"),
    "slice count": (_edit(MRAcquisitionType="2D", SliceTiming=[0, 0.1]), "SliceTiming has 2 entries"),
    "slices in ms": (_edit(MRAcquisitionType="2D", SliceTiming=[0, 40, 80, 120, 160]), "SliceTiming.*milliseconds"),
    "slices after the TR": (
        _edit(MRAcquisitionType="2D", SliceTiming=[0, 1, 2, 3, 4], RepetitionTimePreparation=3),
        "SliceTiming",
    ),
    "1D": (_edit(MRAcquisitionType="1D"), "MRAcquisitionType"),
    "cbf volumes": (_context("volume_type\n" + "cbf\n" * 6), "cbf"),
    "row missing": (_context("volume_type\n" + "label\ncontrol\n" * 2), "4 rows; expected 6"),
    "no header": (_context("label\ncontrol\n" * 3), "volume_type"),
    "empty context": (_context(""), "an empty file"),
    "unknown word": (_context("volume_type\n" + "tag\ncontrol\n" * 3), "row 1 of volume_type is 'tag'"),
    "both kinds": (_context("volume_type\n" + "label\ncontrol\n" * 2 + "deltam\ndeltam\n"), "not both"),
    "unpaired": (_context("volume_type\n" + "label\ncontrol\n" * 2 + "label\nlabel\n"), "0 control and 2 label"),
    "only M0": (_context("volume_type\n" + "m0scan\n" * 6), "expected control and label"),
    "NaN": (_nan, "NaN"),
    "zeros": (_zeros, "zero everywhere"),
    "a zero volume": (_zero_volume, r"volume 3 \(control\)"),
    "no difference": (_flat, "control minus label is zero"),
    "3D": (_three_dimensions, "expected 4 dimensions"),
}


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load_subject(path, **options)
    message = str(caught.value)
    assert len(message.splitlines()) <= 3
    assert len(message) < 600
    return message


@pytest.mark.parametrize("case", BROKEN)
def test_broken_input_is_refused_with_its_field(data: DataSet, case: str) -> None:
    spoil, expected = BROKEN[case]
    spoil(data)
    message = refusal(data.write())
    assert re.search(expected, message), message
    assert "expected" in message


@pytest.mark.parametrize(
    "name", ["sub-01_asl.nii.gz", "sub-01_asl.json", "sub-01_aslcontext.tsv", "sub-01_m0scan.nii.gz"]
)
def test_missing_files_are_named(data: DataSet, name: str) -> None:
    data.write()
    (data.perf / name).unlink()
    assert name in refusal(data.asl)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "\x00", "[" * 100_000])
def test_sidecars_that_are_no_json_object_are_refused(data: DataSet, text: str) -> None:
    data.write()
    (data.perf / "sub-01_asl.json").write_text(text)
    assert "sub-01_asl.json" in refusal(data.asl)


def test_truncated_and_foreign_images_are_refused(data: DataSet, tmp_path: Path) -> None:
    data.write()
    whole = data.asl.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not an image", gzip.compress(gzip.decompress(whole)[:5000])):
        data.asl.write_bytes(content)
        assert "sub-01_asl.nii.gz" in refusal(data.asl)
    assert "is a folder" in refusal(tmp_path)


@settings(max_examples=80, deadline=None)
@given(position=st.integers(0, 347), byte=st.integers(0, 255))
def test_a_damaged_header_is_read_or_refused_but_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, position: int, byte: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "header"
    data = DataSet(folder) if not folder.exists() else None
    asl = data.write() if data else folder / "sub-01" / "perf" / "sub-01_asl.nii.gz"
    plain = folder / "sub-01" / "perf" / "whole"
    if data:
        plain.write_bytes(gzip.decompress(asl.read_bytes()))
    content = bytearray(plain.read_bytes())
    content[position] = byte
    asl.write_bytes(gzip.compress(bytes(content), 1))
    with suppress(InputError):
        assert np.isfinite(load_subject(asl).series).all()


@pytest.mark.parametrize(
    ("content", "expected"),
    [(np.zeros(SHAPE), "no voxel above"), (np.ones((3, 3, 3)), "3 x 3 x 3 voxels")],
)
def test_unusable_masks_are_refused(data: DataSet, tmp_path: Path, content: np.ndarray, expected: str) -> None:
    data.write()
    save(tmp_path / "mask.nii.gz", content)
    assert expected in refusal(data.asl, mask=tmp_path / "mask.nii.gz")
    shifted = AFFINE.copy()
    shifted[0, 3] += 30
    save(tmp_path / "far.nii.gz", data.brain, shifted)
    assert "30.0 mm away" in refusal(data.asl, mask=tmp_path / "far.nii.gz")


# --- what is written ---


def made_estimate(shape: tuple[int, ...], delays: int, sd: bool = True) -> Estimate:
    volume = np.linspace(0, 80, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    fitted = np.stack([volume * 1e-4 * (k + 1) for k in range(delays)], axis=-1)
    spread = volume * 0.1 if sd else None
    info = {"seconds": 0.1, "loss": float("nan")}
    return Estimate(volume, volume / 60, spread, spread, fitted, "nlls", {"seed": 3, "step": np.float32(0.5)}, info)


def test_maps_round_trip_on_the_grid_of_the_input(data: DataSet, tmp_path: Path) -> None:
    subject = load_subject(data.write())
    estimate = made_estimate(SHAPE, 3)
    out = tmp_path / "out"
    files = write_estimate(subject, estimate, out)
    names = ["cbf", "att", "desc-sd_cbf", "desc-sd_att", "desc-fit_deltam"]
    assert files == [out / "sub-01" / "perf" / f"sub-01_{name}.nii.gz" for name in names]
    cbf = nib.load(files[0])
    assert cbf.get_data_dtype() == np.float32
    np.testing.assert_array_equal(cbf.get_fdata(dtype=np.float32), estimate.cbf)
    np.testing.assert_allclose(cbf.affine, AFFINE)
    # In the input's units the fit is multiplied by M0b, and compares with control minus label.
    deltam = nib.load(files[4]).get_fdata()
    np.testing.assert_allclose(deltam, estimate.fitted * subject.m0b[..., None], rtol=1e-5)
    about = json.loads(files[0].with_name("sub-01_cbf.json").read_text())
    assert about["Units"] == "ml/100g/min"
    assert about["Constants"]["t1_blood"] == {"Value": 1.65, "Units": "s", "Source": "default"}
    assert (about["Estimator"], about["Seed"]) == ("nlls", 3)
    assert about["Sources"][0] == "bids:raw:sub-01/perf/sub-01_asl.nii.gz"
    fit = json.loads(files[4].with_name("sub-01_desc-fit_deltam.json").read_text())
    assert fit["PostLabelingDelay"] == PLD
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert (out / description["DatasetLinks"]["raw"]).resolve() == data.root.resolve()
    assert "**/*_cbf.*" in (out / ".bidsignore").read_text()
    assert not list(out.glob(".aslpinn-*"))


def test_writing_twice_gives_the_same_bytes_and_leaves_no_stale_map(data: DataSet, tmp_path: Path) -> None:
    subject = load_subject(data.write())
    first = {file: file.read_bytes() for file in write_estimate(subject, made_estimate(SHAPE, 3), tmp_path / "o")}
    assert {
        file: file.read_bytes() for file in write_estimate(subject, made_estimate(SHAPE, 3), tmp_path / "o")
    } == first
    write_estimate(subject, made_estimate(SHAPE, 3, sd=False), tmp_path / "o")
    assert not list((tmp_path / "o").rglob("*desc-sd*"))


def test_repeats_are_one_volume_of_the_fit_in_order_of_first_appearance(tmp_path: Path) -> None:
    order = [1.5, 0.5, 1.5, 0.5]
    data = DataSet(tmp_path / "raw", ["control", "label"] * 4, [d for d in order for _ in range(2)])
    subject = load_subject(data.write())
    assert subject.series.shape[3] == 4
    files = write_estimate(subject, made_estimate(SHAPE, 2), tmp_path / "out")
    fit = json.loads(Path(str(files[-1]).replace(".nii.gz", ".json")).read_text())
    assert fit["PostLabelingDelay"] == [1.5, 0.5]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_when_writing_fails(
    data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    subject = load_subject(data.write())
    saved = []

    def fail(image: Any, path: Path) -> None:
        if len(saved) == 2:
            raise error
        saved.append(path)
        path.write_bytes(b"")

    monkeypatch.setattr("aslpinn.data.derivatives.nib.save", fail)
    with pytest.raises(type(error)):
        write_estimate(subject, made_estimate(SHAPE, 3), tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_the_raw_data_set_is_never_written_into(data: DataSet) -> None:
    subject = load_subject(data.write())
    with pytest.raises(InputError, match="raw data set"):
        write_estimate(subject, made_estimate(SHAPE, 3), data.root)


# --- real data ---


def test_the_oxford_series_is_read_as_its_protocol_says(shared: Path) -> None:
    asl = shared / "data" / "oxford-mpld" / "sub-01" / "perf" / "sub-01_asl.nii.gz"
    subject = load_subject(asl, motion="off")
    acquisition = subject.acquisition
    assert isinstance(acquisition, Acquisition)
    distinct, index = acquisition.distinct
    np.testing.assert_allclose(distinct.post_labeling_delay, [0.25, 0.5, 0.75, 1.0, 1.25, 1.5])
    assert np.bincount(index).tolist() == [8] * 6
    assert acquisition.constants.suppression_pulses == 2
    assert 17_000 < subject.mask.sum() < 26_000
    # Labeled blood decays and flows out: the mean signal falls with the delay, and is some tenths of a percent.
    mean = np.array([subject.series[subject.mask][:, index == k].mean() for k in range(6)])
    assert (np.diff(mean) < 0).all()
    assert 0.002 < mean[-1] < mean[0] < 0.012


def test_the_decoded_series_is_read_with_its_separate_m0(shared: Path) -> None:
    subject = load_subject(shared / "data" / "asltk-tepcasl" / "sub-01" / "perf" / "sub-01_asl.nii.gz")
    assert subject.series.shape == (35, 35, 5, 7)
    np.testing.assert_allclose(subject.acquisition.labeling_duration, [0.1, 0.1, 0.15, 0.15, 0.4, 0.8, 1.8])
    assert subject.mask.mean() > 0.85  # a crop of brain
    assert subject.provenance["m0"]["relaxation"] == 1


def test_the_3d_series_is_read_and_its_mask_is_a_brain(shared: Path) -> None:
    """Suppressed controls, no M0: the mask is that of a brain of this person, without most of the scalp."""
    subject = load_subject(shared / "data" / "oxford-tgse" / "sub-01" / "perf" / "sub-01_asl.nii.gz", motion="off")
    assert subject.series.shape == (64, 64, 20, 24)
    assert subject.acquisition.repeats.tolist() == [4] * 6
    assert np.allclose(np.unique(subject.acquisition.post_labeling_delay), np.arange(0.25, 1.51, 0.25))
    assert set(subject.acquisition.labeling_duration) == {1.4}
    assert subject.acquisition.slice_offset is None
    assert any("mask made from the mean control image" in step for step in subject.provenance["steps"])
    other = load_subject(shared / "data" / "oxford-mpld" / "sub-01" / "perf" / "sub-01_asl.nii.gz", motion="off")
    of_m0, of_controls = (s.mask.sum() * np.prod(s.voxel_size) for s in (other, subject))
    assert of_controls == pytest.approx(of_m0, rel=0.05)  # 12 % more before scalp was left out
    assert subject.series[subject.mask].mean() > 0

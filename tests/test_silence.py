"""No wrong number in silence: what looks like a series and is none is refused, or read right, or told."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from small import AFFINE, ATT, CBF, DELAYS, M0, SHAPE, Series, brain, put

from aslpinn import InputError, fit, load_subject
from aslpinn.cli import main
from aslpinn.data.calibration import M0Source, read_m0
from aslpinn.data.nifti import read_image
from aslpinn.files import commit, staging
from aslpinn.physics import Acquisition, Constants, delta_m, hadamard


@pytest.fixture
def series(tmp_path: Path) -> Series:
    return Series(tmp_path / "raw")


def run(*command: object, estimator: str | None = "nlls") -> int:
    words = [str(word) for word in command]
    return main([*words, "--estimator", estimator] if words[0] == "fit" and estimator else words)


def refused(capsys: pytest.CaptureFixture[str], *command: object, says: str = "", estimator: str = "nlls") -> str:
    """The message of a command that ends with 2, in at most three lines, and leaves nothing behind."""
    out = Path(str(command[command.index("--out") + 1])) if "--out" in command else None
    before = sorted(out.rglob("*")) if out is not None and out.exists() else []
    capsys.readouterr()
    assert run(*command, estimator=estimator) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) <= 3, said
    assert "Traceback" not in said
    assert "a bug" not in said
    assert says in said, said
    if out is not None:
        assert (sorted(out.rglob("*")) if out.exists() else []) == before
    return said


def fitted(asl: Path, out: Path, name: str = "sub-01", kind: str = "cbf", folder: str = "sub-01/perf") -> np.ndarray:
    assert run("fit", asl, "--out", out) == 0
    return np.asarray(nib.load(out / folder / f"{name}_{kind}.nii.gz").get_fdata())


# --- 1: one name, one map ---


@pytest.mark.parametrize("names", [("sub-pilot_1", "sub-pilot_2"), ("sub-01_run1", "sub-01_run2"), ("a.b", "a-b")])
def test_two_series_have_maps_of_two_names(tmp_path: Path, names: tuple[str, str]) -> None:
    out = tmp_path / "out"
    for name in names:
        folder = f"{name.split('_')[0]}/perf"
        assert run("fit", Series(tmp_path / "raw", name=name, folder=folder).write(), "--out", out) == 0
    assert {file.name for file in out.rglob("*_att.nii.gz") if "desc" not in file.name} == {
        f"{name}_att.nii.gz" for name in names
    }


def test_a_series_never_writes_over_the_maps_of_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = Series(tmp_path / "raw")
    asl, out = first.write(), tmp_path / "out"
    assert run("fit", asl, "--out", out) == 0
    assert run("fit", asl, "--out", out) == 0  # the same one again
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    plain = asl.with_name("sub-01_asl.nii")
    plain.write_bytes(gzip.decompress(asl.read_bytes()))
    unnamed = asl.with_name("sub-01.nii.gz")
    shutil.copy(asl, unnamed)
    shutil.copy(asl.with_name("sub-01_asl.json"), asl.with_name("sub-01.json"))
    other = Series(tmp_path / "elsewhere" / "raw").write()  # a data set of the same name
    session = Series(tmp_path / "raw", folder="sub-01/ses-02/perf").write()  # a session that its name lacks
    for same in (plain, unnamed, other, session):
        refused(capsys, "fit", same, "--out", out, says="from")
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


# --- 2: what is compressed is read to its end ---


def test_a_flipped_bit_is_refused_or_changes_nothing(series: Series) -> None:
    rng = np.random.default_rng(0)
    series.data += np.where(series.brain[..., None], rng.normal(0, 1, series.data.shape), 0)
    whole = series.write().read_bytes()
    right = load_subject(series.asl, outliers=False).series
    refusals = 0
    for position in rng.integers(0, 8 * len(whole), 150):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << (position % 8)
        series.asl.write_bytes(bytes(damaged))
        try:
            np.testing.assert_array_equal(load_subject(series.asl, outliers=False).series, right)
        except InputError:
            refusals += 1
    assert refusals > 140  # but for the header of gzip itself


@pytest.mark.parametrize("which", ["asl", "m0scan"])
def test_a_damaged_checksum_is_refused_by_fit(series: Series, tmp_path: Path, capsys: Any, which: str) -> None:
    series.write()
    file = series.perf / f"sub-01_{which}.nii.gz"
    whole = bytearray(file.read_bytes())
    whole[-6] ^= 4
    file.write_bytes(bytes(whole))
    refused(capsys, "fit", series.asl, "--out", tmp_path / "out", says=file.name)


def test_a_damaged_mask_is_refused(series: Series, tmp_path: Path, capsys: Any) -> None:
    put(tmp_path / "mask.nii.gz", series.brain)
    content = bytearray((tmp_path / "mask.nii.gz").read_bytes())
    content[-5] ^= 1
    (tmp_path / "mask.nii.gz").write_bytes(bytes(content))
    refused(capsys, "fit", series.write(), "--mask", tmp_path / "mask.nii.gz", "--out", tmp_path / "o", says="mask")


# --- 3: raw data stay raw ---


@pytest.mark.parametrize("inside", ["", "sub-01", "maps", "sub-01/perf", "sub-01/../sub-02"])
def test_nothing_is_written_into_raw_data(series: Series, capsys: Any, inside: str) -> None:
    asl = series.write()
    before = sorted(series.root.rglob("*"))
    refused(capsys, "fit", asl, "--out", series.root / inside, says="raw data set")
    assert sorted(series.root.rglob("*")) == before
    (series.root / "dataset_description.json").unlink()  # nor into raw data that do not say what they are
    refused(capsys, "fit", asl, "--out", series.root / inside, says="raw data set")


def test_derivatives_go_below_raw_data(series: Series) -> None:
    first = fitted(series.write(), series.root / "derivatives" / "aslpinn")
    again = fitted(series.asl, series.root / "derivatives" / "aslpinn")
    np.testing.assert_array_equal(first, again)
    assert json.loads((series.root / "dataset_description.json").read_text()) == {"Name": "t", "BIDSVersion": "1.10.0"}


def test_a_link_does_not_lead_into_raw_data(series: Series, tmp_path: Path, capsys: Any) -> None:
    asl = series.write()
    (tmp_path / "link").symlink_to(series.root)
    refused(capsys, "fit", asl, "--out", tmp_path / "link" / "maps", says="raw data set")


@pytest.mark.parametrize("command", ["decode", "simulate", "benchmark", "fetch"])
def test_commands_that_make_data_leave_other_raw_data_alone(tmp_path: Path, capsys: Any, command: str) -> None:
    other = Series(tmp_path / "other")
    other.write()
    before = {file: file.read_bytes() for file in other.root.rglob("*") if file.is_file()}
    encoded = Series(tmp_path / "raw", "encoded").write()
    words: dict[str, list[object]] = {
        "decode": ["decode", encoded, "--out", other.root],
        "simulate": ["simulate", other.root, "--protocol", "te7"],
        "benchmark": ["benchmark", "--quick", "--out", other.root / "benchmark"],
        "fetch": ["fetch", "asltk-tepcasl", "--to", other.root, "--base-url", "http://127.0.0.1:9"],
    }
    refused(capsys, *words[command], says="raw data set")
    assert {file: file.read_bytes() for file in other.root.rglob("*") if file.is_file()} == before


def test_what_makes_a_data_set_wants_a_new_or_an_empty_folder(tmp_path: Path, capsys: Any) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    encoded = Series(tmp_path / "raw", "encoded")
    refused(capsys, "simulate", full, "--protocol", "te7", says="mine.txt")
    refused(capsys, "decode", encoded.write(), "--out", full, says="mine.txt")
    assert [file.name for file in full.iterdir()] == ["mine.txt"]
    out = tmp_path / "decoded"
    out.mkdir()
    assert run("decode", encoded.asl, "--out", out) == 0
    second = Series(tmp_path / "raw", "encoded", "sub-02", "sub-02/perf").write()
    assert run("decode", second, "--out", out) == 0  # several subjects, one decoded data set
    other = Series(tmp_path / "two" / "raw2", "encoded").write()
    refused(capsys, "decode", other, "--out", out, says="sub-01_asl.json")


def test_a_description_that_a_subjects_folder_holds_hides_no_sidecar(series: Series, tmp_path: Path) -> None:
    series.sidecar.pop("LabelingDuration")
    series.write()
    (series.root / "asl.json").write_text('{"LabelingDuration": 1.8}')
    (series.root / "sub-01" / "dataset_description.json").write_text('{"DatasetType": "derivative"}')
    assert fitted(series.asl, tmp_path / "out")[5, 5, 3] == pytest.approx(CBF, rel=0.01)


# --- 4: M0 of several repetition times ---


@pytest.mark.parametrize("kind", ["Separate", "Included"])
def test_every_volume_of_m0_is_corrected_by_its_own_repetition_time(tmp_path: Path, kind: str) -> None:
    series = Series(tmp_path / "raw")
    times = [0.8, 1.5, 3.0]
    shown = [M0 * (1 - np.exp(-time / Constants().t1_tissue)) for time in times]
    scans = np.where(series.brain[..., None], shown, 0.0)
    if kind == "Separate":
        series.m0, series.m0_sidecar = scans, {"RepetitionTimePreparation": times}
    else:
        series.data = np.concatenate([series.data, scans], axis=3)
        series.types += ["m0scan"] * 3
        count = len(DELAYS)
        series.sidecar |= {"M0Type": "Included", "RepetitionTimePreparation": [4.0] * count + times}
        series.sidecar |= {"PostLabelingDelay": [*DELAYS, 0, 0, 0], "LabelingDuration": [1.8] * count + [0] * 3}
    assert fitted(series.write(), tmp_path / "out")[5, 5, 3] == pytest.approx(CBF, rel=0.01)


@pytest.mark.parametrize("times", [[2.0, 3.0], [2.0, 0.0, 3.0]])
def test_repetition_times_that_do_not_fit_the_volumes_of_m0_are_refused(
    series: Series, tmp_path: Path, capsys: Any, times: list[float]
) -> None:
    series.m0 = np.repeat(series.m0[..., None], 3, axis=3)
    series.m0_sidecar = {"RepetitionTimePreparation": times}
    refused(capsys, "fit", series.write(), "--out", tmp_path / "out", says="RepetitionTimePreparation")


# --- 5: a run's files stand together ---


def test_maps_of_two_runs_never_stand_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out" / "perf"
    folder.mkdir(parents=True)
    names = [f"{k}.nii.gz" for k in range(6)]
    for name in names:
        (folder / name).write_text("first")
    replace, calls = os.replace, []
    for failing in range(1, 14):

        def broken(source: Any, target: Any, failing: int = failing) -> None:
            calls.append(source)
            if len(calls) == failing:
                raise KeyboardInterrupt
            replace(source, target)

        calls.clear()
        with staging(tmp_path / "out") as scratch:
            for name in names:
                (scratch / name).write_text("second")
            monkeypatch.setattr("aslpinn.data.derivatives.os.replace", broken)
            try:
                commit({scratch / name: folder / name for name in names}, scratch)
                expected = {"second"}
            except KeyboardInterrupt:
                expected = {"first"}
            monkeypatch.undo()
        assert {file.read_text() for file in folder.iterdir()} == expected
        assert len(list(folder.iterdir())) == len(names)
    assert expected == {"second"}  # the last had nothing to fail at


def test_a_signal_waits_until_all_maps_are_in_place(series: Series, tmp_path: Path) -> None:
    asl, out = series.write(), tmp_path / "out"
    assert run("fit", asl, "--out", out) == 0
    code = (
        "import os, signal, sys, aslpinn.data.derivatives as d\n"
        "replace, count = os.replace, [0]\n"
        "def signaled(a, b):\n"
        "    count[0] += 1\n"
        "    if count[0] == int(sys.argv.pop() if count[0] == 1 and False else os.environ['AT']):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    replace(a, b)\n"
        "os.replace = signaled\n"
        "from aslpinn.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "fit", str(asl), "--out", str(out), "--estimator", "nlls", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"AT": "9"}, check=False)
    assert done.returncode == 130, done.stderr
    abouts = [json.loads(file.read_text()) for file in (out / "sub-01" / "perf").glob("*_[ca][bt][ft].json")]
    assert len({about["Seed"] for about in abouts if "Seed" in about}) == 1, abouts
    assert not list(out.glob(".aslpinn-*"))


def test_what_a_killed_fit_left_is_swept_by_the_next(series: Series, tmp_path: Path) -> None:
    asl, out = series.write(), tmp_path / "out"
    code = (
        "import os, signal, sys, nibabel as nib\n"
        "nib.save = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from aslpinn.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "fit", str(asl), "--out", str(out), "--estimator", "nlls"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
    left = list(out.glob(".aslpinn-*"))
    assert left
    for folder in left:
        os.utime(folder, (1, 1))
    with staging(out) as beside:  # that of a run that goes on stays
        os.utime(beside, (1, 1))
        assert run("fit", asl, "--out", out) == 0
        assert beside.is_dir()
    assert not list(out.glob(".aslpinn-*"))


# --- 6: the order of encoded volumes ---


def test_volumes_in_another_order_are_refused_and_said_to_be(tmp_path: Path, capsys: Any) -> None:
    series = Series(tmp_path / "raw", "encoded")
    right, out = series.data.copy(), tmp_path / "out"
    assert run("fit", series.write(), "--out", out) == 0
    rng = np.random.default_rng(1)
    for number in range(8):
        series.data = right[..., rng.permutation(8)]
        refused(capsys, "fit", series.write(), "--out", tmp_path / f"no{number}", says="order")
        refused(capsys, "decode", series.asl, "--out", tmp_path / f"no{number}", says="order")
    assert run("decode", series.asl, "--out", tmp_path / "forced", "--force") == 0
    swapped = list(range(8))
    swapped[2], swapped[5] = 5, 2
    series.data = right[..., swapped]
    refused(capsys, "fit", series.write(), "--out", tmp_path / "no", says="volumes 2 and 5 exchanged")


def test_noise_is_no_wrong_order(tmp_path: Path) -> None:
    series = Series(tmp_path / "raw", "encoded")
    for seed in range(5):
        rng = np.random.default_rng(seed)
        noisy = series.data + np.where(series.brain[..., None], rng.normal(0, 60, series.data.shape), 0)
        clean, series.data = series.data, noisy
        load_subject(series.write())
        series.data = clean


# --- 7: label minus control ---


@pytest.mark.parametrize("estimator", ["nlls", "smoothed", "vb", "svb"])
@pytest.mark.parametrize("kind", ["deltam", "pairs"])
def test_label_minus_control_is_refused_before_any_estimator(
    tmp_path: Path, capsys: Any, kind: str, estimator: str
) -> None:
    series = Series(tmp_path / "raw", kind)
    if kind == "deltam":
        series.data = -series.data
    else:
        series.types = ["label", "control"] * len(DELAYS)
    refused(capsys, "fit", series.write(), "--out", tmp_path / "out", says="negative", estimator=estimator)
    refused(capsys, "check", series.asl, says="negative")


@pytest.mark.parametrize("estimator", ["nlls", "smoothed", "vb", "svb"])
def test_label_minus_control_is_refused_in_python_too(estimator: str) -> None:
    acquisition = Acquisition([1.8] * 5, DELAYS)
    signal_ = delta_m(CBF, ATT, np.array(DELAYS), np.full(5, 1.8))
    values = -np.where(brain()[..., None], signal_, 0) + np.random.default_rng(0).normal(0, 2e-3, (*SHAPE, 5))
    with pytest.raises(InputError, match="label minus control"):
        fit(values, brain(), acquisition, estimator=estimator, voxel_size=(3.0, 3.0, 5.0))


def test_pairs_that_are_exchanged_among_others_are_told_or_refused(tmp_path: Path, capsys: Any) -> None:
    series = Series(tmp_path / "raw", "pairs")
    rng = np.random.default_rng(0)
    shape = (*SHAPE, 10)
    repeats = [series.data + np.where(series.brain[..., None], rng.normal(0, 2, shape), 0) for _ in range(4)]
    series.data = np.concatenate(repeats, axis=3)
    series.sidecar["PostLabelingDelay"] *= 4
    series.types = ["label", "control"] * 10 + ["control", "label"] * 10
    refused(capsys, "fit", series.write(), "--out", tmp_path / "out", says="negative of the other repeats")
    series.types = ["label", "control"] + ["control", "label"] * 19
    assert any("negative of the other" in note for note in load_subject(series.write()).provenance["notes"])


# --- 8: background suppression by its times ---


@pytest.mark.parametrize(
    ("fields", "pulses"),
    [
        ({"BackgroundSuppressionPulseTime": [2.0, 2.8, 3.4]}, 3),
        ({"BackgroundSuppressionPulseTime": [2.0, 2.8], "BackgroundSuppressionNumberPulses": 2}, 2),
        ({"BackgroundSuppressionPulseTime": 2.0}, 1),
        ({"BackgroundSuppressionNumberPulses": 4}, 4),
    ],
)
def test_pulses_are_counted_by_number_or_by_times(series: Series, tmp_path: Path, fields: dict, pulses: int) -> None:
    series.sidecar |= {"BackgroundSuppression": True} | fields
    expected = CBF / 0.95**pulses
    assert fitted(series.write(), tmp_path / "out")[5, 5, 3] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    "fields",
    [
        {"BackgroundSuppressionPulseTime": [2.0, 2.8], "BackgroundSuppressionNumberPulses": 4},
        {"BackgroundSuppressionPulseTime": [2.0, "late"]},
        {"BackgroundSuppressionPulseTime": [2000, 2800]},
        {"BackgroundSuppressionPulseTime": [2.0], "BackgroundSuppression": False},
    ],
)
def test_times_of_pulses_that_contradict_are_refused(series: Series, tmp_path: Path, capsys: Any, fields: dict) -> None:
    series.sidecar |= {"BackgroundSuppression": True} | fields
    refused(capsys, "fit", series.write(), "--out", tmp_path / "out", says="BackgroundSuppression")


# --- 9: values and constants beyond what can be ---


def _empty_volume(series: Series) -> None:
    series.data[..., 2] = 0


def _one_huge_value(series: Series) -> None:
    series.data[5, 5, 3, 1] = 1e30


def _one_value_above_m0(series: Series) -> None:
    series.data[5, 5, 3, 1] = 3000


def _one_huge_value_outside(series: Series) -> None:
    series.data[0, 0, 0, 1] = 1e30


def _one_huge_m0(series: Series) -> None:
    series.m0[5, 5, 3] = 1e30


def _another_unit(series: Series) -> None:
    series.m0 *= 1e6


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_empty_volume, "volume 2 (deltam) is zero everywhere"),
        (_one_huge_value, "1e+30"),
        (_one_value_above_m0, "less than M0"),
        (_one_huge_value_outside, "1e+30"),
        (_one_huge_m0, "1e+30"),
        (_another_unit, "in one unit"),
    ],
)
def test_values_that_no_image_holds_are_refused(
    series: Series, tmp_path: Path, capsys: Any, spoil: Callable[[Series], None], says: str
) -> None:
    spoil(series)
    refused(capsys, "fit", series.write(), "--out", tmp_path / "out", says=says)
    refused(capsys, "check", series.asl, says=says)


def test_an_m0_estimate_of_another_unit_is_refused(series: Series, tmp_path: Path, capsys: Any) -> None:
    for value in (1e20, 1e-20):
        series.sidecar |= {"M0Type": "Estimate", "M0Estimate": value}
        command = ["fit", series.write(), "--mask", tmp_path / "mask.nii.gz", "--out", tmp_path / "out"]
        put(tmp_path / "mask.nii.gz", series.brain)
        refused(capsys, *command, says="M0")


@pytest.mark.parametrize("name", ["t1_blood", "t1_tissue", "partition_coefficient", "labeling_efficiency"])
@pytest.mark.parametrize("value", ["1e-300", "0.01", "11", "nan", "inf", "-1"])
def test_constants_are_bounded(series: Series, tmp_path: Path, capsys: Any, name: str, value: str) -> None:
    refused(capsys, "fit", series.write(), "--out", tmp_path / "o", "--constant", f"{name}={value}", says=name)


def test_pulses_are_bounded(series: Series, tmp_path: Path, capsys: Any) -> None:
    command = ["fit", series.write(), "--out", tmp_path / "out", "--constant", "suppression_pulses=1e300"]
    refused(capsys, *command, says="suppression_pulses")


# --- 10: check tells all that fit would refuse ---


def test_check_lists_all_that_is_missing(series: Series, capsys: Any) -> None:
    """As dcm2niix leaves it: no table of volumes, no M0Type, no labeling type, no durations; one delay."""
    series.sidecar = {"Manufacturer": "Siemens", "RepetitionTime": 4.5, "BackgroundSuppression": "yes"}
    series.write().with_name("sub-01_aslcontext.tsv").unlink()
    assert run("check", series.asl) == 2
    printed = capsys.readouterr()
    for word in ("aslcontext", "ArterialSpinLabelingType", "PCASL", "LabelingDuration", "PostLabelingDelay", "M0Type"):
        assert word in printed.out
        assert word in printed.err
    assert "BackgroundSuppression" in printed.out
    assert run("check", series.asl, "--json") == 2
    assert len(json.loads(capsys.readouterr().out)["missing"]) == 3


def test_check_says_of_one_delay_what_fit_does(series: Series, tmp_path: Path, capsys: Any) -> None:
    series.sidecar["PostLabelingDelay"] = 1.8
    series.write()
    for words in (("check", series.asl), ("fit", series.asl, "--out", tmp_path / "out")):
        assert run(*words, estimator=None) == 0
        told = capsys.readouterr()
        assert "the other estimators refuse it" in told.out + told.err
    refused(capsys, "fit", series.asl, "--out", tmp_path / "no", says="one distinct")


# --- 11: readouts that the model does not describe ---


def test_look_locker_is_refused(series: Series, tmp_path: Path, capsys: Any) -> None:
    series.sidecar["LookLocker"] = True
    refused(capsys, "fit", series.write(), "--out", tmp_path / "out", says="LookLocker")
    series.sidecar["LookLocker"] = False
    assert fitted(series.write(), tmp_path / "out")[5, 5, 3] == pytest.approx(CBF, rel=0.01)


@pytest.mark.parametrize("fields", [{"VascularCrushing": True}, {"VascularCrushingVENC": 4.0}])
def test_vascular_crushing_turns_the_arterial_component_off(series: Series, fields: dict) -> None:
    series.sidecar |= fields
    subject = load_subject(series.write())
    assert any("crushing" in note for note in subject.provenance["notes"])
    assert subject.acquisition.crushed
    assert subject.acquisition.distinct[0].crushed


@pytest.mark.parametrize(
    ("factor", "times", "good"),
    [
        (3, [0, 0.1] * 3, True),
        (2, [0, 0.1, 0.2] * 2, True),
        (2, [0, 0.1] * 3, False),
        (3, [0, 0.1, 0.2, 0.3, 0.4, 0.5], False),
        (2.5, [0, 0.1, 0.2] * 2, False),
    ],
)
def test_a_multiband_factor_has_to_fit_the_slice_times(
    series: Series, tmp_path: Path, capsys: Any, factor: float, times: list[float], good: bool
) -> None:
    series.sidecar |= {"MRAcquisitionType": "2D", "SliceTiming": times, "MultibandAccelerationFactor": factor}
    series.write()
    if good:
        load_subject(series.asl)
    else:
        refused(capsys, "fit", series.asl, "--out", tmp_path / "out", says="MultibandAccelerationFactor")


# --- 12: lengths ---


def header_of(asl: Path, change: Callable[[Any], None]) -> None:
    """Change the raw header of a compressed NIfTI file."""
    content = bytearray(gzip.decompress(asl.read_bytes()))
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    change(header)
    content[:348] = header.binaryblock
    asl.write_bytes(gzip.compress(bytes(content), 1))


def _in_meters(header: Any) -> None:
    for name in ("srow_x", "srow_y", "srow_z", "qoffset_x", "qoffset_y", "qoffset_z"):
        header[name] = header[name] / 1000
    header["pixdim"][1:4] /= 1000
    header["xyzt_units"] = 1


def test_lengths_in_meters_become_mm(series: Series, tmp_path: Path) -> None:
    expected = fitted(series.write(), tmp_path / "mm")
    for file in (series.asl, series.perf / "sub-01_m0scan.nii.gz"):
        header_of(file, _in_meters)
    image = read_image(series.asl, (4,))
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    assert image.voxel_size == pytest.approx((3, 3, 5))
    np.testing.assert_array_equal(fitted(series.asl, tmp_path / "m"), expected)
    made = nib.load(tmp_path / "m" / "sub-01" / "perf" / "sub-01_cbf.nii.gz")
    assert made.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(made.affine, AFFINE, atol=1e-5)


def _set(name: str, value: Any, at: int | None = None) -> Callable[[Any], None]:
    def change(header: Any) -> None:
        if at is None:
            header[name] = value
        else:
            header[name][at] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("pixdim", 0, 1), _set("pixdim", 0, 3), _set("pixdim", -3, 2), _set("pixdim", 6, 2),
        _set("pixdim", np.nan, 1), _set("xyzt_units", 1), _set("xyzt_units", 3), _set("xyzt_units", 7),
        _set("srow_x", 0.003, 0), _set("scl_slope", np.inf), _set("srow_x", np.nan, 3),
    ],
)  # fmt: skip
def test_a_header_that_contradicts_itself_is_refused(series: Series, tmp_path: Path, capsys: Any, change: Any) -> None:
    header_of(series.write(), change)
    refused(capsys, "fit", series.asl, "--out", tmp_path / "out", says="sub-01_asl.nii.gz")


# --- 14: nobody's paths, nobody's bomb ---


def test_no_file_that_is_written_holds_a_path_of_this_machine(tmp_path: Path) -> None:
    mask = tmp_path / "somebodys home" / "mask.nii.gz"
    for kind in ("encoded", "pairs"):
        series = Series(tmp_path / kind, kind)
        put(mask, series.brain)
        if kind == "encoded":
            series.data = series.data[..., [0, 1, 5, 3, 4, 2, 6, 7]]
        assert run("fit", series.write(), "--out", tmp_path / "out" / kind, "--mask", mask, "--force") == 0
    assert run("decode", tmp_path / "encoded/sub-01/perf/sub-01_asl.nii.gz", "--out", tmp_path / "d", "--force") == 0
    texts = [file for file in (tmp_path / "out").rglob("*") if file.suffix in (".json", ".tsv", ".svg", ".bidsignore")]
    texts += (tmp_path / "d").rglob("*.json")
    assert len(texts) > 8
    for file in texts:
        assert str(tmp_path) not in file.read_text(), file


def test_a_bomb_is_refused_before_it_is_unpacked(series: Series, tmp_path: Path, capsys: Any) -> None:
    header = nib.Nifti1Image(np.zeros((2, 2, 2, 2), np.float32), AFFINE).header
    header.set_data_shape((512, 512, 512, 100))
    series.write()
    zeros = bytes(2**24)
    with gzip.open(series.asl, "wb", 9) as stream:
        stream.write(header.binaryblock + bytes(4))  # of vox_offset 0, which means 352
        for _ in range(8):
            stream.write(zeros)
    refused(capsys, "fit", series.asl, "--out", tmp_path / "out", says="5 rows; expected 100")
    series.write()
    with gzip.open(series.asl) as stream:
        whole = stream.read()
    with gzip.open(series.asl, "wb", 9) as stream:
        stream.write(whole)
        stream.write(zeros)
    refused(capsys, "fit", series.asl, "--out", tmp_path / "out", says="unpacks to more")
    header.set_data_shape((30000, 30000, 30000))
    scan = series.perf / "sub-01_m0scan.nii.gz"
    series.write()
    scan.write_bytes(gzip.compress(header.binaryblock + bytes(1000)))
    refused(capsys, "fit", series.asl, "--out", tmp_path / "out", says="memory")


# --- 15: messages ---


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env=os.environ | environment
    )


@pytest.mark.slow
def test_streams_that_are_closed_or_full_are_no_bug(series: Series, tmp_path: Path) -> None:
    asl = series.write()
    program = f"{sys.executable} -m aslpinn"
    for number, streams in enumerate(("2>&-", "2>/dev/full")):
        out = tmp_path / f"out{number}"
        done = shell(f"{program} fit {asl} --out {out} --estimator nlls {streams}")
        assert done.returncode == 0, (streams, done.stderr)
        assert "bug" not in done.stdout + done.stderr
        assert nib.load(out / "sub-01/perf/sub-01_cbf.nii.gz").get_fdata()[5, 5, 3] == pytest.approx(CBF, rel=0.01)
    assert shell(f"{program} check {asl} 0<&- 1>&- 2>&-").returncode == 0
    done = shell(f"{program} check {asl} >/dev/full")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "aslpinn: standard output: No space left on device"
    assert shell(f"{program} nonsense 2>/dev/full").returncode == 2
    assert shell(f"{program} check {asl} | head -c 0").returncode == 0


def test_a_path_that_no_file_has_is_refused(series: Series, tmp_path: Path, capsys: Any) -> None:
    asl = series.write()
    refused(capsys, "fit", asl, "--out", f"{tmp_path}/a\0b", says="NUL")
    refused(capsys, "fit", f"{asl}\0", "--out", tmp_path / "out", says="NUL")
    refused(capsys, "fit", tmp_path / ("x" * 300), "--out", tmp_path / "out", says="x")
    assert run("fit", asl, "--out", tmp_path / ("x" * 300)) == 2
    assert "File name too long" in capsys.readouterr().err


def test_a_file_name_that_is_no_text_is_refused_without_a_traceback(series: Series, tmp_path: Path) -> None:
    asl = series.write()
    strange = os.fsencode(asl.parent) + b"/sub-\xff_asl.nii.gz"
    os.rename(asl, strange)
    command = [sys.executable, "-m", "aslpinn", "fit", strange, "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


def test_memory_and_threads_that_the_machine_lacks_are_no_bug(
    series: Series, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asl = series.write()
    errors = [RuntimeError("can't start new thread"), MemoryError(), MemoryError("Unable to allocate 325. GiB")]
    for error in errors:

        def fail(*arguments: Any, error: Exception = error, **options: Any) -> None:
            raise error

        monkeypatch.setattr("aslpinn.estimation.fit", fail)
        assert run("fit", asl, "--out", tmp_path / "out") == 1
        said = capsys.readouterr().err.splitlines()[-1]
        assert "bug" not in said
        assert "memory" in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a = 1\0", "TOML"),
        ("a = " + "[" * 5000 + "]" * 5000, "TOML"),
        ('bids = ["a\\u0000b"]', "bids"),
        ("seed = 4294967296", "seed"),
    ],
)
def test_settings_of_a_study_that_cannot_be_are_refused(tmp_path: Path, capsys: Any, text: str, says: str) -> None:
    (tmp_path / "STUDY.toml").write_text(text)
    refused(capsys, "study", tmp_path / "STUDY.toml", "--list", says=says)


def test_a_study_is_no_device_and_plans_for_someone(tmp_path: Path, capsys: Any) -> None:
    refused(capsys, "study", "/dev/full", says="/dev/full")
    refused(capsys, "study", "--plan", "0", "--out", tmp_path, says="--plan")
    refused(capsys, "study", "--seed", str(2**32), "--list", says="seed")


# --- 16: inputs that scientists have ---


def test_without_m0_att_is_right_and_cbf_is_relative(tmp_path: Path) -> None:
    series = Series(tmp_path / "raw", "pairs")
    series.sidecar["M0Type"] = "Absent"
    asl = series.write()
    for scan in series.perf.glob("*m0scan*"):
        scan.unlink()
    out = tmp_path / "out"
    assert fitted(asl, out, kind="att")[5, 5, 3] == pytest.approx(ATT, abs=0.02)
    perf = out / "sub-01" / "perf"
    assert not (perf / "sub-01_cbf.nii.gz").exists()
    about = json.loads((perf / "sub-01_desc-relative_cbf.json").read_text())
    assert about["Units"] == "arbitrary"
    values = nib.load(perf / "sub-01_desc-relative_cbf.nii.gz").get_fdata()
    assert values[5, 5, 3] == pytest.approx(50, rel=0.1)
    quality = json.loads((perf / "sub-01_desc-qc_quality.json").read_text())
    assert "gm_cbf" not in quality["Measures"]
    put(series.perf / "sub-01_m0scan.nii.gz", series.m0)
    series.sidecar["M0Type"] = "Separate"
    fitted(series.write(), out)  # what was relative goes when CBF has units
    assert not list(perf.glob("*relative*"))


@pytest.mark.parametrize("step", [1.5, 6.0])
def test_m0_on_another_grid_is_resampled_by_its_affine(tmp_path: Path, step: float) -> None:
    series = Series(tmp_path / "raw")
    shape = tuple(int(np.ceil(n * size / step)) + 4 for n, size in zip(SHAPE, (3, 3, 5), strict=True))
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3] = -2 * step
    at = np.einsum("ij,jxyz->ixyz", affine[:3, :3], np.indices(shape)) + affine[:3, 3].reshape(3, 1, 1, 1)
    series.m0, series.m0_affine = M0 * (1 + 0.02 * at[0]), affine  # a slope along x, known everywhere
    put(tmp_path / "mask.nii.gz", series.brain)
    subject = load_subject(series.write(), tmp_path / "mask.nii.gz")
    expected = M0 * (1 + 0.02 * 3.0 * np.arange(SHAPE[0]))[:, None, None] * np.ones(SHAPE)
    np.testing.assert_allclose(subject.m0[subject.mask], expected[subject.mask], rtol=0.02)
    assert any("another grid" in note for note in subject.provenance["notes"])


def test_cbf_volumes_beside_pairs_are_left_out_with_a_note(tmp_path: Path) -> None:
    series = Series(tmp_path / "raw", "pairs")
    series.data = np.concatenate([series.data, 1e3 * series.data[..., :1]], axis=3)
    series.types.append("cbf")
    series.sidecar["PostLabelingDelay"].append(2.0)
    assert fitted(series.write(), tmp_path / "out")[5, 5, 3] == pytest.approx(CBF, rel=0.01)
    assert any("cbf are not used" in note for note in load_subject(series.asl).provenance["notes"])


@pytest.mark.parametrize("lone", [0, 4, 9])
def test_a_lone_volume_is_left_out_with_a_note(tmp_path: Path, lone: int) -> None:
    series = Series(tmp_path / "raw", "pairs")
    data, delays = series.data, series.sidecar["PostLabelingDelay"]
    series.data = np.concatenate([data, data], axis=3)
    series.data[..., lone] *= 1.05  # would be 25 of 500 too much in its pair
    series.data = np.delete(series.data, lone ^ 1, axis=3)
    series.types = [word for v, word in enumerate(series.types * 2) if v != lone ^ 1]
    series.sidecar["PostLabelingDelay"] = [delay for v, delay in enumerate(delays * 2) if v != lone ^ 1]
    assert fitted(series.write(), tmp_path / "out")[5, 5, 3] == pytest.approx(CBF, rel=0.01)
    assert any("no partner" in note for note in load_subject(series.asl).provenance["notes"])


def test_m0_is_read_by_its_source(series: Series) -> None:
    image = read_image(series.write(), (4,))
    found = read_m0(M0Source("Estimate", estimate=2.0), image, Constants(), [], [])
    assert found.uniform
    assert (found.data == 2).all()


# --- more of the same kinds ---


def test_a_field_that_is_given_twice_is_refused(series: Series, tmp_path: Path, capsys: Any) -> None:
    file = series.write().with_name("sub-01_asl.json")
    file.write_text(file.read_text().rstrip("}") + ', "LabelingDuration": 0.9}')
    refused(capsys, "fit", series.asl, "--out", tmp_path / "out", says="LabelingDuration' is given twice")
    twice = ["--constant", "t1_blood=1.65", "--constant", "t1_blood=1.9"]
    refused(capsys, "fit", Series(tmp_path / "r").write(), "--out", tmp_path / "out", *twice, says="twice")


def test_a_matrix_that_is_not_the_named_one_is_refused(tmp_path: Path, capsys: Any) -> None:
    series = Series(tmp_path / "raw", "encoded")
    series.sidecar["TimeEncodedMatrix"] = hadamard.matrix("Walsh", 8).tolist()
    refused(capsys, "fit", series.write(), "--out", tmp_path / "out", says="TimeEncodedMatrixType")


@pytest.mark.parametrize("factor", [100.0, 1e-4])
def test_m0_and_series_in_different_units_are_refused_or_told(series: Series, capsys: Any, factor: float) -> None:
    """M0 a hundredth: delta-M is larger than M0 or would be a CBF of thousands; a ten thousandth: of nothing."""
    series.data *= factor
    refused(capsys, "check", series.write(), says="M0")


def test_what_is_there_and_not_used_is_told(tmp_path: Path) -> None:
    series = Series(tmp_path / "raw", "pairs")
    series.data = np.concatenate([series.m0[..., None], series.data], axis=3)
    series.types.insert(0, "m0scan")
    series.sidecar["PostLabelingDelay"].insert(0, 0)
    series.sidecar["RepetitionTimePreparation"] = 1.9
    notes = " ".join(load_subject(series.write()).provenance["notes"])
    assert "m0scan volumes of the series are not used" in notes
    assert "more than RepetitionTimePreparation" in notes


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.float64, ">i2", ">f4"])
@pytest.mark.parametrize("version", [nib.Nifti1Image, nib.Nifti2Image])
def test_every_kind_of_nifti_is_read_alike(series: Series, tmp_path: Path, kind: Any, version: Any) -> None:
    expected = fitted(series.write(), tmp_path / "a")
    whole = np.dtype(kind).kind in "iu"
    stored = np.round(series.data / 0.001).astype(np.dtype(kind).newbyteorder("=")) if whole else series.data
    image = version(stored, AFFINE)
    if np.dtype(kind).byteorder == ">":
        image = version(stored, AFFINE, image.header.as_byteswapped(">"))
    image.set_data_dtype(np.dtype(kind).newbyteorder("="))
    if whole:
        image.header.set_slope_inter(0.001, 0)
    for suffix in (".nii.gz", ".nii"):
        series.asl.unlink(missing_ok=True)
        nib.save(image, series.asl.with_suffix("").with_suffix(suffix))
        out = tmp_path / f"b{suffix}"
        np.testing.assert_allclose(
            fitted(series.asl.with_suffix("").with_suffix(suffix), out), expected, rtol=2e-3, atol=1e-6
        )


@pytest.mark.parametrize(
    "content",
    [b"", b"\x1f\x8b", b"x" * 400, gzip.compress(b""), gzip.compress(b"x" * 600)],
    ids=["empty", "two bytes", "letters", "nothing compressed", "letters compressed"],
)
@pytest.mark.parametrize("which", ["asl", "m0scan"])
def test_what_is_no_nifti_is_refused(series: Series, tmp_path: Path, capsys: Any, content: bytes, which: str) -> None:
    series.write()
    (series.perf / f"sub-01_{which}.nii.gz").write_bytes(content)
    refused(capsys, "fit", series.asl, "--out", tmp_path / "out", says=f"sub-01_{which}.nii.gz")


def test_a_plain_file_that_is_called_compressed_is_refused(series: Series, tmp_path: Path, capsys: Any) -> None:
    series.write()
    content = series.asl.read_bytes()
    series.asl.write_bytes(gzip.decompress(content))
    refused(capsys, "fit", series.asl, "--out", tmp_path / "out", says="sub-01_asl.nii.gz")
    series.asl.unlink()
    plain = series.asl.with_name("sub-01_asl.nii")
    plain.write_bytes(content)
    refused(capsys, "fit", plain, "--out", tmp_path / "out", says="sub-01_asl.nii")


def test_a_plain_file_that_is_cut_is_refused(series: Series, tmp_path: Path, capsys: Any) -> None:
    plain = series.write().with_name("sub-01_asl.nii")
    plain.write_bytes(gzip.decompress(series.asl.read_bytes())[:-4])
    series.asl.unlink()
    refused(capsys, "fit", plain, "--out", tmp_path / "out", says="its header asks for")


def test_a_mirrored_m0_is_turned_to_the_series(series: Series) -> None:
    series.m0 = series.m0 * (1 + 0.03 * np.arange(SHAPE[0]))[:, None, None]
    series.write()
    expected = load_subject(series.asl).m0
    series.m0 = series.m0[::-1]
    series.m0_affine = AFFINE @ np.array([[-1, 0, 0, SHAPE[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    found = load_subject(series.write())
    np.testing.assert_allclose(found.m0[found.mask], expected[found.mask], rtol=1e-2)


@pytest.mark.parametrize(
    "fields",
    [
        {"LookLocker": "yes"}, {"VascularCrushing": 1}, {"MultibandAccelerationFactor": "2", "SliceTiming": [0] * 6},
        {"LabelingEfficiency": 0.0}, {"MagneticFieldStrength": -3}, {"RepetitionTimePreparation": 4500},
        {"RepetitionTimePreparation": [5.0] * 3, "M0Type": "Included"}, {"PostLabelingDelay": [0.4] * 4},
        {"SliceTiming": [0, 1, 2, 3, 4, 5000], "MRAcquisitionType": "2D"}, {"M0Type": None}, {"M0Type": 3},
    ],
)  # fmt: skip
def test_fields_of_another_kind_are_refused_by_name(
    series: Series, tmp_path: Path, capsys: Any, fields: dict[str, Any]
) -> None:
    series.sidecar |= fields
    refused(capsys, "fit", series.write(), "--out", tmp_path / "out", says=next(iter(fields)))


def test_one_slice_is_read(tmp_path: Path) -> None:
    series = Series(tmp_path / "raw", "pairs")
    series.data, series.m0 = series.data[:, :, 2:3], series.m0[:, :, 2:3]
    assert fitted(series.write(), tmp_path / "out")[5, 5, 0] == pytest.approx(CBF, rel=0.01)


@pytest.mark.parametrize("kind", ["deltam", "pairs", "encoded"])
def test_what_is_read_does_not_depend_on_the_unit(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    found = []
    for number, scale in enumerate((1.0, 1e-6, 1e-3, 1e7, 1e12)):
        series = Series(tmp_path / str(number), kind)
        rng = np.random.default_rng(0)
        series.data = scale * (series.data + np.where(series.brain[..., None], rng.normal(0, 2, series.data.shape), 0))
        series.m0 = scale * (series.m0 * (1 + 0.1 * rng.random(SHAPE)))
        found.append(load_subject(series.write()))
    for subject in found[1:]:
        np.testing.assert_array_equal(subject.mask, found[0].mask)
        np.testing.assert_allclose(subject.series, found[0].series, rtol=1e-4, atol=1e-7)
        assert subject.provenance["notes"] == found[0].provenance["notes"]

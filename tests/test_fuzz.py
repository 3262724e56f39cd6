"""Whatever stands in sidecars, contexts and headers: a series is read as finite numbers or refused in three lines."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import Series, put

from aslpinn import Estimate, InputError, load_subject
from aslpinn.cli import main
from aslpinn.data import write_estimate
from aslpinn.data.series import subject_name

SHAPE = (6, 6, 5)
COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}


def write_series(folder: Path, kind: str) -> Path:
    """A tiny subject of control-label pairs, deltam or encoded volumes, with an M0 scan."""
    perf = folder / "sub-01" / "perf"
    perf.mkdir(parents=True)
    grid = np.indices(SHAPE).reshape(3, -1).T - (np.array(SHAPE) - 1) / 2
    brain = ((grid / (0.5 * np.array(SHAPE))) ** 2).sum(axis=1).reshape(SHAPE) < 1
    rng = np.random.default_rng(0)
    data = np.where(brain[..., None], 500 + rng.normal(0, 5, (*SHAPE, 8)), 0).astype(np.float32)
    if kind == "deltam":
        data *= 0.01  # of M0
    affine = np.diag([3.0, 3.0, 5.0, 1.0])
    nib.save(nib.Nifti1Image(data, affine), perf / "sub-01_asl.nii.gz")
    nib.save(nib.Nifti1Image(np.where(brain, 1000, 0).astype(np.float32), affine), perf / "sub-01_m0scan.nii.gz")
    types = {"pairs": ["control", "label"] * 4, "deltam": ["deltam"] * 8, "encoded": ["n/a"] * 8}[kind]
    (perf / "sub-01_aslcontext.tsv").write_text("\n".join(["volume_type", *types]) + "\n")
    sidecar: dict[str, Any] = {
        "ArterialSpinLabelingType": "PCASL",
        "MRAcquisitionType": "2D",
        "SliceTiming": [0.0, 0.1, 0.2, 0.3, 0.4],
        "LabelingDuration": 1.8,
        "PostLabelingDelay": [0.5, 0.5, 1.0, 1.0, 1.5, 1.5, 2.0, 2.0],
        "M0Type": "Separate",
        "BackgroundSuppression": True,
        "BackgroundSuppressionNumberPulses": 2,
        "RepetitionTimePreparation": 4.0,
        "LabelingEfficiency": 0.8,
        "TotalAcquiredPairs": 4,
        "MagneticFieldStrength": 3,
    }
    if kind == "encoded":
        sidecar |= {"LabelingDuration": [0.5] * 7, "PostLabelingDelay": 0.1}
        sidecar |= {"TimeEncodedMatrixSize": 8, "TimeEncodedMatrixType": "Hadamard"}
    (perf / "sub-01_asl.json").write_text(json.dumps(sidecar))
    (perf / "sub-01_m0scan.json").write_text('{"RepetitionTimePreparation": 3.0}')
    (folder / "dataset_description.json").write_text('{"Name": "t", "BIDSVersion": "1.10.0"}')
    return perf / "sub-01_asl.nii.gz"


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> dict[str, Path]:
    return {kind: write_series(tmp_path_factory.mktemp(kind), kind) for kind in ("pairs", "deltam", "encoded")}


@contextmanager
def put_back(file: Path) -> Iterator[bytes]:
    """The content of a file, which stands there again at the end."""
    whole = file.read_bytes()
    try:
        yield whole
    finally:
        file.write_bytes(whole)


def read_or_refuse(asl: Path) -> None:
    """Nothing but InputError may come out, in at most three lines."""
    refused = ""
    try:
        subject = load_subject(asl, force=True)
    except InputError as error:
        refused = str(error)
    if refused:
        assert len(refused.splitlines()) <= 3
        assert len(refused) < 1200
        return
    assert np.isfinite(subject.series).all()
    assert subject.mask.any()
    assert np.isfinite(subject.acquisition.pld_at(np.argwhere(subject.mask))).all()


NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1, 1.8, 1800, 1e-30, 1e308, 10**400, float("nan"), float("inf"), True, False]),
    st.floats(),
    st.integers(-5, 30),
)
WORDS = st.one_of(
    st.text(max_size=8), st.sampled_from(["PCASL", "PASL", "2D", "Separate", "Estimate", "Included", "k-"])
)
VALUES = st.recursive(
    st.one_of(st.none(), NUMBERS, WORDS),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(WORDS, inner),
    max_leaves=9,
)
FIELDS = [
    "ArterialSpinLabelingType", "MRAcquisitionType", "SliceTiming", "SliceEncodingDirection", "LabelingDuration",
    "PostLabelingDelay", "M0Type", "M0Estimate", "BackgroundSuppression", "BackgroundSuppressionNumberPulses",
    "RepetitionTimePreparation", "LabelingEfficiency", "TotalAcquiredPairs", "MagneticFieldStrength",
    "TimeEncodedMatrixSize", "TimeEncodedMatrixType", "TimeEncodedMatrix", "Units",
]  # fmt: skip
KINDS = st.sampled_from(["pairs", "deltam", "encoded"])


@pytest.mark.slow
@settings(max_examples=1000, **COMMON)
@given(kind=KINDS, changes=st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=3), data=st.data())
def test_any_sidecar_is_read_or_refused(series: dict[str, Path], kind: str, changes: dict, data: st.DataObject) -> None:
    file = series[kind].with_name("sub-01_asl.json")
    with put_back(file) as whole:
        values = json.loads(whole) | changes
        for name in data.draw(st.lists(st.sampled_from(FIELDS), max_size=2)):
            values.pop(name, None)
        file.write_text(json.dumps(values))
        read_or_refuse(series[kind])


@pytest.mark.slow
@settings(max_examples=500, **COMMON)
@given(
    kind=KINDS,
    text=st.one_of(
        st.lists(
            st.sampled_from(["control", "label", "deltam", "m0scan", "n/a", "cbf", "noRF", "", "tag"]), max_size=10
        ).map(lambda words: "\n".join(["volume_type", *words])),
        st.text(max_size=60),
        st.lists(
            st.lists(st.text("volume_typecontrolabd\t\"'\r", max_size=12), max_size=3).map("\t".join), max_size=9
        ).map("\n".join),
    ),
)
def test_any_context_is_read_or_refused(series: dict[str, Path], kind: str, text: str) -> None:
    file = series[kind].with_name("sub-01_aslcontext.tsv")
    with put_back(file):
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        read_or_refuse(series[kind])


@pytest.mark.slow
@settings(max_examples=500, **COMMON)
@given(
    kind=KINDS,
    name=st.sampled_from(["sub-01_asl.nii.gz", "sub-01_m0scan.nii.gz"]),
    changes=st.lists(st.tuples(st.integers(0, 347), st.integers(0, 255)), min_size=1, max_size=4),
    end=st.one_of(st.none(), st.integers(0, 1500)),
)
def test_any_header_is_read_or_refused(
    series: dict[str, Path], kind: str, name: str, changes: list[tuple[int, int]], end: int | None
) -> None:
    with put_back(series[kind].with_name(name)) as whole:
        content = bytearray(gzip.decompress(whole))
        for position, byte in changes:
            content[position] = byte
        series[kind].with_name(name).write_bytes(gzip.compress(bytes(content[:end]), 1))
        with np.errstate(all="ignore"):
            read_or_refuse(series[kind])


# --- files: bits flipped, names changed, volumes in another order ---


@pytest.fixture(scope="module")
def signals(tmp_path_factory) -> dict[str, Series]:
    """Subjects with a perfusion signal, written once."""
    made = {kind: Series(tmp_path_factory.mktemp(kind), kind) for kind in ("pairs", "deltam", "encoded")}
    rng = np.random.default_rng(0)
    for one in made.values():
        one.data += np.where(one.brain[..., None], rng.normal(0, 0.5, one.data.shape), 0)
        one.write()
    return made


@pytest.fixture(scope="module")
def as_written(signals: dict[str, Series]) -> dict[str, np.ndarray]:
    return {kind: load_subject(one.asl).series for kind, one in signals.items()}


@pytest.mark.slow
@settings(max_examples=800, **COMMON)
@given(kind=KINDS, suffix=st.sampled_from(["asl", "m0scan"]), bits=st.lists(st.floats(0, 1), min_size=1, max_size=3))
def test_a_compressed_image_with_flipped_bits_is_read_as_it_was_or_refused(
    signals: dict[str, Series], as_written: dict[str, np.ndarray], kind: str, suffix: str, bits: list[float]
) -> None:
    asl = signals[kind].asl
    file = asl.with_name(f"sub-01_{suffix}.nii.gz")
    with put_back(file) as whole:
        damaged = bytearray(whole)
        for share in bits:
            position = min(int(share * 8 * len(whole)), 8 * len(whole) - 1)
            damaged[position // 8] ^= 1 << (position % 8)
        file.write_bytes(bytes(damaged))
        try:
            found = load_subject(asl).series
        except InputError:
            return
        np.testing.assert_array_equal(found, as_written[kind])


NAMES = st.one_of(
    st.text("ab1-_.+ ", min_size=1, max_size=7),
    st.from_regex(
        r"sub-[A-Za-z0-9]{1,3}(_ses-[a-z0-9]{1,2})?(_run-?[0-9])?(_[a-z]{1,3}-?[a-z0-9]{1,2})?", fullmatch=True
    ),
    st.text(max_size=9),
)


@pytest.mark.slow
@settings(max_examples=600, **COMMON)
@given(names=st.lists(NAMES, min_size=2, max_size=3, unique=True), suffix=st.sampled_from(["_asl", ""]))
def test_subjects_of_any_names_have_maps_of_their_own_or_are_refused(
    tmp_path_factory, signals: dict[str, Series], names: list[str], suffix: str
) -> None:
    template = signals["deltam"]
    root = tmp_path_factory.mktemp("names")
    out, accepted = root / "derivatives" / "maps", {}
    (root / "dataset_description.json").write_text('{"Name": "t", "BIDSVersion": "1.10.0"}')
    mean = load_subject(template.asl)
    for number, name in enumerate(names, start=1):
        asl = root / f"{name.replace('/', '_').replace(chr(0), '')}{suffix if number % 2 else '_asl'}.nii.gz"
        try:
            asl.write_bytes(template.asl.read_bytes())
        except (OSError, UnicodeEncodeError):
            continue
        try:
            subject = replace(mean, path=asl, **dict(zip(("name", "folder"), subject_name(asl), strict=True)))
            values = np.full(subject.mask.shape, number, dtype=np.float32)
            accepted[number] = write_estimate(subject, Estimate(values, values, None, None, None, "t", {}, {}), out)[0]
        except InputError:
            pass
        asl.unlink()
    assert len(set(accepted.values())) == len(accepted)
    for number, file in accepted.items():
        assert out in file.parents
        assert nib.load(file).get_fdata().max() == number
    assert len(list(out.rglob("*_cbf.nii.gz"))) == len(accepted)
    shutil.rmtree(root)


@pytest.mark.slow
@settings(max_examples=600, **COMMON)
@given(order=st.permutations(list(range(8))))
def test_encoded_volumes_in_any_order_are_read_right_or_told(signals: dict[str, Series], order: list[int]) -> None:
    one = signals["encoded"]
    right = load_subject(one.asl)
    with put_back(one.asl):
        put(one.asl, one.data[..., order])
        try:
            found = load_subject(one.asl, motion="off")
        except InputError as error:
            refusal = str(error)
        else:
            refusal = ""
    if refusal:
        assert any(word in refusal for word in ("exchanged", "order", "sign", "Walsh"))
        return
    curves = [subject.series[subject.mask].mean(axis=0) for subject in (right, found)]
    told = any("unexplained" in note for note in found.provenance["notes"])
    # What no note tells is as good a curve of perfusion; a handful of the 40,320 orders give another that is.
    assert told or np.linalg.norm(curves[1] - curves[0]) < 0.9 * np.linalg.norm(curves[0])


# --- the command line: exit 2, three lines, nothing written ---


def spoil(field: str, value: Any) -> Any:
    def change(asl: Path) -> None:
        file = asl.with_name("sub-01_asl.json")
        file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))

    return change


def drop(field: str) -> Any:
    def change(asl: Path) -> None:
        file = asl.with_name("sub-01_asl.json")
        file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != field}))

    return change


def volume(change: Any) -> Any:
    def apply(asl: Path) -> None:
        image = nib.load(asl)
        nib.save(nib.Nifti1Image(change(image.get_fdata(dtype=np.float32)), image.affine), asl)

    return apply


def truncate(asl: Path) -> None:
    asl.write_bytes(asl.read_bytes()[:900])


def nan_inside(data: np.ndarray) -> np.ndarray:
    data[3, 3, 2] = np.nan
    return data


BROKEN = {
    "no sidecar": (lambda asl: asl.with_name("sub-01_asl.json").unlink(), ["sub-01_asl.json", "not found"]),
    "malformed sidecar": (lambda asl: asl.with_name("sub-01_asl.json").write_text("{,}"), ["sub-01_asl.json", "JSON"]),
    "no context": (lambda asl: asl.with_name("sub-01_aslcontext.tsv").unlink(), ["aslcontext.tsv", "not found"]),
    "short context": (
        lambda asl: asl.with_name("sub-01_aslcontext.tsv").write_text("volume_type\ncontrol\n"),
        ["aslcontext.tsv", "1 rows", "8"],
    ),
    "no M0 scan": (lambda asl: asl.with_name("sub-01_m0scan.nii.gz").unlink(), ["m0scan", "M0Type"]),
    "M0 of no kind": (spoil("M0Type", "None"), ["asl.json", "M0Type", "Absent"]),
    "M0 of another type": (spoil("M0Type", "Included"), ["M0Type", "m0scan"]),
    "no estimate": (spoil("M0Type", "Estimate"), ["M0Estimate", "missing"]),
    "PASL": (spoil("ArterialSpinLabelingType", "PASL"), ["ArterialSpinLabelingType", "PASL", "PCASL"]),
    "no type": (drop("ArterialSpinLabelingType"), ["ArterialSpinLabelingType", "missing"]),
    "delay in ms": (spoil("PostLabelingDelay", 1800), ["PostLabelingDelay", "1800", "milliseconds"]),
    "duration in ms": (spoil("LabelingDuration", 1800), ["LabelingDuration", "1800", "milliseconds"]),
    "delays missing": (drop("PostLabelingDelay"), ["PostLabelingDelay", "missing"]),
    "seven delays": (spoil("PostLabelingDelay", [1.0] * 7), ["PostLabelingDelay", "7", "8"]),
    "negative delay": (spoil("PostLabelingDelay", -1), ["PostLabelingDelay", "-1"]),
    "a delay in words": (spoil("PostLabelingDelay", "1.8 s"), ["PostLabelingDelay", "1.8 s"]),
    "no labeling": (spoil("LabelingDuration", 0), ["LabelingDuration", "more than 0"]),
    "slice count": (spoil("SliceTiming", [0, 0.1]), ["SliceTiming", "2", "5"]),
    "slices after the TR": (spoil("SliceTiming", [0, 1, 2, 3, 9]), ["SliceTiming", "RepetitionTimePreparation"]),
    "pulses contradict": (spoil("BackgroundSuppression", False), ["BackgroundSuppressionNumberPulses"]),
    "efficiency": (spoil("LabelingEfficiency", 85), ["LabelingEfficiency", "85"]),
    "too few pairs": (spoil("TotalAcquiredPairs", 3), ["TotalAcquiredPairs", "3", "4"]),
    "order 10": (spoil("TimeEncodedMatrixSize", 10), ["TimeEncodedMatrix"]),
    "encoded pairs": (
        lambda asl: [spoil(k, v)(asl) for k, v in (("TimeEncodedMatrixSize", 4), ("TimeEncodedMatrixType", "Walsh"),
                                                   ("LabelingDuration", [1, 1, 1]), ("PostLabelingDelay", 1))],
        ["aslcontext", "n/a"],
    ),
    "truncated": (truncate, ["sub-01_asl.nii.gz", "cannot be read"]),
    "empty file": (lambda asl: asl.write_bytes(b""), ["sub-01_asl.nii.gz"]),
    "NaN": (volume(nan_inside), ["sub-01_asl.nii.gz", "NaN"]),
    "zeros": (volume(np.zeros_like), ["sub-01_asl.nii.gz", "zero"]),
    "no difference": (volume(lambda data: 0 * data + 500), ["zero everywhere"]),
    "3D": (volume(lambda data: data[..., 0]), ["sub-01_asl.nii.gz", "6 x 6 x 5", "4 dimensions"]),
    "M0 on another grid": (
        lambda asl: volume(lambda data: data[:3])(asl.with_name("sub-01_m0scan.nii.gz")),
        ["m0scan", "3 x 6 x 5"],
    ),
    "M0 of zeros": (
        lambda asl: volume(np.zeros_like)(asl.with_name("sub-01_m0scan.nii.gz")),
        ["m0scan", "above zero"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_input_ends_with_2_and_three_lines_and_nothing_written(tmp_path: Path, case: str, capsys) -> None:
    asl = write_series(tmp_path / "raw", "pairs")
    change, words = BROKEN[case]
    change(asl)
    before = sorted(tmp_path.rglob("*"))
    for command in (["fit", str(asl), "--out", str(tmp_path / "out")], ["check", str(asl)]):
        assert main(command) == 2
        said = capsys.readouterr().err.strip()
        assert len(said.splitlines()) <= 3
        assert "Traceback" not in said
        assert "expected" in said
        for word in words:
            assert word in said
    assert sorted(tmp_path.rglob("*")) == before


# --- where outputs cannot be written ---


@pytest.fixture
def fitted(tmp_path: Path) -> list[str]:
    return ["fit", str(write_series(tmp_path / "raw", "deltam")), "--estimator", "nlls", "--out"]


def test_a_read_only_folder_is_refused_before_the_fit(fitted: list[str], tmp_path: Path, capsys) -> None:
    if os.geteuid() == 0:
        pytest.skip("the superuser writes into read-only folders")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert main([*fitted, str(closed / "out")]) == 2
    assert "cannot be written to" in capsys.readouterr().err
    assert not list(closed.iterdir())


def test_a_full_disk_leaves_no_file(fitted: list[str], tmp_path: Path, capsys) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = shutil.which("mount")
    made = mount and os.geteuid() == 0
    if not made or subprocess.run([mount, "-t", "tmpfs", "-o", "size=16k", "tmpfs", small], check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        assert main([*fitted, str(small / "out")]) == 1
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert "No space left" in said
        assert not list(small.rglob("*"))
    finally:
        subprocess.run([shutil.which("umount") or "umount", small], check=True)


def test_ctrl_c_while_writing_leaves_no_file(fitted: list[str], tmp_path: Path, monkeypatch) -> None:
    calls: list[Path] = []
    save = nib.save

    def interrupt(image: Any, path: Path) -> None:
        calls.append(path)
        save(image, path)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("aslpinn.data.derivatives.nib.save", interrupt)
    assert main([*fitted, str(tmp_path / "out")]) == 130
    assert len(calls) == 2
    assert not (tmp_path / "out").exists()


def test_a_name_with_markup_is_refused_and_nothing_written(tmp_path: Path, capsys) -> None:
    asl = write_series(tmp_path / "raw", "deltam")
    for ending in ("_asl.nii.gz", "_asl.json", "_aslcontext.tsv", "_m0scan.nii.gz", "_m0scan.json"):
        file = asl.with_name(f"sub-01{ending}")
        file.rename(file.with_name(f"..<script>&{ending}"))
    name = asl.with_name("..<script>&_asl.nii.gz")
    out = tmp_path / "out"
    assert main(["fit", str(name), "--out", str(out), "--estimator", "nlls"]) == 2
    assert "rename" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"raw"}


def test_help_of_every_command_is_one_screen() -> None:
    for command in ("fit", "check", "decode", "simulate", "benchmark", "fetch", "study"):
        done = subprocess.run([sys.executable, "-m", "aslpinn", command, "--help"], capture_output=True, text=True)
        assert done.returncode == 0
        assert done.stdout.startswith(f"usage: aslpinn {command}")

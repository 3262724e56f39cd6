"""Hadamard-encoded series: sidecar to timing, decoding, and the check of order and sign against the kinetics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small import encode_series

from aslpinn.data.encoded import (
    TimeEncoding,
    decode_series,
    decoded_metadata,
    encoded_volumes,
    is_encoded,
    read_encoding,
)
from aslpinn.data.kinetics_check import check_kinetics
from aslpinn.data.sidecar import Sidecar
from aslpinn.errors import InputError
from aslpinn.physics import delta_m, hadamard

ADJUSTED = [0.89, 0.575, 0.426, 0.338, 0.28, 0.24, 0.209, 0.186, 0.167, 0.151, 0.139]


def sidecar(**values) -> Sidecar:
    fields = {
        "TimeEncodedMatrixSize": 8,
        "TimeEncodedMatrixType": "Hadamard",
        "LabelingDuration": [0.5] * 7,
        "PostLabelingDelay": 0.1,
    } | values
    return Sidecar(Path("sub-01_asl.json"), {name: value for name, value in fields.items() if value is not None})


def brain(encoding: TimeEncoding, shape=(12, 12, 6), cbf_scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """delta-M of a small mixed brain, (X, Y, Z, K), and a static image."""
    rng = np.random.default_rng(4)
    cbf = cbf_scale * np.where(rng.random(shape) < 0.5, 60.0, 22.0) * rng.uniform(0.8, 1.2, shape)
    att = np.clip(rng.normal(1.2, 0.25, shape), 0.5, 2.5)
    signal = delta_m(cbf[..., None], att[..., None], encoding.post_labeling_delay, encoding.labeling_duration)
    return signal, rng.uniform(0.8, 1.2, shape)


def test_sidecar_becomes_matrix_and_timing() -> None:
    found = read_encoding(sidecar(LabelingDuration=[0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]))
    np.testing.assert_array_equal(found.matrix, hadamard.matrix("Hadamard", 8))
    np.testing.assert_allclose(found.post_labeling_delay, [2.2, 1.6, 1.1, 0.7, 0.4, 0.2, 0.1])
    acquisition = found.acquisition(repeats=2, slice_offset=[0.0, 0.04])
    assert len(acquisition) == 14
    np.testing.assert_allclose(acquisition.time[:7], 0.1 + np.cumsum([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])[::-1])
    explicit = hadamard.matrix("Paley", 12).tolist()
    fields = {"TimeEncodedMatrix": explicit, "TimeEncodedMatrixSize": None, "TimeEncodedMatrixType": None}
    found = read_encoding(sidecar(LabelingDuration=ADJUSTED, PostLabelingDelay=[0.049], **fields))
    np.testing.assert_array_equal(found.matrix, explicit)
    assert found.kind == "explicit"
    assert read_encoding(Sidecar(Path("x.json"), {"LabelingDuration": 1.8})) is None
    assert not is_encoded({"TimeEncodedMatrix": None})


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"TimeEncodedMatrixSize": 10}, "TimeEncodedMatrixSize is 10"),
        ({"TimeEncodedMatrixSize": "8"}, "whole number"),
        ({"TimeEncodedMatrixSize": float("nan")}, "TimeEncodedMatrixSize is NaN.*whole number"),
        ({"TimeEncodedMatrixSize": float("inf")}, "whole number"),
        ({"TimeEncodedMatrixSize": 10**400}, "expected one of 4, 8"),
        ({"TimeEncodedMatrixSize": None}, "TimeEncodedMatrixSize is missing"),
        ({"TimeEncodedMatrixType": "Fourier"}, "Hadamard or Walsh"),
        ({"TimeEncodedMatrixType": None}, "TimeEncodedMatrixType is missing"),
        ({"LabelingDuration": 3.5}, "7 sub-boli"),
        ({"LabelingDuration": [0.5] * 8}, "7 sub-boli"),
        ({"LabelingDuration": [500] * 7}, "milliseconds"),
        ({"LabelingDuration": [0.5] * 6 + [0]}, "above 0"),
        ({"PostLabelingDelay": [0.1] * 7}, "after the last"),
        ({"PostLabelingDelay": -1}, "seconds"),
        ({"TimeEncodedMatrix": [[1, 1], [1, -1]]}, "TimeEncodedMatrix"),
        ({"TimeEncodedMatrix": "Hadamard"}, "list of N rows"),
        ({"TimeEncodedMatrix": [[True] * 7] * 8}, "list of N rows"),
        ({"TimeEncodedMatrix": [[10**400] * 7] * 8}, "TimeEncodedMatrix"),
        ({"TimeEncodedMatrix": hadamard.matrix("Paley", 12).tolist()}, "expected 8"),
    ],
)
def test_contradictions_name_the_field(change: dict, word: str) -> None:
    with pytest.raises(InputError, match=word) as caught:
        read_encoding(sidecar(**change))
    assert "sub-01_asl.json" in str(caught.value)


def test_volumes_are_whole_repeats_of_encoded_ones() -> None:
    found = read_encoding(sidecar())
    np.testing.assert_array_equal(encoded_volumes(["m0scan", *["n/a"] * 16], found), np.arange(1, 17))
    with pytest.raises(InputError, match="multiple of 8"):
        encoded_volumes(["n/a"] * 15, found)
    with pytest.raises(InputError, match="control, label"):
        encoded_volumes(["control", "label"] * 4, found)


@pytest.mark.parametrize(("kind", "size"), [("Hadamard", 8), ("Walsh", 16), ("Hadamard", 12), ("Hadamard", 24)])
def test_encoding_a_series_and_decoding_it_returns_it(kind: str, size: int) -> None:
    encoding = TimeEncoding(hadamard.matrix(kind, size), np.full(size - 1, 3.5 / (size - 1)), 0.05, kind)
    signal, static = brain(encoding)
    volumes = encode_series(signal, static, encoding.matrix, repeats=2)
    assert volumes.shape[3] == 2 * size
    np.testing.assert_allclose(decode_series(volumes.astype(np.float32), encoding), signal, atol=1e-6)
    both = decode_series(volumes, encoding, average=False)
    np.testing.assert_allclose(both[..., : size - 1], both[..., size - 1 :], atol=1e-12)


def test_noise_of_a_decoded_repeat_is_what_was_asked_for() -> None:
    encoding = TimeEncoding(hadamard.matrix("Hadamard", 12), np.full(11, 0.327), 0.049)
    zero = np.zeros((20, 20, 10, 11))
    volumes = encode_series(zero, zero[..., 0] + 1, encoding.matrix, 0.01, repeats=4, rng=np.random.default_rng(1))
    assert decode_series(volumes, encoding, average=False).std() == pytest.approx(0.01, rel=0.02)
    assert decode_series(volumes, encoding).std() == pytest.approx(0.005, rel=0.02)


def test_metadata_of_the_decoded_series_is_one_entry_a_volume() -> None:
    encoding = read_encoding(sidecar())
    fields, types = decoded_metadata(sidecar().values | {"EchoTime": 0.01}, encoding, repeats=2, m0_volumes=1)
    assert types == ["m0scan"] + ["deltam"] * 14
    assert len(fields["LabelingDuration"]) == len(fields["PostLabelingDelay"]) == 15
    assert fields["PostLabelingDelay"][1] == pytest.approx(3.1)
    assert not is_encoded(fields)
    assert fields["EchoTime"] == 0.01
    assert json.loads(json.dumps(fields)) == fields


PROTOCOLS = {
    "equal": TimeEncoding(hadamard.matrix("Hadamard", 12), np.full(11, 0.327), 0.049),
    "adjusted": TimeEncoding(hadamard.matrix("Hadamard", 12), np.array(ADJUSTED), 0.049),
    "eight": TimeEncoding(hadamard.matrix("Hadamard", 8), np.full(7, 0.5), 0.1, "Hadamard"),
    "free-lunch": TimeEncoding(
        hadamard.matrix("Walsh", 8), np.array([1.8, 0.8, 0.4, 0.15, 0.15, 0.1, 0.1]), 0.07, "Walsh"
    ),
}


def noisy(encoding: TimeEncoding, tsnr: float) -> np.ndarray:
    signal, static = brain(encoding, (20, 20, 10))
    volumes = encode_series(signal, static, encoding.matrix, signal.mean() / tsnr, rng=np.random.default_rng(2))
    return volumes


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("tsnr", [1e6, 1.5, 0.5, 0.01])
def test_right_order_and_sign_agree_at_any_noise(name: str, tsnr: float) -> None:
    encoding = PROTOCOLS[name]
    decoded = decode_series(noisy(encoding, tsnr), encoding)
    found = check_kinetics(decoded, np.ones(decoded.shape[:3], bool), encoding)
    assert found.agrees
    assert found.best == "as given"
    if tsnr > 1:
        assert found.att == pytest.approx(1.2, abs=0.15)


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("tsnr", [1e6, 0.5])
@pytest.mark.parametrize(
    ("mistake", "says"),
    [("sign", "sign is wrong"), ("columns", "columns .* reverse order"), ("durations", "LabelingDuration is in rev")],
)
def test_wrong_order_or_sign_is_named(name: str, tsnr: float, mistake: str, says: str) -> None:
    right = PROTOCOLS[name]
    if mistake == "durations" and np.ptp(right.labeling_duration) == 0:
        pytest.skip("equal durations read the same both ways")
    matrix, durations = right.matrix, right.labeling_duration
    wrong = TimeEncoding(
        {"sign": -matrix, "columns": matrix[:, ::-1]}.get(mistake, matrix),
        durations[::-1] if mistake == "durations" else durations,
        right.final_delay,
    )
    decoded = decode_series(noisy(right, tsnr), wrong)
    mask = np.ones(decoded.shape[:3], bool)
    with pytest.raises(InputError, match=says) as caught:
        check_kinetics(decoded, mask, wrong, file="sub-01_asl.json")
    assert "--force" in str(caught.value)
    assert not check_kinetics(decoded, mask, wrong, force=True).agrees


def test_the_other_named_matrix_is_recognized() -> None:
    right = PROTOCOLS["eight"]
    wrong = TimeEncoding(hadamard.matrix("Walsh", 8), right.labeling_duration, right.final_delay, "Walsh")
    decoded = decode_series(noisy(right, 1.5), wrong)
    with pytest.raises(InputError, match="is Walsh but the data follow Hadamard"):
        check_kinetics(decoded, np.ones(decoded.shape[:3], bool), wrong)


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        check_kinetics(np.zeros((2, 2, 2, 11)), np.zeros((2, 2, 2)), PROTOCOLS["equal"])


def test_a_real_decoded_series_agrees_with_its_order_only(shared) -> None:
    import nibabel as nib

    stem = shared / "data" / "asltk-tepcasl" / "sub-01" / "perf" / "sub-01"
    series = nib.load(f"{stem}_asl.nii.gz").get_fdata()[..., ::-1]  # stored last sub-bolus first
    m0 = nib.load(f"{stem}_m0scan.nii.gz").get_fdata()
    durations = np.array(json.loads(Path(f"{stem}_asl.json").read_text())["LabelingDuration"])[::-1]
    encoding = TimeEncoding(hadamard.matrix("Hadamard", 8), durations, 0.07, "Hadamard")
    mask = m0 > 0.5 * np.percentile(m0, 98)
    assert check_kinetics(series, mask, encoding).unexplained["as given"] < 0.05
    with pytest.raises(InputError, match="reverse order"):
        check_kinetics(series[..., ::-1], mask, encoding)

"""Encoded data sets through the command line: decode, fit and check agree with the decoded series and its timing."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small import encode_series

from aslpinn import load_subject
from aslpinn.cli import main
from aslpinn.errors import InputError
from aslpinn.physics import delta_m, hadamard

ADJUSTED = [0.89, 0.575, 0.426, 0.338, 0.28, 0.24, 0.209, 0.186, 0.167, 0.151, 0.139]
AFFINE = np.diag([3.0, 3.0, 5.0, 1.0])


def encoded_data_set(root: Path, signs: np.ndarray, fields: dict, durations: list[float], repeats: int = 1):
    """A BIDS subject of encoded volumes, with the clean delta-M and the delays that decoding should give."""
    rng = np.random.default_rng(6)
    shape = (14, 14, 6)
    grid = np.indices(shape).reshape(3, -1).T - (np.array(shape) - 1) / 2
    brain = ((grid / (0.47 * np.array(shape))) ** 2).sum(axis=1).reshape(shape) < 1
    cbf, att = rng.uniform(25, 70, shape), rng.uniform(0.6, 1.6, shape)
    pld = [0.049 + sum(durations[k + 1 :]) for k in range(len(durations))]
    signal = delta_m(cbf[..., None], att[..., None], np.array(pld), np.array(durations))
    deltam = np.where(brain[..., None], 1000 / 0.9 * signal, 0)
    volumes = encode_series(deltam, np.where(brain, 700.0, 0.0), signs, repeats=repeats)
    perf = root / "sub-01" / "perf"
    perf.mkdir(parents=True)
    nib.save(nib.Nifti1Image(volumes.astype(np.float32), AFFINE), perf / "sub-01_asl.nii.gz")
    nib.save(nib.Nifti1Image(np.where(brain, 1000, 0).astype(np.float32), AFFINE), perf / "sub-01_m0scan.nii.gz")
    (perf / "sub-01_aslcontext.tsv").write_text("volume_type\n" + "n/a\n" * volumes.shape[3])
    (perf / "sub-01_m0scan.json").write_text('{"RepetitionTimePreparation": 10}')
    sidecar = {
        "ArterialSpinLabelingType": "PCASL",
        "MRAcquisitionType": "3D",
        "LabelingDuration": durations,
        "PostLabelingDelay": 0.049,
        "M0Type": "Separate",
        "BackgroundSuppression": False,
        **fields,
    }
    (perf / "sub-01_asl.json").write_text(json.dumps(sidecar))
    (root / "dataset_description.json").write_text('{"Name": "t", "BIDSVersion": "1.10.0"}')
    return perf / "sub-01_asl.nii.gz", deltam, pld


CASES = {
    "order 8 by name": (8, {"TimeEncodedMatrixSize": 8, "TimeEncodedMatrixType": "Hadamard"}, [0.5] * 7),
    "order 8, Walsh": (8, {"TimeEncodedMatrixSize": 8, "TimeEncodedMatrixType": "Walsh"}, [1.8, 0.8] + [0.2] * 5),
    "order 12, explicit": (12, {}, ADJUSTED),
}


@pytest.mark.parametrize("case", CASES)
def test_encoded_series_decode_to_their_sub_boli_with_the_right_timing(tmp_path: Path, case: str, capsys) -> None:
    size, fields, durations = CASES[case]
    kind = fields.get("TimeEncodedMatrixType", "Paley")
    signs = hadamard.matrix(kind, size)
    if not fields:  # rows and columns in an order that no name gives
        signs = signs[np.random.default_rng(2).permutation(size)][:, ::-1]
        fields = {"TimeEncodedMatrix": signs.tolist()}
    asl, deltam, pld = encoded_data_set(tmp_path / "raw", signs, fields, durations, repeats=2)
    assert main(["decode", str(asl), "--out", str(tmp_path / "decoded")]) == 0
    perf = tmp_path / "decoded" / "sub-01" / "perf"
    assert capsys.readouterr().out.split() == [str(perf / f"sub-01_{name}.nii.gz") for name in ("asl", "m0scan")]
    decoded = nib.load(perf / "sub-01_asl.nii.gz")
    assert np.abs(decoded.get_fdata() - deltam).max() < 1e-4 * np.abs(deltam).max()
    np.testing.assert_allclose(decoded.affine, AFFINE)
    sidecar = json.loads((perf / "sub-01_asl.json").read_text())
    np.testing.assert_allclose(sidecar["PostLabelingDelay"], pld, atol=1e-6)
    np.testing.assert_allclose(sidecar["LabelingDuration"], durations, atol=1e-6)
    assert (perf / "sub-01_aslcontext.tsv").read_text().split() == ["volume_type"] + ["deltam"] * (size - 1)
    raw, again = load_subject(asl), load_subject(perf / "sub-01_asl.nii.gz")
    assert raw.series.shape[3] == 2 * (size - 1)
    np.testing.assert_array_equal(raw.pair_index, np.repeat([0, size], size - 1))
    np.testing.assert_allclose(raw.series[..., : size - 1], again.series, atol=1e-4 * again.series.max())
    np.testing.assert_allclose(raw.acquisition.distinct[0].time, again.acquisition.time, atol=1e-5)


def test_a_fit_of_encoded_volumes_equals_that_of_the_decoded_ones(tmp_path: Path, capsys) -> None:
    out = tmp_path / "virtual"
    assert main(["simulate", str(out), "--encoded", "--protocol", "te7", "--seed", "3"]) == 0
    asl = out / "sub-01" / "perf" / "sub-01_asl.nii.gz"
    assert main(["decode", str(asl), "--out", str(tmp_path / "decoded")]) == 0
    decoded = tmp_path / "decoded" / "sub-01" / "perf" / "sub-01_asl.nii.gz"
    for file, name in ((asl, "raw"), (decoded, "after")):
        assert main(["fit", str(file), "--out", str(tmp_path / name), "--estimator", "nlls"]) == 0
    for quantity, size in (("cbf", 1e-2), ("att", 1e-3)):
        maps = [
            nib.load(tmp_path / name / "sub-01" / "perf" / f"sub-01_{quantity}.nii.gz").get_fdata()
            for name in ("raw", "after")
        ]
        np.testing.assert_allclose(maps[0], maps[1], atol=size)
    capsys.readouterr()
    assert main(["check", str(asl)]) == 0
    assert "order and sign: as given" in capsys.readouterr().out


def test_wrong_order_is_refused_by_fit_and_decode_and_said_by_check(tmp_path: Path, capsys) -> None:
    signs = hadamard.matrix("Hadamard", 8)
    wrong = {"TimeEncodedMatrix": signs[:, ::-1].tolist()}
    asl, _, _ = encoded_data_set(tmp_path / "raw", signs, wrong, [0.5] * 7)
    for command in ("fit", "decode"):
        assert main([command, str(asl), "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert "reverse order" in said
        assert "sub-01_asl.json" in said
        assert not (tmp_path / "out").exists()
    assert main(["check", str(asl), "--json"]) == 2  # as fit would
    found = json.loads(capsys.readouterr().out)
    assert found["time_encoding"]["kinetics"] == "columns reversed"
    assert "reverse order" in found["missing"][0]
    assert main(["check", str(asl), "--force"]) == 0
    capsys.readouterr()
    assert main(["decode", str(asl), "--out", str(tmp_path / "out"), "--force"]) == 0


def test_a_series_that_is_not_encoded_is_not_decoded(tmp_path: Path) -> None:
    fields = {"TimeEncodedMatrixSize": 8, "TimeEncodedMatrixType": "Hadamard"}
    asl, _, _ = encoded_data_set(tmp_path / "raw", hadamard.matrix("Hadamard", 8), fields, [0.5] * 7)
    file = asl.with_name("sub-01_asl.json")
    values = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in values.items() if not key.startswith("TimeEncoded")}))
    with pytest.raises(InputError, match="n/a volumes are Hadamard-encoded"):
        load_subject(asl)
    assert main(["decode", str(asl), "--out", str(tmp_path / "out")]) == 2


def test_the_raw_series_is_not_written_over(tmp_path: Path, capsys) -> None:
    fields = {"TimeEncodedMatrixSize": 8, "TimeEncodedMatrixType": "Hadamard"}
    asl, _, _ = encoded_data_set(tmp_path / "raw", hadamard.matrix("Hadamard", 8), fields, [0.5] * 7)
    whole = {file: file.read_bytes() for file in (tmp_path / "raw").rglob("*") if file.is_file()}
    assert main(["decode", str(asl), "--out", str(tmp_path / "raw")]) == 2
    description = tmp_path / "raw" / "dataset_description.json"
    description.unlink()  # a folder that is no data set
    assert main(["decode", str(asl), "--out", str(tmp_path / "raw")]) == 2
    assert capsys.readouterr().err.count("is the raw data set") == 2
    del whole[description]
    assert {file: file.read_bytes() for file in (tmp_path / "raw").rglob("*") if file.is_file()} == whole


@pytest.mark.parametrize("kind", ["Separate, sidecar inherited", "Included", "Estimate"])
def test_m0_goes_with_the_decoded_series_so_that_it_fits_by_itself(tmp_path: Path, kind: str) -> None:
    fields = {"TimeEncodedMatrixSize": 8, "TimeEncodedMatrixType": "Hadamard"}
    asl, _, _ = encoded_data_set(tmp_path / "raw", hadamard.matrix("Hadamard", 8), fields, [0.5] * 7, repeats=2)
    perf, root = asl.parent, tmp_path / "raw"
    sidecar = json.loads((perf / "sub-01_asl.json").read_text())
    m0 = nib.load(perf / "sub-01_m0scan.nii.gz").get_fdata()
    mask = tmp_path / "mask.nii.gz"
    nib.save(nib.Nifti1Image((m0 > 0).astype(np.uint8), AFFINE), mask)
    if kind.startswith("Separate"):
        (perf / "sub-01_m0scan.json").unlink()
        (root / "m0scan.json").write_text('{"RepetitionTimePreparation": 2.0}')
    else:
        for file in perf.glob("*m0scan*"):
            file.unlink()
    if kind == "Included":
        series = nib.load(asl).get_fdata(dtype=np.float32)
        data = np.concatenate([series, m0[..., None]], axis=-1)
        nib.save(nib.Nifti1Image(data.astype(np.float32), AFFINE), asl)
        (perf / "sub-01_aslcontext.tsv").write_text("volume_type\n" + "n/a\n" * 16 + "m0scan\n")
        sidecar |= {"M0Type": "Included", "RepetitionTimePreparation": [4.5] * 16 + [3.0]}
    if kind == "Estimate":
        sidecar |= {"M0Type": "Estimate", "M0Estimate": 1100.0}
    (perf / "sub-01_asl.json").write_text(json.dumps(sidecar))
    assert main(["decode", str(asl), "--out", str(tmp_path / "out"), "--mask", str(mask)]) == 0
    raw = load_subject(asl, mask)
    decoded = load_subject(tmp_path / "out" / "sub-01" / "perf" / "sub-01_asl.nii.gz", mask)
    np.testing.assert_allclose(decoded.m0b, raw.m0b, rtol=1e-6)
    assert decoded.provenance["m0"] == raw.provenance["m0"]
    mean = raw.series.reshape(*raw.mask.shape, 2, 7).mean(axis=3)
    np.testing.assert_allclose(decoded.series, mean, atol=1e-5 * mean.max())

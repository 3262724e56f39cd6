"""Tissue maps from the atlas, and outlying pairs: checked against a phantom whose tissue and noise are known."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from aslpinn.data.icbm_tissue import estimate_tissue
from aslpinn.data.outliers import find_outliers, outliers_line
from aslpinn.errors import InputError


def load(shared, name: str) -> np.ndarray:
    return nib.load(shared / "reference" / "basil" / f"{name}.nii.gz").get_fdata()


@pytest.mark.slow
def test_a_head_elsewhere_gets_its_own_tissue_maps(shared) -> None:
    image = nib.load(shared / "reference" / "basil" / "m0.nii.gz")
    m0, mask, gm, wm = image.get_fdata(), load(shared, "mask") > 0, load(shared, "gm"), load(shared, "wm")
    move = np.array([[0.96, 0.03, 0, 12], [-0.03, 0.97, 0.05, -9], [0, -0.05, 1.02, 15], [0, 0, 0, 1.0]])
    found = estimate_tissue(m0, mask, move @ image.affine)
    assert found.overlap > 0.93
    assert np.corrcoef(found.gm[mask], gm[mask])[0, 1] > 0.75
    assert np.corrcoef(found.wm[mask], wm[mask])[0, 1] > 0.75
    assert found.gm[~mask].max() == 0
    assert "estimated" in found.provenance()["Source"]


@pytest.mark.slow
def test_a_slab_that_is_no_brain_is_refused() -> None:
    mask = np.zeros((40, 40, 8), bool)
    mask[:, :, 2:6] = True
    with pytest.raises(InputError, match=r"stretched|overlaps the mask"):
        estimate_tissue(mask.astype(float), mask, np.diag([3.0, 3.0, 5.0, 1.0]))
    with pytest.raises(InputError, match="empty"):
        estimate_tissue(mask.astype(float), np.zeros_like(mask), np.diag([3.0, 3.0, 5.0, 1.0]))


@pytest.fixture
def repeats(rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Six delays of eight repeats, white noise, in an ellipsoid."""
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in (24, 24, 10)], indexing="ij")
    mask = sum(g**2 for g in grid) < 0.95
    curve = np.array([8, 7, 6, 5, 4, 3.5])
    condition = np.tile(np.arange(6), 8)
    series = curve[condition] + rng.normal(scale=6.0, size=(*mask.shape, 48))
    return series, mask, condition


def test_clean_repeats_have_no_outliers(repeats) -> None:
    series, mask, condition = repeats
    found = find_outliers(series, mask, condition)
    assert found.volumes == []
    assert found.slices == []
    assert found.judged == 48
    np.testing.assert_array_equal(found.weights, 1)


def test_bad_pairs_and_a_bad_slice_are_found_and_weighted_down(repeats, rng) -> None:
    series, mask, condition = repeats
    series[..., 7] += 60 * ndimage.gaussian_filter(rng.normal(size=mask.shape), 2) * 8  # a moved pair
    series[..., 31] *= 4  # a spike
    series[:, :, 5, 20] += rng.normal(scale=15, size=mask.shape[:2])
    found = find_outliers(series, mask, condition)
    assert found.volumes == [7, 31]
    assert found.slices == [(20, 5)]
    said = outliers_line(found.provenance())
    assert "weighted down: 2 of 48 (number 7, 31, counted from 0); single slices of others: volume 20: 5" in said
    assert found.weights[[7, 31]].max() < 0.3
    assert found.slice_weights[20, 5] < 0.2
    assert found.slice_weights[20, 4] == 1
    weighted = np.average(series[mask][:, condition == 1], axis=1, weights=found.weights[condition == 1])
    assert weighted.std() < 0.6 * series[mask][:, condition == 1].mean(axis=1).std()


def test_too_few_repeats_are_not_judged(repeats) -> None:
    series, mask, condition = repeats
    found = find_outliers(series[..., :18], mask, condition[:18])
    assert found.judged == 0
    assert "cannot be told" in outliers_line(found.provenance())
    assert found.volumes == []
    with pytest.raises(InputError, match="do not fit"):
        find_outliers(series, mask, condition[:5])


def test_slices_are_listed_as_ranges() -> None:
    report = {"Judged": 8, "Volumes": [], "Slices": [[2, 4], [2, 5], [2, 6], [2, 9], [3, 1]]}
    assert outliers_line(report).endswith("0 of 8; single slices of others: volume 2: 4-6, 9; volume 3: 1")

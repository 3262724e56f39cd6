"""Hadamard encoding: orthogonality, exact inversion, timing, refusal of what cannot be decoded."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aslpinn.errors import InputError
from aslpinn.physics import hadamard

NAMED = [(kind, size) for kind in ("Hadamard", "Walsh") for size in hadamard.ORDERS] + [
    ("Paley", size) for size in (4, 8, 12, 20, 24)
]


@pytest.mark.parametrize(("kind", "size"), NAMED)
def test_columns_are_orthogonal_and_balanced(kind: str, size: int) -> None:
    signs = hadamard.matrix(kind, size).astype(int)
    assert signs.shape == (size, size - 1)
    assert set(np.unique(signs)) == {-1, 1}
    np.testing.assert_array_equal(signs.T @ signs, size * np.eye(size - 1))
    np.testing.assert_array_equal(signs.sum(axis=0), 0)
    np.testing.assert_array_equal(hadamard.validate(signs, size), signs)


@pytest.mark.parametrize("size", [4, 8, 16])
def test_sylvester_and_walsh_are_the_textbook_matrices(size: int) -> None:
    full = scipy.linalg.hadamard(size)
    np.testing.assert_array_equal(hadamard.matrix("Hadamard", size), full[:, 1:])
    walsh = hadamard.matrix("walsh", size)
    np.testing.assert_array_equal(hadamard.sequency(walsh), np.arange(1, size))  # one more change of sign a column


@pytest.mark.parametrize("size", hadamard.ORDERS)
def test_named_matrices_start_with_an_all_control_volume(size: int) -> None:
    assert np.all(hadamard.matrix("Hadamard", size)[0] == 1)
    changes = hadamard.sequency(hadamard.matrix("Walsh", size))
    assert np.all(np.diff(changes) >= 0)


def signals(width: int) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(float, (3, width), elements=st.floats(-1e3, 1e3, width=32))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), which=st.sampled_from(NAMED), static=st.floats(0, 1e4))
def test_decoding_inverts_encoding_whatever_the_static_signal(data, which, static) -> None:
    signs = hadamard.matrix(*which)
    truth = data.draw(signals(signs.shape[1]))
    volumes = hadamard.encode(truth, signs, static)
    np.testing.assert_allclose(hadamard.decode(volumes, signs), truth, atol=1e-10 * (1 + static + np.abs(truth).max()))
    np.testing.assert_allclose(hadamard.static_signal(volumes, signs), static, atol=1e-9 * (1 + static + 1e3))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), which=st.sampled_from(NAMED))
def test_encoding_inverts_decoding(data, which) -> None:
    signs = hadamard.matrix(*which)
    volumes = data.draw(signals(signs.shape[0]))
    again = hadamard.encode(hadamard.decode(volumes, signs), signs, hadamard.static_signal(volumes, signs))
    np.testing.assert_allclose(again, volumes, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), which=st.sampled_from(NAMED))
def test_shuffled_and_flipped_matrices_decode_too(data, which) -> None:
    signs = hadamard.matrix(*which)
    rows = np.array(data.draw(st.permutations(range(signs.shape[0]))))
    columns = np.array(data.draw(st.permutations(range(signs.shape[1]))))
    explicit = hadamard.matrix((-1.0 * signs[rows][:, columns]).tolist())
    truth = np.arange(1.0, signs.shape[1] + 1)
    np.testing.assert_allclose(hadamard.decode(hadamard.encode(truth, explicit, 100.0), explicit), truth, atol=1e-10)


def test_a_labeled_sub_bolus_lowers_the_image_and_decodes_positive() -> None:
    signs = hadamard.matrix("Hadamard", 4)
    volumes = hadamard.encode([0.0, 7.0, 0.0], signs, static=100.0)
    np.testing.assert_allclose(volumes, np.where(signs[:, 1] == 1, 100.0, 93.0))
    np.testing.assert_allclose(hadamard.decode(volumes, signs), [0, 7, 0])


def test_noise_of_a_decoded_sub_bolus_is_two_over_root_n(rng) -> None:
    signs = hadamard.matrix("Hadamard", 12)
    decoded = hadamard.decode(rng.normal(size=(20000, 12)), signs)
    np.testing.assert_allclose(decoded.std(axis=0), 2 / np.sqrt(12), rtol=0.03)


def test_delays_add_up_to_the_whole_train() -> None:
    durations = np.array([0.89, 0.575, 0.426, 0.338, 0.28, 0.24, 0.209, 0.186, 0.167, 0.151, 0.139])
    delays = hadamard.effective_delays(durations, 0.049)
    assert delays[-1] == pytest.approx(0.049)
    np.testing.assert_allclose(delays[:-1] - delays[1:], durations[1:])
    assert delays[0] + durations[0] == pytest.approx(0.049 + durations.sum())


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (np.ones((8, 8)), "constant column"),
        (np.ones((8, 6)), "shape"),
        (np.ones(7), "shape"),
        (np.ones((4, 3)), "controls"),
        ([[1, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 0]], "holds 0"),
        ([[1, 1, 1], [-1, 1, 1], [1, -1, -1], [-1, -1, -1]], "columns 2 and 3"),
        ([[1, 1, 1], [-1, 1]], "rows differ"),
        ([["a", "b"]], "not a number"),
        ([[1, np.nan, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]], "holds nan"),
    ],
)
def test_matrices_that_cannot_be_decoded_are_refused(bad, word: str) -> None:
    with pytest.raises(InputError, match=word):
        hadamard.matrix(bad)


def test_unknown_names_sizes_and_counts_are_refused() -> None:
    with pytest.raises(InputError, match="Fourier"):
        hadamard.matrix("Fourier", 8)
    for size in (6, 28, None, 0, True):
        with pytest.raises(InputError, match="4, 8, 12, 16, 20, 24"):
            hadamard.matrix("Hadamard", size)
    with pytest.raises(InputError, match="Paley"):
        hadamard.matrix("Paley", 16)
    with pytest.raises(InputError, match="8 rows; expected 12"):
        hadamard.matrix(hadamard.matrix("Hadamard", 8), 12)
    with pytest.raises(InputError, match="7 encoded volumes"):
        hadamard.decode(np.zeros((2, 7)), hadamard.matrix("Hadamard", 8))
    with pytest.raises(InputError, match="8 sub-bolus signals"):
        hadamard.encode(np.zeros((2, 8)), hadamard.matrix("Hadamard", 8))

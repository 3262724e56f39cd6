"""Held-out evaluation: floor and errors are those of known noise; chapters get the data set that they ask for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aslpinn import InputError, simulate
from aslpinn.data import write_phantom
from aslpinn_book.chapters import in_vivo
from aslpinn_book.study.notebooks import chapter_tasks, digest


@pytest.fixture(scope="module")
def person():
    return simulate("mpld6", tsnr=2.0, repeats=6, voxel_size=(7.0, 7.0, 8.0), slice_time=0.05)


def test_the_floor_is_the_noise_of_a_half_and_the_truth_reaches_it(person) -> None:
    parts = in_vivo.split(person)
    assert len(parts.train) == len(parts.test) == 18
    assert parts.floor == pytest.approx(person.noise_sd / np.sqrt(3), rel=0.02)
    assert parts.half == pytest.approx(np.sqrt(2) * parts.floor)
    estimate = in_vivo.fit_half(person, parts.train, "grid")
    truth = in_vivo.score(person, parts, estimate.__class__(**vars(estimate) | {"fitted": person.clean[..., :6]}))
    assert truth.held_out == pytest.approx(parts.floor, rel=0.02)
    assert truth.train == pytest.approx(parts.floor, rel=0.02)
    found = in_vivo.score(person, parts, estimate)
    # Two parameters and six delays: a fit takes two sixths of the variance from its own half, and adds it to the other.
    assert found.train < parts.floor < found.held_out < parts.half
    assert found.held_out**2 == pytest.approx(found.squares.mean())
    table = in_vivo.scores_table(parts, {"grid": found})
    assert "half itself" in table
    assert f"{1e3 * found.held_out:.2f}" in table
    shares = in_vivo.partial_volume_table(person, person.cbf).splitlines()
    means = [float(line.split("|")[3]) for line in shares[2:]]
    assert sorted(means[:-2]) == means[:-2], "the more gray matter, the more flow"
    assert means[-1] < means[0] < means[-3] < means[-2], "each tissue by itself lies beyond the mixtures"
    figure = in_vivo.prediction(
        {"grid": (found.train, found.held_out)},
        {"grid": found.by_delay},
        person.acquisition.post_labeling_delay[:6],
        parts.half,
        (parts.floor, parts.by_delay),
    )
    assert "1e-3" in figure.axes[0].get_xlabel()


def test_the_worst_voxels_hold_what_noise_gives_them_or_more(person) -> None:
    parts = in_vivo.split(person)
    noise = in_vivo.noise_squares(parts, 20_000)
    assert noise.mean() == pytest.approx(parts.floor**2, rel=0.02)
    assert in_vivo.worst_share(np.ones(100)) == pytest.approx(0.05)
    assert in_vivo.worst_share(noise) < 0.2
    heavy = noise.copy()
    heavy[:100] *= 200
    assert in_vivo.worst_share(heavy) > 0.5
    assert in_vivo.concentration({"grid": heavy}, noise).axes[0].get_ylabel().endswith("(%)")


def test_slice_times_change_att_by_themselves_and_cbf_by_decay() -> None:
    clean = simulate("mpld6", tsnr=20.0, repeats=2, voxel_size=(7.0, 7.0, 8.0), slice_time=0.05)
    effect = in_vivo.slice_effect(clean, fewest=20)
    assert effect is not None
    early = effect.offset < 0.6
    np.testing.assert_allclose(effect.att[early], effect.offset[early], atol=0.02)
    np.testing.assert_allclose(effect.cbf[early], np.exp(effect.offset[early] / 1.65), rtol=0.02)
    assert in_vivo.slice_effect(simulate("mpld6", tsnr=5.0, repeats=2, voxel_size=(9.0, 9.0, 10.0))) is None


def test_a_data_set_without_usable_repeats_gives_way_to_a_virtual_volunteer(tmp_path: Path) -> None:
    single = simulate("te7", voxel_size=(9.0, 9.0, 10.0))
    asl = write_phantom(single, tmp_path / "single")[0]
    made, what = in_vivo.person_with_repeats(tmp_path / "single", fast=True)
    assert "has no repeats" in what
    assert made.acquisition.slice_offset is not None
    with pytest.raises(InputError, match="measured once only"):
        in_vivo.split(single)
    asl.with_suffix("").with_suffix(".json").write_text("broken")
    _, what = in_vivo.person_with_repeats(tmp_path / "single", fast=True)
    assert "cannot be used: sub-01/perf/sub-01_asl.json: not valid JSON" in what
    repeated = simulate("mpld6", repeats=2, voxel_size=(9.0, 9.0, 10.0), slice_time=0.04)
    write_phantom(repeated, tmp_path / "repeated")
    found, what = in_vivo.person_with_repeats(tmp_path / "repeated")
    assert what.startswith("a person")
    np.testing.assert_allclose(found.acquisition.slice_offset, repeated.acquisition.slice_offset)
    np.testing.assert_allclose(found.series[found.mask], repeated.series[found.mask], atol=1e-6)


def test_chapters_get_the_first_data_set_where_they_declare_it(tmp_path: Path) -> None:
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    (notebooks / "real.md").write_text('```{code-cell} python\n:tags: [parameters]\nbids = ""\n```\n')
    (notebooks / "other.md").write_text("# No data\n")
    asl = write_phantom(simulate("te7", voxel_size=(9.0, 9.0, 10.0)), tmp_path / "set")[0]
    names = ["real", "other", "missing"]
    real, other = chapter_tasks(names, tmp_path, tmp_path / "out", {"seed": 0}, [tmp_path / "set"])
    assert real.parameters == {"seed": 0, "bids": str(tmp_path / "set")}
    assert asl in real.inputs
    assert other.parameters == {"seed": 0}
    assert other.inputs == ()
    alone = chapter_tasks(names, tmp_path, tmp_path / "out", {"seed": 0})[0]
    assert "bids" not in alone.parameters
    before = digest(real)
    assert before != digest(alone)
    asl.write_bytes(asl.read_bytes() + b"x")
    assert digest(real) != before

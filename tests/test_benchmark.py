"""The benchmark scores fits as the metrics define them, and its table can be read back."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest

from aslpinn import Estimate, InputError, simulate
from aslpinn_book.chapters import benchmark, benchmark_tables
from aslpinn_book.chapters.phantom import parameter_maps
from aslpinn_book.chapters.results import bias_variance, method_dots
from aslpinn_book.chapters.shared import comparison

COARSE = (8.0, 8.0, 14.0)


def as_estimate(phantom, cbf, att, sd=None):
    distinct, _ = phantom.acquisition.distinct
    fitted = phantom.clean[..., : len(distinct)]
    spread = None if sd is None else np.full(cbf.shape, sd, dtype=np.float32)
    return Estimate(cbf=cbf, att=att, cbf_sd=spread, att_sd=None, fitted=fitted, estimator="truth")


@pytest.fixture(scope="module")
def quick():
    return benchmark.run(["nlls", "smoothed"], [1.5], [0, 1], ["healthy"], quick=True, voxel_size=COARSE)


def test_the_truth_scores_perfectly_and_its_residual_is_the_noise():
    phantom = simulate(voxel_size=COARSE, lesion=True)
    scores = benchmark.score(phantom, as_estimate(phantom, phantom.cbf, phantom.att, sd=1.0))
    for region in ("mask", "gm", "wm", "volume"):
        assert scores[region, "cbf_pcc"] == pytest.approx(1)
        assert scores[region, "att_ssim"] == pytest.approx(1)
    assert scores["gm", "cbf_relative_bias"] == 0
    assert scores["gm", "cbf_coverage"] == 1
    assert scores["lesion", "att_contrast_kept"] == pytest.approx(1)
    assert scores["mask", "signal_residual_rmse"] == pytest.approx(phantom.noise_sd, rel=0.03)


def test_what_is_written_outside_the_mask_does_not_count():
    phantom = simulate(voxel_size=COARSE)
    littered = np.where(phantom.mask, phantom.cbf, 500).astype(np.float32)
    scores = benchmark.score(phantom, as_estimate(phantom, littered, phantom.att))
    assert scores["volume", "cbf_rmse"] == 0


def test_smoothing_gains_correlation_and_pays_in_bias(quick):
    noisy = benchmark.summary(quick, estimator="nlls", region="mask", metric="cbf_pcc")[0]
    smooth = benchmark.summary(quick, estimator="smoothed", region="mask", metric="cbf_pcc")[0]
    assert smooth > noisy + 0.05
    gray = benchmark.summary(quick, estimator="smoothed", region="gm", metric="cbf_relative_bias")[0]
    white = benchmark.summary(quick, estimator="smoothed", region="wm", metric="cbf_relative_bias")[0]
    assert gray < 0 < white


def test_seeds_are_rows_of_their_own_and_have_a_spread(quick):
    values = benchmark.values_of(quick, estimator="nlls", region="mask", metric="att_pcc")
    mean, sd = benchmark.summary(quick, estimator="nlls", region="mask", metric="att_pcc")
    assert values.shape == (2,)
    assert mean == pytest.approx(values.mean())
    assert sd == pytest.approx(values.std(ddof=1))
    with pytest.raises(InputError, match="no row"):
        benchmark.summary(quick, estimator="nobody")
    with pytest.raises(InputError, match="no field"):
        benchmark.values_of(quick, stimator="nlls")


def test_csv_and_table_hold_every_row(quick, tmp_path):
    file = benchmark.write_csv(quick, tmp_path / "out" / "benchmark.csv")
    with file.open() as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == ["estimator", "phantom", "tsnr", "seed", "region", "metric", "value", "seconds"]
    assert len(rows) == len(quick)
    assert float(rows[0]["value"]) == quick[0].value
    assert benchmark.read_csv(file) == quick
    text = benchmark_tables.table(quick)
    assert "nlls" in text
    assert "smoothed" in text
    published = benchmark_tables.paper_table(quick, 1.5, ["nlls"])
    made = [benchmark_tables.scores_table(quick, 1.5, what) for what in benchmark_tables.TABLES]
    for text in (published, *made):
        assert len({line.count("|") for line in text.splitlines()}) == 1
    assert "*pinn, published* | 0.825 | 0.969 | 0.951 | 0.995" in published
    (tmp_path / "broken.csv").write_text("estimator,phantom\nnlls,healthy\n")
    with pytest.raises(InputError, match=r"broken\.csv"):
        benchmark.read_csv(tmp_path / "broken.csv")


def test_bias_and_noise_add_up_to_the_error(quick):
    for name in ("nlls", "smoothed"):
        at = {"estimator": name, "region": "mask", "seed": benchmark.ALL_SEEDS}
        bias, sd = (benchmark.summary(quick, metric=f"cbf_rms_{part}", **at)[0] for part in ("bias", "sd"))
        error, of_mean = (
            benchmark.values_of(quick, estimator=name, region="mask", metric=f"cbf_{part}") for part in ("rmse", "bias")
        )
        left = np.mean(error**2) - sd**2  # noise can leave less than the square of the mean's bias, then that is taken
        assert bias == pytest.approx(np.sqrt(max(left, of_mean.mean() ** 2)), rel=1e-5)
    noise = {
        n: benchmark.summary(quick, estimator=n, region="gm", metric="cbf_rms_sd")[0] for n in ("nlls", "smoothed")
    }
    assert noise["smoothed"] < noise["nlls"]


def test_hard_phantoms_have_regions_of_their_own():
    rows = benchmark.run(["nlls"], [1.5], [0], ["tumor", "delayed", "arterial"], voxel_size=COARSE)
    kept = benchmark.summary(rows, phantom="tumor", region="tumor", metric="cbf_contrast_kept")[0]
    assert 0.5 < kept < 1.5
    assert benchmark.values_of(rows, phantom="tumor", metric="att_contrast_kept").size == 0  # none to keep
    assert benchmark.values_of(rows, phantom="delayed", region="late", metric="att_bias").size == 1
    high = benchmark.summary(rows, phantom="arterial", region="artery", metric="cbf_relative_bias")[0]
    assert high > 0.1  # blood in arteries is taken for perfusion
    text = benchmark_tables.special_table(rows, 1.5)
    assert "tumor: CBF kept (%)" in text
    assert "delayed: ATT bias (s)" in text


def test_a_table_has_the_best_in_bold_and_a_spread_from_three_seeds_on():
    def rows(name, values, metric="cbf_pcc", region="mask"):
        return [
            benchmark.Score(name, "healthy", 1.5, seed, region, metric, value, 1.0) for seed, value in enumerate(values)
        ]

    made = rows("nlls", [0.7, 0.8, 0.9]) + rows("vb", [0.9, 0.9])
    for name, biases in (("nlls", [0.1, 0.1, 0.1]), ("vb", [-0.02, -0.02])):
        made += rows(name, biases, "cbf_relative_bias", "gm")
    made += [benchmark.Score("vb", "healthy", 1.5, benchmark.ALL_SEEDS, "mask", "cbf_pcc", 0.0, 1.0)]
    lines = benchmark_tables.scores_table(made, 1.5, "cbf").splitlines()
    assert lines[2] == "| `nlls` | 0.800 ±\N{NO-BREAK SPACE}0.100 | - | +10.0 ±\N{NO-BREAK SPACE}0.0 | - |"
    assert lines[3] == "| `vb` | **0.900** | - | **-2.0** | - |"


def test_the_default_is_guided_by_a_noisy_m0_and_can_go_without(monkeypatch):
    import aslpinn.estimation

    seen = {}

    def fit(*arrays, guide=None, **options):
        seen[guide is not None] = guide

    monkeypatch.setattr(aslpinn.estimation, "fit", fit)
    phantom = simulate(voxel_size=COARSE)
    benchmark.fit_phantom(phantom, "field")
    benchmark.fit_phantom(phantom, "field-unguided")
    assert seen[False] is None
    noise = (seen[True] / np.where(phantom.mask, phantom.m0, 1) - 1)[phantom.mask]
    assert noise.std() == pytest.approx(benchmark.M0_NOISE, rel=0.1)


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="healthy"):
        benchmark.run(["nlls"], phantoms=["sick"], quick=True)
    with pytest.raises(InputError, match="field-unguided"):
        benchmark.run(["guess"], quick=True, voxel_size=COARSE)


@pytest.mark.parametrize(("old", "new"), benchmark.FORMER.items())
def test_rows_of_version_0_1_are_refused_with_their_names_of_today(old, new):
    with pytest.raises(InputError, match=f"estimator '{old}' of the benchmark is now '{new}'"):
        benchmark.run([old], quick=True)
    assert new in benchmark.METHODS


def test_rows_of_networks_say_how_many_there_are():
    assert benchmark.described("pinn-single") == "estimator pinn, 1 network, objective closed-form, anatomy off"
    assert re.fullmatch("estimator pinn, [2-9] networks, preset default", benchmark.described("pinn"))
    assert benchmark.described("field").endswith("M0 as guide")


def test_figures_draw_every_map_with_its_unit(quick):
    phantom = simulate(voxel_size=COARSE)
    maps = {"cbf": phantom.cbf, "att": phantom.att, "m0": phantom.m0}
    figure = parameter_maps(maps, phantom.mask, voxel_size=phantom.voxel_size)
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert labels == ["CBF\n(ml/100g/min)", "ATT\n(s)", "M0\n(relative)"]
    drawn = comparison({"cbf": phantom.cbf, "att": phantom.att}, {"nlls": maps, "smoothed": maps}, phantom.mask)
    assert sum("error" in axes.get_ylabel() for axes in drawn.axes) == 2
    titles = [axes.get_title() for axes in drawn.axes]
    assert titles.count("truth") == titles.count("nlls") == 2
    image = drawn.axes[4].images[0].get_array()
    np.testing.assert_allclose(np.ma.masked_invalid(image).compressed(), 0, atol=1e-3)  # the truth has no error
    split = bias_variance({"CBF, GM": {"nlls": (3.0, 9.0), "pinn": (2.0, 4.0)}}, ["ml/100g/min"])
    assert [line.get_xydata().tolist() for line in split.axes[0].lines if line.get_label() == "pinn"] == [[[2.0, 4.0]]]
    dots = method_dots({"kept (%)": {"nlls": [98.0, 99.0], "pinn": [90.0]}}, {"kept (%)": 100.0})
    assert dots.axes[0].get_title() == "kept (%)"
    assert drawn._repr_svg_().startswith("<?xml")


def test_command_writes_the_csv(tmp_path, capsys):
    from aslpinn.cli import main

    arguments = ["benchmark", "--quick", "--estimator", "nlls", "--phantom", "healthy", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert (tmp_path / "benchmark.csv").is_file()
    assert "CBF PCC/SSIM" in capsys.readouterr().out
    assert main(["benchmark", "--quick", "--estimator", "nlls", "--phantom", "sick", "--out", str(tmp_path)]) == 2

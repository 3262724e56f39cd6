"""The moving figures: the core's physics, controls that change what is drawn, a 3D viewer that needs no server."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from browsing import complaints, move_every_control
from numpy.testing import assert_allclose

from aslpinn.errors import InputError
from aslpinn.fields import MultiresHashEncoding
from aslpinn.fields.encoding import grid_levels
from aslpinn.maps.style import QUANTITIES
from aslpinn.physics import Acquisition, Constants, delta_m, hadamard
from aslpinn_book.chapters import widgets
from aslpinn_book.study.notebooks import Task
from aslpinn_book.study.viewer import map_files, small_copy, write_viewer

STATIC = Path(__file__).resolve().parents[1] / "book" / "_static"


def page_with(folder: Path, body: str, *scripts: str) -> str:
    """A page in a folder with scripts of the book; its address."""
    tags = "".join(f'<script defer src="{(STATIC / name).as_uri()}"></script>' for name in scripts)
    style = f'<link rel="stylesheet" href="{(STATIC / "widgets" / "widgets.css").as_uri()}">'
    page = folder / "index.html"
    page.write_text(
        f"<!doctype html><html lang=en><head><meta charset=utf-8>{style}{tags}</head><body>{body}</body></html>"
    )
    return page.as_uri()


@pytest.fixture(scope="module")
def physics(browser, tmp_path_factory):
    """Call a function of physics.js: physics("deltaM", 60, 1, ...)."""
    page = browser.new_page()
    page.goto(page_with(tmp_path_factory.mktemp("physics"), "", "widgets/physics.js"))
    yield lambda script, argument=None: page.evaluate(
        f"(a) => {{ const p = window.aslpinn.physics; return {script}; }}", argument
    )
    page.close()


def test_the_signal_is_the_cores(physics, rng):
    n = 500
    constants = Constants(t1_blood=1.9, t1_tissue=1.1)
    for chosen in (Constants(), constants):
        cbf, att, pld, tau = (rng.uniform(low, high, n) for low, high in ((0, 150), (0.1, 3.5), (-1, 4), (0.1, 4)))
        cases = np.stack([cbf, att, pld, tau], axis=1).tolist()
        script = "a.cases.map(([cbf, att, pld, tau]) => p.deltaM(cbf, att, pld, tau, a.constants))"
        found = physics(script, {"cases": cases, "constants": chosen.as_dict()})
        assert_allclose(found, delta_m(cbf, att, pld, tau, chosen), rtol=1e-9, atol=1e-12)
    known = physics("p.CONSTANTS")
    assert known == {name: getattr(Constants(), name) for name in known}


def test_sub_boli_are_timed_as_in_the_core(physics):
    from aslpinn.data.phantom.protocols import PROTOCOLS

    adjusted = PROTOCOLS["te11-t1adjusted"]
    durations = physics(f"p.adjustedDurations(11, {sum(adjusted.labeling_duration)})")
    assert_allclose(durations, adjusted.labeling_duration, atol=1e-3)  # the protocol is in whole milliseconds
    delays = physics("p.effectiveDelays(a, 0.049)", list(adjusted.labeling_duration))
    assert_allclose(delays, hadamard.effective_delays(adjusted.labeling_duration, 0.049), rtol=1e-12)
    arrived = np.exp(-np.array(delays) / 1.65) - np.exp(-(np.array(delays) + np.array(durations)) / 1.65)
    assert np.ptp(arrived) / arrived.mean() < 0.01


def test_matrices_encode_and_decode_as_in_the_core(physics, rng):
    for kind in hadamard.KINDS:
        for order in hadamard.ORDERS:
            if kind == "Paley" and order == 16:
                continue
            matrix = hadamard.matrix(kind, order)
            assert physics(f"p.hadamard('{kind}', {order})") == matrix.tolist(), (kind, order)
            signals = rng.normal(size=order - 1)
            volumes = physics(
                "p.encode(a.signals, a.matrix, 0.9)", {"signals": signals.tolist(), "matrix": matrix.tolist()}
            )
            assert_allclose(volumes, hadamard.encode(signals, matrix, 0.9), atol=1e-12)
            decoded = physics("p.decode(a.volumes, a.matrix)", {"volumes": volumes, "matrix": matrix.tolist()})
            assert_allclose(decoded, signals, atol=1e-12)


def test_grids_and_rows_of_the_hash_encoding_are_the_cores(physics, rng):
    import torch

    known = widgets.resolutions()
    points = rng.uniform(size=(40, 3)).astype(np.float32)
    for levels, base, finest, log2_table in (
        (16, 16, 4096, 15),
        (4, 8, 48, 14),
        (9, 16, 64, 12),
        (2, 32, 32, 8),
        (16, 4, 2048, 19),
    ):
        given = {"resolutions": known[f"{levels} {base} {finest}"], "points": points.tolist()}
        found = physics(f"p.gridLevels({levels}, {log2_table}, {base}, {finest}, a.resolutions)", given)
        core = grid_levels(levels, log2_table, base, finest)
        assert_allclose([level["scale"] for level in found], [level.scale for level in core], rtol=1e-9)
        assert [level["resolution"] for level in found] == [level.resolution for level in core]
        assert [(level["rows"], level["dense"]) for level in found] == [(level.rows, level.dense) for level in core]
        script = f"p.gridLevels({levels}, {log2_table}, {base}, {finest}, a.resolutions)"
        script += ".map((level) => a.points.map((x) => p.cornerRows(x, level)))"
        encoding = MultiresHashEncoding(levels, 2, log2_table, base, finest)
        rows = (
            encoding.precompute(torch.from_numpy(points)).rows.numpy()
            - np.array([level.offset for level in core])[:, None]
        )
        assert (np.array(physics(script, given)).swapaxes(0, 1) == rows).all()


def brain(shape: tuple[int, int, int] = (14, 16, 8)) -> np.ndarray:
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    return (grid**2).sum(axis=0) < 0.9


def films(mask: np.ndarray) -> widgets.Widget:
    truth = {"cbf": 50.0 * mask, "att": 1.2 * mask}
    grown = {name: np.linspace(0.1, share, 4)[:, None, None, None] for name, share in (("slow", 0.6), ("fast", 1.0))}
    frames = {name: {key: share * values for key, values in truth.items()} for name, share in grown.items()}
    return widgets.training(frames, truth, [1, 2, 5, 9], mask, mask)


def test_every_control_changes_its_figure(browser, tmp_path):
    mask = brain()
    figures = {
        "buxton": '<div class="widget" data-widget="buxton"></div>',
        "hadamard": '<div class="widget" data-widget="hadamard"></div>',
        "hash-grid": widgets.hash_grid(mask, (3.0, 3.0, 7.0), levels=6, base=8, finest=64, log2_table=10)._repr_html_(),
        "training": films(mask)._repr_html_(),
    }
    scripts = ["widgets/core.js", "widgets/physics.js", *(f"widgets/{name}.js" for name in figures)]
    page = browser.new_page(viewport={"width": 380, "height": 800})
    wrong = complaints(page)
    page.goto(page_with(tmp_path, "<main>" + "".join(figures.values()) + "</main>", *scripts))
    for name in figures:
        root = f'[data-widget="{name}"]'
        assert page.locator(root).get_attribute("data-ready") == "yes", name
        assert move_every_control(page, root) == [], name
        assert page.locator(f"{root} .widget-value").inner_text(), name
        page.wait_for_timeout(300)
    page.select_option('[data-widget="buxton"] select', "adjusted")
    assert move_every_control(page, '[data-widget="buxton"]') == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    page.locator('[data-widget="training"] button').click()
    page.wait_for_function("document.querySelector('[data-widget=training] input').value === '3'", timeout=10_000)
    label = page.locator('[data-widget="training"] canvas[data-panel="slow"]').get_attribute("aria-label")
    assert "ATT by slow after epoch 9: mean in gray matter 0.72 s" in label
    assert not wrong
    page.close()


def test_the_hash_grid_counts_collisions_as_the_core_does(browser, tmp_path):
    import torch

    mask, size = brain((20, 24, 9)), np.array([3.0, 3.0, 7.0])
    settings = {"levels": 5, "base": 8, "finest": 128, "log2_table": 9}
    page = browser.new_page()
    body = widgets.hash_grid(mask, size, **settings)._repr_html_()
    page.goto(page_with(tmp_path, body, "widgets/core.js", "widgets/physics.js", "widgets/hash-grid.js"))
    found = [int(count) for count in page.locator("[data-widget]").get_attribute("data-shared").split()]
    page.close()
    voxels = np.argwhere(mask)
    low = voxels.min(axis=0)
    extent = ((np.ptp(voxels, axis=0) + 1) * size).max()
    at = ((voxels - low + 0.5) * size / extent).astype(np.float32)
    encoding = MultiresHashEncoding(settings["levels"], 2, settings["log2_table"], settings["base"], settings["finest"])
    rows = encoding.precompute(torch.from_numpy(at)).rows.numpy()
    for number, level in enumerate(encoding.levels):
        lower = np.floor(at.astype(float) * level.scale + 0.5).astype(int)
        corners = lower[:, None] + np.array([[k & 1, k >> 1 & 1, k >> 2] for k in range(8)])
        first = np.unique(corners.reshape(-1, 3), axis=0, return_index=True)[1]
        owners = np.bincount(rows[:, number].ravel()[first])
        assert found[number] == owners[owners > 1].sum()
    assert found[-1] > 0


def subject(folder: Path, mask: np.ndarray) -> tuple[Task, dict]:
    """A fitted subject with two estimators' maps and M0, as a study leaves it."""
    affine = np.diag([3.0, 3.0, 7.0, 1.0])
    state = {"maps": [f"sub-01/perf/sub-01_{kind}.nii.gz" for kind in ("cbf", "att", "desc-sd_cbf", "desc-fit_deltam")]}
    ramp = np.linspace(-5.0, 120.0, mask.size).reshape(mask.shape)
    for place, factor in (("main", 1.0), ("other", 0.5)):
        for name in state["maps"]:
            path = folder / place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            ramp[tuple(np.argwhere(mask)[5])] = 0.0
            values = np.where(mask, ramp * factor if "cbf" in name else 1.0 + ramp / 200, 0).astype(np.float32)
            nib.save(nib.Nifti1Image(values, affine), path)
    report = folder / "subjects" / "sub-01" / "report.ipynb"
    widgets.write_underlay(100.0 * mask, affine, report.with_name("measures.json"))
    parameters = {"compare": {"vb": str(folder / "other")}}
    return Task("sub-01", "subject", report, report, parameters, maps=folder / "main"), state


def test_the_copy_for_the_viewer_keeps_values_and_leaves_out_what_is_outside(tmp_path):
    mask = brain()
    task, state = subject(tmp_path, mask)
    listed = map_files(task, state, ["pinn"])
    assert [(name, path.name) for name, path in listed] == [
        (name, f"sub-01_{kind}.nii.gz") for name in ("pinn", "vb") for kind in ("cbf", "att", "desc-sd_cbf")
    ]
    exact = np.asarray(nib.load(listed[0][1]).dataobj)
    copy = nib.Nifti1Image.from_bytes(gzip.decompress(small_copy(listed[0][1], QUANTITIES["cbf"], mask)))
    values = np.asarray(copy.dataobj)
    assert_allclose(values[mask], np.maximum(exact[mask], 0.0), atol=80 / 254 / 8 + 1e-6)
    assert (values[~mask] < -0.4).all()
    assert_allclose(copy.affine, np.diag([3.0, 3.0, 7.0, 1.0]))
    write_viewer(tmp_path / "maps", task, state, ["pinn"])
    text = (tmp_path / "maps" / "sub-01.js").read_text()
    data = json.loads(text[text.index("{") : text.rindex("}") + 1])
    kinds = ("cbf", "att", "cbf_sd")
    assert [(m["estimator"], m["quantity"]) for m in data["maps"]] == [
        (n, kind) for n in ("pinn", "vb") for kind in kinds
    ]
    assert [m["unit"] for m in data["maps"][:3]] == ["ml/100g/min", "s", "ml/100g/min"]
    copies = [nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(m["volume"]))) for m in data["maps"][:2]]
    shown = [
        np.asarray(copy.dataobj) > QUANTITIES[m["quantity"]].low - 1e-6
        for copy, m in zip(copies, data["maps"], strict=False)
    ]
    assert (shown[0] == mask).all(), "a CBF of zero is shown where the ATT says that the voxel was fitted"
    assert sorted(path.name for path in (tmp_path / "maps" / "sub-01").iterdir()) == ["pinn", "vb"]


def test_the_viewer_draws_from_a_folder_without_a_server(browser, tmp_path):
    task, state = subject(tmp_path, brain())
    write_viewer(tmp_path / "maps", task, state, ["pinn"])
    niivue = (STATIC / "vendor" / "niivue" / "niivue.umd.js").as_uri()
    body = (
        '<main><div class="widget" data-widget="maps" data-key="sub-01" data-source="maps/sub-01.js" '
        f'data-niivue="{niivue}"><p class="widget-note"></p></div></main>'
    )
    page = browser.new_page(viewport={"width": 700, "height": 900})
    wrong = complaints(page)
    page.goto(page_with(tmp_path, body, "widgets/core.js", "widgets/maps.js"))
    root = '[data-widget="maps"]'
    page.wait_for_selector(f'{root}[data-ready="yes"]', timeout=60_000)
    assert page.locator(root).get_attribute("data-shown") == "pinn cbf"
    first = colors(page)
    assert len(first) > 20, "the viewer is blank"
    assert move_every_control(page, root) == []
    page.select_option(f"{root} select[name=estimator]", "vb")
    page.select_option(f"{root} select[name=quantity]", "att")
    page.wait_for_selector(f'{root}[data-shown="vb att"]')
    assert colors(page) != first
    assert "ATT by vb at voxel" in page.locator(f"{root} canvas[aria-label]").first.get_attribute("aria-label")
    assert not wrong
    page.close()


def colors(page) -> set[tuple[int, ...]]:
    """Colors in a picture of the viewer."""
    from io import BytesIO

    import matplotlib.image

    page.wait_for_timeout(200)
    picture = matplotlib.image.imread(BytesIO(page.locator(".widget-volume-box").screenshot()))
    return {tuple(color) for color in np.round(255 * picture[::3, ::3, :3]).astype(int).reshape(-1, 3)}


def test_bad_starts_are_refused():
    with pytest.raises(InputError, match="base in"):
        widgets.hash_grid(brain(), (3, 3, 7), base=7)
    with pytest.raises(InputError, match="mask is empty"):
        widgets.hash_grid(np.zeros((3, 3, 3), bool), (3, 3, 7))


def test_the_training_film_holds_what_was_given():
    mask = brain()
    data = films(mask).data
    frames = np.frombuffer(base64.b64decode(data["quantities"]["cbf"]["frames"]), np.uint8).reshape(
        2, 4, *data["shape"]
    )
    assert ((frames[0, 0] > 0) == (frames[1, 3] > 0)).all()
    low, high = QUANTITIES["cbf"].low, QUANTITIES["cbf"].high
    assert_allclose(low + (frames[1, 3].max() - 1) / 254 * (high - low), 50.0, atol=0.2)
    assert data["quantities"]["att"]["means"][0] == pytest.approx([0.12, 0.32, 0.52, 0.72], abs=1e-3)


def test_snapshots_end_where_the_fit_does(rng):
    from aslpinn import fit
    from aslpinn_book.chapters.losses import snapshots

    mask = brain((6, 6, 4))
    timing = Acquisition([1.8] * 3, [0.5, 1.2, 2.0])
    clean = delta_m(50.0, 1.1, timing.post_labeling_delay, timing.labeling_duration)
    series = mask[..., None] * (clean + 1e-4 * rng.normal(size=(*mask.shape, 3)))
    settings = {"objective": "closed-form", "members": 1, "seed": 3, "levels": 2, "finest": 32, "voxel_size": (1, 1, 1)}
    film = snapshots(series, mask, timing, (1, 4), **settings)
    whole = fit(
        series, mask, timing, estimator="pinn", epochs=4, level_decay=0.0, anatomy="off", arterial="off", **settings
    )
    assert film.epochs == (1, 4)
    assert film.maps["cbf"].shape == (2, *mask.shape)
    assert_allclose(film.maps["cbf"][-1], whole.cbf, rtol=1e-5)
    assert not np.allclose(film.maps["cbf"][0], whole.cbf)
    assert len(film.losses["total"]) == 4


def test_vendored_files_are_what_their_note_says():
    import hashlib

    folder = STATIC / "vendor" / "niivue"
    assert hashlib.sha256((folder / "niivue.umd.js").read_bytes()).hexdigest() in (folder / "VERSION.txt").read_text()
    assert "BSD 2-Clause" in (folder / "LICENSE").read_text()

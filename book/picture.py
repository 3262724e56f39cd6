"""Draw the pictures of README.md and of the first page; they are committed, because a README cannot compute.

    python book/picture.py               a PINN at work, of the chapter that writes one: _static/training.gif, and its
                                         last frame, training.png; truth and two fits of a phantom: _static/picture.png
    python book/picture.py --study DIR   every subject of a study that has run in DIR: _static/study.png

Run by `make picture`, and by `make picture STUDY=DIR`.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np

from aslpinn import fit, simulate
from aslpinn_book.chapters import group
from aslpinn_book.chapters.shared import comparison

STATIC = Path(__file__).parent / "_static"
CHAPTER = Path(__file__).parents[1] / "notebooks" / "pinn-from-nothing.md"
#: Steps of the training that are drawn; between them it looks alike.
STEPS = (1, 40, 80, 100, 115, 130, 145, 160, 175, 190, 205, 220, 235, 250, 270, 290, 310, 340, 370, 400)
SECONDS_A_FRAME, SECONDS_OF_THE_LAST, PLAYED = 0.16, 3.0, 4


def chapter_names() -> dict[str, Any]:
    """What the cells of "A PINN from nothing" define, without those that train or draw for the page itself."""
    import jupytext

    names: dict[str, Any] = {"fast": False, "seed": 0}
    for cell in jupytext.read(CHAPTER).cells:
        folded = {"hide-input", "remove-cell", "remove-input"} & set(cell.metadata.get("tags", []))
        if cell.cell_type == "code" and not folded and "draw_" not in cell.source:
            exec(compile(cell.source, CHAPTER.name, "exec"), names)
    return names


def training_frames(steps: tuple[int, ...] = STEPS) -> list[Any]:
    """Pictures of a slice while the chapter's two networks train: what was measured, what they say, the truth."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from PIL import Image

    names = chapter_names()
    phantom, middle, brain = names["phantom"], names["middle"], names["brain"]
    found = names["one_slice"](0.05, steps)

    def image(values: np.ndarray) -> np.ndarray:
        full = np.full(brain.shape, np.nan)
        full[brain] = values
        across = np.flatnonzero(brain.any(axis=1))
        along = np.flatnonzero(brain.any(axis=0))
        return full[across[0] - 1 : across[-1] + 2, along[0] - 1 : along[-1] + 2].T

    series = phantom.series[:, :, middle][brain]
    delays = phantom.acquisition.post_labeling_delay
    early, late = len(delays) // 2 + 2, 2  # the sub-bolus that is labeled first is read last
    top = float(np.percentile(series, 99))
    looks = (("CBF", "ml/100g/min", "inferno", 0, 80, phantom.cbf), ("ATT", "s", "viridis", 0.7, 1.7, phantom.att))
    pictures = []
    for step, maps in found.items():
        figure = plt.figure(figsize=(7.6, 5.0), dpi=92, facecolor="white")
        axes = figure.subplots(2, 3, gridspec_kw={"wspace": 0.03, "hspace": 0.12})
        figure.subplots_adjust(left=0.01, right=0.88, top=0.92, bottom=0.01)
        for row, (look, number) in enumerate(zip(looks, (early, late), strict=True)):
            name, unit, cmap, low, high, truth = look
            axes[row, 0].imshow(image(series[:, number]), cmap="gray", vmin=0, vmax=top, origin="lower")
            axes[row, 0].set_title(f"measured, {delays[number]:.1f} s after labeling", fontsize=10, y=0.98)
            for axis, values in zip(axes[row, 1:], (maps[row], truth[:, :, middle][brain]), strict=True):
                drawn = axis.imshow(image(values), cmap=cmap, vmin=low, vmax=high, origin="lower")
            bar = figure.colorbar(drawn, cax=figure.add_axes((0.895, 0.53 - 0.48 * row, 0.014, 0.36)))
            bar.set_label(f"{name} ({unit})", fontsize=10)
            bar.ax.tick_params(labelsize=9)
        axes[0, 1].set_title(f"two networks, step {step}", fontsize=12, y=1.02)
        axes[0, 2].set_title("truth", fontsize=12, y=1.02)
        for axis in axes.flat:
            axis.set_axis_off()
        stream = io.BytesIO()
        figure.savefig(stream, facecolor="white")
        plt.close(figure)
        pictures.append(Image.open(stream).convert("RGB"))
    return pictures


def _few_colors(picture: Any) -> Any:
    """A picture in 256 colors, those of the color maps and grays, the same in every frame."""
    import matplotlib
    from PIL import Image

    maps = (("inferno", 104), ("viridis", 88), ("gray", 64))
    colors = np.concatenate(
        [matplotlib.colormaps[name](np.linspace(0, 1, number), bytes=True)[:, :3] for name, number in maps]
    )
    pixels = np.asarray(picture)
    found, place = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    nearest = ((found[:, None].astype(int) - colors.astype(int)) ** 2).sum(axis=2).argmin(axis=1)
    made = Image.fromarray(nearest[place].reshape(pixels.shape[:2]).astype(np.uint8), "P")
    made.putpalette(colors.tobytes())
    return made


def training_picture(folder: Path = STATIC, steps: tuple[int, ...] = STEPS) -> None:
    """Write training.gif, and training.png for who prefers that nothing moves."""
    small = [_few_colors(frame) for frame in training_frames(steps)]
    each = [round(1000 * SECONDS_A_FRAME)] * (len(small) - 1) + [round(1000 * SECONDS_OF_THE_LAST)]
    small[0].save(
        folder / "training.gif", save_all=True, append_images=small[1:], duration=each, loop=PLAYED - 1, optimize=True
    )
    small[-1].save(folder / "training.png", optimize=True)


def phantom_picture() -> None:
    """Simulate a brain at tSNR 1.5 (seed 0), fit it twice, draw CBF and ATT with their relative errors."""
    phantom = simulate(tsnr=1.5, seed=0)
    columns = {}
    for name, estimator in (("voxel by voxel", "nlls"), ("multiscale field", "field")):
        estimate = fit(
            phantom.series, phantom.mask, phantom.acquisition, estimator=estimator, voxel_size=phantom.voxel_size
        )
        columns[name] = {"cbf": estimate.cbf, "att": estimate.att}
    figure = comparison({"cbf": phantom.cbf, "att": phantom.att}, columns, phantom.mask)
    figure.savefig(STATIC / "picture.png", dpi=130)


def study_picture(folder: Path) -> None:
    """The first figure of the group's page: CBF and ATT of every subject."""
    _, members = group.read_group(folder / "group" / "subjects.json")
    slices, sizes = group.middle_slices(members)
    group.subject_maps(slices, sizes, columns=10).savefig(STATIC / "study.png", dpi=130)


def main() -> None:
    """Draw what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, metavar="DIR", help="folder of a study that has run")
    arguments = parser.parse_args()
    STATIC.mkdir(exist_ok=True)
    if arguments.study is None:
        training_picture()
        phantom_picture()
    else:
        study_picture(arguments.study)


if __name__ == "__main__":
    main()

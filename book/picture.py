"""Draw the pictures of README.md and of the first page; they are committed, because a README cannot compute.

    python book/picture.py               truth and two fits of one noisy phantom: _static/picture.png
    python book/picture.py --study DIR   every subject of a study that has run in DIR: _static/study.png

Run by `make picture`, and by `make picture STUDY=DIR`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from aslpinn import fit, simulate
from aslpinn_book.chapters import group
from aslpinn_book.chapters.shared import comparison

STATIC = Path(__file__).parent / "_static"


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
        phantom_picture()
    else:
        study_picture(arguments.study)


if __name__ == "__main__":
    main()

"""Draw the picture of README.md and of the first page: truth and two fits of one noisy phantom.

Run by `make picture`; the picture is committed, because a README cannot compute.
"""

from __future__ import annotations

from pathlib import Path

from aslpinn import fit, simulate
from aslpinn.report import figures

PICTURE = Path(__file__).parent / "_static" / "picture.png"


def main() -> None:
    """Simulate a brain at tSNR 1.5 (seed 0), fit it twice, draw CBF and ATT with their relative errors."""
    phantom = simulate(tsnr=1.5, seed=0)
    columns = {}
    for name, estimator in (("voxel by voxel", "nlls"), ("multiscale field", "pinn")):
        estimate = fit(
            phantom.series, phantom.mask, phantom.acquisition, estimator=estimator, voxel_size=phantom.voxel_size
        )
        columns[name] = {"cbf": estimate.cbf, "att": estimate.att}
    figure = figures.comparison({"cbf": phantom.cbf, "att": phantom.att}, columns, phantom.mask)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=130)


if __name__ == "__main__":
    main()

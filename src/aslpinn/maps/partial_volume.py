"""Partial volume: CBF of gray and of white matter apart, as maps to write.

"field": as two fields of the model that estimator field fits (`estimation.field.tissues`). "linear", for comparison
with other work: by linear regression in a moving window (Asllani et al. 2008).

In a window of voxels CBF of either tissue is taken for constant, so that CBF = p_GM CBF_GM + p_WM CBF_WM is a linear
regression on the shares p of the voxels (doi:10.1002/mrm.21670, there of the difference signal). It smooths by the
window, and needs shares that differ inside of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import InputError
from .choices import check_choice

if TYPE_CHECKING:
    from ..data.derivatives import Estimate
    from ..data.series import Subject

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

WINDOW = (5, 5, 1)  # voxels, as in the paper: in the plane of the slice
LEAST_SHARE = 0.1  # of a tissue in a voxel, below which its CBF there is not given (0)
#: Determinant of the normal equations over their squared trace, from which the two tissues can be told apart.
APART = 1e-3


class Window:
    """The regression of a head's voxels on their shares of gray and white matter."""

    def __init__(
        self, gm: NDArray[np.floating], wm: NDArray[np.floating], mask: Mask, size: tuple[int, int, int] = WINDOW
    ) -> None:
        self.size, self.mask = size, mask
        self.shares = [np.where(mask, np.clip(share, 0.0, 1.0), 0.0).astype(float) for share in (gm, wm)]
        g, w = self.shares
        self.gg, self.gw, self.ww = self.sum(g * g), self.sum(g * w), self.sum(w * w)
        self.det = self.gg * self.ww - self.gw**2
        self.apart = mask & (self.det > APART * (self.gg + self.ww) ** 2)

    def sum(self, values: Float) -> Float:
        """Sum over the window of every voxel, outside of the volume 0."""
        means: Float = ndimage.uniform_filter(values, self.size, mode="constant")
        return np.maximum(means * np.prod(self.size), 0.0) if np.all(values >= 0) else means * np.prod(self.size)

    def given(self, tissue: int) -> Mask:
        """Where the CBF of a tissue (0 gray, 1 white) is given: there is some of it, and the window tells it apart."""
        found: Mask = self.apart & (self.shares[tissue] >= LEAST_SHARE)
        return found

    def solve(self, values: Float) -> tuple[Float, Float]:
        """Values of gray and of white matter at every voxel, 0 where they are not given."""
        inside = np.where(self.mask, values, 0.0)
        gy, wy = (self.sum(share * inside) for share in self.shares)
        safe = np.where(self.apart, self.det, 1.0)
        solved = ((self.ww * gy - self.gw * wy) / safe, (self.gg * wy - self.gw * gy) / safe)
        return tuple(np.where(self.given(k), part, 0.0) for k, part in enumerate(solved))  # type: ignore[return-value]

    def sd(self, sd: Float) -> tuple[Float, Float]:
        """SDs of `solve` for errors of these SDs that are independent between voxels."""
        g, w = self.shares
        variance = np.where(self.mask, sd, 0.0).astype(float) ** 2
        gg, gw, ww = self.sum(g * g * variance), self.sum(g * w * variance), self.sum(w * w * variance)
        safe = np.where(self.apart, self.det, 1.0) ** 2
        of_gm = (self.ww**2 * gg - 2 * self.ww * self.gw * gw + self.gw**2 * ww) / safe
        of_wm = (self.gg**2 * ww - 2 * self.gg * self.gw * gw + self.gw**2 * gg) / safe
        return tuple(  # type: ignore[return-value]
            np.where(self.given(k), np.sqrt(np.maximum(part, 0.0)), 0.0) for k, part in enumerate((of_gm, of_wm))
        )


def corrected(
    subject: Subject, estimate: Estimate, choice: str
) -> dict[str, tuple[NDArray[np.float32], dict[str, Any]]]:
    """Maps of CBF of gray and white matter and their SDs by the ends of their names, with descriptions; "off": none.

    The SDs of "linear" are those of the estimate's draws where it has them, so that errors that go together count, else
    those of its own SDs as if voxels were independent.

    Raises
    ------
    InputError
        As `check_choice`.
    """
    check_choice(choice, subject.tissue, estimate.estimator)
    if choice == "off" or subject.tissue is None:
        return {}
    spread: Sequence[Float] | None
    if choice == "field":
        by_tissue = getattr(estimate, "by_tissue", None)
        if by_tissue is None:
            raise InputError("the estimate has no CBF of two tissues; expected fit(..., tissue=...), apart")
        shares = [np.asarray(subject.tissue[name]) for name in ("gm", "wm")]
        maps = [np.where(shares[k % 2] >= LEAST_SHARE, part, 0.0) for k, part in enumerate(by_tissue)]
        values, spread, way = maps[:2], maps[2:], "draws of the posterior"
        about: dict[str, Any] = {
            "Method": "two fields of one model, CBF = share of gray matter times its CBF plus the same of white matter",
            "Zero": f"outside the mask, and where the tissue's share is below {LEAST_SHARE:g}",
            "T1OfTissue": {
                "GM": {"Value": subject.acquisition.constants.t1_tissue, "Units": "s"},
                "WM": {"Value": subject.acquisition.constants.t1_white, "Units": "s"},
            },
        }
    else:
        window = Window(subject.tissue["gm"], subject.tissue["wm"], subject.mask)
        values = list(window.solve(np.asarray(estimate.cbf, dtype=float)))
        spread, way = _spread(window, estimate)
        about = {
            "Method": "linear regression on tissue shares in a window (Asllani et al. 2008, doi:10.1002/mrm.21670)",
            "WindowVoxels": list(WINDOW),
            "Zero": f"outside the mask, and where the tissue's share is below {LEAST_SHARE:g} or shares hardly differ",
        }
    about["Units"] = "relative" if subject.relative else "ml/100g/min"
    found: dict[str, tuple[NDArray[np.float32], dict[str, Any]]] = {}
    for k, tissue in enumerate(("gray", "white")):
        label = f"label-{tissue[0].upper()}M"
        told = {"Description": f"Cerebral blood flow of {tissue} matter, per 100 g of it", **about}
        found[f"{label}_desc-pvc_cbf"] = (values[k].astype(np.float32), told)
        if spread is not None:
            told = {"Description": f"Standard deviation of the cerebral blood flow of {tissue} matter", **about}
            found[f"{label}_desc-pvcsd_cbf"] = (spread[k].astype(np.float32), told | {"Uncertainty": way})
    return found


def _spread(window: Window, estimate: Estimate) -> tuple[tuple[Float, Float] | None, str]:
    errors = getattr(estimate, "member_errors", None)
    if errors is not None:
        squares = [np.zeros(window.mask.shape), np.zeros(window.mask.shape)]
        for error in errors[:, 0]:
            volume = np.zeros(window.mask.shape)
            volume[window.mask] = error
            for total, part in zip(squares, window.solve(volume), strict=True):
                total += part**2 / len(errors)
        return (np.sqrt(squares[0]), np.sqrt(squares[1])), "draws of the posterior through the same regression"
    if estimate.cbf_sd is not None:
        return window.sd(np.asarray(estimate.cbf_sd, dtype=float)), "SDs of the voxels, taken as independent"
    return None, ""

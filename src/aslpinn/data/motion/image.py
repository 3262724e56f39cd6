"""The static image of a moving head, estimated with its motion: taken off before a volume is resampled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ...errors import InputError
from ...threads import together
from .rigid import Grid, Rigid, coefficients, gradients, jacobian, sample, small, solve

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Voxels beyond the outermost centers that still count as seen: a slice reaches half its thickness beyond its center.
EDGE = 0.5
#: Voxels that a registration compares, at most about so many: six parameters need no more.
POINTS = 12_000


def require_series(data: Float, groups: Sequence[str], m0: ArrayLike | None) -> None:
    """InputError unless a series, its contrasts and its M0 can be registered."""
    if data.ndim != 4:
        raise InputError(f"motion correction: the series has {data.ndim} dimensions; expected 4")
    if len(groups) != data.shape[3]:
        raise InputError(f"motion correction: {len(groups)} groups for {data.shape[3]} volumes; expected one a volume")
    if not np.all(np.isfinite(data)):
        raise InputError("motion correction: the series holds NaN or infinite values; expected finite ones")
    if min(data.shape[:3]) < 4:
        raise InputError(
            f"motion correction: a grid of {data.shape[:3]} voxels is too thin; expected 4 or more an axis"
        )
    if m0 is not None and np.shape(m0) != data.shape[:3]:
        raise InputError(f"motion correction: M0 has shape {np.shape(m0)}; expected {data.shape[:3]}")
    flat = np.flatnonzero(np.ptp(data, axis=(0, 1, 2)) == 0)
    if flat.size:
        raise InputError(f"motion correction: volume {int(flat[0])} is the same everywhere; expected an image")


def find_head(image: Float, mask: ArrayLike | None) -> Mask:
    """Voxels that registration compares: the mask (or what is bright) and one voxel around, for its edges."""
    if mask is not None:
        inside = np.asarray(mask, dtype=bool)
    else:
        smooth = ndimage.gaussian_filter(image, 1.0)
        inside = smooth > 0.2 * np.percentile(smooth, 98)
    if not inside.any():
        raise InputError("motion correction: no head found in the reference; give a mask")
    return np.asarray(ndimage.binary_dilation(inside))


def thinned(mask: Mask, count: int) -> Mask:
    """At most about `count` voxels of a mask, evenly spread."""
    chosen = np.flatnonzero(mask)
    thin = np.zeros(mask.size, dtype=bool)
    thin[chosen[:: max(1, chosen.size // count)]] = True
    return thin.reshape(mask.shape)


def plain(grid: Grid, volume: Float, transform: Rigid) -> NDArray[np.float32]:
    """A volume on the grid through a transform, linear between voxels."""
    voxels = grid.voxels(transform, grid.points(np.ones(grid.shape, dtype=bool)))
    return sample(coefficients(volume, 1), voxels, 1).reshape(grid.shape).astype(np.float32)


def resampled(grid: Grid, image: Float, transform: Rigid) -> Float:
    """An image on the grid through a transform, by cubic splines; as it is where the transform moves nothing."""
    if np.allclose(transform.rotation, np.eye(3)) and not transform.translation.any():
        return image
    voxels = grid.voxels(transform, grid.points(np.ones(grid.shape, dtype=bool)))
    return sample(coefficients(image, 3), voxels, 3).reshape(grid.shape)


class StaticImage:
    """The static image of one contrast on the reference grid, and the volumes predicted from it."""

    def __init__(self, grid: Grid, data: Float, members: list[int], head: Mask, order: int, threads: int = 1) -> None:
        self.grid, self.data, self.members, self.order, self.threads = grid, data, members, order, threads
        self.near = np.asarray(ndimage.binary_dilation(head, iterations=2))
        self.points = grid.points(self.near)
        self.step = max(1, self.points.shape[1] // POINTS)
        self.image = np.zeros(grid.shape)
        self.started = False

    def restart(self) -> None:
        """Forget the image, after the transforms have changed frame."""
        self.started = False

    def start_from(self, image: Float, transforms: dict[int, Rigid]) -> None:
        """Start from an image of the same contrast on the reference grid (M0), scaled to the members."""
        known = image[self.near]
        means = [sample(self.data[..., v], self.grid.voxels(transforms[v], self.points), 1) for v in self.members]
        self.image[self.near] = known * float(np.mean(means, axis=0) @ known / (known @ known))
        self.started = True

    def solve(self, transforms: dict[int, Rigid], iterations: int, refine: tuple[int, ...] = (0, 2, 4)) -> float:
        """Estimate the image, refining transforms in the given iterations; returns the RMS of what is left over."""
        left = 0.0
        for iteration in range(iterations):
            if iteration in refine and self.started and (iteration == 0 or len(self.members) > 2):
                coefs, slopes = coefficients(self.image, self.order), gradients(self.image)
                refined = together(
                    lambda v: self._refine(coefs, slopes, self.data[..., v], transforms[v]),  # noqa: B023 (run at once)
                    self.members,
                    self.threads,
                )
                transforms.update(zip(self.members, refined, strict=True))
            back, shares, left = self._bring_back(transforms)
            share = np.maximum(np.sum(shares, axis=0), 0.5)
            self.image[self.near] += np.sum(back, axis=0) / share
            self.started = True
        return left

    def _leftover(self, coefs: Float, v: int, transform: Rigid) -> tuple[Float, Float]:
        """S_v - W_v s on the moved grid, and which voxels (1, 0) show what the reference holds: (X, Y, Z)."""
        voxels = self.grid.voxels(transform.inverse(), self.points)
        seen, predicted = np.zeros(self.grid.shape), np.zeros(self.grid.shape)
        seen[self.near] = self.grid.inside(voxels, EDGE)
        if self.started:
            predicted[self.near] = sample(coefs, voxels, self.order)
        return seen * (self.data[..., v] - predicted), seen

    def _bring_back(self, transforms: dict[int, Rigid]) -> tuple[list[Float], list[Float], float]:
        """B_v (S_v - W_v s) at the points for each member, the share of it that was seen, and the RMS left over."""
        coefs = coefficients(self.image, self.order)

        def one(v: int) -> tuple[Float, Float, float, float]:
            left, seen = self._leftover(coefs, v, transforms[v])
            voxels = self.grid.voxels(transforms[v], self.points)
            share = sample(seen, voxels, 1) * self.grid.inside(voxels, EDGE)
            return (
                sample(coefficients(left, 3), voxels, 3) * (share > 0),
                share,
                float(np.sum(left**2)),
                float(seen.sum()),
            )

        found = together(one, self.members, self.threads)
        squares, count = (sum(entry[k] for entry in found) for k in (2, 3))
        return [f[0] for f in found], [f[1] for f in found], float(np.sqrt(squares / max(count, 1.0)))

    def _refine(self, coefs: Float, slopes: list[Float], volume: Float, current: Rigid) -> Rigid:
        """Two Gauss-Newton steps of the transform, comparing the volume with its prediction on its own grid."""
        values, points = volume[self.near][:: self.step], self.points[:, :: self.step]
        for _ in range(2):
            backwards = current.inverse()
            voxels = self.grid.voxels(backwards, points)
            seen = self.grid.inside(voxels, EDGE).astype(float)
            predicted = sample(coefs, voxels, self.order)
            at = backwards.rotation @ points + backwards.translation[:, None]
            design = np.concatenate(
                [jacobian(self.grid, slopes, voxels, at), predicted[None], np.ones((1, at.shape[1]))]
            )
            solution, _ = solve(design, values, seen)
            if not abs(solution[6]) > 1e-12:
                break
            # The step moves the reference points under the fixed grid: T^-1 becomes step after T^-1.
            current = small(solution[:6] / solution[6]).after(backwards).inverse()
        return current

    def corrected(self, transforms: dict[int, Rigid]) -> list[NDArray[np.float32]]:
        """Every member on the reference grid; outside the head plainly resampled."""
        back, shares, _ = self._bring_back(transforms)
        out = []
        for v, values, share in zip(self.members, back, shares, strict=True):
            volume = plain(self.grid, self.data[..., v], transforms[v])
            volume[self.near] = (self.image[self.near] + values / np.maximum(share, 0.5)).astype(np.float32)
            out.append(volume)
        return out


def choose_order(
    grid: Grid,
    data: Float,
    words: list[str],
    rest: list[int],
    head: Mask,
    transforms: dict[int, Rigid],
    start: Float | None,
    threads: int,
) -> int:
    """Spline order, 3 or 1, that predicts the moved volumes better, judged on at most eight of one contrast."""
    most = max({words[v] for v in rest}, key=lambda word: (sum(words[v] == word for v in rest), word))
    members = [v for v in rest if words[v] == most]
    members = [members[i] for i in np.unique(np.linspace(0, len(members) - 1, min(8, len(members))).astype(int))]
    left = {}
    for order in (3, 1):
        trial = dict(transforms)
        static = StaticImage(grid, data, members, head, order, threads)
        if start is not None:
            static.start_from(start, trial)
        left[order] = static.solve(trial, 5)
    return min(left, key=lambda order: (left[order], -order))

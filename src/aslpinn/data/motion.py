"""Rigid motion correction of an ASL series, before decoding or subtraction.

Static tissue is a hundred times brighter than delta-M, so what interpolation loses at an edge of the brain is larger
than the signal. The correction therefore never interpolates the static image twice: for every contrast (encoded
volumes, each delay) it estimates the static image s on the reference grid together with the transforms, predicts each
moved volume from it, and brings back only what is left over,

    corrected_v = s + B_v (S_v - W_v s),        s = mean_v corrected_v,

W_v the reference moved as volume v, B_v the way back. Transforms are refined against the same prediction.

Where do the corrected volumes lie? After large motion, where M0 is: masks and tissue maps lie there, and every volume
has to be resampled anyway. A head that stays within half a voxel of M0 is brought to the mean position of the volumes,
and M0, which has little noise to smooth, is brought there too: volumes are resampled by less, and maps can be laid over
raw volumes.
MEASURED
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ..errors import InputError
from .rigid import (
    IDENTITY,
    Grid,
    Registration,
    Rigid,
    coefficients,
    gradients,
    jacobian,
    register_by_information,
    sample,
    small,
    solve,
)

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Radius in mm of the sphere on which rotations become displacements (Power et al. 2012).
HEAD_RADIUS = 50.0
#: Voxels beyond the outermost centers that still count as seen: rounding only.
EDGE = 0.01
#: M0 and the series count as one contrast where they correlate at least so well after registration.
SAME_CONTRAST = 0.9
M0 = "m0scan"
#: Voxels that a registration compares, at most about so many: six parameters need no more.
POINTS = 12_000
#: A motion parameter counts from so many standard errors on: a featureless head may turn without anyone seeing it.
SIGNIFICANT = 6.0
#: A head within this share of a voxel from the reference is brought to its mean position: see the module's text.
SMALL = 0.5
#: Runs of volumes that are registered side by side, each volume started from the one before it.
RUNS = 4
COLUMNS = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z", "framewise_displacement")


@dataclass(frozen=True, eq=False)
class Motion:
    """Estimated motion and how it was found.

    parameters: (T, 6) translation in mm and rotation in degrees of each volume against the reference, world axes, about
    the center of the grid; framewise_displacement: (T,) mm, 0 for the first volume; covered: (X, Y, Z) voxels
    that every volume saw; reference, metric, interpolation: words for the record. position: (6,) that of the corrected
    volumes against the reference; m0: (X, Y, Z) M0 at that position, None without one.
    """

    parameters: Float
    framewise_displacement: Float
    covered: Mask
    reference: str
    metric: str
    interpolation: int
    position: Float = field(default_factory=lambda: np.zeros(6))
    m0: NDArray[np.float32] | None = None

    @property
    def mean_displacement(self) -> float:
        """Mean framewise displacement in mm over all volumes but the first."""
        return float(self.framewise_displacement[1:].mean()) if self.framewise_displacement.size > 1 else 0.0

    def provenance(self) -> dict[str, Any]:
        """What goes into an output's JSON."""
        return {
            "Method": "rigid, static image and motion estimated together",
            "Reference": self.reference,
            "Position": "mean of the volumes" if self.position.any() else "that of the reference",
            "Metric": self.metric,
            "InterpolationOrder": self.interpolation,
            "MeanFramewiseDisplacement": round(self.mean_displacement, 4),
            "MaxFramewiseDisplacement": round(float(self.framewise_displacement.max(initial=0.0)), 4),
            "MaxTranslation": round(float(np.abs(self.parameters[:, :3]).max(initial=0.0)), 4),
            "MaxRotation": round(float(np.abs(self.parameters[:, 3:]).max(initial=0.0)), 4),
            "Units": "mm and degrees",
        }


def correct(
    series: ArrayLike,
    affine: ArrayLike,
    groups: Sequence[str],
    m0: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    threads: int = 2,
) -> tuple[NDArray[np.float32], Motion]:
    """Bring every volume of a series onto one head position.

    Parameters
    ----------
    series : (X, Y, Z, T) array
        Raw volumes: control, label, encoded, m0scan. Not delta-M: it holds too little of the head.
    affine : (4, 4) array
        Voxel to world mm.
    groups : sequence of T words
        The contrast of each volume: "m0scan" for M0; volumes of one word share a static image (one word for all
        encoded volumes of a series, one for each delay of control and label).
    m0 : (X, Y, Z) array, optional
        A separate M0 on the same grid. M0, separate or (the first) in the series, is the reference; without one
        the first volume is.
    mask : (X, Y, Z) array, optional
        Head or brain; by default what stands out of the background.

    Returns
    -------
    corrected : (X, Y, Z, T) float32
    motion : Motion

    Raises
    ------
    InputError
        Where shapes do not fit, a value is not finite, or there is nothing to register.
    """
    data = np.asarray(series, dtype=float)
    _require(data, groups, m0)
    data = np.moveaxis(np.ascontiguousarray(np.moveaxis(data, -1, 0)), 0, -1)  # each volume in one piece
    grid = Grid(data.shape, np.asarray(affine, dtype=float))
    words = list(groups)
    rest = [v for v, word in enumerate(words) if word != M0] or list(range(len(words)))
    separate = [v for v in range(len(words)) if v not in rest]
    anchor = np.asarray(m0, dtype=float) if m0 is not None else (data[..., separate[0]] if separate else None)
    head = _head(data[..., rest[0]] if anchor is None else anchor, mask)
    tell = progress or (lambda done, total, message: None)

    first = data[..., rest[0]]
    same, reference = True, first
    if anchor is not None:
        registration = Registration(grid, anchor, head, 5.0)
        same = registration.correlation(first, registration.fit(first)) >= SAME_CONTRAST
        reference = anchor if same else first
    transforms = _register_all(grid, reference, data, rest, head, tell, threads)
    place, start = IDENTITY, anchor if same else None
    if same:
        place, transforms = _settle(grid, head, transforms)
        start = None if start is None else _resampled(grid, start, place.inverse())
    order = _choose_order(grid, data, words, rest, head, transforms, start, threads)
    statics = {}
    for word in dict.fromkeys(words[v] for v in rest):
        members = [v for v in rest if words[v] == word]
        statics[word] = _Static(grid, data, members, head, order, threads)
        if start is not None:
            statics[word].start_from(start, transforms)
        statics[word].solve(transforms, 9)
    if anchor is not None and not same:
        middle = np.mean([s.image for s in statics.values()], axis=0)
        to_m0 = register_by_information(grid, anchor, middle, threads)
        place, transforms = _settle(grid, head, {v: transform.after(to_m0) for v, transform in transforms.items()})
        for static in statics.values():
            static.restart()
            static.solve(transforms, 9, refine=())
    corrected = np.array(data, dtype=np.float32)
    for static in statics.values():
        for v, volume in zip(static.members, static.corrected(transforms), strict=True):
            corrected[..., v] = volume
    settled = None if anchor is None else _resampled(grid, anchor, place.inverse()).astype(np.float32)
    for v in separate:
        if m0 is None and v == separate[0]:
            transforms[v], corrected[..., v] = place.inverse(), settled
        else:  # M0 volumes after the first, or beside a separate one
            transforms[v] = Registration(grid, np.asarray(anchor), head, 3.0).fit(data[..., v]).after(place.inverse())
            corrected[..., v] = _plain(grid, data[..., v], transforms[v])
    chain = [transforms[v] for v in range(len(words))]
    covered = np.ones(grid.shape, dtype=bool)
    everywhere = grid.points(covered)
    for transform in [*chain, *([] if m0 is None else [place.inverse()])]:
        covered &= grid.inside(grid.voxels(transform, everywhere), EDGE).reshape(grid.shape)
    parameters = np.array([transform.after(place).parameters() for transform in chain])
    return corrected, Motion(
        parameters=parameters,
        framewise_displacement=framewise_displacement(parameters),
        covered=covered,
        reference="M0" if anchor is not None else "first volume",
        metric="least squares with gain and offset" + ("" if same else "; mutual information to M0"),
        interpolation=order,
        position=place.parameters(),
        m0=settled,
    )


def _settle(grid: Grid, head: Mask, transforms: dict[int, Rigid]) -> tuple[Rigid, dict[int, Rigid]]:
    """Where the grid of the output lies against the reference, and the transforms seen from there.

    At the mean position of the volumes where the head is everywhere less than half a voxel from the reference (RMS over
    the head), else at the reference itself.
    """
    points = grid.points(head)
    moves = transforms.values()
    largest = max(float(np.sqrt(np.mean(np.sum((_apply(move, points) - points) ** 2, axis=0)))) for move in moves)
    if largest >= SMALL * grid.voxel_size.min():
        return IDENTITY, transforms
    turns = Rotation.from_matrix(np.array([move.rotation for move in moves]))
    place = Rigid(turns.mean().as_matrix(), np.mean([move.translation for move in moves], axis=0))
    return place, {v: move.after(place.inverse()) for v, move in transforms.items()}


def _apply(transform: Rigid, points: Float) -> Float:
    return transform.rotation @ points + transform.translation[:, None]


def _resampled(grid: Grid, image: Float, transform: Rigid) -> Float:
    """An image on the grid through a transform, by cubic splines; as it is where the transform moves nothing."""
    if np.allclose(transform.rotation, np.eye(3)) and not transform.translation.any():
        return image
    voxels = grid.voxels(transform, grid.points(np.ones(grid.shape, dtype=bool)))
    return sample(coefficients(image, 3), voxels, 3).reshape(grid.shape)


def framewise_displacement(parameters: ArrayLike) -> Float:
    """Sum of the absolute changes of the six parameters between volumes, rotations as arcs on 50 mm: (T, 6) -> (T,) mm.

    Power et al. 2012, doi:10.1016/j.neuroimage.2011.10.018.
    """
    values = np.array(parameters, dtype=float)
    values[:, 3:] = np.deg2rad(values[:, 3:]) * HEAD_RADIUS
    return np.concatenate([[0.0], np.abs(np.diff(values, axis=0)).sum(axis=1)])


def table(motion: Motion) -> str:
    """Motion as tab-separated text, one row a volume: trans_* in mm, rot_* in degrees, framewise displacement in mm."""
    rows = np.column_stack([motion.parameters, motion.framewise_displacement])
    lines = ["\t".join(COLUMNS)]
    for index, row in enumerate(rows):
        cells = [f"{value:.5f}" for value in row]
        lines.append("\t".join(cells[:-1] + (["n/a"] if index == 0 else cells[-1:])))
    return "\n".join(lines) + "\n"


def write_tsv(motion: Motion, path: Path) -> Path:
    """Write `table` to a file, by a temporary name."""
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(table(motion), encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _require(data: Float, groups: Sequence[str], m0: ArrayLike | None) -> None:
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


def _head(image: Float, mask: ArrayLike | None) -> Mask:
    """Voxels that registration compares: the mask (or what is bright) and one voxel around, for its edges."""
    if mask is not None:
        inside = np.asarray(mask, dtype=bool)
    else:
        smooth = ndimage.gaussian_filter(image, 1.0)
        inside = smooth > 0.2 * np.percentile(smooth, 98)
    if not inside.any():
        raise InputError("motion correction: no head found in the reference; give a mask")
    return np.asarray(ndimage.binary_dilation(inside))


def _register_all(
    grid: Grid,
    reference: Float,
    data: Float,
    volumes: list[int],
    head: Mask,
    tell: Callable[[int, int, str], None],
    threads: int,
) -> dict[int, Rigid]:
    """Every volume to the reference, coarse to fine; in a fixed number of runs, whatever the number of threads."""
    coarse, fine = (
        Registration(grid, reference, thinned(head, count), fwhm) for count, fwhm in ((POINTS // 2, 8.0), (POINTS, 3.0))
    )
    parts = [part.tolist() for part in np.array_split(volumes, min(RUNS, len(volumes)))]
    done = iter(range(1, len(volumes) + 1))

    def follow(part: list[int]) -> dict[int, Rigid]:
        """The volumes of a run, each started from the one before it."""
        found: dict[int, Rigid] = {}
        start = IDENTITY
        for v in part:
            start = found[v] = fine.fit(data[..., v], coarse.fit(data[..., v], start, tolerance=0.02))
            tell(next(done), len(volumes), "motion correction")
        return found

    return {v: transform for found in _together(follow, parts, threads) for v, transform in found.items()}


def _together(task: Callable[[Any], Any], items: Sequence[Any], threads: int) -> list[Any]:
    """The results of a task for each item, in order; the kernels leave Python's lock, so threads help."""
    if threads < 2 or len(items) < 2:
        return [task(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(task, items))


def _choose_order(
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
        static = _Static(grid, data, members, head, order, threads)
        if start is not None:
            static.start_from(start, trial)
        left[order] = static.solve(trial, 5)
    return min(left, key=lambda order: (left[order], -order))


class _Static:
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
                refined = _together(
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

        found = _together(one, self.members, self.threads)
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
            volume = _plain(self.grid, self.data[..., v], transforms[v])
            volume[self.near] = (self.image[self.near] + values / np.maximum(share, 0.5)).astype(np.float32)
            out.append(volume)
        return out


def _plain(grid: Grid, volume: Float, transform: Rigid) -> NDArray[np.float32]:
    voxels = grid.voxels(transform, grid.points(np.ones(grid.shape, dtype=bool)))
    return sample(coefficients(volume, 1), voxels, 1).reshape(grid.shape).astype(np.float32)


def largest_displacement(
    series: ArrayLike, affine: ArrayLike, groups: Sequence[str], threads: int = 2, points: int = 6000
) -> float:
    """How far in mm the head moves at most against the first volume of its contrast: a coarse look, to see the need.

    Translation plus rotation as an arc on 50 mm, of the parameters that stand out of their standard errors, from
    registrations at 8 mm on a few thousand voxels; M0 volumes are left out. Arguments as in `correct`.
    """
    data = np.asarray(series)
    _require(data, groups, None)
    rest = [v for v, word in enumerate(groups) if word != M0]
    if len(rest) < 2:
        return 0.0
    data = np.moveaxis(np.ascontiguousarray(np.moveaxis(data, -1, 0), dtype=float), 0, -1)
    grid = Grid(data.shape, np.asarray(affine, dtype=float))
    head = _head(data[..., rest[0]], None)
    thin = thinned(head, points)
    found = []
    for word in dict.fromkeys(groups[v] for v in rest):
        first, *members = [v for v in rest if groups[v] == word]
        coarse = Registration(grid, data[..., first], thin, 8.0, head)

        def moved(v: int, coarse: Registration = coarse) -> float:
            found = coarse.fit(data[..., v], tolerance=0.02)
            shift, error = np.array(found.parameters()), coarse.uncertainty(data[..., v], found)
            error[3:] = np.rad2deg(error[3:])
            shift[np.abs(shift) < SIGNIFICANT * error] = 0.0
            return float(np.linalg.norm(shift[:3]) + np.linalg.norm(np.deg2rad(shift[3:])) * HEAD_RADIUS)

        found += _together(moved, members, threads)
    return max(found, default=0.0)


def thinned(mask: Mask, count: int) -> Mask:
    """At most about `count` voxels of a mask, evenly spread."""
    chosen = np.flatnonzero(mask)
    thin = np.zeros(mask.size, dtype=bool)
    thin[chosen[:: max(1, chosen.size // count)]] = True
    return thin.reshape(mask.shape)

"""The digital phantom: a brain whose CBF, ATT and M0 are known, seen through any pCASL protocol and any noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ...errors import InputError
from ...physics import Acquisition, Constants, arterial, delta_m
from .anatomy import TERRITORIES, Anatomy, Volunteer, build_anatomy, get_volunteer, smooth_field
from .protocols import Protocol, get_protocol

Float = NDArray[np.float32]

#: Gray matter for the noise level: voxels with more than this partial volume.
GM_THRESHOLD = 0.5

LESION_CENTER, LESION_RADIUS = (-40.0, -8.0, 24.0), 17.0  # mm; left middle cerebral artery
LESION_CBF, LESION_ATT = 0.55, 0.9  # CBF falls to 55 %, ATT grows by 0.9 s
TUMOR_CENTER, TUMOR_RADIUS = (26.0, -34.0, 26.0), 9.0  # mm; right parietal white matter
TUMOR_CBF = 90.0  # ml/100g/min
DELAYED_ATT = 3.0  # s, where a stenosis delays arrival most
ARTERIAL_ABV = 0.03  # fraction of the voxel, largest


@dataclass(frozen=True)
class Phantom:
    """A simulated subject and its truth; maps (X, Y, Z) float32, zero outside the mask except gm and wm.

    Attributes
    ----------
    series, clean : (X, Y, Z, T) array
        delta-M / M0b with and without noise.
    mask : (X, Y, Z) bool array
    acquisition : Acquisition
        T entries, repeats one after the other.
    cbf, att : array
        ml/100g/min and s.
    m0 : array
        Equilibrium magnetization of tissue, relative: cerebrospinal fluid is about 1. M0b = m0 / lambda.
    gm, wm : array
        Partial volumes, 0 to 1.
    abv, arterial_arrival : array
        Arterial blood volume as a fraction and its arrival in s; zero unless asked for.
    lesion, tumor : (X, Y, Z) bool array
        Where they are; empty unless asked for.
    affine : (4, 4) array, voxel_size : tuple in mm
    noise_sd : float
        SD of the noise of one volume, in units of delta-M / M0b; 0 without noise.
    seed, volunteer, tsnr, protocol
        What it was made with.
    """

    series: Float
    clean: Float
    mask: NDArray[np.bool_]
    acquisition: Acquisition
    cbf: Float
    att: Float
    m0: Float
    gm: Float
    wm: Float
    abv: Float
    arterial_arrival: Float
    lesion: NDArray[np.bool_]
    tumor: NDArray[np.bool_]
    affine: NDArray[np.float64]
    voxel_size: tuple[float, float, float]
    noise_sd: float
    seed: int
    volunteer: int | None
    tsnr: float | None
    protocol: Protocol


def simulate(
    protocol: str | Protocol = "te11",
    tsnr: float | None = 1.5,
    seed: int = 0,
    volunteer: int | None = None,
    lesion: bool = False,
    voxel_size: tuple[float, float, float] = (3.0, 3.0, 7.0),
    *,
    tumor: bool = False,
    delayed: bool = False,
    arterial_voxels: bool = False,
    noise_fwhm: float = 0.0,
    slice_time: float = 0.0,
    repeats: int | None = None,
    constants: Constants | None = None,
) -> Phantom:
    """A digital phantom: CBF, ATT and M0 from the ICBM 152 tissue maps, Buxton's signal, Gaussian noise.

    Parameters
    ----------
    protocol : str or Protocol
        A name of `protocols.PROTOCOLS`, or a protocol of your own.
    tsnr : float or None
        Temporal SNR: mean noise-free tissue signal over gray matter (partial volume > 0.5) and all volumes, divided
        by the SD of the noise of one volume (Bladt et al. 2020, doi:10.1002/mrm.28314). None: no noise.
    seed : int
        Seed of the noise only: the brain stays the same.
    volunteer : int or None
        Virtual volunteer, with an anatomy, perfusion and noise of their own; None is the template.
    lesion : bool
        A sphere of 17 mm radius in the left middle cerebral artery's territory: CBF -45 %, ATT +0.9 s.
    voxel_size : tuple
        mm along x, y, z.
    tumor : bool
        A sphere of 9 mm radius in white matter with a CBF of 90 ml/100g/min.
    delayed : bool
        A stenosis of the left carotid: ATT up to 3 s in the territories that it feeds.
    arterial_voxels : bool
        Labeled blood in the large arteries, added to the tissue signal.
    noise_fwhm : float
        Width in mm of the noise's spatial correlation (Gaussian, FWHM); 0 is white. The SD stays the same.
    slice_time : float
        Time in s by which each slice is read after the one below it (2D readout); 0: all at once (3D).
    repeats : int, optional
        Repeats of all delays; the protocol's own by default.

    Raises
    ------
    InputError
        For a protocol, volunteer, voxel size, tSNR, width or slice time that does not exist.
    """
    plan = get_protocol(protocol) if isinstance(protocol, str) else protocol
    if tsnr is not None and not (np.isfinite(tsnr) and tsnr > 0):
        raise InputError(f"tsnr is {tsnr}; expected a positive number, or None for no noise")
    if not (np.isfinite(noise_fwhm) and noise_fwhm >= 0):
        raise InputError(f"noise_fwhm is {noise_fwhm}; expected mm, 0 or more")
    if not (np.isfinite(slice_time) and slice_time >= 0):
        raise InputError(f"slice_time is {slice_time}; expected s, 0 or more")
    size = (float(voxel_size[0]), float(voxel_size[1]), float(voxel_size[2]))
    anatomy = build_anatomy(size, volunteer)
    person = get_volunteer(volunteer)
    mask = anatomy.mask
    cbf, att, m0 = _perfusion(anatomy, person)

    lesioned = _sphere(anatomy, LESION_CENTER, LESION_RADIUS if lesion else 0.0)
    tumorous = _sphere(anatomy, TUMOR_CENTER, TUMOR_RADIUS if tumor else 0.0)
    cbf = np.where(lesioned, LESION_CBF * cbf, cbf)
    att = np.where(lesioned, LESION_ATT + att, att)
    cbf = np.where(tumorous, TUMOR_CBF, cbf)
    if delayed:
        att = att + (DELAYED_ATT - att) * _stenosis(anatomy)
    abv, arrival = _arteries(anatomy, att) if arterial_voxels else (np.zeros_like(cbf), np.zeros_like(cbf))

    cbf, att, m0, abv, arrival = (np.where(mask, v, 0).astype(np.float32) for v in (cbf, att, m0, abv, arrival))
    acquisition = plan.acquisition(repeats, constants)
    if slice_time > 0:
        offset = slice_time * np.arange(mask.shape[2], dtype=float)
        timing = acquisition.labeling_duration, acquisition.post_labeling_delay
        acquisition = Acquisition(*timing, offset, constants=acquisition.constants)
    tissue, blood = _signals(cbf, att, abv, arrival, mask, acquisition)
    gray = mask & (anatomy.gm > GM_THRESHOLD)
    noise_sd = 0.0 if tsnr is None else float(tissue[gray].mean(dtype=np.float64) / tsnr)
    clean = tissue + blood
    rng = np.random.default_rng([seed, 0 if volunteer is None else volunteer + 1])
    series = clean if noise_sd == 0 else clean + _noise(clean.shape, mask, noise_sd, noise_fwhm, size, rng)
    return Phantom(
        series=series,
        clean=clean,
        mask=mask.copy(),
        acquisition=acquisition,
        cbf=cbf,
        att=att,
        m0=m0,
        gm=anatomy.gm.copy(),
        wm=anatomy.wm.copy(),
        abv=abv,
        arterial_arrival=arrival,
        lesion=lesioned,
        tumor=tumorous,
        affine=anatomy.affine.copy(),
        voxel_size=size,
        noise_sd=noise_sd,
        seed=seed,
        volunteer=volunteer,
        tsnr=tsnr,
        protocol=plan,
    )


def _perfusion(anatomy: Anatomy, person: Volunteer) -> tuple[Float, Float, Float]:
    """CBF, ATT and M0 of a head: tissue, times smooth variation; arrival follows path, watershed and territory.

    CBF and M0 are linear in the partial volumes, so that those of a voxel are the average of its parts (as long as
    the variation is smooth); ATT is a property of the vessel tree and defined at the voxel's center.
    """
    rng = np.random.default_rng([*person.seed, 2])
    fine, broad, delay, coil = (smooth_field(anatomy.points, length, rng) for length in (25.0, 60.0, 45.0, 90.0))
    inside = anatomy.mask

    level = (1 + 0.07 * fine + 0.06 * broad) * (1 - 0.12 * anatomy.watershed)
    level /= level[inside].mean()
    cbf = np.maximum(person.cbf_gm * anatomy.gm + person.cbf_wm * anatomy.wm, 0) * np.maximum(level, 0.3)

    territory = np.tensordot(np.array(person.territory_att, dtype=np.float32), anatomy.territory, axes=1)
    att = 0.79 + 0.0055 * anatomy.path + 0.18 * anatomy.watershed + 0.05 * anatomy.wm + 0.13 * delay
    att = np.clip(att + person.att + territory, 0.4, 2.2)

    brain = np.maximum(anatomy.brain, 1e-3)
    fluid = np.clip(anatomy.brain - anatomy.gm - anatomy.wm, 0, None)
    m0 = (0.84 * anatomy.gm + 0.70 * anatomy.wm + 1.0 * fluid) / brain * (1 + 0.03 * coil)
    return cbf, att, m0


def _sphere(anatomy: Anatomy, center: tuple[float, float, float], radius: float) -> NDArray[np.bool_]:
    """Voxels of the mask whose center lies inside a sphere; center and radius in template mm."""
    return anatomy.mask & (np.linalg.norm(anatomy.points - np.array(center, dtype=np.float32), axis=-1) < radius)


def _stenosis(anatomy: Anatomy) -> Float:
    """0 to 1: how much a stenosis of the left carotid delays arrival, most at the far end of its territories."""
    fed = anatomy.territory[TERRITORIES.index("ACA-L")] * 0.4 + anatomy.territory[TERRITORIES.index("MCA-L")]
    return (np.clip(fed, 0, 1) * np.clip((anatomy.path - 10.0) / 50.0, 0, 1)).astype(np.float32)


#: Large arteries as lines through MNI mm (right side where paired), with their volume per length, relative.
_ARTERIES: list[tuple[list[tuple[float, float, float]], bool, float]] = [
    ([(0, -30, -60), (0, -28, -40), (0, -18, -18)], False, 1.0),  # basilar
    ([(14, 0, -40), (14, 2, -25), (12, 4, -14)], True, 1.2),  # internal carotid
    ([(12, 4, -14), (25, 4, -14), (36, 4, -10), (42, -2, 0), (42, -18, 12), (44, -35, 20)], True, 1.0),  # middle
    ([(8, 6, -14), (3, 20, -8), (3, 38, 8), (3, 30, 28), (4, 5, 38), (4, -18, 42)], True, 0.7),  # anterior
    ([(2, -18, -16), (14, -24, -14), (20, -40, -6), (14, -62, 2), (12, -80, 4)], True, 0.7),  # posterior
]


def _arteries(anatomy: Anatomy, att: Float) -> tuple[Float, Float]:
    """Arterial blood volume along the large arteries, and when label passes: 0.35 s before it reaches the tissue."""
    steps: list[NDArray[np.float64]] = []
    weights: list[NDArray[np.float64]] = []
    for line, paired, weight in _ARTERIES:
        corners = np.array(line)
        position = np.concatenate([[0.0], np.linalg.norm(np.diff(corners, axis=0), axis=1).cumsum()])
        along = np.arange(0, position[-1], 0.5)
        course = np.stack([np.interp(along, position, corners[:, i]) for i in range(3)], axis=1)
        for side in (-1, 1) if paired else (1,):
            steps.append(course * np.array([side, 1, 1]))
            weights.append(np.full(len(course), weight))
    size = np.diag(anatomy.affine)[:3]
    index = np.rint((np.concatenate(steps) - anatomy.affine[:3, 3]) / size).astype(int)
    inside = np.all((index >= 0) & (index < anatomy.mask.shape), axis=1)
    volume = np.zeros(anatomy.mask.shape)
    np.add.at(volume, tuple(index[inside].T), np.concatenate(weights)[inside])
    volume = ndimage.gaussian_filter(volume, 2.5 / size)
    volume = np.where(anatomy.mask & (volume > 0.05 * volume.max()), volume, 0)
    abv = (ARTERIAL_ABV * volume / max(volume.max(), 1e-12)).astype(np.float32)
    return abv, np.where(abv > 0, np.maximum(att - 0.35, 0.3), 0).astype(np.float32)


def _signals(
    cbf: Float, att: Float, abv: Float, arrival: Float, mask: NDArray[np.bool_], acquisition: Acquisition
) -> tuple[Float, Float]:
    """Noise-free tissue and arterial delta-M / M0b, (X, Y, Z, T) float32."""
    distinct, index = acquisition.distinct
    pld = distinct.pld_at(np.argwhere(mask))
    tau, constants = distinct.labeling_duration, acquisition.constants
    flow, arrive, volume, pass_by = (v[mask].astype(np.float64)[:, None] for v in (cbf, att, abv, arrival))
    tissue = np.zeros((*mask.shape, len(acquisition)), dtype=np.float32)
    blood = np.zeros_like(tissue)
    tissue[mask] = delta_m(flow, arrive, pld, tau, constants)[:, index]
    if volume.any():
        blood[mask] = arterial(volume, pass_by, pld, tau, constants)[:, index]
    return tissue, blood


def _noise(
    shape: tuple[int, ...],
    mask: NDArray[np.bool_],
    sd: float,
    fwhm: float,
    voxel_size: tuple[float, float, float],
    rng: np.random.Generator,
) -> Float:
    """Gaussian noise of that SD inside the mask, zero outside; correlated over fwhm mm in space, not in time."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    if fwhm > 0:
        sigma = [fwhm / 2.3548 / v for v in voxel_size]
        noise = ndimage.gaussian_filter(noise, (*sigma, 0), mode="wrap")
        noise /= noise.std()
    return np.where(mask[..., None], noise * np.float32(sd), 0).astype(np.float32)

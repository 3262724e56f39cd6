"""Every constant and unit conversion of the book, with its source.

Inside and outside the core, time is in seconds and perfusion in ml/100g/min. The kinetic model
needs perfusion as f in ml of blood per g of tissue per second; this module holds the conversion.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

#: 1 ml/g/s is 6000 ml/100g/min: 100 g times 60 s.
CBF_PER_FLOW = 6000.0

#: Loss of labeling efficiency at each background-suppression pulse that the labeled blood
#: passes (Garcia et al., Magn Reson Med 2005, doi:10.1002/mrm.20556).
EFFICIENCY_PER_SUPPRESSION_PULSE = 0.95

#: Bounds outside which a fitted value is not physiological; estimators clip or flag there.
CBF_BOUNDS = (0.0, 250.0)  # ml/100g/min
ATT_BOUNDS = (0.05, 4.0)  # s

#: What a constant can be at any field strength, in any tissue: beyond it a unit or a digit is wrong.
CONSTANT_BOUNDS = {
    "t1_blood": (0.2, 10.0),  # s
    "t1_tissue": (0.2, 10.0),  # s
    "t1_white": (0.2, 10.0),  # s
    "partition_coefficient": (0.1, 10.0),  # ml/g
    "labeling_efficiency": (0.05, 1.0),
    "suppression_pulses": (0, 20),
}


@dataclass(frozen=True)
class Constants:
    """Physiological constants of Buxton's model at 3 T.

    Attributes
    ----------
    t1_blood : float
        Longitudinal relaxation time of arterial blood in s (Lu et al. 2004,
        doi:10.1002/mrm.20178; Alsop et al. 2015, doi:10.1002/mrm.25197).
    t1_tissue : float
        Longitudinal relaxation time of gray matter in s, and of all tissue where tissues are not told apart (Chappell
        et al. 2023, BASIL's default; Woods et al. 2024, doi:10.1002/mrm.30091).
    t1_white : float
        Longitudinal relaxation time of white matter in s, for CBF of gray and of white matter apart (Wansapura et al.
        1999, J Magn Reson Imaging 9:531). Other ways of measuring give 0.6 to 1.1 s (Assländer 2024, arXiv:2409.05318).
    partition_coefficient : float
        Blood-brain partition coefficient of water, lambda, in ml/g (Herscovitch and Raichle 1985,
        doi:10.1038/jcbfm.1985.9).
    labeling_efficiency : float
        Inversion efficiency of pCASL, alpha (Dai et al. 2008, doi:10.1002/mrm.21790), before the
        loss to background suppression.
    suppression_pulses : int
        Background-suppression pulses between labeling and readout; each multiplies the
        efficiency by 0.95.
    dispersion_sharpness, dispersion_time_to_peak : float
        Gamma kernel that spreads the bolus on its way to the tissue (Chappell et al. 2013, doi:10.1002/mrm.24260): its
        sharpness s in 1/s, 2 or more, and the time p in s at which it peaks. Its mean delay is p + 1/s. Sharpness 0 is
        no dispersion.
    """

    t1_blood: float = 1.65
    t1_tissue: float = 1.3
    t1_white: float = 0.83
    partition_coefficient: float = 0.9
    labeling_efficiency: float = 0.85
    suppression_pulses: int = 0
    dispersion_sharpness: float = 0.0
    dispersion_time_to_peak: float = 0.0

    def __post_init__(self) -> None:
        for name, (low, high) in CONSTANT_BOUNDS.items():
            value = getattr(self, name)
            if name == "suppression_pulses" and not (low <= value <= high and float(value).is_integer()):
                raise ValueError(f"suppression_pulses is {value:g}; expected a whole number, 0 to {high}")
            if not low <= value <= high:
                unit = " s" if name.startswith("t1_") else " ml/g" if name == "partition_coefficient" else ""
                raise ValueError(f"{name} is {value:g}; expected a positive number, {low:g} to {high:g}{unit}")
        if self.dispersion_sharpness != 0 and not 2 <= self.dispersion_sharpness <= 1e4:
            raise ValueError(f"dispersion_sharpness is {self.dispersion_sharpness}; expected 2 to 10000 per s, or 0")
        if not 0 <= self.dispersion_time_to_peak <= 2:
            raise ValueError(f"dispersion_time_to_peak is {self.dispersion_time_to_peak}; expected 0 to 2 s")
        if self.dispersion_time_to_peak and not self.dispersion_sharpness:
            raise ValueError(f"dispersion_time_to_peak is {self.dispersion_time_to_peak}, dispersion_sharpness is 0")

    @property
    def disperses(self) -> bool:
        """Whether the bolus is spread by a gamma kernel."""
        return self.dispersion_sharpness > 0

    @property
    def efficiency(self) -> float:
        """Labeling efficiency at readout: alpha times 0.95 for each suppression pulse."""
        return self.labeling_efficiency * EFFICIENCY_PER_SUPPRESSION_PULSE**self.suppression_pulses

    def as_dict(self) -> dict[str, float]:
        """The constants as written into every output's JSON."""
        return asdict(self) | {"effective_labeling_efficiency": self.efficiency}

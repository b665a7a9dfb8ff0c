"""Interpolate: experts mixed on the simplex, tuned on the target, collapsed to one plain expert."""

from pituning.interpolate.mixture import Mixture
from pituning.interpolate.tune import TuneConfig, TuneResult, tune

__all__ = ["Mixture", "TuneConfig", "TuneResult", "tune"]

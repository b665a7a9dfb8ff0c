"""Everything that a user could do instead of π-Tuning, on the same backbone, data and pool."""

from pituning.bench.contest import Contest
from pituning.bench.intervals import Difference, paired_difference
from pituning.bench.methods import METHODS, Method
from pituning.bench.summary import summary

__all__ = ["METHODS", "Contest", "Difference", "Method", "paired_difference", "summary"]

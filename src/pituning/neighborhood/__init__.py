"""Which experts of a pool may be neighbours of a task, and which of them are nearest."""

from pituning.neighborhood.base import Neighborhood, tell_fewer
from pituning.neighborhood.exact import ExactNeighborhood
from pituning.neighborhood.reading import neighborhood_of

__all__ = ["ExactNeighborhood", "Neighborhood", "neighborhood_of", "tell_fewer"]

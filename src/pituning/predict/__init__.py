"""Predict: which tasks are alike, from the Fisher information of their examples."""

from pituning.predict.embedding import FisherConfig, TaskEmbedding
from pituning.predict.fisher import diagonal_fisher
from pituning.predict.graph import Neighbor, TaskGraph
from pituning.predict.information import embed
from pituning.predict.similarity import similarity

__all__ = [
    "FisherConfig",
    "Neighbor",
    "TaskEmbedding",
    "TaskGraph",
    "diagonal_fisher",
    "embed",
    "similarity",
]

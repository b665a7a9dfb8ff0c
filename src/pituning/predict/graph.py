"""All pairs of tasks: the task graph, and the neighbours in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

from jaxtyping import Float
from torch import Tensor

from pituning.errors import ConfigError
from pituning.predict.embedding import TaskEmbedding
from pituning.predict.similarity import Setting, all_similarities, similarities


@dataclass(frozen=True)
class Neighbor:
    """A task that may help, and how alike it is."""

    name: str
    similarity: float


@final
class TaskGraph:
    """Similarities among the tasks of a pool.

    Args:
        embeddings: of one method and configuration on one backbone.
        names: of the experts, in the embeddings' order; the tasks' names where not given.

    Raises:
        ConfigError: for two tasks of one name, or embeddings made in different manners.
    """

    def __init__(self, embeddings: Sequence[TaskEmbedding], *, names: Sequence[str] | None = None) -> None:
        self.names = list(names) if names is not None else [embedding.task for embedding in embeddings]
        if len(set(self.names)) != len(self.names) or len(self.names) != len(embeddings):
            raise ConfigError(
                "every task of a graph has its own name", str(self.names), "Rename the doubles."
            )
        self.embeddings = list(embeddings)
        for first in self.embeddings[:1]:
            _check_manner(first, self.embeddings)
        self.setting: Setting = embeddings[0].setting if embeddings else "default"

    @cached_property
    def similarity(self) -> Float[Tensor, "tasks tasks"]:
        """Symmetric, ones on the diagonal, float64."""
        return all_similarities([embedding.components for embedding in self.embeddings], setting=self.setting)

    def nearest(self, query: str | TaskEmbedding, k: int) -> list[Neighbor]:
        """The k most similar tasks, most similar first, ties by name.

        A task is never its own neighbour, nor is an expert of the same task or of the same training data.

        Raises:
            ConfigError: if k is below 1, the name is unknown, or the embedding was made in another manner.
        """
        check_count(k)
        if isinstance(query, str):
            if query not in self.names:
                raise ConfigError(
                    "the task must be in the graph", repr(query), f"Known: {', '.join(self.names)}."
                )
            query = self.embeddings[self.names.index(query)]
        _check_manner(query, self.embeddings)
        others = [
            (name, embedding)
            for name, embedding in zip(self.names, self.embeddings, strict=True)
            if embedding.differs(query)
        ]
        if not others:
            return []
        found = similarities(query.components, [e.components for _, e in others], setting=self.setting)
        ranked = [Neighbor(name, float(s)) for (name, _), s in zip(others, found, strict=True)]
        return sorted(ranked, key=lambda neighbor: (-neighbor.similarity, neighbor.name))[:k]


def check_count(k: int) -> None:
    """Raise ConfigError where no neighbour is asked for."""
    if k < 1:
        raise ConfigError("k must be at least 1", str(k), "Ask for one neighbour or more.")


def _check_manner(embedding: TaskEmbedding, others: Sequence[TaskEmbedding]) -> None:
    other = next((other for other in others if other.manner != embedding.manner), None)
    if other is not None:
        raise ConfigError(
            "compared embeddings are made in one manner",
            f"{embedding.task!r} {embedding.manner}, {other.task!r} {other.manner}",
            "Embed all tasks of a pool with the same options.",
        )

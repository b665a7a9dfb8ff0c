"""A task as a point: its Fisher information by component, how that was made, and its file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal, final, get_args

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from pituning.errors import ConfigError, StaleEmbeddingError
from pituning.expert import Expert
from pituning.predict.similarity import Setting
from pituning.safe_files import parse_json, parse_metadata, parse_tensors, read_file

EMBEDDING = "embedding.safetensors"

At = Literal["start", "expert"]


@dataclass(frozen=True, kw_only=True)
class FisherConfig:
    """How a task is embedded."""

    setting: Setting = field(
        default="default",
        metadata={"help": "default: exact per-example gradients; paper: the official code's batch gradients"},
    )
    labels: Literal["gold", "sampled"] = field(
        default="gold",
        metadata={"help": "gold answers, or answers sampled from the model (the true Fisher information)"},
    )
    at: At | None = field(
        default=None,
        metadata={
            "help": "where gradients are taken: start, at the adapter before training, which all tasks of a "
            "pool share; or expert, at the task's own (default: start; in the setting paper, expert)"
        },
    )
    max_examples: int = field(
        default=1024, metadata={"help": "embed at most so many training examples (the first by hash)"}
    )
    # Half of 1,024 examples and all are 0.975 to 0.997 alike; where it stops sooner, that and all 0.986 to
    # 0.990 (five tasks of mini20).
    tolerance: float = field(
        default=0.02,
        metadata={
            "help": "stop when the similarity of the embedding with the one after half the examples is "
            "within this of 1; 0 uses all examples"
        },
    )
    batch_size: int = field(
        default=16, metadata={"help": "examples a pass; part of the result for 'paper' only"}
    )
    seed: int = field(default=0, metadata={"help": "of sampled labels, and of what else is drawn"})

    def __post_init__(self) -> None:
        """Collect what is out of range."""
        ConfigError.check_numbers(self)
        faults = [
            ConfigError(f"{name} must be at least 1", str(value), f"Raise {name}.")
            for name, value in (("max_examples", self.max_examples), ("batch_size", self.batch_size))
            if value < 1
        ]
        if not 0 <= self.seed < 2**63:
            faults.append(ConfigError("seed must lie in 0..2^63-1", str(self.seed), "Try 0."))
        if not 0 <= self.tolerance < 1:
            faults.append(ConfigError("tolerance must lie in [0, 1)", str(self.tolerance), "Try 0.02."))
        ConfigError.collect([*faults, *ConfigError.misnamed(self)])

    @property
    def where(self) -> At:
        """`at`, or what it is where it was not given."""
        return self.at or ("expert" if self.setting == "paper" else "start")

    @property
    def manner(self) -> str:
        """In words, what two embeddings must share to be compared."""
        return _manner(self.setting, self.labels, self.where)

    @property
    def hash(self) -> str:
        """Of everything that changes the result; what does not counts as if it were not given."""
        idle = ["tolerance" if self.setting == "paper" else "batch_size"]
        idle += ["seed"] if self.labels == "gold" else []
        facts = asdict(self) | {"at": self.where} | {name: getattr(FisherConfig, name) for name in idle}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _manner(setting: str, labels: str, where: At) -> str:
    told = ["at its expert" if where == "expert" else "at the untrained adapter"]
    told += [f"in the setting {setting}"] if setting != "default" else []
    told += [f"with {labels} labels"] if labels != "gold" else []
    return " ".join(told)


@dataclass(frozen=True, eq=False)
class TaskEmbedding:
    """The diagonal Fisher information by component, and the hashes of what made it.

    Attributes:
        task: the task's name.
        components: tensor name -> float32, non-negative, of the tensor's shape. Heads are left out.
        expert: the digest of the expert whose configuration, and head, it was computed with.
        data: the fingerprint of the task it was computed on.
        config: the hash of the FisherConfig.
        source: the fingerprint of the unsampled training data.
        setting: "default" or "paper"; see `FisherConfig`.
        examples: how many were seen.
        labels: "gold" or "sampled".
        at: where the gradients were taken; see `FisherConfig`. Files from before there was a choice do not
            tell: it was at the expert.
    """

    task: str
    components: dict[str, Tensor] = field(repr=False)
    expert: str
    data: str
    config: str
    source: str
    setting: Setting
    examples: int
    labels: str = "gold"
    at: At = "expert"

    @property
    def manner(self) -> str:
        """In words, what two embeddings must share to be compared."""
        return _manner(self.setting, self.labels, self.at)

    @property
    def is_zero(self) -> bool:
        """Whether it says nothing, as of a task with a single answer."""
        return not any(bool(tensor.any()) for tensor in self.components.values())

    def differs(self, other: TaskEmbedding) -> bool:
        """Whether it is of another task than `other`, and of other data."""
        return self.task != other.task and self.source != other.source

    def check_fresh(self, expert: Expert) -> None:
        """Raise StaleEmbeddingError unless the expert is still the same."""
        if self.expert != expert.digest:
            raise StaleEmbeddingError(
                f"the embedding of {expert.name!r} must be of the expert as now",
                f"expert {self.expert[:12]}, now {expert.digest[:12]}",
                "Run `pituning embed` again.",
            )

    def to_bytes(self) -> bytes:
        """One safetensors file; what made it is in the metadata.

        Raises:
            StaleEmbeddingError: a value is negative or not finite.
        """
        if odd := _odd(self.components):
            must = "an embedding is of finite, non-negative float32"
            raise StaleEmbeddingError(must, f"not so in {odd[0]!r}", "Embed the task again.")
        facts = {name: getattr(self, name) for name in _FACTS}
        tensors = {name: tensor.contiguous() for name, tensor in self.components.items()}
        content: bytes = save(tensors, metadata={"embedding": json.dumps(facts, sort_keys=True)})
        return content

    @classmethod
    def load(cls, path: Path) -> TaskEmbedding:
        """Read `embedding.safetensors`.

        Raises:
            StaleEmbeddingError: if it is missing or not a whole embedding file.
        """
        try:
            content = read_file(path)
        except (OSError, ValueError) as error:
            raise _no_embedding(path, error) from error
        return cls.from_bytes(content, path)

    @classmethod
    def from_bytes(cls, content: bytes, path: Path) -> TaskEmbedding:
        """The embedding in a file that was read.

        Raises:
            StaleEmbeddingError: as `load`.
        """
        try:
            facts: dict[str, Any] = parse_json(parse_metadata(content)["embedding"].encode())
            components = parse_tensors(content)
            if odd := _odd(components):
                raise ValueError(f"{odd[0]!r} is not finite, non-negative float32")
            if any(not isinstance(value, int if n == "examples" else str) for n, value in facts.items()):
                raise ValueError("its facts are of other types")
            embedding = cls(components=components, **facts)
            if (embedding.setting, embedding.labels, embedding.at) not in _MANNERS:
                raise ValueError(f"it was made {embedding.manner}")
            return embedding
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _no_embedding(path, error) from error


@final
class Order:
    """In which order the numbers of an embedding lie in a file, and in every file of the same components."""

    def __init__(self, components: Mapping[str, Tensor]) -> None:
        content: bytes = save({name: tensor.contiguous() for name, tensor in components.items()})
        header = content[8 : 8 + int.from_bytes(content[:8], "little")].rstrip()
        self._end = header[1:]  # what follows the metadata in a header that has some
        extents = {name: entry["data_offsets"] for name, entry in json.loads(header).items()}
        self._names = sorted(extents, key=lambda name: extents[name][0])
        self.sizes = [components[name].numel() for name in self._names]

    def values(self, content: bytes, path: Path) -> np.ndarray:
        """All numbers of an embedding's file, float32.

        Raises:
            StaleEmbeddingError: as `TaskEmbedding.load`.
        """
        start = 8 + int.from_bytes(content[:8], "little")
        if content[max(8, start - len(self._end) - 8) : start].rstrip().endswith(self._end):
            return np.frombuffer(content, np.float32, offset=start)
        return self.flat(TaskEmbedding.from_bytes(content, path).components)

    def flat(self, components: Mapping[str, Tensor]) -> np.ndarray:
        """All numbers of the components, float32."""
        return torch.cat([components[name].flatten() for name in self._names]).numpy()


def _odd(components: Mapping[str, Tensor]) -> list[str]:
    """Those that are not finite, non-negative float32."""

    def is_fisher(tensor: Tensor) -> bool:
        return tensor.dtype == torch.float32 and bool(((tensor >= 0) & torch.isfinite(tensor)).all())

    return [name for name, tensor in components.items() if not is_fisher(tensor)]


def _no_embedding(path: Path, error: Exception) -> StaleEmbeddingError:
    return StaleEmbeddingError(
        "a task embedding is a whole safetensors file written by `pituning embed`",
        f"{path} ({type(error).__name__}: {error})",
        "Run `pituning embed` again.",
    )


_MANNERS = {*product(get_args(Setting), ("gold", "sampled"), get_args(At))}
_FACTS = [entry.name for entry in dataclasses.fields(TaskEmbedding) if entry.name != "components"]

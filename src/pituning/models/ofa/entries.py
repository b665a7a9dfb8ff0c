"""What is written of a checkpoint's tensors, each as the model wants it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pituning.errors import BackboneError
from pituning.models.ofa.archives import Weight
from pituning.models.ofa.base import COMPUTED
from pituning.models.ofa.configuration import OfaConfig
from pituning.models.ofa.modeling import OfaForConditionalGeneration
from pituning.models.ofa.positions import image_buckets, token_buckets
from pituning.models.ofa.safetensors_stream import Entry
from pituning.spelling import listed

TOKENS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight")
PLACES = ("encoder.embed_image_positions.weight", "decoder.embed_image_positions.weight")
BATCHES = ".num_batches_tracked"


def entries_of(
    weights: Mapping[str, Weight], config: OfaConfig, *, dtype: torch.dtype | None, seed: int
) -> tuple[list[Entry], list[str]]:
    """The tensors of the model's file, and what the user should know about them.

    Args:
        weights: of a checkpoint, under fairseq's names.
        config: the model's shape.
        dtype: of what is written; None keeps each tensor's own.
        seed: of rows that are appended.

    Raises:
        BackboneError: listing the tensors that are missing, extra or of another shape.
    """
    with torch.device("meta"):
        model = OfaForConditionalGeneration(config)
    tied = set(model._tied_weights_keys)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    expected = {name: shape for name, shape in expected.items() if not is_computed(name)}
    given = {name: weight for name, weight in weights.items() if not is_computed(name)}
    expected = {name: shape for name, shape in expected.items() if name in given or name not in tied}
    shorter = {
        name for name in (*TOKENS, *PLACES) if name in given and _is_short(given[name], expected[name])
    }
    _check_names(expected, given, shorter)
    said = _bucket_notes(weights, config)
    for name in sorted(shorter - tied):
        many = expected[name][0] - given[name].shape[0]
        said.append(f"{many} random rows were appended to {name}: they are not trained.")
    entries = []
    for name, shape in expected.items():
        if name not in tied:
            rows = _Grown(given[name], shape, _stream(name, seed)) if name in shorter else None
            entries.append(_entry(name, shape, given.get(name), rows, dtype))
    return entries, said


def _check_names(
    expected: Mapping[str, tuple[int, ...]], given: Mapping[str, Weight], shorter: Collection[str]
) -> None:
    """Raise where the tensors are not the model's; those in `shorter` may lack rows."""
    faults = {
        "missing": [name for name in expected if name not in given and not name.endswith(BATCHES)],
        "not of this model": [n for n in given if n not in expected and not n.endswith(BATCHES)],
        "of another shape": [
            f"{name} ({given[name].shape}, where the model has {shape})"
            for name, shape in expected.items()
            if name in given and name not in shorter and given[name].shape != shape
        ],
    }
    if any(faults.values()):
        raise BackboneError(
            "a checkpoint must hold exactly the tensors of the model that its shapes describe",
            "; ".join(f"{what}: {listed(names)}" for what, names in faults.items() if names),
            "Use a whole checkpoint of one OFA.",
        )


def _entry(
    name: str,
    shape: tuple[int, ...],
    weight: Weight | None,
    grown: _Grown | None,
    dtype: torch.dtype | None,
) -> Entry:
    if weight is None:  # only num_batches_tracked may be missing
        return Entry(name, torch.int64, shape, lambda: torch.zeros(shape, dtype=torch.int64))
    if dtype is None or not weight.dtype.is_floating_point:
        dtype = weight.dtype
    return Entry(name, dtype, shape, grown.read if grown else weight.read)


@final
@dataclass(frozen=True)
class _Grown:
    """A table with rows ~ N(0, 1/√columns) appended, as OFA does it."""

    weight: Weight
    shape: tuple[int, ...]
    seed: int

    def read(self) -> Tensor:
        """[rows, columns]."""
        known, width = self.weight.read(), self.shape[1]
        generator = torch.Generator().manual_seed(self.seed)
        new = torch.randn(self.shape[0] - len(known), width, generator=generator) * width**-0.5
        return torch.cat([known, new.to(known.dtype)])


def _stream(name: str, seed: int) -> int:
    """The tables of tokens get the same rows; those of image positions get their own."""
    return 3 * seed + (PLACES.index(name) + 1 if name in PLACES else 0)


def _is_short(weight: Weight, shape: tuple[int, ...]) -> bool:
    return weight.shape[1:] == shape[1:] and weight.shape[0] < shape[0]


def is_computed(name: str) -> bool:
    """Whether the model computes it from its configuration."""
    return name.rsplit(".", 1)[-1] in COMPUTED


def _bucket_notes(weights: Mapping[str, Weight], config: OfaConfig) -> list[str]:
    """Say where a checkpoint's tables of buckets are not those that the model computes."""
    found = []
    for part in ("encoder", "decoder"):
        tables = {
            "token_rp_bucket": token_buckets(config.token_bucket_size, config.max_position_embeddings),
            "image_rp_bucket": image_buckets(config.image_bucket_size),
        }
        for name, table in tables.items():
            weight = weights.get(f"{part}.{name}")
            if weight is not None and (weight.shape != tuple(table.shape) or not weight.read().equal(table)):
                found.append(f"{part}.{name} is not the official table; the model uses the official one.")
    return found

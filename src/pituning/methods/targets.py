"""Target modules for architectures that PEFT has no defaults for, found by their names in transformers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import accumulate

from torch import nn

QUERY_VALUE = frozenset({"q", "v", "q_proj", "v_proj", "query", "value", "q_lin", "v_lin", "qkv"})
KEY_VALUE = frozenset({"k", "v", "k_proj", "v_proj", "key", "value", "k_lin", "v_lin", "qkv"})
FEED_FORWARD_OUT = frozenset({"wo", "down_proj", "fc2", "lin2"})


def linears(model: nn.Module, heads: Sequence[str]) -> list[str]:
    """Full names of all Linear layers but those of heads, output embedding and a text encoder's pooler."""
    return _names(model, heads, lambda module: isinstance(module, nn.Linear))


def norms(model: nn.Module, heads: Sequence[str]) -> list[str]:
    """Full names of all normalisation layers outside the task heads."""
    return _names(model, heads, lambda module: type(module).__name__.endswith("Norm"))


def named(model: nn.Module, heads: Sequence[str], last_names: Collection[str]) -> list[str]:
    """The `last_names` that some Linear of the model has, sorted; they are suffixes for `target_modules`."""
    return sorted({name.rpartition(".")[2] for name in linears(model, heads)} & set(last_names))


def _names(model: nn.Module, heads: Sequence[str], wanted: Callable[[nn.Module], bool]) -> list[str]:
    outputs = getattr(model, "get_output_embeddings", lambda: None)()
    return [
        name
        for name, module in model.named_modules()
        if wanted(module)
        and module is not outputs
        and not inside(name, heads)
        and not name.startswith("pooler.")
    ]


def inside(name: str, heads: Sequence[str]) -> bool:
    """Whether a module lies in one of the `heads`, which PEFT finds by the end of a module's name."""
    return any(path.endswith(tuple(heads)) for path in accumulate(name.split("."), "{}.{}".format))

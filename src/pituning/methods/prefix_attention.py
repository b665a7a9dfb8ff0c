"""Attention with learned keys and values in front, as an attention implementation of transformers.

transformers looks up an attention function by the name in `config._attn_implementation` and calls it with
the attention module as first argument. Ours reads the prefix that hangs on that module, puts it before the
keys and values (after the cache was updated and rotary embedding applied, so a prefix is neither cached nor
rotated), widens mask and position bias by visible columns, and goes on with the implementation it replaces.
A module without a prefix (cross-attention, a model that shares the configuration) is computed as before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pituning.errors import ExpertError

NAME = "pituning_prefix_"
INNER = ("sdpa", "eager")
LINK = "_pituning_prefix_source"


class PrefixSource(Protocol):
    """What hangs on an attention module to give it a prefix."""

    def prefix_for(self, key: Tensor) -> tuple[Tensor, Tensor] | None:
        """Keys and values, each `[batch, kv_heads, length, head_dim]`, or None for no prefix at this time."""


def supports(module: Any) -> bool:
    """Whether `module` (an attention module) computes attention through the interface of transformers."""
    source = vars(sys.modules[type(module).__module__])
    return hasattr(module, "config") and "ALL_ATTENTION_FUNCTIONS" in source


def switch_on(module: Any) -> None:
    """Let the configuration of the attention `module` name our function.

    Raises:
        ExpertError: its present implementation cannot take a mask that our prefix needs.
    """
    current = module.config._attn_implementation
    if is_on(module):
        return
    if current not in INNER:
        raise ExpertError(
            must=f"a prefix needs the attention implementation {' or '.join(INNER)}",
            given=f"{current!r} in {type(module).__name__}",
            fix='Load the model with attn_implementation="sdpa".',
        )
    # The key "" leaves the sub-configurations as they are; every targeted module switches its own.
    module.config._attn_implementation = {"": NAME + current}


def switch_off(module: Any) -> None:
    """Undo `switch_on`."""
    if is_on(module):
        module.config._attn_implementation = {"": module.config._attn_implementation.removeprefix(NAME)}


def is_on(module: Any) -> bool:
    """Whether the configuration of the attention `module` names our function."""
    return str(module.config._attn_implementation).startswith(NAME)


def _attention(inner: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        source: PrefixSource | None = module.__dict__.get(LINK)
        prefix = source.prefix_for(key) if source else None
        if prefix is not None:
            _refuse_paged_cache(kwargs)
            length = prefix[0].shape[2]
            if attention_mask is None and inner == "sdpa" and _is_causal(module, query, kwargs):
                attention_mask = _causal_mask(query, key)
            attention_mask = _visible(attention_mask, length)
            if kwargs.get("position_bias") is not None:
                kwargs["position_bias"] = _visible(kwargs["position_bias"], length)
            key, value = torch.cat([prefix[0], key], dim=2), torch.cat([prefix[1], value], dim=2)
        return _function(inner, module)(module, query, key, value, attention_mask, **kwargs)

    return attend


def _function(inner: str, module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The implementation to go on with; each modelling file holds its own eager one."""
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    function: Callable[..., tuple[Tensor, Tensor | None]] = ALL_ATTENTION_FUNCTIONS.get_interface(
        inner, eager
    )
    return function


def _is_causal(module: nn.Module, query: Tensor, kwargs: dict[str, Any]) -> bool:
    """What `sdpa` takes "no mask" to mean: causal for a causal module and more than one query."""
    is_causal = kwargs.get("is_causal")
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    return bool(is_causal) and query.shape[2] > 1


def _causal_mask(query: Tensor, key: Tensor) -> Tensor:
    """`[1, 1, queries, keys]`, query i sees keys 0..i: a causal mask is left out for an empty cache only."""
    return torch.ones(1, 1, query.shape[2], key.shape[2], dtype=torch.bool, device=key.device).tril()


def _visible(mask: Tensor | None, length: int) -> Tensor | None:
    """Put `length` visible columns before a boolean mask (True) or an additive one (0)."""
    if mask is None:
        return None
    return nn.functional.pad(mask, (length, 0), value=mask.dtype == torch.bool)


def _refuse_paged_cache(kwargs: dict[str, Any]) -> None:
    if kwargs.get("cache") is not None:
        raise ExpertError(
            must="a prefix needs an ordinary cache of keys and values",
            given="the paged cache of continuous batching",
            fix="Use model.generate().",
        )


for _inner in INNER:
    ALL_ATTENTION_FUNCTIONS.register(NAME + _inner, _attention(_inner))
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME + _inner, ALL_MASK_ATTENTION_FUNCTIONS[_inner])

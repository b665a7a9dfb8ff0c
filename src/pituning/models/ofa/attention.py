"""Attention with position biases, through the attention interface of transformers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import dropout as apply_dropout
from transformers import EncoderDecoderCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pituning.models.ofa.configuration import OfaConfig


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float = 1.0,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attention step by step: [b, h, q, d/h] to [b, q, h, d/h], and the weights [b, h, q, k]."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.float().softmax(dim=-1).to(query.dtype)
    weights = apply_dropout(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class OfaAttention(nn.Module):
    """Multi-head attention; with `scale_heads` each head's output has a learned factor `c_attn`."""

    is_causal = False  # what may be seen is in the bias

    def __init__(self, config: OfaConfig, heads: int, layer_idx: int) -> None:
        super().__init__()
        width = config.d_model
        self.config, self.layer_idx = config, layer_idx
        self.num_heads, self.head_dim = heads, width // heads
        self.scaling = (self.head_dim * config.attn_scale_factor) ** -0.5
        self.dropout = config.attention_dropout
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.c_attn = nn.Parameter(self.q_proj.weight.new_ones(heads)) if config.scale_heads else None

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        key_value_states: Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from [b, q, d] to itself or to `key_value_states` [b, k, d].

        Args:
            hidden_states: what asks.
            attention_mask: added to the scores, [b or 1, h, q, k].
            key_value_states: what is asked, in cross-attention.
            past_key_values: holds the keys and values of earlier steps, or of the encoder.

        Returns:
            [b, q, d], and the weights [b, h, q, k] where the implementation gives them ("eager").
        """
        query = self._heads(self.q_proj(hidden_states))
        key, value = self._keys_values(hidden_states, key_value_states, past_key_values)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        rate = self.dropout if self.training else 0.0
        out, weights = attend(self, query, key, value, attention_mask, dropout=rate, scaling=self.scaling)
        if self.c_attn is not None:
            out = out * self.c_attn[:, None]
        return self.out_proj(out.reshape(hidden_states.shape)), weights

    def _keys_values(
        self, own: Tensor, other: Tensor | None, cache: EncoderDecoderCache | None
    ) -> tuple[Tensor, Tensor]:
        if cache is not None and other is not None and cache.is_updated.get(self.layer_idx):
            layer = cache.cross_attention_cache.layers[self.layer_idx]
            return layer.keys, layer.values
        source = own if other is None else other
        key, value = self._heads(self.k_proj(source)), self._heads(self.v_proj(source))
        if cache is None:
            return key, value
        if other is None:
            key, value = cache.self_attention_cache.update(key, value, self.layer_idx)
        else:
            key, value = cache.cross_attention_cache.update(key, value, self.layer_idx)
            cache.is_updated[self.layer_idx] = True
        return key, value

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

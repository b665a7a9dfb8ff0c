"""The layers of OFA's encoder and decoder. Module names are those of the official checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import EncoderDecoderCache
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from pituning.models.ofa.attention import OfaAttention
from pituning.models.ofa.configuration import OfaConfig
from pituning.models.ofa.residual import Residual


class _Layer(GradientCheckpointingLayer):  # type: ignore[misc]
    """The feed-forward network and the settings that both kinds of layer have; abstract."""

    def __init__(self, config: OfaConfig, *, ffn: int, drop_path: float, normalize_before: bool) -> None:
        super().__init__()
        width = config.d_model
        self.residual = Residual(
            dropout=config.dropout, drop_path=drop_path, normalize_before=normalize_before
        )
        self.activation = ACT2FN[config.activation_function]
        self.activation_dropout = config.activation_dropout
        self.fc1 = nn.Linear(width, ffn)
        self.ffn_layernorm = nn.LayerNorm(ffn) if config.scale_fc else nn.Identity()
        self.fc2 = nn.Linear(ffn, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.w_resid = nn.Parameter(torch.ones(width)) if config.scale_resids else None

    def feed_forward(self, x: Tensor) -> Tensor:
        """The residual feed-forward network."""

        def branch(x: Tensor) -> Tensor:
            hidden = self.activation(self.fc1(x))
            hidden = nn.functional.dropout(hidden, self.activation_dropout, self.training)
            return self.fc2(self.ffn_layernorm(hidden))  # type: ignore[no-any-return]

        return self.residual(x, self.final_layer_norm, branch, self.w_resid)  # type: ignore[no-any-return]


def _attention_norm(config: OfaConfig) -> nn.Module:
    return nn.LayerNorm(config.d_model) if config.scale_attn else nn.Identity()


class OfaEncoderLayer(_Layer):
    """Self-attention and feed-forward network."""

    def __init__(self, config: OfaConfig, layer_idx: int, drop_path: float) -> None:
        before = config.encoder_normalize_before
        super().__init__(config, ffn=config.encoder_ffn_dim, drop_path=drop_path, normalize_before=before)
        self.self_attn = OfaAttention(config, config.encoder_attention_heads, layer_idx)
        self.attn_ln = _attention_norm(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, hidden_states: Tensor, bias: Tensor) -> tuple[Tensor, Tensor | None]:
        """[b, s, d] to the same shape and the attention's weights; bias [b or 1, h, s, s]."""
        weights: list[Any] = []

        def branch(x: Tensor) -> Tensor:
            x, found = self.self_attn(x, bias)
            weights.append(found)
            return self.attn_ln(x)  # type: ignore[no-any-return]

        x = self.residual(hidden_states, self.self_attn_layer_norm, branch)
        return self.feed_forward(x), weights[0]


class OfaDecoderLayer(_Layer):
    """Self-attention, cross-attention and feed-forward network."""

    def __init__(self, config: OfaConfig, layer_idx: int, drop_path: float) -> None:
        before = config.decoder_normalize_before
        super().__init__(config, ffn=config.decoder_ffn_dim, drop_path=drop_path, normalize_before=before)
        self.self_attn = OfaAttention(config, config.decoder_attention_heads, layer_idx)
        self.self_attn_ln = _attention_norm(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn = OfaAttention(config, config.decoder_attention_heads, layer_idx)
        self.cross_attn_ln = _attention_norm(config)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)

    def forward(
        self,
        hidden_states: Tensor,
        bias: Tensor,
        encoder_hidden_states: Tensor,
        cross_bias: Tensor,
        past_key_values: EncoderDecoderCache | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """[b, t, d] to the same shape and the weights of both attentions.

        Args:
            hidden_states: of the decoder.
            bias: of self-attention, [b or 1, h, t, keys].
            encoder_hidden_states: [b, s, d].
            cross_bias: of cross-attention, [b or 1, h, t, s].
            past_key_values: the cache.
        """
        weights: list[Any] = []

        def attend_to_itself(x: Tensor) -> Tensor:
            x, found = self.self_attn(x, bias, past_key_values=past_key_values)
            weights.append(found)
            return self.self_attn_ln(x)  # type: ignore[no-any-return]

        def attend_to_encoder(x: Tensor) -> Tensor:
            x, found = self.encoder_attn(x, cross_bias, encoder_hidden_states, past_key_values)
            weights.append(found)
            return self.cross_attn_ln(x)  # type: ignore[no-any-return]

        x = self.residual(hidden_states, self.self_attn_layer_norm, attend_to_itself)
        x = self.residual(x, self.encoder_attn_layer_norm, attend_to_encoder)
        return self.feed_forward(x), weights[0], weights[1]

"""The decoder. Letters: b batch, t new tokens, n all tokens so far, s encoder states, d width, h heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from pituning.errors import BackboneError
from pituning.models.ofa.base import OfaStack
from pituning.models.ofa.configuration import OfaConfig
from pituning.models.ofa.layers import OfaDecoderLayer
from pituning.models.ofa.outputs import OfaEncoderOutput
from pituning.models.ofa.positions import (
    absolute_bias,
    code_position_ids,
    relative_bias,
)
from pituning.models.ofa.residual import rising_rates


class OfaDecoder(OfaStack):
    """Encoder states and the tokens so far to features of the next ones.

    Args:
        config: the shape.
        with_projection: hold the output projection, as official checkpoints do.
    """

    def __init__(self, config: OfaConfig, *, with_projection: bool = False) -> None:
        super().__init__(config, heads=config.decoder_attention_heads, layers=config.decoder_layers)
        width = config.d_model
        codes = code_position_ids(config.code_image_size, config.image_bucket_size)
        self.register_buffer("image_position_idx", codes)
        self.code_layernorm_embedding = (
            nn.LayerNorm(width) if config.code_layernorm_embedding else nn.Identity()
        )
        self.self_pos_q_linear = nn.Linear(width, width)
        self.self_pos_k_linear = nn.Linear(width, width)
        self.cross_pos_q_linear = nn.Linear(width, width)
        self.cross_pos_k_linear = nn.Linear(width, width)
        rates = rising_rates(config.decoder_drop_path_rate, config.decoder_layers)
        self.layers = nn.ModuleList(OfaDecoderLayer(config, index, rate) for index, rate in enumerate(rates))
        self.layer_norm = nn.LayerNorm(width) if config.decoder_normalize_before else nn.Identity()
        if with_projection:
            self.output_projection = nn.Linear(width, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None,
        encoder_outputs: OfaEncoderOutput,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        code_masks: Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        use_cache: bool = False,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Decode.

        Args:
            input_ids: the tokens that `past_key_values` has not seen, int64 [b, t].
            encoder_outputs: of OfaEncoder.
            attention_mask: 1 where a token is, [b, n]; by default, where it is not padding.
            inputs_embeds: token embeddings [b, t, d] in the place of `input_ids`.
            code_masks: True for samples that write a picture as image codes, bool [b].
            past_key_values: the cache.
            use_cache: make one where there is none.
            output_hidden_states: return the states after each layer.
            output_attentions: return both attentions' weights.

        Raises:
            BackboneError: more tokens than the model has positions for.
        """
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(), DynamicCache())
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        tokens = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        new = tokens.shape[1]
        length = past + new
        if length > self.config.max_position_embeddings:
            most = self.config.max_position_embeddings
            raise BackboneError(f"an answer has at most {most} tokens", f"{length}", "Cut it.")
        codes = None if code_masks is None else code_masks.bool()
        x, places = self._embed(tokens, past, codes)
        if attention_mask is None and input_ids is not None and not (past and new == 1):
            attention_mask = nn.functional.pad(input_ids.ne(self.config.pad_token_id), (past, 0), value=True)
        masked = self._masked(new, past, attention_mask)
        own, cross = self._absolute_biases(places, past, encoder_outputs, masked)
        states, attentions, cross_attentions = [x], [], []
        for index, layer in enumerate(self.layers):
            bias = own + self._relative_bias(index, past, length, codes)
            x, weights, cross_weights = layer(
                x, bias, encoder_outputs.last_hidden_state, cross, past_key_values
            )
            states.append(x)
            attentions.append(weights)
            cross_attentions.append(cross_weights)
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.layer_norm(x),
            past_key_values=past_key_values,
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            cross_attentions=tuple(cross_attentions) if output_attentions else None,
        )

    def _embed(self, tokens: Tensor, past: int, codes: Tensor | None) -> tuple[Tensor, Tensor]:
        """New tokens embedded [b, t, d], and the positions of all so far [b or 1, n, d]."""
        length = past + tokens.shape[1]
        raw = self.embed_positions.weight[None, :length]
        places = self.pos_ln(raw)
        x = tokens * self.embed_scale
        added = raw[:, past:]
        if codes is not None:
            raw_codes = self.embed_image_positions(self.image_position_idx[:length])[None]
            places = torch.where(codes[:, None, None], self.image_pos_ln(raw_codes), places)
            added = torch.where(codes[:, None, None], raw_codes[:, past:], added)
        if self.config.entangle_position_embedding or self.config.decoder_adds_positions:
            x = x + added
        normed = self.layernorm_embedding(x)
        if codes is not None:
            normed = torch.where(codes[:, None, None], self.code_layernorm_embedding(x), normed)
        return nn.functional.dropout(normed, self.config.dropout, self.training), places

    def _masked(self, new: int, past: int, attention_mask: Tensor | None) -> Tensor | None:
        """True where a key may not be seen, [b or 1, 1, t, n]; None where all may."""
        padded = attention_mask is not None and not bool(attention_mask.all())
        if new == 1 and not padded:
            return None
        device = self.embed_positions.weight.device
        ahead = torch.ones(new, past + new, dtype=torch.bool, device=device).triu(past + 1)[None, None]
        return ahead | ~attention_mask.bool()[:, None, None] if padded else ahead  # type: ignore[union-attr]

    def _absolute_biases(
        self, places: Tensor, past: int, encoder: OfaEncoderOutput, masked: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What all layers share: biases of self-attention [b or 1, h, t, n] and of cross-attention."""
        config: Any = self.config
        heads = config.decoder_attention_heads
        scaling = (config.d_model / heads * config.attn_scale_factor) ** -0.5
        queries = places[:, past:]
        own = absolute_bias(queries, places, self.self_pos_q_linear, self.self_pos_k_linear, heads, scaling)
        lowest = torch.finfo(own.dtype).min
        if masked is not None:
            own = own.masked_fill(masked, lowest)
        assert encoder.position_embeddings is not None
        assert encoder.attention_mask is not None
        keys = encoder.position_embeddings[:1]  # the same for all samples
        cross = absolute_bias(
            queries,
            keys.expand(len(queries), -1, -1),
            self.cross_pos_q_linear,
            self.cross_pos_k_linear,
            heads,
            scaling,
        )
        if not bool(encoder.attention_mask.all()):
            cross = cross.masked_fill(~encoder.attention_mask[:, None, None], lowest)
        return own, cross

    def _relative_bias(self, index: int, past: int, length: int, codes: Tensor | None) -> Tensor:
        """Layer `index`'s bias of relative positions, [b or 1, h, t, n]."""
        buckets = self.token_rp_bucket[past:length, :length]
        bias = relative_bias(self.token_rel_pos_table_list[index], buckets)[None]
        if codes is None:
            return bias
        ids = self.image_position_idx[:length]
        buckets = self.image_rp_bucket[ids[past:, None], ids]
        image = relative_bias(self.image_rel_pos_table_list[index], buckets)[None]
        return torch.where(codes[:, None, None, None], image, bias)

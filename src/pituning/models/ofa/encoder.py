"""The encoder: patches first, then tokens. Letters: b batch, p patches, t tokens, s = p + t, d width."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pituning.errors import BackboneError
from pituning.models.ofa.base import OfaStack
from pituning.models.ofa.configuration import OfaConfig
from pituning.models.ofa.layers import OfaEncoderLayer
from pituning.models.ofa.outputs import OfaEncoderOutput
from pituning.models.ofa.positions import (
    absolute_bias,
    patch_ids,
    relative_bias,
)
from pituning.models.ofa.residual import rising_rates
from pituning.models.ofa.stem import EXPANSION, ResNetStem


class OfaEncoder(OfaStack):
    """Pictures and text to states."""

    main_input_name = "input_ids"

    def __init__(self, config: OfaConfig) -> None:
        super().__init__(config, heads=config.encoder_attention_heads, layers=config.encoder_layers)
        width = config.d_model
        self.type_embedding = nn.Embedding(2, width) if config.add_type_embedding else None
        self.embed_images = ResNetStem(
            config.blocks,
            config.resnet_planes,
            max_pool=config.resnet_max_pool,
            frozen=config.freeze_batch_norm,
            drop_path=config.resnet_drop_path_rate,
        )
        self.image_proj = nn.Linear(config.resnet_planes[-1] * EXPANSION, width)
        self.patch_layernorm_embedding = (
            nn.LayerNorm(width) if config.patch_layernorm_embedding else nn.Identity()
        )
        self.pos_q_linear = nn.Linear(width, width)
        self.pos_k_linear = nn.Linear(width, width)
        rates = rising_rates(config.encoder_drop_path_rate, config.encoder_layers)
        self.layers = nn.ModuleList(OfaEncoderLayer(config, index, rate) for index, rate in enumerate(rates))
        self.layer_norm = nn.LayerNorm(width) if config.encoder_normalize_before else nn.Identity()
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        patch_images: Tensor | None = None,
        patch_masks: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        return_dict: bool = True,
    ) -> OfaEncoderOutput:
        """Encode.

        Args:
            input_ids: int64 [b, t].
            attention_mask: 1 where a token is, [b, t]; by default, where it is not padding.
            patch_images: pictures [b, 3, height, width]; None for text alone.
            patch_masks: False leaves a sample without its picture, bool [b].
            inputs_embeds: token embeddings [b, t, d] in the place of `input_ids`.
            output_hidden_states: return the states after each layer.
            output_attentions: return the attention's weights.
            return_dict: there is nothing else; for callers that pass it.

        Raises:
            BackboneError: a text or picture that is larger than the model has positions for.
        """
        tokens = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if attention_mask is not None:
            visible = attention_mask.bool()
        elif input_ids is not None:
            visible = input_ids.ne(self.config.pad_token_id)
        else:
            visible = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        x, positions = self._embed_tokens(tokens)
        ids = None
        if patch_images is not None:
            patches, patch_positions, ids = self._embed_patches(patch_images)
            shown = torch.ones(patches.shape[:2], dtype=torch.bool, device=x.device)
            if patch_masks is not None:
                shown = shown & patch_masks.bool()[:, None]
            x, positions = torch.cat([patches, x], dim=1), torch.cat([patch_positions, positions])
            visible = torch.cat([shown, visible], dim=1)
        whole = bool(visible.all())
        if not whole:
            x = x * visible[..., None].to(x.dtype)
        base = self._absolute_bias(positions, None if whole else visible)
        states, attentions = [x], []
        for index, layer in enumerate(self.layers):
            x, weights = layer(x, self._bias(base, index, tokens.shape[1], ids))
            states.append(x)
            attentions.append(weights)
        return OfaEncoderOutput(
            last_hidden_state=self.layer_norm(x),
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            attention_mask=visible,
            position_embeddings=positions.expand(x.shape[0], -1, -1),
        )

    def _embed_tokens(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Embedded tokens [b, t, d] and their positions [t, d]."""
        length = tokens.shape[1]
        if length > self.config.max_position_embeddings:
            raise BackboneError(
                f"a text has at most {self.config.max_position_embeddings} tokens", f"{length}", "Cut it."
            )
        places = self.embed_positions.weight[:length]
        x = tokens * self.embed_scale
        if self.config.entangle_position_embedding:
            x = x + places
        if self.type_embedding is not None:
            x = x + self.type_embedding.weight[0]
        x = self.layernorm_embedding(x)
        x = nn.functional.dropout(x, self.config.dropout, self.training)
        return x, self.pos_ln(places)

    def _embed_patches(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embedded patches [b, p, d], their positions [p, d] and their ids [p]."""
        features = self.embed_images(pictures.to(self.image_proj.weight.dtype))
        height, width = features.shape[-2:]
        side = self.config.image_bucket_size
        if max(height, width) > side:
            given = f"{tuple(pictures.shape[-2:])} pixels, {height} x {width} patches"
            raise BackboneError(f"a picture has at most {side} x {side} patches", given, "Resize it.")
        ids = patch_ids(height, width, side, pictures.device)
        places = self.embed_image_positions(ids)
        x = self.image_proj(features.flatten(2).transpose(1, 2)) * self.embed_scale
        if self.config.entangle_position_embedding:
            x = x + places
        if self.type_embedding is not None:
            x = x + self.type_embedding.weight[1]
        x = self.patch_layernorm_embedding(x)
        x = nn.functional.dropout(x, self.config.dropout, self.training)
        return x, self.image_pos_ln(places), ids

    def _absolute_bias(self, positions: Tensor, visible: Tensor | None) -> Tensor:
        """What all layers share: the bias of absolute positions and the padding, [b or 1, h, s, s]."""
        config: Any = self.config
        heads = config.encoder_attention_heads
        scaling = (config.d_model / heads * config.attn_scale_factor) ** -0.5
        place = positions[None]
        bias = absolute_bias(place, place, self.pos_q_linear, self.pos_k_linear, heads, scaling)
        if visible is None:
            return bias
        return bias.masked_fill(~visible[:, None, None], torch.finfo(bias.dtype).min)

    def _bias(self, base: Tensor, index: int, tokens: int, ids: Tensor | None) -> Tensor:
        """`base` and layer `index`'s own bias, between tokens and between patches."""
        bias = base.clone()
        table = self.token_rel_pos_table_list[index]
        bias[..., -tokens:, -tokens:] += relative_bias(table, self.token_rp_bucket[:tokens, :tokens])
        if ids is not None:
            many, table = len(ids), self.image_rel_pos_table_list[index]
            bias[..., :many, :many] += relative_bias(table, self.image_rp_bucket[ids[:, None], ids])
        return bias

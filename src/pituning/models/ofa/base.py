"""What every OFA module is: initialisation, and what transformers may do with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from pituning.models.ofa.attention import OfaAttention
from pituning.models.ofa.configuration import OfaConfig
from pituning.models.ofa.layers import OfaDecoderLayer, OfaEncoderLayer
from pituning.models.ofa.positions import code_position_ids, image_buckets, token_buckets

COMPUTED = ("version", "token_rp_bucket", "image_rp_bucket", "image_position_idx")
"""Buffers of official checkpoints that follow from the configuration; `save_pretrained` leaves them out."""


class OfaPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    """Abstract."""

    config: OfaConfig
    config_class = OfaConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ("OfaEncoderLayer", "OfaDecoderLayer", "Bottleneck")
    _keys_to_ignore_on_save = {f"{part}.{name}" for part in ("encoder", "decoder") for name in COMPUTED}  # noqa: RUF012
    _keys_to_ignore_on_load_missing = [rf"(.*\.)?{name}$" for name in COMPUTED]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As the official code: Linear and Embedding N(0, 0.02), over whatever their constructors drew."""
        config: Any = self.config
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=config.init_std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=config.init_std)
            if module.padding_idx is not None:
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)
        elif isinstance(module, OfaAttention) and module.c_attn is not None:
            init.ones_(module.c_attn)
        elif isinstance(module, OfaEncoderLayer | OfaDecoderLayer) and module.w_resid is not None:
            init.ones_(module.w_resid)
        elif "token_rp_bucket" in module._buffers:
            self._init_buffers(module)

    def _init_buffers(self, module: Any) -> None:
        config: Any = self.config
        init.constant_(module.version, 3.0)
        buckets = token_buckets(config.token_bucket_size, config.max_position_embeddings)
        init.copy_(module.token_rp_bucket, buckets)
        init.copy_(module.image_rp_bucket, image_buckets(config.image_bucket_size))
        if "image_position_idx" in module._buffers:
            ids = code_position_ids(config.code_image_size, config.image_bucket_size)
            init.copy_(module.image_position_idx, ids)


class OfaStack(OfaPreTrainedModel):
    """What encoder and decoder both hold: embeddings, positions and their tables; abstract.

    Args:
        config: the shape.
        heads: of each attention.
        layers: how many.
    """

    def __init__(self, config: OfaConfig, *, heads: int, layers: int) -> None:
        super().__init__(config)
        width, side, rows = config.d_model, config.image_bucket_size, config.max_position_embeddings
        self.register_buffer("version", torch.tensor([3.0]))
        self.register_buffer("token_rp_bucket", token_buckets(config.token_bucket_size, rows))
        self.register_buffer("image_rp_bucket", image_buckets(side))
        self.embed_tokens = nn.Embedding(config.vocab_size, width, config.pad_token_id)
        self.embed_scale = width**0.5 if config.scale_embedding else 1.0
        self.layernorm_embedding = nn.LayerNorm(width) if config.layernorm_embedding else nn.Identity()
        self.embed_positions = nn.Embedding(rows + 2, width)
        self.embed_image_positions = nn.Embedding(side * side + 1, width)
        self.pos_ln = nn.LayerNorm(width)
        self.image_pos_ln = nn.LayerNorm(width)
        self.token_rel_pos_table_list = nn.ModuleList(
            nn.Embedding(2 * config.token_bucket_size - 1, heads) for _ in range(layers)
        )
        self.image_rel_pos_table_list = nn.ModuleList(
            nn.Embedding((2 * side - 1) ** 2 + 3, heads) for _ in range(layers)
        )

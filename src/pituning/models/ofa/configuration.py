"""The shape of an OFA model (Wang et al., ICML 2022), in the field names of its Hugging Face port."""

from __future__ import annotations

from typing import Any, Literal, Self

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from pituning.errors import ConfigError
from pituning.spelling import did_you_mean

SIZES: dict[str, dict[str, Any]] = {
    name: {
        "d_model": width,
        "encoder_ffn_dim": 4 * width,
        "decoder_ffn_dim": 4 * width,
        "encoder_layers": encoder,
        "decoder_layers": decoder,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "resnet_type": stem,
    }
    for name, width, encoder, decoder, heads, stem in (
        ("tiny", 256, 4, 4, 4, "resnet50"),
        ("medium", 512, 4, 4, 8, "resnet101"),
        ("base", 768, 6, 6, 12, "resnet101"),
        ("large", 1024, 12, 12, 16, "resnet152"),
        ("huge", 1280, 24, 12, 16, "resnet152"),
    )
}
"""The five official sizes."""

RESNET_BLOCKS = {
    "resnet18": (2, 2, 2),
    "resnet34": (3, 4, 6),
    "resnet50": (3, 4, 6),
    "resnet101": (3, 4, 23),
    "resnet152": (3, 8, 36),
}
"""Bottleneck blocks in each of the three stages of an image stem."""


@strict
class OfaConfig(PreTrainedConfig):  # type: ignore[misc]
    """What makes an OFA model; the defaults are OFA-Base as released.

    Args:
        vocab_size: tokens of text, image codes and box coordinates together.
        max_position_embeddings: positions of text; two more rows are held, as fairseq does.
        token_bucket_size: relative distances of tokens are told apart exactly up to half of it.
        image_bucket_size: largest number of image patches along a side (42 are 672 px).
        code_image_size: side in pixels of a picture that is written as image codes.
        attn_scale_factor: scores are divided by the root of this times the head's width.
        scale_attn, scale_fc, scale_heads: the NormFormer's LayerNorm after attention, LayerNorm in the
            feed-forward network and one factor a head (`normformer` sets all three).
        scale_resids: a learned factor on the residual around the feed-forward network.
        scale_embedding: multiply embeddings by the root of `d_model`.
        entangle_position_embedding: add positions to the encoder's embeddings too, not to attention alone.
        decoder_adds_positions: add positions to the decoder's embeddings (fairseq without
            `--disable-entangle`; no released checkpoint).
        resnet_type: the image stem; `resnet_layers` overrides its numbers of blocks, `resnet_planes` its
            channels, and without `resnet_max_pool` patches are 8 pixels wide instead of 16.
        freeze_batch_norm: the stem's batch norm always uses its running statistics. The official code lets
            them drift although no parameter of the stem is trained.

    Example:
        >>> OfaConfig.of_size("tiny", dropout=0.1).d_model
        256
    """

    model_type = "ofa"
    keys_to_ignore_at_inference = ("past_key_values",)
    attribute_map = {  # noqa: RUF012  (transformers reads and extends the mapping)
        "num_attention_heads": "encoder_attention_heads",
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
    }

    vocab_size: int = 59457
    d_model: int = 768
    encoder_layers: int = 6
    encoder_ffn_dim: int = 3072
    encoder_attention_heads: int = 12
    decoder_layers: int = 6
    decoder_ffn_dim: int = 3072
    decoder_attention_heads: int = 12
    max_position_embeddings: int = 1024
    token_bucket_size: int = 256
    image_bucket_size: int = 42
    code_image_size: int = 128
    attn_scale_factor: float | int = 2.0
    activation_function: str = "gelu"
    dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0
    encoder_drop_path_rate: float | int = 0.0
    decoder_drop_path_rate: float | int = 0.0
    resnet_drop_path_rate: float | int = 0.0
    encoder_normalize_before: bool = True
    decoder_normalize_before: bool = True
    scale_attn: bool = True
    scale_fc: bool = True
    scale_heads: bool = True
    scale_resids: bool = False
    layernorm_embedding: bool = True
    patch_layernorm_embedding: bool = True
    code_layernorm_embedding: bool = True
    add_type_embedding: bool = True
    scale_embedding: bool = False
    entangle_position_embedding: bool = False
    decoder_adds_positions: bool = False
    share_all_embeddings: bool = True
    share_decoder_input_output_embed: bool = True
    resnet_type: str = "resnet101"
    resnet_layers: list[int] | tuple[int, ...] | None = None
    resnet_planes: list[int] | tuple[int, ...] = (64, 128, 256)
    resnet_max_pool: bool = True
    freeze_batch_norm: bool = True
    init_std: float = 0.02
    use_cache: bool = True
    pad_token_id: int = 1
    bos_token_id: int = 0
    eos_token_id: int = 2
    decoder_start_token_id: int = 0
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        """Resolve `normformer`; check what would only fail inside the model."""
        normformer = kwargs.pop("normformer", None)
        if normformer is not None:
            self.scale_attn = self.scale_fc = self.scale_heads = bool(normformer)
        faults = []
        for part, heads in (
            ("encoder", self.encoder_attention_heads),
            ("decoder", self.decoder_attention_heads),
        ):
            if self.d_model % heads:
                must = f"d_model must be a multiple of {part}_attention_heads"
                faults.append(ConfigError(must, f"{self.d_model} and {heads}", "Change one of them."))
        if self.resnet_type not in RESNET_BLOCKS:
            fix = f"{did_you_mean(self.resnet_type, RESNET_BLOCKS)}Choose one of them."
            must = f"resnet_type must be one of {', '.join(RESNET_BLOCKS)}"
            faults.append(ConfigError(must, repr(self.resnet_type), fix))
        ConfigError.collect(faults)
        super().__post_init__(**kwargs)

    @classmethod
    def of_size(cls, size: Literal["tiny", "medium", "base", "large", "huge"], **changes: Any) -> Self:
        """The configuration of an official size, with `changes`.

        Raises:
            ConfigError: there is no such size.
        """
        if size not in SIZES:
            fix = f"{did_you_mean(size, SIZES)}Choose one of them."
            raise ConfigError(f"a size of OFA is one of {', '.join(SIZES)}", repr(size), fix)
        return cls(**{**SIZES[size], **changes})

    @property
    def blocks(self) -> tuple[int, ...]:
        """Blocks in each of the stem's three stages."""
        return tuple(self.resnet_layers or RESNET_BLOCKS[self.resnet_type])

    @property
    def patch_size(self) -> int:
        """Pixels of a patch's side."""
        return 16 if self.resnet_max_pool else 8

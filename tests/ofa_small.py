"""A small OFA with every parameter random, so that nothing hides behind zeros and ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor

from pituning.models.ofa import (
    OfaConfig,
    OfaForConditionalGeneration,
    OfaImageProcessor,
    OfaProcessor,
    OfaTokenizer,
)

SIZES: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "token_bucket_size": 8,
    "image_bucket_size": 6,
    "code_image_size": 32,
    "resnet_layers": (2, 1, 1),
}


def config(**changes: Any) -> OfaConfig:
    return OfaConfig(**{"vocab_size": 61, **SIZES, **changes})


def model(settings: OfaConfig | None = None, *, seed: int = 0, **options: Any) -> OfaForConditionalGeneration:
    """Random weights, biases, norms and running statistics; eval mode."""
    found = OfaForConditionalGeneration._from_config(settings or config(), **options)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in sorted(found.state_dict().items()):
        if not tensor.is_floating_point() or name.endswith("version"):
            continue
        scale = 1.0 if "embed" in name and tensor.dim() == 2 else 0.3
        noise = torch.randn(tensor.shape, generator=generator) * scale
        if name.endswith("running_var"):
            noise = 0.5 + noise.abs()
        elif tensor.dim() == 4:
            noise = noise / tensor[0].numel() ** 0.5 * 4
        elif tensor.dim() == 2 and "embed" not in name:
            noise = noise / tensor.shape[1] ** 0.5 * 4
        tensor.copy_(
            noise + (1.0 if tensor.dim() == 1 and name.endswith(("norm.weight", "_ln.weight")) else 0.0)
        )
    return found.eval()


def batch(*, seed: int = 0, vocabulary: int = 61, pictures: bool = True) -> dict[str, Tensor]:
    """Three samples, ragged; the third is without its picture. 64 x 64 px, 4 x 4 patches."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(4, vocabulary, (3, 14), generator=generator)
    previous = torch.randint(4, vocabulary, (3, 6), generator=generator)
    source[:, 0] = previous[:, 0] = 0
    source[1, 9:] = source[2, 12:] = previous[1, 4:] = 1
    found = {"input_ids": source, "decoder_input_ids": previous}
    if pictures:
        found["patch_images"] = torch.randn(3, 3, 64, 64, generator=generator)
        found["patch_masks"] = torch.tensor([True, True, False])
    return found


def tokenizer(bins: int = 1000) -> OfaTokenizer:
    """Bytes for pieces."""
    return OfaTokenizer.of_pieces(sorted(ByteLevel.alphabet()), [], codes=0, bins=bins)


def save(folder: Path, *, seed: int = 0, size: int = 32, **changes: Any) -> Path:
    """A folder that `load_backbone` reads."""
    reader = tokenizer()
    torch.manual_seed(seed)
    tiny = {"encoder_layers": 1, "decoder_layers": 1, "resnet_layers": (1, 1, 1), "init_std": 0.1}
    OfaForConditionalGeneration(config(vocab_size=len(reader), **tiny, **changes)).save_pretrained(folder)
    OfaProcessor(OfaImageProcessor(size=size), reader).save_pretrained(folder)
    return folder

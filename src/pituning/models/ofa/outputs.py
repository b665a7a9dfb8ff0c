"""What the encoder hands to the decoder."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class OfaEncoderOutput(ModelOutput):  # type: ignore[misc]
    """States of patches and tokens, in this order. Letters: b batch, s patches and tokens, d width.

    Args:
        last_hidden_state: [b, s, d].
        hidden_states: the embeddings and the states after each layer, before the final LayerNorm.
        attentions: weights of each layer, [b, h, s, s]; only the "eager" implementation has them.
        attention_mask: True where something is, bool [b, s].
        position_embeddings: what the decoder's cross-attention bias is computed from, [b, s, d].
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor | None, ...] | None = None
    attention_mask: Tensor | None = None
    position_embeddings: Tensor | None = None

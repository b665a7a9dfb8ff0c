"""What a model takes and gives, as far as the choice of a PEFT configuration depends on it."""

from __future__ import annotations

import enum
import inspect
from typing import Any

from torch import nn


class Kind(enum.Enum):
    """The kinds of model that PEFT treats differently."""

    SEQ2SEQ = "encoder-decoder"
    CAUSAL = "causal language model"
    VISION_LANGUAGE = "vision-language model"
    TEXT_CLASSIFIER = "text classifier"
    TEXT_ENCODER = "text encoder"
    OTHER = "other model"


def kind_of(model: nn.Module) -> Kind:
    """The kind of a transformers model, by its configuration and class; of any other module, `Kind.OTHER`."""
    config = getattr(model, "config", None)
    can_generate = bool(getattr(model, "can_generate", bool)())
    if getattr(config, "is_encoder_decoder", False):
        return Kind.SEQ2SEQ if can_generate else Kind.OTHER
    if hasattr(config, "vision_config"):
        return Kind.VISION_LANGUAGE if can_generate else Kind.OTHER
    if can_generate:
        return Kind.CAUSAL
    if getattr(model, "main_input_name", None) != "input_ids":
        return Kind.OTHER
    return Kind.TEXT_CLASSIFIER if "ForSequenceClassification" in type(model).__name__ else Kind.TEXT_ENCODER


def takes_soft_prompt(model: nn.Module) -> bool:
    """Whether PEFT can replace `input_ids` by `inputs_embeds` with a learned prompt in front.

    A vision-language model must then find its image positions in the embeddings alone; Idefics3 and SmolVLM
    do, Qwen-VL computes its rotary positions from `input_ids`. A decoder that classifies finds the last
    token of a padded text there; its head is called `score`, but in two.
    """
    if kind_of(model) is Kind.OTHER or "inputs_embeds" not in inspect.signature(model.forward).parameters:
        return False
    config: Any = model.config
    decoder = hasattr(model, "score") or config.model_type in ("modernbert-decoder", "ctrl")
    if kind_of(model) is Kind.TEXT_CLASSIFIER and decoder:
        return False
    return not hasattr(config, "vision_config") or config.model_type in ("idefics3", "smolvlm")

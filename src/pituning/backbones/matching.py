"""Dual encoders: an input's embedding against the candidate texts' embeddings (sentence encoders, CLIP)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from pituning.backbones.base import (
    Backbone,
    Batch,
    candidate_indices,
    require_candidates,
    require_text,
)
from pituning.backbones.texts import encode, longest_input, require_words, text_or_pair
from pituning.errors import BackboneError, ConfigError
from pituning.task import Example, Task

Pooling = Literal["mean", "cls"]


@final
class Matching(Backbone):
    """p(candidate | input) = softmax over candidates of scale · cos(embedding(input), embedding(candidate)).

    Args:
        model: a text encoder, or a model with `get_text_features` and `get_image_features`.
        tokenizer: for the inputs and the candidate texts.
        image_processor: for pictures; needed where the tasks have images.
        pooling: how a text encoder's states become one vector.
        scale: inverse temperature of the softmax; a model's own `logit_scale` takes precedence. 20 is the
            value sentence encoders of this kind are trained with.
    """

    family = "matching"
    made_of = "an AutoModel, which has no language model's head"

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        name: str,
        image_processor: Any = None,
        pooling: Pooling = "mean",
        scale: float = 20.0,
        max_length: int = 256,
    ) -> None:
        ConfigError.check_choice(Pooling, pooling=pooling)
        ConfigError.check_kinds((Real, scale))
        super().__init__(model, name=name)
        require_words(model, tokenizer, name)
        self.tokenizer, self.image_processor = tokenizer, image_processor
        self.pooling, self.scale = pooling, scale
        self.max_length = longest_input(model, tokenizer, max_length)
        self.reads_padding = str(getattr(model.config, "model_type", "")).startswith("siglip")

    @staticmethod
    def takes(model: nn.Module) -> bool:
        """See `Backbone.takes`."""
        if re.search("For.*Classification", type(model).__name__):
            return False
        return not isinstance(model, PreTrainedModel) or model.get_output_embeddings() is None

    def check(self, task: Task) -> None:
        """Candidates are needed; one modality at a time."""
        require_candidates(task, self.family)
        if self.image_processor is None:
            require_text(task, self.family)
        elif task.modality == "image+text":
            raise BackboneError(
                "a matching backbone embeds a picture or a text",
                f"task {task.name!r} has both",
                "Use a causal vision-language backbone.",
            )

    def collate(self, examples: Sequence[Example], task: Task, *, independent: bool = False) -> Batch:
        """Inputs, candidates and gold indices.

        The candidates' tensors are [candidates, tokens]; with `independent`, [batch, candidates, tokens].
        """
        gold = candidate_indices(examples, task)
        return {**self._inputs(examples, task, independent=independent), **self.on_device({"gold": gold})}

    def _inputs(self, examples: Sequence[Example], task: Task, *, independent: bool = False) -> Batch:
        """All of a batch but the answers, which new examples do not have."""
        names = [(task.candidate_texts[name], None) for name in task.candidates]
        candidates = self._tokens(names)
        if independent:
            candidates = {key: rows.expand(len(examples), *rows.shape) for key, rows in candidates.items()}
        batch = {f"candidate_{name}": tensor for name, tensor in candidates.items()}
        if task.modality == "image":
            images = [example.open_image() for example in examples]
            batch["pixel_values"] = self.image_processor(images=images, return_tensors="pt")["pixel_values"]
        else:
            batch |= self._tokens(
                [text_or_pair(example, task, self.tokenizer, self.max_length) for example in examples]
            )
        return self.on_device(batch)

    def _tokens(self, texts: Sequence[tuple[str, str | None]]) -> Batch:
        """Ids and mask; sentence encoders are trained without token types.

        SigLIP's embedding is the state at the last of all positions, and its padding is read like words.
        """
        if self.reads_padding:
            ids = encode(self.tokenizer, texts, self.max_length, "max_length")["input_ids"]
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        encoded = encode(self.tokenizer, texts, self.max_length)
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def nll(self, model: nn.Module, batch: Batch) -> Float[Tensor, " batch"]:
        """Cross-entropy over the candidates."""
        return nn.functional.cross_entropy(self._logits(model, batch), batch["gold"], reduction="none")

    def log_likelihoods(
        self, model: nn.Module, examples: Sequence[Example], task: Task
    ) -> Float[Tensor, "batch candidates"]:
        """The candidates are embedded once for the whole batch."""
        return self._logits(model, self._inputs(examples, task)).log_softmax(dim=1)

    def _logits(self, model: nn.Module, batch: Batch) -> Float[Tensor, "batch candidates"]:
        if "pixel_values" in batch:
            inputs = self._embed_images(model, batch["pixel_values"])
        else:
            inputs = self._embed_texts(model, batch["input_ids"], batch["attention_mask"])
        ids, mask = batch["candidate_input_ids"], batch["candidate_attention_mask"]
        own = getattr(self.model, "logit_scale", None)
        scale = self.scale if own is None else own.exp()
        if ids.dim() == 2:
            return scale * inputs @ self._embed_texts(model, ids, mask).T
        candidates = self._embed_texts(model, ids.flatten(0, 1), mask.flatten(0, 1))
        return scale * torch.einsum("bd,bcd->bc", inputs, candidates.unflatten(0, ids.shape[:2]))

    def _embed_texts(self, model: nn.Module, ids: Tensor, mask: Tensor) -> Float[Tensor, "rows dim"]:
        own: Any = model
        if hasattr(self.model, "get_text_features"):
            return unit(own.get_text_features(input_ids=ids, attention_mask=mask))
        # Virtual tokens that PEFT prepends are not pooled.
        hidden = own(input_ids=ids, attention_mask=mask).last_hidden_state[:, -ids.shape[1] :]
        if self.pooling == "cls":
            return unit(hidden[:, 0])
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return unit((hidden * weights).sum(dim=1) / weights.sum(dim=1))

    def _embed_images(self, model: nn.Module, pixels: Tensor) -> Float[Tensor, "rows dim"]:
        own: Any = model
        return unit(own.get_image_features(pixel_values=pixels))


def unit(features: Any) -> Float[Tensor, "rows dim"]:
    """Rows of length one."""
    tensor: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return nn.functional.normalize(tensor.float(), dim=-1)

"""Decoder-only models: language models, and vision-language models that read pictures into their prompt."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import cache_utils

from pituning.backbones.base import (
    Backbone,
    Batch,
    answer_nll,
    few_at_once,
    is_prompt_learning,
    pad,
    require_text,
    require_writer,
    search,
    writes,
)
from pituning.backbones.texts import longest_input, require_words, tell_if_cut
from pituning.task import Example, Task

# What state-space layers remember of a text cannot be repeated for each of its candidates.
STATES = getattr(cache_utils, "LinearAttentionCacheLayerMixin", ())

# Model inputs laid out token by token, beside the ids; they are 0 on answers and padding.
TOKEN_INPUTS = ("token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Token ids of each prompt without padding, and the model's other inputs."""

    ids: list[list[int]]
    per_token: dict[str, list[list[int]]] = field(default_factory=dict)
    others: Batch = field(default_factory=dict)

    def inputs(self, width: int, *, left: bool = False) -> Batch:
        """The other inputs, those by token padded to `width` on the side where the ids are padded."""
        laid = dict(self.others)
        for name, rows in self.per_token.items():
            values, _ = pad(rows, 0, left=left)
            missing = width - values.shape[1]
            laid[name] = nn.functional.pad(values, (missing, 0) if left else (0, missing))
        return laid


@final
class Causal(Backbone):
    """p(answer | prompt) of a decoder; the answer ends with the end-of-sequence token.

    Prompts go through the chat template of the processor or of its tokenizer, where there is one.

    Args:
        model: an `AutoModelForCausalLM` or `AutoModelForImageTextToText`.
        processor: its tokenizer, or the processor that holds the tokenizer and reads images.
        max_length: tokens of a prompt; of a longer one, or where the model has no positions for it and the
            answer, the beginning is left out. Not where it holds a picture.
    """

    family = "causal"
    made_of = "an AutoModelForCausalLM or AutoModelForImageTextToText"

    def __init__(self, model: nn.Module, processor: Any, *, name: str, max_length: int = 1024) -> None:
        super().__init__(model, name=name)
        self.processor = processor
        self.reads_images = hasattr(processor, "tokenizer")
        self.tokenizer = copy.copy(processor.tokenizer if self.reads_images else processor)
        require_words(model, self.tokenizer, name)
        templates = (one for one in (processor, self.tokenizer) if getattr(one, "chat_template", None))
        self.template: Any = next(templates, None)
        self.tokenizer.truncation_side = "left"  # the question, and a chat's turn, are at the end
        self.skips_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.max_length, self.positions = max_length, longest_input(model, self.tokenizer, sys.maxsize)
        pad_id = self.tokenizer.pad_token_id
        self.pad_id: int = self.tokenizer.eos_token_id if pad_id is None else pad_id

    @staticmethod
    def takes(model: nn.Module) -> bool:
        """It writes, without an encoder."""
        return writes(model, encoder=False)

    def check(self, task: Task) -> None:
        """Pictures need a processor that reads them."""
        require_writer(self.model, task)
        if not self.reads_images:
            require_text(task, self.family)

    def collate(self, examples: Sequence[Example], task: Task, *, independent: bool = False) -> Batch:
        """Prompt and answer in one row, padded on the right; `label_mask` marks the answer's tokens."""
        return self._rows(examples, [task.answer(example) for example in examples], task)

    def nll(self, model: nn.Module, batch: Batch) -> Float[Tensor, " batch"]:
        """Summed over the answer's tokens, whose logits alone are computed where the model can."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "label_mask"}
        labels, mask = batch["input_ids"][:, 1:], batch["label_mask"][:, 1:]
        answers = mask.any(dim=0).nonzero()[:, 0]
        before = answers - mask.shape[1] - 1  # from the end: PEFT's virtual tokens stand before the first
        logits = model(**inputs, use_cache=False, **self._last(-int(before[0]))).logits[:, before]
        return answer_nll(logits, labels[:, answers], mask[:, answers])

    def _last(self, logits: int) -> dict[str, int]:
        """What makes the model compute its last logits alone, where it can."""
        return {"logits_to_keep": logits} if self.skips_logits else {}

    def log_likelihoods(
        self, model: nn.Module, examples: Sequence[Example], task: Task
    ) -> Float[Tensor, "batch candidates"]:
        """The prompt is read once an example; its cache is shared by the candidates.

        Where the cache cannot be shared (PEFT's virtual tokens, multimodal rotary positions), the batch holds
        one row for each example and candidate.
        """
        chunks = few_at_once(examples, task)
        return torch.cat([self._log_likelihoods(model, chunk, task) for chunk in chunks])

    def _log_likelihoods(
        self, model: nn.Module, examples: Sequence[Example], task: Task
    ) -> Float[Tensor, "batch candidates"]:
        if is_prompt_learning(model) or hasattr(getattr(self.model, "model", None), "rope_deltas"):
            return self._pair_by_pair(model, examples, task)
        texts = [self._answer(task.candidate_texts[name]) for name in task.candidates]
        prompts = self._prompts(examples, task, room=max(map(len, texts)))
        # The last token is read together with the answers: of a prompt of one, nothing is left to cache.
        if max(map(len, prompts.ids)) < 2:
            return self._pair_by_pair(model, examples, task)
        ids, mask = (tensor.to(self.device) for tensor in pad(prompts.ids, self.pad_id, left=True))
        others = self.on_device(prompts.inputs(ids.shape[1], left=True))
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        prefill = model(  # of which the cache alone is used
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=positions[:, :-1],
            use_cache=True,
            **self._last(1),
            **{name: rows[:, :-1] if name in TOKEN_INPUTS else rows for name, rows in others.items()},
        )
        many = len(task.candidates)
        cache = getattr(prefill, "past_key_values", None)
        if cache is None or any(isinstance(layer, STATES) for layer in getattr(cache, "layers", ())):
            return self._pair_by_pair(model, examples, task)
        cache.batch_repeat_interleave(many)
        answers, answer_mask = pad(texts, 0)
        labels = answers.repeat(len(examples), 1).to(ids.device)
        label_mask = answer_mask.repeat(len(examples), 1).to(ids.device)
        last = ids[:, -1:].repeat_interleave(many, dim=0)
        steps = torch.arange(labels.shape[1], device=ids.device)
        logits = model(
            input_ids=torch.cat([last, labels[:, :-1]], dim=1),
            attention_mask=torch.cat([mask.repeat_interleave(many, dim=0), label_mask[:, :-1]], dim=1),
            position_ids=positions[:, -1:].repeat_interleave(many, dim=0) + steps,
            past_key_values=cache,
            use_cache=True,
        ).logits
        return -answer_nll(logits, labels, label_mask).view(len(examples), many)

    def generate(self, model: nn.Module, examples: Sequence[Example], task: Task) -> list[str]:
        """As the task's `decoding` says, the end-of-sequence token counted.

        Behind PEFT's virtual tokens one example at a time: PEFT ignores the positions that padding needs.
        """
        if is_prompt_learning(model) and len(examples) > 1:
            return [answer for example in examples for answer in self.generate(model, [example], task)]
        prompts = self._prompts(examples, task, room=task.decoding.max_new_tokens)
        ids, mask = pad(prompts.ids, self.pad_id, left=True)
        batch = {"input_ids": ids, "attention_mask": mask, **prompts.inputs(ids.shape[1], left=True)}
        generator: Any = model
        tokens = generator.generate(
            **self.on_device(batch), **search(task.decoding), pad_token_id=self.pad_id
        )
        texts: list[str] = self.tokenizer.batch_decode(tokens[:, ids.shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _pair_by_pair(
        self, model: nn.Module, examples: Sequence[Example], task: Task
    ) -> Float[Tensor, "batch candidates"]:
        """`log_likelihoods` from one row for each example and candidate."""
        pairs = [example for example in examples for _ in task.candidates]
        answers = [task.candidate_texts[name] for name in task.candidates] * len(examples)
        return -self.nll(model, self._rows(pairs, answers, task)).view(len(examples), -1)

    def _rows(self, examples: Sequence[Example], answers: Sequence[str], task: Task) -> Batch:
        """Each prompt followed by its answer."""
        written = [self._answer(text) for text in answers]
        prompts = self._prompts(examples, task, room=max(map(len, written)))
        pairs = list(zip(prompts.ids, written, strict=True))
        ids, mask = pad([prompt + answer for prompt, answer in pairs], self.pad_id)
        label_mask, _ = pad([[0] * len(prompt) + [1] * len(answer) for prompt, answer in pairs], 0)
        batch = {"input_ids": ids, "attention_mask": mask, "label_mask": label_mask}
        return self.on_device(batch | prompts.inputs(ids.shape[1]))

    def _prompts(self, examples: Sequence[Example], task: Task, *, room: int) -> Prompts:
        """What is read before answers of at most `room` tokens."""
        texts = [self._prompt_text(task.text(example), task) for example in examples]
        if not self.reads_images or task.modality == "text":
            longest = max(min(self.max_length, self.positions - room), 1)
            special = self.template is None
            encoded = self.tokenizer(texts, truncation=True, max_length=longest, add_special_tokens=special)
            whole = partial(self.tokenizer, texts, add_special_tokens=special, verbose=False)
            tell_if_cut(encoded["input_ids"], longest, whole)
            end = self.tokenizer.eos_token_id
            return Prompts(ids=[row[:-1] if row and row[-1] == end else row for row in encoded["input_ids"]])
        images = [[example.open_image()] for example in examples]
        begin = self.tokenizer.bos_token
        once = {"add_special_tokens": False} if begin and texts[0].startswith(begin) else {}
        inputs = dict(self.processor(text=texts, images=images, padding=True, return_tensors="pt", **once))
        ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask").bool()
        per_token = {name: inputs.pop(name) for name in TOKEN_INPUTS if name in inputs}

        def unpadded(rows: Tensor) -> list[list[int]]:
            return [row[keep].tolist() for row, keep in zip(rows, mask, strict=True)]

        return Prompts(
            ids=unpadded(ids),
            per_token={name: unpadded(rows) for name, rows in per_token.items()},
            others=inputs,
        )

    def _prompt_text(self, text: str, task: Task) -> str:
        """The prompt as the model was taught to read it."""
        with_image = self.reads_images and task.modality != "text"
        marker = f"{self.processor.image_token}" if with_image else ""
        if self.template is None:
            return f"{marker}{text}\n"
        parts = ([{"type": "image"}] if with_image else []) + [{"type": "text", "text": text}]
        # Templates of vision-language models may skip a plain string, those of language models write a list.
        rendered = self._rendered(parts if self.reads_images else text)
        return self._rendered(f"{marker}{text}") if str(parts) in rendered else rendered

    def _rendered(self, content: Any) -> str:
        message = [{"role": "user", "content": content}]
        rendered: str = self.template.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        return rendered

    def _answer(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        end: int = self.tokenizer.eos_token_id
        return [*ids, end]

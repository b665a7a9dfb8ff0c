"""Encoder-decoder models: T5 and its relatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

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
from pituning.backbones.texts import encode, fitted, longest_input, require_words
from pituning.task import Example, Task


@final
class Seq2Seq(Backbone):
    """p(answer | text) of an encoder-decoder; the answer ends with the end-of-sequence token."""

    family = "seq2seq"
    made_of = "an AutoModelForSeq2SeqLM"

    def __init__(self, model: nn.Module, tokenizer: Any, *, name: str, max_length: int = 512) -> None:
        super().__init__(model, name=name)
        require_words(model, tokenizer, name, needs=["get_encoder"])
        self.tokenizer = tokenizer
        self.max_length = longest_input(model, tokenizer, max_length)

    @staticmethod
    def takes(model: nn.Module) -> bool:
        """It writes what follows from an encoder's states."""
        return writes(model, encoder=True)

    def check(self, task: Task) -> None:
        """Text in, text out; candidates are optional."""
        require_text(task, self.family)
        require_writer(self.model, task)

    def collate(self, examples: Sequence[Example], task: Task, *, independent: bool = False) -> Batch:
        """Encoder ids and mask, answer ids and mask."""
        inputs = self._tokens(self._texts(examples, task))
        answers = self._ended([task.answer(example) for example in examples])
        return self.on_device(
            {
                "input_ids": inputs["input_ids"],
                "attention_mask": inputs["attention_mask"],
                "labels": answers["input_ids"],
                "label_mask": answers["attention_mask"],
            }
        )

    def nll(self, model: nn.Module, batch: Batch) -> Float[Tensor, " batch"]:
        """Summed over the answer's tokens."""
        output = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            decoder_input_ids=self._shift(batch["labels"]),
            use_cache=False,
        )
        return answer_nll(output.logits, batch["labels"], batch["label_mask"])

    def log_likelihoods(
        self, model: nn.Module, examples: Sequence[Example], task: Task
    ) -> Float[Tensor, "batch candidates"]:
        """The encoder runs once an example; its states are shared by the candidates' decoders."""
        chunks = few_at_once(examples, task)
        return torch.cat([self._log_likelihoods(model, chunk, task) for chunk in chunks])

    def _log_likelihoods(
        self, model: nn.Module, examples: Sequence[Example], task: Task
    ) -> Float[Tensor, "batch candidates"]:
        batch = self.on_device(dict(self._tokens(self._texts(examples, task))))
        candidates = self.on_device(self._ended([task.candidate_texts[name] for name in task.candidates]))
        many = len(task.candidates)
        inputs: dict[str, Any] = {"attention_mask": batch["attention_mask"].repeat_interleave(many, dim=0)}
        if is_prompt_learning(model):  # PEFT prepends the prompt in its own forward, before the encoder
            inputs["input_ids"] = batch["input_ids"].repeat_interleave(many, dim=0)
        else:
            own: Any = model
            base = own.get_base_model() if hasattr(model, "get_base_model") else own
            states = base.get_encoder()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            states.last_hidden_state = states.last_hidden_state.repeat_interleave(many, dim=0)
            inputs["encoder_outputs"] = states
        labels = candidates["input_ids"].repeat(len(examples), 1)
        mask = candidates["attention_mask"].repeat(len(examples), 1)
        logits = model(decoder_input_ids=self._shift(labels), **inputs).logits
        return -answer_nll(logits, labels, mask).view(len(examples), many)

    def generate(self, model: nn.Module, examples: Sequence[Example], task: Task) -> list[str]:
        """As the task's `decoding` says, the end-of-sequence token counted."""
        batch = self.on_device(dict(self._tokens(self._texts(examples, task))))
        generator: Any = model
        tokens = generator.generate(**batch, **search(task.decoding))
        texts: list[str] = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _texts(self, examples: Sequence[Example], task: Task) -> list[str]:
        return [fitted(example, task, self.tokenizer, self.max_length) for example in examples]

    def _tokens(self, texts: Sequence[str]) -> Batch:
        encoded = encode(self.tokenizer, [(text, None) for text in texts], self.max_length)
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def _ended(self, texts: Sequence[str]) -> Batch:
        """Tokens of answers with the end-of-sequence token, which not every tokenizer adds."""
        tokens = self._tokens(texts)
        pairs = zip(tokens["input_ids"], tokens["attention_mask"].bool(), strict=True)
        rows = [ids[there].tolist() for ids, there in pairs]
        end = self.tokenizer.eos_token_id
        if end is None or all(end in row for row in rows):
            return tokens
        rows = [row if end in row else [*row[: self.max_length - 1], end] for row in rows]
        ids, mask = pad(rows, self.tokenizer.pad_token_id)
        return {"input_ids": ids, "attention_mask": mask}

    def _shift(self, labels: Tensor) -> Tensor:
        config: Any = self.model.config
        start = torch.full_like(labels[:, :1], config.decoder_start_token_id)
        return torch.cat([start, labels[:, :-1]], dim=1)

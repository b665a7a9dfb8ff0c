"""What every family of foundation models must answer: how likely is this answer, and what is yours?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from pituning.decoding import Decoding
from pituning.errors import BackboneError, ConfigError, TaskError
from pituning.foundation import fingerprint_of, require_bare, shared_copy
from pituning.memory import told_if_full
from pituning.task import Example, Task

Batch = dict[str, Tensor]

PICTURES = ("pixel_values", "patch_images")

ROWS = 256
"""Rows at a time while candidates are scored, one for each example and candidate."""


class Backbone(ABC):
    """A frozen model and its processor.

    `nll` is the one likelihood of the library: training, Fisher information and scoring all use it.

    Attributes:
        model: the frozen model, in eval mode; never trained, never changed.
        name: where it came from (a folder, a Hub id or a short name); for people, not for comparison.
        settings: rates of dropout that were changed when it was loaded.

    Raises:
        BackboneError: if PEFT has put an adapter on the model, or it is of another family.
    """

    family: ClassVar[str]
    made_of: ClassVar[str] = "a model of transformers"
    smooths_labels: ClassVar[bool] = False

    def __init__(self, model: nn.Module, *, name: str) -> None:
        ConfigError.check_kinds((nn.Module, model))
        require_bare(model)
        if hasattr(model, "_orig_mod"):  # an adapter's tensors would have names that the plain model lacks
            fix = "Give the model that was compiled; the copies that are trained run as it does."
            raise BackboneError("a backbone's model must be a plain one", "what torch.compile returned", fix)
        if not self.takes(model):
            must = f"a {self.family} backbone is made of {self.made_of}"
            fix = "Load the model with that class, or wrap it in another family's."
            raise BackboneError(must, type(model).__name__, fix)
        self.model = model.requires_grad_(False).eval()
        self.name = name
        self.settings: Mapping[str, float] = {}

    @staticmethod
    def takes(model: nn.Module) -> bool:
        """Whether the family can use a model of this kind."""
        return True

    @abstractmethod
    def check(self, task: Task) -> None:
        """Raise BackboneError where this model cannot do `task`."""

    @abstractmethod
    def collate(self, examples: Sequence[Example], task: Task, *, independent: bool = False) -> Batch:
        """Tensors of a batch, on the model's device.

        With `independent`, every row of every tensor belongs to one example, in the examples' order (a whole
        number of rows an example), so that gradients can be taken example by example.
        """

    @abstractmethod
    def nll(self, model: nn.Module, batch: Batch) -> Float[Tensor, " batch"]:
        """Negative log-likelihood of each example's answer, in nats, with the adapted `model`."""

    def loss(self, model: nn.Module, batch: Batch, label_smoothing: float) -> Float[Tensor, " batch"]:
        """What training minimises: `nll`, or its label-smoothed form where the family has one."""
        return self.nll(model, batch)

    def check_smoothing(self, label_smoothing: float) -> None:
        """Raise BackboneError where labels are to be smoothed, and the family cannot."""
        if label_smoothing and not self.smooths_labels:
            raise BackboneError(
                "label smoothing needs an OFA backbone",
                f"{label_smoothing} for the {self.family} backbone {self.name!r}",
                "Leave label_smoothing out.",
            )

    @abstractmethod
    def log_likelihoods(
        self, model: nn.Module, examples: Sequence[Example], task: Task
    ) -> Float[Tensor, "batch candidates"]:
        """Log-likelihood of every candidate for each example, from one batched pass."""

    def generate(self, model: nn.Module, examples: Sequence[Example], task: Task) -> list[str]:
        """Free-form answers, written as the task's `decoding` says; only generative families have them."""
        raise BackboneError(
            f"a {self.family} backbone chooses among candidate answers",
            f"task {task.name!r} has none",
            "Use a seq2seq or causal backbone, or give the task `labels`.",
        )

    def head_modules(self, model: nn.Module) -> tuple[str, ...]:
        """Names of the modules that belong to the task (a classification head); they are never mixed."""
        return ()

    def answers(self, labels: Sequence[str], task: Task) -> bool:
        """Whether what was trained with these labels, or their texts, answers the task.

        Under a head, they have an order.
        """
        texts = [task.candidate_texts[name] for name in task.candidates]
        order = list if self.head_modules(self.model) else sorted
        return order(labels) in (order(task.candidates), order(texts))

    def fresh_module(self, labels: Sequence[str]) -> nn.Module:
        """A module of its own that shares the frozen weights, with a new head for `labels` if it has one."""
        return shared_copy(self.model)

    def predict(
        self, model: nn.Module, examples: Sequence[Example], task: Task, *, batch_size: int = 32
    ) -> list[str]:
        """One answer an example: the likeliest candidate's name, or the generated text."""
        ConfigError.check_kinds((nn.Module, model), (Sequence, examples), (Task, task))
        ConfigError.check_kinds(*((Example, example) for example in examples))
        task.require_inputs(examples)
        answers = [""] * len(examples)
        model.eval()

        def answer(rows: list[int]) -> None:
            chunk = [examples[row] for row in rows]
            if task.candidates:
                best = self.log_likelihoods(model, chunk, task).argmax(dim=1).tolist()
                found = [task.candidates[index] for index in best]
            else:
                found = self.generate(model, chunk, task)
            for row, answer in zip(rows, found, strict=True):
                answers[row] = answer

        without_gradients(answer, examples, batch_size)
        return answers

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the frozen weights without the heads, which belong to the task."""
        return fingerprint_of(self.model, without=self.head_modules(self.model))

    @property
    def state(self) -> str:
        """All of it that a result depends on."""
        return f"{self.fingerprint}{self.dtype}{sorted(self.settings.items())}"

    @property
    def device(self) -> torch.device:
        """Where the model's first parameter lies."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's first parameter that is no integer."""
        kinds = (parameter.dtype for parameter in self.model.parameters() if parameter.is_floating_point())
        return next(kinds, torch.float32)

    def on_device(self, batch: Batch) -> Batch:
        """The batch's tensors on the model's device, pictures in its type."""
        return {n: t.to(self.device, self.dtype if n in PICTURES else t.dtype) for n, t in batch.items()}


def batches_by_length(examples: Sequence[Example], batch_size: int) -> Iterator[list[int]]:
    """Row numbers in batches of similar text length, so that little is padded."""
    order = _by_length(examples)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _by_length(examples: Sequence[Example]) -> list[int]:
    lengths = [len(example.text_a or "") + len(example.text_b or "") for example in examples]
    return sorted(range(len(examples)), key=lengths.__getitem__)


def without_gradients(
    compute: Callable[[list[int]], None], examples: Sequence[Example], batch_size: int = 32
) -> None:
    """Call `compute` with row numbers as `batches_by_length` has them, with fewer where memory runs out.

    Raises:
        BackboneError: if it runs out with one.
    """
    order = _by_length(examples)
    start, size = 0, batch_size
    with torch.no_grad():
        while start < len(order):
            rows = order[start : start + size]
            try:
                compute(rows)
                start += size
            except torch.cuda.OutOfMemoryError:
                if len(rows) == 1:
                    fix = "Shorten the texts, or load the backbone with the dtype bfloat16."
                    with told_if_full(BackboneError, "an example", fix):
                        raise
                size = len(rows) // 2


def few_at_once(examples: Sequence[Example], task: Task) -> Iterator[Sequence[Example]]:
    """Chunks of the examples, each with at most `ROWS` rows of candidates, but one example at least."""
    step = max(1, ROWS // len(task.candidates))
    for start in range(0, len(examples), step):
        yield examples[start : start + step]


def pad(rows: Sequence[Sequence[int]], value: int, *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Stack rows of different lengths; returns the values and the mask, both int64 [rows, longest]."""
    longest = max(len(row) for row in rows)
    values = torch.full((len(rows), longest), value, dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for index, row in enumerate(rows):
        where = slice(longest - len(row), longest) if left else slice(0, len(row))
        values[index, where] = torch.tensor(row, dtype=torch.long)
        mask[index, where] = 1
    return values, mask


def answer_nll(
    logits: Float[Tensor, "batch tokens vocabulary"], labels: Tensor, mask: Tensor
) -> Float[Tensor, " batch"]:
    """Summed negative log-likelihood of `labels` where `mask` is 1; `logits[:, t]` predict `labels[:, t]`."""
    there = mask.bool()  # of a long prompt and many words, all logits in float32 would fill the memory
    losses = torch.zeros(mask.shape, device=logits.device)
    losses[there] = nn.functional.cross_entropy(logits[there].float(), labels[there], reduction="none")
    return losses.sum(dim=1)


def is_prompt_learning(model: nn.Module) -> bool:
    """Whether PEFT prepends virtual tokens in its own forward (prompt and prefix tuning)."""
    config = getattr(model, "active_peft_config", None)
    return bool(config is not None and config.is_prompt_learning)


def writes(model: Any, *, encoder: bool) -> bool:
    """Whether a model has a language model's head, with an encoder that reads or without.

    One that is not of transformers (one's own, or a wrapper) is taken at its configuration's word.
    """
    config = getattr(model, "config", None)
    if config is None or bool(getattr(config, "is_encoder_decoder", False)) is not encoder:
        return False
    if not isinstance(model, PreTrainedModel) or model.can_generate():
        return True
    # Those see the word that they are asked for.
    cheats = any(kind in type(model).__name__ for kind in ("MaskedLM", "ForPreTraining"))
    return not cheats and model.get_output_embeddings() is not None


def require_candidates(task: Task, family: str) -> None:
    """Raise where a family that only chooses is given a task to write or draw."""
    if not task.candidates:
        raise BackboneError(
            f"a {family} backbone chooses among candidate answers",
            f"task {task.name!r} ({task.kind}) has none",
            "Use a seq2seq or causal backbone, or give the task `labels`.",
        )


def require_writer(model: nn.Module, task: Task) -> None:
    """Raise where free answers are asked of a model that cannot generate."""
    if not task.candidates and not hasattr(model, "generate"):
        raise BackboneError(
            "a model must have `generate` where answers are free",
            f"{type(model).__name__}, and task {task.name!r} without labels",
            "Hand it on from the model that yours wraps, or give the task `labels`.",
        )


def require_text(task: Task, family: str) -> None:
    """Raise where a text-only backbone is given pictures."""
    if task.modality != "text":
        raise BackboneError(
            f"this {family} backbone reads text only",
            f"task {task.name!r} has modality {task.modality!r}",
            "Use a backbone whose processor reads images.",
        )


def search(decoding: Decoding) -> dict[str, Any]:
    """How `generate` of transformers looks for an answer; `decoder_prompt`, `ends`, `box_range` are OFA's."""
    return {
        "num_beams": decoding.num_beams,
        "max_new_tokens": decoding.max_new_tokens,
        "min_new_tokens": decoding.min_new_tokens,
        "no_repeat_ngram_size": decoding.no_repeat_ngram_size,
        "do_sample": False,
    }


def candidate_indices(examples: Sequence[Example], task: Task) -> Tensor:
    """Index of each example's gold answer among the candidates, int64 [batch].

    Raises:
        TaskError: if there are no examples.
    """
    if not examples:
        raise TaskError("a batch needs at least one example", "an empty batch", "Check the split's size.")
    return torch.tensor([task.answer_index(example) for example in examples])

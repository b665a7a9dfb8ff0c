"""`AutoModelFor…Classification`: a frozen encoder with a head that belongs to the task."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn

from pituning.backbones.base import (
    Backbone,
    Batch,
    candidate_indices,
    require_candidates,
    require_text,
)
from pituning.backbones.texts import encode, longest_input, require_words, text_or_pair
from pituning.errors import BackboneError
from pituning.foundation import shared_copy
from pituning.task import Example, Task


@final
class Classifier(Backbone):
    """p(candidate | input) from a head sized to the task; the head is trained with the adapter, never mixed.

    Args:
        model: an `AutoModelForSequenceClassification` or `AutoModelForImageClassification`.
        processor: its tokenizer, or its image processor.
    """

    family = "classifier"
    made_of = (
        "an AutoModelForSequenceClassification or AutoModelForImageClassification (not a module around one)"
    )

    def __init__(self, model: nn.Module, processor: Any, *, name: str, max_length: int = 256) -> None:
        super().__init__(model, name=name)
        self.modality = "image" if getattr(model, "main_input_name", "") == "pixel_values" else "text"
        self.processor = processor
        if self.modality == "text":
            require_words(model, processor, name)
            _require_padding(model, processor, name)
        self.max_length = longest_input(model, processor, max_length)

    @staticmethod
    def takes(model: nn.Module) -> bool:
        """It has a Linear of one output a label, and parameters beside that head."""
        labels = getattr(getattr(model, "config", None), "num_labels", None)
        if labels is None or not _outputs(model, labels):
            return False
        heads = heads_of(model)
        return any(name.partition(".")[0] not in heads for name, _ in model.named_parameters())

    def check(self, task: Task) -> None:
        """Candidates are needed, in the modality of the encoder."""
        require_candidates(task, self.family)
        if self.modality == "text":
            require_text(task, self.family)
        elif task.modality != "image":
            raise BackboneError(
                "an image classifier reads pictures only",
                f"task {task.name!r} has modality {task.modality!r}",
                "Use a vision-language backbone.",
            )

    def head_modules(self, model: nn.Module) -> tuple[str, ...]:
        """See `heads_of`."""
        return heads_of(model)

    def fresh_module(self, labels: Sequence[str]) -> nn.Module:
        """A shared copy whose head is new, with one output a label (drawn from torch's generator)."""
        model: Any = shared_copy(self.model)
        outputs = model.config.num_labels
        model.config = copy.deepcopy(model.config)
        for name in self.head_modules(model):
            head = copy.deepcopy(getattr(model, name))
            setattr(model, name, _resized(head, outputs, len(labels)))
        model.config.num_labels = model.num_labels = len(labels)
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: index for index, label in enumerate(labels)}
        return model  # type: ignore[no-any-return]

    def collate(self, examples: Sequence[Example], task: Task, *, independent: bool = False) -> Batch:
        """Inputs and gold indices."""
        gold = candidate_indices(examples, task)
        return {**self._inputs(examples, task), **self.on_device({"gold": gold})}

    def _inputs(self, examples: Sequence[Example], task: Task) -> Batch:
        """All of a batch but the answers, which new examples do not have."""
        if self.modality == "image":
            images = [example.open_image() for example in examples]
            pixels = self.processor(images=images, return_tensors="pt")["pixel_values"]
            return self.on_device({"pixel_values": pixels})
        texts = [text_or_pair(example, task, self.processor, self.max_length) for example in examples]
        return self.on_device(encode(self.processor, texts, self.max_length))

    def nll(self, model: nn.Module, batch: Batch) -> Float[Tensor, " batch"]:
        """Cross-entropy of the head's logits."""
        return nn.functional.cross_entropy(self._logits(model, batch), batch["gold"], reduction="none")

    def log_likelihoods(
        self, model: nn.Module, examples: Sequence[Example], task: Task
    ) -> Float[Tensor, "batch candidates"]:
        """Log-softmax of the head's logits."""
        return self._logits(model, self._inputs(examples, task)).log_softmax(dim=1)

    def _logits(self, model: nn.Module, batch: Batch) -> Float[Tensor, "batch candidates"]:
        inputs = {name: tensor for name, tensor in batch.items() if name != "gold"}
        logits: Tensor = model(**inputs).logits
        return logits.float()


def heads_of(model: Any) -> tuple[str, ...]:
    """The children beside the encoder that have parameters.

    Where no child is the encoder as a whole (CLIP and SigLIP as classifiers, HGNetV2), the last with a Linear
    of one output a label.
    """
    children = {name: child for name, child in model.named_children() if [*child.parameters()]}
    if getattr(model, "base_model_prefix", "") in children:
        return tuple(name for name in children if name != model.base_model_prefix)
    return tuple(name for name, child in children.items() if _outputs(child, model.config.num_labels))[-1:]


def _outputs(module: nn.Module, labels: int) -> bool:
    return any(isinstance(one, nn.Linear) and one.out_features == labels for one in module.modules())


def _require_padding(model: Any, tokenizer: Any, name: str) -> None:
    """Let a decoder's end-of-sequence token pad where it has no other, and the model know what pads.

    Raises:
        BackboneError: it has none of both.
    """
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            must = f"{name} must have a token to pad texts with, or one that ends them"
            raise BackboneError(must, "its tokenizer has none", "Set `pad_token`, and save the tokenizer.")
        tokenizer.pad_token = tokenizer.eos_token
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id


def _resized(head: nn.Module, old: int, new: int) -> nn.Module:
    """The head with fresh weights, and `new` outputs in the Linear that had `old` (the last such)."""
    if isinstance(head, nn.Linear):
        return _fresh(head, new if head.out_features == old else head.out_features)
    linears = {name: child for name, child in head.named_modules() if isinstance(child, nn.Linear)}
    last = [name for name, child in linears.items() if child.out_features == old][-1:]
    for name, child in linears.items():
        parent, _, leaf = name.rpartition(".")
        outputs = new if name in last else child.out_features
        setattr(head.get_submodule(parent), leaf, _fresh(child, outputs))
    return head


def _fresh(old: nn.Linear, outputs: int) -> nn.Linear:
    """A new layer in the old one's place, BERT's initialisation: weights from N(0, 0.02), biases zero."""
    linear = nn.Linear(old.in_features, outputs, bias=old.bias is not None)
    nn.init.normal_(linear.weight, std=0.02)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear.to(old.weight.device, old.weight.dtype)

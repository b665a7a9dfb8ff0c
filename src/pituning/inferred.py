"""What a task file leaves out, read off the training examples."""

from __future__ import annotations

from collections.abc import Sequence

from pituning.example import Example

MODALITIES = ("text", "image", "image+text")

FREE_FORM_KINDS = ("vqa", "captioning", "grounding", "text-generation")
"""Kinds whose labels are answers, not classes, unless the task file lists them."""

KINDS = (
    "text-classification",
    "text-pair-classification",
    "image-classification",
    "visual-entailment",
    *FREE_FORM_KINDS,
)


def misfit(kind: str, modality: str, train: Sequence[Example]) -> str:
    """What training examples lack that a kind is about; "" where nothing."""
    if kind.startswith("text-") and modality == "image":
        return "texts"
    if not kind.startswith("text-") and modality == "text":
        return "pictures"
    return "boxes" if kind == "grounding" and not any(example.bbox for example in train) else ""


def infer_labels(train: Sequence[Example], kind: str | None) -> dict[str, str]:
    """Label -> its text (spaces for underscores), sorted; {} for a free-form kind."""
    if kind in FREE_FORM_KINDS:
        return {}
    labels = sorted({example.label for example in train if example.label is not None})
    return {label: text_of(label) for label in labels}


def text_of(label: str) -> str:
    """What a model reads for a label that has no text of its own: spaces for underscores."""
    text = label.replace("_", " ")
    return text if text.strip() else label


def infer_modality(train: Sequence[Example]) -> str:
    """What the examples hold: "text", "image" or "image+text"."""
    if not any(example.image for example in train):
        return "text"
    return "image+text" if any(example.text_a for example in train) else "image"


def infer_kind(train: Sequence[Example], modality: str, has_labels: bool) -> str:
    """The kind of `KINDS` that the inputs and answers fit."""
    if not has_labels:
        if any(example.bbox for example in train):
            return "grounding"
        if modality == "text":
            return "text-generation"
        return "captioning" if any(example.references for example in train) else "vqa"
    if modality == "text":
        paired = any(example.text_b for example in train)
        return "text-pair-classification" if paired else "text-classification"
    return "image-classification" if modality == "image" else "vqa"


def infer_metric(train: Sequence[Example], kind: str, has_labels: bool) -> str:
    """Accuracy for labels, IoU for boxes, CIDEr-D for captions, exact match for other answers."""
    if has_labels:
        return "accuracy"
    if all(example.bbox for example in train):
        return "acc@iou0.5"
    return "cider_d" if kind == "captioning" else "exact_match"

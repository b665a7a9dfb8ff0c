"""One example of pre-training, and batches of them as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pituning.backbones.base import pad
from pituning.decoding import DecoderPrompt
from pituning.mini20.scenes import ATTRIBUTES
from pituning.models.ofa import OfaTokenizer

Picture = NDArray[np.uint8]
Box = tuple[float, float, float, float]
"""Corners as fractions of width and height."""

PATCH = 8
"""Side in pixels of what one patch of the model stands for."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A thing in a picture.

    Attributes:
        box: where it is.
        kinds: which of its values each of `scenes.ATTRIBUTES` has.
        meant: whether the text is about it; None where it is about no single thing.
    """

    box: Box
    kinds: tuple[int, ...]
    meant: bool | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """What the model reads and should say.

    Args:
        text: with its leading space; `{box}` in it stands for the tokens of `box`.
        answer: words, a box, or several of both in a row.
        picture: [side, side, 3].
        box: of a region that the text asks about.
        marks: everything in the picture, where that is known.
        words: a label of each word of the text, -100 for none; see `skills.comparing`.
        decoder_prompt: what the decoder reads before the answer, as in `pituning.decoding`.
    """

    text: str
    answer: str | Box | list[str | Box]
    picture: Picture | None = None
    box: Box | None = None
    marks: Sequence[Mark] = ()
    words: Sequence[int] = ()
    decoder_prompt: DecoderPrompt = "none"


def box_tokens(box: Box, tokenizer: OfaTokenizer) -> list[int]:
    """Four box tokens."""
    steps = tokenizer.bins - 1
    found: list[int] = tokenizer.bin_ids(min(steps, max(0, round(edge * steps))) for edge in box)
    return found


def source_tokens(sample: Sample, tokenizer: OfaTokenizer) -> list[int]:
    """`<s>`, the text with the box in its place, `</s>`."""
    before, _, after = sample.text.partition("{box}")
    tokens: list[int] = tokenizer(before, add_special_tokens=False)["input_ids"]
    if sample.box is not None:
        tokens = tokens + box_tokens(sample.box, tokenizer)
        tokens += tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    return [tokenizer.bos_token_id, *tokens, tokenizer.eos_token_id]


def answer_tokens(sample: Sample, tokenizer: OfaTokenizer) -> list[int]:
    """The answer's tokens and `</s>`."""
    parts = sample.answer if isinstance(sample.answer, list) else [sample.answer]
    tokens: list[int] = []
    for part in parts:
        if isinstance(part, str):
            tokens += tokenizer(" " + part, add_special_tokens=False)["input_ids"]
        else:
            tokens += box_tokens(part, tokenizer)
    return [*tokens, tokenizer.eos_token_id]


def word_labels(sample: Sample, source: Sequence[int], tokenizer: OfaTokenizer) -> list[int]:
    """The label of its word for each token of the source; -100 where there is none."""
    labels = [-100]
    for word, label in zip(sample.text.split(), sample.words, strict=False):
        labels += [label] * len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"])
    return [*labels, *[-100] * (len(source) - len(labels))]


def _prompt(sample: Sample, source: list[int]) -> list[int]:
    """What the decoder reads first."""
    return {"none": source[:1], "src": source, "prev_output": source[:-1]}[sample.decoder_prompt]


def collate(samples: Sequence[Sample], tokenizer: OfaTokenizer, side: int) -> dict[str, Tensor]:
    """The model's inputs and `labels`, -100 where there is none; pictures as the image processor has them.

    Without any picture there are no patches, and the model reads text alone.
    """
    sources = [source_tokens(sample, tokenizer) for sample in samples]
    tokens, mask = pad(sources, tokenizer.pad_token_id)
    prompts = [_prompt(sample, source) for sample, source in zip(samples, sources, strict=True)]
    answers = [answer_tokens(sample, tokenizer) for sample in samples]
    said = list(zip(prompts, answers, strict=True))
    batch = {
        "input_ids": tokens,
        "attention_mask": mask,
        "decoder_input_ids": pad([before + answer[:-1] for before, answer in said], tokenizer.pad_token_id)[
            0
        ],
        "labels": pad([[-100] * (len(before) - 1) + answer for before, answer in said], -100)[0],
    }
    if any(sample.words for sample in samples):
        told = zip(samples, sources, strict=True)
        batch["word_labels"] = pad([word_labels(s, source, tokenizer) for s, source in told], -100)[0]
    shown = torch.tensor([sample.picture is not None for sample in samples])
    if shown.any():
        blank = np.zeros((side, side, 3), dtype=np.uint8)
        pictures = np.stack([blank if sample.picture is None else sample.picture for sample in samples])
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        batch |= {"patch_images": pixels, "patch_masks": shown}
        batch["patch_labels"] = torch.stack([patch_labels(s.marks, side, tokenizer.bins) for s in samples])
    return batch


def patch_labels(marks: Sequence[Mark], side: int, bins: int) -> Tensor:
    """Of each patch: is a thing under its centre, is it meant, its attributes, the bins of its box.

    int64 [patches, 2 + attributes + 4]; -100 where there is nothing to say, as of a picture without marks.
    """
    rows = side // PATCH
    labels = torch.full((rows, rows, 2 + len(ATTRIBUTES) + 4), -100)
    if marks:
        labels[..., 0] = 0
    for mark in marks:
        edges = [min(bins - 1, max(0, round(edge * (bins - 1)))) for edge in mark.box]
        left, top, right, bottom = (round(edge * rows) for edge in mark.box)  # centres are at halves
        meant = -100 if mark.meant is None else int(mark.meant)
        labels[top:bottom, left:right] = torch.tensor([1, meant, *mark.kinds, *edges])
    return labels.flatten(0, 1)

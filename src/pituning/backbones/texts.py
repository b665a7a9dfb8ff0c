"""Texts as a model's tokens: whether the tokenizer is its own, how many are read, and what is cut."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from typing import Any

from torch import Tensor, nn

from pituning.errors import BackboneError
from pituning.spelling import brief
from pituning.task import Example, Task

log = logging.getLogger(__name__)

SPECIAL = 8
"""More tokens than a tokenizer adds to a text; of the others there is at most one a byte."""


def require_words(model: Any, tokenizer: Any, name: str, *, needs: Sequence[str] = ()) -> None:
    """Raise where a tokenizer is not the model's: it knows special tokens alone, or ids that the model lacks.

    transformers makes the first of a folder without a tokenizer's files. And where the model, perhaps a class
    of one's own, lacks what a text is read with, or what else the family `needs`.
    """
    if not hasattr(tokenizer, "get_vocab"):
        fix = "Give it after the model: `AutoTokenizer.from_pretrained(FOLDER)`."
        raise BackboneError(f"{name} must have a tokenizer", brief(tokenizer), fix)
    parts = {"config": model, "get_input_embeddings": getattr(model, "text_model", model)}
    parts |= dict.fromkeys(needs, model)
    if missing := [each for each, part in parts.items() if not hasattr(part, each)]:
        fix = "Let your class hand on those of the model that it wraps."
        raise BackboneError(f"{name} must have {' and '.join(missing)}", type(model).__name__, fix)
    special = {*tokenizer.all_special_ids}
    with suppress(NotImplementedError):  # of Mistral's own
        special |= {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    words = [number for number in tokenizer.get_vocab().values() if number not in special]
    if len(words) < 2:
        raise BackboneError(
            f"{name} must have a tokenizer that knows words",
            "it knows special tokens alone, as where its files are missing",
            "Save it into the model's folder: `tokenizer.save_pretrained(folder)`.",
        )
    rows = None
    with suppress(NotImplementedError):  # of CANINE, which has no table of its characters
        table = getattr(model, "text_model", model).get_input_embeddings()
        rows = getattr(table, "num_embeddings", None)
    highest = max([*words, tokenizer.pad_token_id or 0, tokenizer.eos_token_id or 0])
    if rows is not None and highest >= rows:
        raise BackboneError(
            f"{name} must have an embedding for each token of its tokenizer",
            f"{rows} embeddings, and a token of the id {highest}",
            "Use the model's own tokenizer, or call `model.resize_token_embeddings(len(tokenizer))`.",
        )


def longest_input(model: nn.Module, tokenizer: Any, wanted: int) -> int:
    """`wanted` tokens, or the fewer that the model has positions for or the tokenizer was made for."""
    config: Any = model.config
    text = getattr(config, "text_config", config)
    limits = [getattr(text, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
    return min([wanted, *(int(limit) for limit in limits if limit)])


def fitted(example: Example, task: Task, tokenizer: Any, longest: int) -> str:
    """The text that a model reads; of one of more tokens, the longer part is cut, so that the rest stays."""
    whole = text = task.text(example)
    if task.prompt is None and example.text_b is None:
        return whole  # the tokenizer cuts its end
    while len(text.encode()) + SPECIAL > longest:
        tokens = len(tokenizer(text, verbose=False)["input_ids"])
        if tokens <= longest:
            return text
        parts = {name: part for name in task.texts_read if (part := getattr(example, name))}
        if not parts:
            return whole  # the prompt alone is too long
        _tell_cut()
        name, part = max(parts.items(), key=lambda item: len(item[1]))
        excess = max(1, (tokens - longest) * len(part) // tokens)  # in characters, about
        example = replace(example, **{name: part[: max(len(part) // 2, len(part) - excess)].rstrip()})
        text = task.text(example)
    return text


def text_or_pair(example: Example, task: Task, tokenizer: Any, longest: int) -> tuple[str, str | None]:
    """The rendered prompt; where there is none, the two texts for the tokenizer's own pair encoding."""
    if task.prompt is None and example.text_b is not None:
        return example.text_a or "", example.text_b
    return fitted(example, task, tokenizer, longest), None


def encode(
    tokenizer: Any, texts: Sequence[tuple[str, str | None]], longest: int, padding: bool | str = True
) -> dict[str, Tensor]:
    """What the tokenizer makes of texts or pairs of texts, padded: the ids, the mask and any token types."""
    first, pairs = [text for text, _ in texts], [pair for _, pair in texts]
    second = [pair or "" for pair in pairs] if any(pair is not None for pair in pairs) else None
    cut = {"truncation": True, "max_length": longest}
    encoded = tokenizer(first, second, padding=padding, return_tensors="pt", **cut)
    tell_if_cut(encoded["input_ids"], longest, partial(tokenizer, first, second, verbose=False))
    return dict(encoded)


def tell_if_cut(rows: Iterable[Sized], longest: int, whole: Callable[[], Mapping[str, Any]]) -> None:
    """Say once that texts are cut: that a row is full is a sign, `whole` tells its length without a limit."""
    if _tell_cut.cache_info().currsize or all(len(row) < longest for row in rows):
        return
    if any(len(row) > longest for row in whole()["input_ids"]):
        _tell_cut()


@cache
def _tell_cut() -> None:
    log.warning("texts of more tokens than the model reads are cut")

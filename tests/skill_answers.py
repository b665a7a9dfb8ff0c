"""What a model that was pre-trained here writes, and whether it is right."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch

from pituning.backbones import Backbone
from pituning.metrics import iou
from pituning.mini20.definition import PIXELS
from pituning.models.ofa import OfaTokenizer
from pituning.pretrain.samples import Sample, collate

READ = ("input_ids", "attention_mask", "patch_images", "patch_masks")


def right(backbone: Backbone, samples: Sequence[Sample]) -> float:
    """Share of the answers, written greedily, that are the wanted words, or a box with an IoU of 0.5."""
    tokenizer = backbone.tokenizer
    inputs = {name: value for name, value in collate(samples, tokenizer, PIXELS).items() if name in READ}
    with torch.no_grad():
        written = backbone.model.generate(**inputs, max_new_tokens=24, do_sample=False)[:, 1:].tolist()
    found = [_is_right(sample, tokens, tokenizer) for sample, tokens in zip(samples, written, strict=True)]
    return sum(found) / len(found)


def _is_right(sample: Sample, tokens: list[int], tokenizer: OfaTokenizer) -> bool:
    wanted = sample.answer if isinstance(sample.answer, list) else [sample.answer]
    found = _parts(tokens, tokenizer)
    return len(found) == len(wanted) and all(
        one == other if isinstance(one, str) or isinstance(other, str) else iou(one, other) >= 0.5
        for one, other in zip(found, wanted, strict=True)
    )


def _parts(tokens: list[int], tokenizer: OfaTokenizer) -> list[str | tuple[float, ...]]:
    """Words, and boxes of four edges each."""
    bins = {
        token: place / (tokenizer.bins - 1)
        for place, token in enumerate(tokenizer.bin_ids(range(tokenizer.bins)))
    }
    end = tokens.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in tokens else len(tokens)
    found: list[str | tuple[float, ...]] = []
    for is_box, group in groupby(tokens[:end], bins.__contains__):
        run = [*group]
        found += (
            [tuple(bins[token] for token in run[at : at + 4]) for at in range(0, len(run) - 3, 4)]
            if is_box
            else [tokenizer.decode(run).strip()]
        )
    return found

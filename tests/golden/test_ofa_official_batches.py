"""What the OFA backbone makes of the official files against what the official dataset classes do."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from ofa_small import config
from safetensors.torch import load_file

from pituning.backbones.ofa import Ofa
from pituning.datasets import dataset_named
from pituning.datasets.files import read_rows
from pituning.decoding import Decoding
from pituning.models.ofa import OfaForConditionalGeneration, OfaImageProcessor, OfaProcessor, OfaTokenizer
from pituning.models.ofa.image_processing import IMAGENET_MEAN, IMAGENET_STD
from pituning.task import Task

DATA = Path(__file__).parents[3] / "shared" / "ofa" / "data-parity"
pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="the official code's numbers (../shared/ofa) are not part of the repository"
)
NAMES = {
    "refcoco": "refcoco",
    "snli": "snli-ve",
    "caption": "coco-captions",
    "vqa": "vqav2",
    "image": "food101",
}
PAD = 1


def known() -> dict[str, Any]:
    return json.loads((DATA / "expected.json").read_text()) if DATA.is_dir() else {}


@cache
def backbone(*, imagenet: bool) -> Ofa:
    """The whole vocabulary on a small model; no weight matters here.

    Args:
        imagenet: pixels are centred as for ImageNet, an option of the official code that is off by default.
    """
    tokenizer = OfaTokenizer.from_bpe_folder(DATA.parent / "vocab")
    model = OfaForConditionalGeneration(config(vocab_size=len(tokenizer), image_bucket_size=42))
    centre = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD} if imagenet else {}
    return Ofa(model, OfaProcessor(OfaImageProcessor(**centre), tokenizer), name="official")


def task_of(key: str, case: dict[str, Any]) -> Task:
    dataset = dataset_named(NAMES.get(key.split("_")[0], key.split("_")[0]))
    changes = {
        "source_words": case.get("max_src_length", dataset.source_words),
        "target_words": case.get("max_tgt_length", dataset.target_words),
        "objects": case.get("max_object_length", dataset.objects),
    }
    if case.get("add_caption") is False:
        changes["prompt"] = ' does the image describe " {text_b} "?'
    if case.get("add_object") is False:
        changes["prompt"] = " {text_a}"
    dataset = replace(dataset, **changes)
    split = "train" if case.get("split") == "train" else "validation"
    rows = read_rows(DATA / case["file"], split, dataset, {}).examples
    decoding = Decoding(
        decoder_prompt=case.get("prompt_type") or "none",
        ends=dataset.decoding.ends,
        box_range=case.get("max_image_size"),
    )
    return Task(
        name=key,
        modality=dataset.modality,
        kind=dataset.kind,
        metric=dataset.metric,
        prompt=dataset.prompt,
        candidates=tuple(case.get("candidates", ())),
        train=tuple(example for _, example in rows),
        image_size=case.get("patch_image_size"),
        decoding=decoding,
    )


@pytest.mark.parametrize(
    "key", [key for key, case in known().items() if isinstance(case, dict) and "items" in case]
)
def test_tokens_boxes_masks_and_pixels_are_the_official_ones(key: str) -> None:
    case = known()[key]
    task = task_of(key, case)
    pictures = load_file(DATA / "patch_images.safetensors")
    reader = backbone(imagenet=case.get("imagenet_default_mean_and_std", False))
    for row, (example, item) in enumerate(zip(task.train, case["items"], strict=True)):
        batch = reader.collate([example], task)
        assert batch["input_ids"][0].tolist() == item["source"]
        if task.kind == "captioning" and case.get("split") != "train":
            continue  # the official code joins all references there, and trains on none
        assert batch["decoder_input_ids"][0].tolist() == item["prev_output_tokens"]
        places = batch["logits_at"][0].tolist()
        labels = torch.full_like(batch["decoder_input_ids"][0], PAD)
        labels[places] = batch["labels"][0]
        assert labels.tolist() == item["target"]
        if "constraint_mask_allowed" in item and task.candidates:
            for number, place in enumerate(places):
                found = batch["allowed"][0, number]
                assert sorted(found[found < 59457].tolist()) == item["constraint_mask_allowed"][place]
        pixels = pictures.get(f"{key}.{row}.patch_image")
        if pixels is not None:
            torch.testing.assert_close(batch["patch_images"][0], pixels, atol=1e-6, rtol=0)

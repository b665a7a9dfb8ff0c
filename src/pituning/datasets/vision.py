"""The fourteen data sets with pictures: prompts, labels, columns and decoding."""

from __future__ import annotations

from dataclasses import replace

from pituning.datasets.definition import Column, Dataset
from pituning.decoding import Decoding

IMAGE_SIZE = 480
"""Pixels of a side in the scripts of the paper; OFA's own take 512 for RefCOCO."""

_IMAGE_NAMES = ("image", "img", "image_bytes", "image_path", "file_name")
_LABEL_NAMES = ("label", "labels", "class", "class_name", "category", "fine_label")


def _image(place: int) -> Column:
    return Column(field="image", place=place, title="image", names=_IMAGE_NAMES)


REFCOCO = Dataset(
    name="refcoco",
    modality="image+text",
    kind="grounding",
    metric="acc@iou0.5",
    prompt=' which region does the text " {text_a} " describe?',
    columns=(
        Column(
            field="text_a",
            place=2,
            title="text",
            names=("sentences", "captions", "sentence", "caption", "expression", "text", "answer", "text_a"),
        ),
        Column(field="bbox", place=3, title="region_coord", names=("bbox", "region_coord", "box")),
        _image(4),
    ),
    image_size=IMAGE_SIZE,
    # A box is four tokens. Pixels are divided by 512 even where images are made 480 wide.
    decoding=Decoding(num_beams=5, min_new_tokens=4, max_new_tokens=4, no_repeat_ngram_size=3, box_range=512),
)

SNLI_VE = Dataset(
    name="snli-ve",
    modality="image+text",
    kind="visual-entailment",
    metric="accuracy",
    prompt=' can image and text1 " {text_a} " imply text2 " {text_b} "?',
    columns=(
        _image(2),
        Column(field="text_b", place=3, title="hypothesis", names=("hypothesis", "sentence2", "text_b")),
        Column(field="text_a", place=4, title="caption", names=("premise", "caption", "sentence1", "text_a")),
        Column(field="label", place=5, title="label", names=("label", "gold_label", "labels")),
    ),
    labels={"no": "no", "yes": "yes", "maybe": "maybe"},
    words={"entailment": "yes", "neutral": "maybe", "contradiction": "no"},
    table_numbers=("entailment", "neutral", "contradiction"),
    image_size=IMAGE_SIZE,
    decoding=Decoding(decoder_prompt="prev_output"),
)

COCO_CAPTIONS = Dataset(
    name="coco-captions",
    modality="image",
    kind="captioning",
    metric="cider_d",
    prompt=" what does the image describe?",
    columns=(
        Column(
            field="references",
            place=2,
            title="caption",
            names=("captions", "references", "sentences", "caption", "answer", "sentence", "text"),
        ),
        _image(4),
    ),
    image_size=IMAGE_SIZE,
    decoding=Decoding(num_beams=5, max_new_tokens=16, no_repeat_ngram_size=3),
)

VQAV2 = Dataset(
    name="vqav2",
    modality="image+text",
    kind="vqa",
    metric="vqa_accuracy",
    prompt=" {text_a}{text_b}",  # text_b is "" or " object: ...", as the official code appends it
    columns=(
        Column(field="text_a", place=2, title="question", names=("question", "text_a")),
        Column(
            field="references",
            place=3,
            title="answers",
            names=("answers", "label", "references", "multiple_choice_answer", "answer"),
        ),
        Column(field="objects", place=4, title="objects", names=("objects",), needed=False),
        _image(5),
    ),
    labels=None,
    image_size=IMAGE_SIZE,
    decoding=Decoding(decoder_prompt="prev_output"),
)


def _classes(name: str, *label_names: str) -> Dataset:
    """Pictures to be named."""
    return Dataset(
        name=name,
        modality="image",
        kind="image-classification",
        metric="accuracy",
        prompt=" what does the image describe?",
        columns=(
            _image(0),
            Column(field="label", place=2, title="class name", names=(*label_names, *_LABEL_NAMES)),
        ),
        labels=None,
        image_size=IMAGE_SIZE,
    )


VISION = (
    REFCOCO,
    replace(REFCOCO, name="refcoco+"),
    replace(REFCOCO, name="refcocog"),
    SNLI_VE,
    COCO_CAPTIONS,
    VQAV2,
    _classes("food101"),
    _classes("caltech101"),
    _classes("dtd"),
    _classes("eurosat"),
    _classes("fgvc-aircraft", "variant"),
    _classes("flowers102"),
    _classes("oxford-pets"),
    _classes("stanford-cars"),
)

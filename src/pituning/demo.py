"""A small picture-and-word model and nine tasks, made from scikit-learn's real handwritten digits."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pituning.backbones import Matching
from pituning.fit import FitConfig, fit
from pituning.seed import isolated_seed
from pituning.task import Example, Task

Picture = NDArray[np.uint8]
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIZE = 16  # pixels; the digits' 8 x 8 are doubled

# The three parts of the 1,797 pictures: for the model, for the tasks' training, for their tests.
PARTS = {"model": (0, 600), "train": (600, 1300), "test": (1300, 1797)}


def _noise(picture: Picture, index: int) -> Picture:
    spread = np.random.default_rng(index).normal(0, 60, picture.shape)
    return np.clip(picture + spread, 0, 255).astype(np.uint8)


def _identity(picture: Picture, index: int) -> Picture:
    return picture


def _inverted(picture: Picture, index: int) -> Picture:
    return (255 - picture).astype(np.uint8)


def _rotated(picture: Picture, index: int) -> Picture:
    return np.rot90(picture).copy()


def _mirrored(picture: Picture, index: int) -> Picture:
    return picture[:, ::-1].copy()


def _shifted(picture: Picture, index: int) -> Picture:
    return np.roll(picture, (index % 3 - 1, index // 3 % 3 - 1), axis=(0, 1))


def _inverted_and_noisy(picture: Picture, index: int) -> Picture:
    return _noise(_inverted(picture, index), index)


def _inverted_and_mirrored(picture: Picture, index: int) -> Picture:
    return _inverted(_mirrored(picture, index), index)


def _digit(value: int) -> str:
    return DIGITS[value]


def _parity(value: int) -> str:
    return "odd" if value % 2 else "even"


def _size(value: int) -> str:
    return "large" if value > 4 else "small"


Change = Callable[[Picture, int], Picture]

# Task -> what is done to the pictures, and what is asked of them.
TASKS: dict[str, tuple[Change, Callable[[int], str]]] = {
    "identity": (_identity, _digit),
    "rotated": (_rotated, _digit),
    "mirrored": (_mirrored, _digit),
    "noisy": (_noise, _digit),
    "parity": (_identity, _parity),
    "larger_than_four": (_identity, _size),
    "inverted": (_inverted, _digit),
    "inverted_and_noisy": (_inverted_and_noisy, _digit),
    "inverted_and_mirrored": (_inverted_and_mirrored, _digit),
}
TARGET = "inverted"


def digit_task(name: str) -> Task:
    """One of `TASKS`: 600 training, 100 validation and 497 test pictures."""
    change, label = TASKS[name]
    train = _examples("train", change, label)
    return Task(
        name=name,
        modality="image",
        kind="image-classification",
        metric="accuracy",
        candidates=tuple(sorted({str(example.label) for example in train})),
        train=tuple(train[:600]),
        validation=tuple(train[600:]),
        test=tuple(_examples("test", change, label)),
    )


def digit_backbone(seed: int = 0) -> Matching:
    """A CLIP of 0.2 M parameters, trained from scratch on 600 upright digits and their names (about 15 s)."""
    from transformers import CLIPConfig, CLIPModel

    layers = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    words = _tokenizer()
    text = {**layers, "num_hidden_layers": 1, "vocab_size": len(words), "max_position_embeddings": 8}
    text |= {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    vision = {**layers, "num_hidden_layers": 3, "image_size": SIZE, "patch_size": 4}
    with isolated_seed(seed):
        config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)
        backbone = Matching(CLIPModel(config), words, name="digits", image_processor=_pixels, max_length=8)
        examples = [*_examples("model", _identity, _digit), *_examples("model", _shifted, _digit)]
        task = Task(
            name="upright digits",
            modality="image",
            kind="image-classification",
            metric="accuracy",
            candidates=DIGITS,
            train=tuple(examples),
        )
        backbone.model.requires_grad_(True)
        fit(
            backbone.model,
            [{"params": list(backbone.model.parameters()), "lr": 2e-3}],
            lambda batch: backbone.nll(backbone.model, backbone.collate(batch, task)),
            None,
            examples,
            FitConfig(epochs=30, batch_size=32, seed=seed),
        )
    backbone.model.requires_grad_(False).eval()
    return backbone


def _examples(part: str, change: Change, label: Callable[[int], str]) -> list[Example]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    start, end = PARTS[part]
    order = np.random.default_rng(0).permutation(len(digits.images))[start:end]
    found = []
    for index in order.tolist():
        picture = (digits.images[index] * (255 / 16)).astype(np.uint8)
        found.append(Example(image=_png(change(picture, index)), label=label(int(digits.target[index]))))
    return found


def _png(picture: Picture) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.NEAREST).save(file, format="PNG")
    return file.getvalue()


def _pixels(images: Sequence[Image.Image], return_tensors: str) -> dict[str, Tensor]:
    """The model's image processor: values in [-1, 1], float32 [batch, 3, SIZE, SIZE]."""
    arrays = np.stack([np.asarray(image.resize((SIZE, SIZE)), dtype=np.float32) for image in images])
    return {"pixel_values": torch.from_numpy(arrays).permute(0, 3, 1, 2) / 127.5 - 1}


def _tokenizer() -> Any:
    """Words as they are: the digits' names, and what the other tasks answer."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", *DIGITS, "odd", "even", "large", "small"]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )

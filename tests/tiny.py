"""Models of two layers, their processors and tasks, all made from a configuration and a seed: no network."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from pituning.task import Example, Task

PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"
IMAGE_TOKENS = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
WORDS = tuple(f"w{number}" for number in range(24))
COLOURS = ("red", "green", "blue", "dark")
VOCABULARY = (PAD, UNK, BOS, EOS, *IMAGE_TOKENS, *WORDS, *COLOURS, "very", "user", "model", ":")

TEXT = {"vocab_size": len(VOCABULARY), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 4, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
GROUPED = TEXT | {"num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2}
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION |= {"image_size": 8, "patch_size": 4, "initializer_range": 0.2}
CHAT = (
    "{% for m in messages %}user : {{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %} model : {% endif %}"
)
# As SmolVLM's: it writes nothing for a content that is a plain string.
PICTURE_CHAT = (
    "{% for m in messages %}user : {% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}"
    "{% elif c['type'] == 'image' %}<image>{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} model : {% endif %}"
)


def tokenizer(template: str = "$A", pair: str | None = None, **options: Any) -> Any:
    """Words at spaces; `template` says which special tokens stand around a text."""
    ids = {word: index for index, word in enumerate(VOCABULARY)}
    whole = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    whole.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    whole.post_processor = processors.TemplateProcessing(
        single=template, pair=pair, special_tokens=[(BOS, ids[BOS]), (EOS, ids[EOS])]
    )
    special = {"pad_token": PAD, "bos_token": BOS, "eos_token": EOS, "unk_token": UNK}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=whole, **special, **options)


def t5() -> tuple[Any, Any]:
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.1}
    special = {"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 2}
    config = transformers.T5Config(vocab_size=len(VOCABULARY), initializer_factor=2.0, **special, **sizes)
    return transformers.T5ForConditionalGeneration(config), tokenizer(f"$A {EOS}")


def llama() -> tuple[Any, Any]:
    config = transformers.LlamaConfig(**GROUPED, attention_dropout=0.1)
    return transformers.LlamaForCausalLM(config), tokenizer(f"{BOS} $A")


def qwen2() -> tuple[Any, Any]:
    """With a chat template, tied embeddings, tokens of one byte, and padding by the end-of-sequence token."""
    symbols = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|endoftext|>"]
    reader = transformers.Qwen2Tokenizer({s: index for index, s in enumerate(symbols)}, chat_template=CHAT)
    end = {"bos_token_id": 256, "eos_token_id": 256, "pad_token_id": None}
    sizes = GROUPED | {"vocab_size": len(symbols), **end}
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**sizes, tie_word_embeddings=True)), reader


def idefics3() -> tuple[Any, Any]:
    """Reads pictures; one token a picture, with a chat template."""
    config = transformers.Idefics3Config(
        text_config=GROUPED | {"model_type": "llama"},
        vision_config=VISION,
        image_token_id=VOCABULARY.index("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    pictures = Idefics3ImageProcessorPil(
        do_image_splitting=False, size={"longest_edge": 8}, max_image_size={"longest_edge": 8}
    )
    reader = transformers.Idefics3Processor(
        pictures,
        tokenizer(f"{BOS} $A", chat_template=PICTURE_CHAT),
        image_seq_len=1,
        chat_template=PICTURE_CHAT,
    )
    return transformers.Idefics3ForConditionalGeneration(config), reader


def bert() -> tuple[Any, Any]:
    config = transformers.BertConfig(**TEXT, max_position_embeddings=64, initializer_range=0.2)
    return transformers.BertModel(config), _bert_tokenizer()


def bert_classifier() -> tuple[Any, Any]:
    config = transformers.BertConfig(**TEXT, max_position_embeddings=64, initializer_range=0.2, num_labels=2)
    return transformers.BertForSequenceClassification(config), _bert_tokenizer()


def clip() -> tuple[Any, Any]:
    text = TEXT | {"max_position_embeddings": 64, "projection_dim": 8, "attention_dropout": 0.1}
    config = transformers.CLIPConfig(
        text_config=text, vision_config=VISION | {"projection_dim": 8}, projection_dim=8
    )
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    return transformers.CLIPModel(config), (tokenizer(f"{BOS} $A {EOS}"), pictures)


def siglip() -> tuple[Any, Any]:
    """Its texts are padded to full length, and its tokenizer tells of no mask."""
    text = TEXT | {"max_position_embeddings": 16, "projection_size": 16}
    config = transformers.SiglipConfig(text_config=text, vision_config=VISION)
    pictures = SiglipImageProcessorPil(size={"height": 8, "width": 8})
    return transformers.SiglipModel(config), (
        tokenizer(f"$A {EOS}", model_input_names=["input_ids"]),
        pictures,
    )


def llama_classifier() -> tuple[Any, Any]:
    """No token to pad with, as most decoders."""
    config = transformers.LlamaConfig(**GROUPED | {"pad_token_id": None}, num_labels=2)
    reader = tokenizer(f"{BOS} $A")
    reader.pad_token = None
    return transformers.LlamaForSequenceClassification(config), reader


def vit() -> tuple[Any, Any]:
    config = transformers.ViTConfig(**VISION, num_labels=2, hidden_dropout_prob=0.1)
    return transformers.ViTForImageClassification(config), ViTImageProcessorPil(
        size={"height": 8, "width": 8}
    )


def _bert_tokenizer() -> Any:
    pair = f"{BOS}:0 $A:0 {EOS}:0 $B:1 {EOS}:1"
    return tokenizer(
        f"{BOS} $A {EOS}", pair, model_input_names=["input_ids", "token_type_ids", "attention_mask"]
    )


MAKERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    make.__name__: make
    for make in (t5, llama, qwen2, idefics3, bert, clip, siglip, bert_classifier, llama_classifier, vit)
}
FAMILY = {"t5": "seq2seq", "llama": "causal", "qwen2": "causal", "idefics3": "causal"}
FAMILY |= {"bert": "matching", "clip": "matching", "siglip": "matching"}
FAMILY |= {"bert_classifier": "classifier", "llama_classifier": "classifier", "vit": "classifier"}
PICTURES = ("idefics3", "clip", "siglip", "vit")


def save(kind: str, folder: Path, *, seed: int = 0) -> Path:
    """A folder as the Hub would give it: weights, configuration and processor."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, reader = MAKERS[kind]()
    model.save_pretrained(folder)
    for part in reader if isinstance(reader, tuple) else (reader,):
        part.save_pretrained(folder)
    return folder


def task_for(kind: str, seed: int = 0, *, classes: int = 3, validation: int = 0) -> Task:
    """A task that the model can read: pictures where it has eyes, else texts."""
    make = picture_task if kind in PICTURES else text_task
    return make(seed, classes=classes, validation=validation)


def text_task(seed: int = 0, *, classes: int = 3, train: int = 6, validation: int = 0) -> Task:
    """Random words, each class with its own; texts and answers of different lengths."""
    draw = random.Random(seed)
    own = draw.sample(WORDS, classes)

    def example(row: int) -> Example:
        words = draw.choices(WORDS, k=draw.randint(1, 6)) + [own[row % classes]] * 2
        return Example(text_a=" ".join(words), label=COLOURS[row % classes])

    return _task(f"text{seed}", "text", classes, example, train, validation)


def picture_task(
    seed: int = 0, *, classes: int = 3, train: int = 6, validation: int = 0, question: bool = False
) -> Task:
    """Random pictures, each class with its own colour; with a question of random length, if asked."""
    draw = np.random.default_rng(seed)
    own = draw.integers(0, 200, (classes, 3))

    def example(row: int) -> Example:
        noise = draw.integers(0, 50, (8, 8, 3))
        text = " ".join(draw.choice(WORDS, draw.integers(1, 6))) if question else None
        return Example(text_a=text, image=png(own[row % classes] + noise), label=COLOURS[row % classes])

    modality = "image+text" if question else "image"
    return _task(f"picture{seed}", modality, classes, example, train, validation)


def open_task(seed: int = 0, *, pictures: bool = False) -> Task:
    """Free-form answers, to questions about pictures or to texts."""
    known = picture_task(seed, question=True) if pictures else text_task(seed)
    written = [Example(text_a=e.text_a, image=e.image, label=f"very {e.label}") for e in known.train]
    return Task(
        name=f"open{seed}", modality=known.modality, kind="vqa", metric="exact_match", train=tuple(written)
    )


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def _task(
    name: str, modality: str, classes: int, example: Callable[[int], Example], train: int, validation: int
) -> Task:
    labels = COLOURS[:classes]
    rows: Sequence[Example] = [example(row) for row in range(train + validation)]
    return Task(
        name=name,
        modality=modality,
        kind="image-classification" if "image" in modality else "text-classification",
        metric="accuracy",
        candidates=labels,
        candidate_texts={label: "very " * (index % 2) + label for index, label in enumerate(labels)},
        train=tuple(rows[:train]),
        validation=tuple(rows[train:]),
    )

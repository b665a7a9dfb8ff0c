"""The configuration of a checkpoint: from its tensors' shapes, and from its options what no shape shows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pituning.errors import BackboneError
from pituning.models.ofa.archives import Weight
from pituning.models.ofa.checkpoint import Checkpoint
from pituning.models.ofa.configuration import RESNET_BLOCKS, OfaConfig

MARKS = (
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "encoder.pos_q_linear.weight",
    "encoder.token_rel_pos_table_list.0.weight",
    "encoder.image_rel_pos_table_list.0.weight",
    "decoder.token_rel_pos_table_list.0.weight",
    "encoder.embed_images.layer1.0.conv1.weight",
    "encoder.image_proj.weight",
)
"""Without most of these it is another model."""

SHOWN = {
    "encoder_embed_dim": "d_model",
    "decoder_embed_dim": "d_model",
    "encoder_ffn_embed_dim": "encoder_ffn_dim",
    "decoder_ffn_embed_dim": "decoder_ffn_dim",
    "encoder_layers": "encoder_layers",
    "decoder_layers": "decoder_layers",
    "encoder_attention_heads": "encoder_attention_heads",
    "decoder_attention_heads": "decoder_attention_heads",
    "encoder_normalize_before": "encoder_normalize_before",
    "decoder_normalize_before": "decoder_normalize_before",
    "token_bucket_size": "token_bucket_size",
    "image_bucket_size": "image_bucket_size",
    "scale_attn": "scale_attn",
    "scale_fc": "scale_fc",
    "scale_heads": "scale_heads",
    "scale_resids": "scale_resids",
    "add_type_embedding": "add_type_embedding",
    "layernorm_embedding": "layernorm_embedding",
    "patch_layernorm_embedding": "patch_layernorm_embedding",
    "code_layernorm_embedding": "code_layernorm_embedding",
    "encoder_ffn_dim": "encoder_ffn_dim",
    "decoder_ffn_dim": "decoder_ffn_dim",
    "d_model": "d_model",
}
"""Options that the shapes show too, so both must agree: name in fairseq or the port -> ours."""

TAKEN = {
    "activation_fn": "activation_function",
    "attn_scale_factor": "attn_scale_factor",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "encoder_drop_path_rate": "encoder_drop_path_rate",
    "decoder_drop_path_rate": "decoder_drop_path_rate",
    "resnet_drop_path_rate": "resnet_drop_path_rate",
    "entangle_position_embedding": "entangle_position_embedding",
    "activation_function": "activation_function",
    "scale_embedding": "scale_embedding",
    "decoder_adds_positions": "decoder_adds_positions",
    "freeze_batch_norm": "freeze_batch_norm",
}
"""Options that no shape shows: name in fairseq or the port -> ours."""


def config_of(checkpoint: Checkpoint, weights: Mapping[str, Weight]) -> OfaConfig:
    """The configuration of a model with these tensors, under fairseq's names.

    What neither shapes nor options say is as in the released checkpoints.

    Raises:
        BackboneError: it is no OFA, lacks tensors that show its shape, or its options say another shape.
    """
    missing = [name for name in MARKS if name not in weights]
    if len(missing) > len(MARKS) // 2:
        raise BackboneError(
            "the checkpoint must be an OFA",
            f"{checkpoint.path} with tensors such as {', '.join(sorted(weights)[:4])}",
            "Name an OFA checkpoint; one of its parts alone is not enough.",
        )
    if missing:
        raise BackboneError(
            "a checkpoint must hold every tensor of the model",
            f"{checkpoint.path} lacks {', '.join(missing)}, among others perhaps",
            "Use a whole checkpoint.",
        )
    options = {**_of_port(checkpoint.config), **checkpoint.options}
    shown = _shown(weights)
    _check(options, shown, checkpoint)
    taken = {ours: options[name] for name, ours in TAKEN.items() if _is_value(options.get(name))}
    if "no_scale_embedding" in options:
        taken["scale_embedding"] = not options["no_scale_embedding"]
    if "disable_entangle" in options:
        taken["decoder_adds_positions"] = not options["disable_entangle"]
    rows = {name: int(options[name]) for name in ("vocab_size",) if int(options.get(name) or 0) > shown[name]}
    return OfaConfig(**{**shown, **taken, **_sharing(options, weights), **rows, **_stem(options, weights)})


def _shown(weights: Mapping[str, Weight]) -> dict[str, Any]:
    """What the shapes alone say."""
    vocabulary, width = weights["encoder.embed_tokens.weight"].shape
    buckets, heads = weights["encoder.token_rel_pos_table_list.0.weight"].shape
    places = weights["encoder.image_rel_pos_table_list.0.weight"].shape[0]
    found: dict[str, Any] = {
        "vocab_size": vocabulary,
        "d_model": width,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": weights["decoder.token_rel_pos_table_list.0.weight"].shape[1],
        "token_bucket_size": (buckets + 1) // 2,
        "image_bucket_size": (math.isqrt(max(places - 3, 0)) + 1) // 2,
        "scale_attn": "encoder.layers.0.attn_ln.weight" in weights,
        "scale_fc": "encoder.layers.0.ffn_layernorm.weight" in weights,
        "scale_heads": "encoder.layers.0.self_attn.c_attn" in weights,
        "scale_resids": "encoder.layers.0.w_resid" in weights,
        "add_type_embedding": "encoder.type_embedding.weight" in weights,
        "layernorm_embedding": "encoder.layernorm_embedding.weight" in weights,
        "patch_layernorm_embedding": "encoder.patch_layernorm_embedding.weight" in weights,
        "code_layernorm_embedding": "decoder.code_layernorm_embedding.weight" in weights,
    }
    for part in ("encoder", "decoder"):
        found[f"{part}_layers"] = _count(weights, rf"{part}\.layers\.(\d+)\.")
        found[f"{part}_normalize_before"] = f"{part}.layer_norm.weight" in weights
        first = weights.get(f"{part}.layers.0.fc1.weight")
        found[f"{part}_ffn_dim"] = first.shape[0] if first else 4 * width
    if (positions := weights.get("encoder.embed_positions.weight")) is not None:
        found["max_position_embeddings"] = positions.shape[0] - 2
    return found | _code_image_size(weights)


def _code_image_size(weights: Mapping[str, Weight]) -> dict[str, int]:
    """From the positions of image codes: one, a square of patches, 769 fillers (768 in the port)."""
    positions = weights.get("decoder.image_position_idx")
    for fillers in (769, 768):
        patches = positions.shape[0] - 1 - fillers if positions is not None else -1
        if patches > 0 and math.isqrt(patches) ** 2 == patches:
            return {"code_image_size": 8 * math.isqrt(patches)}
    return {}


def _stem(options: Mapping[str, Any], weights: Mapping[str, Weight]) -> dict[str, Any]:
    """The stem's name where it has one, and its numbers of blocks where not."""
    stages = (1, 2, 3)
    blocks = tuple(_count(weights, rf"encoder\.embed_images\.layer{stage}\.(\d+)\.") for stage in stages)
    said = str(options.get("resnet_type"))
    if RESNET_BLOCKS.get(said) == blocks:
        return {"resnet_type": said}
    named = [name for name in ("resnet50", *RESNET_BLOCKS) if RESNET_BLOCKS[name] == blocks]
    if named:
        return {"resnet_type": named[0]}
    return {"resnet_type": said if said in RESNET_BLOCKS else "resnet50", "resnet_layers": list(blocks)}


def _sharing(options: Mapping[str, Any], weights: Mapping[str, Weight]) -> dict[str, bool]:
    """Which embeddings are one tensor: what the options say, else what is equal."""
    encoder, decoder = weights["encoder.embed_tokens.weight"], weights["decoder.embed_tokens.weight"]
    projection = weights.get("decoder.output_projection.weight", decoder)
    found = {}
    for name, first, second in (
        ("share_all_embeddings", encoder, decoder),
        ("share_decoder_input_output_embed", decoder, projection),
    ):
        same = first == second or (first.shape == second.shape and bool(first.read().equal(second.read())))
        if options.get(name) and not same:
            raise BackboneError(
                f"with the option {name} the embeddings are one tensor",
                "they differ in the checkpoint",
                "The file was put together from two models; use the original.",
            )
        found[name] = bool(options[name]) if name in options else same
    return {**found, "tie_word_embeddings": any(found.values())}


def _check(options: Mapping[str, Any], shown: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Raise where options and shapes disagree."""
    wrong = sorted(
        f"{name} is {options[name]!r}, where the tensors say {shown[ours]!r}"
        for name, ours in SHOWN.items()
        if _is_value(options.get(name)) and options[name] != shown[ours]
    )
    if wrong:
        raise BackboneError(
            "a checkpoint's own options must fit its tensors",
            f"{checkpoint.path}: {'; '.join(wrong)}",
            "Use a whole and unchanged checkpoint, or save its tensors alone as {'model': ...}.",
        )


def _of_port(config: Mapping[str, Any]) -> dict[str, Any]:
    """The port's options; its decoder adds positions only where the encoder does."""
    if config.get("model_type") != "ofa":
        return {}
    options = dict(config)
    if "normformer" in options:
        options |= dict.fromkeys(("scale_attn", "scale_fc", "scale_heads"), options.pop("normformer"))
    options.setdefault("decoder_adds_positions", bool(options.get("entangle_position_embedding")))
    return options


def _is_value(option: Any) -> bool:
    return isinstance(option, (bool, int, float, str))


def _count(names: Iterable[str], pattern: str) -> int:
    """One more than the largest number in the names."""
    found = (re.match(pattern, name) for name in names)
    return 1 + max((int(match[1]) for match in found if match), default=-1)

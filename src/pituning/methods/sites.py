"""Where our own methods attach: the self-attention and feed-forward modules of known architectures."""

from __future__ import annotations

from typing import NamedTuple

from pituning.errors import ExpertError


class Sites(NamedTuple):
    """Regular expressions for full module names (`re.fullmatch`); cross-attention is never among them.

    Args:
        attention: every self-attention module.
        outputs: the output projections of the self-attention and of the feed-forward network.
    """

    attention: str
    outputs: str


_T5 = Sites(r".*\.SelfAttention", r".*\.(SelfAttention\.o|DenseReluDense\.wo)")
_LLAMA = Sites(r".*layers\.\d+\.self_attn", r".*layers\.\d+\.(self_attn\.o_proj|mlp\.down_proj)")
_BERT = Sites(r".*layer\.\d+\.attention\.self", r".*layer\.\d+\.(attention\.output\.dense|output\.dense)")
_DISTILBERT = Sites(r".*layer\.\d+\.attention", r".*layer\.\d+\.(attention\.out_lin|ffn\.lin2)")
_MPNET = Sites(r".*layer\.\d+\.attention\.attn", r".*layer\.\d+\.(attention\.attn\.o|output\.dense)")
_VIT = Sites(r".*layers\.\d+\.attention", r".*layers\.\d+\.(attention\.o_proj|mlp\.fc2)")
_CLIP = Sites(r".*layers\.\d+\.self_attn", r".*layers\.\d+\.(self_attn\.out_proj|mlp\.fc2)")
_BART = Sites(r".*layers\.\d+\.self_attn", r".*layers\.\d+\.(self_attn\.out_proj|fc2)")
# The official adapters follow the LayerNorm after self-attention, and the feed-forward network.
_OFA = Sites(r".*layers\.\d+\.self_attn", r".*layers\.\d+\.(attn_ln|self_attn_ln|fc2)")
_IDEFICS3 = Sites(
    r".*layers\.\d+\.self_attn", r".*layers\.\d+\.(self_attn\.(o_proj|out_proj)|mlp\.(down_proj|fc2))"
)
_QWEN2_5_VL = Sites(
    r".*(layers\.\d+\.self_attn|blocks\.\d+\.attn)",
    r".*(layers\.\d+\.(self_attn\.o_proj|mlp\.down_proj)|blocks\.\d+\.(attn\.proj|mlp\.down_proj))",
)

SITES: dict[str, Sites] = {
    "bart": _BART,
    "bert": _BERT,
    "clip": _CLIP,
    "clip_text_model": _CLIP,
    "clip_vision_model": _CLIP,
    "distilbert": _DISTILBERT,
    "idefics3": _IDEFICS3,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mpnet": _MPNET,
    "mt5": _T5,
    "ofa": _OFA,
    "qwen2": _LLAMA,
    "qwen2_5_vl": _QWEN2_5_VL,
    "qwen3": _LLAMA,
    "roberta": _BERT,
    "siglip": _CLIP,
    "smollm3": _LLAMA,
    "smolvlm": _IDEFICS3,
    "t5": _T5,
    "vit": _VIT,
    "xlm-roberta": _BERT,
}


def sites_of(model_type: str | None) -> Sites:
    """The sites of `config.model_type`.

    Raises:
        ExpertError: the architecture is unknown, so `target_modules` must say where to attach.
    """
    if model_type not in SITES:
        raise ExpertError(
            must=f"target_modules must be given for an architecture other than {', '.join(sorted(SITES))}",
            given=f"model_type {model_type!r} and no target_modules",
            fix="Set target_modules to a regular expression of full names in model.named_modules().",
        )
    return SITES[model_type]

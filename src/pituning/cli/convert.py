"""Convert an official checkpoint: the model becomes a Hugging Face folder, its experts PEFT folders."""

from __future__ import annotations

import argparse
import time
from typing import Any

from pituning.cli.options import add_options, read_options
from pituning.foundation import dtype_name
from pituning.models.ofa.conversion import Conversion, ConversionConfig
from pituning.ofa_conversion import convert

EXAMPLE = "pituning convert ofa ofa_base.pt ofa-base --bpe OFA/utils/BPE"


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("format", choices=("ofa",), help="fairseq's .pt, or the port's folder")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="file or folder; no code in it is run")
    parser.add_argument("out", metavar="OUT", help="a new or empty folder")
    add_options(parser, ConversionConfig, title="conversion")


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Convert."""
    start = time.perf_counter()
    done = convert(options.checkpoint, options.out, read_options(options, ConversionConfig))
    document = {
        "out": str(options.out),
        "backbone": str(done.backbone),
        "experts": [str(folder) for folder in done.experts],
        "parameters": done.parameters,
        "dtype": dtype_name(done.config.dtype),
        "config": done.config.to_diff_dict(),
        "tokenizer": str(done.tokenizer) if done.tokenizer else None,
        "notes": list(done.notes),
        "seconds": round(time.perf_counter() - start, 2),
    }
    return document, _text(done)


def _text(done: Conversion) -> str:
    shape = done.config
    size = f"{shape.encoder_layers} + {shape.decoder_layers} layers of width {shape.d_model}"
    lines = [f"OFA with {size} and {shape.vocab_size} tokens: {done.backbone}"]
    lines += [f"expert: {folder}" for folder in done.experts]
    if done.tokenizer:
        lines.append(f"tokenizer from {done.tokenizer}")
    return "\n".join([*lines, *done.notes])

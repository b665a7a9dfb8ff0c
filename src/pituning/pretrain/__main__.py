"""Make `ofa-mini` again, or another like it.

example: python -m pituning.pretrain --out pretrained --steps 20000
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from pituning.cli.options import add_options, read_options
from pituning.errors import PituningError
from pituning.mini20.definition import PIXELS
from pituning.models.ofa import (
    OfaConfig,
    OfaForConditionalGeneration,
    OfaImageProcessor,
    OfaProcessor,
    OfaTokenizer,
)
from pituning.pretrain.config import SHAPE, PretrainConfig
from pituning.pretrain.lesson import Lesson
from pituning.pretrain.loop import train
from pituning.pretrain.mixture import Mixture
from pituning.pretrain.vocabulary import learn_vocabulary


def main() -> int:
    """Train from scratch, or from the checkpoint in --out; then write the model beside it."""
    parser = argparse.ArgumentParser(
        prog="python -m pituning.pretrain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints and of the model")
    parser.add_argument("--stop-after", type=int, help="stop after so many steps; run again to go on")
    add_options(parser, PretrainConfig, title="pre-training")
    options = parser.parse_args()
    try:
        pretrain(read_options(options, PretrainConfig), options.out, stop_after=options.stop_after)
    except PituningError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run it again to go on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def pretrain(config: PretrainConfig, out: Path, *, stop_after: int | None = None) -> None:
    """Tokenizer, model and training; `out/model` is a folder that `load_backbone` reads."""
    mixture = Mixture.of(config)
    config = replace(config, processes=1) if torch.cuda.is_available() else config
    if config.processes == 1:
        _train(0, config, mixture, out, stop_after, "")
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        given = (config, mixture, out, stop_after, meeting)
        start_processes(_train, given, nprocs=config.processes, start_method="fork")


def _train(
    rank: int, config: PretrainConfig, mixture: Mixture, out: Path, stop_after: int | None, meeting: str
) -> None:
    """One of the processes, which meet in a file; the first writes."""
    if meeting:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=config.processes)
    tokenizer = learn_vocabulary(config, mixture)
    torch.manual_seed(config.seed)
    model = OfaForConditionalGeneration(OfaConfig(vocab_size=len(tokenizer), **SHAPE))
    start_places(model)
    lesson = Lesson(model, config.bins).to("cuda" if torch.cuda.is_available() else "cpu")

    def batches(step: int) -> tuple[str, dict[str, Tensor]]:
        return mixture.batch(step, rank, config, tokenizer)

    curve = train(lesson, batches, config, out / "work", stop_after=stop_after)
    if rank == 0 and len(curve) == config.updates:
        write(model, tokenizer, out / "model")
    if meeting:
        dist.destroy_process_group()


def start_places(model: OfaForConditionalGeneration) -> None:
    """Patches' positions start as waves over columns and rows, as strong as the patches' contents."""
    table, side = model.get_encoder().embed_image_positions.weight, model.config.image_bucket_size
    quarter = model.config.d_model // 4
    rates = math.pi * 8 ** torch.linspace(0, 1, quarter)
    angles = (torch.arange(side) / side)[:, None] * rates
    waves = math.sqrt(2) * torch.cat([angles.sin(), angles.cos()], dim=1)
    across, down = waves.repeat(side, 1), waves.repeat_interleave(side, dim=0)
    with torch.no_grad():
        table[1 : side * side + 1] = torch.cat([across, down], dim=1)


def write(model: OfaForConditionalGeneration, tokenizer: OfaTokenizer, folder: Path) -> None:
    """The model in half precision with its batch norm frozen, and the processor."""
    model.config.freeze_batch_norm = True
    model.to(torch.float16).save_pretrained(folder)
    OfaProcessor(OfaImageProcessor(size=PIXELS), tokenizer).save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())

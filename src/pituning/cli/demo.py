"""The whole method on scikit-learn's real digits: a small model, a pool of experts, a few-shot target."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pituning.cli.graph import draw
from pituning.cli.terminal import say
from pituning.cli.tune import as_text, describe
from pituning.demo import TARGET, TASKS, digit_backbone, digit_task
from pituning.errors import ConfigError
from pituning.pool import Pool
from pituning.predict import embed
from pituning.recipe import PiConfig, pi_tune
from pituning.train import TrainConfig, train_expert

EXAMPLE = "pituning demo --target noisy"
EXPERTS = TrainConfig(method="lora", epochs=10, batch_size=32, learning_rate=7e-3)


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--target", choices=sorted(TASKS), default=TARGET, help=f"(default: {TARGET})")
    parser.add_argument("--shots", type=int, default=16, help="training pictures a class (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="of everything (default: 0)")
    parser.add_argument("--out", help="folder for the pool, the adapter and the report (default: a new one)")


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Everything is computed here and now."""
    training = replace(EXPERTS, seed=options.seed, init_seed=options.seed)
    config = PiConfig(shots=options.shots, seed=options.seed, train=training)
    if options.out and Path(options.out).exists():
        raise ConfigError("a demo starts in a new folder", f"{options.out} exists", "Choose another --out.")
    out = Path(options.out or tempfile.mkdtemp(prefix="pituning-demo-"))
    torch.set_num_threads(1)  # a model this small is quicker on one
    say("1/3 training a small picture-and-word model on 600 upright digits")
    backbone = digit_backbone(options.seed)
    say(f"2/3 training a pool of {len(TASKS) - 1} LoRA experts, all but {options.target!r}")
    pool = Pool.create(out / "pool", init_seed=options.seed)
    for name in TASKS:
        if name != options.target:
            task = digit_task(name)
            expert = train_expert(backbone, task, training)
            pool.add(expert, embed(backbone, expert, task))
            say(f"    {name}: validation {task.metric} {expert.card.scores['validation']:.2f}")
    say(f"3/3 π-Tuning {options.target!r} with {options.shots} pictures a class")
    result = pi_tune(backbone, digit_task(options.target), pool, config)
    folder, report = out / "adapter", out / "graph.html"
    result.expert.save(folder)
    draw(pool, report)
    document = {**describe(result, config, folder), "report": str(report)}
    return document, f"{as_text(result, folder)}\nreport: {report}"

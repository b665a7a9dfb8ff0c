"""The whole method, offline: the model carried here, its pool of experts, and a task with few examples."""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import shlex
import tempfile
from pathlib import Path
from typing import Any

from pituning.backbones import load_backbone
from pituning.cli.recipes import read_recipe
from pituning.cli.terminal import program, progress_wanted
from pituning.cli.tune import as_text, describe
from pituning.cli.tune_report import tune_report
from pituning.errors import ConfigError
from pituning.mini20 import NAMES, mini_task
from pituning.places import appearing
from pituning.pool import Pool
from pituning.recipe import pi_tune
from pituning.report import write_report
from pituning.spelling import did_you_mean
from pituning.weights import MINI20

log = logging.getLogger(__name__)

EXAMPLE = "pituning demo --target eurosat"
TARGET = "refcoco"


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--target", default=TARGET, help=f"one of {', '.join(NAMES)} (default: {TARGET})")
    parser.add_argument(
        "--shots",
        type=int,
        default=16,
        help="training examples a class, or in all without classes (default: 16)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the shots, training and tuning (default: 0)")
    parser.add_argument("--out", help="new folder for the adapter and the report (default: a temporary one)")


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Everything but the model and the pool is computed here and now."""
    if options.target not in NAMES:
        fix = f"{did_you_mean(options.target, NAMES)}Choose one of them."
        raise ConfigError(f"--target is one of {', '.join(NAMES)}", repr(options.target), fix)
    config = read_recipe("ofa-mini").config(shots=options.shots, seed=options.seed)
    somewhere = Path(tempfile.gettempdir()) / f"pituning-{secrets.token_hex(4)}" / options.target
    out = Path(options.out) if options.out else somewhere
    if os.path.lexists(out):
        given = f"{str(out)!r}, which exists"
        raise ConfigError("a demo starts in a new folder", given, "Choose another --out.")
    with appearing(out) as scratch:
        log.info("demo: drawing %s, and loading ofa-mini and its pool", options.target)
        backbone, task, pool = load_backbone("ofa-mini"), mini_task(options.target), Pool(MINI20)
        size = sum(p.numel() for p in backbone.model.parameters()) / 1e6
        log.info("pool: experts of the other %d tasks of mini20, on ofa-mini (%.1f M)", len(pool) - 1, size)
        result = pi_tune(backbone, task, pool, config, progress=progress_wanted(options.json))
        result.expert.save(scratch / "adapter")
        folder, page = out / "adapter", out / "report.html"
        again = f"eval mini20/{task.name} --backbone ofa-mini --expert {shlex.quote(str(folder))}"
        report = tune_report(backbone, task, pool, result, [options.command, f"pituning {again}"])
        write_report(report, scratch / page.name)
    document = {**describe(result, config, folder), "report": str(page)}
    return document, f"{as_text(result, folder)}\nreport: {page}\nevaluate it again: {program()} {again}"

"""Predict which experts help a task, learn how to mix them with its own, and write one plain adapter."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from pituning.backbones import load_backbone
from pituning.cli.options import add_options, read_options
from pituning.cli.terminal import progress_wanted, table
from pituning.errors import ExpertError
from pituning.expert import unwritable
from pituning.interpolate import TuneConfig
from pituning.pool import Pool
from pituning.predict import FisherConfig
from pituning.recipe import PiConfig, PiResult, pi_tune
from pituning.task import load_task
from pituning.train import TrainConfig

EXAMPLE = "pituning tune data/cr --backbone minilm --pool pool --out cr-pi --shots 16 -k 3"


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("task", metavar="TASK", help="task folder")
    parser.add_argument("--backbone", required=True, help="local folder, Hub id or 'minilm'")
    parser.add_argument("--pool", required=True, help="pool folder")
    parser.add_argument("--out", required=True, help="folder of the new adapter; must not exist")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints of a killed run")
    add_options(parser, PiConfig)
    add_options(parser, TuneConfig, without=("seed",))
    add_options(parser, TrainConfig, prefix="expert", without=("seed", "init_seed"))
    add_options(parser, FisherConfig, prefix="fisher")


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """The whole recipe, then the adapter and its reasons on disk."""
    out = Path(options.out)
    if out.exists():
        raise ExpertError("an adapter is never overwritten", f"{out} exists", "Choose another --out.")
    workdir = out.parent / f".{out.name}.work"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(out, error) from error
    config = read_options(
        options,
        PiConfig,
        train=read_options(options, TrainConfig, prefix="expert"),
        fisher=read_options(options, FisherConfig, prefix="fisher"),
        tune=read_options(options, TuneConfig),
    )
    task, pool = load_task(options.task), Pool(options.pool)
    backbone = load_backbone(options.backbone)
    result = pi_tune(
        backbone,
        task,
        pool,
        config,
        workdir=workdir,
        resume=options.resume,
        progress=progress_wanted(options.json),
    )
    result.expert.save(out)
    document = describe(result, config, out)
    (out / "result.json").write_text(json.dumps(document, indent=1) + "\n")
    shutil.rmtree(workdir, ignore_errors=True)
    return document, as_text(result, out)


def describe(result: PiResult, config: PiConfig, out: Path) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "task": result.task,
        "metric": result.metric,
        "kept": result.kept,
        "neighbors": [{"name": n.name, "similarity": n.similarity} for n in result.neighbors],
        "refused": result.refused,
        "weights": result.weights,
        "scores": result.scores,
        "validation": result.validation,
        "k": config.k,
        "shots": config.shots,
        "seed": config.seed,
        "expert_dir": str(out),
        "seconds": round(result.seconds, 1),
    }


def as_text(result: PiResult, out: Path) -> str:
    """The table and the reasons, for people."""
    similar = {neighbor.name: f"{neighbor.similarity:.4f}" for neighbor in result.neighbors}
    own = next(name for name in result.weights if name not in similar)
    rows = [(name, similar.get(name, "its own"), f"{result.weights[name]:.3f}") for name in [own, *similar]]
    titles = {
        "base": "backbone alone",
        "expert": "the task's own expert",
        "init": "mixture before tuning",
        "pi": "π-Tuning (saved)",
    }
    parts = [table(f"experts mixed for {result.task}", ("expert", "similarity", "weight"), rows)]
    if result.scores:
        scores = [(titles[name], f"{value:.4f}") for name, value in result.scores.items()]
        parts.append(table(f"{result.metric} on the test split", ("adapter", result.metric), scores))
    if result.kept == "expert":
        parts.append("The mixture did not validate better: the task's own expert was kept.")
    parts += [f"not considered: {reason}" for reason in result.refused.values()]
    parts.append(f"saved: {out} ({result.seconds:.0f} s)")
    return "\n".join(parts)

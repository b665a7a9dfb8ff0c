"""Score an adapter on a split of a task."""

from __future__ import annotations

import argparse
from typing import Any

from pituning.cli.embed import backbone_of
from pituning.expert import Expert, attach_expert
from pituning.task import load_task
from pituning.train import score

EXAMPLE = "pituning eval data/cr --backbone minilm --expert cr-pi --split test"


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("task", metavar="TASK", help="task folder")
    parser.add_argument("--expert", required=True, help="adapter folder")
    parser.add_argument("--backbone", help="local folder, Hub id or 'minilm' (default: the expert's own)")
    parser.add_argument(
        "--split", default="test", choices=("train", "validation", "test"), help="(default: test)"
    )


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Score."""
    task, expert = load_task(options.task), Expert.load(options.expert)
    examples = task.split(options.split)
    backbone = backbone_of(expert, options.backbone)
    backbone.check(task)
    found = score(backbone, attach_expert(backbone, expert), task, options.split)
    document = {"task": task.name, "metric": task.metric, "score": found, "n": len(examples)}
    return document, f"{task.metric} {found:.4f} on {len(examples)} {options.split} examples of {task.name}"

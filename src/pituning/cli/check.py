"""Find every fault of a task, a pool or an expert before anything is trained."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from pituning.cli.tasks import task_named
from pituning.errors import ConfigError, PituningError
from pituning.expert import Expert
from pituning.manifest import MANIFEST
from pituning.pool import Pool
from pituning.spelling import listed
from pituning.task import Task

EXAMPLE = "pituning check data/cr"


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("path", metavar="PATH", help="a task, a pool or an expert folder")


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Look at everything; the exit code is 2 if there are faults."""
    path = Path(options.path)
    kind, faults, told = _inspect(path)
    document = {"path": str(path), "kind": kind, "faults": faults}
    return document, "\n".join(faults) or f"{path}: {kind} without faults{told}"


def _inspect(path: Path) -> tuple[str, list[str], str]:
    """What it is, its faults, and how a task was understood, where its user may see another mistake."""
    if not path.exists():
        raise ConfigError("what is checked must exist", str(path), "Name a task, a pool or an expert folder.")
    kind = _kind(path)
    try:
        if kind == "pool":
            return kind, Pool(path).verify(), ""
        if kind == "task":
            task = task_named(str(path))
            return kind, [str(fault) for fault in task.check()], _told(task)
        Expert.load(path)
    except PituningError as error:
        return kind, [str(error)], ""
    return kind, [], ""


def _told(task: Task) -> str:
    splits = {"training": task.train, "validation": task.validation, "test": task.test}
    sizes = ", ".join(f"{len(examples) or 'no'} {split}" for split, examples in splits.items())
    lines = ["", f"{task.kind} of {task.modality}, scored by {task.metric}; {sizes} examples"]
    if task.candidates:
        counts = Counter(example.label for example in task.train)
        rare = sorted(task.candidates, key=lambda label: counts[label])
        lines.append("labels, the rarest first: " + listed([f"{label} ({counts[label]})" for label in rare]))
    return "\n".join(lines)


def _kind(path: Path) -> str:
    if (path / MANIFEST).is_file():
        return "pool"
    return "expert" if (path / "adapter_config.json").is_file() else "task"

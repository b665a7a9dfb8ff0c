"""Find every fault of a task, a pool or an expert before anything is trained."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pituning.cli.tasks import task_named
from pituning.errors import ConfigError, PituningError
from pituning.expert import Expert
from pituning.manifest import MANIFEST
from pituning.pool import Pool

EXAMPLE = "pituning check data/cr"


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("path", metavar="PATH", help="a task, a pool or an expert folder")


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Look at everything; the exit code is 2 if there are faults."""
    path = Path(options.path)
    kind, faults = _inspect(path)
    document = {"path": str(path), "kind": kind, "faults": faults}
    return document, "\n".join(faults) or f"{path}: {kind} without faults"


def _inspect(path: Path) -> tuple[str, list[str]]:
    if not path.exists():
        raise ConfigError("what is checked must exist", str(path), "Name a task, a pool or an expert folder.")
    kind = _kind(path)
    try:
        if kind == "pool":
            return kind, Pool(path).verify()
        if kind == "task":
            return kind, [str(fault) for fault in task_named(str(path)).check()]
        Expert.load(path)
    except PituningError as error:
        return kind, [str(error)]
    return kind, []


def _kind(path: Path) -> str:
    if (path / MANIFEST).is_file():
        return "pool"
    return "expert" if (path / "adapter_config.json").is_file() else "task"

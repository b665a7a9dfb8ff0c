"""Find every fault of a task, a pool or an expert before anything is trained."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pituning.errors import PituningError
from pituning.expert import Expert
from pituning.manifest import MANIFEST
from pituning.pool import Pool
from pituning.task import load_task

EXAMPLE = "pituning check data/cr"


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("path", metavar="PATH", help="a task, a pool or an expert folder")


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Look at everything; the exit code is 2 if there are faults."""
    path = Path(options.path)
    kind, faults = _inspect(path)
    document = {"path": str(path), "kind": kind, "faults": faults}
    return document, "\n".join(faults) or f"{path} is a {kind} without faults"


def _inspect(path: Path) -> tuple[str, list[str]]:
    if (path / MANIFEST).is_file():
        return "pool", Pool(path).verify()
    if (path / "adapter_config.json").is_file():
        try:
            Expert.load(path)
        except PituningError as error:
            return "expert", [str(error)]
        return "expert", []
    return "task", [str(fault) for fault in load_task(path).check()]

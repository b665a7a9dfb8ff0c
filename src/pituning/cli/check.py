"""Find every fault of a task, a pool or an expert before anything is trained."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pituning.cli.tasks import CARRIED, MINI, notes, pool_named, task_named
from pituning.description import read_description
from pituning.errors import ConfigError, PituningError
from pituning.expert import Expert
from pituning.manifest import MANIFEST
from pituning.pool import Pool
from pituning.spelling import did_you_mean_file, listed
from pituning.task import Task

EXAMPLE = "pituning check data/cr"


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument(
        "path",
        metavar="PATH",
        help="a task (folder, or mini20/NAME), a pool (folder, or mini20) or an expert folder",
    )


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Look at everything; the exit code is 2 if there are faults."""
    path = options.path
    kind, faults, understood = _inspect(path)
    document = {"path": path, "kind": kind, "faults": faults} | understood
    lines = faults or [f"{path}: {kind} without faults"]
    return document, "\n".join([*lines, *(_told(understood) if understood else [])])


def _inspect(name: str) -> tuple[str, list[str], dict[str, Any]]:
    """What it is, its faults, and how a task was understood, where its user may see another mistake."""
    path = Path(name)
    if name == CARRIED and not path.exists():
        path = pool_named(name).path
    if not path.exists() and not name.startswith(MINI):
        fix = f"{did_you_mean_file(path)}Name a task, a pool or an expert folder, or mini20/NAME."
        raise ConfigError("what is checked must exist", name, fix)
    kind = _kind(path)
    try:
        if kind == "pool":
            pool = Pool(path)
            return kind, pool.verify() or _embedded_otherwise(pool), {}
        if kind == "task":
            task = task_named(name)
            return kind, [str(fault) for fault in task.check()], _understood(task, path)
        Expert.load(path)
    except PituningError as error:
        return kind, [str(error)], {}
    return kind, [], {}


def _embedded_otherwise(pool: Pool) -> list[str]:
    """The experts that are not embedded as most are, or at zero, and so are no neighbours."""
    names, zero = dict[str, list[str]](), list[str]()
    for name in pool:
        _, embedding = pool.read(name)
        if embedding and embedding.is_zero:
            zero.append(
                f"{name}: its embedding is zero everywhere, so it is no neighbour: its task teaches nothing"
            )
        elif embedding:
            names.setdefault(embedding.manner, []).append(name)
    most, *others = sorted(names, key=lambda manner: -len(names[manner])) or [""]
    return zero + [
        f"{', '.join(names[manner])}: embedded {manner}, and so not compared with others, which are {most}; "
        "run `pituning embed` with their options"
        for manner in others
    ]


def _understood(task: Task, path: Path) -> dict[str, Any]:
    answers = Counter(
        task.candidates[task.answer_index(example)] for example in task.train if task.candidates
    )
    splits = {"training": task.train, "validation": task.validation, "test": task.test}
    return {
        "task": {"kind": task.kind, "modality": task.modality, "metric": task.metric},
        "examples": {split: len(examples) for split, examples in splits.items()},
        "notes": [*notes(task), *_remarks(task, path)],
        "labels": {label: answers[label] for label in sorted(task.candidates, key=lambda one: answers[one])},
    }


def _remarks(task: Task, path: Path) -> Iterator[str]:
    """What a user may see a mistake in, or stumble over later."""
    if path.exists() and (unread := read_description(path).unread):
        yield f"keys of the task file that mean nothing here: {listed(unread)}"
    try:
        Pool.check_name(task.name)
    except PituningError as error:
        yield f"not as the name of an expert in a pool: {error}"


def _told(understood: Mapping[str, Any]) -> list[str]:
    sizes = ", ".join(f"{count or 'no'} {split}" for split, count in understood["examples"].items())
    lines = ["{kind} of {modality}, scored by {metric}".format(**understood["task"]) + f"; {sizes} examples"]
    lines += understood["notes"]
    labels = [f"{label} ({count})" for label, count in understood["labels"].items()]
    return [*lines, *([f"labels, the rarest first: {listed(labels)}"] if labels else [])]


def _kind(path: Path) -> str:
    if (path / MANIFEST).is_file():
        return "pool"
    return "expert" if (path / "adapter_config.json").is_file() else "task"

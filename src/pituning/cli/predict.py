"""Rank the pool's experts by how alike their tasks are to this one, which has an expert in the pool."""

from __future__ import annotations

import argparse
from typing import Any

from pituning.cli.tasks import pool_named, task_named
from pituning.cli.terminal import table
from pituning.errors import PoolError, StaleEmbeddingError
from pituning.neighborhood import Neighborhood
from pituning.weights import MINI20

EXAMPLE = "pituning predict data/cr --pool pool -k 3"


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("task", metavar="TASK", help="task folder, or mini20/NAME")
    parser.add_argument("--pool", required=True, help="pool folder, or mini20")
    parser.add_argument("--name", help="the task's own expert in the pool (default: the task's name)")
    parser.add_argument("-k", type=int, default=3, help="how many neighbours (default: 3)")
    parser.add_argument(
        "--space", choices=("parameters", "delta"), default="parameters", help="where they will be mixed"
    )


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Rank."""
    task, pool = task_named(options.task), pool_named(options.pool)
    name = options.name or task.name
    carried = pool.path == MINI20 and "Use `tune`, which trains an expert; the carried pool stays as it is."
    if name not in pool:
        raise PoolError(
            "a task is predicted from its own expert's embedding",
            f"{options.pool} has no expert {name!r}",
            carried or f"Run `pituning train {options.task} --pool {options.pool} ...` first, or use `tune`.",
        )
    around = Neighborhood.of(pool)
    if name not in around.embeddings or around.embeddings[name].source != task.source:
        raise StaleEmbeddingError(
            f"expert {name!r} must have been embedded on the data of {options.task}",
            "it was not" if name in around.embeddings else "it has no embedding",
            carried or "Train it again with --replace, or run `pituning embed`.",
        )
    own, embedding = around.experts[name], around.embeddings[name]
    refused = around.refusals(own, embedding, options.space)
    found = around.nearest(embedding, options.k, space=options.space, without=refused)
    neighbors = [{"name": neighbor.name, "similarity": neighbor.similarity} for neighbor in found]
    rows = [(neighbor.name, f"{neighbor.similarity:.4f}") for neighbor in found]
    text = table(f"neighbours of {task.name}", ("expert", "similarity"), rows)
    lines = [text, *(f"not considered: {reason}" for reason in refused.values())]
    return {"task": task.name, "neighbors": neighbors, "refused": refused}, "\n".join(lines)

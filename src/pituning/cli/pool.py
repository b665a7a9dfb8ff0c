"""List, show, add, remove or verify the experts of a pool."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from pituning.cli.terminal import table
from pituning.errors import PoolError
from pituning.expert import Expert
from pituning.pool import Pool

EXAMPLE = "pituning pool list pool"


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("action", choices=("list", "show", "add", "remove", "verify"))
    parser.add_argument("pool", metavar="POOL", help="pool folder")
    parser.add_argument(
        "expert", metavar="EXPERT", nargs="?", help="a name for show and remove, an adapter folder for add"
    )
    parser.add_argument("--name", help="add: the expert's name in the pool (default: its own)")
    parser.add_argument("--replace", action="store_true", help="add: replace the expert of that name")


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Dispatch."""
    if options.action in ("show", "add", "remove") and not options.expert:
        raise PoolError(
            f"`pool {options.action}` needs an expert", "none", f"pituning pool {options.action} POOL EXPERT"
        )
    if options.action in ("list", "verify") and options.expert:
        raise PoolError(
            f"`pool {options.action}` looks at all experts", repr(options.expert), "Leave it out."
        )
    if options.action == "add":
        return _add(options)
    pool = Pool(options.pool)
    if options.action == "list":
        return _list(pool)
    if options.action == "show":
        card = asdict(pool.get(options.expert).card)
        return card, "\n".join(f"{key}: {value}" for key, value in card.items())
    if options.action == "remove":
        pool.remove(options.expert)
        return {"removed": options.expert}, f"removed {options.expert!r}"
    faults = pool.verify()
    return {"faults": faults}, "\n".join(faults) or f"{len(pool)} experts, no faults"


def _add(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    expert = Expert.load(options.expert)
    expert = expert.renamed(options.name) if options.name else expert
    Pool.check_name(expert.name)
    Pool.create(options.pool).add(expert, replace=options.replace)  # last: a mistake leaves no empty pool
    text = f"added {expert.name!r} to {options.pool}; embed it before it is predicted"
    return {"added": expert.name}, text


def _list(pool: Pool) -> tuple[dict[str, Any], str]:
    experts = {name: pool.get(name) for name in pool}
    listed = [
        {
            "name": name,
            "task": expert.card.task,
            "method": expert.method,
            "scores": dict(expert.card.scores),
            "embedded": pool.has_embedding(name),
        }
        for name, expert in experts.items()
    ]
    rows = [
        (
            str(entry["name"]),
            str(entry["task"]),
            str(entry["method"]),
            " ".join(f"{k} {v:.4f}" for k, v in experts[str(entry["name"])].card.scores.items()),
            "yes" if entry["embedded"] else "no",
        )
        for entry in listed
    ]
    text = table(str(pool.path), ("expert", "task", "method", "scores", "embedded"), rows)
    return {"pool": str(pool.path), "init_seed": pool.init_seed, "experts": listed}, text

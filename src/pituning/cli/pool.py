"""Build a pool of many tasks; list, show, add, remove or verify its experts; push and pull them."""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from pituning.building import obstacles
from pituning.cli import pool_build, pool_share
from pituning.cli.backbones import add_backbone_options, backbone_for
from pituning.cli.embed import as_trained
from pituning.cli.recipes import add_recipe_option
from pituning.cli.tasks import pool_named, require_own_pool, task_named
from pituning.cli.terminal import progress_wanted, table
from pituning.errors import PituningError, PoolError, StaleEmbeddingError
from pituning.expert import Expert, adopt
from pituning.manifest import MANIFEST
from pituning.pool import Pool
from pituning.predict import TaskEmbedding, embed
from pituning.predict.embedding import EMBEDDING

log = logging.getLogger(__name__)

EXAMPLE = "pituning pool list pool"

USED_BY = {
    "--backbone": ("add", "build"),
    "--dtype": ("add", "build"),
    "--recipe": ("build",),
    "--name": ("add",),
    "--task": ("add",),
    "--replace": ("add", *pool_share.ACTIONS),
    "--repair": ("verify",),
    "--method": ("build",),
    "--engine": ("build",),
    "--address": ("build",),
    "--cpus": ("build",),
    "--to": pool_share.ACTIONS,
    "--from": pool_share.ACTIONS,
    "--revision": ("pull",),
}
"""Options -> the actions that take them."""

ACTIONS = ("list", "show", "add", "remove", "verify", "build", *pool_share.ACTIONS)


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("pool", metavar="POOL", help="pool folder; mini20 to list, show or verify")
    parser.add_argument(
        "items",
        metavar="EXPERT|TASK",
        nargs="*",
        help="a name for show and remove, an adapter folder for add, for build task folders, mini20/NAME or "
        "mini20 (all twenty), for push and pull names (default: all)",
    )
    add_backbone_options(parser, actions="build, add: ")
    add_recipe_option(parser)
    parser.add_argument("--name", help="add: the expert's name in the pool (default: its own)")
    parser.add_argument("--task", help="add: the task it was trained on, to embed it")
    parser.add_argument(
        "--replace", action="store_true", help="add, push, pull: replace the expert of that name"
    )
    parser.add_argument(
        "--repair",
        action="store_true",
        help="verify: mend what can be mended; damaged experts are moved to POOL/.quarantine",
    )
    pool_build.configure(parser)
    pool_share.configure(parser)


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Dispatch."""
    given = len(options.items)
    if options.action in ("show", "add", "remove") and given != 1:
        raise PoolError(
            f"`pool {options.action}` takes one expert",
            f"{given}",
            f"pituning pool {options.action} POOL EXPERT",
        )
    if options.action in ("list", "verify") and given:
        raise PoolError(
            f"`pool {options.action}` looks at all experts", " ".join(options.items), "Leave them out."
        )
    values = vars(options) | {"from": options.source}
    unused = [option for option, actions in USED_BY.items() if options.action not in actions]
    idle = [option for option in unused if not any(values[option.strip("-")] is no for no in (None, False))]
    if idle:
        must = f"`pool {options.action}` takes its own options"
        raise PoolError(must, " ".join(idle), "Leave it out.")
    if options.action == "build":
        return pool_build.run(options)
    if options.action == "add":
        return _add(options)
    if options.action in pool_share.ACTIONS:
        return pool_share.run(options)
    if options.action == "remove" or options.repair:
        require_own_pool(options.pool)
    pool = pool_named(options.pool)
    if options.action == "list":
        return _list(pool)
    if options.action == "show":
        # As JSON has it: YAML would write a tuple as Python's.
        card = json.loads(json.dumps(asdict(pool.get(options.items[0]).card)))
        told = yaml.safe_dump(card, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
        return card, told.rstrip()
    if options.action == "remove":
        pool.remove(options.items[0])
        return {"removed": options.items[0]}, f"removed {options.items[0]!r}"
    return _verify(pool, options.repair)


def _verify(pool: Pool, repair: bool) -> tuple[dict[str, Any], str]:
    """The exit code is 2 if faults remain."""
    repaired = {"repaired": pool.repair()} if repair else {}
    faults = pool.verify()
    lines = [f"repaired: {line}" for line in repaired.get("repaired", ())]
    lines += faults or [f"{len(pool)} experts, no faults"]
    return {**repaired, "faults": faults}, "\n".join(lines)


def _add(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Admit an adapter of any origin, checked on its --backbone and embedded on its --task."""
    require_own_pool(options.pool)
    expert = Expert.load(options.items[0])
    expert = expert.renamed(options.name) if options.name else expert
    Pool.check_name(expert.name)
    there = Pool(options.pool) if (Path(options.pool) / MANIFEST).is_file() else None
    if there is not None:
        there.check_free(expert.name, replace=options.replace)
    embedding = backbone = None
    if options.dtype and not (options.backbone or options.task):
        raise PoolError("--dtype is of a backbone", "there is none", "Give --backbone, or leave it out.")
    if options.backbone or options.task:
        backbone = backbone_for(expert, options)
        _tell_other(expert, backbone.name)
        task = task_named(options.task) if options.task else None
        expert = adopt(expert, backbone, task)
        if task is not None:
            task = as_trained(task, expert, None)
            seed = 0 if there is None else there.init_seed
            bar = progress_wanted(options.json)
            embedding = embed(backbone, expert, task, init_seed=seed, progress=bar)
    if embedding is None:
        embedding = _embedding_beside(expert, Path(options.items[0]))
    pool = Pool.create(options.pool)  # last: a mistake leaves no empty pool
    pool.add(expert, embedding, replace=options.replace)
    reasons = obstacles(expert, pool, backbone)
    spaces = [space for space, reason in reasons.items() if not reason]
    lines = [
        f"added {expert.name!r} to {options.pool}; it can be mixed in {' and '.join(spaces) or 'no'} space",
        *(f"not in {space} space: {reason}" for space, reason in reasons.items() if reason),
    ]
    if expert.card.backbone.startswith("?"):
        lines.append("not checked on a model: give --backbone")
    if embedding is None:
        lines.append(
            "not embedded, so it is no neighbour yet: give --task and --backbone, or `pituning embed`"
        )
    document = {"added": expert.name, "embedded": embedding is not None, "spaces": spaces}
    return document | {"reasons": {space: why for space, why in reasons.items() if why}}, "\n".join(lines)


def _embedding_beside(expert: Expert, folder: Path) -> TaskEmbedding | None:
    """Of a folder of a pool; one that is of no use is told and left out."""
    if not (folder / EMBEDDING).is_file():
        return None
    try:
        embedding = TaskEmbedding.load(folder / EMBEDDING)
        embedding.check_fresh(expert)
    except StaleEmbeddingError as fault:
        log.warning("added without its embedding: %s", fault)
        return None
    return embedding


def _tell_other(expert: Expert, backbone: str) -> None:
    """Say where an adapter from elsewhere names another model: shapes alone do not tell them apart."""
    named = str(expert.config.base_model_name_or_path or "")
    if expert.card.backbone.startswith("?") and named and Path(named).name != Path(backbone).name:
        log.warning("%s names %s as its model; it is taken as one of %s", expert.name, named, backbone)


def _list(pool: Pool) -> tuple[dict[str, Any], str]:
    """The exit code is 2 if one cannot be read; the others are told all the same."""
    listed, rows, faults, idle = [], [], [], []
    for name in pool:
        try:
            expert, embedding = pool.read(name)
        except PituningError as fault:
            faults.append(str(fault))
            continue
        facts = {"name": name, "task": expert.card.task, "method": expert.method}
        scores, at = dict(expert.card.scores), embedding.at if embedding else "no"
        listed.append(facts | {"scores": scores, "embedded": embedding is not None, "at": at})
        rows.append((*facts.values(), " ".join(f"{k} {v:.4f}" for k, v in scores.items()), at))
        idle += [name] if expert.untrained else []
    text = table(str(pool.path), ("expert", "task", "method", "scores", "embedded at"), rows)
    lines = [text, *faults]
    lines += [f"no neighbours, as training made none of them better: {', '.join(idle)}"] if idle else []
    document = {"pool": str(pool.path), "init_seed": pool.init_seed, "experts": listed, "faults": faults}
    return document, "\n".join(lines)

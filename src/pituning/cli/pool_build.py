"""`pituning pool build`: an expert and an embedding for each task that the pool has none of."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pituning.building import BuildError, Engine, build_pool, in_process
from pituning.cli.backbones import given_backbone
from pituning.cli.recipes import recipe_of
from pituning.cli.tasks import look_over, members, require_own_pool, task_named
from pituning.cli.terminal import progress_wanted
from pituning.errors import ConfigError, PituningError, PoolError, TaskError
from pituning.manifest import MANIFEST
from pituning.methods import METHOD_NAMES
from pituning.pool import Pool
from pituning.task import Task
from pituning.train import TrainConfig, check_training


def configure(parser: argparse.ArgumentParser) -> None:
    """The options that no other action has."""
    group = parser.add_argument_group("build")
    group.add_argument("--seed", type=int, help="of training (default: 0)")
    group.add_argument("--method", help=f"{', '.join(METHOD_NAMES)}, or a PEFT adapter_config.json")
    group.add_argument(
        "--engine",
        choices=("process", "ray"),
        help="what trains: this process, or Ray's workers, one task each (default: process)",
    )
    group.add_argument(
        "--address", metavar="HOST:PORT|auto", help="ray: a running cluster (default: this machine alone)"
    )
    group.add_argument("--cpus", type=int, metavar="INT", help="ray: CPUs and threads of a task (default: 1)")


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Train and embed what is missing; exit code 2 if a task has a fault."""
    if not options.items or not options.backbone:
        missing = "no task" if not options.items else "no --backbone"
        fix = "pituning pool build POOL TASK... --backbone minilm"
        raise PoolError("`pool build` takes tasks and their --backbone", missing, fix)
    require_own_pool(options.pool)
    tasks = _sound([name for item in options.items for name in members(item)])
    recipe = recipe_of(options)
    given = {name: getattr(options, name) for name in ("method", "seed")}
    told = {name: value for name, value in given.items() if value is not None}
    config = TrainConfig(**{**recipe.train, **told})
    engine = _engine(options)
    here = "cpu" if options.engine == "ray" else None  # a GPU is the workers'
    backbone = given_backbone(options, recipe.model, here)
    for task in tasks:
        backbone.check(task)
    check_training(backbone, config, tasks[0], new=not (Path(options.pool) / MANIFEST).is_file())
    pool = Pool.create(options.pool, init_seed=config.init_seed)  # last: a mistake leaves no empty pool
    start = time.perf_counter()
    try:
        built = build_pool(
            pool, backbone, tasks, config, engine=engine, progress=progress_wanted(options.json)
        )
    except BuildError as error:
        built = error.built
    faults = [f"{task}: {fault}" for task, fault in built.faults.items()]
    document = {
        "built": built.names,
        "pool": str(options.pool),
        "experts": list(pool),
        "engine": options.engine or "process",
        "retries": built.retries,
        "seconds": round(time.perf_counter() - start, 2),
    }
    there = len(tasks) - len(built.names) - len(faults)
    done = f"built {len(built.names)} of {len(tasks)} in {document['seconds']} s, {there} were there"
    again = f"; {built.retries} were begun again" if built.retries else ""
    lines = [*faults, f"{done}{again}; {options.pool} holds {len(pool)}"]
    return document | ({"faults": faults} if faults else {}), "\n".join(lines)


def _sound(names: Sequence[str]) -> list[Task]:
    """The tasks, or one error with the faults of all."""
    tasks, faults = [], []
    for name in names:
        try:
            task = task_named(name)
            Pool.check_name(task.name)
            look_over(task)
            tasks.append(task)
        except PituningError as fault:
            given = fault.given if name in fault.given else f"{name}: {fault.given}"
            faults.append(TaskError(fault.must, given, fault.fix))
    TaskError.collect(faults)
    return tasks


def _engine(options: argparse.Namespace) -> Engine:
    if options.engine == "ray":
        from pituning.ray_engine import ray_engine  # lazy: only this engine needs it

        return ray_engine(options.address, cpus=1 if options.cpus is None else options.cpus)
    if options.address is not None or options.cpus is not None:
        given = "--address" if options.address is not None else "--cpus"
        raise ConfigError(
            "--address and --cpus are those of Ray", given, "Add --engine ray, or leave it out."
        )
    return in_process

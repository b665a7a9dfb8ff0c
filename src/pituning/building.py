"""Fill a pool: an expert and an embedding for each task, or adapters that were trained elsewhere."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NoReturn, final, get_args

from tqdm import tqdm

from pituning.backbones import Backbone
from pituning.distributed import from_first, is_first
from pituning.errors import PituningError, PoolError
from pituning.expert import Expert
from pituning.interpolate.compatible import Space, foreign_to, obstacle, obstacles_alone, trained_beyond
from pituning.neighborhood import neighborhood_of
from pituning.places import alone_in
from pituning.pool import Pool
from pituning.predict import FisherConfig, embed
from pituning.store import WORK
from pituning.task import Task
from pituning.train import TrainConfig, train_expert

log = logging.getLogger(__name__)


def add_expert(
    pool: Pool,
    backbone: Backbone,
    task: Task,
    config: TrainConfig,
    fisher: FisherConfig | None = None,
    *,
    like: Expert | None = None,
    name: str | None = None,
    resume: bool = True,
    overwrite: bool = False,
    progress: bool = False,
) -> Expert:
    """Train an expert of `task` from the pool's initialisation, embed it, and put both into the pool.

    Checkpoints lie in the pool's folder until the expert is there; with `resume`, a killed run goes on.
    Another process that trains an expert of that name is waited for.
    `like`, the pool's typical expert, is whose configuration `train_expert` takes where none is named.
    Called by all processes of a group, it trains with all; the first embeds and writes.

    Raises:
        PituningError: for whatever the user can mend; see `pituning.errors`.
    """
    name = name or task.name
    pool.check_name(name)
    workdir = Path(pool.path) / f"{WORK}{name}"

    def admitted() -> None:
        if expert.untrained:
            why = "no epoch validates better than the untrained adapter, so it will be no neighbour"
            log.warning("%s: %s; try another learning rate, or more epochs and patience", name, why)
        embedding = embed(backbone, expert, task, fisher, progress=progress)
        pool.add(expert, embedding, replace=overwrite)
        shutil.rmtree(workdir, ignore_errors=True)

    with alone_in(workdir) if is_first() else nullcontext():
        from_first(partial(pool.check_free, name, replace=overwrite))
        expert = train_expert(
            backbone,
            task,
            replace(config, init_seed=pool.init_seed),
            name=name,
            like=like,
            workdir=workdir,
            resume=resume,
            progress=progress,
        )
        from_first(admitted)
    return expert


@dataclass(frozen=True)
class Plan:
    """What an engine is to build.

    Attributes:
        pool: where the experts go.
        backbone: frozen.
        tasks: of different names; the pool has an expert of none.
        config: of every expert's training.
        like: the pool's typical expert when the build began. It is the same for all, so what comes out does
            not depend on the order in which experts are finished.
    """

    pool: Pool
    backbone: Backbone
    tasks: Sequence[Task]
    config: TrainConfig
    like: Expert | None


@dataclass(frozen=True)
class Outcome:
    """How one task ended.

    Attributes:
        task: its name.
        fault: what the user must mend; None where the expert is in the pool.
        retries: times that it was begun again because its process or machine was lost.
    """

    task: str
    fault: PituningError | None = None
    retries: int = 0


Outcomes = Generator[Outcome, None, None]  # closed before its end, it stops what it has begun

# Builds what is planned and tells how each task ended, as soon as it has; the flag asks for progress bars.
Engine = Callable[[Plan, bool], Outcomes]


@dataclass(frozen=True)
class Built:
    """What a build did.

    Attributes:
        names: experts that it added, in the order of the tasks.
        faults: task -> what the user must mend.
        retries: tasks begun again because their process or machine was lost.
    """

    names: list[str]
    faults: Mapping[str, PituningError] = field(default_factory=dict)
    retries: int = 0


@final
class BuildError(PoolError):
    """Tasks that could not be built; `built` has their faults, and the experts that are there now."""

    def __init__(self, built: Built) -> None:
        self.built = built
        faults = built.faults
        super().__init__(
            " and ".join(dict.fromkeys(fault.must for fault in faults.values())),
            "; ".join(f"{task}: {fault.given}" for task, fault in faults.items()),
            " ".join(dict.fromkeys(fault.fix for fault in faults.values())),
        )

    def __reduce__(self) -> tuple[type[PituningError], tuple[object, ...]]:
        return type(self), (self.built,)


def build_expert(plan: Plan, task: Task, *, progress: bool = False) -> None:
    """Build one expert of a plan, unless another process has meanwhile; that process is waited for.

    Raises:
        PituningError: for whatever the user can mend.
    """
    try:
        add_expert(plan.pool, plan.backbone, task, plan.config, like=plan.like, progress=progress)
    except PoolError:
        if task.name not in plan.pool:
            raise


def in_process(plan: Plan, progress: bool) -> Outcomes:
    """The default engine: one task after the other, in this process."""
    for task in plan.tasks:
        try:
            build_expert(plan, task, progress=progress)
            yield Outcome(task.name)
        except PituningError as fault:
            yield Outcome(task.name, fault)


def build_pool(
    pool: Pool,
    backbone: Backbone,
    tasks: Iterable[Task],
    config: TrainConfig,
    *,
    engine: Engine = in_process,
    progress: bool = False,
) -> Built:
    """An expert for each task that the pool has none of; run again, it goes on where it stopped.

    Args:
        pool: several builds may fill it at the same time.
        backbone: frozen.
        tasks: each of a name of its own; an expert that the pool has stays, with a warning where it is of
            other data, another method or another backbone.
        config: of every expert's training; the seed of the initialisation is the pool's.
        engine: what builds them: `in_process`, or one that `pituning.ray_engine.ray_engine` makes. The
            experts are the same.
        progress: show bars on stderr.

    Raises:
        BuildError: if a task has a fault that the user can mend. The others were built nevertheless.
        PoolError: if two tasks of other data have one name, or every expert of the pool was trained on
            another backbone.
    """
    wanted = by_name(tasks)
    around = neighborhood_of(pool)
    missing = [task for name, task in wanted.items() if name not in around.experts]
    for name, task in wanted.items():
        unlike = _unlike(around.experts[name], task, backbone, config) if name in around.experts else ""
        if unlike:
            log.warning("%s: the pool's expert is of %s, and stays; remove it to train another", name, unlike)
    if not missing:
        return Built([])
    plan = Plan(pool, backbone, missing, config, around.typical(backbone))
    there = len(wanted) - len(missing)
    with tqdm(total=len(wanted), initial=there, desc="experts", disable=not progress) as bar:
        built = _consumed(engine(plan, progress), bar, len(missing))
    order = [task.name for task in missing]
    built = replace(built, names=sorted(built.names, key=order.index))
    if built.faults:
        raise BuildError(built)
    return built


def by_name(tasks: Iterable[Task]) -> dict[str, Task]:
    """Each task once, by its name.

    Raises:
        PoolError: if two of other data have one name, or a name cannot be a file's.
    """
    found: dict[str, Task] = {}
    for task in tasks:
        Pool.check_name(task.name)
        first = found.setdefault(task.name, task)
        if first is not task and first.fingerprint != task.fingerprint:
            fix = "Give one of them another name in its task file."
            raise PoolError("tasks have different names", f"two are called {task.name!r}", fix)
    return found


def _unlike(expert: Expert, task: Task, backbone: Backbone, config: TrainConfig) -> str:
    """What an expert of the pool is not as one built now would be; "" where it is."""
    made, method = expert.card.recipe.get("method"), config.method and Path(config.method).name
    different = {
        "other data": expert.card.data != task.fingerprint,
        f"the method {made}": made and method and made != method,
        "another backbone": foreign_to(expert, backbone),
    }
    return " and ".join(what for what, is_so in different.items() if is_so)


def _consumed(outcomes: Outcomes, bar: tqdm[NoReturn], count: int) -> Built:
    """What came of so many tasks, as they ended."""
    names: list[str] = []
    faults: dict[str, PituningError] = {}
    retries = 0
    with closing(outcomes):
        for outcome in outcomes:
            retries += outcome.retries
            done = len(names) + len(faults) + 1
            end = "failed" if outcome.fault else "is in the pool"
            log.info("%s %s: %d of %d", outcome.task, end, done, count)
            if outcome.fault:
                faults[outcome.task] = outcome.fault
            else:
                names.append(outcome.task)
            failed = f"{', '.join(faults)} failed; " if faults else ""
            bar.set_postfix_str(f"{failed}{retries} retries")
            bar.update()
    return Built(names, faults, retries)


def obstacles(expert: Expert, pool: Pool, backbone: Backbone | None = None) -> dict[Space, str]:
    """Space -> why the expert cannot be mixed there with any of the pool's (the first thousand of them).

    "" where it can, with itself at least where the pool has none that can be mixed there at all. A backbone
    tells which modules are a task's head.
    """
    spaces: tuple[Space, ...] = get_args(Space)
    alike: dict[Space, list[str]] = {space: [] for space in spaces}  # those of its method say more
    unlike: dict[Space, list[str]] = {space: [] for space in spaces}
    for name in [name for name in pool if name != expert.name][:1000]:
        try:
            other = pool.get(name)  # one by one: they may be large
        except PituningError:  # it is no neighbour either, and `verify` tells
            continue
        kind = alike if other.method == expert.method else unlike
        for space in spaces:
            if not obstacles_alone(other, space):
                kind[space].append(obstacle(expert, other, space))
    found = {}
    for space in spaces:
        told = [*alike[space], *unlike[space]] or [obstacle(expert, expert.renamed(expert.name), space)]
        found[space] = "" if "" in told else told[0]
    if backbone and not found["delta"]:
        found["delta"] = "".join(trained_beyond(expert, backbone.head_modules(backbone.model)))
    return found

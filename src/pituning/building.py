"""Fill a pool: an expert and an embedding for each task, or adapters that were trained elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import get_args

from pituning.backbones import Backbone
from pituning.expert import Expert, attach_expert
from pituning.interpolate.compatible import Space, obstacle
from pituning.neighborhood import Neighborhood
from pituning.pool import Pool
from pituning.predict import FisherConfig, embed
from pituning.store import WORK
from pituning.task import Task
from pituning.train import TrainConfig, train_expert


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
    `like`, the pool's typical expert, is whose configuration `train_expert` takes where none is named.

    Raises:
        PituningError: for whatever the user can mend; see `pituning.errors`.
    """
    name = name or task.name
    workdir = Path(pool.path) / f"{WORK}{name}"
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
    embedding = embed(backbone, expert, task, fisher, progress=progress)
    pool.add(expert, embedding, replace=overwrite)
    shutil.rmtree(workdir, ignore_errors=True)
    return expert


def build_pool(
    pool: Pool,
    backbone: Backbone,
    tasks: Iterable[Task],
    config: TrainConfig,
    *,
    progress: bool = False,
) -> list[str]:
    """An expert for each task that the pool has none of; run again, it goes on where it stopped.

    Returns:
        The names of the experts that were built.

    Raises:
        PituningError: for whatever the user can mend; what was finished stays in the pool.
    """
    built = []
    like: Expert | None = None  # read once: each new expert is of the configuration that is typical already
    for task in tasks:
        if task.name not in pool:
            like = like or Neighborhood.of(pool).typical(backbone)
            expert = add_expert(pool, backbone, task, config, like=like, progress=progress)
            like = like or expert
            built.append(task.name)
    return built


def adopt(expert: Expert, backbone: Backbone, task: Task | None = None) -> Expert:
    """An adapter that fits the backbone; the card of one trained elsewhere gets what backbone and task tell.

    Raises:
        ExpertError: if its tensors are not those that its configuration has on this backbone.
    """
    card = expert.card
    if card.backbone.startswith("?"):
        card = replace(card, backbone=backbone.fingerprint, backbone_name=backbone.name)
        if task is not None:
            card = replace(
                card,
                task=task.name,
                source=task.source,
                modality=task.modality,
                metric=task.metric,
                labels=list(task.candidates),
            )
    adopted = Expert(card, expert.config, expert.tensors)
    attach_expert(backbone, adopted)
    return adopted


def obstacles(expert: Expert, pool: Pool) -> dict[Space, str]:
    """Space -> why the expert cannot be mixed there with any of the pool's (the first thousand of them).

    "" where it can.
    """
    names = [name for name in pool if name != expert.name][:1000]
    others = [pool.get(name) for name in names] or [expert.renamed("others")]
    found: dict[Space, str] = {}
    for space in get_args(Space):
        reasons = [obstacle(expert, other, space) for other in others]
        found[space] = "" if "" in reasons else reasons[0]
    return found

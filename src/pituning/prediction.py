"""The first half of the recipe: train the target's own expert, and predict which of a pool should help it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

from pituning.backbones import Backbone
from pituning.captions import JAVA, require_java
from pituning.distributed import from_first
from pituning.errors import ExpertError
from pituning.expert import Expert, adopt
from pituning.foundation import require_one_device
from pituning.interpolate.compatible import Space
from pituning.mixing import Mixing, PiConfig
from pituning.neighborhood import Neighborhood, neighborhood_of, tell_fewer
from pituning.pool import Pool
from pituning.predict import Neighbor, TaskEmbedding, embed
from pituning.stages import Stages
from pituning.task import Task
from pituning.train import TrainConfig, train_expert

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """The target's own expert, and the experts of a pool that should help it.

    Attributes:
        target: the task with its shots.
        own: the target's own expert.
        new_expert: makes another like it, of a task and a TrainConfig; None where it was given, for one that
            was trained elsewhere is not judged by others in its place.
        around: the experts of the pool.
        embedding: of the target.
        refused: expert -> why it can be no neighbour; of the target's own task, too.
        neighbors: the k most alike.
        config: of the whole recipe, as the own expert was trained.
        after: seconds until there was each of expert and neighbors.
    """

    target: Task
    own: Expert
    new_expert: Callable[..., Expert] | None
    around: Neighborhood
    embedding: TaskEmbedding
    refused: Mapping[str, str]
    neighbors: list[Neighbor]
    config: PiConfig
    after: Mapping[str, float]

    @property
    def names(self) -> list[str]:
        """Of the neighbours."""
        return [neighbor.name for neighbor in self.neighbors]

    @cached_property
    def similarity(self) -> dict[str, dict[str, float]]:
        """See `PiResult`."""
        k, space = self.config.k, self.config.space
        return self.around.similarity(self.own.name, self.embedding, k=k, space=space, without=self.refused)

    @cached_property
    def others(self) -> list[Expert]:
        """See `PiResult`."""
        k, space = self.config.k, self.config.space
        return self.around.others(self.embedding, k, space=space, without=self.refused)

    @property
    def refused_others(self) -> dict[str, str]:
        """Those refused, but for the experts of the target's own task."""
        return self.around.refused_others(self.refused, self.embedding)

    def mixing(self, backbone: Backbone) -> Mixing:
        """The own expert and those of the pool, as the configuration mixes them."""
        return Mixing(backbone, self.own, self.around.experts, self.config, self.new_expert)


def predicted(
    backbone: Backbone,
    task: Task,
    pool: Pool,
    config: PiConfig,
    *,
    expert: Expert | None = None,
    stages: Stages | None = None,
    must_mix: bool = True,
) -> Prediction:
    """Stages 1 and 2 of `pi_tune`, whose arguments these are.

    With `must_mix`, what can be mixed with none of the pool is refused before it is trained.
    """
    if task.metric in JAVA:
        require_java(task.metric)
    require_one_device(backbone.model)
    stages = stages or Stages()
    target = task.sample(config.shots, config.seed) if config.shots else task
    around = neighborhood_of(pool)
    around.check_manner(config.fisher)

    # 1. Expert: the target's own, from the pool's initialisation.
    training = replace(config.train, init_seed=pool.init_seed)
    like = around.typical(backbone, config.space)
    new = partial(train_expert, backbone, name=f"target:{task.name}", like=like)
    untrained = partial(new, replace(target, validation=()), replace(training, epochs=0))
    given = _adopted(expert, backbone, task, target) if expert else None
    if must_mix:
        _require_mixable(given or untrained(), target, around, config.space)
    sizes = f"{len(target.train)} examples, with {len(target.validation)} others to validate on"
    shape = f", configured as {like.name} is" if like and not (expert or training.method) else ""
    log.info("expert: %s the task's own on %s%s", "taking" if expert else "training", sizes, shape)
    own = given or new(target, training, **stages.options("expert"))
    stages.done("expert")

    # 2. Predict: the tasks of the pool that are most like it.
    log.info("predict: embedding the task, and looking for neighbours")
    learns = config.fisher.where == "expert" or backbone.head_modules(backbone.model)
    point = _trained_once(own, target, training, new) if learns else own
    seed, shown = pool.init_seed, stages.progress
    embedding = from_first(
        partial(embed, backbone, point, target, config.fisher, init_seed=seed, progress=shown)
    )
    refused = around.refusals(own, embedding, config.space)
    neighbors = around.nearest(embedding, config.k, space=config.space, without=refused)
    tell_fewer(neighbors, config.k)
    stages.done("neighbors")
    return Prediction(
        target=target,
        own=own,
        new_expert=None if expert else new,
        around=around,
        embedding=embedding,
        refused=refused,
        neighbors=neighbors,
        config=replace(config, train=training),
        after=dict(stages.after),
    )


def _require_mixable(own: Expert, target: Task, around: Neighborhood, space: Space) -> None:
    """Raise ExpertError where an expert like the target's own can be mixed with none of the pool's."""
    reasons = [*around.obstacles(own.renamed("the task's own"), target, space).values()]
    if reasons and all(reasons):
        fix = "Leave a method or --expert that is given out; or mix plain LoRA experts with `--space delta`."
        if space == "delta":
            fix = "Take plain LoRA for all, or leave `--space delta` out."
        must = f"the task's own expert must be of a kind with the pool's, to be mixed in {space} space"
        told = [*dict.fromkeys(reasons)]
        more = [f"and {len(told) - 3} more reasons"] if len(told) > 3 else []
        raise ExpertError(must, "; ".join([*told[:3], *more]), fix)


def _trained_once(own: Expert, target: Task, config: TrainConfig, new: Callable[..., Expert]) -> Expert:
    """What embeds the task: an expert that was best untrained says nothing of it, one epoch does."""
    if config.epochs and own.untrained:
        return new(target, replace(config, method=None, epochs=1), like=own, may_keep_start=False)
    return own


def _adopted(expert: Expert, backbone: Backbone, task: Task, target: Task) -> Expert:
    """An expert that was trained before, as the target's own; `target` has the shots of `task`.

    Raises:
        ExpertError: it is of another backbone, task or answers, or may have seen what is to validate it.
    """
    own, fix = adopt(expert, backbone, target), "Leave it out, and one is trained."
    faults = [] if own.card.task == task.name else [f"{expert.name} is of the task {own.card.task}"]
    if not backbone.answers(own.card.labels, task):
        faults.append(f"{expert.name} answers {', '.join(own.card.labels) or 'freely'}")
    if faults:
        raise ExpertError(f"the own expert must fit {task.name}", "; ".join(faults), fix)
    if target.validation and not task.validation and own.card.data != target.fingerprint:
        given = (
            f"{task.name} has no validation split, and {expert.name} may have seen all that is in training"
        )
        raise ExpertError("examples that validate are not trained on", given, fix)
    return own.renamed(f"target:{task.name}")

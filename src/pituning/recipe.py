"""π-Tuning: predict which experts help, interpolate them with the target's own, write one plain adapter."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from pituning.backbones import Backbone
from pituning.captions import JAVA, require_java
from pituning.distributed import from_first
from pituning.errors import ExpertError
from pituning.expert import Expert, adopt
from pituning.interpolate import tune
from pituning.interpolate.compatible import Space, obstacle
from pituning.mixing import Mixing, PiConfig
from pituning.neighborhood import Neighborhood, tell_fewer
from pituning.pool import Pool
from pituning.predict import embed
from pituning.result import PiResult
from pituning.selection import best_of, tested
from pituning.stages import Stages
from pituning.task import Task
from pituning.train import TrainConfig, train_expert

log = logging.getLogger(__name__)


def pi_tune(
    backbone: Backbone,
    task: Task,
    pool: Pool,
    config: PiConfig | None = None,
    *,
    expert: Expert | None = None,
    workdir: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> PiResult:
    """Predict-Interpolate Tuning (Wu et al., ICML 2023); nothing of `task`'s own is taken from `pool`.

    Only the target's training and validation examples choose anything; with `shots`, there are at most as
    many of the second as of the first. The test split is read once, at the end. Checkpoints are kept in
    `workdir`; with `resume`, an interrupted run goes on from them.

    The target's own expert is trained first, or it is `expert`: trained before on this task, not on
    its validation examples, and from the pool's initialisation where it is mixed in parameter space.

    Called by all processes of a group, it shares each training batch out among them; all get one's result.

    Raises:
        PituningError: for whatever the user can mend; see `pituning.errors`.
    """
    config = config or PiConfig()
    if task.metric in JAVA:
        require_java(task.metric)
    target = task.sample(config.shots, config.seed) if config.shots else task
    around, stage = Neighborhood.of(pool), Stages(workdir, resume, progress)
    around.check_manner(config.fisher)

    # 1. Expert: the target's own, from the pool's initialisation.
    sizes = f"{len(target.train)} examples, with {len(target.validation)} others to validate on"
    log.info("expert: %s the task's own on %s", "taking" if expert else "training", sizes)
    training = replace(config.train, init_seed=pool.init_seed)
    new = partial(train_expert, backbone, name=f"target:{task.name}", like=around.typical(backbone))
    own = _adopted(expert, backbone, task, target) if expert else new(target, training, **stage("expert"))
    stage.done("expert")

    # 2. Predict: the tasks of the pool that are most like it.
    log.info("predict: embedding the task, and looking for neighbours")
    learns = config.fisher.where == "expert" or backbone.head_modules(backbone.model)
    learnt = _learnt(own, target, training, new) if learns else own
    embedding = from_first(
        lambda: embed(backbone, learnt, target, config.fisher, init_seed=pool.init_seed, progress=progress)
    )
    refused = around.refusals(own, embedding, config.space)
    neighbors = around.nearest(embedding, config.k, space=config.space, without=refused)
    if expert and not neighbors:
        _require_mixable(own, (around.experts[name] for name in refused), config.space)
    tell_fewer(neighbors, config.k)
    stage.done("neighbors")

    # 3. Interpolate: learn the weights and the experts on the target.
    new_expert = None if expert else new  # one that was given is not judged by others in its place
    mixing = Mixing(backbone, own, around.experts, replace(config, train=training), new_expert)
    names = [neighbor.name for neighbor in neighbors]
    untuned = mixing.as_they_are(names, target)
    choose = partial(mixing.begin, names, target, untuned, progress=progress)
    mixed_with = [(name, around.experts[name].digest) for name in names]
    begin = stage.once("start", f"{config}{own.digest}{target.fingerprint}{mixed_with}", choose)
    log.info("interpolate: tuning the mixture with %s", ", ".join(names) or "no other")
    mixture = mixing.mixture(names, begin)
    before = mixture.collapse(rank=config.rank)
    tuning = config.tune if names else replace(config.tune, epochs=0)  # alone, it is trained already
    tuned = tune(mixture, target, tuning, **stage("mixture"))

    # 4. Collapse: one plain expert, unless the target's own is clearly better.
    log.info("collapse: comparing the mixture with the task's own expert")
    mixed = mixture.collapse(rank=config.rank)
    verdict = mixing.verdict(mixed, names, begin, target, progress=progress)
    kept = mixed if verdict.kept == "mixture" else own
    stage.done("mixture")
    best = best_of(untuned) or "".join(names[:1])
    neighbor = {"neighbor": mixing.alone(best)} if best else {}
    scored = {"expert": own, **neighbor, "init": before, "pi": kept}
    alike = around.similarity(own.name, embedding, k=config.k, space=config.space, without=refused)
    if task.test:
        log.info("collapse: scoring on %d test examples", len(task.test))
    return PiResult(
        task=task.name,
        metric=task.metric,
        expert=kept.renamed(task.name),
        kept=verdict.kept,
        own=own,
        mixture=mixed,
        history=tuned.history,
        best_epoch=tuned.best_epoch,
        neighbors=neighbors,
        similarity=alike,
        others=around.others(alike[own.name], embedding),
        space=config.space,
        refused=around.told(refused, embedding),
        start=begin,
        weights=tuned.weights,
        weights_by_group=mixture.weights(),
        best_neighbor=best,
        scores=from_first(partial(tested, backbone, task, scored, pool.init_seed)),
        validation={who: one.told for who, one in verdict.found.items()},
        lead=verdict.lead,
        seconds=stage.seconds,
        after=stage.after,
    )


def _require_mixable(own: Expert, others: Iterable[Expert], space: Space) -> None:
    """Raise ExpertError where an own expert that was given cannot be mixed with those of the pool."""
    reasons = [reason for other in others if (reason := obstacle(other, own, space))]
    if reasons:
        fix = "Mix LoRA experts with `space` delta, or leave this one out."
        must = f"the own expert must be of a kind with the pool's, to be mixed in {space} space"
        raise ExpertError(must, reasons[0], fix)


def _learnt(own: Expert, target: Task, config: TrainConfig, new: Callable[..., Expert]) -> Expert:
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

"""π-Tuning: predict which experts help, interpolate them with the target's own, write one plain adapter."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

from pituning.backbones import Backbone
from pituning.distributed import from_first
from pituning.errors import ConfigError
from pituning.expert import Expert
from pituning.interpolate import tune
from pituning.mixing import PiConfig
from pituning.pool import Pool
from pituning.prediction import Prediction, predicted
from pituning.result import PiResult
from pituning.selection import best_of, tested
from pituning.stages import Stages
from pituning.task import Task

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
    many of the second as of the first. The test split is read once, at the end.

    Called by all processes of a group, it shares each training batch out among them; all get one's result.

    Args:
        backbone: frozen; it is left as it was.
        task: the target. Without a validation split (or `shots`) the mixture is kept unchecked.
        pool: experts of other tasks on this backbone, with their embeddings.
        config: see PiConfig.
        expert: the target's own, where there is one: trained before on this task, not on its validation
            examples, and from the pool's initialisation where it is mixed in parameter space.
        workdir: where checkpoints are kept; None keeps none.
        resume: go on from those in `workdir`.
        progress: show bars on stderr.

    Returns:
        The adapter to save, and the reasons for it.

    Raises:
        PituningError: for whatever the user can mend; see `pituning.errors`.

    Example:
        >>> backbone, task = load_backbone("minilm"), load_task("reviews")  # doctest: +SKIP
        >>> result = pi_tune(backbone, task, Pool("pool"), PiConfig(shots=16))  # doctest: +SKIP
        >>> result.expert.save("reviews-pi")  # doctest: +SKIP
    """
    config = PiConfig() if config is None else config
    ConfigError.check_kinds((Backbone, backbone), (Task, task), (Pool, pool), (PiConfig, config))
    if expert is not None:
        ConfigError.check_kinds((Expert, expert))
    backbone.check_smoothing(config.tune.label_smoothing)
    stages = Stages(workdir, resume, progress)
    prediction = predicted(backbone, task, pool, config, expert=expert, stages=stages)
    return interpolated(backbone, task, prediction, stages)


def interpolated(backbone: Backbone, task: Task, prediction: Prediction, stages: Stages) -> PiResult:
    """Stages 3 and 4 of `pi_tune`: from the experts that should help to one."""
    config, own, target, names = prediction.config, prediction.own, prediction.target, prediction.names
    mixing = prediction.mixing(backbone)

    # 3. Interpolate: learn the weights and the experts on the target.
    untuned = mixing.as_they_are(names, target)
    choose = partial(mixing.begin, names, target, untuned, progress=stages.progress)
    mixed_with = [(name, mixing.experts[name].digest) for name in names]
    begin = stages.once("start", f"{config}{own.digest}{target.fingerprint}{mixed_with}", choose)
    log.info("interpolate: tuning the mixture with %s", ", ".join(names) or "no other")
    mixture = mixing.mixture(names, begin)
    before = mixture.collapse(rank=config.rank)
    tuning = config.tune if names else replace(config.tune, epochs=0)  # alone, it is trained already
    tuned = tune(mixture, target, tuning, **stages.options("mixture"))

    # 4. Collapse: one plain expert, unless the target's own is clearly better.
    log.info("collapse: comparing the mixture with the task's own expert")
    mixed = mixture.collapse(rank=config.rank)
    verdict = mixing.verdict(mixed, names, begin, target, progress=stages.progress)
    kept = mixed if verdict.kept == "mixture" else own
    stages.done("mixture")
    best = best_of(untuned) or "".join(names[:1])
    neighbor = {"neighbor": mixing.alone(best)} if best else {}
    scored = {"expert": own, **neighbor, "init": before, "pi": kept}
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
        neighbors=prediction.neighbors,
        similarity=prediction.similarity,
        others=prediction.others,
        space=config.space,
        refused=prediction.refused_others,
        start=begin,
        weights=tuned.weights,
        weights_by_group=mixture.weights(),
        best_neighbor=best,
        scores=from_first(partial(tested, backbone, task, scored, config.train.init_seed)),
        validation={who: one.told for who, one in verdict.found.items()},
        lead=verdict.lead,
        seconds=stages.seconds,
        after=stages.after,
    )

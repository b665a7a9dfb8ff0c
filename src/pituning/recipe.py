"""π-Tuning: predict which experts help, interpolate them with the target's own, write one plain adapter."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, final

from pituning.backbones import Backbone
from pituning.captions import JAVA, require_java
from pituning.distributed import from_first, is_first
from pituning.errors import ExpertError
from pituning.evaluation import Evaluation
from pituning.expert import Expert, adopt
from pituning.interpolate import tune
from pituning.interpolate.compatible import Space, obstacle
from pituning.metrics import METRICS
from pituning.mixing import Mixing, PiConfig
from pituning.neighborhood import Neighborhood, tell_fewer
from pituning.pool import Pool
from pituning.predict import Neighbor, embed
from pituning.selection import Lead, best_of, tested
from pituning.task import Task
from pituning.train import TrainConfig, train_expert

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PiResult:
    """One plain expert, and the reason for it.

    Attributes:
        expert: the collapsed mixture, or the target's own expert where that is clearly better.
        kept: which of the two it is.
        own: the target's own expert; how it was trained is on its card.
        mixture: the collapsed mixture, kept or not.
        history: how the mixture was tuned; see `FitResult`.
        best_epoch: of which the state was kept; 0 is the mixture before tuning.
        similarity: of all pairs of the target (under its own expert's name) and the experts that it could be
            mixed with, one of its own task or data among them.
        others: those of other tasks and other data among these, the most alike first.
        space: in which they are mixed.
        refused: expert of another task -> why it could not be a neighbour.
        start: the neighbour that the mixture was almost equal to before it was tuned; "" of equal weights.
        weights: expert -> its weight in the tuned mixture, averaged over the groups.
        weights_by_group: what shares one weight vector (a module, unless `sharing` is another) -> expert ->
            its weight.
        best_neighbor: the neighbour that is best as it is on labelled examples of the target (see
            `Mixing.unseen`); the nearest where there is no validation, and "" where there is no neighbour.
        scores: metric on the test split: base (no adapter), expert (the target's own), neighbor (the best one
            as it is, under the target's head where there is one), init (the mixture before tuning), pi (the
            result). Empty where the task has no test split.
        validation: the target's own expert and the mixture, as `Evaluation` has it, on the validation
            examples; where those are few and leave it open, on the training examples too, with both trained
            anew on the others (the neighbours and the start stay), unless the own expert was given. Empty
            where there are none; the mixture is then kept.
        lead: of the mixture over the own expert there. The own expert is kept where that is below zero by
            more than its standard error (or, where answers are written freely, where the mixture's score is
            lower: a loss can fall while captions get worse). None where there is no neighbour, or nothing to
            validate on.
        seconds: of all, the test split included.
        after: seconds until there was each of expert (the target's own), neighbors, and mixture (tuned, and
            kept or not).
    """

    task: str
    metric: str
    expert: Expert
    kept: Literal["mixture", "expert"]
    own: Expert
    mixture: Expert
    history: list[dict[str, int | float]]
    best_epoch: int
    neighbors: list[Neighbor]
    similarity: dict[str, dict[str, float]]
    others: list[Expert]
    space: Space
    refused: dict[str, str]
    start: str
    weights: dict[str, float]
    weights_by_group: dict[str, dict[str, float]]
    best_neighbor: str
    scores: dict[str, float]
    validation: dict[str, dict[str, float]]
    lead: Lead | None
    seconds: float
    after: dict[str, float]

    @property
    def decided_by_score(self) -> bool:
        """Whether the own expert is kept for its score alone, of free text."""
        return self.kept == "expert" and self.lead is not None and not self.lead.behind

    @property
    def decided_by(self) -> str:
        """The IoU where boxes are drawn, else the loss; or the metric, of free text whose score is lower."""
        if METRICS[self.metric].gold == "box":
            return "mean_iou"
        return self.metric if self.decided_by_score else "loss"

    @property
    def deciding(self) -> dict[str, float]:
        """What decided, of the target's own expert and of the mixture; see `validation`."""
        if self.decided_by == "loss":
            return {name: -found["negative_loss"] for name, found in self.validation.items()}
        what = "overlap" if self.decided_by == "mean_iou" else "score"
        return {name: found.get(what, 0.0) for name, found in self.validation.items()}


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
    around, stage = Neighborhood.of(pool), _Stages(workdir, resume, progress)
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
    stages = {"expert": own, **neighbor, "init": before, "pi": kept}
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
        scores=from_first(partial(tested, backbone, task, stages, pool.init_seed)),
        validation={who: _told(one) for who, one in verdict.found.items()},
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


def _told(found: Evaluation) -> dict[str, float]:
    """What there is of a validation result, without its examples."""
    told = {"negative_loss": found.negative_loss, "score": found.score, "overlap": found.overlap}
    return {name: value for name, value in told.items() if value is not None}


@final
class _Stages:
    """Where each stage keeps its checkpoints, and how many seconds have passed when it is done."""

    def __init__(self, workdir: str | Path | None, resume: bool, progress: bool) -> None:
        self.workdir = Path(workdir) if workdir else None
        self.resume, self.progress = resume, progress
        self.after: dict[str, float] = {}
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def done(self, name: str) -> None:
        self.after[name] = self.seconds

    def __call__(self, name: str) -> dict[str, Any]:
        folder = self.workdir / name if self.workdir else None
        return {"workdir": folder, "resume": self.resume, "progress": self.progress}

    def once(self, name: str, key: str, choose: Callable[[], str]) -> str:
        """What was chosen before, where a run of the same key goes on; else what is chosen now."""
        file = self.workdir / f"{name}.json" if self.workdir else None
        key = hashlib.sha256(key.encode()).hexdigest()
        known = from_first(lambda: _read(file) if file and self.resume else {})
        if known.get("key") == key:
            return str(known["chosen"])
        chosen = choose()
        if file and is_first():
            with suppress(OSError):  # of no use to this run
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps({"key": key, "chosen": chosen}))
        return chosen


def _read(file: Path) -> dict[str, Any]:
    """Empty where the file is missing, or was not written to its end."""
    with suppress(OSError, ValueError):
        return dict(json.loads(file.read_text()))
    return {}

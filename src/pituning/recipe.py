"""π-Tuning: predict which experts help, interpolate them with the target's own, write one plain adapter."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from pituning.backbones import Backbone
from pituning.captions import JAVA, require_java
from pituning.distributed import from_first, is_first
from pituning.errors import ConfigError, TrainingError
from pituning.example import first_by_hash
from pituning.expert import Expert
from pituning.fit import Evaluation, pooled
from pituning.interpolate import Mixture, TuneConfig, tune
from pituning.interpolate.compatible import Space
from pituning.interpolate.weights import Sharing
from pituning.metrics import METRICS
from pituning.neighborhood import Neighborhood
from pituning.pool import Pool
from pituning.predict import FisherConfig, Neighbor, embed
from pituning.selection import Lead, best_of, scores_less, tested, validated
from pituning.task import Task
from pituning.train import TrainConfig, train_expert

log = logging.getLogger(__name__)

Start = Literal["best", "uniform"]

# So many times k of the nearest are looked at as they are, on at most so many labelled examples.
REACH = 6
GLANCE = 64

# A start of the mixture is tried with a tuning of so many epochs on at most so many examples.
TRIAL_EPOCHS = 2
TRIAL_EXAMPLES = 128

# Fewer validation examples than this may decide badly: training and validation then change places, too.
ENOUGH = 64

# Where a mixture starts almost at one neighbour, that one's weight: with 1, the others would never get any.
ALMOST = 0.9

EQUAL = ""  # among the names of experts, which are never empty: the start with equal weights


@dataclass(frozen=True, kw_only=True)
class PiConfig:
    """The whole recipe."""

    k: int = field(
        default=3, metadata={"help": "neighbours to mix with the target's own expert", "short": "-k"}
    )
    shots: int | None = field(
        default=None, metadata={"help": "train on so many examples a class (or in all, without classes)"}
    )
    seed: int = field(default=0, metadata={"help": "of the shots, of training and of tuning"})
    space: Space = field(
        default="parameters",
        metadata={"help": "parameters averages the experts' tensors; delta their LoRA updates, of any rank"},
    )
    sharing: Sharing = field(default="module", metadata={"help": "what shares one set of weights"})
    start: Start = field(
        default="best",
        metadata={
            "help": "uniform mixes the k nearest and begins with equal weights, as the paper does; best also "
            "tries almost each of 2k experts in a short tuning, and begins at what validates best"
        },
    )
    freeze_experts: bool = field(default=False, metadata={"help": "learn the weights alone"})
    rank: int | None = field(
        default=None, metadata={"help": "delta space: reduce the collapsed adapter to this rank by SVD"}
    )
    train: TrainConfig = field(default_factory=TrainConfig)
    fisher: FisherConfig = field(default_factory=FisherConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)

    @property
    def tuning(self) -> TuneConfig:
        """How a mixture is tuned, with this run's seed."""
        return replace(self.tune, seed=self.seed)

    def __post_init__(self) -> None:
        """Collect what is out of range."""
        faults = [
            ConfigError(f"{name} must be at least 1", str(value), f"Raise {name}.")
            for name, value in (("k", self.k), ("shots", self.shots), ("rank", self.rank))
            if value is not None and value < 1
        ]
        faults += [
            ConfigError(f"{name} is one of {', '.join(get_args(kind))}", repr(value), "Name one of them.")
            for name, value, kind in (
                ("space", self.space, Space),
                ("sharing", self.sharing, Sharing),
                ("start", self.start, Start),
            )
            if value not in get_args(kind)
        ]
        ConfigError.collect(faults)
        if self.rank is not None and self.space == "parameters":
            fix = "Leave the rank out: in parameter space it is the experts' own; or choose space delta."
            raise ConfigError("a rank is chosen in delta space only", f"{self.rank} in parameters", fix)


@dataclass(frozen=True)
class PiResult:
    """One plain expert, and the reason for it.

    Attributes:
        expert: the collapsed mixture, or the target's own expert where the mixture is not clearly better.
        kept: which of the two it is.
        own: the target's own expert; how it was trained is on its card.
        mixture: the collapsed mixture, kept or not.
        history: how the mixture was tuned; see `FitResult`.
        similarity: of all pairs of the target (under its own expert's name) and the experts that it could be
            mixed with, one of its own task or data among them.
        space: in which they are mixed.
        refused: expert -> why it could not be a neighbour.
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
            anew on the others (the neighbours and the start stay). Empty where there are none; the mixture is
            then kept.
        lead: of the mixture over the own expert there: the mixture is kept where that is more than its
            standard error (and where answers are written freely, if their score is not lower: a loss can fall
            while captions get worse). None where there is no neighbour, or nothing to validate on.
    """

    task: str
    metric: str
    expert: Expert
    kept: Literal["mixture", "expert"]
    own: Expert
    mixture: Expert
    history: list[dict[str, int | float]]
    neighbors: list[Neighbor]
    similarity: dict[str, dict[str, float]]
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

    @property
    def decided_by(self) -> str:
        """Of what `lead` is: the IoU where boxes are drawn, else the loss."""
        return "mean_iou" if METRICS[self.metric].gold == "box" else "loss"

    @property
    def deciding(self) -> dict[str, float]:
        """What decided, of the target's own expert and of the mixture; see `validation`."""
        if self.decided_by == "loss":
            return {name: -found["negative_loss"] for name, found in self.validation.items()}
        return {name: found["overlap"] for name, found in self.validation.items()}


def pi_tune(
    backbone: Backbone,
    task: Task,
    pool: Pool,
    config: PiConfig | None = None,
    *,
    workdir: Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> PiResult:
    """Predict-Interpolate Tuning (Wu et al., ICML 2023); nothing of `task`'s own is taken from `pool`.

    Only the target's training and validation examples choose anything; with `shots`, there are at most as
    many of the second as of the first. The test split is read once, at the end. Checkpoints are kept in
    `workdir`; with `resume`, an interrupted run goes on from them.

    Called by all processes of a group, it shares each training batch out among them; all get one's result.

    Raises:
        PituningError: for whatever the user can mend; see `pituning.errors`.
    """
    config, start = config or PiConfig(), time.monotonic()
    if task.metric in JAVA:
        require_java(task.metric)
    target = task.sample(config.shots, config.seed) if config.shots else task
    around, stage = Neighborhood.of(pool), _Stages(workdir, resume, progress)

    # 1. Expert: the target's own, from the pool's initialisation.
    log.info("expert: training on %d examples of %s", len(target.train), task.name)
    training = replace(config.train, seed=config.seed, init_seed=pool.init_seed)
    expert = partial(train_expert, backbone, name=f"target:{task.name}", like=around.typical(backbone))
    own = expert(target, training, **stage("expert"))

    # 2. Predict: the tasks of the pool that are most like it.
    log.info("predict: looking for neighbours among %d experts", len(pool))
    learnt = own
    if training.epochs and not own.card.recipe["best_epoch"]:  # untrained, it says nothing about its task
        learnt = expert(target, replace(training, epochs=1), untrained=False)
    embedding = from_first(partial(embed, backbone, learnt, target, config.fisher, progress=progress))
    refused = around.refusals(own, embedding, config.space)
    trying = config.start == "best" and bool(target.validation)
    reach = config.k * (REACH if trying else 1)
    near = around.nearest(embedding, reach, space=config.space, without=refused)
    blank = None
    if trying and near and is_scarce(target):
        blank = expert(replace(target, validation=()), replace(training, epochs=0))
    mixing, begin = Mixing(backbone, own, around.experts, config, blank), EQUAL
    if trying and near:
        choose = partial(mixing.begin, near, target, progress=progress)
        begin = stage.once("start", f"{config}{own.digest}{sorted(n.name for n in near)}", choose)
    neighbors = mixing.neighbors(near, begin)
    names = [neighbor.name for neighbor in neighbors]
    if len(names) < config.k:
        log.warning("k is %d, but %d of the pool's experts can be neighbours", config.k, len(names))

    # 3. Interpolate: learn the weights and the experts on the target.
    log.info("interpolate: tuning the mixture with %s", ", ".join(names) or "no other")
    mixture = mixing.mixture(names, begin)
    before = mixture.collapse(rank=config.rank)
    tuned = tune(mixture, target, config.tuning, **stage("mixture"))

    # 4. Collapse: one plain expert, unless the target's own is about as good.
    log.info("collapse: comparing the mixture with the task's own expert")
    after = mixture.collapse(rank=config.rank)
    alone = {neighbor: mixing.alone(neighbor) for neighbor in names}
    seen = from_first(partial(validated, backbone, mixing.unseen(target), alone))
    best = best_of(seen) or "".join(names[:1])
    found = mixing.judged(after, target)
    lead = Lead.of(found["mixture"], found["expert"]) if found and neighbors else None
    if lead and not lead.sure and is_scarce(target):
        log.info("collapse: no clear lead; both once more, with training and validation exchanged")
        with suppress(TrainingError):  # the second look is none where training diverges
            again = replace(mixing, own=expert(turned(target), training, progress=progress))
            found = again.judged_again(found, names, begin, turned(target), progress=progress)
            lead = Lead.of(found["mixture"], found["expert"])
    mixed = bool(neighbors) and (lead is None or (lead.clear and not scores_less(target, **found)))
    kept = after if mixed else own
    stages = {"expert": own, **({"neighbor": alone[best]} if best else {}), "init": before, "pi": kept}
    log.info("collapse: scoring on %d test examples", len(task.test))
    return PiResult(
        task=task.name,
        metric=task.metric,
        expert=kept.renamed(task.name),
        kept="mixture" if mixed else "expert",
        own=own,
        mixture=after,
        history=tuned.history,
        neighbors=neighbors,
        similarity=around.similarity(own.name, embedding, space=config.space, without=refused),
        space=config.space,
        refused=refused,
        start=begin,
        weights=tuned.weights,
        weights_by_group=mixture.weights(),
        best_neighbor=best,
        scores=from_first(partial(tested, backbone, task, stages, pool.init_seed)),
        validation={who: _told(one) for who, one in found.items()},
        lead=lead,
        seconds=time.monotonic() - start,
    )


@dataclass(frozen=True)
class Mixing:
    """The target's own expert and those of the pool, as the configuration mixes them.

    Attributes:
        blank: the own expert before it was trained, for trials on the training examples; None makes none.
    """

    backbone: Backbone
    own: Expert
    experts: Mapping[str, Expert]
    config: PiConfig
    blank: Expert | None = None

    def mixture(self, names: Sequence[str], begin: str = EQUAL) -> Mixture:
        """Of the target's own and the experts named: with equal weights, or almost at one of them."""
        mixture = Mixture(
            self.backbone,
            [self.own, *(self.experts[name] for name in names)],
            space=self.config.space,
            sharing=self.config.sharing,
            train_experts=not self.config.freeze_experts,
            target=self.own.name,
        )
        if begin == EQUAL:
            return mixture
        rest = (1 - ALMOST) / len(names)
        return mixture.start_at({e.name: ALMOST if e.name == begin else rest for e in mixture.experts})

    def alone(self, name: str) -> Expert:
        """A neighbour as it is, under the head of the target's own where there is one."""
        pair = Mixture(
            self.backbone, [self.own, self.experts[name]], space=self.config.space, target=self.own.name
        )
        return pair.start_at({self.own.name: 0.0, name: 1.0}).collapse(rank=self.config.rank)

    def neighbors(self, near: Sequence[Neighbor], begin: str) -> list[Neighbor]:
        """The k nearest; the last gives way to the one to begin at, if that is none of them."""
        k = self.config.k
        later = [neighbor for neighbor in near[k:] if neighbor.name == begin]
        return [*near[: k - len(later)], *later]

    def shortlist(self, near: Sequence[Neighbor], task: Task) -> dict[str, Evaluation]:
        """Where to begin, and how each does as it is: equal weights, the k nearest, the k best of the others.

        Few examples embed a task poorly, so more than the nearest are looked at.
        """
        k, few, names = self.config.k, self.unseen(task), [neighbor.name for neighbor in near]
        mixing = replace(self, own=self.blank) if self.blank else self
        experts = {EQUAL: mixing.mixture(names[:k]).collapse(rank=self.config.rank)}
        experts |= {name: self.alone(name) for name in names}
        found = from_first(partial(validated, self.backbone, few, experts))
        others = sorted(names[k:], key=lambda name: found[name].merit, reverse=True)
        return {name: found[name] for name in (EQUAL, *names[:k], *others[:k])}

    def begin(self, near: Sequence[Neighbor], task: Task, *, progress: bool) -> str:
        """Of equal weights and almost each of a shortlist, where a short tuning validates best.

        What an expert answers as it is does not tell: one for another wording of the same question may be
        wrong in all it says, and right after a few steps. But where validation examples are few, it counts as
        much: the k best, and what is best as it is, are then tried again with training and validation
        exchanged (twofold cross-validation) and the own expert as it was before it saw either, and all three
        results are taken together.
        """
        few, found = _first(task, TRIAL_EXAMPLES), dict[str, Evaluation]()
        shortlist = self.shortlist(near, task)
        for begin in shortlist:
            with suppress(TrainingError):  # a start from which the loss does not stay finite is none
                found[begin] = self.tried(near, begin, few, progress)
        if not self.blank:
            return best_of(found)
        other, twice = replace(self, own=self.blank), dict[str, Evaluation]()
        best = sorted(found, key=lambda name: found[name].merit, reverse=True)[: max(2, self.config.k)]
        for begin in dict.fromkeys([*best, *({best_of(shortlist)} & found.keys())]):
            with suppress(TrainingError):
                again = other.tried(near, begin, turned(few), progress)
                twice[begin] = pooled([shortlist[begin], found[begin], again])
        return best_of(twice or found)

    def judged(self, mixture: Expert, task: Task) -> dict[str, Evaluation]:
        """The mixture and the target's own on the validation examples; empty where there are none."""
        both = {"mixture": mixture, "expert": self.own}
        return from_first(partial(validated, self.backbone, task, both, written=True))

    def judged_again(
        self, found: Mapping[str, Evaluation], names: Sequence[str], begin: str, task: Task, *, progress: bool
    ) -> dict[str, Evaluation]:
        """What was found, and the same of a mixture made anew on other examples, taken together."""
        mixture = self.mixture(names, begin)
        tune(mixture, task, self.config.tuning, progress=progress)
        second = self.judged(mixture.collapse(rank=self.config.rank), task)
        return {who: pooled([one, second[who]]) for who, one in found.items()}

    def tried(self, near: Sequence[Neighbor], begin: str, task: Task, progress: bool) -> Evaluation:
        """What a short tuning from `begin` validates."""
        log.info("predict: trying %s", f"mostly {begin}" if begin else "equal weights")
        tuning = self.config.tuning
        short = replace(tuning, epochs=min(TRIAL_EPOCHS, tuning.epochs))
        mixture = self.mixture([n.name for n in self.neighbors(near, begin)], begin)
        best = tune(mixture, task, short, progress=progress).best
        if best is None or self.config.rank:  # a rank cut changes what was validated
            cut = {begin: mixture.collapse(rank=self.config.rank)}
            best = from_first(partial(validated, self.backbone, task, cut))[begin]
        return best

    def unseen(self, task: Task) -> Task:
        """With what an expert of the pool can be judged on as it is, in the place of the validation examples.

        These, and training examples, which it has not seen either, up to `GLANCE` in all. The target's head,
        where there is one, has seen them: then these alone. None where there is no validation.
        """
        heads = self.backbone.head_modules(self.backbone.model)
        room = 0 if heads or not task.validation else max(GLANCE - len(task.validation), 0)
        validation = first_by_hash(task.validation, GLANCE)
        return replace(task, validation=(*validation, *first_by_hash(task.train, room)))


def is_scarce(task: Task) -> bool:
    """Whether validation examples are few, and training examples not many more: both then validate."""
    return len(task.validation) < ENOUGH and len(task.train) <= 2 * len(task.validation)


def turned(task: Task) -> Task:
    """The task with training and validation examples exchanged: the other half of a twofold validation."""
    return replace(task, train=task.validation, validation=task.train)


def _first(task: Task, count: int) -> Task:
    """The task with at most so many examples to train and to validate on, the first by hash."""
    train, validation = (tuple(first_by_hash(examples, count)) for examples in (task.train, task.validation))
    return replace(task, train=train, validation=validation)


def _told(found: Evaluation) -> dict[str, float]:
    """What there is of a validation result, without its examples."""
    told = {"negative_loss": found.negative_loss, "score": found.score, "overlap": found.overlap}
    return {name: value for name, value in told.items() if value is not None}


@dataclass(frozen=True)
class _Stages:
    """Where each stage keeps its checkpoints."""

    workdir: Path | None
    resume: bool
    progress: bool

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
                file.write_text(json.dumps({"key": key, "chosen": chosen}))
        return chosen


def _read(file: Path) -> dict[str, Any]:
    """Empty where the file is missing, or was not written to its end."""
    with suppress(OSError, ValueError):
        return dict(json.loads(file.read_text()))
    return {}

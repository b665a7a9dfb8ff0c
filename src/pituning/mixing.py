"""What the recipe mixes: the target's own expert and those of a pool, where they begin, and which is kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pituning.backbones import Backbone
from pituning.distributed import from_first
from pituning.errors import ConfigError, TrainingError
from pituning.evaluation import Evaluation, pooled
from pituning.example import first_by_hash
from pituning.expert import Expert
from pituning.interpolate import Mixture, TuneConfig, tune
from pituning.interpolate.compatible import Space
from pituning.interpolate.weights import Sharing
from pituning.predict import FisherConfig
from pituning.selection import Lead, best_of, gives_way, validated
from pituning.task import Task
from pituning.train import TrainConfig

log = logging.getLogger(__name__)

Start = Literal["best", "uniform"]

# Experts are looked at as they are on at most so many labelled examples.
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
    """The whole recipe.

    `train` and `tune` take this seed in the place of their own; `train.init_seed` is the pool's.
    """

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
            "help": "uniform begins with equal weights, as the paper does; best also tries almost each "
            "neighbour in a short tuning, and begins at what validates best"
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
    def told(self) -> dict[str, Any]:
        """As JSON; the file of a method without the folder that it lies in, which is this machine's."""
        told = asdict(self)
        told["train"]["method"] = self.train.method and Path(self.train.method).name
        return told

    def __post_init__(self) -> None:
        """Collect what is out of range."""
        ConfigError.check_numbers(self)
        parts = ((TrainConfig, self.train), (TuneConfig, self.tune), (FisherConfig, self.fisher))
        ConfigError.check_kinds(*parts)
        for part in ("train", "tune"):
            object.__setattr__(self, part, replace(getattr(self, part), seed=self.seed))
        given = {name: getattr(self, name) for name in ("k", "shots", "rank")}
        faults = [
            ConfigError(f"{name} must be at least 1", str(value), f"Raise {name}.")
            for name, value in given.items()
            if value is not None and value < 1
        ]
        ConfigError.collect([*faults, *ConfigError.misnamed(self)])
        if self.rank is not None and self.space == "parameters":
            fix = "Leave the rank out: in parameter space it is the experts' own; or choose space delta."
            raise ConfigError("a rank is chosen in delta space only", f"{self.rank} in parameters", fix)


@dataclass(frozen=True)
class Verdict:
    """Which of the mixture and the target's own expert is kept, and why.

    Attributes:
        found: "mixture" and "expert" on the same examples; empty where there are none.
        lead: of the mixture; None without neighbours or examples.
    """

    kept: Literal["mixture", "expert"]
    found: Mapping[str, Evaluation]
    lead: Lead | None


@dataclass(frozen=True)
class Mixing:
    """The target's own expert and those of the pool, as the configuration mixes them.

    Attributes:
        new_expert: makes one like the target's own, of a task and a TrainConfig. With it, few validation
            examples and training examples change places, and both validate; None leaves that out.
    """

    backbone: Backbone
    own: Expert
    experts: Mapping[str, Expert]
    config: PiConfig
    new_expert: Callable[..., Expert] | None = None

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
        return pair.start_at({self.own.name: 0.0, name: 1.0}).collapse()

    def as_they_are(self, names: Sequence[str], task: Task) -> dict[str, Evaluation]:
        """How experts of the pool do untuned, on labelled examples that they have not seen."""
        return self._glanced({name: self.alone(name) for name in names}, task)

    def _glanced(self, experts: Mapping[str, Expert], task: Task) -> dict[str, Evaluation]:
        return from_first(partial(validated, self.backbone, self.unseen(task), experts))

    def begin(
        self, names: Sequence[str], task: Task, untuned: Mapping[str, Evaluation], *, progress: bool
    ) -> str:
        """Of equal weights and almost each of the neighbours, where a short tuning validates best.

        What an expert answers as it is does not tell: one for another wording of the same question may be
        wrong in all it says, and right after a few steps. But where validation examples are few, it counts,
        too: the best (k, and two at least) and what is best as it is are then tried again with training and
        validation exchanged (twofold cross-validation) and the own expert as it was before it saw either, and
        all three results are taken together.

        Args:
            names: of the neighbours.
            task: with the shots.
            untuned: the neighbours `as_they_are`.
            progress: show bars on stderr.
        """
        if not names or self.config.start == "uniform" or not task.validation:
            return EQUAL
        few, found = _first(task, TRIAL_EXAMPLES), dict[str, Evaluation]()
        for begin in (EQUAL, *names):
            with suppress(TrainingError):  # a start from which the loss does not stay finite is none
                found[begin] = self.tried(names, begin, few, progress)
        return best_of(self._twofold(names, found, untuned, task, progress) or found)

    def _twofold(
        self,
        names: Sequence[str],
        found: Mapping[str, Evaluation],
        untuned: Mapping[str, Evaluation],
        task: Task,
        progress: bool,
    ) -> dict[str, Evaluation]:
        """The best of the starts found, judged on the training examples, too; empty where those do not."""
        if not (self.new_expert and is_scarce(task)):
            return {}
        untrained = self.new_expert(replace(task, validation=()), replace(self.config.train, epochs=0))
        blank = replace(self, own=untrained)
        # Under a head, `unseen` has no training examples, so the trained one is no less fair.
        heads = self.backbone.head_modules(self.backbone.model)
        equal = (self if heads else blank).mixture(names)
        mean = {EQUAL: equal.collapse(rank=self.config.rank)}
        untuned = {**self._glanced(mean, task), **untuned}
        best = sorted(found, key=lambda name: found[name].merit, reverse=True)[: max(2, self.config.k)]
        other, judged = turned(_first(task, TRIAL_EXAMPLES)), dict[str, Evaluation]()
        for begin in dict.fromkeys([*best, *({best_of(untuned)} & found.keys())]):
            with suppress(TrainingError):
                second = blank.tried(names, begin, other, progress)
                judged[begin] = pooled([untuned[begin], found[begin], second])
        return judged

    def verdict(
        self, mixture: Expert, names: Sequence[str], begin: str, task: Task, *, progress: bool
    ) -> Verdict:
        """Whether the mixture of those names, tuned from `begin`, is kept, or the target's own expert.

        The own expert is where the mixture is behind by more than a standard error. The doubt is the
        mixture's: the own expert is a part of it, and has looked better than it is where the best of its many
        epochs was chosen by the same few examples. Where these leave it open, both are made anew with
        training and validation exchanged, and judged on all. A mixture that cannot be checked is kept.
        """
        found = self._judged(mixture, task)
        if not names or not found:
            return Verdict("mixture" if names else "expert", found, None)
        lead = Lead.of(found["mixture"], found["expert"])
        if self.new_expert and not lead.sure and is_scarce(task):
            log.info("collapse: too close to call; both once more, with training and validation exchanged")
            with suppress(TrainingError):  # the second look is none where training diverges
                own = self.new_expert(turned(task), self.config.train, progress=progress)
                other = replace(self, own=own)
                remixed = other.mixture(names, begin)
                tune(remixed, turned(task), self.config.tune, progress=progress)
                second = other._judged(remixed.collapse(rank=self.config.rank), turned(task))
                found = {who: pooled([one, second[who]]) for who, one in found.items()}
                lead = Lead.of(found["mixture"], found["expert"])
        kept: Literal["mixture", "expert"]
        kept = "expert" if gives_way(lead, **found, writes=task.writes) else "mixture"
        return Verdict(kept, found, lead)

    def _judged(self, mixture: Expert, task: Task) -> dict[str, Evaluation]:
        """The mixture and the target's own on the validation examples; empty where there are none."""
        both = {"mixture": mixture, "expert": self.own}
        return from_first(partial(validated, self.backbone, task, both, written=True))

    def tried(self, names: Sequence[str], begin: str, task: Task, progress: bool) -> Evaluation:
        """What a short tuning from `begin` validates."""
        log.info("interpolate: trying %s", f"mostly {begin}" if begin else "equal weights")
        tuning = self.config.tune
        short = replace(tuning, epochs=min(TRIAL_EPOCHS, tuning.epochs))
        mixture = self.mixture(names, begin)
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

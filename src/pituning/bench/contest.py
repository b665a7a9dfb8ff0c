"""What all methods start from: one task with few examples, a pool, and what π-Tuning made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, TypeVar

from torch import nn

from pituning.backbones import Backbone
from pituning.card import UNKNOWN
from pituning.errors import ConfigError, PituningError, PoolError
from pituning.expert import Expert, attach_expert
from pituning.fit import FitConfig
from pituning.interpolate import Mixture
from pituning.mixing import Mixing, PiConfig
from pituning.pool import Pool
from pituning.prediction import Prediction, predicted
from pituning.recipe import interpolated
from pituning.result import PiResult
from pituning.spelling import listed
from pituning.stages import Stages
from pituning.task import Task
from pituning.train import fit_module, score

Made = Expert | nn.Module
Needs = Literal["", "expert", "neighbors", "mixture"]

T = TypeVar("T")


@dataclass(frozen=True)
class Contest:
    """One task, pool, configuration and seed; what several methods need is computed once.

    Attributes:
        task: whole; the methods see the shots that `config` draws from it, and its test split only at the
            end.
        pool: what is of the target in it (its name, its data) is never used.
        sources: name -> a task whose data may be used beside the target's: joint training needs its
            neighbours', and Fisher-weighted averaging where the pool has no embedding at each expert.
    """

    backbone: Backbone
    task: Task
    pool: Pool
    config: PiConfig
    sources: Mapping[str, Task] = field(default_factory=dict)

    @cached_property
    def few(self) -> Task:
        """The task as all methods see it: so many shots, and no more examples to validate on."""
        return self.task.sample(self.config.shots, self.config.seed) if self.config.shots else self.task

    @cached_property
    def hashes(self) -> dict[str, list[tuple[str, str]]]:
        """Each expert of the pool -> the hashes of its files."""
        return {name: sorted(self.pool.hashes(name).items()) for name in self.pool}

    @property
    def prediction(self) -> Prediction:
        """The target's own expert and its neighbours, as π-Tuning has them.

        Raises:
            PituningError: what it ended in.
        """
        return _or_raise(self._prediction)

    @cached_property
    def _prediction(self) -> Prediction | PituningError:
        try:
            return predicted(self.backbone, self.task, self.pool, self.config, must_mix=False)
        except PituningError as error:
            return error

    @property
    def pi(self) -> PiResult:
        """π-Tuning; its result is scored as those of the other methods are.

        Raises:
            PituningError: what it ended in.
        """
        return _or_raise(self._pi)

    @cached_property
    def _pi(self) -> PiResult | PituningError:
        try:
            stages = Stages(after=self.prediction.after)
            return interpolated(self.backbone, replace(self.task, test=()), self.prediction, stages)
        except PituningError as error:
            return error

    def before(self, needs: Needs) -> float:
        """Seconds until there is what a method takes of π-Tuning.

        Raises:
            PituningError: it cannot be made.
        """
        if not needs:
            return 0.0
        if needs == "neighbors":
            _ = self.others  # looked for now, and not in a method's own time
        return (self.pi if needs == "mixture" else self.prediction).after[needs]

    @cached_property
    def others(self) -> list[Expert]:
        """The experts of other tasks that can be mixed with the target's own, the most alike first.

        Of a big pool, the nearest 30, or k.

        Raises:
            PoolError: there is none.
        """
        found = self.prediction.others
        if not found:
            reasons = list(dict.fromkeys(self.prediction.refused_others.values()))
            given = f"the pool has none: {listed(reasons)}" if reasons else "the pool has none"
            fix = "Add experts of other tasks to the pool, or choose another --space."
            raise PoolError("a comparison needs experts to mix with", given, fix)
        return found

    @property
    def neighbors(self) -> list[Expert]:
        """The k most alike, which π-Tuning mixes.

        Raises:
            PoolError: there is none.
        """
        _ = self.others  # raises where there is none
        return [self.prediction.around.experts[name] for name in self.prediction.names]

    @property
    def neighbor_tasks(self) -> list[Task]:
        """The tasks of the neighbours, with their data.

        Raises:
            ConfigError: the data of one is not in `sources`.
        """
        missing = [expert.name for expert in self.neighbors if not self._has_data_of(expert)]
        if missing:
            must = "this method needs the data that the neighbours were trained on"
            raise ConfigError(must, f"there is none of {', '.join(missing)}", "Name their tasks with --data.")
        return [self.sources[expert.card.task] for expert in self.neighbors]

    def _has_data_of(self, expert: Expert) -> bool:
        task = self.sources.get(expert.card.task)
        return task is not None and expert.card.source in (task.source, UNKNOWN)

    @cached_property
    def mixing(self) -> Mixing:
        """How the configuration mixes the target's own expert with others."""
        return self.prediction.mixing(self.backbone)

    def mixture(self, others: Sequence[Expert], *, train_experts: bool = False) -> Mixture:
        """The target's own expert and others, with equal weights."""
        config = replace(self.config, freeze_experts=not train_experts)
        return replace(self.mixing, config=config).mixture([expert.name for expert in others])

    def fit(self, module: nn.Module, rate: float, config: FitConfig) -> None:
        """Train what can be trained in a module that makes the backbone's outputs; the best state stays."""
        fit_module(self.backbone, module, self.few, rate, config)

    def score(self, made: Made) -> float:
        """The task's metric on its test split."""
        module = attach_expert(self.backbone, made) if isinstance(made, Expert) else made
        return score(self.backbone, module, self.task)


def _or_raise(found: T | PituningError) -> T:
    if isinstance(found, PituningError):
        raise found
    return found

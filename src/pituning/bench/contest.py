"""What all methods start from: one task with few examples, a pool, and what π-Tuning made of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from torch import nn

from pituning.backbones import Backbone
from pituning.expert import Expert, attach_expert
from pituning.fit import Evaluation, FitConfig, fit
from pituning.parts import BatchLosses
from pituning.pool import Pool
from pituning.recipe import PiConfig, PiResult, pi_tune
from pituning.task import Task
from pituning.train import evaluate, score

Made = Expert | nn.Module


@dataclass(frozen=True)
class Contest:
    """One task, pool, configuration and seed; what several methods need is computed once.

    Attributes:
        task: whole; the methods see the shots that `config` draws from it, and its test split
            only at the end.
        pool: what is of the target in it (its name, its data) is never used.
    """

    backbone: Backbone
    task: Task
    pool: Pool
    config: PiConfig

    @cached_property
    def few(self) -> Task:
        """The task as all methods see it: so many shots, and no more examples to validate on."""
        return self.task.sample(self.config.shots, self.config.seed) if self.config.shots else self.task

    @cached_property
    def pi(self) -> PiResult:
        """π-Tuning; the target's own expert and the neighbours are those of all methods that take experts."""
        return pi_tune(self.backbone, self.task, self.pool, self.config)

    @cached_property
    def others(self) -> list[Expert]:
        """The experts of the pool that can be mixed with the target's own, the most alike first."""
        alike = {name: value for name, value in self._alike.items() if name != self.pi.own.name}
        return [self.pool.get(name) for name in sorted(alike, key=lambda name: -alike[name])]

    @property
    def neighbors(self) -> list[Expert]:
        """The k most alike."""
        return self.others[: self.config.k]

    @property
    def _alike(self) -> dict[str, float]:
        return self.pi.similarity[self.pi.own.name]

    def fit(self, module: nn.Module, rate: float, config: FitConfig) -> Evaluation | None:
        """Train what can be trained in a module that makes the backbone's outputs; the best state stays."""
        backbone, few = self.backbone, self.few
        result = fit(
            module,
            [{"params": [p for p in module.parameters() if p.requires_grad], "lr": rate}],
            BatchLosses(
                lambda batch: backbone.collate(batch, few),
                lambda inputs: backbone.loss(module, inputs, config.label_smoothing),
            ),
            (lambda: evaluate(backbone, module, few, few.validation)) if few.validation else None,
            few.train,
            replace(config, seed=self.config.seed),
        )
        return result.best

    def score(self, made: Made) -> float:
        """The task's metric on its test split."""
        module = attach_expert(self.backbone, made) if isinstance(made, Expert) else made
        return score(self.backbone, module, self.task)

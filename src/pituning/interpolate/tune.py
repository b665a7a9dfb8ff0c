"""Step 3 of the method: learn the weights, and the experts with them, on the target task."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pituning.backbones import Backbone
from pituning.errors import MixtureError
from pituning.evaluation import Evaluation
from pituning.expert import Expert
from pituning.fit import FitConfig, fit
from pituning.interpolate.mixture import Mixture
from pituning.parts import BatchLosses
from pituning.task import Task
from pituning.train import evaluate, usual_rate


@dataclass(frozen=True, kw_only=True)
class TuneConfig(FitConfig):
    """How a mixture is tuned."""

    learning_rate: float | None = field(
        default=None,
        metadata={"help": "peak rate of the experts and of a head (default: half that of the target's own)"},
    )
    weight_learning_rate: float = field(default=5e-2, metadata={"help": "peak rate of α"})


@dataclass(frozen=True)
class TuneResult:
    """A tuned mixture (it holds the best validated state) and how it got there.

    Attributes:
        mixture: the one that was given.
        weights: expert -> its weight, averaged over the groups.
        history: see `FitResult`.
        best_epoch: of which the state was kept; 0 is the mixture before tuning.
        best: validation of the state that was kept.
    """

    mixture: Mixture
    weights: dict[str, float]
    history: list[dict[str, int | float]]
    best_epoch: int
    best: Evaluation | None


def tune(
    mixture: Mixture,
    task: Task,
    config: TuneConfig | None = None,
    *,
    workdir: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> TuneResult:
    """Train α (and the experts, unless they are frozen) on the task's training examples.

    Called by all processes of a group, it shares each batch out among them; all get the mixture of one.

    Args:
        mixture: of experts on a `Backbone`; it is trained, and holds the state that validates best.
        task: its training split, and its validation split for early stopping.
        config: see TuneConfig.
        workdir: where checkpoints are kept; None keeps none.
        resume: go on from the checkpoint in `workdir`.
        progress: show a bar on stderr.

    Returns:
        The mixture, and how it got there; `mixture.collapse()` makes it one expert.

    Raises:
        MixtureError: if the mixture was made of a bare module, which cannot read a task.
        TrainingError: if the loss is not finite; the mixture then holds the best state so far.
    """
    config = config or TuneConfig()
    if not isinstance(mixture.backbone, Backbone):
        raise MixtureError(
            "tune() needs a mixture over a Backbone, which reads the task's examples",
            type(mixture.backbone).__name__,
            "Load one with load_backbone, or train the mixture in your own loop.",
        )
    backbone = mixture.backbone
    backbone.check(task)
    backbone.check_smoothing(config.label_smoothing)
    if config.gradient_checkpointing:
        mixture.gradient_checkpointing_enable()

    def validate() -> Evaluation:
        return evaluate(backbone, mixture.mixed(), task, task.validation)

    trained = [name for name, parameter in mixture.named_parameters() if parameter.requires_grad]
    parts = [expert.digest for expert in mixture.experts], mixture.space, mixture.tensors.groups, trained
    key = f"{backbone.state}{task.fingerprint}{parts}{mixture.alpha.tolist()}"
    result = fit(
        mixture,
        mixture.parameter_groups(
            experts=config.learning_rate or _rate_of(mixture.target) / 2, weights=config.weight_learning_rate
        ),
        BatchLosses(
            lambda batch: backbone.collate(batch, task),
            lambda inputs: backbone.loss(mixture.mixed(), inputs, config.label_smoothing),
        ),
        validate if task.validation else None,
        task.train,
        config,
        key=key,
        workdir=workdir,
        resume=resume,
        title=f"tune {task.name}",
        progress=progress,
    )
    mixture.mixed()
    mixture.eval()
    return TuneResult(mixture, mixture.mean_weights(), result.history, result.best_epoch, result.best)


def _rate_of(expert: Expert) -> float:
    """At which it was trained; of an adapter that does not say so, the usual one of its method."""
    rate = expert.card.recipe.get("learning_rate")
    return float(rate) if isinstance(rate, int | float) and rate > 0 else usual_rate(expert.config)

"""Step 1 of the method: one expert for one task, the backbone frozen."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pituning.backbones import Backbone
from pituning.backbones.base import without_gradients
from pituning.card import ExpertCard
from pituning.errors import ConfigError, ExpertError, PituningError
from pituning.evaluation import Evaluation
from pituning.example import first_by_hash
from pituning.expert import (
    Expert,
    attach,
    initialisation_of,
    library_versions,
    method_of,
    saved_tensors,
)
from pituning.fit import FitConfig, FitResult, fit
from pituning.foundation import checkpoint_activations, dtype_name
from pituning.methods import METHOD_NAMES, peft_config
from pituning.metrics import mean_iou
from pituning.parts import BatchLosses
from pituning.spelling import brief
from pituning.task import Example, Task

log = logging.getLogger(__name__)

# Rates at which small sets train well within ten epochs; methods with few parameters need larger ones. Those
# of biases, norms, LoKr and our prefix validated best, or next to it, on trec and cr (MiniLM, 16 shots), of
# 2e-3, 6e-3 and 2e-2, the prefix of 1e-2, 3e-2 (as in the official code) and 1e-1.
LEARNING_RATES = {
    "LORA": 1e-3,
    "BOTTLENECK_ADAPTER": 2e-3,
    "OFT": 2e-3,
    "BIAS": 6e-3,
    "BEFT": 6e-3,
    "LN_TUNING": 6e-3,
    "LOKR": 6e-3,
    "IA3": 1e-2,
    "VERA": 1e-2,
    "PREFIX_TUNING": 1e-2,
    "SELF_ATTENTION_PREFIX": 3e-2,
    "PROMPT_TUNING": 3e-2,
}
OTHER_LEARNING_RATE = 2e-3

# Validation draws the boxes of so many examples at most.
BOXES = 64

TEMPERATURES = [2 ** (half / 2) for half in range(41)]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(FitConfig):
    """How an expert is trained."""

    method: str | None = field(
        default=None,
        metadata={
            "help": f"{', '.join(METHOD_NAMES)}, or a PEFT adapter_config.json (default: the pool's, or lora)"
        },
    )
    learning_rate: float | None = field(
        default=None, metadata={"help": "peak rate of AdamW (default: by method)"}
    )
    max_examples: int | None = field(
        default=None, metadata={"help": "train on at most so many examples (the first by hash)"}
    )
    init_seed: int = field(
        default=0, metadata={"help": "of the adapter's initialisation; experts of one pool share it"}
    )

    def __post_init__(self) -> None:
        """Collect what is out of range."""
        super().__post_init__()
        if self.method is not None and not isinstance(self.method, str):
            raise ConfigError(
                "method must be a name, or the path of an adapter_config.json as a text",
                f"{brief(self.method)}, a {type(self.method).__name__}",
                "Save a configuration with its `save_pretrained(FOLDER)`, and give that file in FOLDER.",
            )
        if self.max_examples is not None and self.max_examples < 1:
            raise ConfigError("max_examples must be at least 1", str(self.max_examples), "Raise it.")


def train_expert(
    backbone: Backbone,
    task: Task,
    config: TrainConfig | None = None,
    *,
    name: str | None = None,
    like: Expert | None = None,
    workdir: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
    may_keep_start: bool = True,
) -> Expert:
    """Train an adapter on the task's training examples; keep the state that validates best.

    Called by all processes of a group, it shares each batch out among them; all get the expert of one.

    Args:
        backbone: frozen; it is left as it was.
        task: its training split, and its validation split for early stopping.
        config: see TrainConfig.
        name: the expert's; the task's name where not given.
        like: take the adapter's configuration from this expert, unless `config.method` names one.
        workdir: where checkpoints are kept; None keeps none.
        resume: go on from the checkpoint in `workdir`.
        progress: show a bar on stderr.
        may_keep_start: whether the state before training may be the best.

    Returns:
        The adapter, and on its card how it was trained and validates.

    Raises:
        BackboneError: if the backbone cannot do the task.
        ExpertError: if the method does not fit the backbone.
        TrainingError: if the loss is not finite.

    Example:
        >>> expert = train_expert(load_backbone("minilm"), load_task("films"))  # doctest: +SKIP
        >>> expert.method, expert.card.scores  # doctest: +SKIP
        ('LORA', {'validation': 0.84})
    """
    config = TrainConfig() if config is None else config
    ConfigError.check_kinds((Backbone, backbone), (Task, task), (TrainConfig, config))
    backbone.check(task)
    labels = task.candidates
    heads = backbone.head_modules(backbone.model)
    if like is not None and config.method is None:
        adapter = like.config
    else:
        adapter = peft_config(config.method or "lora", backbone.model, heads=heads)
    model = _attached(backbone, adapter, labels, config.init_seed)
    if config.gradient_checkpointing:
        checkpoint_activations(model.get_base_model())
    initialisation = initialisation_of(model)
    used = task
    if config.max_examples is not None:
        used = replace(task, train=tuple(first_by_hash(task.train, config.max_examples)))
    if config.epochs:
        log.info("training on %d examples of %s", len(used.train), task.name)
    rate = config.learning_rate or usual_rate(adapter)
    result = fit_module(
        backbone,
        model,
        used,
        rate,
        config,
        key=f"{backbone.state}{task.fingerprint}{initialisation}",
        workdir=workdir,
        resume=resume,
        title=f"train {task.name}",
        progress=progress,
        may_keep_start=may_keep_start,
    )
    validation = result.best.score if result.best else None
    loss = -result.best.negative_loss if result.best else math.inf
    card = ExpertCard(
        name=name or task.name,
        task=task.name,
        backbone=backbone.fingerprint,
        backbone_name=backbone.name,
        initialisation=initialisation,
        data=task.fingerprint,
        source=task.source,
        modality=task.modality,
        labels=list(labels),
        metric=task.metric,
        scores={} if validation is None else {"validation": validation},
        history=result.history,
        versions=library_versions(),
        recipe={
            **asdict(config),
            "method": config.method
            and Path(config.method).name,  # of a file: where it lay says nothing elsewhere
            "learning_rate": rate,
            "model": dict(backbone.settings),
            "dtype": dtype_name(backbone.dtype),
            "best_epoch": result.best_epoch,
            "validation_loss": loss if math.isfinite(loss) else None,
        },
    )
    return Expert(card, model.peft_config["default"], saved_tensors(model))


def check_training(backbone: Backbone, config: TrainConfig, task: Task, *, new: bool) -> None:
    """Find what is wrong with a configuration before anything is stored or trained.

    Args:
        backbone: of the expert.
        config: of its training.
        task: that it is of.
        new: whether there is no other expert, whose method would be taken.

    Raises:
        BackboneError: it cannot do the task, or smooth labels.
        ExpertError: the method does not fit it.
    """
    backbone.check(task)
    if config.method or new:
        heads = backbone.head_modules(backbone.model)
        adapter = peft_config(config.method or "lora", backbone.model, heads=heads)
        _attached(backbone, adapter, task.candidates, config.init_seed)
    backbone.check_smoothing(config.label_smoothing)


def usual_rate(adapter: PeftConfig) -> float:
    """Of a new adapter of this method, where no other is asked for."""
    return LEARNING_RATES.get(method_of(adapter), OTHER_LEARNING_RATE)


def fit_module(
    backbone: Backbone, module: nn.Module, task: Task, rate: float, config: FitConfig, **options: Any
) -> FitResult:
    """Train what can be trained in a module that makes the backbone's outputs; the best state stays in it.

    Args:
        backbone: reads the examples and takes the loss.
        module: its parameters with `requires_grad` are trained.
        task: its training split, and its validation split for early stopping.
        rate: of AdamW.
        config: see FitConfig.
        options: of `fit`.

    Raises:
        BackboneError: it cannot smooth labels.
        TrainingError: see `fit`.
    """
    backbone.check_smoothing(config.label_smoothing)
    return fit(
        module,
        [{"params": [p for p in module.parameters() if p.requires_grad], "lr": rate}],
        BatchLosses(
            lambda batch: backbone.collate(batch, task),
            lambda inputs: backbone.loss(module, inputs, config.label_smoothing),
        ),
        (lambda: evaluate(backbone, module, task, task.validation)) if task.validation else None,
        task.train,
        config,
        **options,
    )


def _attached(backbone: Backbone, adapter: PeftConfig, labels: Sequence[str], seed: int) -> PeftModel:
    """A new adapter, or an ExpertError where PEFT cannot put this configuration on the backbone."""
    try:
        model = attach(backbone, adapter, labels=labels, seed=seed)
        replace(model.peft_config["default"])  # what PEFT filled in must be accepted when it is read again
        return model
    except PituningError:  # says what to do already
        raise
    except Exception as error:  # PEFT checks no types: what it raises is a fault of the configuration
        raise ExpertError(
            f"the method must fit the backbone {backbone.name!r}",
            f"{method_of(adapter)}: {type(error).__name__}: {error}".splitlines()[0],
            "Choose another --method, or mend the target_modules of its file.",
        ) from error


def evaluate(
    backbone: Backbone, model: nn.Module, task: Task, examples: tuple[Example, ...], *, draw: bool = True
) -> Evaluation:
    """Score by the task's metric, and the mean loss in nats: among the candidates, see `calibrated_losses`.

    Free-form answers have no score here: writing them each epoch would cost more than training. Boxes are
    drawn for the first `BOXES` examples by hash, greedily; without `draw`, they are not.
    """
    model.eval()
    losses = torch.zeros(len(examples))
    likelihoods = torch.zeros(len(examples), len(task.candidates))

    def judge(rows: list[int]) -> None:
        chunk = [examples[row] for row in rows]
        if task.candidates:
            likelihoods[rows] = backbone.log_likelihoods(model, chunk, task).float().cpu()
        else:
            losses[rows] = backbone.nll(model, backbone.collate(chunk, task)).float().cpu()

    without_gradients(judge, examples)
    if task.candidates:
        predictions = [task.candidates[best] for best in likelihoods.argmax(dim=1).tolist()]
        gold = torch.tensor([task.answer_index(example) for example in examples])
        losses = calibrated_losses(likelihoods, gold)
        found = task.score(predictions, examples)
        return Evaluation(-float(losses.mean()), found, each=tuple((-losses).tolist()))
    if not (draw and task.draws_boxes):
        return Evaluation(-float(losses.mean()), each=tuple((-losses).tolist()))
    few = first_by_hash(examples, BOXES)
    greedy = replace(task, decoding=replace(task.decoding, num_beams=1))
    drawn = backbone.predict(model, few, greedy)
    overlaps = [
        mean_iou([box], [example.bbox]) for box, example in zip(drawn, few, strict=True) if example.bbox
    ]
    return Evaluation(-float(losses.mean()), overlap=fmean(overlaps), each=tuple(overlaps))


def calibrated_losses(
    likelihoods: Float[Tensor, "examples candidates"], gold: Tensor
) -> Float[Tensor, " examples"]:
    """Cross-entropies at the temperature, of 1 and more, at which their mean is least (Guo et al., 2017).

    A temperature changes no answer. Without it, an expert of much data that is sure of itself on a new task
    looks worse than one that knows nothing; with it, none is worse than the logarithm of the candidates.
    """
    tried = [cross_entropy(likelihoods / temperature, gold, reduction="none") for temperature in TEMPERATURES]
    return min(tried, key=lambda losses: float(losses.mean()))


def score(backbone: Backbone, model: nn.Module, task: Task, split: str = "test") -> float:
    """The task's metric on a split, with free-form answers generated."""
    examples = task.split(split)
    return task.score(backbone.predict(model, examples, task), examples)

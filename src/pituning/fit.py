"""The training loop that experts and mixtures share: early stopping, best state kept, exact resuming."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pituning.checkpoint import (
    CHECKPOINT,
    TrainingState,
    apply_checkpoint,
    read_checkpoint,
    restore,
    save_checkpoint,
    trainable,
)
from pituning.distributed import from_first, is_first, processes, require_same, spread, sum_gradients
from pituning.errors import ConfigError, TrainingError
from pituning.evaluation import Evaluation
from pituning.foundation import dtype_name, is_coarse
from pituning.memory import told_if_full
from pituning.parts import BatchLosses
from pituning.seed import isolated_seed
from pituning.task import Example

log = logging.getLogger(__name__)

# Steps of an epoch at least: so that epochs and patience mean much the same for 32 examples as for 30,000.
EPOCH_STEPS = 10

# Where there is no bar, a line is logged after so many seconds of training.
SILENCE = 20

SMALLER = "Lower batch_size, raise accumulate, set gradient_checkpointing, or load the backbone in bfloat16."

MOST = 2**32 - 1  # seeds are multiplied before a generator of 64 bits takes them


LEAST = {"epochs": 0, "batch_size": 1, "accumulate": 1, "patience": 0, "weight_decay": 0}


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """What every training run can be told."""

    epochs: int = field(
        default=10,
        metadata={
            "help": "passes over the training examples, at most; a small set is passed over until an epoch "
            f"has {EPOCH_STEPS} steps"
        },
    )
    batch_size: int = field(default=16, metadata={"help": "examples a step"})
    accumulate: int = field(
        default=1,
        metadata={"help": "parts that a whole batch is taken in, one after the other, to save memory"},
    )
    label_smoothing: float = field(
        default=0.0,
        metadata={"help": "part of the target's probability that is spread over the other tokens (OFA)"},
    )
    patience: int = field(
        default=8,  # of few examples, the loss can stay flat for five epochs before it falls
        metadata={"help": "stop after so many epochs without a better validation; 0 never stops"},
    )
    warmup: float = field(
        default=0.06,
        metadata={"help": "part of all steps over which the rate rises; it falls linearly after"},
    )
    weight_decay: float = field(default=0.01, metadata={"help": "decoupled, as in AdamW; none on α"})
    max_grad_norm: float = field(default=1.0, metadata={"help": "gradients are clipped to this norm"})
    precision: Literal["float32", "bfloat16"] = field(
        default="float32",
        metadata={
            "help": "bfloat16 runs the forward under autocast, parameters stay as they are; without a GPU, "
            "on processors that have it"
        },
    )
    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "recompute activations in the backward pass to save memory"}
    )
    seed: int = field(default=0, metadata={"help": "of the order of examples and of dropout"})

    def __post_init__(self) -> None:
        """Collect what is out of range."""
        ConfigError.check_numbers(self)
        faults = [
            ConfigError(f"{name} must be at least {least}", str(getattr(self, name)), f"Raise {name}.")
            for name, least in LEAST.items()
            if not getattr(self, name) >= least  # NaN is neither
        ]
        faults += [
            ConfigError(f"{name} must be above 0", str(value), f"Raise {name}.")
            for name, value in asdict(self).items()
            if (name.endswith("learning_rate") or name == "max_grad_norm")
            and value is not None
            and not value > 0
        ]
        faults += [
            ConfigError(f"{name} must lie in 0..{MOST}", str(value), "Try 0.")
            for name, value in asdict(self).items()
            if name.endswith("seed") and not 0 <= value <= MOST
        ]
        faults += [
            ConfigError(f"{name} must lie in [0, 1)", str(getattr(self, name)), f"Try {usual}.")
            for name, usual in (("warmup", 0.06), ("label_smoothing", 0.1))
            if not 0 <= getattr(self, name) < 1
        ]
        ConfigError.collect([*faults, *ConfigError.misnamed(self)])


@dataclass(frozen=True)
class FitResult:
    """What training did; the module holds the best state.

    Attributes:
        history: one entry an epoch: epoch, loss (mean a training example, nats), validation loss, and the
            score or the overlap of boxes.
        best_epoch: 0 is the state before training.
        best: its validation result; None where there was nothing to validate on.
    """

    history: list[dict[str, int | float]]
    best_epoch: int
    best: Evaluation | None


def fit(
    module: nn.Module,
    groups: list[dict[str, Any]],
    nll: Callable[[list[Example]], Tensor],
    evaluate: Callable[[], Evaluation] | None,
    examples: Sequence[Example],
    config: FitConfig,
    *,
    key: str = "",
    workdir: str | Path | None = None,
    resume: bool = False,
    title: str = "training",
    progress: bool = False,
    may_keep_start: bool = True,
) -> FitResult:
    """Minimise the mean nll with AdamW; leave the best validated state in `module`.

    In a process group, a batch's gradient is the sum of its parts', and all processes end with the result of
    one; the first validates, and keeps the checkpoint.

    Args:
        module: its parameters with `requires_grad` are trained.
        groups: the optimiser's parameter groups, each with its "lr".
        nll: losses of a batch, one an example, from `module` as it is; `BatchLosses` shares them out among
            the processes of a group.
        evaluate: validation of `module` as it is; None trains to the end and keeps the last state.
        examples: the training examples.
        config: see FitConfig.
        key: identifies data, model and settings; a checkpoint with another key is refused.
        workdir: where a checkpoint is kept after every epoch; None keeps none.
        resume: go on from the checkpoint, where there is one. The result is that of an uninterrupted run.
        title: of the progress bar, and of what is logged.
        progress: show a bar on stderr.
        may_keep_start: whether the state before training may be the best.

    Raises:
        TrainingError: if a loss or a gradient is not finite, the checkpoint cannot be written, or it is of
            another run or damaged. Whatever stops a run that has begun, `module` then holds the best state.
    """
    key = hashlib.sha256(f"{key}{json.dumps(asdict(config), sort_keys=True)}".encode()).hexdigest()
    if not examples:
        raise TrainingError("training needs examples", "none", "Check the training split.")
    _warn_if_emulated(module, config)
    if config.epochs:
        _warn_if_coarse(module)
    steps = max(EPOCH_STEPS, math.ceil(len(examples) / config.batch_size))
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    rates = [group["lr"] for group in optimizer.param_groups]
    state, file = TrainingState(), Path(workdir) / CHECKPOINT if workdir else None
    watch = _Watch(title, progress and is_first(), steps, config.epochs)
    require_same(f"{key}{file is None}{evaluate is None}{len(examples)}")
    spread(parameter for group in groups for parameter in group["params"])
    with isolated_seed(config.seed):
        stored = from_first(lambda: read_checkpoint(file, key) if file and resume and file.exists() else None)
        if stored:
            state = apply_checkpoint(*stored, module, optimizer)
            log.info("%s: going on after epoch %d of an earlier run", title, state.epoch)
        else:
            state.best = from_first(evaluate) if evaluate and (may_keep_start or not config.epochs) else None
            state.best_tensors = trainable(module)
            if file:  # a folder that cannot be written is found before anything is trained
                from_first(partial(save_checkpoint, file, module, optimizer, state, key))
        try:
            for epoch in range(state.epoch, config.epochs):
                stale = epoch - state.best_epoch
                if evaluate and config.patience and stale >= config.patience:
                    break
                order = _shuffled(examples, config.batch_size, config.seed * 1_000_003 + epoch)
                total, seen = 0.0, 0
                for step, batch in enumerate(watch.over(islice(order, steps), epoch), epoch * steps):
                    scale = _schedule(step, steps * config.epochs, config.warmup)
                    for group, rate in zip(optimizer.param_groups, rates, strict=True):
                        group["lr"] = rate * scale
                    with told_if_full(TrainingError, "a training step", SMALLER):
                        total += _step(module, optimizer, nll, batch, config, state, step)
                    seen += len(batch)
                state.epoch = epoch + 1
                entry: dict[str, int | float] = {"epoch": epoch + 1, "loss": total / max(seen, 1)}
                found = from_first(evaluate) if evaluate else None
                if found is not None:
                    entry |= _told(found)
                state.history.append(entry)
                if found is None or state.best is None or found.merit > state.best.merit:
                    state.best, state.best_epoch = found, epoch + 1
                    state.best_tensors = trainable(module)
                if file:
                    from_first(partial(save_checkpoint, file, module, optimizer, state, key))
        finally:  # also where training stops early: a loss that is not finite, a full disk, Ctrl-C
            restore(module, state.best_tensors)
    return FitResult(state.history, state.best_epoch, state.best)


def _told(found: Evaluation) -> dict[str, float]:
    """What a card can hold: JSON has no infinity."""
    told = {"validation_loss": -found.negative_loss, "score": found.score, "overlap": found.overlap}
    return {name: value for name, value in told.items() if value is not None and math.isfinite(value)}


@dataclass
class _Watch:
    """How far a run is: a bar, or a line logged each `SILENCE` seconds where none is shown."""

    title: str
    shown: bool
    steps: int
    epochs: int
    told: float = field(default_factory=time.monotonic)

    def over(self, batches: Iterator[list[Example]], epoch: int) -> Iterator[list[Example]]:
        """The batches of an epoch."""
        bar = tqdm(batches, disable=not self.shown, total=self.steps, leave=False)
        bar.set_description(f"{self.title} {epoch + 1}")
        for step, batch in enumerate(bar, 1):
            yield batch
            if not self.shown and time.monotonic() - self.told > SILENCE:
                self.told, epochs = time.monotonic(), f"epoch {epoch + 1} of {self.epochs} at most"
                log.info("%s: %s, step %d of %d", self.title, epochs, step, self.steps)


def _step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    nll: Callable[[list[Example]], Tensor],
    batch: list[Example],
    config: FitConfig,
    state: TrainingState,
    step: int,
) -> float:
    """One update; the summed loss of the batch."""
    module.train()
    _freeze_statistics(module)
    optimizer.zero_grad(set_to_none=True)
    device = next(module.parameters()).device.type
    mixed = config.precision == "bfloat16"
    total, seen = 0.0, 0.0
    size = math.ceil(config.batch_size / config.accumulate)
    for start in range(0, len(batch), size):
        chunk = batch[start : start + size]
        with nll.drawing() if isinstance(nll, BatchLosses) else contextlib.nullcontext():
            with torch.autocast(device, dtype=torch.bfloat16) if mixed else contextlib.nullcontext():
                losses = nll(chunk)
            times = processes() if len(losses) == len(chunk) else 1  # all have computed the whole chunk
            loss = losses.sum() / (len(batch) * times)
            if processes() == 1:
                _require_finite("loss", loss, step, state)
            loss.backward()
        total += float(losses.detach().sum()) / times
        seen += len(losses) / times
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if processes() > 1:
        total, seen = sum_gradients(trained, total, seen)
        _require_finite("loss", torch.tensor(total / len(batch)), step, state)
        if round(seen) != len(batch):
            raise TrainingError(
                "the processes' parts must make up a batch",
                f"{seen:g} of {len(batch)} examples at step {step + 1}",
                "Train in one process.",
            )
    _require_finite("gradient", nn.utils.clip_grad_norm_(trained, config.max_grad_norm), step, state)
    optimizer.step()
    return total


def _warn_if_emulated(module: nn.Module, config: FitConfig) -> None:
    """Where a processor knows no bfloat16, a step in it takes many times as long."""
    here = next(module.parameters()).device.type
    if config.precision == "bfloat16" and here == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        log.warning("this processor has to emulate bfloat16: precision float32 is many times as fast")


def _warn_if_coarse(module: nn.Module) -> None:
    """PEFT keeps most adapters in float32 on a model of 16 bits; heads, norms and biases have its type."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for kind in {dtype_name(p.dtype) for p in trained if is_coarse(p)}:
        _tell_coarse(kind)


@cache
def _tell_coarse(kind: str) -> None:
    log.warning(
        "%s parameters are trained: small steps are lost by rounding. Load the model in float32", kind
    )


def _require_finite(what: str, value: Tensor, step: int, state: TrainingState) -> None:
    if not bool(torch.isfinite(value)):
        raise TrainingError(
            f"the {what} must stay finite",
            f"{float(value.detach())} at step {step + 1}; the state of epoch {state.best_epoch} was kept",
            "Lower the learning rate, or look at the examples of that batch.",
        )


def _freeze_statistics(module: nn.Module) -> None:
    """Batch norm of a frozen backbone keeps its running statistics."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()


def _schedule(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then linear decay to zero."""
    rising = max(1, round(steps * warmup))
    return (step + 1) / rising if step < rising else (steps - step) / max(1, steps - rising)


def _shuffled(examples: Sequence[Example], size: int, seed: int) -> Iterator[list[Example]]:
    """Endless passes in batches, each in an order of its own that depends on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(examples), generator=generator).tolist()
        for start in range(0, len(order), size):
            yield [examples[row] for row in order[start : start + size]]

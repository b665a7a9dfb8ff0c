"""Where a training run stands, on disk: whole or as it was before, of this run or refused."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from pituning.errors import TrainingError
from pituning.evaluation import Evaluation
from pituning.seed import random_state, restore_random_state

CHECKPOINT = "checkpoint.safetensors"


@dataclass
class TrainingState:
    """Everything an interrupted run needs to go on as if nothing had happened."""

    epoch: int = 0
    best_epoch: int = 0
    best: Evaluation | None = None
    history: list[dict[str, int | float]] = field(default_factory=list)
    best_tensors: dict[str, Tensor] = field(default_factory=dict)


def trainable(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters with `requires_grad`."""
    return {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}


def restore(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Write the parameters named in `tensors`; the others stay."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in tensors:
                parameter.copy_(tensors[name])


def save_checkpoint(
    file: Path, module: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState, key: str
) -> None:
    """Write the checkpoint beside the old one and swap them, so that a kill leaves one of the two whole."""
    tensors = {f"now.{name}": tensor for name, tensor in trainable(module).items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best_tensors.items()}
    tensors |= {
        f"random.{name}": value for name, value in random_state(next(module.parameters()).device).items()
    }
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": value.clone() for name, value in moments.items()}
    facts = {
        "key": key,
        "epoch": state.epoch,
        "best_epoch": state.best_epoch,
        "best": None if state.best is None else asdict(replace(state.best, each=())),
        "history": state.history,
    }
    scratch = file.with_suffix(".new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(to_bytes(tensors, metadata={"state": json.dumps(facts)}))
        os.replace(scratch, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        kept = (
            f"after epoch {state.epoch}; the best state so far was kept" if state.epoch else "before training"
        )
        raise TrainingError(
            f"{file.parent} must be writable and have room for checkpoints",
            f"{error.strerror or error} {kept}",
            f"Free space or choose another folder{', then resume' if state.epoch else ''}.",
        ) from error


def read_checkpoint(file: Path, key: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The facts and the tensors of a checkpoint."""
    try:
        with safe_open(file, framework="pt") as stored:
            facts = json.loads(stored.metadata()["state"])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise TrainingError(
            "a checkpoint is a whole safetensors file", f"{file} ({error})", "Delete it and start again."
        ) from error
    if facts["key"] != key:
        raise TrainingError(
            "a run resumes with the data, model and options it was started with",
            f"{file} is of another run",
            f"Give the same options, or start again: without --resume, or with {file.parent} deleted.",
        )
    return facts, tensors


def apply_checkpoint(
    facts: dict[str, Any], tensors: dict[str, Tensor], module: nn.Module, optimizer: torch.optim.Optimizer
) -> TrainingState:
    """Go back to a checkpoint's state."""
    restore(module, under("now.", tensors))
    packed = optimizer.state_dict()
    for name, value in under("adam.", tensors).items():
        index, _, moment = name.partition(".")
        packed["state"].setdefault(int(index), {})[moment] = value
    optimizer.load_state_dict(packed)
    restore_random_state(under("random.", tensors), next(module.parameters()).device)
    return TrainingState(
        epoch=facts["epoch"],
        best_epoch=facts["best_epoch"],
        best=None if facts["best"] is None else Evaluation(**facts["best"]),
        history=facts["history"],
        best_tensors=under("best.", tensors),
    )


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

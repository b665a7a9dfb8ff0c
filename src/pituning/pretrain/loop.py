"""The training loop: a stream of samples, checkpoints, exact resuming, a loss curve."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from pituning.checkpoint import under
from pituning.distributed import is_first, processes, sum_gradients
from pituning.errors import TrainingError
from pituning.models.ofa.entries import is_computed
from pituning.pretrain.config import PretrainConfig

CHECKPOINT, CURVE = "checkpoint.safetensors", "curve.json"

Batches = Callable[[int], tuple[str, dict[str, Tensor]]]
"""The number of a step to its kind and its batch, whatever came before."""


def train(
    model: torch.nn.Module,
    batches: Batches,
    config: PretrainConfig,
    folder: Path,
    *,
    stop_after: int | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train to the end, or until `stop_after`, from the checkpoint in `folder` where there is one.

    Step n sees the batch that the seed and n make, whatever came before, so that a run that was killed ends
    where an uninterrupted one does.

    Returns:
        The loss curve: step, kind and loss of every update (of this process's part of the batch).

    Raises:
        TrainingError: the loss is not finite, or the checkpoint is of another configuration.
    """
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(
        _groups(model, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.98)
    )
    curve = _resume(model, optimizer, config, folder)
    last = min(config.updates, stop_after or config.updates)
    bar = tqdm(range(len(curve), last), disable=not (progress and is_first()), initial=len(curve), total=last)
    for step in bar:
        kind, batch = batches(step)
        torch.manual_seed(config.seed * 1_000_003 + step)  # dropout
        loss = _update(model, optimizer, {n: t.to(device) for n, t in batch.items()}, config, step)
        curve.append({"step": step, "kind": kind, "loss": loss})
        bar.set_postfix_str(f"{kind} {loss:.3f}")
        if ((step + 1) % config.checkpoint_every == 0 or step + 1 == last) and is_first():
            _save(model, optimizer, config, folder, curve)
    return curve


def _groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and factors do not."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _update(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: dict[str, Tensor],
    config: PretrainConfig,
    step: int,
) -> float:
    model.train()
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * _schedule(step, config)
    optimizer.zero_grad(set_to_none=True)
    device = batch["input_ids"].device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=not config.fp32):
        loss: Tensor = model(**batch)
    if not bool(torch.isfinite(loss)):
        raise TrainingError(
            "the loss must stay finite", f"{float(loss.detach())} at step {step}", "Lower --learning-rate."
        )
    (loss / processes()).backward()
    sum_gradients([*model.parameters()])
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    optimizer.step()
    return float(loss.detach())


def _schedule(step: int, config: PretrainConfig) -> float:
    """Of each of the two cycles: linear rise, then half a cosine down to a hundredth."""
    steps = config.steps
    if step >= steps:
        step, steps = step - steps, config.more_steps
    rising = max(1, round(steps * config.warmup))
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def _save(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    config: PretrainConfig,
    folder: Path,
    curve: list[dict[str, Any]],
) -> None:
    """Both files whole or not at all; the curve first, whose surplus a resumed run cuts off."""
    tensors = {f"model.{n}": t for n, t in _unique(model.state_dict()).items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": value for name, value in moments.items()}
    facts = {"config": json.dumps(config.facts()), "steps": str(len(curve))}
    _swap(folder / CURVE, lambda path: path.write_text(json.dumps(curve)))
    _swap(folder / CHECKPOINT, lambda path: save_file(tensors, path, metadata=facts))


def _swap(path: Path, write: Callable[[Path], object]) -> None:
    scratch = path.with_suffix(".new")
    write(scratch)
    os.replace(scratch, path)


def _unique(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tied tensors once, and nothing that follows from the configuration."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in state.items():
        if tensor.data_ptr() in seen or is_computed(name):
            continue
        seen.add(tensor.data_ptr())
        kept[name] = tensor.contiguous()
    return kept


def _resume(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, config: PretrainConfig, folder: Path
) -> list[dict[str, Any]]:
    file = folder / CHECKPOINT
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        return []
    with safe_open(file, framework="pt") as stored:
        facts = stored.metadata()
    if json.loads(facts["config"]) != config.facts():
        raise TrainingError(
            "a run goes on with the configuration it was started with",
            f"{file} is of another",
            "Give the same options, or another --out.",
        )
    tensors = load_file(file)
    model.load_state_dict(under("model.", tensors), strict=False)
    packed = optimizer.state_dict()
    for name, value in under("adam.", tensors).items():
        index, _, moment = name.partition(".")
        packed["state"].setdefault(int(index), {})[moment] = value
    optimizer.load_state_dict(packed)
    curve: list[dict[str, Any]] = json.loads((folder / CURVE).read_text())
    return curve[: int(facts["steps"])]

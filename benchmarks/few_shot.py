"""One few-shot run of the whole recipe, with every number that the tables show."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pituning.backbones import Backbone
from pituning.expert import attach_expert
from pituning.interpolate import Mixture
from pituning.mixing import PiConfig
from pituning.pool import Pool
from pituning.provenance import provenance
from pituning.recipe import pi_tune
from pituning.result import PiResult
from pituning.task import Task
from pituning.train import score


def one_run(backbone: Backbone, task: Task, pool: Pool, config: PiConfig, cache: Path) -> dict[str, Any]:
    """π-Tune `task` and score all that it is compared with on the test split."""
    start = time.monotonic()
    result = pi_tune(backbone, task, pool, config)
    few = task.sample(config.shots, config.seed) if config.shots else task
    neighbors = [neighbor.name for neighbor in result.neighbors]
    return {
        "task": task.name,
        "metric": task.metric,
        "scores": {
            **result.scores,
            "mixture": _mixture(backbone, task, result),
            **alone(backbone, task, pool, neighbors, cache),
        },
        "kept": result.kept,
        "start": result.start,
        "best_neighbor": result.best_neighbor,
        "neighbors": [asdict(neighbor) for neighbor in result.neighbors],
        "weights": result.weights,
        "validation": result.validation,
        "lead": result.lead and asdict(result.lead),
        "config": config.told,
        "examples": {"train": len(few.train), "validation": len(few.validation), "test": len(task.test)},
        "seconds": time.monotonic() - start,
        **provenance(),
    }


def _mixture(backbone: Backbone, task: Task, result: PiResult) -> float:
    if result.kept == "mixture":
        return result.scores["pi"]
    return score(backbone, attach_expert(backbone, result.mixture), task)


def alone(backbone: Backbone, task: Task, pool: Pool, names: Sequence[str], cache: Path) -> dict[str, float]:
    """The pool's experts, averaged, on the target's test split as they are; computed once for all seeds.

    Empty of a backbone with heads: without training, there is none for the target.
    """
    if backbone.head_modules(backbone.model):
        return {}
    experts = [pool.get(name) for name in sorted(names)]
    key = "-".join([*(expert.digest[:8] for expert in experts), task.fingerprint[:16]])
    file = cache / f"{key}.json"
    if not file.exists():
        expert = experts[0] if len(experts) == 1 else Mixture(backbone, experts).collapse()
        write(file, score(backbone, attach_expert(backbone, expert), task))
    return {"zero-shot": float(json.loads(file.read_text()))}


def remember_pictures(backbone: Backbone, most: int = 2000) -> None:
    """Of a picture seen again, OFA's frozen stem is not run again: a quarter of a run's time."""
    model: Any = backbone.model
    stem = model.get_encoder().embed_images
    forward, known = stem.forward, dict[bytes, Tensor]()

    def remembered(pictures: Tensor) -> Tensor:
        if len(known) > most:
            known.clear()
        keys = [hashlib.md5(picture.numpy().tobytes()).digest() for picture in pictures]
        new = [row for row, key in enumerate(keys) if key not in known]
        if new:
            with torch.no_grad():
                for row, features in zip(new, forward(pictures[new]), strict=True):
                    known[keys[row]] = features.clone()
        return torch.stack([known[key] for key in keys])

    stem.forward = remembered


def write(file: Path, document: Mapping[str, Any] | float) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_suffix(f".{os.getpid()}.new")
    scratch.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(scratch, file)

"""Experts of one linear layer: what is tested with them is the folder that they lie in."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from small import expert, lora
from torch import nn

from pituning.expert import Expert
from pituning.foundation import Frozen
from pituning.predict import TaskEmbedding

FILES = ("adapter_model.safetensors", "adapter_config.json", "expert.json", "embedding.safetensors")

TINY = Frozen(nn.Sequential(nn.Linear(4, 4)), name="tiny")


def tiny(name: str, scale: float = 0.2) -> Expert:
    return expert(name, lora(target_modules=["0"]), TINY, scale=scale)


def embedding_of(one: Expert, value: float = 1.0) -> TaskEmbedding:
    return TaskEmbedding(
        task=one.name,
        components={"0.lora_A.weight": torch.full((2, 4), value)},
        expert=one.digest,
        data="data",
        config="config",
        source="source",
        setting="default",
        examples=1,
    )


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Every file, link and folder -> what it holds; without the lock, which writers and `verify` make."""
    paths = [path for path in folder.rglob("*") if path.name != ".lock" or path.is_symlink()]
    return {str(path.relative_to(folder)): _held(path) for path in paths}


def _held(path: Path) -> bytes | str:
    if path.is_symlink():
        return os.readlink(path)
    if path.is_file() and path.stat().st_size < 1 << 24:
        return path.read_bytes()
    return f"mode {path.stat().st_mode}"

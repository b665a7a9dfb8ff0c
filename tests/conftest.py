"""Tiny backbones, each saved and loaded once a session."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
# Tiny models are quicker on one thread, and the processes that tests start do not fight over the cores.
os.environ["OMP_NUM_THREADS"] = "1"

import tiny
import torch

from pituning.backbones import Backbone, load_backbone

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """kind -> a folder as the Hub would give it; it is never written to after."""
    root = tmp_path_factory.mktemp("backbones")
    return cache(lambda kind: tiny.save(kind, root / kind))


@pytest.fixture(scope="session")
def backbone_of(folder_of: Callable[[str], Path]) -> Callable[[str], Backbone]:
    """kind -> the backbone that `load_backbone` makes of its folder."""
    return cache(lambda kind: load_backbone(folder_of(kind), device="cpu"))

"""A tiny sentence encoder, four tasks and a pool of three experts, made once by the command itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from command import SHORT, Outcome, call, write_task


@dataclass(frozen=True)
class World:
    """Nothing in it is ever written to; `trained` is what `train` answered for a, b and c."""

    root: Path
    backbone: Path
    trained: dict[str, Outcome]

    @property
    def pool(self) -> Path:
        return self.root / "pool"

    def task(self, name: str = "target") -> Path:
        return self.root / "tasks" / name


@pytest.fixture(scope="session")
def world(folder_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> World:
    root, backbone = tmp_path_factory.mktemp("world"), folder_of("bert")
    for seed, name in enumerate(("a", "b", "c", "target")):
        write_task(root / "tasks" / name, seed)
    trained = {
        name: call(
            *("train", root / "tasks" / name, "--backbone", backbone, "--pool", root / "pool"),
            *(*SHORT, "--json"),
        )
        for name in "abc"
    }
    assert all(outcome.code == 0 for outcome in trained.values()), trained
    return World(root, backbone, trained)


@pytest.fixture
def pool(world: World, tmp_path: Path) -> Path:
    """A copy of the pool, to be changed."""
    return shutil.copytree(world.pool, tmp_path / "pool")

"""A result says which code made it."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from pituning import provenance as module
from pituning.provenance import provenance


def test_the_commit_is_the_checkouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *words]
        return subprocess.check_output(command, cwd=tmp_path, text=True).strip()

    monkeypatch.setattr(module, "CHECKOUT", tmp_path)
    assert module.commit.__wrapped__() == ""
    (tmp_path / "src").mkdir()
    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    assert git("rev-parse", "HEAD").startswith(module.commit.__wrapped__())
    (tmp_path / "file").write_text("2")
    assert module.commit.__wrapped__().endswith("-dirty")


def test_versions_are_those_installed() -> None:
    found = provenance()
    assert found["versions"]["torch"] == version("torch")
    assert found["versions"]["pituning"] == version("pituning")
    assert found["machine"]["cpus"] >= 1

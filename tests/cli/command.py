"""The command, in this process or as a process of its own, and what it must leave alone."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny

from pituning.task import Example
from pituning_command import main

INSTALLED = Path(sys.executable).with_name("pituning")
STAGES = (
    "demo: ",
    "training on ",
    "expert: ",
    "predict: ",
    "interpolate: ",
    "collapse: ",
    "report: ",
    "pool: ",
    "train ",
    "tune ",
)
SHORT = ("--epochs", "2", "--batch-size", "8")


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """What stderr has beside the stages as they begin."""
        lines = self.err.splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith(STAGES))

    @property
    def document(self) -> Any:
        """The one JSON document on stdout; with Infinity or NaN it would not be JSON."""
        return json.loads(self.out, parse_constant=lambda name: (_ for _ in ()).throw(ValueError(name)))


def call(*arguments: object) -> Outcome:
    """In this process, which has paid for the imports."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Outcome(code, out.getvalue(), err.getvalue())


def process(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """The installed command; see `started`."""
    return started(INSTALLED, *arguments, **options)


def started(
    *command: object, first: Callable[[], object] = lambda: None, **options: Any
) -> subprocess.Popen[str]:
    """A process that calls `first` before it starts."""

    def prepared() -> None:
        # A job in the background ignores Ctrl-C, and so would what it starts.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        first()

    words = [str(word) for word in command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, text=True, preexec_fn=prepared, **pipes, **options)


def refuse(outcome: Outcome, *fragments: str) -> None:
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert outcome.complaint.startswith("error: ")
    assert "Traceback" not in outcome.err
    for fragment in fragments:
        assert fragment in outcome.err


WAIT = 600
"""Seconds after which a process hangs; a machine that is busy with other work may take minutes."""


def outcome_of(running: subprocess.Popen[str]) -> Outcome:
    out, err = running.communicate(timeout=WAIT)
    return Outcome(running.returncode, out, err)


def wait_for(condition: Callable[[], bool], running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert running.poll() is None, outcome_of(running)
        if time.monotonic() > deadline:
            running.kill()
            raise AssertionError(outcome_of(running))
        time.sleep(0.01)


def tree(*folders: Path) -> dict[str, str]:
    """Every file and folder -> what it holds."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for folder in folders
        for path in sorted(folder.rglob("*"))
    }


def write_task(folder: Path, seed: int = 0, **settings: Any) -> Path:
    """Words of two classes as JSONL: 24 rows to train on, 8 to validate, 8 to test."""
    whole = tiny.text_task(seed, classes=2, train=24, validation=16)
    said = {"name": folder.name, "modality": "text", "metric": "accuracy", "labels": list(whole.candidates)}
    folder.mkdir(parents=True)
    (folder / "task.json").write_text(json.dumps(said | settings))
    splits = {"train": whole.train, "validation": whole.validation[:8], "test": whole.validation[8:]}
    for split, examples in splits.items():
        write_rows(folder / f"{split}.jsonl", rows(examples))
    return folder


def rows(examples: Iterable[Example]) -> list[dict[str, Any]]:
    return [{"text_a": example.text_a, "label": example.label} for example in examples]


def read_rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write_rows(file: Path, content: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in content))

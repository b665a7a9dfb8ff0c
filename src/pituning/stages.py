"""The stages of a run: where each keeps its checkpoints, and how long it took."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, final

from pituning.checkpoint import CHECKPOINT
from pituning.distributed import from_first, is_first

log = logging.getLogger(__name__)


@final
class Stages:
    """Where each stage keeps its checkpoints, and how many seconds have passed when it is done.

    Args:
        workdir: nothing is kept without one.
        resume: go on from what is kept there.
        progress: show bars on stderr.
        after: the stages that were done before -> the seconds until then; they count.
    """

    def __init__(
        self,
        workdir: str | Path | None = None,
        resume: bool = False,
        progress: bool = False,
        after: Mapping[str, float] | None = None,
    ) -> None:
        self.workdir = Path(workdir) if workdir else None
        self.resume, self.progress = resume, progress
        self.after = dict(after or {})
        self._began = time.monotonic() - max(self.after.values(), default=0.0)

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self._began

    def done(self, name: str) -> None:
        """Note how many seconds it took until this stage was done."""
        self.after[name] = self.seconds

    def options(self, name: str) -> dict[str, Any]:
        """The keyword arguments of `train_expert` and `tune` for a stage that begins now."""
        folder = self.workdir / name if self.workdir else None
        if folder and not self.resume and is_first() and (folder / CHECKPOINT).exists():
            log.warning(
                "the checkpoint in %s is overwritten; `resume` goes on from one of the same run", folder
            )
        return {"workdir": folder, "resume": self.resume, "progress": self.progress}

    def once(self, name: str, key: str, choose: Callable[[], str]) -> str:
        """What was chosen before, where a run of the same key goes on; else what is chosen now."""
        file = self.workdir / f"{name}.json" if self.workdir else None
        key = hashlib.sha256(key.encode()).hexdigest()
        known = from_first(lambda: _read(file) if file and self.resume else {})
        if known.get("key") == key:
            return str(known["chosen"])
        chosen = choose()
        if file and is_first():
            with suppress(OSError):  # of no use to this run
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps({"key": key, "chosen": chosen}))
        return chosen


def _read(file: Path) -> dict[str, Any]:
    """Empty where the file is missing, or was not written to its end."""
    with suppress(OSError, ValueError):
        return dict(json.loads(file.read_text()))
    return {}

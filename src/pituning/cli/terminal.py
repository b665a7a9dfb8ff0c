"""What the command prints, and what the libraries under it should not."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tqdm import tqdm


def quiet_libraries() -> None:
    """Keep stderr for our own words: no loading bars, no deprecation notes of libraries among themselves."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="(peft|torch)")


def progress_wanted(as_json: bool) -> bool:
    """Progress bars are for people at a terminal."""
    return sys.stderr.isatty() and not as_json


class _Stderr(logging.Handler):
    """A line each, above the progress bars; one that warns says so."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # a run does not end because nobody reads how far it is
            told = self.format(record)
            told = f"warning: {told}" if record.levelno >= logging.WARNING else told
            tqdm.write(told, file=sys.stderr)
            sys.stderr.flush()


def tell_progress() -> None:
    """Show on stderr what the package logs: each stage as it begins, and what a user should know."""
    log = logging.getLogger("pituning")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, _Stderr) for handler in log.handlers):
        log.addHandler(_Stderr())


def program() -> str:
    """How the command is typed here: by its path where it is not among those that the shell finds."""
    here = Path(sys.executable).with_name("pituning")
    return "pituning" if shutil.which("pituning") or not here.exists() else os.path.relpath(here)


WIDEST = 10_000
"""Columns of a table in a file or a pipe: nothing in it is cut."""


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as text, as wide as it needs to be where nobody is watching."""
    grid = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        grid.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        grid.add_row(*row)
    width = None if sys.stdout.isatty() else WIDEST
    console = Console(width=width, markup=False, emoji=False)  # a name may hold brackets
    with console.capture() as capture:
        console.print(grid)
    return capture.get().rstrip()

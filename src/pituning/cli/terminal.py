"""What the command prints, and what the libraries under it should not."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


def quiet_libraries() -> None:
    """Keep stderr for our own words: no loading bars, no deprecation notes of libraries among themselves."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="peft")


def progress_wanted(as_json: bool) -> bool:
    """Progress bars are for people at a terminal."""
    return sys.stderr.isatty() and not as_json


def say(text: str) -> None:
    """A line of progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as text, as wide as it needs to be where nobody is watching."""
    grid = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        grid.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        grid.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 100)
    with console.capture() as capture:
        console.print(grid)
    return capture.get().rstrip()

"""Names in messages: what a mistyped one may have been meant to be, and long lists of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path


def did_you_mean(word: str, names: Iterable[str], *, cutoff: float = 0.6) -> str:
    """A sentence that proposes the name nearest to `word`, or "" where none is near.

    `cutoff` is how alike they must be, in [0, 1] (see `difflib`).

    Example:
        >>> did_you_mean("acuracy", ["accuracy", "f1"])
        "Did you mean 'accuracy'? "
    """
    near = difflib.get_close_matches(word, list(names), n=1, cutoff=cutoff)
    return f"Did you mean {near[0]!r}? " if near else ""


def did_you_mean_file(path: Path) -> str:
    """A sentence that proposes what lies in the folder of a path that is not there, or ""."""
    if not path.name or path.exists():
        return ""
    return did_you_mean(path.name, [other.name for other in path.parent.glob("*")])


def brief(value: object) -> str:
    """The beginning of how a value is written, on one line.

    Example:
        >>> brief([1, 2])
        '[1, 2]'
    """
    return " ".join(repr(value).split())[:60]


_NAMES_SHOWN = 20


def listed(names: Sequence[str]) -> str:
    """The names with commas; of many the first, and how many more.

    Example:
        >>> listed(["no", "yes"])
        'no, yes'
    """
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more

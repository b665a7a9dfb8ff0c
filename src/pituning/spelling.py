"""What a mistyped name may have been meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """A sentence that proposes the name nearest to `word`, or "" where none is near.

    Example:
        >>> did_you_mean("acuracy", ["accuracy", "f1"])
        "Did you mean 'accuracy'? "
    """
    near = difflib.get_close_matches(word, list(names), n=1)
    return f"Did you mean {near[0]!r}? " if near else ""

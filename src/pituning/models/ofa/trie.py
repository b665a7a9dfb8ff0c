"""The token sequences that a decoder may write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, final


@final
class Trie:
    """Allowed sequences, each from `<s>` to `</s>`.

    Example:
        >>> trie = Trie([[0, 5, 6, 2], [0, 5, 7, 2]], eos=2)
        >>> trie.after([0, 5]), trie.after([0, 9])
        ([6, 7], [2])
    """

    def __init__(self, sequences: Iterable[Sequence[int]], *, eos: int) -> None:
        self.eos = eos
        self._root: dict[int, Any] = {}
        for sequence in sequences:
            node = self._root
            for token in sequence:
                node = node.setdefault(int(token), {})

    def after(self, prefix: Sequence[int]) -> list[int]:
        """What may follow `prefix`; only the end after one that is not in the trie, or is complete."""
        node = self._root
        for token in prefix:
            if token not in node:
                return [self.eos]
            node = node[token]
        return list(node) or [self.eos]

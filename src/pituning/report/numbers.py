"""The numbers under a figure."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def numbers(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table that opens when it is asked for."""
    named = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    table = f"<table><thead><tr>{named}</tr></thead><tbody>{body}</tbody></table>"
    return f"<details><summary>The numbers</summary>{table}</details>"

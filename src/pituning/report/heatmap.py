"""A heat map of task similarities as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def heatmap_page(names: Sequence[str], similarity: Sequence[Sequence[float]]) -> str:
    """The page.

    Args:
        names: of the tasks, in the order of the matrix.
        similarity: square matrix with ones on the diagonal; colours span its other values.
    """
    others = [value for i, row in enumerate(similarity) for j, value in enumerate(row) if i != j]
    low, high = min(others), max(others)
    head = "".join(f"<th><span>{escape(name)}</span></th>" for name in names)
    rows = "".join(
        f"<tr><th>{escape(name)}</th>"
        + "".join(_cell(value, low, high, i == j) for j, value in enumerate(row))
        + "</tr>"
        for i, (name, row) in enumerate(zip(names, similarity, strict=True))
    )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>task similarity</title>
<style>
 body {{ font: 14px system-ui, sans-serif; margin: 2em; }}
 table {{ border-collapse: collapse; }}
 td {{ width: 3.6em; height: 2.2em; text-align: center; }}
 tr > th {{ text-align: right; padding-right: .6em; font-weight: normal; }}
 thead th {{ height: 8em; vertical-align: bottom; padding: 0; }}
 thead span {{ writing-mode: vertical-rl; transform: rotate(180deg); }}
</style>
<h1>Task similarity</h1>
<p>Mean over the adapter's tensors of cos(a&oslash;(a+b), b&oslash;(a+b)), where a and b are the Fisher
information of two experts. 1 is alike; colours run from {low:.3f} to {high:.3f}.</p>
<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></html>
"""


def _cell(value: float, low: float, high: float, diagonal: bool) -> str:
    if diagonal:
        return '<td style="background:#eee">1</td>'
    share = (value - low) / (high - low) if high > low else 0.0
    colour = f"hsl(215 70% {95 - 55 * share:.0f}%)"
    ink = "#fff" if share > 0.6 else "#000"
    return f'<td style="background:{colour};color:{ink}">{value:.3f}</td>'

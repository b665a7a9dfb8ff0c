"""Numbers on colours: a real table, so that it can be read without seeing them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from pituning.report.clusters import Clusters

STEPS = 9  # of the colour scale: the classes q0 … q8 of style.css
DENSE = 26  # with more tasks than that, colours alone fit; the numbers stay in the table


def heatmap_table(names: Sequence[str], similarity: Sequence[Sequence[float]], clusters: Clusters) -> str:
    """The similarities in the clusters' order, with a scale; colours span the values off the diagonal."""
    others = [value for i, row in enumerate(similarity) for j, value in enumerate(row) if i != j]
    low, high = min(others), max(others)
    order = clusters.order
    starts = {group[0] for group in clusters.groups[1:]}
    head = "".join(
        f'<th scope="col"{_class(_left(j, starts))}><span>{escape(names[j])}</span></th>' for j in order
    )
    rows = []
    for i in order:
        cells = "".join(
            f"<td{_class(_left(j, starts), 'same' if i == j else step(similarity[i][j], low, high))}"
            f' title="{escape(names[i])}, {escape(names[j])}: {similarity[i][j]:.4f}">'
            f"{similarity[i][j]:.{0 if i == j else 2}f}</td>"
            for j in order
        )
        above = _class("top" if i in starts else "")
        rows.append(f'<tr{above}><th scope="row">{escape(names[i])}</th>{cells}</tr>')
    kind = "heat dense" if len(names) > DENSE else "heat"
    return (
        f'<table class="{kind}"><caption class="hidden">Similarity of each pair of tasks</caption>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{scale(low, high)}"
    )


def step(value: float, low: float, high: float) -> str:
    """The colour's class."""
    share = (value - low) / (high - low) if high > low else 0.5
    return f"q{min(STEPS - 1, int(share * STEPS))}"


def scale(low: float, high: float) -> str:
    """The colours, from the value of the first to that of the last."""
    colours = "".join(f'<span class="q{index}"></span>' for index in range(STEPS))
    ramp = f'<span class="ramp">{colours}</span>'
    return f'<p class="scale"><span>{low:.2f}</span>{ramp}<span>{high:.2f}</span></p>'


def _left(row: int, starts: set[int]) -> str:
    """A line before a column where a cluster starts."""
    return "left" if row in starts else ""


def _class(*names: str) -> str:
    used = " ".join(filter(None, names))
    return f' class="{used}"' if used else ""

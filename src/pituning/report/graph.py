"""The task graph as SVG: alike tasks lie close, each joined to its nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import minimum_spanning_tree, shortest_path

Points = NDArray[np.float64]

# Modality as tasks have it -> what people call it, and the mark that says it without its colour.
MODALITIES = {
    "image": ("vision", "M-8-8H8V8H-8Z"),
    "text": ("language", "M-9 0a9 9 0 1 0 18 0a9 9 0 1 0-18 0Z"),
    "image+text": ("vision-language", "M0-11L11 0L0 11L-11 0Z"),
    "unknown": ("unknown modality", "M0-10L10 8H-10Z"),
}
WIDTH, HEIGHT = 880, 520  # pixels of 24 tasks; more get more
NEAREST = 3


def graph_figure(
    names: Sequence[str],
    modalities: Sequence[str],
    similarity: Sequence[Sequence[float]],
    target: str | None = None,
    neighbors: Mapping[str, float] | None = None,
) -> str:
    """The drawing; the target and its neighbours stand out."""
    matrix, chosen = np.asarray(similarity, dtype=float), neighbors or {}
    roles = ["target" if name == target else "near" if name in chosen else "" for name in names]
    labels = [f"{name} {chosen[name]:.2f}" if name in chosen else name for name in names]
    halves = np.array([_half(label, role) for label, role in zip(labels, roles, strict=True)])
    places = separated(spread(matrix), halves)
    edges = nearest_edges(matrix, NEAREST)
    bright = [(names.index(target), names.index(name)) for name in chosen if name in names] if target else []
    if target:
        mine = names.index(target)
        edges = [edge for edge in edges if mine not in edge]
    lines = [_line("edge", places[i], places[j], names[i], names[j], matrix[i, j]) for i, j in edges]
    lines += [_line("edge bright", places[i], places[j], names[i], names[j], matrix[i, j]) for i, j in bright]
    nodes = map(_node, labels, modalities, places, roles)
    corner, end = (places - halves).min(axis=0) - 12, (places + halves).max(axis=0) + 12
    width, height = end - corner
    label = "Task graph; the table of nearest tasks has its edges"
    return (
        f'<svg class="graph" viewBox="{corner[0]:.0f} {corner[1]:.0f} {width:.0f} {height:.0f}" '
        f'style="width:{width:.0f}px;min-width:{0.7 * width:.0f}px" role="img" aria-label="{label}">'
        f"{''.join(lines)}{''.join(nodes)}</svg>{legend(modalities, target)}"
    )


def legend(modalities: Sequence[str], target: str | None) -> str:
    """What the marks mean, for those that occur."""
    kinds = [kind for kind in MODALITIES if kind in set(map(_known, modalities))]
    items = [f"<li>{mark(kind)} {MODALITIES[kind][0]}</li>" for kind in kinds]
    if target:
        ring = (
            '<svg class="mark" viewBox="-13 -13 26 26" aria-hidden="true"><circle class="ring" r="11"/></svg>'
        )
        items.append(f"<li>{ring} the target (double) and its neighbours, with their similarity</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def mark(kind: str) -> str:
    """A modality's mark, for text."""
    kind = _known(kind)
    return (
        f'<svg class="mark" viewBox="-13 -13 26 26" role="img" aria-label="{MODALITIES[kind][0]}">'
        f'<path class="{_class(kind)}" d="{MODALITIES[kind][1]}"/></svg>'
    )


def nearest_edges(similarity: Points, k: int) -> list[tuple[int, int]]:
    """Each task with its k most similar, every pair once."""
    found = set()
    for row, values in enumerate(similarity):
        others = sorted((-value, other) for other, value in enumerate(values) if other != row)
        found |= {(min(row, other), max(row, other)) for _, other in others[:k]}
    return sorted(found)


def spread(similarity: Points) -> Points:
    """Places that keep the distances along the graph: stress majorization from classical scaling."""
    size = len(similarity)
    if size == 1:
        return np.zeros((1, 2))
    apart = 1 - similarity[~np.eye(size, dtype=bool)]
    low, high = apart.min(), apart.max()
    lengths = 0.4 + 0.6 * (1 - similarity - low) / (high - low or 1.0)
    np.fill_diagonal(lengths, 0)
    joined = minimum_spanning_tree(lengths).toarray()  # so that every task can be reached
    for i, j in nearest_edges(similarity, NEAREST):
        joined[i, j] = lengths[i, j]
    goal = shortest_path(joined, directed=False)
    centre = np.eye(size) - 1 / size
    values, vectors = np.linalg.eigh(-0.5 * centre @ (goal**2) @ centre)
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), range(size)])
    places: Points = vectors[:, :-3:-1] * np.sqrt(np.clip(values[:-3:-1], 1e-9, None))
    weights = np.divide(1, goal**2, out=np.zeros_like(goal), where=goal > 0)
    inverse = np.linalg.pinv(np.diag(weights.sum(axis=1)) - weights)
    for _ in range(200):
        now = np.linalg.norm(places[:, None] - places[None], axis=2)
        pull = -weights * np.divide(goal, now, out=np.zeros_like(goal), where=now > 1e-9)
        np.fill_diagonal(pull, -pull.sum(axis=1))
        places = inverse @ (pull @ places)
    extent = np.ptp(places, axis=0)
    wanted = np.array([WIDTH, HEIGHT]) * max(0.45, size / 24) ** 0.5
    scale = np.where(extent > 0.05 * extent.max(), wanted / np.where(extent > 0, extent, 1), 1.0)
    centred: Points = (places - places.mean(axis=0)) * scale
    return centred


def separated(places: Points, half: Points) -> Points:
    """Push apart boxes of these half widths and heights that overlap, each pair along its shorter way."""
    size = len(places)
    sides = np.sign(np.arange(size)[:, None] - np.arange(size))[..., None]  # of boxes in one place
    for _ in range(2000):
        gap = places[:, None] - places[None]
        overlap = half[:, None] + half[None] - np.abs(gap)
        hit = (overlap > 1e-6).all(axis=2) & ~np.eye(size, dtype=bool)
        if not hit.any():
            break
        shorter = overlap == overlap.min(axis=2, keepdims=True)
        away = np.where(gap == 0, sides, np.sign(gap))
        push = np.where(hit[..., None] & shorter, away * (overlap / 2 + 0.5), 0)
        places = places + push.sum(axis=1) / np.maximum(1, hit.sum(axis=1))[:, None]
    return places


def _half(label: str, role: str) -> tuple[float, float]:
    """Half the box of a mark with its label below, and some air."""
    return max(24.0, (4.2 if role else 3.7) * len(label) + 8), 42.0 if role else 32.0


def _line(kind: str, one: Points, two: Points, a: str, b: str, value: float) -> str:
    (x1, y1), (x2, y2) = one - (0, 8), two - (0, 8)
    return (
        f'<path class="{kind}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}">'
        f"<title>{escape(a)}, {escape(b)}: {value:.3f}</title></path>"
    )


def _node(label: str, kind: str, place: Points, role: str) -> str:
    kind = _known(kind)
    rings = '<circle class="ring" r="15"/>' if role else ""
    rings += '<circle class="ring" r="19"/>' if role == "target" else ""
    below = {"": 26, "near": 31, "target": 36}[role]
    return (
        f'<g class="node {role}" transform="translate({place[0]:.1f} {place[1] - 8:.1f})">'
        f"<title>{escape(label)} ({MODALITIES[kind][0]})</title>{rings}"
        f'<path class="{_class(kind)}" d="{MODALITIES[kind][1]}"/>'
        f'<text y="{below}" class="middle">{escape(label)}</text></g>'
    )


def _known(kind: str) -> str:
    return kind if kind in MODALITIES else "unknown"


def _class(kind: str) -> str:
    return f"fill-{MODALITIES[kind][0].partition(' ')[0]}"

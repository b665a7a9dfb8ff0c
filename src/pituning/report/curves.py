"""Line charts of training as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

History = Sequence[Mapping[str, float]]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 250, 46, 12, 30, 38  # pixels; the last four are margins


def loss_chart(history: History) -> str:
    """The losses of each epoch, in nats: of training, and of validation where it was measured."""
    return chart(
        {
            "training": points(history, "loss"),
            "validation": points(history, "validation_loss"),
        },
        "loss (nats)",
    )


def points(history: History, key: str) -> list[tuple[float, float]]:
    """(epoch, value) wherever there is one that can be drawn."""
    return [(entry["epoch"], entry[key]) for entry in history if key in entry and math.isfinite(entry[key])]


def chart(series: Mapping[str, Sequence[tuple[float, float]]], unit: str) -> str:
    """Lines over the epochs, told apart by dash as well as colour; empty where there is nothing to draw."""
    lines = {name: values for name, values in series.items() if values}
    drawn = [point for values in lines.values() for point in values]
    if not drawn:
        return ""
    first, last = min(x for x, _ in drawn), max(x for x, _ in drawn)
    heights = ticks(min(y for _, y in drawn), max(y for _, y in drawn))
    low, high = heights[0], heights[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / (last - first) if last > first else 0.5
        up = (y - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = []
    for value in heights:
        y = place(first, value)[1]
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="end small" x="{LEFT - 6}" y="{y + 4:.1f}">{value:g}</text>')
    for epoch in _epochs(first, last):
        x = place(epoch, low)[0]
        parts.append(f'<text class="middle small" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}">{epoch}</text>')
    parts.append(f'<text class="middle small" x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 4}">epoch</text>')
    parts.append(f'<text class="small" x="0" y="12">{escape(unit)}</text>')
    side = WIDTH - RIGHT - sum(map(_key, lines))  # where the key starts
    for index, (name, values) in enumerate(lines.items()):
        places = [place(*point) for point in values]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path class="line line{index}" d="M{path}"/>')
        parts += [
            f'<circle class="dot line{index}" cx="{x:.1f}" cy="{y:.1f}" r="3">'
            f"<title>{escape(name)}, epoch {epoch:g}: {value:.4f}</title></circle>"
            for (x, y), (epoch, value) in zip(places, values, strict=True)
        ]
        parts.append(f'<path class="line line{index}" d="M{side} 8h24"/>')
        parts.append(f'<text class="small" x="{side + 30}" y="12">{escape(name)}</text>')
        side += _key(name)
    label = escape(f"{unit} over the epochs: {', '.join(lines)}")
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}"'
    return f'<svg class="chart" {box}>{"".join(parts)}</svg>'


def ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers that span low and high."""
    if high - low < 1e-9:
        pad = abs(high) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    width = next(power * step for step in (1, 2, 5, 10) if power * step >= rough)
    start, end = math.floor(low / width), math.ceil(high / width)
    return [round(index * width, 10) for index in range(start, end + 1)]


def _key(name: str) -> int:
    """Pixels that a line's name takes, with a sample of the line."""
    return 46 + 6 * len(name)


def _epochs(first: float, last: float) -> list[int]:
    every = max(1, math.ceil((last - first + 1) / 10))
    return list(range(int(first), int(last) + 1, every))

"""Laws of the page: everything is shown once, nothing is run, nothing is asked of the network."""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from pages import pool_report, similarities, whole_report

from pituning import report as package
from pituning.errors import PituningError
from pituning.report import Answer, ExampleShown, Plane, Point, Report, grid, report_page, write_report
from pituning.report.clusters import clustered
from pituning.report.curves import chart, ticks
from pituning.report.graph import separated, spread

SECTIONS = [
    *("Scores", "Examples", "Weights", "Between experts", "Training", "Task graph"),
    *("Similarity", "Clusters", "Nearest tasks", "Do it again"),
]
HOSTILE = "<script>alert('\"&')</script>"


class Outline(HTMLParser):
    """Headings, tags that were left open, and every attribute."""

    void = ("meta", "link", "img")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sections: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["h2"]:
            self.sections.append(data)


def sections(report: Report) -> list[str]:
    return Outline(report_page(report)).sections


def test_every_part_is_shown_and_every_tag_closed() -> None:
    page = report_page(whole_report())
    outline = Outline(page)
    assert outline.sections == SECTIONS
    assert outline.open == []
    ids = [value for name, value in outline.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    links = {value.removeprefix("#") for name, value in outline.attributes if name == "href"}
    assert links - {"data:,"} <= set(ids)
    assert "data:image/png;base64," in page
    assert page.count('class="box box') == 2 * 3  # in the picture and beside the answer
    for shown in ("the red one", "✓ right", "✗ wrong", "layer.11.query", "0.6000", "epoch", "torch"):
        assert shown in page


@pytest.mark.parametrize(
    ("part", "section"),
    [
        ("scores", "Scores"),
        ("examples", "Examples"),
        ("weights", "Weights"),
        ("plane", "Between experts"),
        ("curves", "Training"),
    ],
)
def test_an_empty_part_is_left_out(part: str, section: str) -> None:
    empty = next(field for field in fields(Report) if field.name == part).default
    nothing = None if part == "plane" else () if empty == () else {}
    without = replace(whole_report(), **{part: nothing})
    assert sections(without) == [name for name in SECTIONS if name != section]


def test_a_report_of_nothing_is_a_page_without_sections() -> None:
    assert sections(Report(title="nothing")) == []


@pytest.mark.parametrize("tasks", [1, 2, 3, 20, 100])
def test_pools_of_every_size(tasks: int) -> None:
    for report in (pool_report(tasks), whole_report(tasks)):
        page = report_page(report)
        assert Outline(page).open == []
        assert ("Similarity" in sections(report)) == (tasks > 1)
        assert not re.search(r"\b(nan|inf)\b", page, re.IGNORECASE)


def test_weights_that_tuning_left_as_they_began_are_told_once() -> None:
    same = {layer: {"a": 0.25, "b": 0.75} for layer in ("layer.0", "layer.1")}
    page = report_page(Report(title="t", target="a", weights=same))
    assert "All 2 modules have the same weights" in page
    assert page.count("0.750") == 1
    assert "layer.0" not in page
    page = report_page(Report(title="t", target="a", weights={**same, "layer.1": {"a": 0.5, "b": 0.5}}))
    assert "layer.0" in page


def test_tasks_that_are_all_equally_alike_can_be_drawn() -> None:
    for value in (0.5, 1.0):
        alike = [[1.0 if i == j else value for j in range(5)] for i in range(5)]
        page = report_page(replace(pool_report(5), similarity=alike))
        assert not re.search(r"\b(nan|inf)\b", page, re.IGNORECASE)


def test_what_others_wrote_is_never_markup() -> None:
    report = Report(
        title=HOSTILE,
        summary=[HOSTILE],
        names=[HOSTILE, "b"],
        modalities=[HOSTILE, "text"],
        similarity=[[1, 0.5], [0.5, 1]],
        target=HOSTILE,
        neighbors={"b": 0.5},
        weights={HOSTILE: {HOSTILE: 1.0}},
        plane=Plane(corners=(HOSTILE,) * 3, points=[Point(weights=at, loss=math.inf) for at in grid()]),
        curves={HOSTILE: [{"epoch": 1, HOSTILE: 1, "loss": 1.0, "score": 0.5}]},
        scores={HOSTILE: 0.5},
        metric=HOSTILE,
        examples=[ExampleShown(text=HOSTILE, answers=[Answer(who=HOSTILE, text=HOSTILE)])],
        commands=[HOSTILE],
        facts={HOSTILE: HOSTILE},
    )
    page = report_page(report)
    assert "<script" not in page
    assert "alert('" not in page
    assert Outline(page).open == []


def test_the_page_asks_the_network_for_nothing() -> None:
    page = report_page(whole_report())
    asking = {"src", "href", "srcset", "action", "data", "poster", "xlink:href"}
    given = [value for name, value in Outline(page).attributes if name in asking]
    assert all(value.startswith(("#", "data:")) for value in given)
    assert not re.search(r"url\(|@import|<script|<iframe|\son\w+=", page)


def test_the_same_report_is_the_same_page() -> None:
    assert report_page(whole_report()) == report_page(whole_report())


def test_the_order_puts_clusters_side_by_side() -> None:
    kinds = ["text", "image", "image+text"] * 4
    apart = np.where(np.array(kinds)[:, None] == np.array(kinds)[None], 0.8, 0.3)
    apart = apart + 0.05 * np.array(similarities(kinds))
    np.fill_diagonal(apart, 1)
    found = clustered(apart.tolist())
    assert sorted(found.order) == list(range(12))
    assert sorted(sorted(group) for group in found.groups) == [
        [0, 3, 6, 9],
        [1, 4, 7, 10],
        [2, 5, 8, 11],
    ]
    names = [f"{kind}{index}" for index, kind in enumerate(kinds)]
    page = report_page(Report(title="t", names=names, modalities=kinds, similarity=apart.tolist()))
    rows = re.findall(r'<tr[^>]*><th scope="row">([^<]*)</th><td class', page)
    assert rows[:12] == [names[row] for row in found.order]


def test_alike_tasks_lie_closer_than_others() -> None:
    kinds = ["text", "image"] * 5
    alike = np.array(kinds)[:, None] == np.array(kinds)[None]
    places = spread(np.where(np.eye(10, dtype=bool), 1.0, np.where(alike, 0.8, 0.3)))
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    assert apart[alike].mean() < apart[~alike].mean() / 2


def test_boxes_of_the_graph_do_not_overlap() -> None:
    half = np.tile([40.0, 20.0], (30, 1))
    places = separated(np.random.default_rng(0).normal(size=(30, 2)) * 60, half)
    gaps = np.abs(places[:, None] - places[None]) - 80 * np.array([1, 0.5])
    clear = (gaps > -1e-6).any(axis=2) | np.eye(30, dtype=bool)
    assert clear.all()


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.31, 0.34), (5.0, 5.0), (0.0, 0.0), (-3.0, 1e4)])
def test_ticks_span_the_values(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert 3 <= len(found) <= 7


def test_a_chart_draws_each_line_and_nothing_without_one() -> None:
    drawn = chart({"a": [(1, 2.0), (2, 1.0)], "b": [(1, 3.0)], "empty": []}, "loss")
    assert drawn.count("<circle") == 3
    assert "empty" not in drawn
    assert chart({"a": []}, "loss") == ""


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    write_report(whole_report(), tmp_path / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(PituningError, match="must be writable"):
        write_report(whole_report(), tmp_path / "page.html" / "below.html")


def luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(d * 2 for d in digits) if len(digits) == 3 else digits
    values = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return sum(share * value for share, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, two: str) -> float:
    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_of_text_and_marks(theme: str) -> None:
    style = Path(package.__file__).with_name("style.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", light))
    if theme == "dark":
        changed = dict(re.findall(r"--([\w-]+): (#\w+)", dark))
        assert changed.keys() == colours.keys()
        colours = changed
    texts = [(ink, on) for ink in ("ink", "soft", "accent") for on in ("paper", "card", "faint")]
    texts += [("good", "card"), ("bad", "card")]
    texts += [("low-ink", f"q{step}") for step in range(5)] + [
        ("high-ink", f"q{step}") for step in range(5, 9)
    ]
    for ink, on in texts:
        assert contrast(colours[ink], colours[on]) >= 4.5, (ink, on)
    for mark in ("vision", "language", "vision-language", "unknown", "line0", "line1", "line2"):
        assert contrast(colours[mark], colours["paper"]) >= 3, mark

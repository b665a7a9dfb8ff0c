"""The page: what was found out, in the order in which people ask for it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from pituning.errors import PituningError
from pituning.report.clusters import Clusters, clustered, tree_figure
from pituning.report.curves import History, chart, loss_chart, points
from pituning.report.examples import ExampleShown, example_figure
from pituning.report.graph import graph_figure, mark
from pituning.report.heatmap import heatmap_table, step
from pituning.report.numbers import numbers
from pituning.report.plane import Plane, plane_figure

NEAREST = 3  # columns of the table of nearest tasks


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything a page can show; what is empty is left out.

    Attributes:
        summary: sentences below the title.
        names: of the tasks.
        modalities: of each task: "text", "image", "image+text" or "unknown".
        similarity: square, in the order of the names.
        target: the name of the task that was tuned.
        neighbors: the target's, name -> similarity.
        weights: module (or what else shares them) -> expert -> weight.
        kept: whether the mixture of these weights is the result.
        plane: the loss between the target's own expert, the nearest and the farthest.
        curves: title -> one entry an epoch, as `FitResult.history` has them.
        kept_epochs: title -> of which epoch the state was kept; 0 is the one before, None not known.
        scores: adapter -> score by `metric`.
        commands: lines to type to get this again.
        facts: what else that takes (versions, seeds), name -> value.
    """

    title: str
    summary: Sequence[str] = ()
    names: Sequence[str] = ()
    modalities: Sequence[str] = ()
    similarity: Sequence[Sequence[float]] = ()
    target: str | None = None
    neighbors: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    kept: bool = True
    plane: Plane | None = None
    curves: Mapping[str, History] = field(default_factory=dict)
    kept_epochs: Mapping[str, int | None] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    metric: str = ""
    examples: Sequence[ExampleShown] = ()
    commands: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


def write_report(report: Report, path: Path) -> None:
    """Write the page whole or not at all.

    Raises:
        PituningError: if the page cannot be written.
    """
    scratch = path.with_name(f".{path.name}.new")
    try:
        scratch.write_text(report_page(report), encoding="utf-8")
        os.replace(scratch, path)
    except OSError as error:
        raise PituningError(
            "the report must be writable", f"{path}: {error.strerror}", "Choose another --out."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def report_page(report: Report) -> str:
    """The page as HTML that asks the network for nothing."""
    clusters = clustered(report.similarity)
    parts = [(title, draw(report, clusters)) for title, draw in SECTIONS.items()]
    shown = [(title, title.lower().replace(" ", "-"), body) for title, body in parts if body]
    links = "".join(f'<li><a href="#{key}">{title}</a></li>' for title, key, _ in shown)
    sections = "".join(
        f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{title}</h2>{body}</section>'
        for title, key, body in shown
    )
    summary = "".join(f"<p>{escape(line)}</p>" for line in report.summary)
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(report.title)}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header><p class="brand">π-Tuning</p><h1>{escape(report.title)}</h1>{summary}
<nav aria-label="Sections"><ul>{links}</ul></nav></header>
<main id="main">{sections}</main>
</body>
</html>
"""


def _scores(report: Report, _: Clusters) -> str:
    if not report.scores:
        return ""
    most = max(1e-9, *report.scores.values()) if report.metric.startswith("cider") else 1.0
    last = list(report.scores)[-1]
    rows = "".join(
        f'<tr{" class=kept" if name == last else ""}><th scope="row">{escape(name)}</th>'
        f'<td class="number">{value:.4f}</td>'
        f'<td class="bar"><span style="width:{100 * min(1, max(0, value) / most):.1f}%"></span></td></tr>'
        for name, value in report.scores.items()
    )
    return (
        f'<table class="scores"><thead><tr><th scope="col">adapter</th><th scope="col" class="number">'
        f"{escape(report.metric)}</th><td></td></tr></thead><tbody>{rows}</tbody></table>"
        "<p>On the test split, which chose nothing.</p>"
    )


def _examples(report: Report, _: Clusters) -> str:
    if not report.examples:
        return ""
    told = "<p>Of the test split, chosen by the hash of their content and not by hand.</p>"
    return f'{told}<div class="examples">{"".join(map(example_figure, report.examples))}</div>'


def _weights(report: Report, _: Clusters) -> str:
    if not report.weights:
        return ""
    experts = sorted({name for weights in report.weights.values() for name in weights})
    experts.sort(key=lambda name: (name != report.target, -report.neighbors.get(name, 0)))
    mean = {
        name: sum(weights.get(name, 0.0) for weights in report.weights.values()) / len(report.weights)
        for name in experts
    }
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in experts)
    groups = list(report.weights.items())
    told = "Each module's weights add up to 1."
    if len(groups) > 1 and all(weights == groups[0][1] for _, weights in groups):
        told = f"All {len(groups)} modules have the same weights."
        groups = []
    mixture = "The result" if report.kept else "The mixture, which was not kept,"
    told += f" {mixture} is the sum of the experts with these weights."
    rows = "".join(
        f'<tr{" class=kept" if weights is mean else ""}><th scope="row">{escape(group) or "all"}</th>'
        + "".join(
            f'<td class="{step(weights.get(name, 0.0), 0, 1)}">{weights.get(name, 0.0):.3f}</td>'
            for name in experts
        )
        + "</tr>"
        for group, weights in [("mean", mean), *groups]
    )
    return f"<p>{told}</p>" + _scrolling(
        f'<table class="weights"><thead><tr><th scope="col">module</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>",
        "Weights by module",
    )


def _plane(report: Report, _: Clusters) -> str:
    if not report.plane:
        return ""
    own, near, far = map(escape, report.plane.corners)
    return (
        f"<p>The loss, in nats, of mixtures of three experts: the task's own ({own}), the most alike of the "
        f"others drawn below ({near}) and the least alike of those ({far}), before any tuning. An edge is "
        "the straight path of two. Where experts lie in one valley, a mixture is as good as its corners; "
        "between strangers is a ridge. On the first test examples by hash; nothing was chosen by it.</p>"
        + _scrolling(plane_figure(report.plane), "Between experts")
    )


def _curves(report: Report, _: Clusters) -> str:
    charts = {title: loss_chart(history) for title, history in report.curves.items()}
    scores = {title: points(history, "score") for title, history in report.curves.items()}
    figures = [
        f"<figure><figcaption>{escape(title)}{_kept(report.kept_epochs.get(title))}</figcaption>"
        f"{drawn}{_numbers(report.curves[title])}</figure>"
        for title, drawn in charts.items()
        if drawn
    ]
    scored = chart(scores, report.metric or "score")
    if scored:
        figures.append(f"<figure><figcaption>Validation score</figcaption>{scored}</figure>")
    overlaps = {title: points(history, "overlap") for title, history in report.curves.items()}
    drawn = chart(overlaps, "mean IoU")
    if drawn:
        figures.append(f"<figure><figcaption>Validation overlap of the boxes</figcaption>{drawn}</figure>")
    told = (
        "<p>The loss is minus the natural logarithm of the right answer's probability, in nats; on "
        "validation, among labels, at the temperature that suits best. What validates best is kept, maybe "
        "the state before training.</p>"
    )
    return f'{told}<div class="charts">{"".join(figures)}</div>' if figures else ""


def _kept(epoch: int | None) -> str:
    return "" if epoch is None else f", kept as after epoch {epoch}" if epoch else ", kept as it was before"


def _numbers(history: History) -> str:
    columns = list(dict.fromkeys(key for entry in history for key in entry))
    rows = ([f"{entry[key]:.6g}" if key in entry else "" for key in columns] for entry in history)
    return numbers((key.replace("_", " ") for key in columns), rows)


def _graph(report: Report, _: Clusters) -> str:
    if len(report.names) < 2:
        return ""
    drawn = graph_figure(report.names, report.modalities, report.similarity, report.target, report.neighbors)
    told = "<p>Alike tasks lie close together; a line joins each to its nearest.</p>"
    return told + _scrolling(drawn, "Task graph")


def _heatmap(report: Report, clusters: Clusters) -> str:
    if len(report.names) < 2:
        return ""
    drawn = heatmap_table(report.names, report.similarity, clusters)
    return (
        "<p>Mean over the adapter's tensors of cos(a ⊘ (a+b), b ⊘ (a+b)), where a and b are the Fisher "
        "information of two tasks, standardised: 1 is alike. Only the order says something: how far apart "
        "two values lie depends on the model. Clusters stand side by side.</p>"
        + _scrolling(drawn, "Similarity")
    )


def _clusters(report: Report, clusters: Clusters) -> str:
    if len(report.names) < 2:
        return ""
    groups = [[escape(report.names[row]) for row in group] for group in clusters.groups]
    items = "".join(f"<li><span>{',</span> <span>'.join(names)}</span></li>" for names in groups)
    tree = _scrolling(tree_figure(report.names, clusters), "Tree of the tasks")
    return (
        "<p>The most alike are merged first, at the similarity below: the mean over all pairs of one and the "
        "other. Cut where two merges lie farthest apart.</p>"
        f'<div class="clusters">{tree}<ol>{items}</ol></div>'
    )


def _nearest(report: Report, _: Clusters) -> str:
    if len(report.names) < 2:
        return ""
    rows = []
    for i, (name, kind) in enumerate(zip(report.names, report.modalities, strict=True)):
        others = sorted((-report.similarity[i][j], other) for j, other in enumerate(report.names) if j != i)
        cells = "".join(
            f"<td>{escape(other)} <small>{-value:.4f}</small></td>" for value, other in others[:NEAREST]
        )
        chosen = " class=kept" if name == report.target else ""
        rows.append(f'<tr{chosen}><th scope="row">{mark(kind)} {escape(name)}</th>{cells}</tr>')
    head = "".join(
        f'<th scope="col">{place}</th>' for place in ("nearest", "second", "third")[: len(report.names) - 1]
    )
    head = f'<thead><tr><th scope="col">task</th>{head}</tr></thead>'
    return _scrolling(f"<table>{head}<tbody>{''.join(rows)}</tbody></table>", "Nearest tasks")


def _again(report: Report, _: Clusters) -> str:
    commands = "\n".join(report.commands)
    code = f'<pre tabindex="0"><code>{escape(commands)}</code></pre>' if commands else ""
    facts = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in report.facts.items()
    )
    return code + (f'<dl class="facts">{facts}</dl>' if facts else "")


def _scrolling(body: str, label: str) -> str:
    """What may be wider than the screen; it can be scrolled by keyboard."""
    return f'<div class="wide" tabindex="0" role="region" aria-label="{label}">{body}</div>'


SECTIONS: Mapping[str, Callable[[Report, Clusters], str]] = {
    "Scores": _scores,
    "Examples": _examples,
    "Weights": _weights,
    "Between experts": _plane,
    "Training": _curves,
    "Task graph": _graph,
    "Similarity": _heatmap,
    "Clusters": _clusters,
    "Nearest tasks": _nearest,
    "Do it again": _again,
}

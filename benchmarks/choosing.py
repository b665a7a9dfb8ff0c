"""The sections of REPORT.md on choosing neighbours, and on whether to mix at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from pituning.metrics import METRICS

TOP = 3
MUCH = 3.0  # points of gain; less is hardly told from chance on 500 test examples
LEAST = 3  # runs
Values = Mapping[str, float]
"""Of each neighbour: its gain in points of a hundred, or its rating."""


@dataclass(frozen=True)
class Worth:
    """Of a way of choosing: means over the targets.

    Attributes:
        rank: Spearman's correlation of rating and gain.
        recall: how many of the best three are among the three rated highest.
        regret: points that the best of these three gain less than the best of all.
        share: the regret as a part of what the best of all gain.
    """

    rank: float
    recall: float
    regret: float
    share: float

    def __str__(self) -> str:
        return f"{self.rank:.2f} | {self.recall:.2f} | {self.regret:.2f} | {100 * self.share:.0f} %"


def read(transfer: Path) -> list[dict[str, Any]]:
    """Every target with its measured gains."""
    return [json.loads(file.read_text()) for file in sorted(transfer.glob("*.json"))]


def rated(targets: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The targets that were rated, each with the ways of choosing that have rated all of them."""
    some = [target for target in targets if target.get("rated")]
    ways = [way for way in some[0]["rated"] if all(way in target["rated"] for target in some)] if some else []
    return [target | {"rated": {way: target["rated"][way] for way in ways}} for target in some]


def oracle(targets: Sequence[dict[str, Any]]) -> float:
    """What the best neighbour of all gains, in points; one that only harms would not be taken."""
    return mean(max(*gains_of(target).values(), 0.0) for target in targets)


def worth(targets: Sequence[dict[str, Any]]) -> dict[str, Worth]:
    """Way of choosing -> what it is worth."""
    most, found = oracle(targets), dict[str, Worth]()
    for way in targets[0]["rated"]:
        columns = zip(*(judged(gains_of(target), target["rated"][way]) for target in targets), strict=True)
        rank, recall, regret = map(mean, columns)
        found[way] = Worth(rank, recall, regret, regret / most)
    return found


def predicting(suites: Mapping[str, str], results: Path) -> list[str]:
    """What each way of choosing neighbours is worth, by suite and its title."""
    return [
        "## Does the prediction predict?",
        "",
        "Targets with 16 shots, seed 0, each tuned with each one neighbour, whose",
        "gain is its mixture's test score less the own expert's. *Spearman*: of rating and gain, mean over",
        "targets. *Recall@3*: how many of the best three are among the three rated highest. *Regret*: how",
        "much less the best of these gains than the best of all, in points and as a part of what that gains;",
        "where a neighbour only harms, none would be taken, so that its gain counts as 0.",
        "",
        *(line for suite, title in suites.items() for line in ways(title, results / "transfer" / suite)),
    ]


def ways(title: str, transfer: Path) -> list[str]:
    """Of the suite whose single neighbours are in the folder `transfer`."""
    targets = rated(read(transfer))
    if len(targets) < 2:
        return []
    gains, most = [gains_of(target) for target in targets], oracle(targets)
    falling = [sorted((max(gain, 0.0) for gain in found.values()), reverse=True) for found in gains]
    chance = most - mean(map(mean_best, falling))
    random = Worth(0, TOP / len(gains[0]), chance, chance / most)
    return [
        f"### {title}",
        "",
        f"{len(targets)} targets with {len(gains[0])} neighbours each.",
        "",
        "| way of choosing | Spearman | recall@3 | regret | of the oracle's gain |",
        "|---|---|---|---|---|",
        *(f"| {way} | {found} |" for way, found in worth(targets).items()),
        f"| three at random | {random} |",
        f"| oracle (gains {most:.2f}) | {Worth(1, 1, 0, 0)} |",
        "",
        *measured_again(targets, transfer / "seed1"),
        *best_of_each(targets, gains),
    ]


def gains_of(target: Mapping[str, Any]) -> Values:
    """What each neighbour adds to the target's own expert."""
    return {name: percent(target, one["score"] - target["expert"]) for name, one in target["found"].items()}


def judged(gains: Values, rated: Values) -> tuple[float, float, float]:
    """Spearman's correlation, recall and regret of the three rated highest."""
    best, chosen = (sorted(values, key=lambda name: -values[name])[:TOP] for values in (gains, rated))
    told = [rated[name] for name in gains]
    rank = float(spearmanr([*gains.values()], told).statistic) if len({*told}) > 1 else 0.0
    reached = max(max(gains[name], 0.0) for name in chosen)
    return rank, len({*best} & {*chosen}) / TOP, max(*gains.values(), 0.0) - reached


def measured_again(targets: Sequence[Mapping[str, Any]], folder: Path) -> list[str]:
    """How well the gains with other shots tell those of these: about what any way of choosing can reach."""
    found = []
    for target in targets:
        file = folder / f"{target['task']}.json"
        again = json.loads(file.read_text()) if file.exists() else {"found": {}}
        if again["found"].keys() == target["found"].keys():
            found.append((target["task"], *judged(gains_of(target), gains_of(again))))
    if not found:
        return []
    names, *columns = zip(*found, strict=True)
    rank, recall, regret = map(mean, columns)
    return [
        "What chance leaves to be told: the same gains, measured with other shots (seed 1;",
        f"{', '.join(names)}), have a Spearman of {rank:.2f} with these, recall@3 {recall:.2f}, regret",
        f"{regret:.2f}. A rating that knew the true gains would have about the root of that, "
        f"{max(rank, 0.0) ** 0.5:.2f}.",
        "",
    ]


def mean_best(values: Sequence[float]) -> float:
    """The expected largest of `TOP` of `values`, in falling order, drawn without replacement."""
    n, total, left = len(values), 0.0, 1.0
    for place, value in enumerate(values):
        drawn = TOP / (n - place) if place <= n - TOP else 1.0  # that this one is drawn, where none was yet
        total, left = total + left * drawn * value, left * (1 - drawn)
    return total


def best_of_each(targets: Sequence[Mapping[str, Any]], gains: Sequence[Values]) -> list[str]:
    """By target: who helps, and where similarity places them."""
    lines = [
        "The best three neighbours of each target by their measured gain, and the place that the Fisher",
        "similarity gives each among all; of 500 test examples a point or two is chance.",
        "",
        "| target | own expert | best neighbours | median of all |",
        "|---|---|---|---|",
    ]
    for target, found in zip(targets, gains, strict=True):
        alike = target["rated"]["Fisher at the untrained adapter"]
        order = sorted(alike, key=lambda name: -alike[name])
        best = sorted(found, key=lambda name: -found[name])[:TOP]
        told = ", ".join(f"{name} {found[name]:+.1f} (place {order.index(name) + 1})" for name in best)
        middle = sorted(found.values())[len(found) // 2]
        own = percent(target, target["expert"])
        lines.append(f"| {target['task']} | {own:.1f} | {told} | {middle:+.1f} |")
    return [*lines, ""]


def one_or_three(targets: Sequence[Mapping[str, Any]], tuned: Path) -> list[str]:
    """What the neighbours beside the one that a mixture begins at add to it, of the targets that have one."""
    one, three = [], []
    for target in targets:
        file = tuned / f"{target['task']}-seed0.json"
        run = json.loads(file.read_text()) if file.exists() else {}
        if run.get("start") in target["found"]:
            one.append(gains_of(target)[run["start"]])
            three.append(percent(run, run["scores"]["mixture"] - run["scores"]["expert"]))
    if not one:
        return []
    return [
        f"Where `tune` begins at one neighbour ({len(one)} targets of mini20), mixing that one alone gains "
        f"{mean(one):+.2f} points, mixing it with the two nearest others {mean(three):+.2f}.",
        "",
    ]


def whether(suites: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Does the similarity say when not to transfer, or the lead on validation examples?"""
    signs = {
        "similarity of the nearest neighbour": lambda run: run["neighbors"][0]["similarity"],
        "the mixture's lead on validation examples": lambda run: run["lead"]["mean"],
    }
    lines = [
        "## When not to transfer",
        "",
        f"Which runs gain at least {MUCH:.0f} points by the mixture, kept or not: how well that is told by",
        "what is known without the test split. *Area*: under the ROC curve, 0.5 is chance, 1 tells them all;",
        f"*Spearman*: with the gain. Suites where at least {LEAST} runs gain as much.",
        "",
        "| suite | runs | of these gain much | sign | area | Spearman |",
        "|---|---|---|---|---|---|",
    ]
    for suite, runs in suites.items():
        gains = [run["percent"]["mixture"] - run["percent"]["expert"] for run in runs]
        much = [gain >= MUCH for gain in gains]
        if not LEAST <= sum(much) < len(runs):
            continue
        for told, sign in signs.items():
            values = [sign(run) for run in runs]
            area, rank = roc_auc_score(much, values), spearmanr(values, gains).statistic
            lines.append(f"| {suite} | {len(runs)} | {sum(much)} | {told} | {area:.2f} | {rank:+.2f} |")
    return [*lines, ""]


def percent(run: Mapping[str, Any], score: float) -> float:
    """Of the most that the run's metric can reach."""
    return 100 * score / METRICS[run["metric"]].most

"""The sections of REPORT.md on whole suites of tasks: no training, all data, 16 shots, and the gain of π."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from choosing import percent

from pituning.bench import Difference, paired_difference
from pituning.evaluation import Evaluation
from pituning.metrics import METRICS
from pituning.mini20 import NAMES, language, vision, vision_language
from pituning.selection import Lead, gives_way

READING = [
    "## How to read the suites",
    "",
    "Percent on the test split (CIDEr-D: of its most, 10). *Full data* is the pool's expert of the task.",
    "The rest is 16 shots a class (16 in all, where answers are free), means over seeds; the expert of",
    "the target is never used. *Neighbours, untrained* is the uniform mixture of the k neighbours, *best",
    "neighbour* the one of them that is best as it is on labelled examples; *π, kept* is what `pituning",
    "tune` writes by today's rule of keeping. The gain is *π, kept* minus *own expert*, ± its standard",
    "deviation over the seeds, where there are several (of the mean: over the tasks).",
    "",
    "A second table has the same runs under other rules of keeping the mixture instead of the own expert.",
    "The rule was chosen by that of mini20, so its gain there is not untouched evidence; that of other",
    "suites is. Asking for a lead loses much on mini20: the own expert is the best of many epochs by the",
    "same few examples, and looks better than it is.",
    "",
]
SUITES = {
    "mini20": [
        "## mini20, the twenty generated tasks, on ofa-mini",
        "",
        "Tests hold words, combinations of colour and shape and fonts that neither training nor pre-training",
        "shows; see `docs/mini20.md`.",
        "",
        "What was chosen by looking, of seed 0 where no other is named: the rates of the recipe ofa-mini on",
        "validation examples of oxford-pets, stanford-cars and snli-ve; the short tunings on test scores of",
        "rte, mrpc, mnli, qqp and oxford-pets; where tasks are embedded on the gains of single neighbours of",
        "eleven tasks; that none beyond the k nearest is looked for on test scores of qnli, sst2, vqav2 and",
        "coco-captions; epochs and patience of",
        "the own expert on those of oxford-pets, stanford-cars, food101, caltech101 and fgvc-aircraft",
        "(longer training made it better); the twofold validation on those of refcoco, refcocog and rte;",
        "that a start also counts as it is on those of refcoco (seed 1) and refcocog, and on validation",
        "results of qqp, rte, mnli (seed 1) and mrpc (seed 2). Other seeds and tasks had no part in it.",
    ],
    "unrelated": [
        "## Pools without a relative: mini20 on ofa-mini",
        "",
        "The six tasks of texts with the nine experts of pictures without a text, and the eight tasks that",
        "name what a picture shows with the six experts of texts: what mixing costs where nothing can help.",
    ],
    "lora": [
        "## mini20 with LoRA instead of bottleneck adapters",
        "",
        "The pool holds experts of these tasks alone (recipe mini20-lora); the targets take",
        "`benchmarks/lora-targets.yaml`.",
    ],
    "prefix": [
        "## mini20 with prefixes instead of bottleneck adapters",
        "",
        "Keys and values in every self-attention. The pool holds experts of these tasks alone",
        "(`benchmarks/prefix.yaml`); the targets take `benchmarks/prefix-targets.yaml`.",
    ],
    "pictures": [
        "## Real pictures, on ofa-mini",
        "",
        "At most 500 test examples a task. ofa-mini saw the pictures of all emoji with their names in",
        "pre-training, those of the test splits of emoji_name and emoji_google_group too.",
    ],
    "language": [
        "## Real language tasks, on MiniLM",
        "",
        "At most 500 test examples a task. MiniLM answers with the candidate whose words are nearest to the",
        "text's, so that it can be asked without training, too. The pool's experts saw all examples, at",
        "most eight times; with experts of at most 2,000 examples, seen twice, the mean gain was +0.30. The",
        "targets ran in bfloat16.",
    ],
    "t5": [
        "## mini20's language tasks on a T5",
        "",
        "A T5 of ofa-mini's width and depth (4.6 million parameters), pre-trained on the same texts, without",
        "pictures (`benchmarks/t5_mini.py`): the tasks of the paper's Table 3, which has T5 beside OFA.",
        "On an earlier one, pre-trained alike, the mean gain was +16.4, and with all data, on three of the",
        "tasks, +1.5.",
    ],
    "vision": [
        "## Real pictures, on EfficientNet-Lite0",
        "",
        "ImageNet weights, 128 pixels a side, at most 500 test examples a task. LoRA on the convolutions of",
        "one pixel; each task has a head of its own, which is trained and never mixed, so that without",
        "training there is no answer: *no adapter* is a head as it was drawn, and a neighbour *as it is* has",
        "the head that was trained with the target's own.",
    ],
}
FAMILIES = {  # the tasks of the paper's tables 1, 2 and 3
    "vision-language": vision_language.TASKS,
    "vision": vision.TASKS,
    "language": language.TASKS,
    "all twenty": NAMES,
}
ALONE = {"full": "full fine-tuning", "bitfit": "BitFit", "prefix": "prefix", "prompt": "prompt"}
COLUMNS = ("base", "zero-shot", "full", "expert", "neighbor", "mixture", "pi")


def read(folder: Path) -> list[dict[str, Any]]:
    """The runs of a folder; those of 16 shots with what is kept by today's rule, which may be younger."""
    runs = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    for run in runs:
        if "scores" in run:
            run["kept"] = "mixture" if is_kept(run) else "expert"
            scores = run["scores"] | {"pi": run["scores"][run["kept"]]}
            run["percent"] = {column: percent(run, score) for column, score in scores.items()}
    return runs


def suite(told: Sequence[str], found: Sequence[dict[str, Any]]) -> list[str]:
    """One row a task: no training, all data, 16 shots (means over seeds), and the gain of π."""
    full = {run["task"]: percent(run, run["full"]) for run in found if "full" in run}
    runs = [run for run in found if "scores" in run]
    lines = [
        *told,
        "",
        "| task (metric) | no adapter | neighbours, untrained | full data | own expert | best neighbour "
        "| π, tuned | π, kept | gain | kept mixture | neighbours |",
        "|---" * 11 + "|",
    ]
    rows = []
    for task in dict.fromkeys(run["task"] for run in runs):
        mine = [run for run in runs if run["task"] == task]
        gains = [run["percent"]["pi"] - run["percent"]["expert"] for run in mine]
        row = {column: _mean(run["percent"].get(column) for run in mine) for column in COLUMNS}
        rows.append(row | {"full": full.get(task)})
        nearest = Counter(neighbor["name"] for run in mine for neighbor in run["neighbors"])
        kept = sum(run["kept"] == "mixture" for run in mine)
        lines.append(
            f"| {task} ({mine[0]['metric']}) {_cells(rows[-1])} | {mean(gains):+.1f}{_spread(gains)} "
            f"| {kept} of {len(mine)} | {', '.join(name for name, _ in nearest.most_common(3))} |"
        )
    means = {column: _mean(row[column] for row in rows) for column in COLUMNS}
    rise = [row["pi"] - row["expert"] for row in rows]
    return [
        *lines,
        f"| **mean** {_cells(means)} | {mean(rise):+.2f}{_spread(rise)} | | |",
        "",
        told_gain(runs),
        *untrained(means),
        f"Tasks were embedded {where_embedded(runs)}.",
        "",
        *keeping(runs),
        *with_all_data([run for run in found if "all" in run]),
        *reachable([run for run in found if "untrained" in run], "bottleneck adapters"),
        f"{len(runs)} runs of {len(rows)} tasks. Versions: {runs[0]['versions']}.",
        f"Commits when the results were written: {', '.join(sorted({run['commit'] for run in found}))}.",
        "",
    ]


def where_embedded(runs: Sequence[dict[str, Any]]) -> str:
    """At what; runs from before there was a choice have no `at`, and of the default it is null."""
    told = {
        "start": "at the untrained adapter",
        "expert": "at their own experts, and neighbours found beyond the k nearest, too, as `tune` did then",
    }
    fishers = (run["config"]["fisher"] if "config" in run else run for run in runs)
    here = {fisher.get("at", "expert") or "start" for fisher in fishers}
    return " or ".join(told[at] for at in sorted(here))


def by_embedding(title: str, start: Sequence[dict[str, Any]], expert: Sequence[dict[str, Any]]) -> list[str]:
    """The same targets and seeds, embedded at the untrained adapter and at their own experts."""
    found = [
        {(run["task"], run["config"]["seed"]): run for run in runs if "scores" in run}
        for runs in (start, expert)
    ]
    both = [key for key in found[0] if key in found[1]]
    if not both:
        return []
    few = [run for run in expert if "scores" in run]
    first, second = ({key: runs[key]["percent"]["pi"] for key in both} for runs in found)
    gap = paired_difference(first, second)
    lines = [
        f"### {title}",
        "",
        "The same tasks and seeds, tuned with the neighbours that each way finds: the k nearest, and at own",
        "experts also those that validation finds beyond. The target's own expert is trained in one way.",
        "*Nearest*: the neighbour that is most alike, with the similarity.",
        "",
        "| task, seed | nearest, untrained | nearest, own expert | π, untrained | π, own expert |",
        "|---|---|---|---|---|",
    ]
    for task, seed in both:
        nearest, kept = [], []
        for runs in found:
            run = runs[task, seed]
            most = run["neighbors"][0]
            nearest.append(f"{most['name']} {most['similarity']:.2f}")
            kept.append(f"{run['percent']['pi']:.1f}")
        lines.append(f"| {task}, {seed} | {' | '.join(nearest + kept)} |")
    return [
        *lines,
        "",
        f"With those of the untrained adapter, π scores {gap.mean:+.2f} points{interval(gap)} more; better "
        f"on {gap.better} of {gap.tasks} tasks, worse on {gap.worse}.",
        f"All {len(few)} runs at their own experts:",
        told_gain(few),
        "",
    ]


def told_gain(runs: Sequence[dict[str, Any]]) -> str:
    """The mean gain of π over the own expert, with its interval."""
    gap = gain(runs)
    return (
        f"Mean gain of π over the own expert {gap.mean:+.2f} points{interval(gap)} (bootstrap over tasks "
        f"and seeds); positive on {gap.better} of {gap.tasks}, negative on {gap.worse}."
    )


def gain(runs: Sequence[dict[str, Any]]) -> Difference:
    """Of π over the own expert, in points."""
    pi, own = (
        {(run["task"], run["config"]["seed"]): run["percent"][column] for run in runs}
        for column in ("pi", "expert")
    )
    return paired_difference(pi, own)


def interval(gap: Difference) -> str:
    """Empty where the tasks are too few for one."""
    return "" if gap.low is None else f", 95 % interval [{gap.low:+.2f}, {gap.high:+.2f}]"


def untrained(means: Mapping[str, float | None]) -> list[str]:
    """What neighbours give as they are; nothing of a backbone with heads, which have to be trained."""
    if means["zero-shot"] is None:
        return []
    mixed, best = (means[column] - means["base"] for column in ("zero-shot", "neighbor"))
    return [
        f"Without any training on the target, over no adapter: the neighbours' uniform mixture {mixed:+.2f}, "
        f"the best neighbour as it is {best:+.2f} points."
    ]


def keeping(runs: Sequence[dict[str, Any]]) -> list[str]:
    """What other rules of keeping the mixture would have given, from the same runs."""
    rules: dict[str, Callable[[dict[str, Any]], bool]] = {
        "always": lambda run: True,
        "unless the own expert leads by a standard error (what `tune` does)": is_kept,
        "where it leads": lambda run: run["lead"]["mean"] > 0,
        "… by a standard error": lambda run: run["lead"]["mean"] > run["lead"]["error"],
        "… by two standard errors": lambda run: run["lead"]["mean"] > 2 * run["lead"]["error"],
        "where the test split says so (no rule can know)": lambda run: (
            run["scores"]["mixture"] > run["scores"]["expert"]
        ),
    }
    lines = [
        "| the mixture is kept | of the runs | mean gain | tasks that gain | worst task | worst run |",
        "|---|---|---|---|---|---|",
    ]
    for told, kept in rules.items():
        gains: dict[str, list[float]] = {}
        for run in runs:
            gain = run["percent"]["mixture"] - run["percent"]["expert"] if kept(run) else 0.0
            gains.setdefault(run["task"], []).append(gain)
        means = [round(mean(of), 6) for of in gains.values()]  # what cancels out is no gain
        every = [gain for of in gains.values() for gain in of]
        share = sum(map(kept, runs)) / len(runs)
        gaining = sum(gain > 0 for gain in means)
        lines.append(
            f"| {told} | {100 * share:.0f} % | {mean(means):+.2f} | {gaining} of {len(means)} "
            f"| {min(means):+.1f} | {min(every):+.1f} |"
        )
    return [*lines, ""]


def by_method(adapters: Sequence[dict[str, Any]], loras: Sequence[dict[str, Any]]) -> list[str]:
    """The experts of all data, bottleneck adapters and LoRA; nothing before the second are there."""
    scores = [
        {run["task"]: percent(run, run["full"]) for run in runs if "full" in run}
        for runs in (adapters, loras)
    ]
    names = [name for name in scores[0] if name in scores[1]]
    if not names:
        return []
    means = [mean(found[name] for name in names) for found in scores]
    rows = [(name, *(found[name] for found in scores)) for name in names] + [("**mean**", *means)]
    return [
        "The experts of all data by method (recipes mini20 and mini20-lora), percent on the test split:",
        "",
        "| task | bottleneck adapter | LoRA |",
        "|---|---|---|",
        *(f"| {name} | {adapter:.1f} | {lora:.1f} |" for name, adapter, lora in rows),
        "",
        *reachable([run for run in loras if "untrained" in run], "LoRA"),
    ]


def with_adapters(others: Sequence[dict[str, Any]], adapters: Sequence[dict[str, Any]]) -> list[str]:
    """What bottleneck adapters do on the tasks and seeds of another method."""
    here = {(run["task"], run["config"]["seed"]) for run in others if "scores" in run}
    same = [run for run in adapters if "scores" in run and (run["task"], run["config"]["seed"]) in here]
    if not same:
        return []
    own, mixed = (mean(run["percent"][column] for run in same) for column in ("expert", "pi"))
    told = f"Bottleneck adapters on the same tasks and seeds: own expert {own:.1f}, π {mixed:.1f} percent."
    return [told, told_gain(same), ""]


def with_all_data(found: Sequence[dict[str, Any]]) -> list[str]:
    """What a mixture adds to an expert that has seen all the data, and what more training alone does."""
    if not found:
        return []
    names = ("expert", "alone", "mixture", "pi")
    rows = [[percent(run, run["all"][name]) for name in names] for run in found]
    gains, more = ([row[place] - row[0] for row in rows] for place in (3, 1))
    lines = [
        "With all data, from the pool's own expert of the task, seed 0. *Tuned alone*: that expert, trained",
        "on as the mixture is (at most three passes), without any other.",
        "",
        "| task | own expert | tuned alone | π, tuned | π, kept | gain |",
        "|---|---|---|---|---|---|",
    ]
    for run, row, gain in zip(found, rows, gains, strict=True):
        lines.append(f"| {run['task']} " + "".join(f"| {one:.1f} " for one in row) + f"| {gain:+.1f} |")
    means = "".join(f"| {mean(column):.1f} " for column in zip(*rows, strict=True))
    worse = sum(gain < -0.5 for gain in gains)
    scored = {name: {(run["task"], 0): percent(run, run["all"][name]) for run in found} for name in names}
    gap, lead = (paired_difference(scored["pi"], scored[name]) for name in ("expert", "alone"))
    return [
        *lines,
        f"| **mean** {means}| {mean(gains):+.2f} |",
        "",
        f"Tasks were embedded {where_embedded(found)}.",
        f"{worse} of {len(gains)} tasks lose more than 0.5 points, the worst {min(gains):+.1f}.",
        f"Mean gain {mean(gains):+.2f}{interval(gap)}; of the expert tuned alone {mean(more):+.2f}.",
        f"π, kept, minus the expert tuned alone: {lead.mean:+.2f}{interval(lead)}; better on {lead.better}, "
        f"worse on {lead.worse}.",
        "",
    ]


def beside_the_paper(runs: Sequence[dict[str, Any]], t5: Sequence[dict[str, Any]]) -> list[str]:
    """Means of the tasks of each of the paper's tables, without training, with 16 shots and with all data."""
    return [
        "## Beside the paper",
        "",
        "Means over the tasks of mini20 that mirror those of the paper's tables: other models and data, so",
        "that gains can be compared, not scores. The paper's own: without training 48.71 → 56.77 on the",
        "language tasks (the true means of six figures that it divides by eight), +4.55 with 16 shots,",
        "+0.9 with all data; its tables are pictures, and single figures are not repeated here. Without",
        "training, ours is the neighbour that labelled examples choose, as it is.",
        "",
        "| tasks | without training: no adapter → neighbour | 16 shots: own expert → π "
        "| all data: own expert → π |",
        "|---|---|---|---|",
        *(_family(name, tasks, runs) for name, tasks in FAMILIES.items()),
        _family("language, on a T5", language.TASKS, t5),
        "",
    ]


def table_1(
    methods: Sequence[dict[str, Any]], adapters: Sequence[dict[str, Any]], loras: Sequence[dict[str, Any]]
) -> list[str]:
    """Tasks of pictures with texts, all data: what trains alone by each method, and π-Tuning."""
    tasks = [*FAMILIES["vision-language"]]
    columns: dict[str, dict[str, float]] = {}
    for method, title in ALONE.items():
        columns[title] = {
            run["task"]: percent(run, run["score"]) for run in methods if run["method"] == method
        }
    for title, runs in (("LoRA", loras), ("bottleneck adapter", adapters)):
        columns[title] = {run["task"]: percent(run, run["full"]) for run in runs if "full" in run}
    for title, name in (("adapter, tuned alone", "alone"), ("π-Tuning", "pi")):
        columns[title] = {run["task"]: percent(run, run["all"][name]) for run in adapters if "all" in run}
    columns = {title: found for title, found in columns.items() if found.keys() >= {*tasks}}
    rows = {task: [found[task] for found in columns.values()] for task in tasks}
    rows["**mean**"] = [mean(found[task] for task in tasks) for found in columns.values()]
    rates = {ALONE[run["method"]]: f"{run['rate']:g}" for run in methods}
    return [
        "The tasks of the paper's Table 1 with all data, by method, seed 0. Passes over the data at most:",
        "bottleneck adapters eight (and three more, alone or mixed), the others five. Rates, which validated",
        f"best on two of the tasks: {', '.join(f'{title} {rate}' for title, rate in rates.items())}.",
        "",
        f"| task | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
        *(f"| {task} | {' | '.join(f'{cell:.1f}' for cell in row)} |" for task, row in rows.items()),
        "",
    ]


def _family(name: str, tasks: Collection[str], runs: Sequence[dict[str, Any]]) -> str:
    """A row of three means before and after, of what ran on all of the tasks."""
    few: dict[str, list[dict[str, float]]] = {}
    everything: dict[str, dict[str, float]] = {}
    for run in runs:
        if "scores" in run:
            few.setdefault(run["task"], []).append(run["percent"])
        elif "all" in run:
            everything[run["task"]] = {k: percent(run, v) for k, v in run["all"].items()}
    seen = [{k: mean(run[k] for run in few[task]) for k in few[task][0]} for task in tasks if task in few]
    full = [everything[task] for task in tasks if task in everything]
    columns = ((seen, "base", "neighbor"), (seen, "expert", "pi"), (full, "expert", "pi"))
    cells = [arrow(rows, *names) if len(rows) == len(tasks) else "–" for rows, *names in columns]
    return f"| {name} ({len(tasks)}) | {' | '.join(cells)} |"


def arrow(rows: Sequence[Mapping[str, float]], before: str, after: str) -> str:
    """Two means and their difference."""
    start, end = (mean(row[name] for row in rows) for name in (before, after))
    return f"{start:.1f} → {end:.1f} ({end - start:+.2f})"


def by_shots(every: Mapping[int, Sequence[dict[str, Any]]]) -> list[str]:
    """Own expert and π against the number of shots, seed 0, on the tasks that ran with all of them."""
    found = {
        shots: {
            run["task"]: (run["percent"]["expert"], run["percent"]["pi"])
            for run in every[shots]
            if "scores" in run and run["config"]["seed"] == 0
        }
        for shots in sorted(every)
    }
    names = sorted(set.intersection(*(set(runs) for runs in found.values()))) if len(found) > 1 else []
    if not names:
        return []
    cells = {name: [found[shots][name] for shots in found] for name in names}
    means = [tuple(map(mean, zip(*(runs[name] for name in names), strict=True))) for runs in found.values()]
    return [
        "## Against the number of shots, mini20 on ofa-mini",
        "",
        "Percent on the test split, seed 0: own expert → π, kept. Tasks that gain much with 16 shots, and",
        "tasks that do not.",
        "",
        "| task | " + " | ".join(f"{shots}" for shots in found) + " |",
        "|---" * (len(found) + 1) + "|",
        *(
            f"| {name} | " + " | ".join(f"{own:.1f} → {pi:.1f}" for own, pi in row) + " |"
            for name, row in {**cells, "**mean**": means}.items()
        ),
        "",
    ]


def reachable(found: Sequence[dict[str, Any]], method: str) -> list[str]:
    """What one expert of another task, as it is, can reach at most, on the tasks where all were tried."""
    if not found:
        return []
    told, gains = [], []
    for run in found:
        scores = run["untrained"]
        best = max(scores, key=lambda name: scores[name])
        gains.append(percent(run, scores[best] - scores["base"]))
        told.append(f"{run['task']} by {'none' if best == 'base' else best} {gains[-1]:+.1f}")
    return [
        f"On the test splits of {len(gains)} tasks the experts of all others ({method}) were tried as they",
        f"are. What does best on that very split, which no rule can know, is {mean(gains):+.2f} points over",
        f"no adapter on average: {', '.join(told)}.",
        "",
    ]


def is_kept(run: Mapping[str, Any]) -> bool:
    """Whether `tune` keeps the mixture, by its rule of today."""
    found = {who: Evaluation(**one) for who, one in run["validation"].items()}
    lead = Lead(**{"examples": 0} | run["lead"])  # the oldest runs do not say of how many
    return not gives_way(lead, **found, writes=METRICS[run["metric"]].gold == "texts")


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _cells(row: Mapping[str, float | None]) -> str:
    return "".join("| – " if row[c] is None else f"| {row[c]:.1f} " for c in COLUMNS).rstrip()


def _spread(values: Sequence[float]) -> str:
    return f" ± {stdev(values):.1f}" if len(values) > 1 else ""

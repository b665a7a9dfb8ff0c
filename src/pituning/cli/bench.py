"""Compare π-Tuning with what one would do instead, on the same backbone, data, pool and shots."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pituning.backbones import load_backbone
from pituning.bench import METHODS, Contest, paired_difference
from pituning.cli.pictures import require_pictures
from pituning.cli.recipes import add_recipe_option, recipe_of
from pituning.cli.tasks import members, task_named
from pituning.cli.terminal import say, table
from pituning.cli.tune import add_tuning_options, tuning_of
from pituning.errors import ConfigError, PituningError
from pituning.expert import library_versions, unwritable
from pituning.pool import Pool
from pituning.spelling import did_you_mean

EXAMPLE = "pituning bench data/cr data/subj --backbone minilm --pool pool --shots 16 --out results"
REFERENCE = "expert"  # whose score is taken from every other


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument(
        "tasks", nargs="+", metavar="TASK", help="task folders, mini20/NAME, or mini20 for all"
    )
    parser.add_argument("--backbone", required=True, help="local folder, Hub id, 'ofa-mini' or 'minilm'")
    parser.add_argument("--pool", required=True, help="pool folder")
    parser.add_argument("--out", required=True, help="folder of the results; what is there is not done again")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(METHODS),
        metavar="METHOD",
        help=f"of {', '.join(METHODS)} (default: all)",
    )
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2], help="(default: 0 1 2)")
    add_recipe_option(parser)
    add_tuning_options(parser, without=("seed",))


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Every task, seed and method: one JSON each."""
    unknown = [name for name in options.methods if name not in METHODS]
    if unknown:
        fix = f"{did_you_mean(unknown[0], METHODS)}Choose among them."
        raise ConfigError(f"--methods are of {', '.join(METHODS)}", repr(unknown[0]), fix)
    tasks = [task_named(name) for item in options.tasks for name in members(item)]
    for task in tasks:
        require_pictures(task)
        task.split("test")
    recipe, pool, out = recipe_of(options), Pool(options.pool), Path(options.out)
    configs = [
        tuning_of(argparse.Namespace(**vars(options) | {"seed": seed}), recipe) for seed in options.seed
    ]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(out, error) from error
    backbone = load_backbone(options.backbone, settings=recipe.model)
    for task in tasks:
        backbone.check(task)
    contests = [Contest(backbone, task, pool, config) for config in configs for task in tasks]
    runs = []
    while contests:  # each is dropped once its methods are done, with the experts that it holds
        contest = contests.pop(0)
        runs += [_result(contest, name, out) for name in options.methods]
    return {"out": str(out), "methods": _summary(runs)}, _as_text(runs)


def _result(contest: Contest, name: str, out: Path) -> dict[str, Any]:
    """What a method scored, from its file where there is one.

    A method that does not fit the backbone or the pool has the reason in the place of a score.
    """
    task, seed = contest.task.name, contest.config.seed
    file = out / f"{task}-{name}-seed{seed}.json"
    if file.exists():
        return dict(json.loads(file.read_text()))
    document: dict[str, Any] = {"task": task, "metric": contest.task.metric, "method": name, "seed": seed}
    start = time.perf_counter()
    try:
        document["score"] = contest.score(METHODS[name].make(contest))
    except PituningError as error:
        document["refused"] = str(error)
    document |= {"seconds": round(time.perf_counter() - start, 1), "versions": library_versions()}
    scratch = file.with_suffix(".new")
    try:
        scratch.write_text(json.dumps(document, indent=1) + "\n")
        os.replace(scratch, file)
    except OSError as error:
        raise unwritable(out, error) from error
    say(f"{task} seed {seed} {name}: {document.get('score', document.get('refused'))}")
    return document


def _scores(runs: Sequence[dict[str, Any]], method: str) -> dict[tuple[str, int], float]:
    return {(r["task"], r["seed"]): r["score"] for r in runs if r["method"] == method and "score" in r}


def _summary(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Method -> its mean over tasks, and the difference to the target's own expert where both have scores."""
    reference = _scores(runs, REFERENCE)
    found: dict[str, dict[str, Any]] = {}
    for method in dict.fromkeys(run["method"] for run in runs):
        scores = _scores(runs, method)
        if not scores:
            reasons = [run["refused"] for run in runs if run["method"] == method]
            found[method] = {"refused": reasons[0]}
            continue
        zero = dict.fromkeys(scores, 0.0)
        found[method] = {"mean": paired_difference(scores, zero).mean, "runs": len(scores)}
        if scores.keys() & reference.keys() and method != REFERENCE:
            found[method]["difference"] = vars(paired_difference(scores, reference))
    return found


def _as_text(runs: Sequence[dict[str, Any]]) -> str:
    rows, notes = [], []
    for method, found in _summary(runs).items():
        title = METHODS[method].title
        if "refused" in found:
            notes.append(f"{title}: {found['refused']}")
            continue
        gap = found.get("difference")
        told = f"{gap['mean']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]" if gap else ""
        signs = f"{gap['better']} / {gap['worse']} of {gap['tasks']}" if gap else ""
        rows.append((title, f"{found['mean']:.4f}", told, signs))
    columns = ("method", "mean", "minus its own expert [95 %]", "better / worse")
    return "\n".join([table("all tasks and seeds", columns, rows), *notes])

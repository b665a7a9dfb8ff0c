"""Compare π-Tuning with what one would do instead, on the same backbone, data, pool and shots."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pituning.bench import METHODS, Contest, summary
from pituning.bench.lorahub import require_nevergrad
from pituning.building import by_name
from pituning.card import UNKNOWN
from pituning.cli.backbones import add_backbone_options, given_backbone
from pituning.cli.recipes import add_recipe_option, recipe_of
from pituning.cli.tasks import look_over, members, pool_named, task_named
from pituning.cli.terminal import table
from pituning.cli.tune import add_tuning_options, tuning_of
from pituning.errors import ConfigError, PituningError
from pituning.expert import Expert
from pituning.foundation import dtype_name
from pituning.places import writing
from pituning.pool import Pool
from pituning.provenance import provenance
from pituning.spelling import did_you_mean

log = logging.getLogger(__name__)

EXAMPLE = "pituning bench data/cr data/subj --backbone minilm --pool pool --shots 16 --out results"


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument(
        "tasks", nargs="+", metavar="TASK", help="task folders, mini20/NAME, or mini20 for all"
    )
    add_backbone_options(parser)
    parser.add_argument("--pool", required=True, help="pool folder, or mini20")
    parser.add_argument("--out", required=True, help="folder of the results; what is there is not done again")
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="METHOD",
        help=f"of {', '.join(METHODS)} (default: all); exit code 2 if one that is named is refused, after "
        "the others ran",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="TASK",
        help="tasks of the pool's experts, whose data the method joint trains on too, and fisher weighs by",
    )
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2], help="(default: 0 1 2)")
    add_recipe_option(parser)
    add_tuning_options(parser, without=("seed",))


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Every task, seed and method: one JSON each; exit code 2 if a method that was named is refused."""
    unknown = [name for name in options.methods or () if name not in METHODS]
    if unknown:
        fix = f"{did_you_mean(unknown[0], METHODS)}Choose among them."
        raise ConfigError(f"--methods are of {', '.join(METHODS)}", repr(unknown[0]), fix)
    tasks = by_name([task_named(name) for item in options.tasks for name in members(item)]).values()
    sources = by_name([task_named(name) for item in options.data for name in members(item)])
    pool = pool_named(options.pool)
    for task in (*tasks, *sources.values()):
        look_over(task)
    for task in tasks:
        task.split("test")
    recipe, out = recipe_of(options), Path(options.out)
    configs = [
        tuning_of(argparse.Namespace(**vars(options) | {"seed": seed}), recipe) for seed in options.seed
    ]
    wanted = options.methods or list(METHODS)
    alike = configs[0].space == "parameters" or _began_alike(pool)
    lacks = partial(_unfit, pool=pool, data=bool(sources), alike=alike)
    unfit = {name: fault for name in wanted if (fault := lacks(name))}
    if options.methods:
        ConfigError.collect([*unfit.values()])
    methods = [name for name in wanted if name not in unfit]
    if "lorahub" in methods:
        require_nevergrad()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        given = f"{out}: {'it is a file' if out.is_file() else error.strerror or error}"
        raise ConfigError("results go into a folder", given, "Choose another --out.") from error
    for fault in unfit.values():
        log.warning("left out: %s", fault)
    backbone = given_backbone(options, recipe.model)
    for task in tasks:
        backbone.check(task)
    for fitting in (configs[0].train, configs[0].tune):
        backbone.check_smoothing(fitting.label_smoothing)
    contests = [Contest(backbone, task, pool, config, sources) for config in configs for task in tasks]
    for contest in contests:  # files of something else are found before anything is trained
        for name in methods:
            _known(contest, name, out)
    runs: list[dict[str, Any]] = []
    while contests:  # each is dropped once its methods are done, with the experts that it holds
        contest = contests.pop(0)
        runs += [_result(contest, name, out) for name in methods]
    if all("refused" in run for run in runs):
        must = "a method must fit the backbone, the task and the pool"
        raise ConfigError(must, "none does", "\n".join(dict.fromkeys(run["refused"] for run in runs)))
    found = summary(runs)
    refused = [run for run in runs if "refused" in run]
    faults = [f"{METHODS[run['method']].title}, {run['task']}: {run['refused']}" for run in refused]
    faults = list(dict.fromkeys(faults))  # of all seeds
    document = {"out": str(out), "methods": found}
    if faults and options.methods:  # of all, some do not fit
        document["faults"] = faults
    return document, "\n".join([_as_text(found), *faults])


def _began_alike(pool: Pool) -> bool:
    """Whether all experts are known to be of one initialisation."""
    starts = {pool.get(name).card.initialisation for name in pool}
    return len(starts) <= 1 and UNKNOWN not in starts


def _unfit(name: str, *, pool: Pool, data: bool, alike: bool) -> ConfigError | None:
    """What a method lacks; nothing of most."""
    if not data and METHODS[name].takes_data(pool):
        fix = f"Name the tasks of the pool's experts with --data, or leave {name} out."
        return ConfigError(f"{name} must have the neighbours' data, too", "no --data", fix)
    if METHODS[name].alike and not alike:
        must = f"{name} takes experts that began alike, which it mixes as they are"
        return ConfigError(must, "a pool of several starts", f"Leave {name} out.")
    return None


def _result(contest: Contest, name: str, out: Path) -> dict[str, Any]:
    """What a method scored, from its file where there is one.

    A method that does not fit the backbone or the pool has the reason in the place of a score, and no file.
    `seconds` are of the method alone; `before` those of π-Tuning until there was what it takes from it.

    Raises:
        ConfigError: the file is of other data, experts, model or options.
    """
    task, seed, method = contest.task, contest.config.seed, METHODS[name]
    known = _known(contest, name, out)
    if known:
        return known
    document: dict[str, Any] = {"task": task.name, "metric": task.metric, "method": name, "seed": seed}
    try:
        before = contest.before(method.needs)
        start = time.perf_counter()
        made = method.make(contest)
        seconds = time.perf_counter() - start
        document["score"] = contest.score(made)
    except PituningError as error:
        log.info("%s seed %d %s: refused", task.name, seed, name)  # why is told once, at the end
        return document | {"refused": str(error)}
    document |= {"seconds": round(seconds, 1), "before": round(before, 1)}
    if isinstance(made, Expert):
        document["recipe"] = made.card.recipe
    document |= {"backbone": contest.backbone.name, "pool": contest.pool.path.name}
    document |= {"dtype": dtype_name(contest.backbone.dtype)}
    if method.needs in ("neighbors", "mixture"):
        document["neighbors"] = contest.prediction.names
    document |= {"config": contest.config.told, "key": _key(contest, name), **provenance()}
    file = _file(contest, name, out)
    scratch = file.with_suffix(".new")
    with writing(out):
        scratch.write_text(json.dumps(document, indent=1) + "\n")
        os.replace(scratch, file)
    log.info("%s seed %d %s: %.4f", task.name, seed, name, document["score"])
    return document


def _key(contest: Contest, name: str) -> str:
    """Of all that a result depends on; a method's file counts by what is in it, wherever it lies."""
    config = contest.config
    method = Path(config.train.method or "")
    if method.is_file():
        config = replace(config, train=replace(config.train, method=method.read_text()))
    state, seed = contest.backbone.state, contest.pool.init_seed
    told = f"{name}{config}{contest.task.fingerprint}{state}{seed}{contest.hashes}"
    if contest.sources and METHODS[name].takes_data(contest.pool):
        told += "".join(contest.sources[source].fingerprint for source in sorted(contest.sources))
    return hashlib.sha256(told.encode()).hexdigest()


def _file(contest: Contest, name: str, out: Path) -> Path:
    return out / f"{contest.task.name}-{name}-seed{contest.config.seed}.json"


def _known(contest: Contest, name: str, out: Path) -> dict[str, Any]:
    """What a method's file has; empty where there is none."""
    file = _file(contest, name, out)
    if not file.exists():
        return {}
    try:
        document = dict(json.loads(file.read_text()))
    except ValueError:
        document = {}
    if document.get("key") != _key(contest, name):
        now, then = contest.config.told, document.get("config", {})
        other = [name for name in now if name in then and then[name] != now[name]]
        given = f"{file} is of other {', '.join(other) or 'data, experts or backbone'}"
        fix = "Choose another --out, or remove the file."
        raise ConfigError("results are of the same data, pool, backbone and options", given, fix)
    return document


def _as_text(methods: Mapping[str, dict[str, Any]]) -> str:
    rows = []
    for method, found in methods.items():
        title = METHODS[method].title
        if "mean" not in found:
            continue
        gap, told, signs = found.get("difference"), "", ""
        if gap:
            told = f"{gap['mean']:+.4f}"
            told += "" if gap["low"] is None else f" [{gap['low']:+.4f}, {gap['high']:+.4f}]"
            signs = f"{gap['better']} / {gap['worse']} of {gap['tasks']}"
        rows.append(
            (title, f"{found['mean']:.4f}", told, signs, f"{found['seconds']:.0f}", str(found["runs"]))
        )
    columns = ("method", "mean", "minus its own expert", "better / worse", "median s", "runs")
    return table("all tasks and seeds", columns, rows)

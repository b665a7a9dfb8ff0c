"""Predict which experts help a task, learn how to mix them with its own, and write one plain adapter."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from pituning.cli.backbones import add_backbone_options, given_backbone
from pituning.cli.options import add_options, read_options
from pituning.cli.recipes import Recipe, add_recipe_option, recipe_of
from pituning.cli.tasks import look_over, pool_named, task_named
from pituning.cli.terminal import program, progress_wanted, table
from pituning.cli.tune_report import shown_stages, stage_titles, told_lead, told_worse, tune_report
from pituning.distributed import from_first, is_first
from pituning.errors import ConfigError, ExpertError
from pituning.expert import Expert
from pituning.fit import FitConfig
from pituning.interpolate import TuneConfig
from pituning.mixing import PiConfig
from pituning.places import alone_in, require_place, writing
from pituning.predict import FisherConfig
from pituning.recipe import pi_tune
from pituning.report import report_page
from pituning.result import PiResult
from pituning.train import TrainConfig

EXAMPLE = "pituning tune data/cr --backbone minilm --pool pool --out cr-pi --shots 16 -k 3"
REPORT = "report.html"


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("task", metavar="TASK", help="task folder, or mini20/NAME")
    add_backbone_options(parser)
    parser.add_argument("--pool", required=True, help="pool folder, or mini20")
    parser.add_argument("--out", required=True, help="folder of the new adapter; must not exist")
    parser.add_argument(
        "--expert", help="folder of the task's own adapter, trained before (default: train one)"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints of a killed run")
    add_recipe_option(parser)
    add_tuning_options(parser)


def add_tuning_options(parser: argparse.ArgumentParser, *, without: Sequence[str] = ()) -> None:
    """All of the recipe's steps."""
    add_options(parser, PiConfig, title="the recipe", without=without)
    add_options(parser, TuneConfig, title="tuning the mixture", without=("seed",))
    add_options(
        parser,
        TrainConfig,
        title="training the task's own expert",
        prefix="expert",
        without=("seed", "init_seed"),
        explained=FitConfig,
    )
    add_options(parser, FisherConfig, title="embedding the task", prefix="fisher")


def tuning_of(options: argparse.Namespace, recipe: Recipe) -> PiConfig:
    """The configuration: what was given on the command line, else the recipe's."""
    return read_options(
        options,
        PiConfig,
        defaults=recipe.mix,
        train=read_options(options, TrainConfig, prefix="expert", defaults=recipe.train),
        fisher=read_options(options, FisherConfig, prefix="fisher"),
        tune=read_options(options, TuneConfig, defaults=recipe.tune),
    )


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """The whole recipe, then the adapter and its reasons on disk."""
    out = Path(options.out)
    if out.exists():
        raise ExpertError("an adapter is never overwritten", f"{out} exists", "Choose another --out.")
    workdir = out.parent / f".{out.name}.work"
    from_first(partial(require_place, out))
    recipe = recipe_of(options)
    config = tuning_of(options, recipe)
    task, pool = task_named(options.task), pool_named(options.pool)
    own = Expert.load(options.expert) if options.expert else None
    unused = [name.replace("_", "-") for name in vars(options) if name.startswith("expert_")]
    if own and unused:
        given = ", ".join(f"--{name}" for name in unused)
        raise ConfigError("an expert that is given is not trained", given, "Leave these or --expert out.")
    look_over(task)
    with alone_in(workdir, wait=False) if is_first() else nullcontext():
        backbone = given_backbone(options, recipe.model)
        result = pi_tune(
            backbone,
            task,
            pool,
            config,
            expert=own,
            workdir=workdir,
            resume=options.resume,
            progress=progress_wanted(options.json),
        )
        if not is_first():
            return {}, ""
        page = out / REPORT
        document = {**describe(result, config, out), "own": options.expert, "report": str(page)}
        again = f"eval {shlex.quote(options.task)} --expert {shlex.quote(str(out))}"
        again += ("" if task.test else " --split validation") + (
            f" --dtype {options.dtype}" * bool(options.dtype)
        )
        told = [again] if task.test or task.validation else []
        elsewhere = "# with an --out that is not there yet"
        commands = [elsewhere, options.command, *(f"pituning {command}" for command in told)]
        report = report_page(tune_report(backbone, task, pool, result, commands))
        _save(result.expert, document, report, workdir / "adapter", out)
        shutil.rmtree(workdir, ignore_errors=True)
    last = [f"evaluate it again: {program()} {command}" for command in told]
    return document, "\n".join([as_text(result, out), f"report: {page}", *last])


def _save(expert: Expert, document: dict[str, Any], page: str, scratch: Path, out: Path) -> None:
    """The adapter and its reasons appear at `out` together or not at all."""
    with writing(out):
        shutil.rmtree(scratch, ignore_errors=True)
        expert.save(scratch)
        (scratch / "result.json").write_text(json.dumps(document, indent=1) + "\n")
        (scratch / REPORT).write_text(page, encoding="utf-8")
        os.replace(scratch, out)


def describe(result: PiResult, config: PiConfig, out: Path) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "task": result.task,
        "metric": result.metric,
        "kept": result.kept,
        "neighbors": [{"name": n.name, "similarity": n.similarity} for n in result.neighbors],
        "refused": result.refused,
        "start": result.start,
        "weights": result.weights,
        "best_neighbor": result.best_neighbor,
        "relative_error": _cut(result),
        "scores": result.scores,
        "validation": {who: _finite(found) for who, found in result.validation.items()},
        "decided_by": result.decided_by,
        "lead": result.lead and _finite(asdict(result.lead)),
        "k": config.k,
        "shots": config.shots,
        "seed": config.seed,
        "config": config.told,
        "expert_dir": str(out),
        "seconds": round(result.seconds, 1),
    }


def _cut(result: PiResult) -> float | None:
    """The relative error of the rank cut of what is saved; None where that was not cut."""
    return result.mixture.card.recipe.get("relative_error") if result.kept == "mixture" else None


def _finite(found: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no infinity."""
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def as_text(result: PiResult, out: Path) -> str:
    """The table and the reasons, for people."""
    similar = {neighbor.name: f"{neighbor.similarity:.4f}" for neighbor in result.neighbors}
    own = next(name for name in result.weights if name not in similar)
    rows = [(name, similar.get(name, "its own"), f"{result.weights[name]:.3f}") for name in [own, *similar]]
    titles = stage_titles(result)
    left = " (not kept)" if similar and result.kept == "expert" else ""
    title = f"experts mixed for {result.task}{left}"
    parts = [table(title, ("expert", "similarity", "weight"), rows)]
    if result.scores:
        scores = [(titles[name], f"{result.scores[name]:.4f}") for name in shown_stages(result)]
        parts.append(table(f"{result.metric} on the test split", ("adapter", result.metric), scores))
    parts += told_worse(result)
    if not result.validation and result.kept == "mixture":
        parts.append("There was nothing to validate on: the mixture was kept unchecked.")
    if result.kept == "expert":
        why = "It validates better than the mixture: the" if similar else "Nothing was mixed: the"
        parts.append(f"{why} task's own expert was kept.")
    if result.lead:
        parts.append(f"decided by validation: {told_lead(result)}")
    cut = _cut(result)
    if cut is not None:
        parts.append(f"relative error of the rank cut: {cut:.3f}")
    parts += [f"not considered: {reason}" for reason in result.refused.values()]
    parts.append(f"saved: {out} ({result.seconds:.0f} s)")
    return "\n".join(parts)

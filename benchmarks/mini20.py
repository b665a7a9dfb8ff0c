"""The twenty tasks of mini20 on ofa-mini: no training, all data, 16 shots, and π-Tuning with 16 shots.

    pituning pool build benchmarks/work/mini20/pool mini20 --backbone ofa-mini --recipe ofa-mini
    python benchmarks/mini20.py full       # each expert on its own test split
    python benchmarks/mini20.py tune       # each target and seed
    python benchmarks/report.py            # REPORT.md from all results

One JSON a run, in results/mini20; what is there is not done again. `--only` takes some of the tasks,
`--threads` torch's threads, so that two processes can share the work.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from few_shot import one_run, write
from provenance import provenance

from pituning.backbones import Backbone, load_backbone
from pituning.cli.recipes import read_recipe
from pituning.expert import attach_expert
from pituning.interpolate import TuneConfig
from pituning.mini20 import NAMES, mini_task
from pituning.pool import Pool
from pituning.recipe import PiConfig
from pituning.train import TrainConfig, score

HERE = Path(__file__).parent
WORK = HERE / "work"
SEEDS = [0, 1, 2]
SHOTS = 16


def full(backbone: Backbone, pool: Pool, name: str, results: Path) -> None:
    file = results / f"{name}-full.json"
    if file.exists():
        return
    task, expert = mini_task(name), pool.get(name)
    found = score(backbone, attach_expert(backbone, expert), task)
    scores = {"full": found, "validation": expert.card.scores.get("validation")}
    write(file, {"task": name, "metric": task.metric, **scores, "recipe": expert.card.recipe, **provenance()})
    print(name, task.metric, round(found, 3), expert.card.recipe["best_epoch"], flush=True)


def tune(backbone: Backbone, pool: Pool, name: str, seed: int, options: argparse.Namespace) -> None:
    file = options.results / f"{name}-seed{seed}.json"
    if file.exists():
        return
    recipe = read_recipe(options.recipe)
    config = PiConfig(
        **recipe.mix,
        shots=SHOTS,
        seed=seed,
        train=TrainConfig(**recipe.train),
        tune=TuneConfig(**recipe.tune),
    )
    document = one_run(backbone, mini_task(name), pool, config, options.work / "alone")
    write(file, document)
    scores = {key: round(value, 3) for key, value in document["scores"].items()}
    print(name, seed, scores, document["kept"], round(document["seconds"]), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=["full", "tune"])
    parser.add_argument("--backbone", default="ofa-mini")
    parser.add_argument("--recipe", default="ofa-mini")
    parser.add_argument("--work", type=Path, default=WORK / "mini20")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "mini20")
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES)
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, experts = load_backbone(options.backbone), Pool(options.work / "pool")
    if options.stage == "full":
        for each in options.only:
            full(model, experts, each, options.results)
    else:
        for number in options.seeds:
            for each in options.only:
                tune(model, experts, each, number, options)

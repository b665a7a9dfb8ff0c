"""Whole suites of tasks: no training, all data, 16 shots, and π-Tuning with 16 shots.

    python benchmarks/suites.py mini20 pool       # an expert and an embedding for each task, from all data
                                                  # (the package carries them; `full` and `tune` take those)
    python benchmarks/suites.py mini20 full       # each expert on its own test split
    python benchmarks/suites.py mini20 untrained  # each expert, as it is, on the test splits of the others
    python benchmarks/suites.py mini20 tune       # each target and seed
    python benchmarks/suites.py mini20 all        # each target with all data, from its expert of the pool
    python benchmarks/report.py                   # REPORT.md from all results

LoRA experts of the twenty: `mini20 pool --pool-recipe mini20-lora --pool POOL`, then `mini20 full --pool
POOL --results results/mini20-lora` and `mini20 tune --recipe benchmarks/lora-targets.yaml --pool POOL
--results results/lora`; so for prefixes, with `prefix.yaml`, `prefix-targets.yaml` and results/prefix. With
experts of pictures alone: `mini20 tune --modality image --only rte ... --results results/unrelated`; with
other shots: `mini20 tune --shots 4`, in results/shots/4. The other suites are the real tasks of
`shared/data`: `pictures` on ofa-mini, `language` on MiniLM, `vision` on EfficientNet-Lite0 (see
efficientnet.py); `t5` has mini20's language tasks on a T5 (see t5_mini.py). One JSON a run, in
results/SUITE; what is there is not done again. `--only` takes some of the tasks, `--threads` torch's
threads, so that two processes can share the work.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from efficientnet import efficientnet
from few_shot import one_run, remember_pictures, write
from t5_mini import MODEL

from pituning.backbones import Backbone, load_backbone
from pituning.building import build_pool
from pituning.cli.recipes import Recipe, read_recipe
from pituning.example import first_by_hash
from pituning.expert import attach_expert
from pituning.interpolate import Mixture
from pituning.interpolate import tune as tune_mixture
from pituning.mini20 import NAMES, mini_task
from pituning.pool import Pool
from pituning.provenance import provenance
from pituning.recipe import pi_tune
from pituning.selection import tested
from pituning.task import Task, load_task
from pituning.train import TrainConfig, score
from pituning.weights import MINI20

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data"
SEEDS = [0, 1, 2]
EPOCHS_OF_ALL = 3  # of a mixture whose parts have seen all the data before
LARGEST_TEST = 500  # examples of a real task's test split, the first by hash


def real_task(path: str) -> Task:
    task = load_task(DATA / path)
    return replace(task, test=tuple(first_by_hash(task.test, LARGEST_TEST)))


def real_tasks(*patterns: str) -> dict[str, Callable[[], Task]]:
    folders = sorted(folder for pattern in patterns for folder in DATA.glob(pattern) if folder.is_dir())
    paths = {folder.name: f"{folder.parent.name}/{folder.name}" for folder in folders}
    return {name: lambda path=path: real_task(path) for name, path in paths.items()}


def ofa_mini() -> Backbone:
    backbone = load_backbone("ofa-mini")
    remember_pictures(backbone)
    return backbone


def minilm() -> Backbone:
    return load_backbone("minilm")


def t5_mini() -> Backbone:
    return load_backbone(str(MODEL))


@dataclass(frozen=True)
class Suite:
    """Tasks, and what they run on.

    Attributes:
        recipe: of the targets.
        pool_recipe: of the pool's experts.
        carried: whether the package has the pool.
    """

    tasks: Mapping[str, Callable[[], Task]]
    pool_recipe: str
    backbone: Callable[[], Backbone] = ofa_mini
    recipe: str = "ofa-mini"
    carried: bool = False


SUITES = {
    "mini20": Suite({name: lambda name=name: mini_task(name) for name in NAMES}, "mini20", carried=True),
    "pictures": Suite(real_tasks("vision/*", "vl/*"), str(HERE / "pictures.yaml")),
    "language": Suite(
        real_tasks("language/*"), str(HERE / "language.yaml"), minilm, str(HERE / "language-targets.yaml")
    ),
    "t5": Suite(
        {name: lambda name=name: mini_task(name) for name in ("mnli", "qqp", "mrpc", "qnli", "rte", "sst2")},
        str(HERE / "t5.yaml"),
        t5_mini,
        str(HERE / "t5-targets.yaml"),
    ),
    "vision": Suite(
        real_tasks("vision/*"), str(HERE / "vision.yaml"), efficientnet, str(HERE / "vision-targets.yaml")
    ),
}


def of_modality(pool: Pool, modality: str, folder: Path) -> Pool:
    """The experts of tasks of one modality alone, in a pool of their own."""
    made = Pool.create(folder, init_seed=pool.init_seed)
    for name in pool:
        expert = pool.get(name)
        if expert.card.modality == modality and name not in made:
            made.add(expert, pool.embedding(name))
    return made


def full(backbone: Backbone, pool: Pool, task: Task, results: Path) -> None:
    file = results / f"{task.name}-full.json"
    if file.exists():
        return
    expert = pool.get(task.name)
    found = score(backbone, attach_expert(backbone, expert), task)
    scores = {"full": found, "validation": expert.card.scores.get("validation")}
    write(
        file,
        {"task": task.name, "metric": task.metric, **scores, "recipe": expert.card.recipe, **provenance()},
    )
    print(task.name, task.metric, round(found, 3), expert.card.recipe["best_epoch"], flush=True)


def untrained(backbone: Backbone, pool: Pool, task: Task, results: Path) -> None:
    """The bare backbone, and the experts of all other tasks, on this one: what choosing can reach at most."""
    file = results / f"{task.name}-untrained.json"
    if file.exists():
        return
    others = {name: pool.get(name) for name in pool if name != task.name}
    found = tested(backbone, task, others, pool.init_seed)
    write(file, {"task": task.name, "metric": task.metric, "untrained": found, **provenance()})
    best = max(found, key=lambda name: found[name])
    print(task.name, task.metric, round(found["base"], 3), best, round(found[best], 3), flush=True)


def tune(
    backbone: Backbone, pool: Pool, task: Task, recipe: Recipe, seed: int, options: argparse.Namespace
) -> None:
    file = options.results / f"{task.name}-seed{seed}.json"
    if file.exists():
        return
    config = recipe.config(shots=options.shots, seed=seed)
    document = one_run(backbone, task, pool, config, options.work / "alone")
    write(file, document)
    scores = {key: round(value, 3) for key, value in document["scores"].items()}
    print(task.name, seed, scores, document["kept"], round(document["seconds"]), flush=True)


def tune_all(backbone: Backbone, pool: Pool, task: Task, recipe: Recipe, results: Path) -> None:
    """With all data, from the pool's expert of the task; that one tuned alone in the same way beside it."""
    file = results / f"{task.name}-all.json"
    if file.exists():
        return
    config = recipe.config(shots=None, seed=0)
    config = replace(config, tune=replace(config.tune, epochs=EPOCHS_OF_ALL))
    result = pi_tune(backbone, task, pool, config, expert=pool.get(task.name))
    alone = Mixture(backbone, [result.own])
    tune_mixture(alone, task, config.tune)
    found = result.scores | tested(
        backbone, task, {"mixture": result.mixture, "alone": alone.collapse()}, pool.init_seed
    )
    told = {"neighbors": [n.name for n in result.neighbors], "weights": result.weights, "start": result.start}
    told |= {"kept": result.kept, "lead": result.lead and asdict(result.lead), "seconds": result.seconds}
    told |= {"at": config.fisher.where}
    write(file, {"task": task.name, "metric": task.metric, "all": found, **told, **provenance()})
    print(task.name, {key: round(value, 3) for key, value in found.items()}, result.kept, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", choices=list(SUITES))
    parser.add_argument("stage", choices=["pool", "full", "untrained", "tune", "all"])
    parser.add_argument("--pool-recipe", help="(default: the suite's)")
    parser.add_argument("--recipe", help="of the targets (default: the suite's)")
    parser.add_argument("--pool", type=Path, help="(default: the carried one, or WORK/pool)")
    parser.add_argument("--modality", help="only the pool's experts of tasks of this modality")
    parser.add_argument("--work", type=Path, help="folder of what is kept (default: work/SUITE)")
    parser.add_argument("--results", type=Path, help="folder of the JSON (default: as above)")
    parser.add_argument("--only", nargs="*", help="tasks")
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.work = options.work or HERE / "work" / options.suite
    default = options.suite if options.shots == 16 else f"shots/{options.shots}"
    options.results = options.results or HERE / "results" / default
    torch.set_num_threads(options.threads)
    suite = SUITES[options.suite]
    backbone, recipe = suite.backbone(), read_recipe(options.recipe or suite.recipe)
    carried = suite.carried and options.stage != "pool" and not options.pool
    pool = Pool(MINI20) if carried else Pool.create(options.pool or options.work / "pool")
    if options.modality:
        pool = of_modality(pool, options.modality, options.work / f"only {options.modality}")
    names = options.only or suite.tasks
    if options.stage == "pool":
        config = TrainConfig(**read_recipe(options.pool_recipe or suite.pool_recipe).train)
        for name in names:
            build_pool(pool, backbone, [suite.tasks[name]()], config)
            print(name, pool.get(name).card.scores, flush=True)
    elif options.stage in ("full", "untrained"):
        stage = full if options.stage == "full" else untrained
        for name in names:
            stage(backbone, pool, suite.tasks[name](), options.results)
    elif options.stage == "all":
        for name in names:
            tune_all(backbone, pool, suite.tasks[name](), recipe, options.results)
    else:
        for seed in options.seeds:
            for name in names:
                tune(backbone, pool, suite.tasks[name](), recipe, seed, options)


if __name__ == "__main__":
    main()

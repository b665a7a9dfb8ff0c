"""Real language tasks, MiniLM's real weights: does π-Tuning beat the target's own 16-shot expert?

    python benchmarks/language.py pool      # twelve LoRA experts with their embeddings
    python benchmarks/language.py tune      # each target and seed: one JSON in results/language
    python benchmarks/report.py             # REPORT.md from all results

Each stage goes on where it stopped. `--only` takes some of the tasks, `--threads` torch's threads, so that
two processes can share the work.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import torch
from provenance import provenance

from pituning.backbones import Backbone, load_backbone
from pituning.expert import attach_expert
from pituning.pool import Pool
from pituning.predict import FisherConfig, embed
from pituning.recipe import PiConfig, pi_tune, validated
from pituning.task import Task, load_task
from pituning.train import TrainConfig, score, train_expert

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data" / "language"
WORK = HERE / "work" / "language"
RESULTS = HERE / "results" / "language"
TASKS = [
    *("ag_news_small", "cola", "cr", "mnli", "mrpc", "qnli"),
    *("rte", "sick", "snli_small", "sst2", "subj", "trec"),
]
TARGETS = ["cr", "sst2", "subj", "trec", "ag_news_small", "sick", "snli_small", "mnli"]
SEEDS = [0, 1, 2]
EXPERTS = TrainConfig(epochs=2, batch_size=32, learning_rate=1e-3, max_examples=2000)


def build_pool(names: list[str]) -> None:
    backbone = load_backbone("minilm")
    pool = Pool.create(WORK / "pool")
    for name in names:
        if name in pool:
            continue
        task = load_task(DATA / name)
        expert = train_expert(backbone, task, EXPERTS, workdir=WORK / "checkpoints" / name, resume=True)
        embedding = embed(backbone, expert, task, FisherConfig())
        pool.add(expert, embedding)
        print(name, expert.card.scores, embedding.examples, flush=True)


def tune_targets(names: list[str]) -> None:
    backbone = load_backbone("minilm")
    pool = Pool(WORK / "pool")
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS:
        for name in names:
            file = RESULTS / f"{name}-seed{seed}.json"
            if file.exists():
                continue
            document = one_run(backbone, load_task(DATA / name), pool, seed)
            scratch = file.with_suffix(".new")
            scratch.write_text(json.dumps(document, indent=1) + "\n")
            os.replace(scratch, file)
            print(name, seed, document["scores"], document["kept"], flush=True)


def one_run(backbone: Backbone, task: Task, pool: Pool, seed: int) -> dict[str, object]:
    config = PiConfig(shots=16, seed=seed)
    start = time.monotonic()
    result = pi_tune(backbone, task, pool, config)
    # The best single neighbour is the one of the k that does best on the validation shots.
    few = task.sample(16, seed)
    neighbors = [neighbor.name for neighbor in result.neighbors]
    found = validated(backbone, few, {name: pool.get(name) for name in neighbors})
    best = max(neighbors, key=lambda name: found[name])
    return {
        "task": task.name,
        "metric": task.metric,
        "scores": {
            **result.scores,
            "mixture": result.scores["pi"]
            if result.kept == "mixture"
            else score(backbone, attach_expert(backbone, result.mixture), task),
            "best neighbor": alone(backbone, task, pool, best),
        },
        "kept": result.kept,
        "best_neighbor": best,
        "neighbors": [asdict(neighbor) for neighbor in result.neighbors],
        "weights": result.weights,
        "validation": result.validation,
        "config": asdict(config),
        "examples": {"train": len(few.train), "validation": len(few.validation), "test": len(task.test)},
        "seconds": time.monotonic() - start,
        **provenance(),
    }


def alone(backbone: Backbone, task: Task, pool: Pool, name: str) -> float:
    """The pool's expert on the target's test split as it is; computed once for all seeds."""
    key = f"{pool.get(name).digest[:16]}-{task.fingerprint[:16]}"
    file = WORK / "alone" / f"{key}.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(score(backbone, attach_expert(backbone, pool.get(name)), task)))
    return float(json.loads(file.read_text()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=["pool", "tune"])
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.stage == "pool":
        build_pool(options.only or TASKS)
    else:
        tune_targets(options.only or TARGETS)

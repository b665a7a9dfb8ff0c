"""Real language tasks, MiniLM's real weights: does π-Tuning beat the target's own 16-shot expert?

    python benchmarks/language.py pool      # twelve LoRA experts with their embeddings
    python benchmarks/language.py tune      # each target and seed: one JSON in results/language
    python benchmarks/report.py             # REPORT.md from all results

Each stage goes on where it stopped. `--only` takes some of the tasks, `--threads` torch's threads, so that
two processes can share the work.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from few_shot import one_run, write

from pituning.backbones import load_backbone
from pituning.mixing import PiConfig
from pituning.pool import Pool
from pituning.predict import FisherConfig, embed
from pituning.task import load_task
from pituning.train import TrainConfig, train_expert

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
    for seed in SEEDS:
        for name in names:
            file = RESULTS / f"{name}-seed{seed}.json"
            if file.exists():
                continue
            config = PiConfig(shots=16, seed=seed, start="uniform")
            document = one_run(backbone, load_task(DATA / name), pool, config, WORK / "alone")
            write(file, document)
            print(name, seed, document["scores"], document["kept"], flush=True)


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

"""What trains alone on all the data of a task, beside adapters, LoRA and π-Tuning: the paper's Table 1.

    python benchmarks/all_data.py rates    # two epochs of 2,000 examples at each rate, on two of the tasks
    python benchmarks/all_data.py train    # each method and task, at the rate that validated best there
    python benchmarks/report.py            # REPORT.md from all results

One JSON a run, in results/all-data; what is there is not done again. `--methods` and `--tasks` take some,
`--threads` torch's threads, so that two processes can share the work.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch
from few_shot import remember_pictures, write
from suite_tables import FAMILIES
from torch import nn

from pituning.backbones import Backbone, load_backbone
from pituning.errors import TrainingError
from pituning.example import first_by_hash
from pituning.expert import attach_expert
from pituning.mini20 import mini_task
from pituning.provenance import provenance
from pituning.selection import bare
from pituning.task import Task
from pituning.train import TrainConfig, evaluate, fit_module, score, train_expert

RESULTS = Path(__file__).parent / "results" / "all-data"
TASKS = FAMILIES["vision-language"]
RATES = {
    "full": [1e-4, 3e-4, 1e-3],
    "bitfit": [6e-3, 2e-2, 6e-2, 2e-1],
    "prefix": [3e-2, 1e-1, 3e-1, 1e0],
    "prompt": [1e-1, 3e-1, 1e0, 3e0],
}
TRIED_ON = ["refcoco", "snli-ve"]  # a task of boxes, and one of candidates
TRIED_EXAMPLES = 2000
CONFIG = TrainConfig(epochs=5, batch_size=16, patience=3)


def trained(backbone: Backbone, task: Task, method: str, config: TrainConfig) -> nn.Module:
    if method != "full":
        return attach_expert(backbone, train_expert(backbone, task, replace(config, method=method)))
    assert config.learning_rate is not None
    module = copy.deepcopy(bare(backbone, task, config.init_seed)).requires_grad_(True)
    fit_module(backbone, module, task, config.learning_rate, config)
    return module


def try_rates(backbone: Backbone, method: str) -> None:
    """The validation loss in nats after two epochs; None where the training diverged."""
    for name in TRIED_ON:
        task = mini_task(name)
        task = replace(task, train=tuple(first_by_hash(task.train, TRIED_EXAMPLES)))
        for rate in RATES[method]:
            file = RESULTS / f"rate-{method}-{rate:g}-{name}.json"
            if file.exists():
                continue
            try:
                module = trained(backbone, task, method, replace(CONFIG, epochs=2, learning_rate=rate))
                loss = -evaluate(backbone, module, task, task.validation, draw=False).negative_loss
            except TrainingError:
                loss = None
            write(file, {"method": method, "rate": rate, "on": name, "loss": loss, **provenance()})
            print(method, f"{rate:g}", name, loss, flush=True)


def best_rate(method: str) -> float:
    """Of the least mean loss on the tasks that all rates were tried on."""

    def loss(rate: float) -> float:
        files = [RESULTS / f"rate-{method}-{rate:g}-{name}.json" for name in TRIED_ON]
        found = [json.loads(file.read_text())["loss"] for file in files]
        return float("inf") if None in found else fmean(found)

    return min(RATES[method], key=loss)


def train(backbone: Backbone, method: str, name: str) -> None:
    file = RESULTS / f"{name}-{method}.json"
    if file.exists():
        return
    task, start = mini_task(name), time.monotonic()
    rate = best_rate(method)
    module = trained(backbone, task, method, replace(CONFIG, learning_rate=rate))
    found = {"task": name, "metric": task.metric, "method": method, "rate": rate}
    found["score"] = score(backbone, module, task)
    found["seconds"] = round(time.monotonic() - start, 1)
    write(file, {**found, "epochs": CONFIG.epochs, **provenance()})
    print(name, method, f"{rate:g}", round(found["score"], 3), found["seconds"], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=["rates", "train"])
    parser.add_argument("--methods", nargs="*", choices=list(RATES), default=list(RATES))
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for method in options.methods:
        backbone = load_backbone("ofa-mini")
        if method != "full":  # which trains the stem, too
            remember_pictures(backbone, 7000)
        if options.stage == "rates":
            try_rates(backbone, method)
        else:
            for name in options.tasks:
                train(backbone, method, name)


if __name__ == "__main__":
    main()

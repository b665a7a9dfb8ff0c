"""Does the prediction predict? The measured gain of every ordered pair of tasks, and ways of choosing.

    python benchmarks/transfer.py pairs     # each target with each one neighbour: results/transfer/TASK.json
    python benchmarks/transfer.py choose    # which way of choosing finds the ones that help

mini20 on ofa-mini, 16 shots, one seed. The gain of a neighbour is the test score of the mixture of the
target's own expert and it, tuned from almost the neighbour (weight 0.9), less that of the own expert; the
tuned mixture counts, kept or not. `pairs` goes on where it was stopped; `--only` takes some of the targets,
so that two processes can share the work.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from few_shot import remember_pictures, write
from provenance import provenance
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from torch import Tensor

from pituning.backbones import Backbone, load_backbone
from pituning.backbones.loading import minilm_folder
from pituning.bench.merging import Differences
from pituning.cli.recipes import read_recipe
from pituning.evaluation import Evaluation
from pituning.expert import Expert, attach_expert
from pituning.interpolate import tune
from pituning.metrics import METRICS
from pituning.mini20 import NAMES, mini_task
from pituning.mixing import Mixing, PiConfig
from pituning.pool import Pool
from pituning.predict import FisherConfig, Neighbor, TaskEmbedding, embed, similarity
from pituning.selection import validated
from pituning.task import Task
from pituning.train import score, train_expert
from pituning.weights import MINI20

HERE = Path(__file__).parent
RESULTS, WORK = HERE / "results" / "transfer", HERE / "work" / "transfer"
SHOTS, SEED, TOP = 16, 0, 3

Way = Callable[[Task, Expert, str], float]
"""Few examples of a target, its own expert, the name of another: the higher, the more it should help."""


def pairs(backbone: Backbone, pool: Pool, name: str, config: PiConfig) -> None:
    """One target with each neighbour; what is in its file is not done again."""
    file = RESULTS / f"{name}.json"
    document: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"found": {}}
    missing = [other for other in pool if other not in (name, *document["found"])]
    if not missing:
        return
    task = mini_task(name)
    few = task.sample(SHOTS, SEED)
    own = own_expert(backbone, pool, few, config)
    document |= {"task": name, "metric": task.metric, "seed": SEED, "shots": SHOTS, **provenance()}
    if "expert" not in document:
        document["expert"] = score(backbone, attach_expert(backbone, own), task)
    mixing = Mixing(backbone, own, {other: pool.get(other) for other in pool}, replace(config, k=1))
    for other in missing:
        mixture = mixing.mixture([other], other)
        tune(mixture, few, config.tuning)
        found = score(backbone, attach_expert(backbone, mixture.collapse()), task)
        document["found"][other] = {"score": found}
        write(file, document)
        print(name, other, round(found - document["expert"], 3), flush=True)


def own_expert(backbone: Backbone, pool: Pool, few: Task, config: PiConfig) -> Expert:
    """The target's own, trained once for both stages."""
    folder = WORK / few.name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        training = replace(config.train, seed=SEED, init_seed=pool.init_seed)
        train_expert(backbone, few, training, name=f"target:{few.name}").save(folder)
    return Expert.load(folder)


def ways(backbone: Backbone, pool: Pool, config: PiConfig) -> Mapping[str, Way]:
    """All ways of choosing but chance and the oracle."""
    paper, kept = FisherConfig(setting="paper"), dict[tuple[str, str, str], TaskEmbedding]()
    everyone = [pool.get(name) for name in pool]
    rows = Differences(backbone, everyone[0], everyone, init_seed=pool.init_seed).rows
    flat = {name: _flat(row) for name, row in zip(pool, rows, strict=True)}

    def embedded(expert: Expert, task: Task, config: FisherConfig) -> TaskEmbedding:
        key = (expert.digest, task.fingerprint, config.hash)
        if key not in kept:
            kept[key] = embed(backbone, expert, task, config)
        return kept[key]

    def fisher(few: Task, own: Expert, other: str) -> float:
        mine = embedded(own, few, FisherConfig())
        return similarity(mine.components, pool.embedding(other).components)

    def fisher_paper(few: Task, own: Expert, other: str) -> float:
        theirs = embedded(pool.get(other), mini_task(other), paper)
        return similarity(embedded(own, few, paper).components, theirs.components, setting="paper")

    def fisher_reference(few: Task, own: Expert, other: str) -> float:
        """Both tasks embedded with an expert of neither: that of captions, or of sst2 for captions."""
        reference = pool.get("sst2" if "coco-captions" in (few.name, other) else "coco-captions")
        mine, theirs = (embedded(reference, task, FisherConfig()) for task in (few, mini_task(other)))
        return similarity(mine.components, theirs.components)

    def weights(few: Task, own: Expert, other: str) -> float:
        row = Differences(backbone, own, [own], init_seed=pool.init_seed).rows[0]
        return float(torch.cosine_similarity(_flat(row), flat[other], dim=0))

    def labelled(few: Task) -> Task:
        return Mixing(backbone, everyone[0], {}, PiConfig()).unseen(few)

    def as_it_is(few: Task, own: Expert, other: str) -> float:
        return merit(validated(backbone, labelled(few), {"": pool.get(other)})[""])

    def after_short_tuning(few: Task, own: Expert, other: str) -> float:
        mixing = Mixing(backbone, own, {other: pool.get(other)}, replace(config, k=1))
        return merit(mixing.tried([Neighbor(other, 0.0)], other, few, progress=False))

    encoder = SentenceTransformer(str(minilm_folder()))

    def described(few: Task, own: Expert, other: str) -> float:
        mine, theirs = encoder.encode([description(few), description(mini_task(other))])
        return float(mine @ theirs / np.linalg.norm(mine) / np.linalg.norm(theirs))

    def as_tune_does(few: Task, own: Expert, other: str) -> float:
        """What `tune` mixed with the same examples and experts: the start first, then the others."""
        run = json.loads((HERE / "results" / "mini20" / f"{few.name}-seed{SEED}.json").read_text())
        chosen = other in [neighbor["name"] for neighbor in run["neighbors"]]
        return 4.0 * (other == run["start"]) + 2.0 * chosen + fisher(few, own, other)

    return {
        "Fisher": fisher,
        "Fisher, paper": fisher_paper,
        "Fisher at one expert for all": fisher_reference,
        "cosine of weights": weights,
        "sentence embedding of the description": described,
        "validation, as it is": as_it_is,
        "validation, after a short tuning": after_short_tuning,
        "what tune mixes": as_tune_does,
    }


def merit(found: Evaluation) -> float:
    """In one number: overlap of boxes first, then the loss."""
    overlap, negative_loss = found.merit
    return 1000 * overlap + negative_loss


def description(task: Task) -> str:
    """What a task file says of it: the question, and the answers."""
    question = task.prompt.replace("{text_a}", "...").replace("{text_b}", "...").strip()
    return f"{question} {', '.join(task.candidate_texts.values())}".strip()


def _flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def choose(backbone: Backbone, pool: Pool, config: PiConfig) -> None:
    """results/transfer/choice.json: of each way its rank correlation, recall and regret, by target."""
    named = ways(backbone, pool, config)
    found: dict[str, dict[str, Any]] = {way: {} for way in named}
    for file in sorted(RESULTS.glob("*.json")):
        document = json.loads(file.read_text())
        if "found" not in document or len(document["found"]) < len(pool) - 1:
            continue
        name, most = document["task"], METRICS[document["metric"]].most
        gains = {n: (d["score"] - document["expert"]) / most for n, d in document["found"].items()}
        few = mini_task(name).sample(SHOTS, SEED)
        own = own_expert(backbone, pool, few, config)
        for way, rate in named.items():
            rated = {other: rate(few, own, other) for other in gains}
            found[way][name] = judged(gains, rated)
        print(name, {way: round(found[way][name]["regret"], 3) for way in named}, flush=True)
    write(RESULTS / "choice.json", {"ways": found, **provenance()})


def judged(gains: Mapping[str, float], rated: Mapping[str, float]) -> dict[str, float]:
    """Spearman's correlation, recall and regret of the top 3; the gains are parts of the metric's most.

    The regret is what the best neighbour gains more than the best of the three chosen; where a neighbour only
    harms, none would be taken: its gain counts as 0.
    """
    best, chosen = (_top(values) for values in (gains, rated))
    worth = {name: max(gain, 0.0) for name, gain in gains.items()}
    return {
        "spearman": float(spearmanr([*gains.values()], [rated[name] for name in gains]).statistic),
        "recall": len(best & chosen) / TOP,
        "regret": max(worth.values()) - max(worth[name] for name in chosen),
        "oracle": max(worth.values()),
        "random": max(worth.values()) - mean_best(sorted(worth.values(), reverse=True)),
    }


def _top(values: Mapping[str, float]) -> set[str]:
    return set(sorted(values, key=lambda name: -values[name])[:TOP])


def mean_best(values: Sequence[float]) -> float:
    """The expected largest of `TOP` of `values`, in falling order, drawn without replacement."""
    n, total, left = len(values), 0.0, 1.0
    for place, value in enumerate(values):
        drawn = TOP / (n - place) if place <= n - TOP else 1.0  # that this one is drawn, where none was yet
        total, left = total + left * drawn * value, left * (1 - drawn)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=["pairs", "choose"])
    parser.add_argument("--only", nargs="*", default=NAMES, help="targets")
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone, pool = load_backbone("ofa-mini"), Pool(MINI20)
    remember_pictures(backbone)
    config = read_recipe("ofa-mini").config(shots=SHOTS, seed=SEED)
    if options.stage == "choose":
        choose(backbone, pool, config)
    else:
        for name in options.only:
            pairs(backbone, pool, name, config)


if __name__ == "__main__":
    main()

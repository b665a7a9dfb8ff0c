"""Does the prediction predict? The measured gain of every ordered pair of tasks, and ways of choosing.

    python benchmarks/transfer.py mini20 pairs     # each target with each one neighbour
    python benchmarks/transfer.py mini20 rate      # what each way of choosing says of each neighbour
    python benchmarks/transfer.py mini20 pairs --seed 1 --only rte ...   # again with other shots: how sure
                                                                         # a gain is
    python benchmarks/report.py                    # which way finds the ones that help

The suites are those of suites.py, with 16 shots; one JSON a target, results/transfer/SUITE/TASK.json, of
other seeds than 0 in results/transfer/SUITE/seed1. The gain of a neighbour is the test score of the mixture
of the target's own expert and it, tuned from almost the neighbour (weight 0.9), less that of the own expert;
the tuned mixture counts, kept or not. Both stages go on where they were stopped; `--only` takes some of the
targets, so that two processes can share the work. The pool is that of suites.py; the one of the results for
`language` was made with `--pool-recipe benchmarks/language-transfer.yaml`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from few_shot import write
from sentence_transformers import SentenceTransformer
from suites import SUITES
from torch import Tensor

from pituning.backbones import Backbone
from pituning.backbones.loading import minilm_folder
from pituning.bench.merging import Differences
from pituning.cli.recipes import read_recipe
from pituning.evaluation import Evaluation
from pituning.expert import Expert, attach_expert
from pituning.interpolate import tune
from pituning.mixing import Mixing, PiConfig
from pituning.pool import Pool
from pituning.predict import FisherConfig, TaskEmbedding, embed, similarity
from pituning.provenance import provenance
from pituning.selection import validated
from pituning.task import Task
from pituning.train import score, train_expert
from pituning.weights import MINI20

HERE = Path(__file__).parent
SHOTS = 16
REFERENCES = ("coco-captions", "sst2", "dtd", "cola", "trec")  # of a pool, the first that is not of a pair

Way = Callable[[Task, Expert, Sequence[str]], Mapping[str, float]]
"""Few examples of a target, its own expert, names of others: who is rated higher should help more."""


@dataclass(frozen=True)
class Harness:
    """What all targets of a suite share."""

    suite: str
    backbone: Backbone
    pool: Pool
    config: PiConfig

    def task(self, name: str) -> Task:
        return SUITES[self.suite].tasks[name]()

    def others(self, name: str) -> list[str]:
        return [other for other in self.pool if other != name]

    def file(self, name: str) -> Path:
        """Where a target's results are."""
        return HERE / "results" / "transfer" / self._folder / f"{name}.json"

    def own_expert(self, few: Task) -> Expert:
        """The target's own, trained once for both stages."""
        folder = HERE / "work" / "transfer" / self._folder / few.name
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            training = replace(self.config.train, init_seed=self.pool.init_seed)
            train_expert(self.backbone, few, training, name=f"target:{few.name}").save(folder)
        return Expert.load(folder)

    @property
    def _folder(self) -> Path:
        return Path(self.suite, f"seed{self.config.seed}" if self.config.seed else "")


def pairs(harness: Harness, name: str) -> None:
    """One target with each neighbour; what is in its file is not done again."""
    backbone, pool, config, file = harness.backbone, harness.pool, harness.config, harness.file(name)
    document: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"found": {}}
    missing = [other for other in harness.others(name) if other not in document["found"]]
    if not missing:
        return
    task = harness.task(name)
    few = task.sample(SHOTS, config.seed)
    own = harness.own_expert(few)
    document |= {"task": name, "metric": task.metric, "config": config.told, **provenance()}
    if "expert" not in document:
        document["expert"] = score(backbone, attach_expert(backbone, own), task)
    mixing = Mixing(backbone, own, {other: pool.get(other) for other in pool}, replace(config, k=1))
    for other in missing:
        mixture = mixing.mixture([other], other)
        tune(mixture, few, config.tune)
        found = score(backbone, attach_expert(backbone, mixture.collapse()), task)
        document["found"][other] = {"score": found}
        write(file, document)
        print(name, other, round(found - document["expert"], 3), flush=True)


def ways(harness: Harness) -> Mapping[str, Way]:
    """All ways of choosing but chance and the oracle."""
    backbone, pool, config = harness.backbone, harness.pool, harness.config
    kept = dict[tuple[str, str, str], TaskEmbedding]()
    everyone = {name: pool.get(name) for name in pool}

    def embedded(expert: Expert, task: Task, config: FisherConfig) -> TaskEmbedding:
        key = (expert.digest, task.fingerprint, config.hash)
        if key not in kept:
            known = pool.embedding(expert.name) if expert.name in pool else None
            fits = known and (known.config, known.data) == (config.hash, task.fingerprint)
            kept[key] = known if fits else embed(backbone, expert, task, config)
        return kept[key]

    def fisher(config: FisherConfig) -> Way:
        """Each task embedded with its own expert, or at what all of these began as."""

        def rated(few: Task, own: Expert, others: Sequence[str]) -> Mapping[str, float]:
            mine = embedded(own, few, config).components
            theirs = {other: embedded(everyone[other], harness.task(other), config) for other in others}
            setting = config.setting
            return {o: similarity(mine, theirs[o].components, setting=setting) for o in others}

        return rated

    def fisher_at(reference: Callable[[str, str], Expert]) -> Way:
        """Both tasks embedded with the same expert."""

        def alike(few: Task, other: str) -> float:
            expert = reference(few.name, other)
            at_it = FisherConfig(at="expert")
            mine, theirs = (embedded(expert, task, at_it) for task in (few, harness.task(other)))
            return similarity(mine.components, theirs.components)

        return lambda few, own, others: {other: alike(few, other) for other in others}

    def neither(*pair: str) -> Expert:
        return everyone[next(name for name in REFERENCES if name in everyone and name not in pair)]

    def weights(few: Task, own: Expert, others: Sequence[str]) -> Mapping[str, float]:
        experts = [own, *(everyone[other] for other in others)]
        mine, *theirs = map(_flat, Differences(backbone, own, experts, init_seed=pool.init_seed).rows)
        cosines = (float(torch.cosine_similarity(mine, row, dim=0)) for row in theirs)
        return dict(zip(others, cosines, strict=True))

    encoder = SentenceTransformer(str(minilm_folder()))

    def described(few: Task, own: Expert, others: Sequence[str]) -> Mapping[str, float]:
        texts = [description(few), *(description(harness.task(other)) for other in others)]
        mine, *theirs = encoder.encode(texts, normalize_embeddings=True)
        return {other: float(mine @ one) for other, one in zip(others, theirs, strict=True)}

    def as_it_is(few: Task, own: Expert, others: Sequence[str]) -> Mapping[str, float]:
        labelled = Mixing(backbone, own, {}, config).unseen(few)
        found = validated(backbone, labelled, {other: everyone[other] for other in others})
        return {other: merit(one) for other, one in found.items()}

    def after_short_tuning(few: Task, own: Expert, others: Sequence[str]) -> Mapping[str, float]:
        mixing = Mixing(backbone, own, everyone, replace(config, k=1))
        return {other: merit(mixing.tried([other], other, few, progress=False)) for other in others}

    return {
        "Fisher at the untrained adapter": fisher(FisherConfig()),
        "Fisher at one expert for all": fisher_at(neither),
        "Fisher at the own expert": fisher(FisherConfig(at="expert")),
        "Fisher at the own expert, paper": fisher(FisherConfig(setting="paper")),
        "cosine of weights": weights,
        "sentence embedding of the description": described,
        "validation, as it is": as_it_is,
        "validation, after a short tuning": after_short_tuning,
    }


def merit(found: Evaluation) -> float:
    """In one number: overlap of boxes first, then the loss."""
    overlap, negative_loss = found.merit
    return 1000 * overlap + negative_loss


def description(task: Task) -> str:
    """What a task file says of it: the question (else the name), and the answers."""
    question = (task.prompt or task.name).replace("{text_a}", "...").replace("{text_b}", "...").strip()
    return f"{question} {', '.join(task.candidate_texts.values())}".strip()


def _flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def rate(harness: Harness, name: str, every: Mapping[str, Way]) -> None:
    """One target: what each way says of each neighbour, where its file has not that already."""
    file = harness.file(name)
    document = json.loads(file.read_text())
    rated = document.setdefault("rated", {})
    few = harness.task(name).sample(SHOTS, harness.config.seed)
    own = harness.own_expert(few)
    for way in [way for way in every if way not in rated]:
        rated[way] = dict(every[way](few, own, harness.others(name)))
        write(file, document)
        print(name, way, max(rated[way], key=lambda other: rated[way][other]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", choices=list(SUITES))
    parser.add_argument("stage", choices=["pairs", "rate"])
    parser.add_argument("--only", nargs="*", help="targets")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    suite = SUITES[options.suite]
    pool = Pool(MINI20 if suite.carried else HERE / "work" / options.suite / "pool")
    config = read_recipe(suite.recipe).config(shots=SHOTS, seed=options.seed)
    harness = Harness(options.suite, suite.backbone(), pool, config)
    every = ways(harness) if options.stage == "rate" else {}
    for name in options.only or suite.tasks:
        if every:
            rate(harness, name, every)
        else:
            pairs(harness, name)


if __name__ == "__main__":
    main()

"""Find the nearest experts in pools of 1,000 to 100,000: recall, time, bytes.

    python benchmarks/retrieval.py [--experts N ...] [--numbers N] [--queries N] [--prepare]

`--prepare` makes the pools and looks for the right answers, which takes long and is not timed; without it,
what was not prepared is done first. Time only what runs alone. What the JSON file has is not measured again:
move it away for that.

How the embeddings are made. Twelve real ones (LoRA of MiniLM, `benchmarks/work/language/pool`) were
measured; what was found is in `STATISTICS`, so that this runs without them. The log values of a component
have a mean (its spread among experts is 1.7), a profile that all experts share, and a residual: 38 % of its
variance is an effect of the row, 37 % of the column, the rest of the single number; its scale differs among
experts by 17 %. One of the twelve was never trained: its A components are zero, and so it is with 1 in 12
here.

An expert belongs to a family (a task, or its near copies), a family to one of 30 domains. A family's
residual is that of its domain and its own, with 10 to 70 % of the variance the domain's; an expert's, that
of its family and its own, with 0.25 to 64 % of the variance its own (log-uniform): near-duplicates to loose
relatives. A family has 40 experts on average; similarities of unrelated experts come out at 0.69 ± 0.03
(real: 0.64 ± 0.05).

Half of the queries are new experts of families in the pool, half are of families that it does not hold. The
weights of all experts are one file (hard links): retrieval does not read them, except those of the answers.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig

from pituning.card import ExpertCard
from pituning.expert import Expert
from pituning.manifest import entry_path, file_hashes, write_json
from pituning.neighborhood import neighborhood_of
from pituning.pool import Pool
from pituning.predict import TaskEmbedding
from pituning.predict.embedding import Order
from pituning.predict.similarity import flat_similarities
from pituning.provenance import provenance
from pituning.sketches import joined, put_records, record_of

WORK = Path(__file__).parent / "work" / "retrieval"
RESULTS = Path(__file__).parent / "results" / "retrieval.json"

# Of real components in turn (A and B of query and value): standard deviations of residual and profile.
STATISTICS = {"residual": (0.65, 0.87, 0.54, 0.62), "profile": (0.47, 0.64, 0.51, 0.59)}
OFFSET, SCALE, UNTRAINED = 1.7, 0.17, 1 / 12
ROW, COLUMN, SINGLE = 0.38, 0.37, 0.25
DOMAINS, FAMILY = 30, 40
RANK = 8
LINKS = 32_500
K = 10


@dataclass(frozen=True)
class World:
    """Where synthetic embeddings come from: expert i is the same in a pool of any size."""

    numbers: int  # of an embedding, about
    families: int
    seed: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Components, rows, columns."""
        components = 8 if self.numbers <= 8192 else 24
        return components, RANK, self.numbers // (components * RANK)

    @cached_property
    def profile(self) -> np.ndarray:
        """What all experts share."""
        spread = np.array(STATISTICS["profile"])[np.arange(self.shape[0]) % 4, None, None]
        return spread * np.random.default_rng([self.seed, 6]).standard_normal(self.shape)

    def residual(self, *key: int) -> np.ndarray:
        """Of unit variance, with the effects of rows and columns."""
        draw, (c, r, w) = np.random.default_rng([self.seed, *key]), self.shape
        parts = [(ROW, (c, r, 1)), (COLUMN, (c, 1, w)), (SINGLE, (c, r, w))]
        return sum(np.sqrt(s, dtype=np.float32) * draw.standard_normal(n, dtype=np.float32) for s, n in parts)

    @lru_cache(maxsize=64)  # noqa: B019
    def domain(self, domain: int) -> np.ndarray:
        return self.residual(2, domain)

    @lru_cache(maxsize=4096)  # noqa: B019
    def family(self, family: int) -> np.ndarray:
        """Its residual."""
        draw = np.random.default_rng([self.seed, 1, family])
        shared = draw.uniform(0.1, 0.7)
        domain = self.domain(int(draw.integers(DOMAINS)))
        scale = np.float32(np.exp(SCALE * draw.standard_normal()))
        shared = np.float32(shared)
        return scale * (np.sqrt(shared) * domain + np.sqrt(1 - shared) * self.residual(3, family))

    def expert(self, index: int, family: int | None = None) -> dict[str, torch.Tensor]:
        """The components of an expert's embedding."""
        draw, c = np.random.default_rng([self.seed, 4, index]), self.shape[0]
        drawn = int(draw.integers(self.families))
        own = np.float32(np.exp(draw.uniform(np.log(0.05), np.log(0.8))))
        residual = np.sqrt(1 - own**2) * self.family(drawn if family is None else family)
        residual += own * self.residual(5, index)
        spread = np.array(STATISTICS["residual"], np.float32)[np.arange(c) % 4, None, None]
        offset = -11 + OFFSET * draw.standard_normal((c, 1, 1))
        values = np.exp((offset + self.profile).astype(np.float32) + spread * residual)
        if draw.random() < UNTRAINED:
            values[::2] = 0
        return {
            f"layer.{i // 2}.lora_{'BA'[1 - i % 2]}.weight": torch.from_numpy(values[i]) for i in range(c)
        }


def template(world: World) -> Expert:
    """One expert, whose weights all share."""
    c, r, w = world.shape
    tensors = {
        f"base_model.model.layer.{i // 2}.lora_{'BA'[1 - i % 2]}.weight": torch.zeros(r, w) for i in range(c)
    }
    config = LoraConfig(r=r, target_modules=[f"layer.{i}" for i in range(c // 2)])
    card = ExpertCard(name="x", task="x", backbone="synthetic", initialisation="seed 0")
    return Expert(card, config, tensors)


def embedding_of(components: dict[str, torch.Tensor], expert: Expert) -> TaskEmbedding:
    facts = {"task": expert.name, "expert": expert.digest, "data": expert.name, "source": expert.name}
    return TaskEmbedding(components=components, config="c", setting="default", examples=1024, **facts)


def grow(path: Path, world: World, experts: int) -> float:
    """Write experts as the pool would, in bulk; returns seconds for each."""
    pool, one = Pool.create(path), template(world)
    if len(pool) >= experts:
        return 0.0
    if "e0" not in pool:
        pool.add(one.renamed("e0"), embedding_of(world.expert(0), one.renamed("e0")))
    digest, start = one.digest, time.perf_counter()
    held, first = len(pool), path / "e0"
    shared = [file for file in sorted(first.iterdir()) if file.name.startswith("adapter")]
    hashes = file_hashes({file.name: file.read_bytes() for file in shared})
    for numbers in batched(range(held, experts), 2000):
        records = []
        for number in numbers:
            expert = one.renamed(f"e{number}")
            object.__setattr__(expert, "digest", digest)
            embedding = embedding_of(world.expert(number), expert)
            files = {"embedding.safetensors": embedding.to_bytes(), "expert.json": expert.card.to_bytes()}
            folder = path / expert.name
            folder.mkdir(exist_ok=True)
            for file in shared:  # a disk may allow 65,000 links to a file
                source = path / f"e{number - number % LINKS}" / file.name
                if source != folder / file.name and not (folder / file.name).exists():
                    os.link(source, folder / file.name)
                elif not source.exists():
                    shutil.copy(file, source)
            for name, content in files.items():
                (folder / name).write_bytes(content)
            mine = hashes | file_hashes(files)
            records.append(record_of(expert, embedding, mine["embedding.safetensors"]))
            (path / ".scratch").mkdir(exist_ok=True)
            write_json(entry_path(path, expert.name), {"files": mine}, path / ".scratch" / ".entry")
        put_records(path, joined(records), {})
        shutil.rmtree(path / ".scratch")
    pool.sketches()  # those that an interrupted run left out
    return (time.perf_counter() - start) / max(1, experts - held)


def batched(numbers: range, size: int) -> Iterator[range]:
    return (numbers[start : start + size] for start in range(0, len(numbers), size))


def all_compared(path: Path, queries: Sequence[TaskEmbedding]) -> list[list[str]]:
    """The names of the K nearest of each query, by reading and comparing all."""
    best: list[list[tuple[float, str]]] = [[] for _ in queries]
    names, order = list(Pool(path)), Order(queries[0].components)
    for part in batched(range(len(names)), 16):  # as many as stay in the cache
        mine = [names[number] for number in part]
        files = {name: path / name / "embedding.safetensors" for name in mine}
        others = [order.values(file.read_bytes(), file) for file in files.values()]
        for query, ranked in zip(queries, best, strict=True):
            found = flat_similarities(order.flat(query.components), others, order.sizes).tolist()
            ranked += [(-one, name) for one, name in zip(found, mine, strict=True)]
            ranked[:] = sorted(ranked)[:K]
    return [[name for _, name in ranked] for ranked in best]


def drawn_queries(world: World, queries: int) -> list[tuple[Expert, TaskEmbedding]]:
    """Experts that no pool holds: even ones of new families, odd ones of families in the pool."""
    drawn, one = [], template(world)
    for number in range(queries):
        family = None if number % 2 else world.families + number
        expert = one.renamed(f"query{number}")
        drawn.append((expert, embedding_of(world.expert(10**8 + number, family), expert)))
    return drawn


def prepare(path: Path, world: World, experts: int, queries: int) -> list[list[str]]:
    """The pool, and the names that `all_compared` finds in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    making = grow(path, world, experts)
    print(f"{path.name}: made in {1e3 * making:.1f} ms each", flush=True)
    answers = path.with_suffix(f".{queries}.json")
    if not answers.exists():
        found = all_compared(path, [embedding for _, embedding in drawn_queries(world, queries)])
        answers.write_text(json.dumps(found))
    right: list[list[str]] = json.loads(answers.read_text())
    return right


def measure(path: Path, world: World, wanted: Sequence[Sequence[str]]) -> dict[str, Any]:
    """One pool as it lies."""
    pool, one, targets = Pool(path), template(world), drawn_queries(world, len(wanted))
    start = time.perf_counter()
    all_compared(path, [targets[0][1]])
    brute = time.perf_counter() - start

    start = time.perf_counter()
    around = neighborhood_of(Pool(path))
    opening = time.perf_counter() - start
    found, seconds = [], []
    for expert, embedding in [targets[0], *targets]:  # the first of each layout sorts the sketches
        start = time.perf_counter()
        refused = around.refusals(expert, embedding, "parameters")
        neighbors = around.nearest(embedding, K, space="parameters", without=refused)
        seconds.append(time.perf_counter() - start)
        found.append([neighbor.name for neighbor in neighbors])
    recalls = [len({*mine} & {*best}) / K for mine, best in zip(found[1:], wanted, strict=True)]
    new, old = recalls[::2], recalls[1::2]

    adding, embedding = [], targets[1][1]
    for number in range(20):
        expert = one.renamed(f"added{number}")
        mine = replace(embedding, task=expert.name)
        start = time.perf_counter()
        pool.add(expert, mine)
        adding.append(time.perf_counter() - start)
    for number in range(20):
        pool.remove(f"added{number}")
    files = [file.stat().st_size for file in (path / ".sketches").iterdir()]
    return {
        "experts": len(pool),
        "numbers": sum(t.numel() for t in embedding.components.values()),
        "queries": len(wanted),
        "recall@10": round(statistics.mean(recalls), 4),
        "recall@10, task in the pool": round(statistics.mean(old), 4),
        "recall@10, new task": round(statistics.mean(new), 4),
        "opening s": round(opening, 3),
        "first query ms": round(1e3 * seconds[0], 1),
        "median query ms": round(1e3 * statistics.median(seconds[1:]), 1),
        "p95 query ms": round(1e3 * statistics.quantiles(seconds[1:], n=20)[-1], 1),
        "all compared s": round(brute, 2),
        "sketch bytes an expert": round(sum(files) / len(pool)),
        "add ms": round(1e3 * statistics.median(adding), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experts", type=int, nargs="+", default=[1_000, 3_000, 10_000, 30_000, 100_000])
    parser.add_argument("--numbers", type=int, default=4096, help="of an embedding")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--prepare", action="store_true", help="measure nothing")
    options = parser.parse_args()
    done = json.loads(options.out.read_text())["pools"] if options.out.exists() else []
    for experts in sorted(options.experts):
        asked = {"asked numbers": options.numbers, "experts": experts, "queries": options.queries}
        if not options.prepare and any(asked.items() <= one.items() for one in done):
            continue
        world = World(options.numbers, families=max(1, experts // FAMILY))
        path = WORK / f"{options.numbers}-{experts}"
        wanted = prepare(path, world, experts, options.queries)
        if options.prepare:
            continue
        found = {"asked numbers": options.numbers, **measure(path, world, wanted)}
        print(json.dumps(found, indent=1), flush=True)
        found |= {"load": os.getloadavg()[0], "threads": torch.get_num_threads()}
        done = sorted([*done, found], key=lambda one: (one["numbers"], one["experts"]))
        options.out.write_text(json.dumps({"pools": done, **provenance()}, indent=1) + "\n")


if __name__ == "__main__":
    main()

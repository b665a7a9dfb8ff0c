"""The exact similarities of all pairs of 1,000 experts of a real shape: LoRA of MiniLM, 73,728 numbers each.

    python benchmarks/graph.py

`largest difference`: from the similarity of one pair at a time in float64, of 200 pairs.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from retrieval import FAMILY, World, embedding_of, template

from pituning.predict import TaskGraph, similarity
from pituning.provenance import provenance

EXPERTS, NUMBERS, CHECKED = 1_000, 73_728, 200
RESULTS = Path(__file__).parent / "results" / "graph.json"


def main() -> None:
    world = World(NUMBERS, families=EXPERTS // FAMILY)
    one = template(world)
    named = [one.renamed(f"e{number}") for number in range(EXPERTS)]
    embeddings = [embedding_of(world.expert(number), expert) for number, expert in enumerate(named)]
    start = time.perf_counter()
    matrix = TaskGraph(embeddings).similarity
    seconds = time.perf_counter() - start
    draw = torch.Generator().manual_seed(0)
    pairs = torch.randint(EXPERTS, (CHECKED, 2), generator=draw).tolist()
    apart = [
        abs(float(matrix[a, b]) - similarity(embeddings[a].components, embeddings[b].components))
        for a, b in pairs
    ]
    found = {
        "experts": EXPERTS,
        "numbers": sum(t.numel() for t in embeddings[0].components.values()),
        "seconds": round(seconds, 1),
        "pairs": EXPERTS * (EXPERTS - 1) // 2,
        "largest difference": max(apart),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(found, indent=1))
    RESULTS.write_text(json.dumps({**found, **provenance()}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Would a vector index find the sketches to look at faster than our scan of all? Side by side, on one core.

    pip install faiss-cpu
    python benchmarks/retrieval.py --experts 100000 --prepare
    python benchmarks/retrieval_index.py

Each is asked for the 384 nearest sketches of a pool of 100,000, which `nearest` begins with; `found` is
how many of the right ten experts are among them. An index knows no unknown values: they are zeros for it.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from retrieval import FAMILY, WORK, World, drawn_queries

from pituning.manifest import names_in
from pituning.neighborhood.sketched import SHORTLIST
from pituning.predict.sketch import SIZE, UNKNOWN, Sketches, sketch
from pituning.provenance import provenance
from pituning.sketches import name_key, read_records

EXPERTS, NUMBERS, QUERIES = 100_000, 4096, 200
RESULTS = Path(__file__).parent / "results" / "retrieval_index.json"


def indices() -> dict[str, Callable[[], Any]]:
    """Name -> an empty index of faiss."""

    def hnsw() -> Any:
        index = faiss.IndexHNSWFlat(SIZE, 32)
        index.hnsw.efConstruction, index.hnsw.efSearch = 100, SHORTLIST
        return index

    def inverted() -> Any:
        index = faiss.index_factory(SIZE, "IVF1024,SQ8")
        index.nprobe = 64
        return index

    return {
        "faiss flat, float32": lambda: faiss.IndexFlatL2(SIZE),
        "faiss IVF1024 SQ8, 64 probes": inverted,
        f"faiss HNSW32, efSearch {SHORTLIST}": hnsw,
    }


def main() -> None:
    faiss.omp_set_num_threads(1)
    world = World(NUMBERS, families=EXPERTS // FAMILY)
    path = WORK / f"{NUMBERS}-{EXPERTS}"
    names = {name_key(name): name for name in names_in(path)}
    records = read_records(path)
    experts = [names[key] for key in records["name"].tolist()]
    wanted = json.loads(path.with_suffix(f".{QUERIES}.json").read_text())
    queries = [sketch(embedding.components) for _, embedding in drawn_queries(world, QUERIES)]
    values = np.ascontiguousarray(records["sketch"])

    start = time.perf_counter()
    sketches = Sketches(values)
    found = [("ours", time.perf_counter() - start, lambda one: sketches.nearest(one, SHORTLIST)[0])]
    plain = np.where(values == UNKNOWN, 0, values).astype(np.float32)
    for name, make in indices().items():
        start = time.perf_counter()
        index = make()
        if not index.is_trained:
            index.train(plain[:: len(plain) // 50_000])
        index.add(plain)
        making = time.perf_counter() - start

        def ask(one: np.ndarray, index: Any = index) -> np.ndarray:
            return index.search(np.where(one == UNKNOWN, 0, one).astype(np.float32)[None], SHORTLIST)[1][0]

        found.append((name, making, ask))
        print(name, round(making, 1), flush=True)

    rows = []
    for name, making, ask in found:
        seconds, shares = [], []
        for one, right in zip(queries, wanted, strict=True):
            start = time.perf_counter()
            nearest = ask(one)
            seconds.append(time.perf_counter() - start)
            shares.append(len({experts[row] for row in nearest if row >= 0} & {*right}) / len(right))
        rows.append(
            {
                "index": name,
                "made s": round(making, 2),
                "median query ms": round(1e3 * statistics.median(seconds), 2),
                "found": round(statistics.mean(shares), 4),
            }
        )
        print(rows[-1], flush=True)
    RESULTS.write_text(
        json.dumps({"rows": rows, "faiss": faiss.__version__, **provenance()}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()

"""Build a pool on a Ray cluster of two nodes and kill one in the middle: all experts must arrive, the same.

    python benchmarks/ray_build.py [--tasks N] [--kill-after N] [--epochs N] [--out FILE]

Tiny tasks and a tiny sentence encoder, by the command itself: once with the default engine, once with
`--engine ray` on two nodes of one CPU each (127.0.0.1). When `--kill-after` experts are in the pool and both
nodes are at work, all processes of the second node are killed. Compared is every file of both pools, byte for
byte. The seconds say what a lost node costs here; they are no measure of speed, as tasks so small are shorter
than the start of a worker.

Results: `results/ray_build.json`; the exit code is 1 where an expert is missing or differs, or no task was
begun again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pituning.pool import Pool
from pituning.provenance import provenance

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cli"))
import tiny
from command import INSTALLED, tree, write_task
from ray_cluster import LOOPBACK, two_nodes

RESULTS = Path(__file__).parent / "results" / "ray_build.json"


def started(root: Path, pool: Path, *options: str) -> subprocess.Popen[str]:
    """`pool build` of all tasks, in one thread."""
    tasks = [str(folder) for folder in sorted((root / "tasks").iterdir())]
    given = ("--backbone", str(root / "bert"), "--recipe", str(root / "recipe.yaml"), "--json", *options)
    command = [str(INSTALLED), "pool", "build", str(pool), *tasks, *given]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | LOOPBACK)


def ended(running: subprocess.Popen[str]) -> dict[str, Any]:
    """Its answer."""
    out, _ = running.communicate(timeout=1800)
    if running.returncode:
        raise RuntimeError(f"exit code {running.returncode}: {out}")
    return dict(json.loads(out))


def wait(pool: Path, experts: int, running: subprocess.Popen[str]) -> None:
    """Until so many experts are there, and both nodes have one in training."""
    while len([*pool.glob("t*")]) < experts or len([*pool.glob(".work-t*")]) < 2:
        if running.poll() is not None:
            raise RuntimeError("the build ended before a node was killed")
        time.sleep(0.01)


def unequal(pool: Path, other: Path) -> list[str]:
    """Files that are not in both, byte for byte."""
    one, two = ({str(Path(p).relative_to(root)): h for p, h in tree(root).items()} for root in (pool, other))
    return sorted(name for name in one | two if one.get(name) != two.get(name))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=12, help="default 12")
    parser.add_argument("--kill-after", type=int, default=4, help="experts in the pool (default 4)")
    parser.add_argument("--epochs", type=int, default=5, help="of each expert (default 5)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tiny.save("bert", root / "bert")
        (root / "recipe.yaml").write_text(f"train: {{epochs: {options.epochs}, batch_size: 8}}")
        for number in range(options.tasks):
            write_task(root / "tasks" / f"t{number:02}", number)
        whole, pool = root / "whole", root / "pool"
        single = ended(started(root, whole))
        with two_nodes() as cluster:
            start = time.perf_counter()
            running = started(root, pool, "--engine", "ray", "--address", cluster.address)
            wait(pool, options.kill_after, running)
            at = time.perf_counter() - start
            there = len([*pool.glob("t*")])
            cluster.kill_node()
            many = ended(running)
            seconds = time.perf_counter() - start
        result: dict[str, Any] = {
            "tasks": options.tasks,
            "epochs": options.epochs,
            "experts when the node was killed": there,
            "built": len(many["built"]),
            "retries": many["retries"],
            "unequal files": unequal(whole, pool),
            "faults": Pool(pool).verify(),
            "seconds": {
                "default engine": single["seconds"],
                "ray": many["seconds"],
                "ray, with start and connection": round(seconds, 1),
                "until the node was killed": round(at, 1),
            },
            "ray": version("ray"),
            **provenance(),
        }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    good = result["built"] == options.tasks and result["retries"] >= 1
    return int(not good or bool(result["unequal files"] or result["faults"]))


if __name__ == "__main__":
    sys.exit(main())

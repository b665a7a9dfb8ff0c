"""Kill writers of a pool at random moments, and let many write at once: nothing finished may be lost.

    python benchmarks/pool_crash.py [--edits N] [--builds N] [--writers N] [--each N] [--seed N] [--out FILE]

- Edits: a process adds, replaces, embeds and removes experts of one pool, and says in a journal what it
  starts and what it has finished; SIGKILL stops it after 2 to 60 ms. The pool must then open and hold exactly
  what was finished, the last change that was started done or not; after `repair`, which every second kill is
  followed by, `verify` must find nothing.
- Builds: a process trains and embeds tiny experts with `build_pool`; SIGKILL stops it after up to one second.
  No expert may be gone after, and the pools that were built in pieces must equal one built in one go.
- Writers: processes that each add experts of their own to one pool, all at once. All must be there.

All processes are forks of this one, which has imported what they need. Results: `results/pool_crash.json`;
the exit code is 1 where something was lost.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import nn
from tqdm import tqdm

from pituning.backbones import Backbone, load_backbone
from pituning.building import build_pool
from pituning.expert import Expert, ExpertCard, attach, initialisation_of, saved_tensors
from pituning.foundation import Frozen
from pituning.manifest import SCRATCH
from pituning.pool import Pool
from pituning.predict import TaskEmbedding
from pituning.provenance import provenance
from pituning.store import QUARANTINE
from pituning.task import Task
from pituning.train import TrainConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import tiny

RESULTS = Path(__file__).parent / "results" / "pool_crash.json"
NAMES = ("a", "b", "c", "d", "e", "f")

# Name -> version of the expert, and whether it is embedded.
State = dict[str, tuple[int, bool]]


def template() -> Expert:
    """A LoRA adapter of one small layer."""
    backbone = Frozen(nn.Sequential(nn.Linear(16, 16)))
    model = attach(backbone, LoraConfig(r=2, target_modules=["0"]), seed=0)
    start = initialisation_of(model)
    card = ExpertCard(name="", task="", backbone=backbone.fingerprint, initialisation=start)
    return Expert(card, model.peft_config["default"], saved_tensors(model))


def version_of(base: Expert, name: str, version: int) -> Expert:
    """The adapter whose every value is `version`."""
    tensors = {tensor: torch.full_like(values, version) for tensor, values in base.tensors.items()}
    return Expert(base.card, base.config, tensors).renamed(name)


def embedding_of(expert: Expert) -> TaskEmbedding:
    facts = {"data": "data", "config": "config", "source": "source", "setting": "default", "examples": 1}
    components = {name: torch.ones_like(values) for name, values in expert.tensors.items()}
    return TaskEmbedding(task=expert.name, components=components, expert=expert.digest, **facts)


def changed(state: State, change: dict[str, Any]) -> State:
    """The state after a change."""
    after = {name: held for name, held in state.items() if name != change["name"]}
    if change["what"] != "remove":
        after[change["name"]] = (change["version"], change["what"] == "embed")
    return after


def edit(pool: Pool, base: Expert, state: State, journal: Path, seed: int) -> None:
    """Change the pool for ever."""
    draw = random.Random(seed)
    with journal.open("a", buffering=1) as log:
        for number in range(10**6):
            name, version = draw.choice(NAMES), seed * 1000 + number % 1000
            what = draw.choice(("add", "add", "embed", "remove") if name in state else ("add",))
            version = state[name][0] if what == "embed" else version
            change = {"what": what, "name": name, "version": version}
            log.write(json.dumps(change) + "\n")
            expert = version_of(base, name, version)
            if what == "add":
                pool.add(expert, replace=name in state)
            elif what == "embed":
                pool.add_embedding(name, embedding_of(expert))
            else:
                pool.remove(name)
            log.write("done\n")
            state = changed(state, change)


def fork(work: Callable[[], None]) -> int:
    """A process that does the work and nothing else."""
    child = os.fork()
    if child:
        return child
    tqdm.set_lock(threading.RLock())  # the usual one is of all processes, and one that is killed may hold it
    try:
        work()
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
    os._exit(1)


def killed(child: int, after: float) -> bool:
    """Whether the process was still at work when it was killed."""
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def holds(pool: Pool) -> State:
    """What can be read, all of it checked against its hashes."""
    found = {}
    for name in pool:
        values = torch.cat([tensor.flatten() for tensor in pool.get(name).tensors.values()]).unique()
        if len(values) != 1:
            raise ValueError(f"{name} is of two versions")
        found[name] = (int(values), pool.has_embedding(name))
        if pool.has_embedding(name):
            pool.embedding(name)
    return found


def kill_edits(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill after kill of one pool's writers."""
    draw, base, path = random.Random(seed), template(), folder / "edits"
    Pool.create(path)
    state: State = {}
    found: dict[str, Any] = {
        "kills": 0,
        "in the middle of a change": 0,
        "changes": 0,
        "lost": [],
        "faults": [],
    }
    while found["kills"] < kills:
        journal = folder / f"journal-{found['kills']}"
        journal.touch()
        number = found["kills"] + 1
        child = fork(partial(edit, Pool(path), base, state, journal, number))
        if not killed(child, draw.uniform(0.002, 0.06)):
            raise RuntimeError("a writer ended by itself")
        found["kills"] += 1
        found["in the middle of a change"] += (path / SCRATCH).exists()
        pending = None
        for line in journal.read_text().splitlines():
            if line == "done" and pending is not None:
                state, pending = changed(state, pending), None
                found["changes"] += 1
            elif line.endswith("}"):
                pending = json.loads(line)
        possible = [state] if pending is None else [state, changed(state, pending)]
        state = holds(Pool(path))
        if state not in possible:
            found["lost"].append({"kill": number, "held": state, "possible": possible})
        if number % 2 == 0 or number == kills:
            Pool(path).repair()
            found["faults"] += [*Pool(path).verify(), *quarantined(path)]
    return found


def quarantined(path: Path) -> list[str]:
    """What `repair` moved out of the way: where nothing is damaged, nothing."""
    return [left.name for left in (path / QUARANTINE).glob("*")]


def kill_builds(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill builds of tiny pools, each started again until it is whole."""
    draw = random.Random(seed)
    backbone = load_backbone(tiny.save("bert", folder / "bert"), device="cpu")
    tasks = [tiny.text_task(index, classes=2, train=24, validation=8) for index in range(4)]
    whole = folder / "whole"
    os.waitpid(fork(partial(build, whole, backbone, tasks)), 0)
    found: dict[str, Any] = {"kills": 0, "pools": 0, "lost": [], "faults": [], "unequal": []}
    while found["kills"] < kills:
        path = folder / f"build-{found['pools']}"
        names: set[str] = set()
        ended = False
        while not ended:
            child = fork(partial(build, path, backbone, tasks))
            if found["kills"] < kills:
                ended = not killed(child, draw.uniform(0, 1))
                found["kills"] += not ended
            else:
                ended = os.waitpid(child, 0)[1] == 0
            now = set(holds_names(path))
            found["lost"] += sorted(names - now)
            names = now
            if names and draw.random() < 0.5:
                Pool(path).repair()
                found["faults"] += Pool(path).verify()
        Pool(path).repair()
        found["faults"] += [*Pool(path).verify(), *quarantined(path)]
        found["faults"] += [left.name for left in path.glob(".work-*")]
        found["unequal"] += unequal(Pool(path), Pool(whole))
        found["pools"] += 1
    return found


def build(path: Path, backbone: Backbone, tasks: list[Task]) -> None:
    config = TrainConfig(epochs=2, batch_size=8)
    build_pool(Pool.create(path), backbone, tasks, config)


def holds_names(path: Path) -> list[str]:
    """The experts of a pool that may not have been made yet, each read."""
    return [Pool(path).get(name).name for name in Pool(path)] if (path / "pool.json").exists() else []


def unequal(pool: Pool, other: Pool) -> list[str]:
    """Experts of one pool that are not in the other, bit for bit."""
    both = {*pool, *other}
    return sorted(
        name
        for name in both
        if name not in pool
        or name not in other
        or pool.get(name).digest != other.get(name).digest
        or pool.embedding(name).to_bytes() != other.embedding(name).to_bytes()
    )


def write_at_once(folder: Path, writers: int, each: int) -> dict[str, Any]:
    """Many processes, one pool."""
    base, path = template(), folder / "writers"

    def write(writer: int) -> None:
        pool = Pool.create(path)  # all make it at the same time, too
        for number in range(each):
            pool.add(version_of(base, f"{writer}-{number}", number))

    start = time.perf_counter()
    children = [fork(partial(write, writer)) for writer in range(writers)]
    failed = sum(os.waitpid(child, 0)[1] != 0 for child in children)
    seconds = time.perf_counter() - start
    pool = Pool(path)
    wanted = {f"{writer}-{number}": (number, False) for writer in range(writers) for number in range(each)}
    there = holds(pool)
    missing = sorted(name for name, held in wanted.items() if there.get(name) != held)
    return {
        "writers": writers,
        "experts": len(there),
        "failed": failed,
        "missing": missing,
        "faults": pool.verify(),
        "seconds": round(seconds, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--edits", type=int, default=160, help="kills of writers that edit (default 160)")
    parser.add_argument("--builds", type=int, default=40, help="kills of writers that build (default 40)")
    parser.add_argument("--writers", type=int, default=8, help="processes at once (default 8)")
    parser.add_argument("--each", type=int, default=50, help="experts of each (default 50)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        result: dict[str, Any] = {
            "edits": kill_edits(root, options.edits, options.seed),
            "builds": kill_builds(root, options.builds, options.seed),
            "writers": write_at_once(root, options.writers, options.each),
            "seed": options.seed,
            **provenance(),
        }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    parts = [result[part] for part in ("edits", "builds", "writers")]
    print(json.dumps(parts, indent=1))
    bad = ("lost", "faults", "unequal", "missing", "failed")
    return int(any(part.get(key) for part in parts for key in bad))


if __name__ == "__main__":
    sys.exit(main())

"""Two processes under a launcher end with what one ends with, say it once and write it once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command import Outcome, call, outcome_of, started, tree, wait_for, write_task
from conftest import World
from safetensors.torch import load_file

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="two processes need two GPUs, or none"),
]

BIN = Path(sys.executable).parent
TORCHRUN = (BIN / "torchrun", "--standalone", "--nproc-per-node", 2)
ACCELERATE = (BIN / "accelerate", "launch", "--cpu", "--num_processes", 2, "--num_machines", 1)
ACCELERATE += ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", 0)

# 24 examples: batches of 4 and 3, and at last one of 3, as 1 and 2. All the backbones have dropout.
UNEVEN = ("--epochs", 3, "--batch-size", 7, "--patience", 0, "--json")


def launched(*command: object) -> subprocess.Popen[str]:
    return started(*command, start_new_session=True)


def together(launcher: tuple[object, ...], *arguments: object) -> Outcome:
    return outcome_of(launched(*launcher, "-m", "pituning", *arguments))


def assert_same_adapter(one: Path, two: Path) -> None:
    a, b = (load_file(folder / "adapter_model.safetensors") for folder in (one, two))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "launcher", "options"),
    [
        ("t5", TORCHRUN, ()),
        ("bert_classifier", TORCHRUN, ("--max-grad-norm", 0.01)),
        ("bert", TORCHRUN, ("--gradient-checkpointing",)),
        ("llama", ACCELERATE, ("--accumulate", 2)),
    ],
)
def test_two_processes_train_the_expert_of_one(
    kind: str,
    launcher: tuple[object, ...],
    options: tuple[object, ...],
    folder_of: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    task = write_task(tmp_path / "tasks" / "target", seed=3)
    fixed = ("train", task, "--backbone", folder_of(kind), *UNEVEN, *options, "--pool")
    one, two = call(*fixed, tmp_path / "one"), together(launcher, *fixed, tmp_path / "two")
    assert (two.code, two.complaint) == (0, "")
    assert two.document == one.document | {"pool": str(tmp_path / "two")}
    assert two.document["best_epoch"] > 0
    assert_same_adapter(tmp_path / "one" / "target", tmp_path / "two" / "target")
    cards = [json.loads((tmp_path / pool / "target" / "expert.json").read_text()) for pool in ("one", "two")]
    for a, b in zip(*(card["history"] for card in cards), strict=True):
        assert b == pytest.approx(a, abs=1e-4)
    names = [sorted(p.name for p in (tmp_path / pool).rglob("*.*")) for pool in ("one", "two")]
    assert names[0] == names[1]
    assert call("pool", "verify", tmp_path / "two").code == 0


@pytest.mark.parametrize("checked", [False, True])
def test_two_processes_tune_the_adapter_of_one(checked: bool, world: World, tmp_path: Path) -> None:
    task = write_task(tmp_path / "tasks" / "target", seed=3)
    if not checked:
        (task / "validation.jsonl").unlink()  # the last state is kept, whatever it is like
    before = tree(world.root)
    fixed = ("tune", task, "--backbone", world.backbone, "--pool", world.pool, "-k", 2, *UNEVEN)
    fixed += ("--expert-epochs", 2, "--expert-batch-size", 5, "--learning-rate", 0.01, "--out")
    one, two = call(*fixed, tmp_path / "one"), together(ACCELERATE, *fixed, tmp_path / "two")
    assert (two.code, two.complaint) == (0, "")
    assert two.err.count("interpolate: tuning") == 1  # the first process alone tells how far it is
    assert checked or two.document["kept"] == "mixture"
    for key in ("kept", "neighbors", "weights", "scores", "validation", "lead"):
        assert json.dumps(rounded(two.document[key])) == json.dumps(rounded(one.document[key])), key
    assert max(two.document["weights"].values()) > 0.34  # not where they started
    assert_same_adapter(tmp_path / "one", tmp_path / "two")
    assert tree(world.root) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "tasks", "two"]


def rounded(document: object) -> object:
    return json.loads(json.dumps(document), parse_float=lambda text: round(float(text), 4))


def test_a_mistake_ends_both_with_one_message(world: World) -> None:
    before = tree(world.root)
    taken = ("train", world.task("a"), "--backbone", world.backbone, "--pool", world.pool)
    outcome = together(TORCHRUN, *taken)
    assert (outcome.code, outcome.out) == (1, "")  # the launcher's own
    assert outcome.err.count("error: a name is used once in a pool; given: 'a' is taken") == 1
    assert outcome.err.count("error:") == 1
    assert "exitcode  : 2" in outcome.err  # the launcher may end the other one before it has said so
    assert tree(world.root) == before


def test_control_c_stops_both_and_both_resume(world: World, tmp_path: Path) -> None:
    fixed = ("train", world.task(), "--backbone", world.backbone, "--epochs", 25, "--patience", 0)
    fixed += ("--batch-size", 7, "--json", "--pool")
    checkpoint = tmp_path / "two" / ".work-target" / "checkpoint.safetensors"
    running = launched(*TORCHRUN, "-m", "pituning", *fixed, tmp_path / "two")
    wait_for(checkpoint.exists, running)
    first = checkpoint.stat().st_ino
    wait_for(lambda: checkpoint.exists() and checkpoint.stat().st_ino != first, running)
    os.killpg(running.pid, signal.SIGINT)
    stopped = outcome_of(running)
    assert stopped.out == ""
    assert stopped.err.count("interrupted; no result was written.") == 1
    assert "error: " not in stopped.err
    resumed = together(TORCHRUN, *fixed, tmp_path / "two", "--resume")
    assert (resumed.code, resumed.complaint) == (0, "")
    assert call(*fixed, tmp_path / "one").code == 0
    assert_same_adapter(tmp_path / "one" / "target", tmp_path / "two" / "target")
    assert not checkpoint.parent.exists()


def test_a_group_of_ones_own_trains_the_expert_of_one(world: World, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            from pathlib import Path

            import torch.distributed as dist

            from pituning import TrainConfig, load_backbone, load_task, train_expert

            dist.init_process_group("gloo")
            task, backbone, out = sys.argv[1:]
            config = TrainConfig(epochs=3, batch_size=7, patience=0)
            expert = train_expert(load_backbone(backbone), load_task(task), config, name="target")
            expert.save(Path(out) / str(dist.get_rank()))
            dist.barrier()
            try:
                train_expert(load_backbone(backbone), load_task(task), TrainConfig(seed=dist.get_rank()))
            except ValueError as error:
                print(error)
            dist.destroy_process_group()
            """
        )
    )
    given = (world.task(), world.backbone, tmp_path)
    outcome = outcome_of(launched(*TORCHRUN, script, *given))
    assert outcome.code == 0, outcome
    assert outcome.out.count("processes that train together have the same data, model and options") == 2
    one = ("train", world.task(), "--backbone", world.backbone, "--pool", tmp_path / "pool", *UNEVEN)
    assert call(*one).code == 0
    for rank in "01":
        assert_same_adapter(tmp_path / "pool" / "target", tmp_path / rank)

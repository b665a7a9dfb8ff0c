"""A run that is stopped loses nothing and leaves nothing half-written."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from command import Outcome, call, outcome_of, process, tree, wait_for
from conftest import World

from pituning.places import alone_in

pytestmark = pytest.mark.slow

# Some seconds of training: long enough to be stopped in the middle.
LONG = ("--epochs", 25, "--patience", 0, "--batch-size", 8)
FILES = ("adapter_model.safetensors", "adapter_config.json")


def training(world: World, pool: Path) -> tuple[object, ...]:
    return ("train", world.task(), "--backbone", world.backbone, "--pool", pool, *LONG, "--json")


def tuning(world: World, out: Path, *expert: object) -> tuple[object, ...]:
    fixed = ("--backbone", world.backbone, "--pool", world.pool, "--out", out, "-k", 2, "--shots", 4)
    return ("tune", world.task(), *fixed, *LONG, *expert, "--json")


def stopped_after_an_epoch(
    arguments: tuple[object, ...], checkpoint: Path, number: signal.Signals
) -> Outcome:
    """Send the signal once the checkpoint has been written a second time: after the first epoch."""
    running = process(*arguments)
    wait_for(checkpoint.exists, running)
    first = checkpoint.stat().st_ino
    wait_for(lambda: checkpoint.exists() and checkpoint.stat().st_ino != first, running)
    running.send_signal(number)
    return outcome_of(running)


def contents(folder: Path) -> list[bytes]:
    return [(folder / file).read_bytes() for file in FILES]


def test_killed_train_resumes_to_the_same_expert(world: World, tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    checkpoint = killed / ".work-target" / "checkpoint.safetensors"
    outcome = stopped_after_an_epoch(training(world, killed), checkpoint, signal.SIGKILL)
    assert outcome.code == -signal.SIGKILL
    assert call("pool", "list", killed, "--json").document["experts"] == []
    resumed = outcome_of(process(*training(world, killed), "--resume"))
    assert (resumed.code, resumed.complaint) == (0, "")
    assert "going on after epoch" in resumed.err
    assert call(*training(world, whole)).code == 0
    assert contents(killed / "target") == contents(whole / "target")
    assert call("pool", "verify", killed).code == 0
    assert not checkpoint.parent.exists()


def test_a_run_into_the_place_of_another_is_refused_at_once(world: World, tmp_path: Path) -> None:
    work = tmp_path / "new" / ".out.work"
    with alone_in(work):
        outcome = outcome_of(process(*tuning(world, tmp_path / "new" / "out")))
        assert (outcome.code, outcome.out) == (2, "")
        assert (
            f"two runs must not write into one place; given: another has its checkpoints in {work}"
            in outcome.err
        )
        assert work.exists()
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("stage", ["expert", "mixture"])
def test_killed_tune_resumes_to_the_same_adapter(stage: str, world: World, tmp_path: Path) -> None:
    before = tree(world.root)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    few = ("--expert-epochs", 25 if stage == "expert" else 2, "--expert-patience", 0)
    checkpoint = tmp_path / ".killed.work" / stage / "checkpoint.safetensors"
    outcome = stopped_after_an_epoch(tuning(world, killed, *few), checkpoint, signal.SIGKILL)
    assert outcome.code == -signal.SIGKILL
    assert not killed.exists()
    resumed = call(*tuning(world, killed, *few), "--resume")
    assert (resumed.code, resumed.complaint) == (0, "")
    uninterrupted = call(*tuning(world, whole, *few))
    for key in ("scores", "weights", "neighbors", "validation", "lead", "kept"):
        assert resumed.document[key] == uninterrupted.document[key]
    assert contents(killed) == contents(whole)
    assert tree(world.root) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]


def test_control_c_while_training_leaves_the_pool_as_it_was(world: World, pool: Path) -> None:
    work = pool / ".work-target"
    before = tree(pool)
    outcome = stopped_after_an_epoch(training(world, pool), work / "checkpoint.safetensors", signal.SIGINT)
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.complaint.startswith("interrupted; no result was written. Checkpoints")
    assert {path: held for path, held in tree(pool).items() if work.name not in path} == before
    assert call("pool", "verify", pool).code == 0


def test_control_c_while_tuning_writes_no_adapter(world: World, tmp_path: Path) -> None:
    before = tree(world.root)
    checkpoint = tmp_path / ".out.work" / "mixture" / "checkpoint.safetensors"
    few = ("--expert-epochs", 1)
    outcome = stopped_after_an_epoch(tuning(world, tmp_path / "out", *few), checkpoint, signal.SIGINT)
    assert (outcome.code, outcome.out) == (130, "")
    assert "Traceback" not in outcome.err
    assert "--resume" in outcome.err
    assert not (tmp_path / "out").exists()
    assert tree(world.root) == before


def test_sigterm_ends_as_control_c_does(world: World, tmp_path: Path) -> None:
    checkpoint = tmp_path / ".out.work" / "expert" / "checkpoint.safetensors"
    outcome = stopped_after_an_epoch(tuning(world, tmp_path / "out"), checkpoint, signal.SIGTERM)
    assert (outcome.code, outcome.out) == (143, "")
    assert outcome.complaint.startswith("interrupted; no result was written.")
    assert "Traceback" not in outcome.err


def test_control_c_while_loading_has_no_traceback(world: World) -> None:
    running = process("predict", world.task("a"), "--pool", world.pool)
    maps = Path("/proc") / str(running.pid) / "maps"
    wait_for(lambda: "libtorch" in maps.read_text(), running)  # importing
    running.send_signal(signal.SIGINT)
    outcome = outcome_of(running)
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.err == "interrupted; nothing half-written was left.\n"

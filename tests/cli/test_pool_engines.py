"""The engines of `pool build` make the same experts, in whatever order and whatever is lost on the way."""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import tiny
from command import Outcome as Answer
from command import call, outcome_of, process, tree, wait_for, write_task
from conftest import World
from filelock import FileLock
from ray_cluster import LOOPBACK, two_nodes

from pituning.backbones import Backbone
from pituning.building import BuildError, Built, Outcome, Outcomes, Plan, add_expert, build_expert, build_pool
from pituning.errors import PituningError, PoolError
from pituning.pool import Pool
from pituning.ray_engine import ray_engine
from pituning.store import LOCK, WORK
from pituning.task import Task
from pituning.train import TrainConfig

SHORT = TrainConfig(epochs=1, batch_size=8)


def backwards(plan: Plan, progress: bool) -> Outcomes:
    """An engine that finishes the tasks in another order, one of them after it was begun again."""
    for task in reversed(plan.tasks):
        build_expert(plan, task)
        build_expert(plan, task)  # what an attempt that was lost after had done stays
        yield Outcome(task.name, retries=1)


def same(one: Path, other: Path) -> bool:
    """Whether two pools hold the same files, byte for byte."""
    return [tree(one)[str(one / p.relative_to(other))] for p in sorted(other.rglob("*"))] == [
        *tree(other).values()
    ] and len(tree(one)) == len(tree(other))


def twice_at_once(call: Callable[[], object]) -> list[BaseException]:
    """What two threads that make this call end in.

    The lock is of the process and thread that holds it; training takes no global state but torch's seed.
    """
    failed: list[BaseException] = []

    def caught() -> None:
        try:
            call()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=caught) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    made = [tiny.text_task(seed, classes=2, train=16, validation=8) for seed in range(3)]
    return [dataclasses.replace(task, name=f"t{number}") for number, task in enumerate(made)]


@pytest.mark.parametrize("kind", ["bert", "bert_classifier"])
def test_order_and_pieces_of_a_build_do_not_matter(
    backbone_of: Callable[[str], Backbone], tasks: list[Task], tmp_path: Path, kind: str
) -> None:
    backbone = backbone_of(kind)
    whole, turned, pieces = (Pool.create(tmp_path / name) for name in ("whole", "turned", "pieces"))
    assert build_pool(whole, backbone, tasks, SHORT).names == ["t0", "t1", "t2"]
    built = build_pool(turned, backbone, tasks, SHORT, engine=backwards)
    assert (built.names, built.retries) == (["t0", "t1", "t2"], 3)
    for chosen in (tasks[1:2], tasks):
        build_pool(pieces, backbone, chosen, SHORT)
    assert same(whole.path, turned.path)
    assert same(whole.path, pieces.path)


def test_task_with_a_fault_does_not_stop_the_others(
    backbone_of: Callable[[str], Backbone], tasks: list[Task], tmp_path: Path
) -> None:
    bad = [dataclasses.replace(tasks[0], name="empty", train=()), *tasks[:1]]
    pool = Pool.create(tmp_path / "pool")
    with pytest.raises(BuildError, match="training needs examples; given: empty: none") as raised:
        build_pool(pool, backbone_of("bert"), bad, SHORT)
    assert (list(pool), list(raised.value.built.faults)) == (["t0"], ["empty"])
    assert [path.name for path in pool.path.glob(".work-*")] == []


def test_a_name_stands_for_one_task(
    backbone_of: Callable[[str], Backbone],
    tasks: list[Task],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool, backbone = Pool.create(tmp_path / "pool"), backbone_of("bert")
    other = dataclasses.replace(tasks[1], name="t0")
    with pytest.raises(PoolError, match="different names; given: two are called 't0'"):
        build_pool(pool, backbone, [tasks[0], other], SHORT)
    assert not list(pool)
    build_pool(pool, backbone, tasks[:1], SHORT)
    assert build_pool(pool, backbone, tasks[:1], SHORT).names == []
    assert "stays" not in caplog.text
    assert build_pool(pool, backbone, [other], SHORT).names == []
    assert "t0: the pool's expert is of other data, and stays" in caplog.text


def test_two_builds_of_one_pool_share_the_work(
    backbone_of: Callable[[str], Backbone], tasks: list[Task], tmp_path: Path
) -> None:
    pool, backbone = Pool.create(tmp_path / "pool"), backbone_of("bert")
    plan = Plan(pool, backbone, tasks[:1], SHORT, None)
    failed = twice_at_once(lambda: build_expert(plan, tasks[0]))
    assert (failed, list(pool), pool.verify()) == ([], ["t0"], [])
    assert [path.name for path in pool.path.glob(".work-*")] == []


def test_a_name_that_another_process_took_meanwhile_is_not_trained_again(
    backbone_of: Callable[[str], Backbone], tasks: list[Task], tmp_path: Path
) -> None:
    pool, backbone = Pool.create(tmp_path / "pool"), backbone_of("bert")
    failed = twice_at_once(lambda: add_expert(pool, backbone, tasks[0], SHORT))
    assert [type(error) for error in failed] == [PoolError]
    assert (list(pool), pool.verify()) == (["t0"], [])


def test_an_expert_that_learnt_nothing_is_told(
    backbone_of: Callable[[str], Backbone],
    tasks: list[Task],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = Pool.create(tmp_path / "pool")
    add_expert(pool, backbone_of("bert"), tasks[0], SHORT)
    add_expert(pool, backbone_of("bert"), tasks[1], dataclasses.replace(SHORT, epochs=0))
    told = [record.getMessage() for record in caplog.records if "no neighbour" in record.getMessage()]
    assert [message.split(":")[0] for message in told] == [n for n in pool if pool.get(n).untrained]
    assert pool.get("t1").untrained


def test_error_is_the_same_after_a_journey() -> None:
    for kind in (PituningError, PoolError):
        error = pickle.loads(pickle.dumps(kind("must", "given", "fix")))
        assert (type(error), str(error)) == (kind, "must; given: given. fix")
    error = BuildError(Built(["b"], {"a": PoolError("must", "given", "fix")}))
    assert str(pickle.loads(pickle.dumps(error))) == "must; given: a: given. fix"


MISTAKES = {
    "address without ray": (("--address", "auto"), "are those of Ray; given: --address"),
    "cpus without ray": (("--cpus", "2"), "are those of Ray; given: --cpus"),
    "no cpu": (("--engine", "ray", "--cpus", "0"), "at least 1 CPU; given: 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_leave_no_pool(mistake: str, world: World, tmp_path: Path) -> None:
    options, said = MISTAKES[mistake]
    answer = call("pool", "build", tmp_path / "new", world.task(), "--backbone", world.backbone, *options)
    assert (answer.code, said in answer.err, list(tmp_path.iterdir())) == (2, True, []), answer


def test_a_pool_is_built_of_the_method_that_is_named(world: World, tmp_path: Path) -> None:
    (tmp_path / "short.yaml").write_text("train: {epochs: 1}")
    fixed = ("--backbone", world.backbone, "--recipe", tmp_path / "short.yaml", "--method", "ia3", "--json")
    answer = call("pool", "build", tmp_path / "new", world.task(), *fixed)
    assert answer.code == 0, answer
    assert Pool(tmp_path / "new").get(answer.document["built"][0]).method == "IA3"


def test_without_ray_the_extra_is_named(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("pituning.ray_engine.find_spec", lambda name: None)
    answer = call(
        "pool", "build", tmp_path / "new", world.task(), "--backbone", world.backbone, "--engine", "ray"
    )
    assert (answer.code, list(tmp_path.iterdir())) == (2, [])
    assert "pip install 'pituning[ray]'" in answer.err


RECIPES = {
    "method": ("train: {method: lroa}", "a method is one of"),
    "range": ("train: {epochs: -1}", "epochs must be at least 0"),
    "smoothing": ("train: {label_smoothing: 0.1}", "label smoothing needs an OFA backbone"),
    "model": ("model: {no_such_dropout: 0.1}", "no_such_dropout"),
}


@pytest.mark.parametrize("fault", RECIPES)
def test_fault_of_the_recipe_leaves_no_empty_pool(fault: str, world: World, tmp_path: Path) -> None:
    content, said = RECIPES[fault]
    (tmp_path / "bad.yaml").write_text(content)
    options = ("--backbone", world.backbone, "--recipe", tmp_path / "bad.yaml")
    answer = call("pool", "build", tmp_path / "new", world.task(), *options)
    assert (answer.code, said in answer.err, (tmp_path / "new").exists()) == (2, True, False), answer


def test_command_reports_the_task_with_a_fault(world: World, tmp_path: Path) -> None:
    pool = Pool.create(tmp_path / "pool")
    (pool.path / ".work-a").touch()  # where its checkpoints should go
    (tmp_path / "short.yaml").write_text("train: {epochs: 1}")
    options = ("--backbone", world.backbone, "--recipe", tmp_path / "short.yaml", "--json")
    answer = call("pool", "build", pool.path, world.task("a"), world.task("b"), *options)
    assert (answer.code, answer.document["built"], list(pool)) == (2, ["b"], ["b"])
    assert answer.document["faults"][0].startswith("a: ")


@dataclasses.dataclass(frozen=True)
class Work:
    """Twelve tasks, and what the default engine made of them."""

    root: Path
    whole: Path

    def arguments(self, pool: Path, *options: object) -> list[object]:
        folders = sorted((self.root / "tasks").iterdir())
        recipe = ("--backbone", self.root / "bert", "--recipe", self.root / "short.yaml")
        return ["pool", "build", pool, *folders, *recipe, "--json", *options]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, folder_of: Callable[[str], Path]) -> Work:
    root = tmp_path_factory.mktemp("work")
    (root / "bert").symlink_to(folder_of("bert"))
    (root / "short.yaml").write_text("train: {epochs: 3, batch_size: 8}")
    for number in range(12):
        write_task(root / "tasks" / f"t{number:02}", number)
    made = Work(root, root / "whole")
    assert call(*made.arguments(made.whole)).code == 0
    return made


def ray_process(work: Work, pool: Path, *options: object) -> subprocess.Popen[str]:
    return process(*work.arguments(pool, "--engine", "ray", *options), env=os.environ | LOOPBACK)


@contextmanager
def held(pool: Path, *tasks: str) -> Iterator[None]:
    """Who would build these tasks waits, as for another build."""
    with ExitStack() as locks:
        for task in tasks:
            folder = pool / f"{WORK}{task}"
            folder.mkdir()
            locks.enter_context(FileLock(folder / LOCK))
        yield


@pytest.mark.slow
def test_cluster_that_loses_a_node_makes_the_same_experts(work: Work, tmp_path: Path) -> None:
    pool = Pool.create(tmp_path / "pool").path
    with two_nodes() as cluster:
        with held(pool, "t05", "t11"):
            running = ray_process(work, pool, "--address", cluster.address)
            wait_for(lambda: len([*pool.glob("t*")]) == 10 and len(cluster.tasks()) == 2, running)
            cluster.kill_node()
            wait_for(lambda: len(cluster.tasks()) == 1, running)  # its task would end all the same
        answer = outcome_of(running)
    assert answer.code == 0, answer
    assert answer.document["built"] == [f"t{number:02}" for number in range(12)]
    assert answer.document["retries"] >= 1
    assert answer.document["seconds"] > 0
    assert same(work.whole, pool)
    assert Pool(pool).verify() == []


@pytest.mark.slow
def test_ray_on_this_machine_does_only_what_is_missing(work: Work, tmp_path: Path) -> None:
    pool = Pool.create(tmp_path / "pool").path
    with held(pool, "t10"):
        interrupted = ray_process(work, pool)
        wait_for(lambda: len([*pool.glob("t*")]) >= 1, interrupted)
        interrupted.send_signal(signal.SIGINT)
        stopped = outcome_of(interrupted)
    assert (stopped.code, stopped.out) == (130, ""), stopped
    there = [*Pool(pool)]
    assert 1 <= len(there) < 12
    blocked = f"t{11:02}"
    checkpoints = pool / f".work-{blocked}"
    assert not checkpoints.exists()
    checkpoints.touch()
    faulty = outcome_of(ray_process(work, pool))
    assert (faulty.code, len(faulty.document["faults"]), len(Pool(pool))) == (2, 1, 11), faulty
    assert faulty.document["built"] == [f"t{n:02}" for n in range(11) if f"t{n:02}" not in there]
    checkpoints.unlink()
    last: Answer = outcome_of(ray_process(work, pool))
    assert (last.code, last.document["built"], last.document["engine"]) == (0, [blocked], "ray"), last
    for left in pool.glob(".work-*"):  # of one that was interrupted between its expert and this
        assert left.name.removeprefix(".work-") in there
        shutil.rmtree(left)
    assert same(work.whole, pool)


@pytest.mark.slow
@pytest.mark.enable_socket
def test_address_that_does_not_answer_is_a_mistake_in_bounded_time(work: Work, tmp_path: Path) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        answer = outcome_of(ray_process(work, tmp_path / "new", "--address", address))
    assert (answer.code, answer.out) == (2, "")
    assert "--address must be that of a Ray cluster" in answer.err
    assert not (tmp_path / "new").exists()


def test_address_that_is_none_is_a_mistake() -> None:
    with pytest.raises(PituningError, match="--address must be that of a Ray cluster"):
        ray_engine("nonsense")

"""Many experts at the same time: one Ray task each, on this machine or on a cluster.

Ray schedules the tasks, counts CPUs and GPUs, and begins a task again when its process or its node is lost.
The pool, which every node must see, is what they share: an expert is there whole or not at all.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from pituning.backbones import Backbone, load_backbone
from pituning.building import Engine, Outcome, Outcomes, Plan, build_expert
from pituning.errors import BackboneError, ConfigError, PituningError, PoolError
from pituning.expert import Expert
from pituning.foundation import dtype_name
from pituning.pool import Pool
from pituning.task import Task
from pituning.train import TrainConfig

RETRIES = 5  # of a task whose worker or node is lost, not of one that has a fault
PATIENCE = 40  # seconds in which a cluster must answer; Ray alone would try for two minutes, then end us

# Read by Ray when it is imported and when its processes start. The last one makes them listen on 127.0.0.1.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
CONNECT = {"log_to_driver": False, "logging_level": "ERROR"}


def ray_engine(address: str | None = None, *, cpus: int = 1) -> Engine:
    """An engine for `build_pool` that runs one Ray task an expert.

    Each has `cpus` CPUs, as many threads, and one GPU where the cluster has any. Experts and embeddings are
    those of the default engine, bit for bit, on the same hardware with as many threads.

    Args:
        address: of a cluster, `HOST:PORT` or `auto`; without one, Ray is started on this machine alone, and
            stopped after.
        cpus: of each task.

    Raises:
        ConfigError: Ray is not installed, `cpus` is below 1, or there is no cluster of that address.

    Example:
        >>> build_pool(pool, backbone, tasks, config, engine=ray_engine("10.0.0.1:6379"))  # doctest: +SKIP
    """
    if find_spec("ray") is None:
        raise ConfigError(
            "the engine 'ray' needs the package ray",
            "it is not installed",
            "Run: pip install 'pituning[ray]'",
        )
    if cpus < 1:
        raise ConfigError("a task has at least 1 CPU", str(cpus), "Raise --cpus.")
    if address is not None:
        _require_cluster(address)
    return partial(_on_ray, address=address, cpus=cpus)


@dataclass(frozen=True)
class _Model:
    """How a worker loads the backbone, and what it must then be."""

    name: str
    family: str
    dtype: str
    settings: tuple[tuple[str, float], ...]
    fingerprint: str

    @classmethod
    def of(cls, backbone: Backbone) -> _Model:
        dtype = dtype_name(backbone.dtype)
        settings = tuple(sorted(backbone.settings.items()))
        return cls(backbone.name, backbone.family, dtype, settings, backbone.fingerprint)


@dataclass(frozen=True)
class _Order:
    """What all workers of a build are told."""

    folder: str
    pool: str
    model: _Model
    config: TrainConfig
    like: Expert | None
    cpus: int
    gpu: bool


def _on_ray(plan: Plan, progress: bool, *, address: str | None, cpus: int) -> Outcomes:
    """The engine; progress is that of the whole, which `build_pool` shows."""
    with _connected(address) as ray:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        _require_room(ray.nodes(), cpus, gpus)
        pool, model = str(plan.pool.path.absolute()), _Model.of(plan.backbone)
        order = ray.put(_Order(os.getcwd(), pool, model, plan.config, plan.like, cpus, bool(gpus)))
        build = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(_build)
        waiting = {build.remote(order, task): task.name for task in plan.tasks}
        while waiting:
            (ended,), _ = ray.wait([*waiting], num_returns=1)
            name = waiting.pop(ended)
            try:
                yield ray.get(ended)
            except ray.exceptions.RayTaskError:  # an error of ours, as it would be in this process
                raise
            except ray.exceptions.RayError as error:
                must = "a task's process must live until its expert is in the pool"
                given = f"lost {RETRIES + 1} times, at last by {type(error).__name__}"
                fix = "Look for what ends it, such as a lack of memory (raise --cpus), and build again."
                yield Outcome(name, PoolError(must, given, fix), RETRIES)


def _build(order: _Order, task: Task) -> Outcome:
    """In a worker: one expert, unless an attempt that was lost after has put it into the pool."""
    import ray  # lazy: it is optional, and must be imported after its settings are made

    with suppress(OSError):  # paths are as where the command was given
        os.chdir(order.folder)
    torch.set_num_threads(order.cpus)
    attempt = ray._private.worker.global_worker.core_worker.get_current_task_attempt_number()
    try:
        if not Path(order.pool).is_dir():
            must, fix = "every node must see the pool's folder", "Put it on a disk that they share."
            raise PoolError(must, f"there is no {order.pool} on one", fix)
        backbone = _backbone(order.model, None if order.gpu else "cpu")
        plan = Plan(Pool(order.pool), backbone, [task], order.config, order.like)
        build_expert(plan, task)
    except PituningError as fault:
        return Outcome(task.name, fault, attempt)
    return Outcome(task.name, None, attempt)


@lru_cache(maxsize=1)  # a worker builds many experts (one alone with a GPU, which Ray gives to a new process)
def _backbone(model: _Model, device: str | None) -> Backbone:
    backbone = load_backbone(
        model.name, family=model.family, dtype=model.dtype, device=device, settings=dict(model.settings)
    )
    if backbone.fingerprint != model.fingerprint:
        raise BackboneError(
            "every node must load the same backbone",
            f"{model.name!r} with fingerprint {backbone.fingerprint[:12]}, not {model.fingerprint[:12]}",
            "Put it on a disk that they share.",
        )
    return backbone


def _require_room(nodes: list[dict[str, Any]], cpus: int, gpus: int) -> None:
    """Raise ConfigError where no node can ever run a task: Ray would wait for one to join."""
    there = [node["Resources"] for node in nodes if node["Alive"]]
    if not any(one.get("CPU", 0) >= cpus and one.get("GPU", 0) >= gpus for one in there):
        held = "; ".join(f"{one.get('CPU', 0):g} CPUs and {one.get('GPU', 0):g} GPUs" for one in there)
        must = f"a node must have the {cpus} CPUs{' and the GPU' * gpus} of a task"
        raise ConfigError(must, held, "Lower --cpus, or add a node.")


def _require_cluster(address: str) -> None:
    """Ask in a process of its own, which can be ended: Ray waits long for what does not answer.

    Raises:
        ConfigError: if there is no cluster, it does not answer, or it is of another Ray or Python.
    """
    code = f"import ray, sys; ray.init(address=sys.argv[1], **{CONNECT}); ray.shutdown()"
    try:
        with _environment(QUIET):
            done = subprocess.run(
                [sys.executable, "-c", code, address], capture_output=True, text=True, timeout=PATIENCE
            )
        reason = "" if not done.returncode else (done.stderr.strip().splitlines() or ["no answer"])[-1]
    except subprocess.TimeoutExpired:
        reason = f"no answer in {PATIENCE} s"
    if reason:
        fix = "Give the HOST:PORT that `ray start --head` printed, or `auto` on one of its nodes."
        raise ConfigError("--address must be that of a Ray cluster", f"{address!r} ({reason})", fix)


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Ray, started on this machine where there is no address; one that the caller has started is used."""
    with _environment(QUIET if address else QUIET | LOOPBACK):
        import ray  # lazy: it is optional, and must be imported after its settings are made

        if ray.is_initialized():
            yield ray
            return
        if address:
            ray.init(address=address, **CONNECT)
        else:
            ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **CONNECT)
        try:
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables that the user has not set, for as long as they are needed."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)

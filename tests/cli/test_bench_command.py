"""`pituning bench`: one JSON a run, a table of paired differences."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from command import call, tree
from conftest import SHORT, World

from pituning.bench import METHODS as ALL
from pituning.expert import Expert
from pituning.pool import Pool

METHODS = ("base", "expert", "pi", "neighbor", "ties", "weights")
FEW = ("--shots", 4, "-k", 2, *SHORT, "--expert-epochs", 1)


def test_all_runs_are_compared_with_the_targets_own_expert(world: World, tmp_path: Path) -> None:
    fixed = ("bench", world.task(), "--backbone", world.backbone, "--pool", world.pool, *FEW)
    fixed += ("--out", tmp_path / "out", "--seed", 0, 1, "--json", "--methods")
    pool = tree(world.pool)
    document = call(*fixed, *METHODS).document
    assert tree(world.pool) == pool
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"target-{method}-seed{seed}.json" for method in METHODS for seed in (0, 1)
    }
    read = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").iterdir()}
    scores = {method: [read[f"target-{method}-seed{seed}"]["score"] for seed in (0, 1)] for method in METHODS}
    for run in read.values():
        assert (run["config"]["k"], run["config"]["shots"], run["config"]["seed"]) == (2, 4, run["seed"])
        assert {"versions", "commit", "machine"} <= run.keys()
        assert ("recipe" in run) is (run["method"] != "base")  # of what was made, where that is an expert
    assert read["target-expert-seed1"]["recipe"]["seed"] == 1
    before = [read[f"target-{method}-seed0"]["before"] for method in ("base", "expert", "ties", "pi")]
    assert before[0] == 0 < before[1] <= before[2] <= before[3]
    for method, found in document["methods"].items():
        assert found["mean"] == pytest.approx(sum(scores[method]) / 2)
        assert found["runs"] == 2
        if method != "expert":
            gaps = [a - b for a, b in zip(scores[method], scores["expert"], strict=True)]
            assert found["difference"]["mean"] == pytest.approx(sum(gaps) / 2)
            assert found["difference"]["low"] is None  # of one task


def test_two_tasks_of_one_name_are_refused(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.task("b"), tmp_path / "b")
    file = tmp_path / "b" / "train.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    fixed = ("bench", world.task("b"), tmp_path / "b", "--backbone", world.backbone, "--pool", world.pool)
    outcome = call(*fixed, "--out", tmp_path / "out", "--methods", "base")
    assert outcome.code == 2
    assert "tasks have different names; given: two are called 'b'" in outcome.err


def test_what_takes_the_neighbours_data_is_refused_at_once_without(world: World, tmp_path: Path) -> None:
    fixed = ("bench", world.task(), "--backbone", world.backbone, "--pool", world.pool)
    outcome = call(*fixed, "--out", tmp_path / "out", "--methods", "base", "joint", "fisher")
    assert (outcome.code, (tmp_path / "out").exists()) == (2, False)
    for name in ("joint", "fisher"):
        assert f"{name} must have the neighbours' data, too; given: no --data" in outcome.err


def test_of_all_methods_those_are_left_out_that_cannot_be_done(
    world: World, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Expert.load(pool / "a")
    Pool(pool).add(replace(one, card=replace(one.card, name="stranger", initialisation="unknown")))
    few = {name: ALL[name] for name in ("base", "ties", "joint")}
    monkeypatch.setattr("pituning.cli.bench.METHODS", few)
    fixed = ("bench", world.task(), "--backbone", world.backbone, "--pool", pool, "--seed", 0, *FEW)
    fixed += ("--out", tmp_path / "out", "--space", "delta")
    named = call(*fixed, "--methods", "base", "ties")
    assert (named.code, (tmp_path / "out").exists()) == (2, False)
    assert "ties takes experts that began alike" in named.err
    outcome = call(*fixed)
    assert outcome.code == 0, outcome.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["target-base-seed0.json"]
    for told in ("left out: ties takes experts", "left out: joint must have the neighbours' data"):
        assert told in outcome.err


def test_what_is_there_is_not_done_again(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fixed = ("bench", world.task(), "--backbone", world.backbone, "--pool", world.pool, *FEW)
    fixed += ("--out", out, "--seed", 0, "--methods")
    assert call(*fixed, "base").code == 0
    file = out / "target-base-seed0.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"score": 0.123}))
    outcome = call(*fixed, "base", "expert")
    assert "0.1230" in outcome.out
    assert "seed 0 expert: " in outcome.err
    assert "base" not in outcome.err


def test_results_of_other_options_are_refused(world: World, tmp_path: Path) -> None:
    fixed = ("bench", world.task(), "--backbone", world.backbone, "--pool", world.pool, "--out", tmp_path)
    fixed += ("--seed", 0, "--methods", "base")
    assert call(*fixed, "--shots", 4).code == 0
    before = tree(tmp_path)
    outcome = call(*fixed, "--shots", 5)
    assert outcome.code == 2
    assert "results are of the same data, pool, backbone and options" in outcome.err
    assert tree(tmp_path) == before


def test_results_of_another_pool_are_refused(world: World, pool: Path, tmp_path: Path) -> None:
    fixed = ("bench", world.task(), "--backbone", world.backbone, *FEW, "--out", tmp_path / "out")
    fixed += ("--seed", 0, "--methods", "base", "--pool")
    assert call(*fixed, world.pool).code == 0
    assert call(*fixed, pool).code == 0  # a copy of it
    assert call("pool", "remove", pool, "c").code == 0
    outcome = call(*fixed, pool)
    assert outcome.code == 2
    assert "results are of the same data, pool, backbone and options" in outcome.err


def test_results_know_a_methods_file_by_what_is_in_it(world: World, tmp_path: Path) -> None:
    fixed = ("bench", world.task(), "--backbone", world.backbone, "--pool", world.pool, *FEW)
    fixed += ("--out", tmp_path / "out", "--seed", 0, "--methods", "base", "--expert-method")
    here, there = tmp_path / "here.json", tmp_path / "there.json"
    here.write_text('{"peft_type": "LORA", "r": 4}')
    assert call(*fixed, here).code == 0
    here.rename(there)
    assert call(*fixed, there).code == 0
    there.write_text('{"peft_type": "LORA", "r": 2}')
    assert call(*fixed, there).code == 2


def test_a_method_that_does_not_fit_says_why_and_stops_no_other(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = ("bench", world.task(), "--backbone", world.backbone, "--pool", world.pool, *FEW)
    method = ("--expert-method", "ia3", "--space", "parameters")
    outcome = call(*fixed, *method, "--out", tmp_path / "out", "--seed", 0, "--methods", "fusion", "expert")
    assert outcome.code == 2, "as of a build with a task that failed"
    assert (outcome.out + outcome.err).count("a comparison needs experts to mix with") == 1
    told = "AdapterFusion: outputs mixed at run time, target: a comparison needs experts to mix with"
    assert told in outcome.out
    assert "target seed 0 fusion: refused" in outcome.err
    assert "the target's own expert" in outcome.out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["target-expert-seed0.json"]
    monkeypatch.setattr("pituning.cli.bench.METHODS", {name: ALL[name] for name in ("fusion", "expert")})
    every = call(*fixed, *method, "--out", tmp_path / "out", "--seed", 0)
    assert (every.code, "AdapterFusion: outputs mixed" in every.out) == (0, True), "of all, some do not fit"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--methods", "tie"), "Did you mean 'ties'?"),
        (("--out", "/proc/none"), "results go into a folder"),
        (("--seed", "-1"), "seed must lie in"),
        (("--shots", "0"), "shots must be at least 1"),
    ],
)
def test_mistakes_end_before_anything_is_trained(
    wrong: tuple[str, ...], said: str, world: World, tmp_path: Path
) -> None:
    fixed = ("bench", world.task(), "--backbone", world.backbone, "--pool", world.pool)
    outcome = call(*fixed, "--out", tmp_path / "out", *wrong)
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["joint", "fisher"])
def test_what_needs_the_neighbours_data_takes_what_it_is_given(
    method: str, world: World, tmp_path: Path
) -> None:
    fixed = ("bench", world.task(), "--backbone", world.backbone, "--pool", world.pool, *FEW)
    fixed += ("--out", tmp_path, "--seed", 0, "--json", "--methods", "expert", method)
    refused = call(*fixed, "--data", world.task("a")).document
    assert "this method needs the data that the neighbours were trained on" in refused["faults"][0]
    assert refused["methods"][method]["refused"][0] in refused["faults"][0]
    document = call(*fixed, "--data", *(world.task(name) for name in "abc")).document
    assert document["methods"][method]["runs"] == 1
    other = call(*fixed, "--data", *(world.task(name) for name in "ab"))
    assert (other.code, "results are of the same data" in other.err) == (2, True)

"""Every verb on a pool of three tiny experts."""

from __future__ import annotations

import dataclasses
import html
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pools
import pytest
import torch
import yaml
from command import (
    INSTALLED,
    SHORT,
    Outcome,
    call,
    outcome_of,
    process,
    read_rows,
    refuse,
    started,
    tree,
    write_rows,
    write_task,
)
from conftest import World
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModel

import pituning_command
from pituning import PiConfig, TrainConfig, TuneConfig, pi_tune
from pituning.backbones import Backbone, load_backbone
from pituning.building import add_expert
from pituning.cli.terminal import program
from pituning.expert import Expert, attach
from pituning.mini20 import NAMES
from pituning.pool import Pool
from pituning.predict.embedding import EMBEDDING
from pituning.task import load_task
from pituning_command import VERBS, main

TUNE_KEYS = {
    "task",
    "metric",
    "neighbors",
    "weights",
    "scores",
    "k",
    "shots",
    "seed",
    "expert_dir",
    "report",
    "seconds",
}


def tune(world: World, out: Path, *options: object) -> Outcome:
    fixed = ("--backbone", world.backbone, "--pool", world.pool, "--out", out, "-k", 2, "--shots", 4)
    few = ("--epochs", 2, "--expert-epochs", 2)
    return call("tune", world.task(), *fixed, *few, *options)


def test_train_says_where_the_expert_is_and_how_it_validates(world: World) -> None:
    document = world.trained["a"].document
    assert document["task"] == document["name"] == "a"
    assert document["pool"] == str(world.pool)
    assert document["metric"] == "accuracy"
    assert 0 <= document["validation"] <= 1
    assert not [path for path in world.pool.iterdir() if path.name.startswith(".work")]


def test_tuned_adapter_loads_with_peft_and_comes_with_its_reasons(world: World, tmp_path: Path) -> None:
    outcome = tune(world, tmp_path / "out", "--json")
    assert (outcome.code, outcome.complaint) == (0, "")
    document = outcome.document
    assert document.keys() >= TUNE_KEYS
    assert [sorted(neighbor) for neighbor in document["neighbors"]] == [["name", "similarity"]] * 2
    assert document["scores"].keys() == {"base", "expert", "neighbor", "init", "pi"}
    assert sum(document["weights"].values()) == pytest.approx(1)
    assert (document["k"], document["shots"], document["seed"]) == (2, 4, 0)
    assert document["expert_dir"] == str(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == document
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    adapted = PeftModel.from_pretrained(AutoModel.from_pretrained(world.backbone), tmp_path / "out")
    state, saved = adapted.state_dict(), load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert saved
    for name, tensor in saved.items():
        assert state[name.replace(".weight", ".default.weight")].equal(tensor)


def test_same_seed_tunes_to_the_same_adapter(world: World, tmp_path: Path) -> None:
    first, second = (tune(world, tmp_path / name, "--json", "--seed", 3) for name in ("one", "two"))
    changing = {"expert_dir", "report", "seconds"}
    one, two = ({k: v for k, v in o.document.items() if k not in changing} for o in (first, second))
    assert one == two
    files = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


def test_an_expert_trained_before_is_not_trained_again(world: World, tmp_path: Path) -> None:
    own = world.pool / "a"
    outcome = call(
        *("tune", world.task("a"), "--backbone", world.backbone, "--pool", world.pool, "--expert", own),
        *("--out", tmp_path / "out", "-k", 1, "--epochs", 1, "--json"),
    )
    assert outcome.code == 0
    assert "taking the task's own" in outcome.err
    assert outcome.document["own"] == str(own)


def test_an_adapter_of_peft_alone_is_gone_on_with(world: World, tmp_path: Path) -> None:
    own = tmp_path / "plain"
    shutil.copytree(world.pool / "a", own)
    (own / "expert.json").unlink()
    outcome = call(
        *("tune", world.task(), "--backbone", world.backbone, "--pool", world.pool, "--expert", own),
        *("--out", tmp_path / "out", "-k", 1, "--epochs", 1, "--space", "delta", "--json"),
    )
    assert outcome.code == 0, outcome.err
    assert len(outcome.document["neighbors"]) == 1
    assert (tmp_path / "out" / "report.html").exists()


def test_without_validation_data_the_document_is_still_json(world: World, tmp_path: Path) -> None:
    task = tmp_path / "task"
    task.mkdir()
    for name in ("task.json", "train.jsonl"):
        (task / name).write_bytes((world.task() / name).read_bytes())
    few = ("-k", 1, "--epochs", 1, "--expert-epochs", 1, "--json")
    fixed = ("--backbone", world.backbone, "--pool", world.pool, "--out", tmp_path / "out")
    document = call("tune", task, *fixed, *few).document
    assert document["validation"] == {}
    assert document["lead"] is None
    assert document["scores"] == {}


def test_tune_for_people_shows_weights_and_scores(world: World, tmp_path: Path) -> None:
    text = tune(world, tmp_path / "out").out
    wanted = (
        "experts mixed for target",
        "accuracy on the test split",
        "decided by validation: loss of",
        "saved: ",
        f"report: {tmp_path / 'out' / 'report.html'}",
        f"evaluate it again: {program()} eval {world.task()} --expert {tmp_path / 'out'}",
    )
    for part in wanted:
        assert part in text


def test_tune_says_by_how_much_the_mixture_leads(world: World, tmp_path: Path) -> None:
    document = tune(world, tmp_path / "out", "--json").document
    lead = document["lead"]
    assert document["kept"] == ("expert" if lead["mean"] < -lead["error"] else "mixture")
    losses = [found["negative_loss"] for found in document["validation"].values()]
    assert abs(losses[0] - losses[1]) == pytest.approx(abs(lead["mean"]), abs=1e-5)
    side, mean, error = ("ahead" if lead["mean"] > 0 else "behind"), abs(lead["mean"]), lead["error"]
    told = f"is {side} by {mean:.4f}, standard error {error:.4f}, on {lead['examples']} labelled examples"
    assert told in Path(document["report"]).read_text()


def test_tune_leaves_a_report_in_the_adapter_folder(world: World, tmp_path: Path) -> None:
    document = tune(world, tmp_path / "out", "--json").document
    assert document["report"] == str(tmp_path / "out" / "report.html")
    text = Path(document["report"]).read_text()
    for wanted in ("Scores", "Examples", "Weights", "Training", "Task graph", "Similarity", "✗ wrong"):
        assert wanted in text
    assert f"--out {tmp_path / 'out'} -k 2 --shots 4" in text
    for name, score in document["scores"].items():
        assert f"{score:.4f}" in text, name


def test_embed_stores_an_embedding_again(world: World, pool: Path) -> None:
    outcome = call("embed", world.task("a"), "--pool", pool, "--setting", "paper", "--json")
    assert outcome.document == {"task": "a", "name": "a", "examples": 24, "setting": "paper", "at": "expert"}
    assert call("pool", "verify", pool).code == 0


def test_predict_ranks_the_other_tasks(world: World) -> None:
    before = tree(world.root)
    document = call("predict", world.task("a"), "--pool", world.pool, "-k", 2, "--json").document
    assert document["task"] == "a"
    found = document["neighbors"]
    assert {neighbor["name"] for neighbor in found} == {"b", "c"}
    assert found[0]["similarity"] >= found[1]["similarity"]
    assert tree(world.root) == before
    assert "neighbours of a" in call("predict", world.task("a"), "--pool", world.pool).out


def test_predict_needs_no_expert_of_the_task(world: World) -> None:
    """What `tune` finds nearest, without training anything."""
    before = tree(world.root)
    given = ("predict", world.task(), "--pool", world.pool, "--shots", 4)
    document = call(*given, "--json").document
    assert tree(world.root) == before
    names = [neighbor["name"] for neighbor in document["neighbors"]]
    assert {*names} == {"a", "b", "c"}
    backbone, pool = load_backbone(str(world.backbone)), Pool(world.pool)
    config = PiConfig(shots=4, start="uniform", train=TrainConfig(epochs=1), tune=TuneConfig(epochs=0))
    tuned = pi_tune(backbone, load_task(world.task()), pool, config).neighbors
    assert [neighbor.name for neighbor in tuned] == names
    alike = [neighbor["similarity"] for neighbor in document["neighbors"]]
    assert alike == pytest.approx([neighbor.similarity for neighbor in tuned])


def test_predict_tells_that_the_pool_names_a_backbone_that_is_gone(world: World, pool: Path) -> None:
    kept = Pool(pool)
    for name in "abc":
        expert, embedding = kept.read(name)
        card = dataclasses.replace(expert.card, backbone_name="./gone")
        kept.add(dataclasses.replace(expert, card=card), embedding, replace=True)
    outcome = call("predict", world.task(), "--pool", pool)
    assert outcome.code == 2
    assert f"as the pool {pool} names it. Pass --backbone." in outcome.err
    assert call("predict", world.task(), "--pool", pool, "--backbone", world.backbone).code == 0


def test_a_task_without_an_expert_is_embedded_at_the_pools_own_start(world: World, tmp_path: Path) -> None:
    """As an expert of it in the pool, which began there; the backbone is the first that a card tells."""
    pool = Pool.create(tmp_path / "pool", init_seed=5)
    backbone = load_backbone(str(world.backbone))
    for name in "abc":
        add_expert(pool, backbone, load_task(world.task(name)), TrainConfig(epochs=1))
    with_expert = call("predict", world.task("a"), "--pool", pool.path, "--json").document["neighbors"]
    pool.remove("a")
    card = dataclasses.replace(pool.get("b").card, name="0", backbone_name="")
    pool.add(dataclasses.replace(pool.get("b"), card=card))
    assert (
        call("predict", world.task("a"), "--pool", pool.path, "--json").document["neighbors"] == with_expert
    )
    document = call("predict", world.task("b"), "--pool", pool.path, "--json").document
    assert document["refused"] == {"0": "0 has no embedding; run `pituning embed`"}


def test_names_with_brackets_are_printed_as_they_are(world: World, tmp_path: Path) -> None:
    pool = tmp_path / "p[bold]q [/red]"
    shutil.copytree(world.pool, pool)
    assert "p[bold]q [/red]" in call("pool", "list", pool).out
    said = json.loads((world.task() / "task.json").read_text())
    task = tmp_path / "task"
    shutil.copytree(world.task(), task)
    (task / "task.json").write_text(json.dumps(said | {"name": "a [/b]"}))
    outcome = call("predict", task, "--pool", pool, "--shots", 4)
    assert (outcome.code, "neighbours of a [/b]" in outcome.out) == (0, True)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_letter_that_a_terminal_lacks_is_escaped(encoding: str) -> None:
    outcome = outcome_of(process("bench", "--help", env=os.environ | {"PYTHONIOENCODING": encoding}))
    assert (outcome.code, "Compare \\u03c0-Tuning" in outcome.out) == (0, True)


def test_a_closed_stdout_is_no_fault(world: World) -> None:
    running = started("sh", "-c", f"{INSTALLED} check {world.task()} >&-")
    assert (outcome_of(running).code, outcome_of(running).err) == (0, "")


def test_a_task_is_predicted_from_the_shots_asked_for(world: World, tmp_path: Path) -> None:
    """Not from those of an expert of it that the pool holds."""
    pool = tmp_path / "pool"
    fixed = ("--backbone", world.backbone, "--pool", pool, *SHORT)
    assert call("train", world.task("b"), *fixed).code == 0
    drawn = [("--shots", 2), ("--shots", 2, "--seed", 1), ()]
    before = [call("predict", world.task("a"), "--pool", pool, *shots, "--json").document for shots in drawn]
    assert call("train", world.task("a"), *fixed, "--shots", 2).code == 0
    after = [call("predict", world.task("a"), "--pool", pool, *shots, "--json").document for shots in drawn]
    assert [found["examples"] for found in after] == [found["examples"] for found in before]
    alike = [[found["neighbors"][0]["similarity"] for found in every] for every in (before, after)]
    assert alike[1] == pytest.approx(alike[0])
    assert len(set(alike[0])) == 3


def test_a_task_under_a_head_is_predicted_from_its_expert(
    folder_of: Callable[[str], Path], world: World, tmp_path: Path
) -> None:
    pool, backbone = tmp_path / "pool", folder_of("bert_classifier")
    fixed = ("--backbone", backbone, "--pool", pool, *SHORT)
    assert call("train", world.task("a"), *fixed).code == 0
    assert call("train", world.task("c"), *fixed, "--shots", 3, "--name", "few").code == 0
    for shots in ((), ("--shots", 3)):
        few = call("predict", world.task("c"), "--pool", pool, "--name", "few", *shots, "--json").document
        assert [neighbor["name"] for neighbor in few["neighbors"]] == ["a"]
    other = call("predict", world.task("c"), "--pool", pool, "--name", "few", "--shots", 2)
    assert (other.code, "other --shots were used" in other.err) == (2, True)
    assert call("train", world.task("c"), *fixed, "--shots", 3).code == 0
    found = call("predict", world.task("c"), "--pool", pool, "--shots", 3, "--json").document
    assert [neighbor["name"] for neighbor in found["neighbors"]] == ["a"]
    other = call("predict", world.task("c"), "--pool", pool, "--shots", 2)
    assert (other.code, "on other shots: give its own --shots and --seed" in other.err) == (2, True)
    sampled = call("predict", world.task("a"), "--pool", pool, "--labels", "sampled")
    assert (sampled.code, "leave --labels out" in sampled.err) == (2, True)
    outcome = call("predict", world.task("b"), "--pool", pool)
    assert (outcome.code, outcome.out) == (2, "")
    assert "or on a model with a head, needs its own in the pool" in outcome.err
    assert "Run `pituning train" in outcome.err


def test_eval_scores_a_split(world: World) -> None:
    expert = ("--expert", world.pool / "a")
    document = call("eval", world.task("a"), *expert, "--backbone", world.backbone, "--json").document
    assert document.keys() == {"task", "metric", "score", "n"}
    assert (document["task"], document["metric"], document["n"]) == ("a", "accuracy", 8)
    validated = call("eval", world.task("a"), *expert, "--split", "validation", "--json").document
    assert validated["score"] == world.trained["a"].document["validation"]


def test_eval_of_a_head_asks_for_the_labels_in_their_order(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    write_task(tmp_path / "a", 0)
    backbone, pool = folder_of("bert_classifier"), tmp_path / "pool"
    assert call("train", tmp_path / "a", "--backbone", backbone, "--pool", pool, *SHORT).code == 0
    scored = ("eval", tmp_path / "a", "--backbone", backbone, "--expert")
    score = call(*scored, pool / "a", "--json").document["score"]
    elsewhere = shutil.copytree(pool / "a", tmp_path / "elsewhere")
    (elsewhere / "expert.json").unlink()  # as PEFT alone saves it
    assert call(*scored, elsewhere, "--json").document["score"] == score
    told = json.loads((tmp_path / "a" / "task.json").read_text())
    told["labels"] = Expert.load(pool / "a").card.labels[::-1]
    (tmp_path / "a" / "task.json").write_text(json.dumps(told))
    refuse(call(*scored, pool / "a"), "in this order", "Write the labels of the task file")


def test_graph_draws_all_pairs(world: World, tmp_path: Path) -> None:
    page = tmp_path / "graph.html"
    document = call("graph", "--pool", world.pool, "--out", page, "--json").document
    assert (document["names"], document["report"]) == (["a", "b", "c"], str(page))
    assert [len(row) for row in document["similarity"]] == [3, 3, 3]
    text = page.read_text()
    for wanted in ("Task graph", "Clusters", "Nearest tasks", '<th scope="row">a</th>', "language"):
        assert wanted in text
    command = f"pituning graph --pool {world.pool} --out {page} --json"
    assert html.escape(command) in text
    assert [path.name for path in tmp_path.iterdir()] == ["graph.html"]


def test_graph_draws_the_adapters_that_can_be_compared(tmp_path: Path) -> None:
    pool = Pool.create(tmp_path / "pool")
    for name in ("one", "two", "three"):
        expert = pools.tiny(name)
        embedding = pools.embedding_of(expert)
        if name == "three":
            embedding = dataclasses.replace(embedding, components={"other": torch.ones(3)})
        pool.add(expert, embedding)
    drawn = call("graph", "--pool", pool.path, "--out", tmp_path / "graph.html")
    assert "2 tasks drawn" in drawn.out
    assert "not drawn, being of another kind, embedded in another way, or zero: three" in drawn.out


def test_pool_lists_shows_adds_removes_and_verifies(world: World, tmp_path: Path) -> None:
    pool = tmp_path / "new"
    assert call("pool", "add", pool, world.pool / "a", "--name", "first", "--json").document == {
        "added": "first",
        "embedded": True,
        "spaces": ["parameters", "delta"],
        "reasons": {},
    }
    listed = call("pool", "list", pool, "--json").document
    assert [(entry["name"], entry["task"], entry["embedded"]) for entry in listed["experts"]] == [
        ("first", "a", True)
    ]
    assert (
        Pool(pool).embedding("first").components.keys() == Pool(world.pool).embedding("a").components.keys()
    )
    assert "LORA" in call("pool", "list", pool).out
    long = "a-long-name-that-" * 7
    call("pool", "add", pool, world.pool / "a", "--name", long)
    assert long in call("pool", "list", pool).out
    call("pool", "remove", pool, long)
    shown = call("pool", "show", pool, "first", "--json").document
    assert (shown["name"], shown["backbone_name"]) == ("first", str(world.backbone))
    assert yaml.safe_load(call("pool", "show", pool, "first").out) == shown
    assert call("pool", "verify", pool, "--json").document == {"faults": []}
    assert call("pool", "remove", pool, "first", "--json").document == {"removed": "first"}
    assert call("pool", "list", pool, "--json").document["experts"] == []


@pytest.mark.parametrize("fault", ["stale", "damaged"])
def test_an_adapter_is_added_without_an_embedding_of_no_use(world: World, tmp_path: Path, fault: str) -> None:
    folder, other = (shutil.copytree(world.pool / name, tmp_path / name) for name in ("a", "b"))
    found = (other / EMBEDDING).read_bytes()
    (folder / EMBEDDING).write_bytes(found if fault == "stale" else found[:100])
    outcome = call("pool", "add", tmp_path / "new", folder, "--json")
    assert (outcome.code, outcome.document["embedded"]) == (0, False)
    assert "added without its embedding" in outcome.err


def test_the_backbone_is_held_in_the_type_that_was_asked_for(
    world: World, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []

    def loaded(*given: Any, **options: Any) -> Backbone:
        backbone = load_backbone(*given, **options)
        held.append(next(backbone.model.parameters()).dtype)
        return backbone

    monkeypatch.setattr("pituning.cli.backbones.load_backbone", loaded)
    half, model = ("--dtype", "bfloat16"), ("--backbone", world.backbone)
    for verb in (
        ("tune", world.task(), *model, "--pool", pool, "--out", tmp_path / "out", *SHORT),
        ("eval", world.task(), "--expert", tmp_path / "out"),
        ("predict", world.task(), "--pool", pool),
        ("train", world.task(), *model, "--pool", pool, "--epochs", "1"),
        ("embed", world.task(), "--pool", pool),
        ("pool", "add", tmp_path / "new", pool / "a", *model),
        ("pool", "build", tmp_path / "built", world.task("a"), *model),
    ):
        outcome = call(*verb, *half)
        assert outcome.code == 0, outcome.err
        assert verb[0] != "tune" or f"--expert {tmp_path / 'out'} --dtype bfloat16" in outcome.out
    bench = ("--backbone", world.backbone, "--pool", pool, "--methods", "base", "--seed", "0")
    assert call("bench", world.task(), *bench, "--out", tmp_path / "results", *half).code == 0
    assert held == [torch.bfloat16] * 8
    again = call("bench", world.task(), *bench, "--out", tmp_path / "results")
    refuse(again, "Choose another --out", "backbone")
    refuse(call("pool", "add", tmp_path / "other", pool / "a", *half), "there is none", "--backbone")
    refuse(call("pool", "list", pool, *half), "takes its own options", "--dtype")


def test_the_carried_pool_can_be_looked_at() -> None:
    listed = call("pool", "list", "mini20", "--json").document["experts"]
    assert [entry["name"] for entry in listed] == sorted(NAMES)
    assert call("pool", "show", "mini20", "rte", "--json").document["task"] == "rte"
    assert call("pool", "verify", "mini20", "--json").document == {"faults": []}
    assert call("check", "mini20").out == "mini20: pool without faults\n"
    for change in (("remove", "mini20", "rte"), ("verify", "mini20", "--repair")):
        refuse(call("pool", *change), "only a pool of one's own is written to", "the package carries")


def test_build_makes_the_experts_that_are_not_there(world: World, tmp_path: Path) -> None:
    recipe, pool = tmp_path / "short.yaml", tmp_path / "built"
    recipe.write_text("train: {epochs: 1}")
    for names, built in ((["a"], ["a"]), (["a", "b"], ["b"]), (["a", "b"], [])):
        options = ("--backbone", world.backbone, "--recipe", recipe, "--json")
        outcome = call("pool", "build", pool, *(world.task(name) for name in names), *options)
        assert (outcome.code, outcome.document["built"]) == (0, built)
    assert Pool(pool).verify() == []
    assert all(Pool(pool).has_embedding(name) for name in ("a", "b"))


def test_check_tells_the_experts_that_are_embedded_as_no_other_is(world: World, pool: Path) -> None:
    assert call("check", pool).code == 0
    assert call("embed", world.task("b"), "--pool", pool, "--at", "expert").code == 0
    assert call("pool", "verify", pool).code == 0
    outcome = call("check", pool)
    assert outcome.code == 2
    assert "b: embedded at its expert, and so not compared with others, which are at the un" in outcome.out
    found = call("predict", world.task("b"), "--pool", pool, "--json").document
    assert (found["at"], len(found["neighbors"]), found["refused"]) == ("start", 2, {})
    found = call("predict", world.task("b"), "--pool", pool, "--at", "expert")
    assert "no neighbour of b" in found.out
    refused = call("predict", world.task("a"), "--pool", pool, "--json").document["refused"]
    assert refused.keys() == {"b"}
    assert refused["b"].startswith("b was embedded at its expert, and not at the untrained adapter; see")


def test_check_finds_what_is_wrong(world: World, pool: Path) -> None:
    for path, kind in ((world.task(), "task"), (pool, "pool"), (pool / "a", "expert")):
        outcome = call("check", path, "--json")
        assert (outcome.code, outcome.document["kind"], outcome.document["faults"]) == (0, kind, [])
    (pool / "a" / "adapter_model.safetensors").write_bytes(b"short")
    listed = call("pool", "list", pool, "--json")
    assert (listed.code, [entry["name"] for entry in listed.document["experts"]]) == (2, ["b", "c"])
    assert "expert 'a' must be as it was added" in listed.document["faults"][0]
    for path, kind in ((pool, "pool"), (pool / "a", "expert")):
        outcome = call("check", path, "--json")
        assert (outcome.code, outcome.document["kind"], len(outcome.document["faults"])) == (2, kind, 1)
    assert "altered or truncated" in call("pool", "verify", pool).out


def test_check_says_how_a_task_was_understood(tmp_path: Path) -> None:
    task = write_task(tmp_path / "t")
    said = json.loads((task / "task.json").read_text())
    (task / "task.json").write_text(json.dumps({"name": said["name"]}))
    write_rows(task / "train.jsonl", [*read_rows(task / "train.jsonl"), {"text_a": "w1", "label": "rde"}])
    (task / "test.jsonl").unlink()
    assert call("check", task, "--json").document["labels"] == {"rde": 1, "green": 12, "red": 12}
    told = call("check", task).out.splitlines()
    assert told[1:] == [
        "text-classification of text, scored by accuracy; 25 training, 8 validation, no test examples",
        "labels, the rarest first: rde (1), green (12), red (12)",
    ]


def test_check_tells_keys_and_names_that_mean_nothing_here(tmp_path: Path) -> None:
    task = write_task(tmp_path / "t", name="my task", label_column="label", license="MIT")
    told = call("check", task, "--json").document["notes"]
    assert told[0] == "keys of the task file that mean nothing here: label_column, license"
    assert told[1].startswith("not as the name of an expert in a pool: an expert's name is at most")
    near = task / "train.jsonl"
    near.rename(task / "train.xlsx")
    assert "no train file in" in call("check", task).out
    assert ", but train.xlsx. Add train.csv" in call("check", task).out


def test_check_tells_texts_with_several_labels(tmp_path: Path) -> None:
    task = write_task(tmp_path / "t")
    both = [{"text_a": "neither this nor that", "label": label} for label in ("red", "green")]
    write_rows(task / "train.jsonl", [*read_rows(task / "train.jsonl"), *both])
    outcome = call("check", task)
    assert (outcome.code, outcome.err) == (0, "")
    assert "training inputs with several labels, of which one at most is right: 1" in outcome.out


def test_numbers_that_are_taken_as_classes_are_told(world: World, tmp_path: Path) -> None:
    def told(name: str, labels: list[str]) -> Outcome:
        task = write_task(tmp_path / name, labels=None)
        for split in ("validation", "test"):
            (task / f"{split}.jsonl").unlink()
        write_rows(task / "train.jsonl", [{"text_a": f"w{i}", "label": one} for i, one in enumerate(labels)])
        return call("check", task)

    few, many = [f"{i / 10}" for i in range(60)], [f"{i / 10}" for i in range(30)] * 4
    for name, labels, count in (
        ("all", few, 60),
        ("fractions", many, 30),
        ("texts", [f"a{x}" for x in few], 60),
    ):
        outcome = told(name, labels)
        expected = f"answers are taken as classes: {count} different labels on {len(labels)} examples"
        assert (outcome.code, expected in outcome.out) == (0, True)
    for name, labels in (
        ("classes", [f"a{x}" for x in many]),
        ("stars", ["1.0", "1.5", "2.0"]),
        ("years", [f"{i}" for i in range(30)] * 4),
    ):
        assert "taken as classes" not in told(name, labels).out
    shared = ("--backbone", world.backbone, "--pool", tmp_path / "pool", *SHORT)
    trained = call("train", tmp_path / "all", *shared)
    assert (trained.code, "warning: all: answers are taken as classes: 60" in trained.err) == (0, True)


def test_a_run_goes_on_with_what_check_finds_fault_with_and_says_so(world: World, tmp_path: Path) -> None:
    task = write_task(tmp_path / "leaky")
    write_rows(task / "test.jsonl", [*read_rows(task / "train.jsonl")[:2], {"text_a": "  ", "label": "red"}])
    shared = ("--backbone", world.backbone, *SHORT)
    tuned = call("tune", task, "--pool", world.pool, "--out", tmp_path / "out", *shared, "--expert-epochs", 1)
    trained = call("train", task, "--pool", tmp_path / "one", *shared)
    built = call("pool", "build", tmp_path / "two", task, "--backbone", world.backbone, "--seed", 3)
    made = ("bench", task, "--backbone", world.backbone, "--pool", world.pool, "--out", tmp_path / "three")
    compared = call(*made, "--methods", "base", "--seed", 0)
    for outcome in (tuned, trained, built, compared):
        assert outcome.code == 0, outcome
        assert (
            "\nwarning: leaky: test inputs must be in no other split; given: test row 1" in f"\n{outcome.err}"
        )
        assert "must have text_a; given: test row 3: none" in outcome.err
    assert Pool(tmp_path / "two").get("leaky").card.recipe["seed"] == 3


def test_a_row_at_fault_is_named_as_it_stands_in_the_file(world: World, tmp_path: Path) -> None:
    task = write_task(tmp_path / "blank")
    rows = read_rows(task / "train.jsonl")
    write_rows(task / "train.jsonl", [*rows[:6], {"text_a": "  ", "label": "red"}, *rows[6:]])
    for seed in range(3):
        few = ("--shots", 12, "--seed", seed, *SHORT)
        outcome = call("train", task, "--backbone", world.backbone, "--pool", tmp_path / f"pool{seed}", *few)
        assert "must have text_a; given: train row 7: none" in outcome.err


def test_the_command_to_score_again_scores_what_there_is(world: World, tmp_path: Path) -> None:
    task = write_task(tmp_path / "untested")
    (task / "test.jsonl").unlink()
    fixed = ("--backbone", world.backbone, "--pool", world.pool, "-k", 2, *SHORT, "--expert-epochs", 1)
    told = call("tune", task, *fixed, "--out", tmp_path / "out").out.splitlines()
    _, command = told[-1].split(f"evaluate it again: {program()} ")
    assert call(*shlex.split(command)).code == 0
    (task / "validation.jsonl").unlink()
    assert "again" not in call("tune", task, *fixed, "--out", tmp_path / "other").out


def test_the_command_is_typed_by_its_path_where_the_shell_does_not_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "bin" / "pituning"
    monkeypatch.setattr(sys, "executable", str(command.with_name("python")))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert program() == "pituning", "it is run in another way"
    command.parent.mkdir()
    command.touch(mode=0o755)
    assert program() == "bin/pituning"
    monkeypatch.setenv("PATH", str(command.parent))
    assert program() == "pituning"


def test_fewer_examples_than_shots_and_neighbours_than_k_are_told(world: World, tmp_path: Path) -> None:
    outcome = tune(world, tmp_path / "out", "--shots", 100, "-k", 4)
    short = "target: 100 shots were asked for; there are fewer distinct training examples of green, red"
    assert outcome.err.count(short) == 1
    assert "k is 4, but 3" in outcome.err


def test_the_carried_pool_has_a_name(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    document = call("predict", "mini20/rte", "--pool", "mini20", "--json").document
    assert document["neighbors"][0]["name"] in ("mnli", "mrpc")
    shutil.copytree(world.pool, tmp_path / "mini20")
    outcome = call("predict", "mini20/rte", "--pool", "mini20", "--name", "rte")
    told = "mini20 holds: a, b, c" in outcome.err
    assert (outcome.code, told) == (2, True), "a folder of that name is meant"


def test_tune_tells_each_stage_as_it_begins(world: World, tmp_path: Path) -> None:
    lines = tune(world, tmp_path / "out").err.splitlines()
    stages = [line.split(":")[0] for line in lines if not line.startswith(("training", "train ", "tune "))]
    assert [*dict.fromkeys(stages)] == ["expert", "predict", "interpolate", "collapse", "report"]


def test_an_expert_of_another_task_is_scored_and_named(world: World, pool: Path) -> None:
    outcome = call("eval", world.task("b"), "--expert", pool / "a", "--json")
    assert outcome.code == 0
    assert "of task a; it is scored on b" in outcome.err


def test_pool_repair_says_what_it_did(world: World, pool: Path) -> None:
    (pool / "a" / "adapter_model.safetensors").write_bytes(b"short")
    (pool / "b" / "embedding.safetensors").unlink()
    outcome = call("pool", "verify", pool, "--repair", "--json")
    assert (outcome.code, outcome.document["faults"]) == (0, [])
    assert [line.split(",")[0] for line in outcome.document["repaired"]] == [
        "a: moved to .quarantine/a-1",
        "b: dropped the embedding",
        "made the sketches again",
    ]
    assert (pool / ".quarantine" / "a-1" / "adapter_model.safetensors").read_bytes() == b"short"
    assert call("embed", world.task("b"), "--pool", pool).code == 0
    assert call("pool", "verify", pool, "--repair").out == "2 experts, no faults\n"


def test_repair_leaves_what_only_its_owner_can_decide(world: World, pool: Path) -> None:
    other = ("--backbone", world.backbone, "--pool", pool.with_name("other"), "--init-seed", 5)
    assert call("train", world.task(), *other, *SHORT).code == 0
    added = call("pool", "add", pool, pool.with_name("other") / "target")
    assert "it can be mixed in delta space\nnot in parameters space: target started from" in added.out
    outcome = call("pool", "verify", pool, "--repair")
    assert outcome.code == 2
    assert outcome.out.startswith("target: started from another initialisation")


def test_a_damaged_neighbour_does_not_keep_an_expert_from_being_added(world: World, pool: Path) -> None:
    (pool / "b" / "adapter_model.safetensors").write_bytes(b"")
    added = call("pool", "add", pool, world.pool / "a", "--name", "again")
    assert (added.code, added.out.startswith("added 'again'")) == (0, True)


def foreign(world: World, folder: Path, **changes: object) -> Path:
    """An adapter as PEFT alone would have left it, of another rank."""
    options = {"r": 3, "target_modules": ["query", "value"], **changes}
    backbone = load_backbone(world.backbone, device="cpu")
    model = attach(backbone, LoraConfig(**options), seed=1)
    model.save_pretrained(folder)
    return folder


def test_adapter_from_elsewhere_is_admitted_embedded_and_mixed(
    world: World, pool: Path, tmp_path: Path
) -> None:
    theirs = foreign(world, tmp_path / "theirs")
    arguments = ("--task", world.task(), "--backbone", world.backbone, "--json")
    document = call("pool", "add", pool, theirs, *arguments).document
    assert (document["added"], document["embedded"], document["spaces"]) == ("theirs", True, ["delta"])
    assert "initialisation of theirs is not known" in document["reasons"]["parameters"]
    shown = call("pool", "show", pool, "theirs", "--json").document
    assert (shown["task"], shown["backbone_name"]) == ("target", str(world.backbone))
    assert call("pool", "verify", pool).code == 0
    fixed = ("--backbone", world.backbone, "--pool", pool, "--out", tmp_path / "out", "--space", "delta")
    tuned = call("tune", world.task("a"), *fixed, "-k", 3, *SHORT, "--expert-epochs", 1, "--json")
    assert "theirs" in [neighbor["name"] for neighbor in tuned.document["neighbors"]], tuned
    drawn = call("graph", "--pool", pool, "--out", tmp_path / "graph.html", "--space", "delta", "--json")
    assert drawn.document["names"] == ["a", "b", "c", "theirs"]
    found = dict(zip(drawn.document["names"], drawn.document["similarity"][3], strict=True))
    ranked = call("predict", world.task(), "--pool", pool, "--name", "theirs", "--space", "delta", "--json")
    for neighbor in ranked.document["neighbors"]:
        assert found[neighbor["name"]] == pytest.approx(neighbor["similarity"], abs=1e-6)


def test_a_pool_of_strangers_says_in_which_space_it_can_be_mixed(world: World, tmp_path: Path) -> None:
    pool, theirs = tmp_path / "pool", foreign(world, tmp_path / "theirs")
    arguments = ("--backbone", world.backbone)
    assert call("pool", "add", pool, theirs, "--task", world.task("a"), *arguments).code == 0
    added = call("pool", "add", pool, theirs, "--name", "again")
    assert "not checked on a model: give --backbone" in added.out
    fixed = (*arguments, "--pool", pool, "--out", tmp_path / "out", *SHORT, "--expert-epochs", 1)
    refuse(
        call("tune", world.task(), *fixed),
        "theirs is not known (which does not matter in space delta)",
        "or mix plain LoRA experts with `--space delta`",
    )
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.work").exists()
    assert call("tune", world.task(), *fixed, "--space", "delta").code == 0
    nearest = ("predict", world.task(), "--pool", pool)
    assert "are mixed with `--space delta`" in call(*nearest).out
    assert "are mixed with `--space delta`" not in call(*nearest, "--space", "delta").out


def test_an_adapter_that_cannot_be_mixed_says_nothing_of_those_added_later(
    world: World, tmp_path: Path
) -> None:
    pool = tmp_path / "pool"
    dora, plain = foreign(world, tmp_path / "dora", use_dora=True), foreign(world, tmp_path / "plain")
    first = call("pool", "add", pool, dora).out
    assert "can be mixed in no space" in first
    assert "the initialisation of dora is not known" in first
    assert "not in delta space: dora uses use_dora, whose update is not a product B·A" in first
    added = call("pool", "add", pool, plain).out
    assert "it can be mixed in delta space\nnot in parameters space: the initialisation of plain" in added


def test_a_name_that_is_taken_is_told_before_anything_is_embedded(
    world: World, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pituning.cli.pool.embed", lambda *_, **__: pytest.fail("embedded"))
    adding = ("pool", "add", pool, world.pool / "a", "--task", world.task("a"))
    refuse(call(*adding), "'a' is taken", "--replace")


def test_an_expert_of_another_task_or_model_is_not_taken_for_changed_data(
    folder_of: Callable[[str], Path], world: World, pool: Path, tmp_path: Path
) -> None:
    there = ("pool", "add", tmp_path / "other", pool / "a", "--task", world.task("b"))
    refuse(call(*there), "task 'b', and the expert is of 'a'. Name the task")
    other = folder_of("bert_classifier")
    refuse(call(*there, "--backbone", other), "must be used on the backbone it was trained on")


def test_where_nothing_is_mixed_the_result_and_its_report_say_so(world: World, tmp_path: Path) -> None:
    pool = Pool.create(tmp_path / "pool")
    pool.add(Pool(world.pool).get("a"))
    fixed = ("--backbone", world.backbone, "--pool", pool.path, "--out", tmp_path / "out", *SHORT)
    tuned = call("tune", world.task(), *fixed, "--expert-epochs", 1)
    assert "Nothing was mixed: the task's own expert was kept." in tuned.out
    assert "a has no embedding; run `pituning embed`" in tuned.out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "No expert of the pool can be mixed with it in parameters space: " in page
    assert "mixture before tuning" not in page
    assert "which was not kept" not in page


def test_an_adapter_that_names_its_model_needs_no_backbone(world: World, tmp_path: Path) -> None:
    theirs = foreign(world, tmp_path / "theirs")
    file = theirs / "adapter_config.json"
    named = json.loads(file.read_text()) | {"base_model_name_or_path": str(world.backbone)}
    file.write_text(json.dumps(named))
    assert call("eval", world.task(), "--expert", theirs).code == 0
    file.write_text(json.dumps(named | {"base_model_name_or_path": "/models/another"}))
    added = call("pool", "add", tmp_path / "pool", theirs, "--backbone", world.backbone)
    assert added.code == 0
    assert "theirs names /models/another as its model; it is taken as one of" in added.err


def test_adapter_that_does_not_fit_the_backbone_is_not_admitted(
    world: World, pool: Path, tmp_path: Path
) -> None:
    theirs = foreign(world, tmp_path / "theirs")
    config = json.loads((theirs / "adapter_config.json").read_text())
    (theirs / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["key"]}))
    before = tree(pool)
    outcome = call("pool", "add", pool, theirs, "--backbone", world.backbone)
    assert outcome.code == 2
    assert "must be those of its configuration on this backbone" in outcome.err
    assert tree(pool) == before


def test_checkpoints_of_a_running_train_are_no_fault_of_the_pool(pool: Path) -> None:
    (pool / ".work-d").mkdir()
    assert call("pool", "verify", pool).code == 0


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_has_an_example(verb: str) -> None:
    outcome = call(verb, "--help")
    assert (outcome.code, outcome.complaint) == (0, "")
    assert outcome.out.startswith(f"usage: pituning {verb} ")
    assert f"example: pituning {verb} " in outcome.out
    assert "--json" in outcome.out
    assert "--seed" in outcome.out


def test_usage_line_holds_what_must_be_given() -> None:
    first = call("tune", "--help").out.splitlines()[0]
    assert first == "usage: pituning tune TASK --backbone BACKBONE --pool POOL --out OUT [options]"


def test_version_and_usage() -> None:
    assert call("--version").out == "pituning 0.1.0\n"
    usage = call("--help").out
    assert call().out == usage
    assert all(f"  {verb} " in usage for verb in VERBS)


def test_help_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from pituning_command import main; main(['--help']); main(['no-such-verb'])\n"
        "assert not {'torch', 'transformers', 'peft', 'numpy', 'pituning'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize("where", ["import", "parsing", "verb"])
def test_control_c_has_no_traceback_wherever_it_falls(
    where: str, monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    place = {
        "import": "importlib.import_module",
        "parsing": "argparse.ArgumentParser.parse_known_args",
        "verb": "pituning.cli.predict.run",
    }
    if where == "verb":
        import pituning.cli.predict  # noqa: F401
    monkeypatch.setattr(place[where], interrupt)
    outcome = call("predict", world.task("a"), "--pool", world.pool)
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.err == "interrupted; nothing half-written was left.\n"


def test_what_a_library_prints_stays_off_stdout_under_json(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pituning.cli.predict.task_named", lambda path: print("loading") or load_task(path))
    outcome = call("predict", world.task("a"), "--pool", world.pool, "-k", 2, "--json")
    assert outcome.document["task"] == "a"
    assert outcome.err == "loading\n"


@pytest.mark.slow
def test_installed_command_trains_quietly_and_writes_one_document(world: World, tmp_path: Path) -> None:
    fixed = ("--backbone", world.backbone, "--pool", tmp_path / "pool", *SHORT)
    outcome = outcome_of(process("train", world.task("a"), *fixed, "--json"))
    assert (outcome.code, outcome.complaint) == (0, "")
    assert outcome.document["validation"] == world.trained["a"].document["validation"]
    weights = [pool / "a" / "adapter_model.safetensors" for pool in (tmp_path / "pool", world.pool)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error(world: World) -> None:
    line = f"{INSTALLED} pool list {world.pool} | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_module_is_the_command_too() -> None:
    done = subprocess.run([sys.executable, "-m", "pituning", "--version"], capture_output=True, text=True)
    assert done.stdout == "pituning 0.1.0\n"


def test_main_reads_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(pituning_command.sys, "argv", ["pituning", "--version"])
    assert main() == 0
    assert capsys.readouterr().out == "pituning 0.1.0\n"

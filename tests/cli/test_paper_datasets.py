"""The paper's 20 datasets, from files in the official formats to one adapter, through the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import Outcome, call, outcome_of, process
from ofa_files import GLUE, NAMES, write_dataset
from ofa_small import save
from transformers import ByT5Tokenizer, T5Config, T5ForConditionalGeneration

from pituning.expert import Expert

AS_PROCESSES = ("refcoco", "vqav2", "mnli")
QUICK = ("--epochs", "1", "--batch-size", "8")
Runner = Callable[..., Outcome]


def run(*arguments: object) -> Outcome:
    return outcome_of(process(*arguments))


@pytest.fixture(scope="module")
def ofa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("ofa"))


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """T5's shape in small, reading bytes."""
    folder = tmp_path_factory.mktemp("t5")
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 4, "vocab_size": 384}
    torch.manual_seed(0)
    T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0)).save_pretrained(folder)
    ByT5Tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pools")


def through(
    command: Runner, task: Path, backbone: Path, pool: Path, out: Path, method: str
) -> dict[str, Any]:
    """Train, embed, predict, tune, eval; what each verb said."""
    data = {"backbone": backbone, "pool": pool}
    options = [part for name, value in data.items() for part in (f"--{name}", value)]
    steps = {
        "train": ["train", task, *options, "--method", method, *QUICK],
        "embed": ["embed", task, "--pool", pool],
        "predict": ["predict", task, "--pool", pool],
        "tune": ["tune", task, *options, "--out", out, "-k", 1, "--shots", 2, *QUICK, "--expert-epochs", 1],
        "eval": ["eval", task, "--backbone", backbone, "--expert", out],
    }
    said = {}
    for verb, arguments in steps.items():
        outcome = command(*arguments, "--json")
        assert outcome.code == 0, (verb, outcome.err)
        said[verb] = outcome.document
    return said


def trained_in(pool: Path) -> int:
    """How many experts of the pool can be neighbours."""
    return sum(not Expert.load(file.parent).untrained for file in pool.glob("*/adapter_config.json"))


def check(said: dict[str, Any], name: str, earlier: int) -> None:
    assert said["tune"]["task"] == said["eval"]["task"] == name
    assert len(said["predict"]["neighbors"]) == min(3, earlier)
    assert len(said["tune"]["neighbors"]) == min(1, earlier)
    assert {"base", "expert", "init", "pi"} <= said["tune"]["scores"].keys()
    assert said["eval"]["score"] == said["tune"]["scores"]["pi"]
    assert said["eval"]["n"] == 8
    assert 0 <= said["eval"]["score"] <= 10  # CIDEr-D may exceed 1


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_a_dataset_of_the_paper_from_its_official_files_to_one_adapter(
    number: int, ofa: Path, pools: Path, tmp_path: Path
) -> None:
    name = NAMES[number]
    task, pool = write_dataset(name, tmp_path / name), pools / "ofa"
    earlier = trained_in(pool)
    command = run if name in AS_PROCESSES else call
    check(through(command, task, ofa, pool, tmp_path / "out", "adapter"), name, earlier)


@pytest.mark.slow
@pytest.mark.parametrize("name", GLUE)
def test_t5_takes_the_same_path_through_the_language_tasks(
    name: str, t5: Path, pools: Path, tmp_path: Path
) -> None:
    task, pool = write_dataset(name, tmp_path / name), pools / "t5"
    earlier = trained_in(pool)
    check(through(call, task, t5, pool, tmp_path / "out", "lora"), name, earlier)

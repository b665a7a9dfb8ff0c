"""`--recipe`: settings from a file, under what the command line gives."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from command import call
from ofa_files import write_dataset
from ofa_small import save
from peft import get_peft_model

from pituning.cli.options import add_options, read_options
from pituning.cli.recipes import SECTIONS, read_recipe
from pituning.errors import ConfigError
from pituning.expert import Expert
from pituning.methods import peft_config
from pituning.models.ofa import OfaConfig, OfaForConditionalGeneration
from pituning.train import TrainConfig

PAPER = ("ofa-adapter", "ofa-prefix", "ofa-lora")


@pytest.mark.parametrize("name", PAPER)
def test_the_recipes_of_the_paper_are_whole(name: str, tmp_path: Path) -> None:
    recipe = read_recipe(name)
    for section, config in SECTIONS.items():
        config(**getattr(recipe, section))
    assert recipe.train["batch_size"] == 1024
    assert recipe.tune["epochs"] == 5
    assert Path(recipe.train["method"]).is_file()


def test_the_adapters_of_the_paper_have_its_sizes() -> None:
    """The official counts for OFA-Base: width 128, length 100, rank 16."""
    sizes = {}
    for name in PAPER:
        with torch.device("meta"):
            base = OfaForConditionalGeneration(OfaConfig.of_size("base")).requires_grad_(False)
            adapted = get_peft_model(base, peft_config(str(read_recipe(name).train["method"]), base))
        sizes[name] = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert sizes == {"ofa-adapter": 4_740_096, "ofa-prefix": 1_843_200, "ofa-lora": 1_769_472}


def test_a_recipe_stands_where_the_command_line_says_nothing(tmp_path: Path) -> None:
    task, backbone = write_dataset("mnli", tmp_path / "mnli"), save(tmp_path / "ofa")
    (tmp_path / "small.json").write_text(
        json.dumps({"peft_type": "BOTTLENECK_ADAPTER", "bottleneck_size": 3})
    )
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "model: {dropout: 0.1}\n"
        "train: {method: small.json, epochs: 3, batch_size: 4, accumulate: 2, label_smoothing: 0.1}\n"
        "mix: {k: 1, sharing: layer}\n"
        "tune: {epochs: 1, batch_size: 4}\n"
    )
    common = ["--backbone", backbone, "--pool", tmp_path / "pool", "--recipe", recipe]
    outcome = call("train", task, *common, "--epochs", 1, "--json")
    assert outcome.code == 0, outcome.err
    card = Expert.load(tmp_path / "pool" / "mnli").card.recipe
    assert (card["epochs"], card["accumulate"], card["label_smoothing"]) == (1, 2, 0.1)
    assert card["model"] == {"dropout": 0.1}
    assert Expert.load(tmp_path / "pool" / "mnli").config.bottleneck_size == 3
    outcome = call(
        "tune", task, *common, "--out", tmp_path / "out", "--shots", 2, "--expert-epochs", 1, "--json"
    )
    assert outcome.code == 0, outcome.err
    assert outcome.document["k"] == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("train: {epoch: 3}\n", "Did you mean 'epochs'"),
        ("trian: {epochs: 3}\n", "Did you mean 'train'"),
        ("train: {learning_rate: 1e-4}\n", "must be float or NoneType.*'1e-4'.*1.0e-4"),
        ("train: {epochs: '5'}\n", "epochs of train must be int"),
        ("train: {epochs: yes}\n", "epochs of train must be int"),
        ("train: {batch_size: 2.5}\n", "batch_size of train must be int"),
        ("train: {precision: bf16}\n", "must be 'float32' or 'bfloat16'"),
        ("mix: {k: two}\n", "k of mix must be int"),
        ("train: 3\n", "a recipe maps model, train, mix, tune to settings; given: `train: 3` in"),
        ("train: {epochs: [\n", "a recipe must be YAML"),
        ("train: {epochs: 1}\ntrain: {epochs: 2}\n", "the key 'train' stands twice"),
        ("- 1\n", "a recipe maps"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(content: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=words):
        read_recipe(str(file))


def test_a_switch_that_is_not_given_leaves_the_recipes() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, TrainConfig, title="training")
    for line, wanted in (([], False), (["--gradient-checkpointing"], True)):
        assert read_options(parser.parse_args(line), TrainConfig).gradient_checkpointing is wanted
    told = {"gradient_checkpointing": True}
    assert read_options(parser.parse_args([]), TrainConfig, defaults=told).gradient_checkpointing


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'ofa-adapter'"):
        read_recipe("ofa-adaptor")

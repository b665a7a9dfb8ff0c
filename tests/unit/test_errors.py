"""What every configuration checks of itself."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from peft import LoraConfig

from pituning import PiConfig, TrainConfig, TuneConfig
from pituning.errors import ConfigError
from pituning.models.ofa.conversion import ConversionConfig
from pituning.predict import FisherConfig
from pituning.pretrain.config import PretrainConfig


@dataclass
class Options:
    """As a configuration has them."""

    at: Literal["start", "expert"] | None = None
    labels: Literal["gold", "sampled"] = "gold"
    name: str | None = None
    k: int = 3
    rate: float | None = 0.1


def test_a_value_that_is_none_of_its_literal_is_named() -> None:
    assert ConfigError.misnamed(Options(None, "sampled", "x")) == []
    wrong = Options("own", "silver")  # type: ignore[arg-type]
    assert [str(fault) for fault in ConfigError.misnamed(wrong)] == [
        "at is one of start, expert; given: 'own'. Name one of them.",
        "labels is one of gold, sampled; given: 'silver'. Name one of them.",
    ]


PATHS = """
from pathlib import Path
import torch
from torch import nn
from transformers import BertConfig, BertModel
from pituning import *
from pituning.backbones import Causal, Matching
from pituning.mini20 import mini_task

backbone, pool = load_backbone("minilm"), Pool.create(Path(FOLDER) / "pool")
task = mini_task("sst2").sample(shots=2, seed=0)
size = BertConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1, intermediate_size=8)
small = BertModel(size)
expert = train_expert(backbone, task, TrainConfig(epochs=0))
point = embed(backbone, expert, task, FisherConfig(max_examples=2))
linear, rows = nn.Linear(2, 1), torch.ones(1, 2)
for kind, call in (
    ("Backbone", lambda: pi_tune("minilm", task, pool)),
    ("Task", lambda: pi_tune(backbone, "mini20/sst2", pool)),
    ("Pool", lambda: pi_tune(backbone, task, "pool")),
    ("PiConfig", lambda: pi_tune(backbone, task, pool, {"shots": 16})),
    ("Expert", lambda: pi_tune(backbone, task, pool, expert="folder")),
    ("Backbone", lambda: train_expert("minilm", task)),
    ("Task", lambda: train_expert(backbone, "mini20/sst2")),
    ("TrainConfig", lambda: train_expert(backbone, task, {"epochs": 1})),
    ("Expert", lambda: attach_expert(backbone, "folder")),
    ("Expert", lambda: Mixture(backbone, ["folder"])),
    ("Example", lambda: backbone.predict(backbone.model, "A film", task)),
    ("Expert", lambda: pool.add("folder")),
    ("Expert", lambda: embed(backbone, task, "folder")),
    ("TrainConfig", lambda: PiConfig(train={"epochs": 1})),
    ("Sequence", lambda: backbone.predict(backbone.model, Example(text_a="A film"), task)),
    ("Task", lambda: backbone.predict(backbone.model, [], "sst2")),
    ("Module", lambda: backbone.predict(expert, [], task)),
    ("", lambda: attach_expert(backbone.model, expert)),
    ("", lambda: Mixture("minilm", [expert])),
    ("TaskEmbedding", lambda: pool.add(expert, expert)),
    ("TaskEmbedding", lambda: pool.add_embedding(expert.name, expert)),
    ("Mapping", lambda: similarity(point, point)),
    ("str or PathLike", lambda: load_task(None)),
    ("str or PathLike", lambda: Expert.load(None)),
    ("str or PathLike", lambda: Pool(None)),
    ("str or PathLike", lambda: Pool.create(None)),
    ("Real", lambda: Matching(small, backbone.tokenizer, name="x", scale="20")),
    ("Integral", lambda: Mixture(backbone, [expert], space="delta").collapse(rank="4")),
    ("", lambda: load_backbone(small)),
    ("", lambda: Causal(small, None, name="x")),
    ("", lambda: Matching(small, None, name="x")),
    ("", lambda: Matching(small, backbone.tokenizer, name="x", pooling="max")),
    ("", lambda: similarity(point.components, point.components, setting="papr")),
    ("", lambda: diagonal_fisher(linear, [rows], lambda model, x: model(x)[0], method="hook")),
    ("", lambda: diagonal_fisher(linear, [rows], lambda model, x: 0.5)),
    ("", lambda: diagonal_fisher(linear, [rows], lambda model, x: model(x)[0].detach())),
    ("", lambda: pool.get(3)),
):
    try:
        call()
    except PituningError as error:
        print(f"{kind}|{error}")
"""


FIXES = ("makes one.", "of an expert, `attach_expert(backbone, expert)` makes one.", "Put it into a list.")
FIXES += ("Give the `components` of a task embedding.", "Give the path of a folder.", ", without quotes.")
OTHERS = (
    "an adapter's backbone must be a Backbone; given: BertModel. `load_backbone(name)` makes one, and ",
    "an adapter's backbone must be a Backbone; given: str. `load_backbone(name)` makes one, and ",
    "`load_backbone` takes a name or a folder; given: BertModel. Wrap it",
    "a causal backbone is made of an AutoModelForCausalLM or AutoModelForImageTextToText; given: BertModel. ",
    "x must have a tokenizer; given: None. Give it after the model",
    "pooling is one of mean, cls; given: 'max'. Name one of them.",
    "setting is one of default, paper; given: 'papr'. Did you mean 'paper'? Name one of them.",
    "method is one of auto, hooks, loop; given: 'hook'. Did you mean 'hooks'? Name one of them.",
    "nll must return one loss for each example of a batch, and a batch holds at least one; given: float. ",
    "nll must return losses that depend on what is trainable; given: losses without a gradient. ",
    "the expert must be in the pool; given: 3. ",
)


def test_a_path_or_a_name_for_what_lies_there_is_told(tmp_path: Path) -> None:
    """In a process of its own, without the checks of types that tests run under."""
    code = PATHS.replace("FOLDER", repr(str(tmp_path)))
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    lines = [line.split("|") for line in told.splitlines()]
    kinds, others = [line for line in lines if line[0]], [line for kind, line in lines if not kind]
    assert len(kinds) == 26
    for kind, line in kinds:
        assert f"must be of type {kind}; given: " in line
        assert line.endswith(FIXES)
    for line, start in zip(others, OTHERS, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize("k", ["3", 3.0, None, True])
def test_what_is_no_number_is_named(k: object) -> None:
    ConfigError.check_numbers(Options(k=1, rate=1))
    options = Options(k=np.int64(1), rate=np.float32(0.5))  # type: ignore[arg-type]
    ConfigError.check_numbers(options)
    assert (type(options.k), type(options.rate)) == (int, float)
    with pytest.raises(ConfigError, match=f"k must be a whole number; given: {re.escape(repr(k))}"):
        ConfigError.check_numbers(Options(k=k))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"rate must be a number; given: '0\.1'"):
        ConfigError.check_numbers(Options(rate="0.1"))  # type: ignore[arg-type]


@dataclass
class Switches:
    """As a configuration has them."""

    own: bool = False
    maybe: bool | None = None


@pytest.mark.parametrize("value", ["no", 1, None])
def test_what_is_neither_true_nor_false_is_named(value: object) -> None:
    ConfigError.check_numbers(Switches(own=True))
    with pytest.raises(ConfigError, match=f"own must be True or False; given: {value!r}"):
        ConfigError.check_numbers(Switches(own=value))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda: PiConfig(freeze_experts="no"),  # type: ignore[arg-type]
        lambda: TrainConfig(gradient_checkpointing="no"),  # type: ignore[arg-type]
        lambda: ConversionConfig(ema="no"),  # type: ignore[arg-type]
        lambda: PretrainConfig(fp32="no"),  # type: ignore[arg-type]
    ],
)
def test_every_configuration_checks_its_switches(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match="must be True or False; given: 'no'"):
        make()


def test_numpys_switch_becomes_pythons() -> None:
    config = PiConfig()
    object.__setattr__(config, "freeze_experts", np.bool_(True))  # as without the checks of tests' types
    config.__post_init__()
    assert config.freeze_experts is True


@pytest.mark.parametrize("method", [LoraConfig(), Path("adapter_config.json")])
def test_a_method_is_a_name_or_a_path_as_text(method: object) -> None:
    with pytest.raises(ConfigError, match=r"method must be a name, or the path.*save_pretrained"):
        TrainConfig(method=method)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "name"), [(FisherConfig(), "max_examples"), (PiConfig(), "seed"), (TuneConfig(), "epochs")]
)
def test_every_configuration_checks_its_numbers(config: Any, name: str) -> None:
    object.__setattr__(config, name, "2")  # as without the checks of types that tests run under
    with pytest.raises(ConfigError, match=f"{name} must be a whole number; given: '2'"):
        config.__post_init__()

"""Random numbers that are the same everywhere."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
from peft import get_peft_model
from transformers import BertConfig, BertModel
from pituning.expert import initialisation_of
from pituning.methods import BottleneckConfig
from pituning.seed import isolated_seed

shape = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
model = BertModel(shape)
with isolated_seed(0):
    adapted = get_peft_model(model, BottleneckConfig(target_modules=["dense"], bottleneck_size=16))
print(initialisation_of(adapted))
"""


@pytest.mark.slow
def test_a_pools_initialisation_does_not_depend_on_the_processor() -> None:
    said = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", CODE],
            env=os.environ | {"ATEN_CPU_CAPABILITY": instructions},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for instructions in ("default", "avx2")
    }
    assert len(said) == 1
    assert said.pop().strip()

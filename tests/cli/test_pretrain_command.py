"""`python -m pituning.pretrain` in its own processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pituning.backbones import load_backbone
from pituning.mini20 import Sizes, mini_task
from pituning.pretrain.loop import CHECKPOINT, CURVE

SHORT = (
    "--steps",
    "2",
    "--more-steps",
    "2",
    "--batch-size",
    "16",
    "--checkpoint-every",
    "2",
    "--pieces",
    "600",
)


def pretrain(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pituning.pretrain", "--out", str(out), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_stopped_run_goes_on_to_the_model_of_an_uninterrupted_one(processes: str, tmp_path: Path) -> None:
    options = (*SHORT, "--processes", processes)
    for out, stops in (("whole", [()]), ("parts", [("--stop-after", "2"), ()])):
        for stop in stops:
            done = pretrain(tmp_path / out, *options, *stop)
            assert done.returncode == 0, done.stderr
    curves = [json.loads((tmp_path / out / "work" / CURVE).read_text()) for out in ("whole", "parts")]
    assert curves[0] == curves[1]
    assert len(curves[0]) == 4
    whole, parts = (load_file(tmp_path / out / "work" / CHECKPOINT) for out in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    backbone = load_backbone(tmp_path / "parts" / "model")
    task = mini_task("food101", sizes=Sizes(train=1, validation=1, test=2))
    assert len(backbone.predict(backbone.model, task.test, task)) == 2


def test_what_is_wrong_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    done = pretrain(tmp_path / "out", "--emoji", str(tmp_path))
    assert done.returncode == 2
    assert "must hold emoji.json" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()

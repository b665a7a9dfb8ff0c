"""The demo: what it says it computes and writes, and that it leaves nothing behind when it is stopped."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from command import call, outcome_of, process, wait_for
from peft import PeftModel

from pituning.backbones import load_backbone
from pituning.expert import Expert, attach_expert
from pituning.mini20 import mini_task
from pituning.train import score


@pytest.mark.slow
def test_the_demo_tunes_a_task_and_shows_how(tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = call("demo", "--target", "rte", "--shots", 2, "--out", out, "--json")
    assert outcome.code == 0, outcome.err
    said = json.loads(outcome.out)
    assert said["task"] == "rte"
    assert said["scores"].keys() == {"base", "expert", "neighbor", "init", "pi"}
    assert len(said["neighbors"]) == 3
    assert "rte" not in {neighbor["name"] for neighbor in said["neighbors"]}
    assert sorted(path.name for path in tmp_path.rglob("*") if path.parent == out) == [
        "adapter",
        "report.html",
    ]
    backbone, expert = load_backbone("ofa-mini"), Expert.load(out / "adapter")
    model = attach_expert(backbone, expert)
    assert isinstance(model, PeftModel)
    assert score(backbone, model, mini_task("rte")) == pytest.approx(said["scores"]["pi"])
    page = (out / "report.html").read_text()
    assert all(neighbor["name"] in page for neighbor in said["neighbors"])
    assert "pituning demo --target rte" in page


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False])
def test_a_stopped_demo_leaves_nothing(tmp_path: Path, named: bool) -> None:
    places = ("--out", tmp_path / "new" / "folder" / "out") if named else ()
    running = process("demo", *places, env=os.environ | {"TMPDIR": str(tmp_path)})
    wait_for(lambda: any(tmp_path.glob("*/**/.*/*")), running)
    running.send_signal(signal.SIGINT)
    outcome = outcome_of(running)
    assert (outcome.code, outcome.out) == (130, "")
    assert "interrupted; nothing half-written was left." in outcome.err
    assert "Traceback" not in outcome.err
    assert [*tmp_path.iterdir()] == []

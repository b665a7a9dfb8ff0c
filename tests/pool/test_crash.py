"""Killed writers and many at once, in processes of their own; 200 kills and 400 experts: `benchmarks/`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "pool_crash.py"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("crash") / "result.json"
    amounts = ("--edits", "16", "--builds", "4", "--writers", "4", "--each", "10")
    command = [sys.executable, "-W", "ignore", str(BENCHMARK), *amounts, "--out", str(out)]
    subprocess.run(command, capture_output=True, check=False, timeout=240)
    return json.loads(out.read_text())


def test_killed_editor_leaves_what_was_finished(result: Any) -> None:
    found = result["edits"]
    assert (found["kills"], found["lost"], found["faults"]) == (16, [], [])
    assert found["in the middle of a change"] > 0


def test_killed_build_goes_on_to_the_same_pool(result: Any) -> None:
    found = result["builds"]
    assert (found["kills"], found["lost"], found["faults"], found["unequal"]) == (4, [], [], [])


def test_writers_lose_none_of_each_others_experts(result: Any) -> None:
    found = result["writers"]
    assert (found["experts"], found["failed"], found["missing"], found["faults"]) == (40, 0, [], [])

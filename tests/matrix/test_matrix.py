"""Every family of models with every method: train, embed, mix, tune, collapse, save, and load without us.

docs/matrix.md is written from such runs by `python tests/matrix/test_matrix.py`; the last test compares it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import tiny
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pituning.backbones import Backbone, load_backbone
from pituning.errors import ExpertError
from pituning.expert import Expert, attach_expert
from pituning.interpolate import Mixture, TuneConfig, tune
from pituning.methods import METHOD_NAMES
from pituning.predict import FisherConfig, embed
from pituning.predict.information import component_name
from pituning.task import Task
from pituning.train import TrainConfig, train_expert

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Detected that the base layer has no bias term:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore:Invalid `oft_block_size`:UserWarning"),
    # torch on a CPU, where Fisher information of a prefix maps over self-attention.
    pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet:UserWarning"),
]

MODELS = {
    "t5": ("T5", "AutoModelForSeq2SeqLM"),
    "llama": ("Llama", "AutoModelForCausalLM"),
    "idefics3": ("Idefics3", "AutoModelForImageTextToText"),
    "bert": ("BertModel", "AutoModel"),
    "clip": ("CLIP", "AutoModel"),
    "bert_classifier": ("BertForSequenceClassification", "AutoModelForSequenceClassification"),
    "vit": ("ViTForImageClassification", "AutoModelForImageClassification"),
}
METHODS = tuple(name for name in METHOD_NAMES if name != "bottleneck")  # another name for "adapter"
CELLS = [(kind, method) for kind in MODELS for method in METHODS]
REFUSED = {("clip", "prompt"), ("vit", "prompt")}
OUTPUTS = ("logits", "logits_per_image", "last_hidden_state")
# Methods of ours that a fresh process must import pituning for.
OWN = {"BOTTLENECK_ADAPTER", "SELF_ATTENTION_PREFIX"}

TABLE = Path(__file__).parents[2] / "docs" / "matrix.md"
FRESH = Path(__file__).with_name("load_without_pituning.py")

INTRODUCTION = """# Which method works with which model

Written by `python tests/matrix/test_matrix.py` from runs on models of two layers, and compared with such
runs by the tests. A cell **works** if three experts of three tasks (with 2, 4 and 3 classes) can be trained
from one initialisation, one of them embedded (Fisher information for every parameter that is mixed), the
three mixed in parameter space, tuned, collapsed and saved, and if a process with transformers and PEFT alone
then loads the folder with `PeftModel.from_pretrained` and gives the mixture's outputs within 1e-5. **With
us**: PEFT lacks the method, so that process runs `import pituning.methods` first.
"""


@dataclass
class Cell:
    """What became of one model with one method."""

    problem: Exception | None = None
    initialisations: set[str] = field(default_factory=set)
    classes: set[int] = field(default_factory=set)
    unmoved: list[str] = field(default_factory=list)
    components: dict[str, Tensor] = field(default_factory=dict)
    before: dict[str, Tensor] = field(default_factory=dict)
    mixed: set[str] = field(default_factory=set)
    moved_alpha: bool = False
    peft_type: str = ""
    outputs: dict[str, Tensor] = field(default_factory=dict)
    loaded: float | str = "not loaded"


CellOf = Callable[[str, str], Cell]


@pytest.fixture(scope="module")
def cell_of(
    backbone_of: Callable[[str], Backbone],
    folder_of: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> CellOf:
    """All methods of a model run at the first question, and one fresh process loads what they saved."""

    @cache
    def column(kind: str) -> dict[str, Cell]:
        room = tmp_path_factory.mktemp(f"matrix-{kind}")
        return run_model(kind, backbone_of(kind), folder_of(kind), room)

    return lambda kind, method: column(kind)[method]


def run_model(kind: str, backbone: Backbone, base: Path, room: Path) -> dict[str, Cell]:
    cells, orders = {}, []
    for method in METHODS:
        cells[method] = Cell()
        try:
            labels = run_cell(cells[method], kind, backbone, method, room)
        except Exception as problem:  # shown by the test of the cell
            cells[method].problem = problem
            continue
        orders.append(
            {
                "cell": method,
                "auto": MODELS[kind][1],
                "base": str(base),
                "labels": labels if backbone.family == "classifier" else 0,
                "adapter": str(room / method),
                "arrays": str(room / f"{method}.safetensors"),
                "own": cells[method].peft_type in OWN,
            }
        )
    for method, found in in_fresh_process(orders, room).items():
        cells[method].loaded = found
    return cells


def run_cell(cell: Cell, kind: str, backbone: Backbone, method: str, room: Path) -> int:
    """Fill the cell; the number of the target's classes."""
    tasks = tasks_for(kind)
    target = tasks[1]
    training = TrainConfig(method=method, epochs=2, batch_size=3, patience=0)
    experts = [train_expert(backbone, task, training) for task in tasks]
    untrained = train_expert(backbone, target, TrainConfig(method=method, epochs=0))
    cell.initialisations = {expert.card.initialisation for expert in experts}
    cell.classes = {len(task.candidates) for task in tasks}
    cell.unmoved = [e.name for e in experts if same(e, untrained)]
    at_it = FisherConfig(batch_size=3, at="expert")
    cell.components = embed(backbone, experts[1], target, at_it).components
    cell.before = embed(backbone, experts[1], target, FisherConfig(batch_size=3)).components
    cell.peft_type = experts[0].method

    mixture = Mixture(backbone, experts, target=target.name)
    tune(mixture, target, TuneConfig(epochs=1, batch_size=3))
    cell.mixed = {component_name(slot.name) for slot in mixture.tensors.slots}
    cell.moved_alpha = bool((mixture.alpha != mixture.alpha[0, 0]).any())
    collapsed = mixture.collapse(name="mixed")
    collapsed.save(room / method)

    inputs = inputs_for(kind, backbone, target)
    with torch.no_grad():
        cell.outputs = {
            "mixture": output_of(mixture, inputs),
            "collapsed": output_of(attach_expert(backbone, collapsed), inputs),
            "reloaded": output_of(attach_expert(backbone, Expert.load(room / method)), inputs),
            "target": output_of(attach_expert(backbone, experts[1]), inputs),
        }
    arrays = {f"in.{name}": tensor.contiguous() for name, tensor in inputs.items()}
    save_file(arrays | {"expected": cell.outputs["mixture"].contiguous()}, room / f"{method}.safetensors")
    return len(target.candidates)


def tasks_for(kind: str) -> list[Task]:
    """Three tasks; the heads of classifiers have 2, 4 and 3 outputs."""
    return [tiny.task_for(kind, seed, classes=classes) for seed, classes in enumerate((2, 4, 3))]


def inputs_for(kind: str, backbone: Backbone, task: Task) -> dict[str, Tensor]:
    """Arguments of the model's own forward, from a batch of the task."""
    batch = backbone.collate(task.train, task)
    if kind == "clip":
        return {
            "input_ids": batch["candidate_input_ids"],
            "attention_mask": batch["candidate_attention_mask"],
            "pixel_values": batch["pixel_values"],
        }
    if kind == "t5":
        batch["decoder_input_ids"] = batch["labels"]
    return {
        name: tensor
        for name, tensor in batch.items()
        if name not in ("gold", "labels", "label_mask") and not name.startswith("candidate_")
    }


def output_of(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    output: Any = model.eval()(**inputs)
    return next(output[name] for name in OUTPUTS if output.get(name) is not None)


def same(a: Expert, b: Expert) -> bool:
    """Whether all tensors but those of another size (heads) are equal."""
    return all(torch.equal(t, b.tensors[n]) for n, t in a.tensors.items() if t.shape == b.tensors[n].shape)


def in_fresh_process(orders: list[dict[str, Any]], room: Path) -> dict[str, float | str]:
    file = room / "orders.json"
    file.write_text(json.dumps(orders))
    done = subprocess.run(
        [sys.executable, "-I", str(FRESH), str(file)],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, float | str] = json.loads(done.stdout)
    return found


# What has no gradient before training, because the factor beside it is still zero.
HIDES = dict.fromkeys(("lora", "dora", "rslora"), ".lora_A.") | {
    "vera": "lambda_d",
    "lokr": "lokr_w2",
}


@pytest.mark.parametrize(("kind", "method"), CELLS)
def test_every_cell_works_or_is_refused(kind: str, method: str, cell_of: CellOf) -> None:
    cell = cell_of(kind, method)
    if (kind, method) in REFUSED:
        assert isinstance(cell.problem, ExpertError)
        return
    if cell.problem:
        raise cell.problem

    # Expert: training moved every one, away from one common point.
    assert len(cell.initialisations) == 1
    assert len(cell.classes) == 3
    assert not cell.unmoved

    # Predict: a number for every parameter that is mixed.
    assert cell.components.keys() == cell.mixed
    assert all(bool(torch.isfinite(c).all() and (c >= 0).all()) for c in cell.components.values())
    assert all(bool(c.any()) for c in cell.components.values())
    assert cell.before.keys() == cell.mixed
    silent = {name for name, component in cell.before.items() if not component.any()}
    assert silent == {name for name in cell.before if method in HIDES and HIDES[method] in name}

    # Interpolate, collapse, save and load.
    assert cell.moved_alpha
    mixture = cell.outputs["mixture"]
    assert not torch.allclose(mixture, cell.outputs["target"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cell.outputs["collapsed"], mixture, rtol=1e-5, atol=1e-5)
    assert torch.equal(cell.outputs["reloaded"], cell.outputs["collapsed"])
    assert isinstance(cell.loaded, float), cell.loaded
    assert cell.loaded <= 1e-5


def test_exactly_the_known_cells_are_refused(cell_of: CellOf) -> None:
    assert {cell for cell in CELLS if cell_of(*cell).problem} == REFUSED


def test_the_table_in_the_documentation_is_what_happened(cell_of: CellOf) -> None:
    assert TABLE.read_text() == table(cell_of)


def table(cell_of: CellOf) -> str:
    """docs/matrix.md."""
    reasons: list[str] = []

    def entry(kind: str, method: str) -> str:
        cell = cell_of(kind, method)
        if isinstance(cell.problem, ExpertError):
            reason = f"{cell.problem.must[0].upper()}{cell.problem.must[1:]}."
            if reason not in reasons:
                reasons.append(reason)
            return f"refused ({reasons.index(reason) + 1})"
        if cell.problem or not isinstance(cell.loaded, float) or cell.loaded > 1e-5:
            return "BROKEN"
        return "works, with us" if cell.peft_type in OWN else "works"

    header = ["method", *(name for name, _ in MODELS.values())]
    rows = [[f"`{method}`", *(entry(kind, method) for kind in MODELS)] for method in METHODS]
    lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
    notes = [f"{index + 1}. {reason}" for index, reason in enumerate(reasons)]
    return "\n".join(
        [INTRODUCTION, *lines, "", "Refused, by an `ExpertError` before anything is trained:", "", *notes, ""]
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as room:
        columns = {}
        for kind in MODELS:
            base = tiny.save(kind, Path(room) / kind)
            work = Path(room) / f"{kind}-cells"
            work.mkdir()
            columns[kind] = run_model(kind, load_backbone(base, device="cpu"), base, work)
        TABLE.write_text(table(lambda kind, method: columns[kind][method]))


if __name__ == "__main__":
    main()

"""Task embeddings: what they hold, when they stop, how they are kept and refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import save
from torch import Tensor

from pituning.backbones import Backbone
from pituning.errors import BackboneError, ConfigError, StaleEmbeddingError, TaskError
from pituning.expert import Expert, ExpertCard, attach, attach_expert, saved_tensors
from pituning.methods import peft_config
from pituning.pool import Pool
from pituning.predict import FisherConfig, TaskEmbedding, embed, similarity
from pituning.predict.information import FIRST_CHECK, component_name, sample_labels
from pituning.safe_files import parse_metadata
from pituning.task import Task

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

ALL = {"tolerance": 0.0}


def expert_for(backbone: Backbone, task: Task, method: str = "lora") -> Expert:
    """An adapter away from its start, as if it were trained."""
    heads = backbone.head_modules(backbone.model)
    config = peft_config(method, backbone.model, heads=heads)
    model = attach(backbone, config, labels=task.candidates, seed=0)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    card = ExpertCard(name=task.name, task=task.name, backbone=backbone.fingerprint, labels=task.candidates)
    return Expert(card, model.active_peft_config, saved_tensors(model))


@pytest.fixture
def backbone(backbone_of: Callable[[str], Backbone]) -> Backbone:
    return backbone_of("bert")


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny.text_task(train=20)


@pytest.fixture
def expert(backbone: Backbone, task: Task) -> Expert:
    return expert_for(backbone, task)


def assert_close(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert float((a[name] - b[name]).norm()) <= 1e-5 * float(b[name].norm()), name


@pytest.mark.parametrize("labels", ["gold", "sampled"])
def test_embedding_does_not_depend_on_the_batch_size(
    backbone: Backbone, expert: Expert, task: Task, labels: str
) -> None:
    found = [
        embed(backbone, expert, task, FisherConfig(batch_size=size, labels=labels))  # type: ignore[arg-type]
        for size in (1, 7, 32)
    ]
    for other in found[1:]:
        assert_close(other.components, found[0].components)


def test_embedding_does_not_depend_on_the_order_of_the_examples(
    backbone: Backbone, expert: Expert, task: Task
) -> None:
    turned = dataclasses.replace(task, train=task.train[::-1])
    config = FisherConfig(max_examples=7)
    found = [embed(backbone, expert, each, config) for each in (task, turned)]
    assert found[0].examples == 7
    assert_close(found[0].components, found[1].components)


def test_paper_setting_squares_the_summed_gradient_of_each_batch(
    backbone: Backbone, expert: Expert, task: Task
) -> None:
    found = embed(backbone, expert, task, FisherConfig(setting="paper", batch_size=8))
    model = attach_expert(backbone, expert)
    examples = sorted(task.train, key=lambda example: example.digest)
    totals = {component_name(name): torch.zeros_like(p) for name, p in model.named_parameters()}
    for start in range(0, len(examples), 8):
        model.zero_grad()
        batch = backbone.collate(examples[start : start + 8], task)  # the candidates are read once
        backbone.nll(model, batch).sum().backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                totals[component_name(name)] += parameter.grad**2
    assert_close(found.components, {name: totals[name] / len(examples) for name in found.components})
    exact = embed(backbone, expert, task, FisherConfig(at="expert", **ALL))
    assert similarity(found.components, exact.components) < 0.99


@pytest.mark.parametrize("method", ["lora", "adapter", "prompt"])
def test_at_the_untrained_adapter_training_does_not_count(
    backbone: Backbone, task: Task, method: str
) -> None:
    """It equals the loop over single examples at a new adapter of the expert's seed."""
    made = expert_for(backbone, task, method)
    trained = dataclasses.replace(made, card=dataclasses.replace(made.card, recipe={"init_seed": 3}))
    found = embed(backbone, trained, task, FisherConfig(**ALL))
    model = attach(backbone, trained.config, labels=task.candidates, seed=3).eval()
    totals = {component_name(n): torch.zeros_like(p) for n, p in model.named_parameters() if p.requires_grad}
    for example in task.train:
        model.zero_grad()
        backbone.nll(model, backbone.collate([example], task)).sum().backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                totals[component_name(name)] += parameter.grad**2
    assert_close(found.components, {name: total / len(task.train) for name, total in totals.items()})
    assert (found.at, found.expert) == ("start", trained.digest)
    own = embed(backbone, trained, task, FisherConfig(at="expert", **ALL))
    assert similarity(own.components, found.components) < 0.999
    assert own.manner != found.manner


def test_at_the_untrained_adapter_the_head_is_the_experts(backbone_of: Callable[[str], Backbone]) -> None:
    backbone, task = backbone_of("bert_classifier"), tiny.task_for("bert_classifier")
    expert = expert_for(backbone, task)
    heads = {name: tensor for name, tensor in expert.tensors.items() if "classifier" in name}
    assert heads
    other = dataclasses.replace(expert, tensors={**expert.tensors, **{n: -t for n, t in heads.items()}})
    found, turned = (embed(backbone, each, task, FisherConfig(**ALL)).components for each in (expert, other))
    assert any(not torch.equal(found[name], turned[name]) for name in found)


def test_a_file_from_before_there_was_a_choice_is_at_the_expert(
    backbone: Backbone, expert: Expert, task: Task
) -> None:
    found = embed(backbone, expert, task, FisherConfig(at="expert"))
    facts = json.loads(parse_metadata(found.to_bytes())["embedding"])
    assert facts.pop("at") == "expert"
    older = save(found.components, metadata={"embedding": json.dumps(facts)})
    assert TaskEmbedding.from_bytes(older, Path("older")).manner == found.manner


def test_an_adapter_from_elsewhere_is_embedded_at_the_pools_seed(backbone: Backbone, task: Task) -> None:
    made = expert_for(backbone, task)  # its card does not tell a seed
    ours = dataclasses.replace(made, card=dataclasses.replace(made.card, recipe={"init_seed": 5}))
    theirs, there, here = (
        embed(backbone, made, task, init_seed=5),
        embed(backbone, ours, task, init_seed=7),
        embed(backbone, made, task),
    )
    assert similarity(theirs.components, there.components) == 1
    assert similarity(theirs.components, here.components) < 1


def test_the_papers_setting_is_at_the_expert() -> None:
    assert (FisherConfig().where, FisherConfig(setting="paper").where) == ("start", "expert")
    assert dataclasses.replace(FisherConfig(), setting="paper").where == "expert"
    assert FisherConfig(setting="paper", at="start").where == "start"
    assert FisherConfig().hash == FisherConfig(at="start").hash != FisherConfig(at="expert").hash


def test_a_head_is_not_part_of_an_embedding(backbone_of: Callable[[str], Backbone]) -> None:
    backbone, task = backbone_of("bert_classifier"), tiny.task_for("bert_classifier")
    found = embed(backbone, expert_for(backbone, task), task)
    assert found.components
    assert not [name for name in found.components if "classifier" in name]


def test_embedding_stops_when_twice_the_examples_change_it_little(backbone: Backbone) -> None:
    """After 64, 128, 256 … examples; at the first where the similarity with half as many is 1 - tolerance."""
    task = tiny.text_task(train=4 * FIRST_CHECK + 10)
    expert = expert_for(backbone, task)
    everything = embed(backbone, expert, task, FisherConfig(**ALL))
    assert everything.examples == 4 * FIRST_CHECK + 10
    at = {
        n: embed(backbone, expert, task, FisherConfig(max_examples=n, **ALL)).components
        for n in (FIRST_CHECK, 2 * FIRST_CHECK, 4 * FIRST_CHECK)
    }
    first, second = (similarity(at[n], at[2 * n]) for n in (FIRST_CHECK, 2 * FIRST_CHECK))
    loose = FisherConfig(tolerance=1 - first + 1e-6, batch_size=48)
    assert embed(backbone, expert, task, loose).examples == 2 * FIRST_CHECK
    assert second > first
    middle = FisherConfig(tolerance=1 - (first + second) / 2, batch_size=48)
    assert embed(backbone, expert, task, middle).examples == 4 * FIRST_CHECK
    tight = FisherConfig(tolerance=(1 - second) / 2)
    assert embed(backbone, expert, task, tight).examples == everything.examples


@pytest.mark.parametrize("examples", [FIRST_CHECK + 10, 3 * FIRST_CHECK])
def test_a_task_that_teaches_nothing_is_embedded_at_zero(examples: int, backbone: Backbone) -> None:
    task = tiny.text_task(train=examples)
    one = dataclasses.replace(task, candidates=("only",), candidate_texts={}, validation=(), test=())
    train = tuple(dataclasses.replace(example, label="only") for example in task.train)
    taught = dataclasses.replace(one, train=train)
    assert embed(backbone, expert_for(backbone, taught), taught).is_zero


def test_what_could_not_be_read_again_is_not_written(
    backbone: Backbone, expert: Expert, task: Task, tmp_path: Path
) -> None:
    found = embed(backbone, expert, task)
    name = min(found.components)
    broken = dataclasses.replace(
        found, components=found.components | {name: torch.full_like(found.components[name], float("nan"))}
    )
    pool = Pool.create(tmp_path / "pool")
    with pytest.raises(StaleEmbeddingError, match="finite, non-negative float32; given: not so in"):
        pool.add(expert, broken)
    assert list(pool) == []


def test_sampled_labels_are_the_seeds(backbone: Backbone, expert: Expert, task: Task) -> None:
    model = attach_expert(backbone, expert)
    drawn = [[e.label for e in sample_labels(backbone, model, task.train, task, seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert set(drawn[0]) <= set(task.candidates)


def test_sampled_labels_need_candidates(backbone_of: Callable[[str], Backbone]) -> None:
    backbone, task = backbone_of("t5"), tiny.open_task()
    with pytest.raises(BackboneError, match="sampled among"):
        embed(backbone, expert_for(backbone, task), task, FisherConfig(labels="sampled"))


def test_a_task_of_pictures_on_a_backbone_that_reads_texts_is_told(
    backbone: Backbone, expert: Expert, task: Task
) -> None:
    with pytest.raises(BackboneError, match="reads text only"):
        embed(backbone, expert, dataclasses.replace(task, modality="image"))


def test_save_then_load_is_bit_exact(backbone: Backbone, expert: Expert, task: Task, tmp_path: Path) -> None:
    found = embed(backbone, expert, task)
    file = tmp_path / "embedding.safetensors"
    file.write_bytes(found.to_bytes())
    loaded = TaskEmbedding.load(file)
    assert loaded.components.keys() == found.components.keys()
    assert all(torch.equal(loaded.components[name], found.components[name]) for name in found.components)
    facts = [field.name for field in dataclasses.fields(TaskEmbedding) if field.name != "components"]
    assert [getattr(loaded, name) for name in facts] == [getattr(found, name) for name in facts]
    assert loaded.to_bytes() == found.to_bytes()


def test_a_stale_embedding_is_refused(backbone: Backbone, expert: Expert, task: Task) -> None:
    found = embed(backbone, expert, task)
    found.check_fresh(expert)
    name = next(iter(expert.tensors))
    changed = Expert(expert.card, expert.config, {**expert.tensors, name: expert.tensors[name] + 1})
    with pytest.raises(StaleEmbeddingError, match="as now"):
        found.check_fresh(changed)


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "foreign", "facts"])
def test_a_broken_embedding_file_is_refused(
    backbone: Backbone, expert: Expert, task: Task, tmp_path: Path, damage: str
) -> None:
    from safetensors.torch import save

    whole = embed(backbone, expert, task).to_bytes()
    tensors = {"w": torch.ones(1)}
    content = {
        "truncated": whole[:-10],
        "empty": b"",
        "foreign": save(tensors),
        "facts": save(tensors, metadata={"embedding": '{"task": "t"}'}),
    }
    file = tmp_path / "embedding.safetensors"
    if damage != "missing":
        file.write_bytes(content[damage])
    with pytest.raises(StaleEmbeddingError, match="whole safetensors file"):
        TaskEmbedding.load(file)


def test_all_faults_of_a_configuration_are_named() -> None:
    with pytest.raises(ConfigError, match=r"(?s)max_examples.*batch_size.*tolerance"):
        FisherConfig(max_examples=0, batch_size=0, tolerance=1.0)


def test_what_does_not_change_an_embedding_does_not_make_it_another() -> None:
    assert FisherConfig(batch_size=3, seed=1).hash == FisherConfig().hash
    for other in (
        {"at": "expert"},
        {"max_examples": 3},
        {"tolerance": 0.0},
        {"setting": "paper"},
        {"setting": "paper", "batch_size": 3},
        {"labels": "sampled"},
        {"labels": "sampled", "seed": 1},
    ):
        assert FisherConfig(**other).hash != FisherConfig().hash  # type: ignore[arg-type]
    paper, sampled = FisherConfig(setting="paper"), FisherConfig(labels="sampled")
    assert FisherConfig(setting="paper", tolerance=0.0).hash == paper.hash
    assert FisherConfig(setting="paper", batch_size=3).hash != paper.hash
    assert FisherConfig(labels="sampled", seed=1).hash != sampled.hash


def test_a_task_without_training_examples_is_refused(backbone: Backbone, task: Task) -> None:
    with pytest.raises(TaskError, match="must have train examples"):
        embed(backbone, expert_for(backbone, task), dataclasses.replace(task, train=()))

"""Laws of the backbone families, on tiny models loaded from saved folders."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AddedToken,
    BertForMaskedLM,
    BertForPreTraining,
    CLIPForImageClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForSequenceClassification,
    MambaForCausalLM,
    PegasusConfig,
    PegasusForConditionalGeneration,
    ResNetConfig,
    ResNetForImageClassification,
    SiglipConfig,
    SiglipForImageClassification,
)

from pituning.backbones import Backbone, base, load_backbone, texts
from pituning.backbones.causal import Causal
from pituning.backbones.classifier import Classifier, heads_of
from pituning.backbones.matching import Matching
from pituning.backbones.seq2seq import Seq2Seq
from pituning.decoding import Decoding
from pituning.errors import BackboneError, TaskError
from pituning.expert import attach, initialisation_of
from pituning.foundation import shared_copy
from pituning.methods import peft_config
from pituning.task import Example, Task
from pituning.train import TrainConfig, train_expert

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning"),
]

BackboneOf = Callable[[str], Backbone]
GENERATIVE = ("t5", "llama", "qwen2", "idefics3")
# Without an adapter, one that changes weights, one that lengthens the input, those that lengthen attention.
METHODS = ("none", "lora", "prompt", "prefix", "adapter")
CELLS = [
    (kind, method)
    for kind in tiny.MAKERS
    for method in METHODS
    if method != "prompt" or kind not in ("clip", "siglip", "llama_classifier", "vit")
]


def tasks_of(kind: str) -> list[Task]:
    """Every modality that the model reads."""
    tasks = [tiny.task_for(kind, classes=4)]
    if kind == "idefics3":
        tasks += [tiny.picture_task(question=True), tiny.text_task()]
    if kind in ("clip", "siglip"):
        tasks += [tiny.text_task()]
    return tasks


def adapted(backbone: Backbone, method: str, task: Task) -> nn.Module:
    """In eval mode, away from the adapter's initial zero."""
    if method == "none":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return backbone.fresh_module(task.candidates).eval()
    config = peft_config(method, backbone.model, heads=backbone.head_modules(backbone.model))
    model = attach(backbone, config, labels=task.candidates, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return model.eval()


def lengths(backbone: Backbone, model: nn.Module, task: Task, **decoding: int) -> list[int]:
    asked = dataclasses.replace(task, decoding=Decoding(**decoding))
    return [len(answer.split()) for answer in backbone.generate(model, task.train[:4], asked)]


def losses(
    backbone: Backbone, model: nn.Module, examples: tuple[Example, ...], task: Task, **how: bool
) -> Tensor:
    with torch.no_grad():
        return backbone.nll(model, backbone.collate(examples, task, **how))


@pytest.mark.parametrize("kind", tiny.MAKERS)
def test_a_folder_loads_as_the_family_of_its_architecture(kind: str, backbone_of: BackboneOf) -> None:
    backbone = backbone_of(kind)
    assert backbone.family == tiny.FAMILY[kind]
    assert not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


@pytest.mark.parametrize(("kind", "method"), CELLS)
def test_nll_of_an_example_does_not_depend_on_padding_or_neighbours(
    kind: str, method: str, backbone_of: BackboneOf
) -> None:
    backbone = backbone_of(kind)
    for task in tasks_of(kind):
        model = adapted(backbone, method, task)
        together = losses(backbone, model, task.train, task)
        alone = torch.cat([losses(backbone, model, (example,), task) for example in task.train])
        assert together.shape == (len(task.train),)
        assert len(set(together.tolist())) > 1
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "method"), CELLS)
def test_log_likelihoods_are_those_of_each_candidate_scored_alone(
    kind: str, method: str, backbone_of: BackboneOf
) -> None:
    backbone = backbone_of(kind)
    for task in tasks_of(kind):
        model = adapted(backbone, method, task)
        with torch.no_grad():
            found = backbone.log_likelihoods(model, task.train, task)
        for column, name in enumerate(task.candidates):
            relabelled = [dataclasses.replace(example, label=name) for example in task.train]
            alone = torch.cat([losses(backbone, model, (example,), task) for example in relabelled])
            torch.testing.assert_close(-found[:, column], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "idefics3"])
def test_candidates_are_scored_behind_the_shortest_prompts(kind: str, backbone_of: BackboneOf) -> None:
    backbone, task = backbone_of(kind), tiny.text_task()
    model = backbone.fresh_module(task.candidates).eval()
    for words in (("",), ("", "w1 w2 w3 w4"), ("w1", "w1 w2 w3 w4 w5 w6 w7")):
        examples = tuple(Example(text_a=text, label="green") for text in words)
        with torch.no_grad():
            found = backbone.log_likelihoods(model, examples, task)
        alone = torch.cat([losses(backbone, model, (example,), task) for example in examples])
        torch.testing.assert_close(-found[:, 1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["lora", "prompt", "prefix"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "idefics3"])
def test_logits_are_computed_where_they_are_read(
    kind: str, method: str, backbone_of: BackboneOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, task = backbone_of(kind), tiny.text_task()
    model, widths = adapted(backbone, method, task), list[int]()
    head = model.get_base_model().get_output_embeddings()
    handle = head.register_forward_hook(lambda *told: widths.append(told[2].shape[1]))
    batch = backbone.collate(task.train, task)
    with torch.no_grad():
        found = backbone.nll(model, batch)
        backbone.log_likelihoods(model, task.train, task)
    handle.remove()
    columns = batch["label_mask"].any(dim=0).nonzero()
    assert columns[0] > 1
    assert widths[0] == batch["input_ids"].shape[1] - columns[0] + 1  # from before the first answer on
    if method == "lora":  # the prompt's cache is made, then the candidates are read
        assert widths[1] == 1
    with torch.no_grad():
        inputs = {name: tensor for name, tensor in batch.items() if name != "label_mask"}
        logits = model(**inputs).logits[:, -batch["input_ids"].shape[1] : -1]
    shown = logits.log_softmax(dim=2).gather(2, batch["input_ids"][:, 1:, None])[..., 0]
    expected = -(shown * batch["label_mask"][:, 1:]).sum(dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(backbone, "skips_logits", False)
    assert losses(backbone, model, task.train, task).allclose(expected, rtol=1e-5, atol=1e-5)


def test_a_quantised_backbone_is_shared_by_all_adapters() -> None:
    """Of 8 bits, a copy that had no part of the first one's state took its integers for weights."""

    class Linear8bit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("qweight", torch.ones(4, dtype=torch.int32))
            self.register_buffer("mean", torch.ones(4))
            self.norm = nn.BatchNorm1d(4)
            self.state = SimpleNamespace(CB=torch.ones(4))

    Linear8bit.__module__ = "bitsandbytes.nn.modules"
    model = nn.Sequential(Linear8bit())
    copied = shared_copy(model)
    assert copied[0] is not model[0]
    assert copied[0].state is model[0].state
    assert copied[0].qweight is model[0].qweight
    assert copied[0].mean is not model[0].mean
    assert copied[0].norm.num_batches_tracked is not model[0].norm.num_batches_tracked


def test_pictures_have_the_type_of_the_weights() -> None:
    """Convolutions of ResNet, BEiT, Swin and others do not cast them."""
    sizes: Any = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    model = ResNetForImageClassification(ResNetConfig(**sizes, num_labels=2))
    reader = tiny.vit()[1]
    for dtype in (torch.float32, torch.bfloat16):
        backbone = Classifier(model.to(dtype), reader, name="resnet")
        task = tiny.task_for("vit", classes=2)
        found = backbone.predict(backbone.fresh_module(task.candidates), task.train, task)
        assert {*found} <= {*task.candidates}


def test_a_model_that_is_too_large_is_told(
    folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(nn.Module, "to", full)
    with pytest.raises(BackboneError, match=r"Tried to allocate.*--dtype"):
        load_backbone(folder_of("t5"))


def test_a_vision_language_model_reads_the_text_of_a_text_task(backbone_of: BackboneOf) -> None:
    backbone, task = backbone_of("idefics3"), tiny.text_task()
    ids = backbone.collate(task.train, task)["input_ids"]
    for row, example in zip(ids, task.train, strict=True):
        assert f"user : {example.text_a} model :" in backbone.processor.tokenizer.decode(row)


@pytest.mark.parametrize("kind", tiny.MAKERS)
def test_independent_batches_have_the_same_nll_and_whole_rows_an_example(
    kind: str, backbone_of: BackboneOf
) -> None:
    backbone = backbone_of(kind)
    for task in tasks_of(kind):
        model = adapted(backbone, "none", task)
        batch = backbone.collate(task.train, task, independent=True)
        assert all(len(tensor) % len(task.train) == 0 for tensor in batch.values())
        expected = losses(backbone, model, task.train, task)
        found = losses(backbone, model, task.train, task, independent=True)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# The last two train or change tensors of the backbone itself.
@pytest.mark.parametrize(
    "method",
    ["lora", "adapter", "prefix", "ln_tuning", {"bias": "all"}, {"init_lora_weights": "pissa"}],
    ids=str,
)
@pytest.mark.parametrize("kind", tiny.MAKERS)
def test_training_leaves_the_backbone_bit_for_bit(
    kind: str, method: str | dict[str, str], backbone_of: BackboneOf, tmp_path: Path
) -> None:
    backbone, task = backbone_of(kind), tiny.task_for(kind, validation=3)
    if isinstance(method, dict):
        file = tmp_path / "method.json"
        lora = {"peft_type": "LORA", "r": 2, "target_modules": "all-linear"}
        file.write_text(json.dumps(lora | method))
        method = str(file)
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    modules = [type(module) for module in backbone.model.modules()]
    expert = train_expert(backbone, task, TrainConfig(method=method, epochs=1, batch_size=3))
    after = backbone.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert modules == [type(module) for module in backbone.model.modules()]
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert expert.card.backbone == backbone.fingerprint


@pytest.mark.parametrize("kind", tiny.MAKERS)
def test_predict_answers_with_the_names_of_the_likeliest_candidates(
    kind: str, backbone_of: BackboneOf
) -> None:
    backbone, task = backbone_of(kind), tiny.task_for(kind)
    names = {"red": "a_1", "green": "b_2", "blue": "c_3"}
    task = dataclasses.replace(
        task,
        candidates=tuple(names.values()),
        candidate_texts={names[label]: text for label, text in task.candidate_texts.items()},
        train=tuple(dataclasses.replace(example, label=names[example.label]) for example in task.train),
    )
    model = adapted(backbone, "none", task)
    answers = backbone.predict(model, task.train, task, batch_size=2)
    assert all(answer in task.candidates for answer in answers)
    unlabelled = [dataclasses.replace(example, label=None) for example in task.train]
    assert backbone.predict(model, unlabelled, task, batch_size=2) == answers
    for answer, example in zip(answers, task.train, strict=True):
        scored = [
            float(losses(backbone, model, (dataclasses.replace(example, label=name),), task))
            for name in task.candidates
        ]
        assert answer == task.candidates[min(range(3), key=scored.__getitem__)]


def greedily(backbone: Backbone, model: nn.Module, example: Example, task: Task, tokens: int) -> str:
    """The likeliest first tokens, each by a whole forward pass over what `collate` makes of the prompt."""
    batch = backbone.collate([example], task)
    written = batch.pop("label_mask").bool()
    if batch.pop("labels", None) is not None:
        answer, start = "decoder_input_ids", torch.full((1, 1), backbone.model.config.decoder_start_token_id)
    else:
        answer, start = "input_ids", batch["input_ids"][~written][None]
        del batch["attention_mask"]
    ids = start
    with torch.no_grad():
        for _ in range(tokens):
            mask = {} if answer != "input_ids" else {"attention_mask": torch.ones_like(ids)}
            best = model(**batch | mask | {answer: ids}).logits[:, -1:].argmax(dim=-1)
            if best.item() == backbone.tokenizer.eos_token_id:
                break
            ids = torch.cat([ids, best], dim=1)
    return backbone.tokenizer.decode(ids[0, start.shape[1] :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("method", ["none", "lora", "prompt", "prefix"])
@pytest.mark.parametrize("kind", GENERATIVE)
def test_free_form_answers_are_what_greedy_decoding_writes(
    kind: str, method: str, backbone_of: BackboneOf
) -> None:
    backbone, task = backbone_of(kind), tiny.open_task(pictures=kind == "idefics3")
    backbone.check(task)
    model = adapted(backbone, method, task)
    answers = backbone.predict(model, task.train, task, batch_size=3)
    expected = [greedily(backbone, model, example, task, 8) for example in task.train]
    assert len(set(expected)) > 1
    for answer, start in zip(answers, expected, strict=True):
        assert answer.startswith(start.rstrip("\ufffd"))  # the first bytes of a character


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("t5", tiny.picture_task()),
        ("llama", tiny.picture_task()),
        ("qwen2", tiny.picture_task(question=True)),
        ("bert", tiny.picture_task()),
        ("bert", tiny.open_task()),
        ("clip", tiny.picture_task(question=True)),
        ("clip", tiny.open_task(pictures=True)),
        ("bert_classifier", tiny.picture_task()),
        ("bert_classifier", tiny.open_task()),
        ("vit", tiny.text_task()),
        ("vit", tiny.picture_task(question=True)),
        ("vit", tiny.open_task(pictures=True)),
    ],
)
def test_a_task_that_the_family_cannot_do_is_refused(kind: str, task: Task, backbone_of: BackboneOf) -> None:
    with pytest.raises(BackboneError):
        backbone_of(kind).check(task)
    with pytest.raises(BackboneError):
        train_expert(backbone_of(kind), task, TrainConfig(epochs=1))


@pytest.mark.parametrize("kind", ["bert", "clip", "bert_classifier", "vit"])
def test_a_family_that_chooses_does_not_generate(kind: str, backbone_of: BackboneOf) -> None:
    backbone, task = backbone_of(kind), tiny.open_task(pictures=kind in tiny.PICTURES)
    with pytest.raises(BackboneError, match="candidate"):
        backbone.predict(backbone.model, task.train, task)


@pytest.mark.parametrize("kind", tiny.MAKERS)
def test_fingerprint_tells_weights_apart_and_not_their_precision(
    kind: str, folder_of: Callable[[str], Path], backbone_of: BackboneOf, tmp_path: Path
) -> None:
    fingerprint = backbone_of(kind).fingerprint
    half = load_backbone(folder_of(kind), dtype="bfloat16", device="cpu")
    assert next(half.model.parameters()).dtype == torch.bfloat16
    assert half.fingerprint == fingerprint
    other = load_backbone(tiny.save(kind, tmp_path / kind, seed=1), device="cpu")
    assert other.fingerprint != fingerprint


@pytest.mark.parametrize("method", ["lora", "rslora", "adapter", "prefix", "ln_tuning", "lokr", "vera"])
def test_a_pool_of_float32_and_a_backbone_of_bfloat16_start_alike(
    method: str, folder_of: Callable[[str], Path]
) -> None:
    found = set()
    for dtype in ("float32", "bfloat16"):
        backbone = load_backbone(folder_of("qwen2"), dtype=dtype, device="cpu")
        found.add(initialisation_of(attach(backbone, peft_config(method, backbone.model), seed=0)))
    assert len(found) == 1


@pytest.mark.parametrize("kind", ["bert_classifier", "vit"])
def test_a_head_belongs_to_the_task(kind: str, backbone_of: BackboneOf) -> None:
    backbone = backbone_of(kind)
    for classes in (2, 3, 4):
        task = tiny.task_for(kind, classes=classes)
        model = adapted(backbone, "lora", task)
        with torch.no_grad():
            assert backbone.log_likelihoods(model, task.train, task).shape == (6, classes)
        assert model.config.num_labels == classes
        assert list(model.config.id2label.values()) == list(task.candidates)
    assert backbone.model.config.num_labels == 2


@pytest.mark.parametrize("kind", ["bert_classifier", "vit"])
def test_a_head_of_another_size_leaves_the_adapter_its_initialisation(
    kind: str, backbone_of: BackboneOf
) -> None:
    config = TrainConfig(epochs=0)
    cards = [
        train_expert(backbone_of(kind), tiny.task_for(kind, seed, classes=classes), config).card
        for seed, classes in enumerate((2, 3, 4))
    ]
    assert len({card.initialisation for card in cards}) == 1


@pytest.mark.parametrize("kind", ["bert_classifier", "vit"])
def test_a_head_does_not_count_for_the_fingerprint(
    kind: str, backbone_of: BackboneOf, tmp_path: Path
) -> None:
    backbone = backbone_of(kind)
    for module in ("model", "processor"):
        getattr(backbone, module).save_pretrained(tmp_path)
    again = load_backbone(tmp_path, device="cpu")
    head = again.model.get_parameter("classifier.weight")
    head.data.add_(1.0)
    assert again.fingerprint == backbone.fingerprint


def test_two_texts_are_encoded_as_a_pair_where_there_is_no_prompt(backbone_of: BackboneOf) -> None:
    task = tiny.text_task()
    pairs = tuple(dataclasses.replace(example, text_b="w1 w2") for example in task.train)
    task = dataclasses.replace(task, train=pairs)
    for kind in ("bert", "bert_classifier"):
        ids = backbone_of(kind).collate(task.train, task)["input_ids"]
        assert bool(((ids == tiny.VOCABULARY.index(tiny.EOS)).sum(dim=1) == 2).all())
        model = adapted(backbone_of(kind), "none", task)
        alone = torch.cat([losses(backbone_of(kind), model, (example,), task) for example in task.train])
        torch.testing.assert_close(losses(backbone_of(kind), model, task.train, task), alone)


# --- folders that are not a backbone


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    for name in (tmp_path / "nowhere", "nobody/nothing-of-this-name"):
        with pytest.raises(BackboneError, match="local folder"):
            load_backbone(name)
    with pytest.raises(BackboneError, match="local folder"):
        load_backbone(tmp_path)


@pytest.mark.parametrize(("name", "meant"), [("minlm", "minilm"), ("ofamini", "ofa-mini")])
def test_the_hub_is_not_asked_for_a_slip_in_a_name_of_ours(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lambda _: pytest.fail("asked"))
    with pytest.raises(BackboneError, match=f"Did you mean '{meant}'"):
        load_backbone(name)


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        *((kind, "model.safetensors") for kind in ("t5", "llama", "idefics3", "bert", "vit")),
        *((kind, "tokenizer.json") for kind in ("t5", "llama", "idefics3", "bert")),
        ("idefics3", "processor_config.json"),
        ("vit", "preprocessor_config.json"),
    ],
)
def test_a_folder_without_weights_or_processor_is_named(
    kind: str, part: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(folder_of(kind), tmp_path / kind)
    (tmp_path / kind / part).unlink()
    with pytest.raises(BackboneError, match=str(tmp_path)):
        load_backbone(tmp_path / kind)


def test_truncated_weights_are_named(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(folder_of("t5"), tmp_path / "t5")
    weights = tmp_path / "t5" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(BackboneError, match=str(tmp_path)):
        load_backbone(tmp_path / "t5")


def without(folder: Path, part: str) -> Path:
    """The folder, its weights without those whose names begin so."""
    weights = folder / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(weights).items() if not name.startswith(part)}
    save_file(kept, weights, {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("kind", "part"),
    [("bert", "encoder.layer.1"), ("llama", "model.layers.1"), ("t5", "decoder"), ("vit", "vit.encoder")],
)
def test_weights_that_are_not_all_there_are_named(kind: str, part: str, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"must hold all weights .* are missing, the first is "):
        load_backbone(without(tiny.save(kind, tmp_path), part))


@pytest.mark.parametrize(("kind", "part"), [("bert", "pooler"), ("bert_classifier", "classifier")])
def test_what_is_not_used_or_belongs_to_the_task_need_not_be_there(
    kind: str, part: str, tmp_path: Path
) -> None:
    folder = without(tiny.save(kind, tmp_path), part)
    one, other = load_backbone(folder), load_backbone(folder)
    assert one.fingerprint == other.fingerprint
    assert all(
        torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True)
    )


@pytest.mark.parametrize("change", [{"intermediate_size": 48}, {"intermediate_size": "x"}])
def test_a_configuration_that_is_not_the_weights_is_named(change: dict[str, Any], tmp_path: Path) -> None:
    config = tiny.save("bert", tmp_path) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(BackboneError, match=f"{tmp_path}"):
        load_backbone(tmp_path)


def test_weights_that_are_the_same_each_time_may_be_missing(tmp_path: Path) -> None:
    """As PEGASUS's checkpoints are, without the sinusoids of their positions."""
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 32}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = PegasusConfig(vocab_size=len(tiny.VOCABULARY), **sizes)
    PegasusForConditionalGeneration(config).save_pretrained(tmp_path)
    tiny.tokenizer(f"$A {tiny.EOS}").save_pretrained(tmp_path)
    for part in ("model.encoder.embed_positions", "model.decoder.embed_positions"):
        without(tmp_path, part)
    load_backbone(tmp_path)
    with pytest.raises(BackboneError, match="must hold all weights"):
        load_backbone(without(tmp_path, "model.encoder.layers.0.self_attn"))


@pytest.mark.parametrize(
    ("told", "pooling"),
    [
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({}, "mean"),
    ],
)
def test_a_sentence_encoder_is_pooled_as_it_says(told: dict[str, Any], pooling: str, tmp_path: Path) -> None:
    (tiny.save("bert", tmp_path) / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(told))
    backbone = load_backbone(tmp_path)
    assert isinstance(backbone, Matching)
    assert backbone.pooling == pooling


@pytest.mark.parametrize(
    "told",
    [
        {"pooling_mode": "lasttoken"},
        {"pooling_mode": ["cls", "mean"]},
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
    ],
)
def test_another_pooling_is_refused(told: dict[str, Any], tmp_path: Path) -> None:
    (tiny.save("bert", tmp_path) / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(told))
    with pytest.raises(BackboneError, match="pooling is mean or cls"):
        load_backbone(tmp_path)


@pytest.mark.parametrize("kind", ["t5", "llama", "bert", "bert_classifier"])
def test_a_model_without_the_files_of_its_tokenizer_is_refused(kind: str, tmp_path: Path) -> None:
    for file in tiny.save(kind, tmp_path).glob("token*"):
        file.unlink()
    with pytest.raises(BackboneError, match="save_pretrained"):
        load_backbone(tmp_path)


@pytest.mark.parametrize("role", [None, "pad_token", "eos_token"])
@pytest.mark.parametrize("kind", ["t5", "llama", "bert", "bert_classifier", "clip", "siglip"])
def test_the_tokenizer_of_a_larger_vocabulary_is_refused(kind: str, role: str | None, tmp_path: Path) -> None:
    reader, known = tiny.tokenizer(), len(tiny.VOCABULARY)
    reader.add_special_tokens({role: "new"}) if role else reader.add_tokens(["new"])
    reader.save_pretrained(tiny.save(kind, tmp_path))
    with pytest.raises(BackboneError, match=f"{known} embeddings, and a token of the id {known}"):
        load_backbone(tmp_path)


def answers(backbone: Backbone, prompt: str | None, *pairs: tuple[str, str | None]) -> Tensor:
    """The likelihoods of each pair of texts, one row each."""
    task = dataclasses.replace(tiny.text_task(), prompt=prompt)
    rows = [Example(text_a=first, text_b=second) for first, second in pairs]
    return backbone.log_likelihoods(backbone.fresh_module(task.candidates), rows, task)


LONG = "w1 " * 600
SPLIT = [("t5", None), *((kind, "{text_a} user {text_b} :") for kind in ("t5", "bert", "bert_classifier"))]


def test_special_tokens_beyond_the_embeddings_are_no_words(tmp_path: Path) -> None:
    """As Llama's copies have a `<pad>` that nothing pads with, and no attribute names."""
    reader = tiny.tokenizer(f"{tiny.BOS} $A")
    reader.add_tokens([AddedToken("<more>", special=True)])
    assert "<more>" not in reader.all_special_tokens
    reader.save_pretrained(tiny.save("llama", tmp_path))
    assert load_backbone(tmp_path).family == "causal"


@pytest.mark.parametrize(("kind", "prompt"), SPLIT)
def test_of_a_long_pair_the_longer_is_cut(kind: str, prompt: str | None, backbone_of: BackboneOf) -> None:
    backbone = backbone_of(kind)
    assert not torch.equal(*answers(backbone, prompt, (LONG, "w2"), (LONG, "w3")))
    assert not torch.equal(*answers(backbone, prompt, ("w2", LONG), ("w3", LONG)))
    assert torch.equal(*answers(backbone, prompt, (LONG + "w2", "w3"), (LONG + "w4", "w3")))


@pytest.mark.parametrize("kind", ["t5", "bert", "bert_classifier"])
def test_what_a_prompt_does_not_hold_is_not_cut_and_what_leaves_no_room_is_kept(
    kind: str, backbone_of: BackboneOf
) -> None:
    backbone = backbone_of(kind)
    assert torch.equal(*answers(backbone, "{text_b} :", (LONG, LONG), ("", LONG)))
    assert not torch.equal(*answers(backbone, "{text_a} " + "user " * 600, ("w2", ""), ("w3", "")))


def test_a_text_is_cut_in_a_few_steps(backbone_of: BackboneOf) -> None:
    """Each step reads the whole text again."""
    backbone = backbone_of("bert")
    task = dataclasses.replace(tiny.text_task(), prompt="{text_a} user {text_b}")
    assert isinstance(backbone, Matching)
    seen = []

    def counting(text: str, **options: Any) -> Any:
        seen.append(text)
        return backbone.tokenizer(text, **options)

    padded = "w1 " * 62 + " " * 5000
    for first, second in (
        (LONG, "w2"),
        (padded, "w2"),
        (LONG, LONG),
        ("w2 " * 80, "w3"),
        (" " * 5000 + "w1", LONG),
    ):
        seen.clear()
        text = texts.fitted(Example(text_a=first, text_b=second), task, counting, 64)
        assert len(seen) < 30
        assert 50 < len(backbone.tokenizer(text)["input_ids"]) <= 64


@pytest.mark.parametrize(
    ("kind", "words"), [("t5", 511), ("llama", 124), ("bert", 62), ("clip", 62), ("siglip", 15)]
)
def test_texts_that_are_cut_are_told_once(
    kind: str, words: int, backbone_of: BackboneOf, caplog: pytest.LogCaptureFixture
) -> None:
    """`words` are as many as fit."""
    texts._tell_cut.cache_clear()
    backbone, task = backbone_of(kind), dataclasses.replace(tiny.text_task(), prompt=None)
    for count, times in ((words, 0), (words + 1, 1), (4 * words, 1)):
        backbone.log_likelihoods(backbone.model, [Example(text_a="w1 " * count)], task)
        assert caplog.messages == ["texts of more tokens than the model reads are cut"] * times


def test_nothing_is_predicted_from_nothing(backbone_of: BackboneOf) -> None:
    backbone, task = backbone_of("bert"), tiny.text_task()
    asked = dataclasses.replace(task, prompt="{text_a} :")
    reads_nothing = load_backbone("ofa-mini")  # as an image, where there is none
    for example, refused in ((Example(), task), (Example(text_b="w1"), asked), (Example(text_a=" "), asked)):
        with pytest.raises(TaskError, match="must have text_a"):
            backbone.predict(backbone.model, [example], refused)
    for seen in (tiny.picture_task(), tiny.picture_task(question=True)):
        with pytest.raises(TaskError, match="must have image"):
            reads_nothing.predict(reads_nothing.model, [Example(text_a="w1")], seen)
    alone = dataclasses.replace(task, prompt="{text_b} :")
    with pytest.raises(TaskError, match=r"must have text_b.*Example\(text_b=\.\.\.\)"):
        backbone.predict(backbone.model, [Example(text_a="w1")], alone)
    for example, read in ((Example(text_b="w1"), alone), (Example(text_a="w1", text_b=""), task)):
        assert len(backbone.predict(backbone.model, [example], read)) == 1


@pytest.mark.parametrize(("last", "refused"), [("Normalize", False), ("Dense", True)])
def test_a_sentence_encoder_with_more_than_a_pooling_is_refused(
    last: str, refused: bool, tmp_path: Path
) -> None:
    modules = [{"type": f"sentence_transformers.models.{name}"} for name in ("Transformer", "Pooling", last)]
    (tiny.save("bert", tmp_path) / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(BackboneError, match=r"modules\.json has Dense") if refused else nullcontext():
        load_backbone(tmp_path)


@pytest.mark.parametrize(("told", "pooling"), [({"pooling_mode": "cls"}, "cls"), (None, "mean")])
def test_the_pooling_of_a_hub_id_is_read(told: dict[str, Any] | None, pooling: str, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--me--encoder"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    folder = tiny.save("bert", repository / "snapshots" / ("a" * 40))
    if told:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(told))
    code = "from pituning import load_backbone; print(load_backbone('me/encoder').pooling)"
    offline = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=offline, capture_output=True, check=True)
    assert done.stdout.split() == [pooling.encode()]


def test_a_template_beside_the_processor_alone_is_used(backbone_of: BackboneOf, tmp_path: Path) -> None:
    template = tiny.save("idefics3", tmp_path) / "chat_template.jinja"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template.read_text()}))
    template.unlink()
    backbone = load_backbone(tmp_path)
    assert isinstance(backbone, Causal)
    assert backbone.tokenizer.chat_template is None
    for task in (tiny.picture_task(question=True), tiny.text_task()):
        batches = [one.collate(task.train, task) for one in (backbone, backbone_of("idefics3"))]
        assert torch.equal(*(batch["input_ids"] for batch in batches))


def test_a_template_that_takes_a_text_gets_one(backbone_of: BackboneOf, tmp_path: Path) -> None:
    """As a language model's tokenizer brings it into a vision-language model."""
    tiny.save("idefics3", tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": tiny.CHAT}))
    backbone = load_backbone(tmp_path)
    for task in (tiny.picture_task(question=True), tiny.text_task()):
        batches = [one.collate(task.train, task) for one in (backbone, backbone_of("idefics3"))]
        assert torch.equal(*(batch["input_ids"] for batch in batches))


def test_a_picture_prompt_begins_once(tmp_path: Path) -> None:
    template = tiny.save("idefics3", tmp_path) / "chat_template.jinja"
    template.write_text(f"{tiny.BOS} {template.read_text()}")
    backbone, task = load_backbone(tmp_path), tiny.picture_task(question=True)
    ids = backbone.collate(task.train[:1], task)["input_ids"][0].tolist()
    assert ids[0] == tiny.VOCABULARY.index(tiny.BOS)
    assert ids.count(ids[0]) == 1


@pytest.mark.parametrize(
    ("make", "sizes"),
    [
        (MambaForCausalLM, {"state_size": 4}),
        (
            Lfm2ForCausalLM,
            {"layer_types": ["conv", "full_attention"], "num_attention_heads": 4, "num_key_value_heads": 2},
        ),
    ],
)
def test_a_model_without_a_cache_of_keys_scores_pair_by_pair(make: Any, sizes: dict[str, Any]) -> None:
    sizes = sizes | {"vocab_size": len(tiny.VOCABULARY), "hidden_size": 16, "num_hidden_layers": 2}
    model = make(make.config_class(**sizes))
    backbone, task = Causal(model, tiny.tokenizer(f"{tiny.BOS} $A"), name="mamba"), tiny.text_task()
    with torch.no_grad():
        found = backbone.log_likelihoods(backbone.model, task.train, task)
        alone = [backbone.log_likelihoods(backbone.model, [example], task) for example in task.train]
    torch.testing.assert_close(found, torch.cat(alone))


@pytest.mark.parametrize(("model_pads", "tokenizer_pads"), [(0, None), (0, tiny.EOS), (None, tiny.PAD)])
def test_a_decoder_that_classifies_knows_the_tokenizers_padding(
    model_pads: int | None, tokenizer_pads: str | None
) -> None:
    config = LlamaConfig(**tiny.GROUPED | {"pad_token_id": model_pads}, num_labels=3)
    reader = tiny.tokenizer(f"{tiny.BOS} $A")
    reader.pad_token = tokenizer_pads
    backbone, task = (
        Classifier(LlamaForSequenceClassification(config), reader, name="llama"),
        tiny.text_task(),
    )
    with torch.no_grad():
        found = backbone.log_likelihoods(backbone.model, task.train, task)
        alone = [backbone.log_likelihoods(backbone.model, [example], task) for example in task.train]
    torch.testing.assert_close(found, torch.cat(alone))


@pytest.mark.parametrize("make", [CLIPForImageClassification, SiglipForImageClassification])
def test_of_an_encoder_with_another_name_than_its_prefix_the_last_layer_is_the_head(make: Any) -> None:
    model = make(make.config_class(text_config=tiny.TEXT, vision_config=tiny.VISION, num_labels=2))
    assert heads_of(model) == ("classifier",)


def test_a_classifier_of_pictures_is_told_by_its_architecture(tmp_path: Path) -> None:
    config = SiglipConfig(text_config=tiny.TEXT, vision_config=tiny.VISION, num_labels=2)
    SiglipForImageClassification(config).save_pretrained(tmp_path)
    tiny.siglip()[1][1].save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path)
    task = tiny.picture_task()
    assert (backbone.family, backbone.head_modules(backbone.model)) == ("classifier", ("classifier",))
    assert losses(backbone, adapted(backbone, "lora", task), task.train, task).shape == (len(task.train),)


def test_unknown_family_and_precision_are_refused(folder_of: Callable[[str], Path]) -> None:
    with pytest.raises(BackboneError, match="family"):
        load_backbone(folder_of("t5"), family="encoder")
    with pytest.raises(BackboneError, match="dtype"):
        load_backbone(folder_of("t5"), dtype="float33")


def test_an_architecture_of_no_family_is_refused(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(folder_of("bert"), tmp_path / "bert")
    config = tmp_path / "bert" / "config.json"
    config.write_text(config.read_text().replace('"BertModel"', '"BertForTokenClassification"'))
    with pytest.raises(BackboneError, match="BertForTokenClassification"):
        load_backbone(tmp_path / "bert")


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_free_text_is_as_long_as_the_task_says(kind: str, backbone_of: BackboneOf) -> None:
    backbone, task = backbone_of(kind), tiny.open_task()
    model = adapted(backbone, "lora", task)
    assert max(lengths(backbone, model, task, max_new_tokens=2)) <= 2
    assert min(lengths(backbone, model, task, max_new_tokens=80, min_new_tokens=80)) > 64


def test_a_prompt_that_is_too_long_loses_its_beginning_and_leaves_room_for_the_answer(
    backbone_of: BackboneOf,
) -> None:
    tokenizer = getattr(backbone_of("llama"), "tokenizer")  # noqa: B009
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=32, n_embd=8, n_layer=1, n_head=2)
    backbone, task = Causal(GPT2LMHeadModel(config), tokenizer, name="gpt2"), tiny.text_task(classes=2)
    model = backbone.fresh_module(task.candidates).eval()
    first, *_ = task.train
    long = [
        dataclasses.replace(first, text_a=f"{start} " * 60 + str(first.text_a)) for start in ("red", "blue")
    ]
    batch = backbone.collate(long, task)
    assert batch["input_ids"].shape[1] == 32
    assert batch["input_ids"][0, -5:].equal(batch["input_ids"][1, -5:])
    assert backbone.log_likelihoods(model, long, task).isfinite().all()
    assert len(lengths(backbone, model, dataclasses.replace(task, train=tuple(long)), max_new_tokens=8)) == 2


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_many_candidates_are_scored_a_few_examples_at_a_time(
    kind: str, backbone_of: BackboneOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, task = backbone_of(kind), tiny.text_task()
    model = adapted(backbone, "lora", task)
    rows: list[int] = []
    model.register_forward_pre_hook(
        lambda _, args, inputs: rows.append(len(inputs.get("decoder_input_ids", inputs.get("input_ids")))),
        with_kwargs=True,
    )
    with torch.no_grad():
        whole = backbone.log_likelihoods(model, task.train, task)
        assert max(rows) == len(task.train) * len(task.candidates)
        rows.clear()
        monkeypatch.setattr(base, "ROWS", 7)
        torch.testing.assert_close(backbone.log_likelihoods(model, task.train, task), whole)
    assert max(rows) == 2 * len(task.candidates)


def test_where_memory_runs_out_fewer_examples_are_taken_at_a_time() -> None:
    examples, sizes, seen = [Example(text_a="x" * n) for n in range(20, 0, -1)], [], []

    def compute(rows: list[int]) -> None:
        sizes.append(len(rows))
        if len(rows) > 3:
            raise torch.cuda.OutOfMemoryError
        seen.extend(rows)

    base.without_gradients(compute, examples, 16)
    assert sizes == [16, 8, 4, *[2] * 10]
    assert seen == list(range(19, -1, -1))  # the shortest first, each once

    def none(_: list[int]) -> None:
        raise torch.cuda.OutOfMemoryError

    with pytest.raises(BackboneError, match="an example must fit"):
        base.without_gradients(none, examples)


def test_an_answer_ends_whatever_the_tokenizer_adds() -> None:
    """A label that another begins with could never be answered else, and what is written would not end."""
    model, usual = tiny.t5()
    task = tiny.text_task()
    whole, bare = (Seq2Seq(model, one, name="t5") for one in (usual, tiny.tokenizer("$A")))
    batches = [one.collate(task.train, task) for one in (whole, bare)]
    assert torch.equal(batches[0]["labels"], batches[1]["labels"])
    assert torch.equal(batches[0]["label_mask"], batches[1]["label_mask"])
    with torch.no_grad():
        inputs = {name: batches[0][name] for name in ("input_ids", "attention_mask")}
        found = whole.nll(model, batches[1] | inputs)
        torch.testing.assert_close(found, whole.nll(model, batches[0]))
        likely = bare.log_likelihoods(model, task.train, task)
        gold = torch.tensor([task.answer_index(example) for example in task.train])
        torch.testing.assert_close(-likely[range(len(gold)), gold], bare.nll(model, batches[1]))


def test_a_decoders_tokenizer_stays_as_it_was() -> None:
    model, tokenizer = tiny.llama()
    before = tokenizer.truncation_side
    backbone = Causal(model, tokenizer, name="llama", max_length=4)
    assert (backbone.tokenizer.truncation_side, tokenizer.truncation_side) == ("left", before)
    assert before == "right"


def test_what_the_documentation_says_a_decoder_reads_is_what_it_reads() -> None:
    model, tokenizer = tiny.llama()
    backbone, task = Causal(model, tokenizer, name="llama"), tiny.text_task()
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()
    code: dict[str, Any] = {"torch": torch}
    exec(page.split("```python\n")[1].split("```")[0], code)
    with torch.no_grad():
        likely = backbone.log_likelihoods(backbone.model, task.train, task)
        for row, example in zip(likely, task.train, strict=True):
            texts = [task.candidate_texts[name] for name in task.candidates]
            alone = [code["log_likelihood"](model, tokenizer, task.text(example), text) for text in texts]
            torch.testing.assert_close(torch.stack(alone), row)


def test_likelihoods_are_of_the_answers_tokens_alone() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 7, generator=draw, requires_grad=True)
    labels = torch.randint(7, (3, 5), generator=draw)
    mask = torch.tensor([[0, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    expected = -(logits.log_softmax(dim=2).gather(2, labels[..., None])[..., 0] * mask).sum(dim=1)
    found = base.answer_nll(logits, labels, mask)
    torch.testing.assert_close(found, expected)
    one, other = (torch.autograd.grad(each.sum(), logits)[0] for each in (found, expected))
    torch.testing.assert_close(one, other)


def test_a_task_is_answered_by_its_labels_or_their_texts(backbone_of: BackboneOf) -> None:
    texts = {"0": "negative", "1": "positive"}
    task = dataclasses.replace(tiny.text_task(classes=2), candidates=("0", "1"), candidate_texts=texts)
    for kind, ordered in (("bert", False), ("bert_classifier", True)):
        backbone = backbone_of(kind)
        assert backbone.answers(["0", "1"], task)
        assert backbone.answers(["negative", "positive"], task)
        assert backbone.answers(["positive", "negative"], task) is not ordered
        assert not backbone.answers(["negative", "neutral"], task)


@pytest.mark.parametrize(
    ("family", "kinds"),
    [
        (Causal, ("bert", "t5", "clip", "bert_classifier")),
        (Seq2Seq, ("bert", "llama", "bert_classifier")),
        (Classifier, ("bert", "t5", "llama", "clip")),
    ],
)
def test_a_model_of_another_family_is_refused(family: Callable[..., Backbone], kinds: Sequence[str]) -> None:
    for kind in kinds:
        model = tiny.MAKERS[kind]()[0]
        with pytest.raises(BackboneError, match=f"backbone is made of .*; given: {type(model).__name__}"):
            family(model, tiny.tokenizer(), name="mine")
        assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_decoder_of_ones_own_is_taken_and_one_that_sees_its_answer_or_is_compiled_is_not() -> None:
    class Mine(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.inner, self.config = model, model.config

        def forward(self, **inputs: Any) -> Any:
            return self.inner(**inputs)

        def get_input_embeddings(self) -> nn.Module:
            return self.inner.get_input_embeddings()

    model, task = tiny.MAKERS["llama"]()[0], tiny.text_task()
    mine = Causal(Mine(model), tiny.tokenizer(), name="mine")
    plain = Causal(model, tiny.tokenizer(), name="plain")
    found, expected = (b.log_likelihoods(b.model, task.train[:2], task) for b in (mine, plain))
    assert torch.equal(found, expected)
    bare = nn.Module()
    for family in (Causal, Matching):
        bare.config = model.config
        with pytest.raises(BackboneError, match=r"bare must have get_input_embeddings; given: Module\. Let "):
            family(bare, tiny.tokenizer(), name="bare")
    with pytest.raises(BackboneError, match="must have `generate` where answers are free; given: Mine"):
        mine.check(dataclasses.replace(task, candidates=(), candidate_texts={}))
    with pytest.raises(BackboneError, match="own must have get_encoder; given: Mine"):
        Seq2Seq(Mine(tiny.MAKERS["t5"]()[0]), tiny.tokenizer(), name="own")
    with pytest.raises(BackboneError, match=r"made of an AutoModel, which .*; given: LlamaForCausalLM"):
        Matching(model, tiny.tokenizer(), name="mine")
    classifier = tiny.MAKERS["bert_classifier"]()[0]
    for family, module in ((Classifier, Mine(classifier)), (Matching, classifier)):
        with pytest.raises(BackboneError, match=rf"backbone is made of .*; given: {type(module).__name__}\."):
            family(module, tiny.tokenizer(), name="mine")
    with pytest.raises(BackboneError, match=r"plain one; given: what torch\.compile returned"):
        Causal(torch.compile(model, backend="eager"), tiny.tokenizer(), name="compiled")
    for kind in (BertForMaskedLM, BertForPreTraining):
        with pytest.raises(BackboneError, match=f"given: {kind.__name__}"):
            Causal(kind(tiny.MAKERS["bert"]()[0].config), tiny.tokenizer(), name="masked")


def test_a_decoder_that_cannot_generate_chooses_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.MAKERS["llama"]()[0]
    monkeypatch.setattr(type(model), "can_generate", classmethod(lambda _: False))
    assert Causal(model, tiny.tokenizer(), name="mine").family == "causal"

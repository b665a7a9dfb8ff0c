"""Laws of an expert on disk and on its backbone."""

from __future__ import annotations

import errno
import json
import os
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from small import VARIANTS, expert, frozen, lora, model_of, outputs, outputs_of, same_tensors
from torch import nn

from pituning.backbones import Causal
from pituning.errors import BackboneError, ExpertError
from pituning.expert import Expert, attach, attach_expert, attach_untrained, initialisation_of, is_head
from pituning.foundation import Frozen, checkpoint_activations
from pituning.interpolate import Mixture

pytestmark = pytest.mark.filterwarnings("ignore:.*LoRA tensor.s. have invalid shape")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return expert("a").save(tmp_path / "a")


@pytest.mark.parametrize("variant", VARIANTS)
def test_save_then_load_is_bit_exact(variant: str, tmp_path: Path) -> None:
    one = expert("a", VARIANTS[variant], labels=["x", "y"])
    found = Expert.load(one.save(tmp_path / "a"))
    assert same_tensors(found, one)
    assert found.digest == one.digest
    assert (found.card, found.method) == (one.card, one.method)
    assert torch.equal(outputs_of(found), outputs_of(one))


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "pissa"])
def test_folder_loads_with_peft_alone(variant: str, tmp_path: Path) -> None:
    one = expert("a", VARIANTS[variant])
    loaded = PeftModel.from_pretrained(model_of("encoder"), one.save(tmp_path / "a"))
    torch.testing.assert_close(outputs(loaded), outputs_of(one), atol=1e-6, rtol=1e-6)


@dataclass
class LaterConfig(LoraConfig):
    """A later PEFT's, which has one option more."""

    newest: bool = False


def test_option_of_a_later_peft_changes_no_digest_until_it_is_used() -> None:
    one, choices = expert("a"), {"r": 4, "target_modules": ["q"], "lora_alpha": 16}
    there = replace(one, config=LoraConfig(**choices))
    assert replace(one, config=LaterConfig(**choices)).digest == there.digest
    others = [LaterConfig(**choices, newest=True), LoraConfig(**choices | {"lora_alpha": 8})]
    assert len({there.digest, *(replace(one, config=other).digest for other in others)}) == 3


def test_tensors_that_share_memory_are_saved(tmp_path: Path) -> None:
    one = expert("a")
    whole = torch.cat([tensor.flatten() for tensor in one.tensors.values()])
    parts = whole.split([tensor.numel() for tensor in one.tensors.values()])
    views = {name: part.view_as(t) for (name, t), part in zip(one.tensors.items(), parts, strict=True)}
    assert same_tensors(Expert.load(Expert(one.card, one.config, views).save(tmp_path / "a")), one)


def test_folder_of_another_hand_says_what_is_unknown(folder: Path) -> None:
    (folder / "expert.json").unlink()
    card = Expert.load(folder).card
    assert (card.name, card.initialisation, card.data) == ("a", "unknown", "unknown")
    assert card.backbone.startswith("?")
    torch.testing.assert_close(outputs_of(Expert.load(folder)), outputs_of(expert("a")))


def test_existing_folder_is_never_overwritten(folder: Path) -> None:
    with pytest.raises(ExpertError, match="never overwritten"):
        expert("b").save(folder)
    assert Expert.load(folder).name == "a"


@pytest.mark.parametrize("failing", ["pathlib.Path.write_bytes", "tempfile.mkdtemp"])
def test_full_disk_leaves_nothing_behind(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(failing, full)
    with pytest.raises(ExpertError, match=r"have room.*No space left"):
        expert("a").save(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_folder_under_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExpertError, match="must be writable"):
        expert("a").save(tmp_path / "file" / "a")


def test_a_folder_has_the_permissions_that_the_user_gives(tmp_path: Path) -> None:
    modes = []
    for mask in (0o077, 0o022):
        before = os.umask(mask)
        try:
            modes.append(expert("a").save(tmp_path / f"a{mask}").stat().st_mode & 0o777)
        finally:
            os.umask(before)
    assert modes == [0o700, 0o755]


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("trapped",)


def test_pickle_is_refused_unread(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ExpertError, match=r"adapter_model\.bin, a pickle"):
        Expert.load(folder)
    (folder / "adapter_model.bin").rename(folder / "adapter_model.safetensors")
    with pytest.raises(ExpertError, match="whole safetensors file"):
        Expert.load(folder)
    assert not Path("trapped").exists()


@pytest.mark.parametrize("cut", [0, 4, 60, -1])
def test_truncated_weights_are_refused(cut: int, folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ExpertError, match="whole safetensors file"):
        Expert.load(folder)


@pytest.mark.parametrize(
    "change",
    [{"task": "\x1b[2J"}, {"scores": {"test": float("nan")}}, {"config": lora(megatron_config={"a": 1})}],
)
def test_expert_that_could_not_be_read_again_is_not_written(change: dict[str, Any], tmp_path: Path) -> None:
    one = expert("a")
    config = change.pop("config", one.config)
    with pytest.raises(ExpertError):
        Expert(replace(one.card, **change), config, one.tensors).save(tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(bad: float, folder: Path, tmp_path: Path) -> None:
    one = Expert.load(folder)
    tensors = {name: tensor.clone() for name, tensor in one.tensors.items()}
    next(iter(tensors.values()))[0, 0] = bad
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ExpertError, match="values are finite"):
        Expert.load(folder)
    with pytest.raises(ExpertError, match="values are finite"):
        Expert(one.card, one.config, tensors).save(tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "card", ["", "[]", '{"name": "a"}', '{"name": "a", "task": "a", "backbone": "b", "x": 1}']
)
def test_card_that_is_none_is_refused(card: str, folder: Path) -> None:
    (folder / "expert.json").write_text(card)
    with pytest.raises(ExpertError, match=r"expert\.json must hold"):
        Expert.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "NEWEST"},
        {"option_of_tomorrow": True},
        {"lora_alpha": "large"},
        {"r": "large"},
        {"r": 8},
        {"r": [2]},
        {"r": 8, "rank_pattern": ["query"]},
        {"r": 8, "rank_pattern": {"query": [2]}},
    ],
)
def test_configuration_that_peft_does_not_know_is_refused(change: dict[str, object], folder: Path) -> None:
    file = folder / "adapter_config.json"
    raw = json.loads(file.read_text())
    file.write_text(json.dumps(raw | {"option_of_yesterday": None} | change))
    if "lora_alpha" in change:
        with pytest.raises(ExpertError, match="must fit the backbone"):
            attach_expert(frozen(), Expert.load(folder))
        return
    if "r" in change:
        with pytest.raises(ExpertError, match=r"the ranks in .* must be those of the tensors.*tensors 2"):
            Expert.load(folder)
        return
    with pytest.raises(ExpertError, match="configuration of the installed PEFT"):
        Expert.load(folder)
    file.write_text(json.dumps(raw | {"option_of_yesterday": None}))
    assert Expert.load(folder).name == "a"


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "adapter_config.json").unlink()
    with pytest.raises(ExpertError, match=r"holds adapter_config\.json"):
        Expert.load(folder)
    with pytest.raises(ExpertError, match="an existing folder"):
        Expert.load(tmp_path / "nowhere")


def test_expert_of_another_backbone_is_refused() -> None:
    other = Frozen(model_of("encoder", seed=1), name="other")
    with pytest.raises(ExpertError, match="must be used on the backbone it was trained on"):
        attach_expert(other, expert("a"))


def test_missing_tensors_are_named() -> None:
    one = expert("a")
    name, *rest = one.tensors
    with pytest.raises(ExpertError, match=name.replace(".", r"\.")):
        attach_expert(frozen(), Expert(one.card, one.config, {key: one.tensors[key] for key in rest}))


@pytest.mark.parametrize("variant", ["bias_all", "pissa", "lora", "prefix", "embedding"])
def test_attaching_leaves_the_backbone_as_it_was(variant: str) -> None:
    backbone = Frozen(model_of("encoder"))
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    pointers = {name: tensor.data_ptr() for name, tensor in backbone.model.state_dict().items()}
    model = attach(backbone, VARIANTS[variant], seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 1
    after = backbone.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {name: tensor.data_ptr() for name, tensor in after.items()} == pointers
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


def test_pissa_starts_as_the_backbone_itself() -> None:
    model = attach(frozen(), VARIANTS["pissa"], seed=0)
    torch.testing.assert_close(outputs(model), outputs(frozen().model), atol=1e-5, rtol=1e-5)


def test_initialisation_depends_on_seed_and_configuration_alone() -> None:
    def start(seed: int = 0, **options: object) -> str:
        return initialisation_of(attach(frozen(), lora(**options), seed=seed))

    assert start() == start()
    assert (
        len({start(), start(seed=1), start(r=3), start(lora_alpha=8), start(target_modules=["query"])}) == 5
    )


def test_attaching_leaves_the_callers_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    attach(frozen(), lora(), seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_frozen_shares_weights_but_not_modules() -> None:
    copied = frozen().fresh_module([])
    assert isinstance(copied, nn.Module)
    assert copied is not frozen().model
    assert {id(p) for p in copied.parameters()} == {id(p) for p in frozen().model.parameters()}


def test_the_words_of_a_foreign_prompt_are_not_looked_for(tmp_path: Path) -> None:
    own = expert("a", VARIANTS["prompt"])
    folder = own.save(tmp_path / "a")
    file = folder / "adapter_config.json"
    words = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "say it"}
    words |= {"tokenizer_name_or_path": "someone/nowhere"}
    file.write_text(json.dumps(json.loads(file.read_text()) | words))
    (folder / "expert.json").unlink()
    foreign = Expert.load(folder)
    assert torch.equal(outputs_of(foreign), outputs_of(own))
    assert attach_expert(frozen(), foreign).active_peft_config.prompt_tuning_init == "TEXT"
    attach_untrained(frozen(), foreign)
    assert same_tensors(Mixture(frozen(), [foreign]).collapse(), own)


@pytest.mark.parametrize("named", ["classifier", "top.classifier", "ifier"])
def test_a_head_is_found_by_the_end_of_its_name_as_peft_does(named: str) -> None:
    config = lora(modules_to_save=[named])
    assert is_head("base_model.model.top.classifier.weight", config)
    assert not is_head("base_model.model.top.query.lora_A.weight", config)


def test_a_model_with_an_adapter_in_it_is_no_backbone() -> None:
    model = attach_expert(frozen(), expert("a")).requires_grad_(True)
    for taken in (model, model.get_base_model()):
        for take in (Frozen, lambda model: Causal(model, tiny.tokenizer(), name="mine")):
            with pytest.raises(BackboneError, match="bare model"):
                take(taken)
    assert all(parameter.requires_grad for parameter in model.parameters())
    Frozen(model.unload())


def test_a_model_that_cannot_recompute_activations_says_so() -> None:
    with pytest.raises(BackboneError, match=r"Linear.*Leave gradient_checkpointing out"):
        checkpoint_activations(nn.Linear(2, 2))


def test_the_backbones_embeddings_in_an_adapter_are_told(tmp_path: Path) -> None:
    """PEFT saves them by itself where it adapts embeddings."""
    model = get_peft_model(tiny.llama()[0], LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"]))
    for folder, embeddings in ((tmp_path / "with", True), (tmp_path / "without", False)):
        model.save_pretrained(str(folder), save_embedding_layers=embeddings)
    bare = tiny.llama()[0]
    with pytest.raises(ExpertError, match="save with `save_embedding_layers=False`"):
        attach_expert(Frozen(bare), Expert.load(tmp_path / "with"))
    attach_expert(Frozen(bare), Expert.load(tmp_path / "without"))

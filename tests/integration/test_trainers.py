"""A mixture is a module: it trains inside other people's loops."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from small import expert, frozen, inputs, lora, loss_of, same_tensors
from torch import Tensor

from pituning.expert import Expert
from pituning.interpolate import Mixture

TARGETS = {
    "bert": ["query", "value"],
    "t5": ["q", "v"],
    "llama": ["q_proj", "v_proj"],
    "encoder": ["query", "value"],
}
SPACES = ("parameters", "delta")


def mixture_of(kind: str, space: str, dropout: float = 0.0, **options: Any) -> Mixture:
    config = lora(target_modules=TARGETS[kind], lora_dropout=dropout)
    experts = [expert(name, config, frozen(kind)) for name in "ab"]
    return Mixture(frozen(kind), experts, space=space, **options)


def changed(before: Mixture, after: Mixture) -> dict[str, bool]:
    pairs = zip(before.state_dict().items(), after.state_dict().values(), strict=True)
    return {name: not torch.equal(a, b) for (name, a), b in pairs}


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __init__(self, kind: str) -> None:
        ids = inputs("bert", rows=8)["input_ids"]
        labels = ids[:, 0] % 3 if kind == "bert" else ids
        self.rows = [
            {"input_ids": i, "attention_mask": torch.ones_like(i), "labels": y}
            for i, y in zip(ids, labels, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return self.rows[row]


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    yield
    AcceleratorState._reset_state()
    PartialState._reset_state()


def train(kind: str, space: str, folder: Path, **options: Any) -> tuple[Mixture, list[float]]:
    mixture = mixture_of(kind, space, dropout=0.1)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=3, per_device_train_batch_size=4, learning_rate=0.02, use_cpu=True,
        report_to=[], save_strategy="no", logging_steps=1, seed=0, label_names=["labels"],
        disable_tqdm=True, dataloader_pin_memory=False, remove_unused_columns=False, **options,
    )  # fmt: skip
    trainer = transformers.Trainer(mixture, arguments, train_dataset=Rows(kind), eval_dataset=Rows(kind))
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    return mixture, [before, trainer.evaluate()["eval_loss"]]


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", ["bert", "t5", "llama"])
def test_transformers_trainer_lowers_the_loss(kind: str, space: str, tmp_path: Path) -> None:
    mixture, losses = train(kind, space, tmp_path)
    assert losses[1] < losses[0]
    moved = changed(mixture_of(kind, space, dropout=0.1), mixture)
    assert moved["alpha"]
    assert any(value for name, value in moved.items() if name.startswith("tensors."))
    assert not any(value for name, value in moved.items() if "base_layer" in name or "embed" in name)


def test_same_seed_same_result_in_trainer(tmp_path: Path) -> None:
    one, other = (train("bert", "parameters", tmp_path)[0].collapse() for _ in range(2))
    assert same_tensors(one, other)


def test_trainer_with_checkpointing_gives_the_same_losses(tmp_path: Path) -> None:
    _, plain = train("bert", "parameters", tmp_path)
    _, checkpointed = train("bert", "parameters", tmp_path, activation_checkpointing=True)
    assert checkpointed == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize("space", SPACES)
def test_accelerate_prepares_and_steps(space: str) -> None:
    accelerator = Accelerator(cpu=True)
    mixture = mixture_of("bert", space)
    optimizer = torch.optim.AdamW(mixture.parameter_groups(experts=0.01, weights=0.1))
    prepared, optimizer = accelerator.prepare(mixture, optimizer)
    batch = inputs("bert") | {"labels": torch.tensor([0, 1, 2])}
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = prepared(**batch).loss
        accelerator.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert isinstance(accelerator.unwrap_model(prepared).collapse(), Expert)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", ["encoder", "llama", "t5"])
def test_gradients_with_checkpointing_are_those_without(kind: str, space: str) -> None:
    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        mixture = mixture_of(kind, space).train()
        if checkpointing:
            mixture.gradient_checkpointing_enable()
            assert any(getattr(m, "gradient_checkpointing", False) for m in mixture.model.modules())
        for module in mixture.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if isinstance(getattr(module, "dropout", None), float):  # T5 calls the function
                module.dropout = 0.0
        loss_of(mixture, kind).backward()
        return {name: p.grad for name, p in mixture.named_parameters() if p.grad is not None}

    plain, checkpointed = gradients(False), gradients(True)
    assert set(plain) == set(checkpointed)
    assert float(plain["alpha"].abs().sum()) > 0
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("space", SPACES)
def test_bfloat16_autocast_runs_and_keeps_float32_parameters(space: str) -> None:
    mixture = mixture_of("bert", space)
    batch = inputs("bert") | {"labels": torch.tensor([0, 1, 2])}
    exact = mixture(**batch).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = mixture(**batch).loss
    loss.backward()
    torch.testing.assert_close(loss.float(), exact, atol=0.05, rtol=0.05)
    assert mixture.alpha.grad is not None
    assert bool(torch.isfinite(mixture.alpha.grad).all())
    assert {p.dtype for p in mixture.parameters()} == {torch.float32}
    assert all(slot.value.dtype == torch.float32 for slot in mixture.tensors.slots)

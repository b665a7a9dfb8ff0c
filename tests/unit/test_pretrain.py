"""Pre-training: exact to repeat, exact to resume; boxes and texts become the tokens that they should."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from ofa_small import config, tokenizer
from torch import Tensor

from pituning.errors import ConfigError, TrainingError
from pituning.models.ofa import OfaForConditionalGeneration
from pituning.pretrain.config import PretrainConfig
from pituning.pretrain.loop import CHECKPOINT, CURVE, train
from pituning.pretrain.samples import Sample, collate

SHORT = PretrainConfig(steps=6, batch_size=4, checkpoint_every=2, pieces=300, learning_rate=1e-3)


def model() -> OfaForConditionalGeneration:
    torch.manual_seed(0)
    settings = config(
        vocab_size=len(tokenizer()), freeze_batch_norm=False, dropout=0.1, resnet_layers=(1, 1, 1)
    )
    return OfaForConditionalGeneration(settings)


def batches(rng: Random) -> tuple[str, dict[str, Tensor]]:
    samples = [
        Sample(text=f" number {rng.randint(0, 9)}?", answer=str(rng.randint(0, 9)), picture=None)
        for _ in range(SHORT.batch_size)
    ]
    found = collate(samples, tokenizer(), 32)
    noise = torch.Generator().manual_seed(rng.randrange(2**31))
    found["patch_images"] = torch.randn(len(samples), 3, 32, 32, generator=noise)
    found["patch_masks"] = torch.ones(len(samples), dtype=torch.bool)
    return "counting", found


def run(folder: Path, stop_after: int | None = None) -> tuple[dict[str, Tensor], list[float]]:
    found = model()
    curve = train(found, batches, SHORT, folder, stop_after=stop_after, progress=False)
    return found.state_dict(), [entry["loss"] for entry in curve]


def test_the_same_seed_gives_the_same_losses_and_weights(tmp_path: Path) -> None:
    weights, losses = run(tmp_path / "a")
    again, repeated = run(tmp_path / "b")
    assert losses == repeated
    assert len(set(losses)) == SHORT.steps
    assert all(torch.equal(weights[name], again[name]) for name in weights)


@pytest.mark.parametrize("stops", [(1,), (3, 5)])
def test_a_stopped_run_goes_on_to_the_weights_of_an_uninterrupted_one(
    stops: tuple[int, ...], tmp_path: Path
) -> None:
    weights, losses = run(tmp_path / "whole")
    for stop in stops:
        run(tmp_path / "parts", stop_after=stop)
    again, repeated = run(tmp_path / "parts")
    assert losses == repeated
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert len(json.loads((tmp_path / "parts" / CURVE).read_text())) == SHORT.steps


def test_a_kill_between_checkpoints_costs_only_what_came_after_the_last(tmp_path: Path) -> None:
    """A curve that is ahead of the checkpoint, as a kill between the two files leaves it."""
    weights, _ = run(tmp_path / "whole")
    run(tmp_path / "parts", stop_after=4)
    curve = json.loads((tmp_path / "parts" / CURVE).read_text())
    (tmp_path / "parts" / CURVE).write_text(json.dumps([*curve, *curve]))
    again, _ = run(tmp_path / "parts")
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_another_configuration_does_not_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    run(tmp_path, stop_after=2)
    other = PretrainConfig(**{**vars(SHORT), "seed": 1})
    with pytest.raises(TrainingError, match="configuration it was started with"):
        train(model(), batches, other, tmp_path, progress=False)
    assert (tmp_path / CHECKPOINT).exists()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    def broken(rng: Random) -> tuple[str, dict[str, Tensor]]:
        name, batch = batches(rng)
        batch["patch_images"][0] = torch.nan
        return name, batch

    with pytest.raises(TrainingError, match="must stay finite"):
        train(model(), broken, SHORT, tmp_path, progress=False)


def test_boxes_stand_where_the_text_has_them_and_answers_end() -> None:
    reader = tokenizer(bins=11)
    samples = [
        Sample(text=" what is at {box} here?", answer="a cup", box=(0.0, 0.1, 0.5, 1.0)),
        Sample(text=" where?", answer=(0.2, 0.3, 0.4, 0.96)),
    ]
    batch = collate(samples, reader, 32)
    assert reader.decode(batch["input_ids"][0]) == ("<s> what is at <bin_0><bin_1><bin_5><bin_10> here?</s>")
    assert reader.decode(batch["labels"][0][:7]) == " a cup</s>"
    assert batch["labels"][1, :5].tolist() == [*reader.bin_ids([2, 3, 4, 10]), 2]
    assert (batch["labels"][1, 5:] == -100).all()
    assert "patch_images" not in batch
    picture = np.full((32, 32, 3), 255, dtype=np.uint8)
    shown = collate([Sample(text=" a?", answer="b", picture=picture), samples[1]], reader, 32)
    assert shown["patch_masks"].tolist() == [True, False]
    assert (shown["patch_images"][0] == 1).all()
    assert (shown["patch_images"][1] == -1).all()


def test_options_out_of_range_are_named_together() -> None:
    with pytest.raises(ConfigError, match=r"steps must be at least 1.*bins must be at least 2"):
        PretrainConfig(steps=0, bins=1)

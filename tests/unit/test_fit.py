"""Laws of the training loop: the same result whether interrupted or not, and nothing lost when it stops."""

from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from pituning import fit as fitting
from pituning.checkpoint import CHECKPOINT
from pituning.errors import ConfigError, TrainingError
from pituning.evaluation import Evaluation
from pituning.fit import EPOCH_STEPS, FitConfig, FitResult, fit
from pituning.task import Example

CONFIG = FitConfig(epochs=4, batch_size=4, patience=0, seed=3)
EXAMPLES = [Example(text_a=str(row), label=str(row % 2)) for row in range(10)]
STEPS = EPOCH_STEPS * 4  # the examples fill three batches, so an epoch is several passes
RATE = 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parameters_of_16_bits_are_told(dtype: torch.dtype, caplog: pytest.LogCaptureFixture) -> None:
    fitting._tell_coarse.cache_clear()
    module = nn.Linear(1, 2).to(dtype)
    module.bias.requires_grad_(False)
    groups = [{"params": [module.weight], "lr": RATE}]

    def losses(batch: list[Example]) -> Tensor:
        return module(torch.ones(len(batch), 1, dtype=dtype)).float().square().sum(dim=1)

    for _ in range(2):
        fit(module, groups, losses, None, EXAMPLES, replace(CONFIG, epochs=1))
    assert caplog.text.count("bfloat16 parameters are trained") == int(dtype == torch.bfloat16)


def test_a_step_that_does_not_fit_into_memory_is_told() -> None:
    module = nn.Linear(1, 2)

    def losses(_: list[Example]) -> Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with pytest.raises(TrainingError, match=r"Tried to allocate.*gradient_checkpointing"):
        fit(module, [{"params": [module.weight], "lr": RATE}], losses, None, EXAMPLES, CONFIG)


class Interruption(Exception):
    pass


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 2))


def losses(module: nn.Module, batch: list[Example]) -> Tensor:
    rows = torch.tensor([float(example.text_a or 0) for example in batch])
    x = torch.stack([rows.sin(), rows.cos(), rows / 10, torch.ones_like(rows)], dim=1)
    gold = torch.tensor([int(example.label or 0) for example in batch])
    return nn.functional.cross_entropy(module(x), gold, reduction="none")


def run(
    module: nn.Module,
    config: FitConfig = CONFIG,
    *,
    stop_at: int | None = None,
    nll: Callable[[list[Example]], Tensor] | None = None,
    scores: Callable[[], Evaluation] | None = None,
    **options: Any,
) -> FitResult:
    step = -1

    def counted(batch: list[Example]) -> Tensor:
        nonlocal step
        step += 1
        if step == stop_at:
            raise Interruption
        return losses(module, batch)

    @torch.no_grad()
    def validate() -> Evaluation:
        module.eval()
        return Evaluation(-float(losses(module, EXAMPLES).mean()), 0.0)

    groups = [{"params": list(module.parameters()), "lr": RATE}]
    return fit(module, groups, nll or counted, scores or validate, EXAMPLES, config, **options)


def equal(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_validation_loss_that_is_not_finite_is_left_out_of_the_history() -> None:
    found = iter([Evaluation(-1.0), Evaluation(-math.inf, 0.5), Evaluation(-0.5), *[Evaluation(-2.0)] * 9])
    result = run(net(), replace(CONFIG, epochs=3), scores=lambda: next(found))
    assert ["validation_loss" in entry for entry in result.history] == [False, True, True]
    assert result.history[0]["score"] == 0.5
    assert result.best_epoch == 2


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"precision": "bf16"}, "precision is one of float32, bfloat16; given: 'bf16'"),
        ({"max_grad_norm": math.nan}, "max_grad_norm must be above 0"),
    ],
)
def test_a_setting_that_is_none_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        FitConfig(**wrong)


@pytest.mark.parametrize(
    ("precision", "processor", "warned"),
    [("bfloat16", "AVX2", True), ("bfloat16", "AVX512", False), ("float32", "AVX2", False)],
)
def test_a_processor_that_has_to_emulate_bfloat16_is_told_of(
    precision: Literal["float32", "bfloat16"],
    processor: str,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor)
    run(net(), replace(CONFIG, epochs=0, precision=precision))
    assert ("emulate bfloat16" in caplog.text) is warned


def test_same_seed_same_result_and_callers_generator_untouched() -> None:
    one, other, different = net(), net(), net()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert run(one) == run(other)
    run(different, replace(CONFIG, seed=4))
    assert torch.equal(before, torch.get_rng_state())
    assert equal(one, other)
    assert not equal(one, different)


@pytest.mark.parametrize("stop_at", range(0, STEPS, 3))
def test_run_stopped_at_any_step_resumes_bit_for_bit(stop_at: int, tmp_path: Path) -> None:
    whole, stopped, resumed = net(), net(), net()
    expected = run(whole)
    with pytest.raises(Interruption):
        run(stopped, stop_at=stop_at, workdir=tmp_path)
    assert files(tmp_path) == [CHECKPOINT]
    assert run(resumed, workdir=str(tmp_path), resume=True) == expected
    assert equal(resumed, whole)


def test_run_stopped_twice_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole, part = net(), net()
    run(whole)
    for stop_at in (EPOCH_STEPS + 4, EPOCH_STEPS + 5):
        with pytest.raises(Interruption):
            run(net(), stop_at=stop_at, workdir=tmp_path, resume=True)
    run(part, workdir=tmp_path, resume=True)
    assert equal(part, whole)


def test_finished_run_resumes_to_its_result(tmp_path: Path) -> None:
    one, other = net(), net()
    assert run(one, workdir=tmp_path) == run(other, workdir=tmp_path, resume=True, nll=lambda _: 1 / 0)  # type: ignore[arg-type]
    assert equal(one, other)


def test_without_resume_a_run_starts_again(tmp_path: Path) -> None:
    one, other = net(), net()
    run(one, replace(CONFIG, seed=9), workdir=tmp_path)
    run(other, workdir=tmp_path)
    run(one := net())
    assert equal(one, other)


@pytest.mark.parametrize("change", [{"seed": 4}, {"epochs": 5}, {"batch_size": 5}, {"weight_decay": 0.5}])
def test_other_options_are_refused_on_resume(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Interruption):
        run(net(), stop_at=EPOCH_STEPS + 3, workdir=tmp_path)
    with pytest.raises(TrainingError, match="is of another run"):
        run(net(), replace(CONFIG, **change), workdir=tmp_path, resume=True)
    with pytest.raises(TrainingError, match="is of another run"):
        run(net(), workdir=tmp_path, resume=True, key="other data")


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_damaged_checkpoint_is_an_error_that_says_so(cut: int, tmp_path: Path) -> None:
    run(net(), workdir=tmp_path)
    file = tmp_path / CHECKPOINT
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(TrainingError, match=r"whole safetensors file.*Delete it and start again"):
        run(net(), workdir=tmp_path, resume=True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("step", [0, EPOCH_STEPS + 4])
def test_loss_that_is_not_finite_stops_and_keeps_the_best(bad: float, step: int, tmp_path: Path) -> None:
    module, reference, seen = net(), net(), -1

    def nll(batch: list[Example]) -> Tensor:
        nonlocal seen
        seen += 1
        return losses(module, batch) * (bad if seen == step else 1.0)

    with pytest.raises(TrainingError, match=rf"loss must stay finite.* at step {step + 1};"):
        run(module, nll=nll, workdir=tmp_path)
    with pytest.raises(Interruption):
        run(reference, stop_at=step)
    assert equal(module, reference)
    resumed, whole = net(), net()
    run(resumed, workdir=tmp_path, resume=True)
    run(whole)
    assert equal(resumed, whole)


def test_gradient_that_is_not_finite_stops_before_it_is_applied() -> None:
    module = net()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    def nll(batch: list[Example]) -> Tensor:
        return losses(module, batch) + (module[0].weight.sum() * 0).abs().sqrt()  # type: ignore[union-attr, operator, index]

    with pytest.raises(TrainingError, match=r"gradient must stay finite.* at step 1;"):
        run(module, nll=nll)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def scripted(*values: float) -> Callable[[], Evaluation]:
    scores = iter(values)
    return lambda: Evaluation(next(scores), 0.0)


def test_best_state_is_restored() -> None:
    module, two_epochs = net(), net()
    result = run(module, scores=scripted(0.1, 0.2, 0.9, 0.3, 0.2))
    assert (result.best_epoch, result.best) == (2, Evaluation(0.9, 0.0))
    with pytest.raises(Interruption):
        run(two_epochs, stop_at=2 * EPOCH_STEPS, scores=scripted(0.1, 0.2, 0.9))
    assert equal(module, two_epochs)


def test_state_before_training_is_kept_where_training_makes_it_worse() -> None:
    module = net()
    assert run(module, scores=scripted(0.9, 0.1, 0.2, 0.3, 0.4)).best_epoch == 0
    assert equal(module, net())


def test_patience_counts_epochs_without_a_better_validation() -> None:
    config = replace(CONFIG, epochs=10, patience=2)
    result = run(net(), config, scores=scripted(0.1, 0.5, 0.4, 0.5, 0.9))
    assert (len(result.history), result.best_epoch) == (3, 1)


def test_a_small_set_is_passed_over_until_an_epoch_has_enough_steps() -> None:
    seen: list[list[str]] = []
    module = net()

    def spy(batch: list[Example]) -> Tensor:
        seen.append([str(example.text_a) for example in batch])
        return losses(module, batch)

    run(module, replace(CONFIG, epochs=1), nll=spy)
    assert len(seen) == EPOCH_STEPS
    everyone = sorted(str(example.text_a) for example in EXAMPLES)
    for start in range(0, 9, 3):  # three batches are a pass
        assert sorted(text for batch in seen[start : start + 3] for text in batch) == everyone
    assert seen[:3] != seen[3:6]


def test_the_loss_decides_and_the_score_only_informs() -> None:
    assert Evaluation(-1.0, 0.5).merit > Evaluation(-2.0, 0.6).merit
    assert Evaluation(-1.0, 0.6).merit == Evaluation(-1.0, None).merit


def test_without_validation_the_last_state_is_kept() -> None:
    module = net()
    groups = [{"params": list(module.parameters()), "lr": RATE}]
    result = fit(module, groups, lambda batch: losses(module, batch), None, EXAMPLES, CONFIG)
    assert (result.best_epoch, result.best, len(result.history)) == (4, None, 4)


def test_full_disk_keeps_the_old_checkpoint_and_the_best_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, writes = Path.write_bytes, 0

    def full(path: Path, content: bytes) -> int:
        nonlocal writes
        writes += 1
        if writes == 3:  # after the start and the first epoch
            real(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, content)

    module, two_epochs = net(), net()
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(TrainingError, match=r"have room for checkpoints.*No space left.*after epoch 2"):
        run(module, workdir=tmp_path)
    monkeypatch.undo()
    with pytest.raises(Interruption):
        run(two_epochs, stop_at=2 * EPOCH_STEPS)
    assert equal(module, two_epochs)
    assert files(tmp_path) == [CHECKPOINT]
    resumed, whole = net(), net()
    run(resumed, workdir=tmp_path, resume=True)
    run(whole)
    assert equal(resumed, whole)


def test_folder_that_cannot_be_written_is_found_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"must be writable.*before training.*another folder\.$"):
        run(net(), workdir=tmp_path / "file" / "work", nll=lambda _: 1 / 0)  # type: ignore[arg-type]


def test_options_out_of_range_are_named_together() -> None:
    with pytest.raises(ConfigError, match=r"(?s)epochs must be at least 0;.*batch_size must be at least 1"):
        FitConfig(epochs=-1, batch_size=0)
    with pytest.raises(ConfigError, match="warmup"):
        FitConfig(warmup=1.0)


def test_no_epochs_change_nothing(tmp_path: Path) -> None:
    module = net()
    assert run(module, replace(CONFIG, epochs=0), workdir=tmp_path).history == []
    assert equal(module, net())


@pytest.mark.parametrize("parts", [2, 3, 4, 9])
def test_a_batch_taken_in_parts_gives_the_gradients_of_the_whole(parts: int) -> None:
    module, split = net().eval(), net().eval()
    for dropout in (module[1], split[1]):  # type: ignore[index]
        dropout.p = 0.0
    run(module, replace(CONFIG, weight_decay=0.0))
    run(split, replace(CONFIG, weight_decay=0.0, accumulate=parts))
    for one, other in zip(module.parameters(), split.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_batch_in_parts_is_never_held_whole() -> None:
    sizes: list[int] = []

    def counted(batch: list[Example]) -> Tensor:
        sizes.append(len(batch))
        return losses(module, batch)

    module = net()
    run(module, replace(CONFIG, epochs=1, accumulate=2), nll=counted)
    assert max(sizes) == 2
    assert sum(sizes) >= len(EXAMPLES)


def test_bfloat16_runs_under_autocast_with_parameters_in_float32() -> None:
    module, types = net(), set()
    module[3].register_forward_hook(lambda _, __, out: types.add(out.dtype))  # type: ignore[index]
    run(module, replace(CONFIG, precision="bfloat16", epochs=1))
    assert torch.bfloat16 in types
    assert {p.dtype for p in module.parameters()} == {torch.float32}


KILLED = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    sys.path[:0] = {path!r}
    import test_fit
    module, step = test_fit.net(), -1
    def nll(batch):
        global step
        step += 1
        if step == 7:
            Path({ready!r}).touch()
            time.sleep(60)
        return test_fit.losses(module, batch)
    test_fit.run(module, nll=nll, workdir=Path({work!r}))
    """
)


@pytest.mark.slow
def test_killed_process_resumes_bit_for_bit(tmp_path: Path) -> None:
    here, ready, work = Path(__file__).parent, tmp_path / "ready", tmp_path / "work"
    code = KILLED.format(path=[str(here), str(here.parent)], ready=str(ready), work=str(work))
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 120
        while not ready.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    resumed, whole = net(), net()
    run(resumed, workdir=work, resume=True)
    run(whole)
    assert equal(resumed, whole)

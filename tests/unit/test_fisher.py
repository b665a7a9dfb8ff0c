"""Exact Fisher information: the fast way equals one backward an example, or is not taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
import transformers
from torch import Tensor, nn

from pituning.backbones import Backbone
from pituning.errors import ConfigError, TrainingError
from pituning.expert import attach
from pituning.methods import peft_config
from pituning.predict import diagonal_fisher, fisher
from pituning.predict.fisher import accumulate, batch_squared_fisher
from pituning.predict.taps import tapped

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
    pytest.mark.filterwarnings("ignore:Invalid `oft_block_size`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Detected that the base layer has no bias term:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
]

BY_HOOKS = ["lora", "dora", "adapter", "ia3", "ln_tuning", "vera", "lokr", "oft", "bitfit"]


class Sizes:
    """Examples [n, 3] -> one loss an example, by a module of one's choice."""

    def __init__(self, loss: Callable[[nn.Module, Tensor], Tensor] | None = None) -> None:
        self.loss = loss or (lambda model, x: model(x).square().flatten(1).sum(dim=1))

    def compare(self, model: nn.Module, *batches: Tensor, method: str = "auto") -> list[str]:
        """Assert that the result is that of batches of one; return the methods taken."""
        runs, singles = [], [row for batch in batches for row in batch.split(1)]
        for run in accumulate(model, batches, self.loss, method=method, split=self.split):  # type: ignore[arg-type]
            runs.append(run.method)
        assert_same(run.mean, diagonal_fisher(model, singles, self.loss, method="loop"))
        return list(runs)

    @staticmethod
    def split(batch: Tensor) -> list[Tensor]:
        return list(batch.split(1))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    whole = max(float(tensor.abs().max()) for tensor in expected.values())
    assert whole > 0
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        # What is zero but for rounding (BitFit's key bias) has no relative error.
        assert float((found[name] - tensor).norm()) <= tolerance * float(tensor.norm()) + 1e-10 * whole, name


def inputs(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def adapted(backbone: Backbone, kind: str, method: str, dtype: torch.dtype) -> tuple[nn.Module, Any, Any]:
    """A model whose adapter is not at its start, the examples, and their loss."""
    task = tiny.task_for(kind)
    heads = backbone.head_modules(backbone.model)
    model = attach(backbone, peft_config(method, backbone.model, heads=heads), labels=task.candidates, seed=0)
    for index, parameter in enumerate(model.parameters()):
        if parameter.requires_grad:
            parameter.data.add_(0.05 * inputs(*parameter.shape, seed=index))

    def nll(model: nn.Module, batch: Any) -> Tensor:
        tensors = backbone.collate(batch, task, independent=True)
        return backbone.nll(
            model, {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}
        )

    return model.to(dtype), list(task.train), nll


def one_by_one(batch: list[Any]) -> list[list[Any]]:
    return [[example] for example in batch]


@pytest.mark.parametrize("method", [*BY_HOOKS, "prefix", "prompt"])
@pytest.mark.parametrize("kind", ["t5", "llama", "bert"])
def test_fisher_of_a_method_equals_the_loop(
    backbone_of: Callable[[str], Backbone], kind: str, method: str
) -> None:
    model, examples, nll = adapted(backbone_of(kind), kind, method, torch.float64)
    batches = [examples[:4], examples[4:]]
    runs = list(accumulate(model, batches, nll, split=one_by_one))
    expected = diagonal_fisher(model, one_by_one(examples), nll, method="loop")
    assert_same(runs[-1].mean, expected)
    if method in BY_HOOKS:
        assert runs[-1].method == "hooks"


@pytest.mark.parametrize("kind", ["clip", "vit", "bert_classifier", "idefics3", "qwen2"])
def test_fisher_of_a_backbone_equals_the_loop(backbone_of: Callable[[str], Backbone], kind: str) -> None:
    model, examples, nll = adapted(backbone_of(kind), kind, "lora", torch.float32)
    [run] = accumulate(model, [examples], nll, split=one_by_one)
    assert run.method == "hooks"
    assert_same(run.mean, diagonal_fisher(model, one_by_one(examples), nll, method="loop"))


@pytest.mark.parametrize(("kind", "method"), [("opt", "hooks"), ("gpt2", "loop")])
def test_fisher_of_a_whole_model_with_tied_weights_equals_the_loop(kind: str, method: str) -> None:
    sizes = {"vocab_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 8}
    sizes |= {"ffn_dim": 16, "word_embed_proj_dim": 8} if kind == "opt" else {}
    config = transformers.AutoConfig.for_model(kind, **sizes, tie_word_embeddings=True, use_cache=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).double()
    ids = torch.randint(2, 20, (4, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = mask[2, 3:] = 0  # [batch, tokens], right padding

    def nll(model: nn.Module, rows: Tensor) -> Tensor:
        logits = model(input_ids=ids[rows], attention_mask=mask[rows]).logits[:, :-1]
        losses = nn.functional.cross_entropy(logits.transpose(1, 2), ids[rows, 1:], reduction="none")
        return (losses * mask[rows, 1:]).sum(dim=1)

    [run] = accumulate(model, [torch.arange(4)], nll)
    assert run.method == method  # GPT-2 looks its positions up once for the whole batch
    assert_same(run.mean, diagonal_fisher(model, list(torch.arange(4).split(1)), nll, method="loop"))


def test_fisher_of_a_matching_backbone_whose_examples_share_candidates_takes_the_loop(
    backbone_of: Callable[[str], Backbone],
) -> None:
    backbone = backbone_of("bert")
    model, _, _ = adapted(backbone, "bert", "lora", torch.float32)
    two = tiny.text_task(classes=2)

    def nll(model: nn.Module, batch: Any) -> Tensor:
        return backbone.nll(model, backbone.collate(batch, two, independent=False))

    # As many candidates as examples: the rows look like one an example.
    [run] = accumulate(model, [list(two.train[:2])], nll, split=one_by_one)
    assert run.method == "loop"
    assert_same(run.mean, diagonal_fisher(model, one_by_one(list(two.train[:2])), nll, method="loop"))
    # A batch of one first: all rows are its own, and sharing shows in the second batch only.
    runs = list(accumulate(model, [list(two.train[:1]), list(two.train[1:3])], nll, split=one_by_one))
    assert [run.method for run in runs] == ["hooks", "loop"]
    assert_same(runs[-1].mean, diagonal_fisher(model, one_by_one(list(two.train[:3])), nll, method="loop"))


def test_hooks_work_in_bfloat16(backbone_of: Callable[[str], Backbone]) -> None:
    model, examples, nll = adapted(backbone_of("llama"), "llama", "lora", torch.float32)
    exact = diagonal_fisher(model, [examples], nll, method="loop")
    [run] = accumulate(model.to(torch.bfloat16), [examples], nll)
    assert run.method == "hooks"
    assert_same(run.mean, exact, tolerance=0.1)
    assert all(tensor.dtype == torch.float32 for tensor in run.mean.values())


class Noisy(torch.autograd.Function):
    """The identity, whose gradient is rounded in another way in each pass, as attention's on a GPU is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * (1 + 2.0**-8 * torch.randint(-1, 2, gradient.shape)).to(gradient.dtype)


def test_backward_passes_that_differ_by_rounding_are_taken_in_bfloat16() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2)).to(torch.bfloat16)

    def separate(model: nn.Sequential, x: Tensor) -> Tensor:
        return model[1](Noisy.apply(model[0](x.to(torch.bfloat16)))).float().square().sum(dim=1)

    def mixed(model: nn.Sequential, x: Tensor) -> Tensor:
        found = separate(model, x)
        return found + 0.01 * found.roll(1)

    for loss, method in ((separate, "hooks"), (mixed, "loop")):
        [run] = accumulate(model, [inputs(4, 3)], loss)
        assert run.method == method
    expected = diagonal_fisher(model, [inputs(4, 3)], separate, method="loop")
    assert_same(diagonal_fisher(model, [inputs(4, 3)], separate), expected, tolerance=0.05)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x).tanh())


class Pair(nn.Module):
    """Owns its parameter and gives a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(inputs(3))

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, None]]:
        return x * self.scale, (x + self.scale.square(), None)


class Outside(nn.Module):
    """Uses a layer's weight without calling the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + nn.functional.linear(x.square(), self.layer.weight)


class Routed(nn.Module):
    """Rows that go through the layer depend on the data, as in a mixture of experts."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        chosen = x[..., 0] > 0
        out = x.clone()
        out[chosen] = self.layer(x[chosen])
        return out


def test_a_module_called_twice_adds_before_squaring() -> None:
    # The second batch is laid out as the first, and is not checked again.
    assert Sizes().compare(Twice(), inputs(4, 3), inputs(4, 3, seed=1)) == ["hooks", "hooks"]


def test_a_module_that_gives_a_tuple_is_watched() -> None:
    def loss(model: nn.Module, x: Tensor) -> Tensor:
        first, (second, _) = model(x)
        return (first.sin() * second).sum(dim=1)

    assert Sizes(loss).compare(Pair(), inputs(4, 3)) == ["hooks"]


def test_a_parametrised_layer_is_watched() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    assert Sizes().compare(layer, inputs(4, 3)) == ["hooks"]


def test_a_weight_used_outside_its_module_takes_the_loop() -> None:
    assert Sizes().compare(Outside(), inputs(4, 3)) == ["loop"]


def test_losses_that_depend_on_other_examples_take_the_loop() -> None:
    layer = nn.Linear(3, 2)

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        return model(x).sum(dim=1).log_softmax(dim=0)  # in-batch negatives; they cancel in the plain sum

    [run] = accumulate(layer, [inputs(4, 3)], loss)
    assert run.method == "loop"
    x = inputs(4, 3)
    squares = [torch.autograd.grad(loss(layer, x)[i], layer.weight)[0].square() for i in range(4)]
    assert torch.allclose(run.mean["weight"], torch.stack(squares).mean(dim=0))


def test_rows_that_follow_the_data_are_checked_in_every_batch() -> None:
    even, odd = inputs(2, 4, 3).abs(), inputs(2, 4, 3).abs()
    even[:, 2:, 0] *= -1  # two rows of each example go through the layer
    odd[0, 1:, 0] *= -1  # one row of the first, three of the second: as many in all
    odd[1, 3:, 0] *= -1
    assert Sizes().compare(Routed(), even, odd) == ["hooks", "loop"]


def test_a_larger_batch_than_was_checked_is_checked_again() -> None:
    layer = nn.Linear(3, 2)

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        out = model(x).square().sum(dim=1)
        return out if len(x) < 3 else out * out.flip(0)

    runs = list(accumulate(layer, [inputs(2, 3), inputs(4, 3)], loss))
    assert [run.method for run in runs] == ["hooks", "loop"]


def test_more_examples_than_codes_are_told_apart() -> None:
    layer = nn.Linear(3, 2)
    assert Sizes().compare(layer, inputs(70, 3)) == ["hooks"]

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        out = model(x).square().sum(dim=1)
        return out + out.roll(32)  # with a neighbour of the same code in the first pass

    [run] = accumulate(layer, [inputs(64, 3)], loss)
    assert run.method == "loop"


def test_in_place_changes_of_an_output_take_the_loop() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    assert Sizes().compare(model, inputs(4, 3)) == ["loop"]


def test_auto_stops_trying_after_two_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []
    monkeypatch.setattr(fisher, "tapped", lambda *args: tries.append(1) or tapped(*args))
    assert Sizes().compare(Outside(), *[inputs(2, 3, seed=seed) for seed in range(4)]) == ["loop"] * 4
    assert len(tries) == fisher.PATIENCE


def test_gradients_that_would_not_fit_take_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fisher, "ROOM", 4 * 8 - 1)
    assert Sizes().compare(nn.Linear(3, 2), inputs(4, 3), inputs(3, 3)) == ["loop", "hooks"]


def test_hooks_refuse_where_they_are_not_exact() -> None:
    with pytest.raises(ConfigError, match="do not add up"):
        Sizes().compare(Outside(), inputs(4, 3), method="hooks")


@pytest.mark.parametrize("method", ["auto", "hooks", "loop"])
def test_a_gradient_that_is_not_finite_raises(method: str) -> None:
    def loss(model: nn.Module, x: Tensor) -> Tensor:
        return model(x).square().sum(dim=1) * torch.tensor([1.0, torch.nan])

    with pytest.raises(TrainingError, match="finite"):
        diagonal_fisher(nn.Linear(3, 2), [inputs(2, 3)], loss, method=method)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="finite"):
        batch_squared_fisher(nn.Linear(3, 2), [inputs(2, 3)], loss)


def test_a_gradient_that_is_not_finite_in_a_later_batch_raises() -> None:
    batches = [inputs(2, 3), torch.full((2, 3), torch.nan)]
    with pytest.raises(TrainingError, match="finite"):
        Sizes().compare(nn.Linear(3, 2), *batches)


def test_an_error_of_the_loss_itself_is_not_hidden() -> None:
    def loss(model: nn.Module, x: Tensor) -> Tensor:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        diagonal_fisher(nn.Linear(3, 2), [inputs(2, 3)], loss)


@pytest.mark.parametrize("shape", [(), (2, 1)])
def test_losses_that_are_not_one_an_example_raise(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="one loss for each example"):
        diagonal_fisher(nn.Linear(3, 2), [inputs(2, 3)], lambda model, x: model(x).sum() * torch.ones(shape))


def test_nothing_to_embed_raises() -> None:
    with pytest.raises(ConfigError, match="trainable"):
        diagonal_fisher(nn.Linear(3, 2).requires_grad_(False), [inputs(2, 3)], Sizes().loss)
    with pytest.raises(ConfigError, match="at least one batch"):
        diagonal_fisher(nn.Linear(3, 2), [], Sizes().loss)


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 2)).train()
    model[0].eval()
    Sizes().compare(model, inputs(4, 3))
    assert [module.training for module in model] == [False, True, True]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(not module._forward_hooks for module in model)


def test_an_unused_parameter_has_none() -> None:
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2)})
    for method in ("hooks", "loop"):
        found = diagonal_fisher(model, [inputs(4, 3)], lambda m, x: m["used"](x).sum(dim=1), method=method)  # type: ignore[index,arg-type]
        assert not found["unused.weight"].any()
        assert found["used.weight"].all()


def test_batch_squared_fisher_squares_the_sum_of_a_batch() -> None:
    layer, x = nn.Linear(3, 1, bias=False), inputs(5, 3)
    found = batch_squared_fisher(layer, [x[:3], x[3:]], lambda model, x: model(x).squeeze(1))
    by_hand = (x[:3].sum(dim=0).square() + x[3:].sum(dim=0).square()) / 5
    assert torch.allclose(found["weight"][0], by_hand)

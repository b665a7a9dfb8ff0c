"""Laws of delta space: Σ_i w_i s_i B_i A_i, whatever the experts' ranks, scalings, starts and targets."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from small import VARIANTS, expert, frozen, inputs, lora, model_of, outputs, outputs_of, same_tensors
from torch import Tensor, nn

from pituning.errors import ExpertError, MixtureError
from pituning.expert import Expert, ExpertCard
from pituning.foundation import Frozen
from pituning.interpolate import Mixture
from pituning.interpolate.compatible import obstacle
from pituning.interpolate.delta import low_rank

pytestmark = pytest.mark.filterwarnings("ignore:.*LoRA tensor.s. have invalid shape")

# Everything that may differ between two LoRA experts.
MIXED_BAG: dict[str, dict[str, Any]] = {
    "small": {"config": lora()},
    "large": {"config": lora(r=5, lora_alpha=3), "init_seed": 7},
    "rslora": {"config": lora(r=3, use_rslora=True, init_lora_weights="gaussian"), "init_seed": 1},
    "patterns": {
        "config": lora(
            target_modules=["query", "dense"],
            rank_pattern={"layer.1.output.dense": 4},
            alpha_pattern={"query": 9},
        )
    },
    "one_layer": {"config": lora(target_modules=["value"], layers_to_transform=[1], r=1)},
}
WEIGHTS = {"small": 0.1, "large": 0.3, "rslora": 0.2, "patterns": 0.25, "one_layer": 0.15}


def bag() -> list[Expert]:
    return [expert(name, **options) for name, options in MIXED_BAG.items()]


def dense_update(one: Expert, module: str) -> Tensor | float:
    """s B A from the saved tensors and the configuration alone, following PEFT's documentation."""
    prefix = f"base_model.model.{module}.lora_"
    if f"{prefix}A.weight" not in one.tensors:
        return 0.0
    a, b = one.tensors[f"{prefix}A.weight"].double(), one.tensors[f"{prefix}B.weight"].double()
    alphas = [v for k, v in one.config.alpha_pattern.items() if module.endswith(k)] or [one.config.lora_alpha]
    rank = a.shape[0]
    return alphas[0] / (math.sqrt(rank) if one.config.use_rslora else rank) * (b @ a)


def dense_model(experts: list[Expert], weights: dict[str, float], kind: str = "encoder") -> nn.Module:
    model = model_of(kind)
    transpose = kind == "gpt2"
    for name, module in model.named_modules():
        if isinstance(getattr(module, "weight", None), nn.Parameter) and module.weight.dim() == 2:
            updates = [weights[one.name] * dense_update(one, name) for one in experts]
            total = sum(updates)
            if isinstance(total, Tensor):
                module.weight.data += (total.T if transpose else total).float()
    return model


def test_mixture_is_the_backbone_plus_weighted_dense_updates() -> None:
    experts = bag()
    mixture = Mixture(frozen(), experts, space="delta", initial=WEIGHTS)
    expected = outputs(dense_model(experts, WEIGHTS))
    assert not torch.allclose(expected, outputs(frozen().model), atol=1e-2)
    torch.testing.assert_close(outputs(mixture), expected, atol=1e-5, rtol=1e-5)


def test_collapse_at_the_summed_rank_is_exact() -> None:
    mixture = Mixture(frozen(), bag(), space="delta", initial=WEIGHTS)
    collapsed = mixture.collapse()
    torch.testing.assert_close(outputs_of(collapsed), outputs(mixture), atol=1e-5, rtol=1e-5)
    assert collapsed.config.r == 2 + 5 + 3 + 2  # of the queries, which one_layer leaves alone
    assert collapsed.card.initialisation == "unknown"


def test_one_hot_gives_that_experts_outputs() -> None:
    for chosen in bag():
        initial = {name: float(name == chosen.name) for name in MIXED_BAG}
        mixture = Mixture(frozen(), bag(), space="delta", initial=initial)
        torch.testing.assert_close(outputs(mixture), outputs_of(chosen), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("rank", [1, 3, 8, 40])
def test_svd_error_is_that_of_eckart_and_young(rank: int) -> None:
    experts = bag()
    mixture = Mixture(frozen(), experts, space="delta", initial=WEIGHTS)
    cut = mixture.collapse(rank=rank)
    lost = whole = 0.0
    for name, module in frozen().model.named_modules():
        update = sum(WEIGHTS[one.name] * dense_update(one, name) for one in experts)
        if not isinstance(module, nn.Linear) or not isinstance(update, Tensor):
            continue
        singular = torch.linalg.svdvals(update)
        found = dense_update(cut, name)
        assert isinstance(found, Tensor)
        error = (found - update).norm()
        torch.testing.assert_close(error, singular[rank:].norm(), atol=1e-5, rtol=1e-4)
        lost, whole = lost + float(singular[rank:].square().sum()), whole + float(singular.square().sum())
    assert cut.card.recipe["relative_error"] == pytest.approx(math.sqrt(lost / whole), abs=1e-5)
    assert cut.config.r == min(rank, mixture.collapse().config.r)
    whole_again = Mixture(frozen(), [cut], space="delta").collapse()
    assert "relative_error" not in whole_again.card.recipe
    if rank >= 16:  # no update has a larger rank
        torch.testing.assert_close(outputs_of(cut), outputs(mixture), atol=1e-5, rtol=1e-5)


def test_low_rank_of_nothing_is_nothing() -> None:
    a, b, lost, whole = low_rank(torch.zeros(3, 5), torch.zeros(4, 3), 2)
    assert (a.abs().sum(), b.abs().sum(), lost, whole) == (0, 0, 0, 0)
    mixture = Mixture(frozen(), [expert("a", scale=0.0)], space="delta")
    assert mixture.collapse(rank=1).card.recipe["relative_error"] == 0


@pytest.mark.parametrize(
    ("kind", "targets"), [("encoder", ["query"]), ("gpt2", ["c_attn"]), ("llama", ["q_proj"])]
)
@pytest.mark.parametrize("rank", [None, 3])
def test_collapsed_folder_loads_with_peft_alone(
    kind: str, targets: list[str], rank: int | None, tmp_path: Path
) -> None:
    turned = {"fan_in_fan_out": True} if kind == "gpt2" else {}
    experts = [
        expert(name, lora(r=r, target_modules=targets, **turned), frozen(kind), init_seed=r)
        for name, r in (("a", 2), ("b", 3))
    ]
    mixture = Mixture(frozen(kind), experts, space="delta")
    collapsed = mixture.collapse(rank=rank)
    collapsed.save(tmp_path / "out")
    loaded = PeftModel.from_pretrained(model_of(kind), tmp_path / "out")
    torch.testing.assert_close(outputs(loaded, kind), outputs_of(collapsed, kind), atol=1e-6, rtol=1e-6)
    if rank is None:
        torch.testing.assert_close(outputs(loaded, kind), outputs(mixture, kind), atol=1e-5, rtol=1e-5)
        dense = dense_model(experts, {"a": 0.5, "b": 0.5}, kind)
        torch.testing.assert_close(outputs(loaded, kind), outputs(dense, kind), atol=1e-5, rtol=1e-5)


def test_module_whose_name_ends_anothers_is_not_mistaken_for_it() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = nn.Linear(4, 4)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.inner = nn.Linear(4, 4), Inner()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner.q(self.q(x))  # type: ignore[no-any-return]

    backbone = Frozen(Net())
    experts = [expert(n, lora(target_modules="q", r=r), backbone) for n, r in (("a", 1), ("b", 2))]
    mixture = Mixture(backbone, experts, space="delta")
    assert set(mixture.weights()) == {"q"}
    x = torch.ones(2, 4)
    for rank in (None, 2):
        collapsed = mixture.collapse(rank=rank)
        assert not any("inner" in name for name in collapsed.tensors)
    update = 0.5 * sum(dense_update(one, "q") for one in experts)
    expected = backbone.model.inner.q(backbone.model.q(x) + x @ update.float().T)
    torch.testing.assert_close(mixture(x), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("dora", "use_dora, whose update is not a product"),
        ("lora_bias", "also trains biases"),
        ("bias_all", "also trains biases"),
        ("bias_lora_only", "also trains biases"),
        ("pissa", "starts from 'pissa', which changes the frozen weights"),
        ("ia3", "is IA3, and delta space is defined for LoRA"),
        ("prompt", "is PROMPT_TUNING, and delta space is defined for LoRA"),
        ("embedding", "adapts embeddings.word_embeddings, and delta space is defined for Linear layers"),
    ],
)
def test_what_is_not_a_product_of_factors_is_refused_with_the_reason(variant: str, reason: str) -> None:
    with pytest.raises(MixtureError, match=reason):
        Mixture(frozen(), [expert("a"), expert("odd", VARIANTS[variant])], space="delta", target="a")


def test_an_adapter_that_lacks_a_factor_is_refused_without_a_model() -> None:
    whole = expert("odd")
    first = next(name for name in whole.tensors if ".lora_A." in name)
    half = {name: tensor for name, tensor in whole.tensors.items() if name != first}
    flat = {name: tensor.flatten() for name, tensor in whole.tensors.items()}
    other = {**whole.tensors, first: whole.tensors[first][1:]}
    for tensors in (half, flat, other):
        broken = Expert(whole.card, whole.config, tensors)
        assert "odd has no A and B of one rank for" in obstacle(broken, expert("a"), "delta")


def test_an_adapter_of_convolutions_is_refused_without_a_model() -> None:
    whole = expert("odd")
    wide = {name: tensor[..., None, None] for name, tensor in whole.tensors.items()}
    told = obstacle(Expert(whole.card, whole.config, wide), expert("a"), "delta")
    assert told.startswith("odd adapts encoder.layer.0.attention.self.")
    assert told.endswith(", and delta space is defined for Linear layers")


def test_foreign_experts_are_mixed_where_they_fit(tmp_path: Path) -> None:
    experts = [expert("a"), expert("b", lora(r=3), init_seed=4)]
    for one in experts:
        one.save(tmp_path / one.name)
        (tmp_path / one.name / "expert.json").unlink()
    foreign = [Expert.load(tmp_path / one.name) for one in experts]
    assert all(one.card.initialisation == "unknown" for one in foreign)
    expected = outputs(Mixture(frozen(), experts, space="delta"))
    for found in (foreign, [experts[0], foreign[1]], [foreign[0], experts[1]]):
        mixture = Mixture(frozen(), found, space="delta")
        torch.testing.assert_close(outputs(mixture), expected, atol=1e-6, rtol=1e-6)
        assert mixture.collapse().card.backbone == frozen().fingerprint
    with pytest.raises(MixtureError, match="initialisation of b is not known"):
        Mixture(frozen(), [experts[0], foreign[1]])


def test_foreign_expert_of_another_shape_is_refused() -> None:
    wide = Frozen(model_of("encoder", hidden_size=32), name="wide")
    foreign = expert("b", backbone=wide)
    foreign = Expert(ExpertCard(name="b", task="b", backbone="?wide"), foreign.config, foreign.tensors)
    with pytest.raises(MixtureError, match="b adapts modules of other shapes than a"):
        Mixture(frozen(), [expert("a"), foreign], space="delta")
    with pytest.raises(ExpertError, match="expert 'b' must be those of its configuration on this backbone"):
        Mixture(frozen(), [foreign], space="delta")


def test_training_reaches_both_factors_and_the_weights() -> None:
    mixture = Mixture(frozen(), bag(), space="delta")
    before = mixture.collapse()
    out = mixture(**inputs()).last_hidden_state
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    torch.optim.SGD(mixture.parameters(), lr=0.01).step()
    after = mixture.collapse()
    assert not any(
        torch.equal(before.tensors[n], after.tensors[n]) for n in before.tensors if "pooler" not in n
    )
    torch.testing.assert_close(outputs_of(after), outputs(mixture), atol=1e-5, rtol=1e-5)
    assert not same_tensors(before, after)


def test_dropout_is_that_of_the_target() -> None:
    pair = [expert("a", lora(lora_dropout=0.5)), expert("b", lora(r=3))]
    mixture = Mixture(frozen(), pair, space="delta", target="a")
    rates = {m.p for name, m in mixture.model.named_modules() if "lora_dropout" in name and hasattr(m, "p")}
    assert rates == {0.5}
    assert mixture.collapse().config.lora_dropout == 0.5

"""Laws of the mixture in parameter space, and of the mixture as a module."""

from __future__ import annotations

import copy
import dataclasses

import peft
import pytest
import tiny
import torch
from small import (
    VARIANTS,
    expert,
    frozen,
    inputs,
    lora,
    loss_of,
    model_of,
    outputs,
    outputs_of,
    same_tensors,
)
from torch import nn

from pituning.backbones.causal import Causal
from pituning.errors import BackboneError, ExpertError, MixtureError
from pituning.expert import Expert, attach_expert, introduced
from pituning.foundation import Frozen
from pituning.interpolate import Mixture
from pituning.train import TrainConfig, train_expert

# PEFT 0.21 takes the one dimension of a LoRA bias for a tensor that DeepSpeed did not gather.
pytestmark = pytest.mark.filterwarnings("ignore:.*LoRA tensor.s. have invalid shape")

NAMES = ("a", "b", "c")
SPACES = ("parameters", "delta")


def trio(variant: str = "lora") -> list[Expert]:
    return [expert(name, VARIANTS[variant]) for name in NAMES]


@pytest.mark.parametrize("variant", VARIANTS)
def test_uniform_collapse_is_the_mean_of_saved_tensors(variant: str) -> None:
    experts = trio(variant)
    collapsed = Mixture(frozen(), experts).collapse()
    for name, tensor in collapsed.tensors.items():
        mean = torch.stack([one.tensors[name].double() for one in experts]).mean(dim=0)
        torch.testing.assert_close(tensor.double(), mean, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_collapsed_expert_gives_mixture_logits(variant: str) -> None:
    mixture = Mixture(frozen(), trio(variant), initial={"a": 0.2, "b": 0.5, "c": 0.3})
    plain = outputs(frozen().model)
    mixed = outputs(mixture)
    if variant != "prompt":  # whose tokens are among the outputs
        assert not torch.allclose(mixed, plain, atol=1e-3)
    torch.testing.assert_close(outputs_of(mixture.collapse()), mixed, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_hot_mixture_is_that_expert_bit_for_bit(variant: str) -> None:
    experts = trio(variant)
    for chosen in experts:
        initial = {one.name: float(one is chosen) for one in experts}
        assert same_tensors(Mixture(frozen(), experts, initial=initial).collapse(), chosen)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("sharing", ["module", "block", "layer", "expert"])
def test_order_of_experts_does_not_matter(space: str, sharing: str) -> None:
    experts, initial = trio(), {"a": 0.2, "b": 0.5, "c": 0.3}
    options = {"space": space, "sharing": sharing, "initial": initial, "target": "b"}
    one = Mixture(frozen(), experts, **options).collapse()
    other = Mixture(frozen(), experts[::-1], **options).collapse()
    assert same_tensors(one, other)
    assert one.digest == other.digest


@pytest.mark.parametrize("sharing", ["module", "block", "layer", "expert"])
def test_weights_of_each_group_lie_on_the_simplex(sharing: str) -> None:
    mixture = Mixture(frozen(), trio(), sharing=sharing)
    with torch.no_grad():
        mixture.alpha.normal_(generator=torch.Generator().manual_seed(0))
    weights = mixture.weights()
    assert len(weights) == {"module": 4, "block": 2, "layer": 2, "expert": 1}[sharing]
    for group in [*weights.values(), mixture.mean_weights()]:
        assert set(group) == set(NAMES)
        assert min(group.values()) >= 0
        assert sum(group.values()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_one_expert_is_itself(space: str) -> None:
    alone = expert("a")
    mixture = Mixture(frozen(), [alone], space=space)
    torch.testing.assert_close(outputs(mixture), outputs_of(alone), atol=1e-6, rtol=1e-6)
    if space == "parameters":
        assert same_tensors(mixture.collapse(), alone)


def test_backbone_is_left_as_it_was() -> None:
    backbone = Frozen(model_of("encoder"), name="mine")
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    for variant in ("bias_all", "pissa", "dora"):
        experts = [expert(name, VARIANTS[variant], backbone) for name in "ab"]
        mixture = Mixture(backbone, experts)
        loss_of(mixture).backward()
        torch.optim.AdamW(mixture.parameters(), lr=0.1).step()
        mixture.collapse()
    after = backbone.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


@pytest.mark.parametrize("space", SPACES)
def test_other_backbone_is_refused(space: str) -> None:
    other = Frozen(model_of("encoder", seed=1), name="other")
    with pytest.raises(MixtureError, match=r"a was not trained on other.*b was not.*other\. Give the"):
        Mixture(other, [expert("a"), expert("b")], space=space)
    with pytest.raises(MixtureError, match="b was trained on another backbone than a"):
        Mixture(frozen(), [expert("a"), expert("b", backbone=other)], space=space)


def test_a_mixture_without_a_target_is_no_task_s() -> None:
    experts = [expert("a"), expert("b")]
    card = Mixture(frozen(), experts).collapse().card
    assert (card.name, card.task, card.data, card.source) == ("mixture", *["unknown"] * 3)
    task = tiny.text_task()
    known = introduced(Mixture(frozen(), experts).collapse(), frozen(), task).card
    assert (known.task, known.source, known.data) == (task.name, task.source, "unknown")
    assert introduced(experts[0], frozen(), task).card == experts[0].card
    assert Mixture(frozen(), experts, target="b").collapse().card.task == "b"
    assert Mixture(frozen(), experts[:1]).collapse(name="x").card.task == "a"


def test_every_obstacle_is_named_at_once() -> None:
    odd = [
        expert("a"),
        expert("ia3", VARIANTS["ia3"]),
        expert("rank", lora(r=4)),
        expert("seed", init_seed=1),
        expert("foreign", initialisation="unknown"),
    ]
    with pytest.raises(MixtureError) as caught:
        Mixture(frozen(), odd, target="a")
    message = str(caught.value)
    assert "ia3 is IA3, a is LORA" in message
    assert "rank started from another initialisation" in message
    assert "seed started from another initialisation" in message
    assert "the initialisation of foreign is not known" in message
    assert "space='delta'" in message


def test_a_backbone_that_is_spread_over_devices_is_refused() -> None:
    model = model_of("encoder")
    next(model.children()).to("meta")
    with pytest.raises(BackboneError, match="on one device; given: cpu and meta"):
        Mixture(model, [expert("a"), expert("b")])


def test_same_names_unknown_target_and_no_expert_are_refused() -> None:
    with pytest.raises(MixtureError, match=r"different names.*renamed\(NAME\)"):
        Mixture(frozen(), [expert("a"), expert("a")])
    with pytest.raises(MixtureError, match="a mixture needs experts"):
        Mixture(frozen(), [])
    with pytest.raises(MixtureError, match="target is one of the experts"):
        Mixture(frozen(), [expert("a")], target="z")


@pytest.mark.parametrize(
    "initial", [{"a": 1.0}, {"a": 0.5, "b": 0.6}, {"a": -0.5, "b": 1.5}, {"a": 0.5, "c": 0.5}]
)
def test_initial_weights_off_the_simplex_are_refused(initial: dict[str, float]) -> None:
    with pytest.raises(MixtureError, match="simplex"):
        Mixture(frozen(), [expert("a"), expert("b")], initial=initial)


def test_prefix_projection_is_refused() -> None:
    config = peft.PrefixTuningConfig(
        task_type="FEATURE_EXTRACTION", num_virtual_tokens=2, prefix_projection=True, encoder_hidden_size=4
    )
    with pytest.raises(MixtureError, match="not the network that is trained"):
        Mixture(frozen(), [expert("a", config), expert("b", config)])


def test_conv_layers_are_mixed() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    backbone = Frozen(net)
    config = lora(target_modules=["0", "3"])
    experts = [expert(name, config, backbone) for name in "ab"]
    mixture = Mixture(backbone, experts)
    picture = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    collapsed = attach_expert(backbone, mixture.collapse())
    torch.testing.assert_close(collapsed(picture), mixture(picture), atol=1e-6, rtol=1e-5)
    with pytest.raises(MixtureError, match="defined for Linear layers"):
        Mixture(backbone, experts, space="delta")


class Heads(Frozen):
    """Gives a new head for the labels, as a classifier backbone does."""

    def fresh_module(self, labels: list[str]) -> nn.Module:
        module = super().fresh_module(labels)
        module.classifier = nn.Linear(16, len(labels))
        module.num_labels = len(labels)
        return module

    @property
    def fingerprint(self) -> str:
        return "body"


@pytest.mark.parametrize("space", SPACES)
def test_heads_are_not_mixed_and_the_targets_is_used_and_trained(space: str) -> None:
    backbone = Heads(model_of("bert"), name="heads")
    config = lora(task_type="SEQ_CLS")
    two = expert("two", config, backbone, labels=["x", "y"])
    four = expert("four", config, backbone, labels=["p", "q", "r", "s"])
    with pytest.raises(MixtureError, match="target=NAME"):
        Mixture(backbone, [two, four], space=space)
    mixture = Mixture(backbone, [two, four], space=space, target="four", train_experts=False)
    trained = [name for name, p in mixture.named_parameters() if p.requires_grad]
    assert [name.split(".")[-1] for name in trained if "classifier" in name] == ["weight", "bias"]
    collapsed = mixture.collapse()
    assert collapsed.card.labels == ["p", "q", "r", "s"]
    heads = {name for name in four.tensors if "classifier" in name}
    assert heads
    assert all(torch.equal(collapsed.tensors[name], four.tensors[name]) for name in heads)
    loss = mixture(**inputs("bert"), labels=torch.tensor([0, 1, 3])).loss
    loss.backward()
    torch.optim.SGD(mixture.parameters(), lr=0.5).step()
    after = mixture.collapse()
    assert not any(torch.equal(after.tensors[name], four.tensors[name]) for name in heads)
    logits = attach_expert(backbone, after)(**inputs("bert")).logits
    torch.testing.assert_close(logits, mixture.eval()(**inputs("bert")).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("space", SPACES)
def test_frozen_experts_leave_the_weights_alone_to_train(space: str) -> None:
    mixture = Mixture(frozen(), trio(), space=space, train_experts=False)
    loss_of(mixture).backward()
    assert [name for name, p in mixture.named_parameters() if p.grad is not None] == ["alpha"]
    assert float(mixture.alpha.grad.abs().sum()) > 0
    groups = mixture.parameter_groups(experts=1e-3, weights=0.5)
    assert [(len(group["params"]), group["lr"]) for group in groups] == [(1, 0.5)]


@pytest.mark.parametrize("space", SPACES)
def test_rates_of_experts_and_weights_are_separate(space: str) -> None:
    mixture = Mixture(frozen(), trio(), space=space)
    groups = mixture.parameter_groups(experts=1e-3, weights=0.5)
    assert [group["lr"] for group in groups] == [1e-3, 0.5]
    found = [p for group in groups for p in group["params"]]
    assert {id(p) for p in found} == {id(p) for p in mixture.parameters() if p.requires_grad}
    assert groups[1]["params"] == [mixture.alpha]
    before = mixture.alpha.detach().clone()
    loss_of(mixture).backward()
    torch.optim.SGD(mixture.parameter_groups(experts=0.1, weights=0.0)).step()
    assert torch.equal(mixture.alpha, before)


@pytest.mark.parametrize("space", SPACES)
def test_deepcopy_trains_apart_and_shares_the_backbone(space: str) -> None:
    mixture = Mixture(frozen(), trio(), space=space)
    mixture(**inputs())
    copied = copy.deepcopy(mixture)
    assert torch.equal(outputs(copied), outputs(mixture))
    before = outputs(mixture)
    loss_of(copied).backward()
    assert mixture.alpha.grad is None
    torch.optim.SGD(copied.parameters(), lr=0.1).step()
    assert torch.equal(outputs(mixture), before)
    assert not torch.allclose(outputs(copied), before)
    frozen_ones = {id(p) for p in frozen().model.parameters()}
    assert {id(p) for p in copied.model.parameters() if not p.requires_grad} & frozen_ones


@pytest.mark.parametrize("space", SPACES)
def test_deepcopy_between_forward_and_backward_keeps_the_gradients(space: str) -> None:
    mixture = Mixture(frozen(), trio(), space=space)
    mixture.gradient_checkpointing_enable()
    loss = loss_of(mixture.train())
    copy.deepcopy(mixture)
    loss.backward()
    assert float(mixture.alpha.grad.abs().sum()) > 0


@pytest.mark.parametrize("space", SPACES)
def test_state_dict_round_trip_is_bit_exact(space: str) -> None:
    mixture = Mixture(frozen(), trio(), space=space)
    with torch.no_grad():
        for parameter in mixture.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    other = Mixture(frozen(), trio(), space=space)
    other.load_state_dict(mixture.state_dict())
    assert torch.equal(outputs(other), outputs(mixture))
    assert same_tensors(other.collapse(), mixture.collapse())


@pytest.mark.parametrize("space", SPACES)
def test_cast_reaches_the_computed_tensors(space: str) -> None:
    backbone = Frozen(model_of("encoder"), name="mine")
    mixture = Mixture(backbone, [expert(name, backbone=backbone) for name in NAMES], space=space)
    single = outputs(mixture)
    assert mixture.to(torch.float64) is mixture
    double = mixture(**inputs()).last_hidden_state
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, atol=1e-5, rtol=1e-5)
    assert all(slot.value.dtype == torch.float64 for slot in mixture.tensors.slots)
    assert attach_expert(backbone, mixture.collapse())(**inputs()).last_hidden_state.dtype == torch.float64
    mixture.float()
    torch.testing.assert_close(outputs(mixture), single, atol=1e-5, rtol=1e-5)
    assert all(slot.value.dtype == torch.float32 for slot in mixture.tensors.slots)


def test_bfloat16_backbone_keeps_the_experts_in_float32() -> None:
    backbone = Frozen(model_of("encoder").to(torch.bfloat16), name="half")
    experts = [expert(name, VARIANTS["bias_all"], backbone) for name in NAMES]
    mixture = Mixture(backbone, experts, initial={"a": 0.0, "b": 1.0, "c": 0.0})
    assert mixture.tensors.values.dtype == torch.float32
    assert same_tensors(mixture.collapse(), experts[1])
    assert mixture(**inputs()).last_hidden_state.dtype == torch.bfloat16


def test_parameters_changed_by_hand_are_not_stale_at_the_next_forward() -> None:
    mixture = Mixture(frozen(), trio())
    before = outputs(mixture)
    with torch.no_grad():
        mixture.alpha[0] += 3.0
    assert not torch.allclose(outputs(mixture), before)


def test_no_grad_evaluation_between_steps_changes_nothing() -> None:
    def train(look: bool) -> Expert:
        mixture = Mixture(frozen(), trio())
        optimizer = torch.optim.AdamW(mixture.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(mixture.train()).backward()
            if look:
                outputs(mixture)
            optimizer.step()
        return mixture.collapse()

    with torch.random.fork_rng():
        torch.manual_seed(0)
        one = train(look=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert same_tensors(train(look=True), one)


def test_reentrant_checkpointing_is_refused() -> None:
    with pytest.raises(MixtureError, match="non-reentrant"):
        Mixture(frozen(), trio()).gradient_checkpointing_enable({"use_reentrant": True})


@pytest.mark.parametrize("space", SPACES)
def test_a_backbone_that_recomputes_reentrantly_is_mixed_without(space: str) -> None:
    """As recipes of QLoRA have it on."""
    model, reader = tiny.qwen2()
    backbone, task = Causal(model, reader, name="qwen2"), tiny.text_task()
    first = train_expert(backbone, task, TrainConfig(epochs=1), name="first")
    experts = [first, train_expert(backbone, task, TrainConfig(epochs=2), name="second")]
    found = []
    for reentrant in (False, True):
        if reentrant:
            model.activation_checkpointing_enable({"use_reentrant": True})
        mixture = Mixture(backbone, experts, space=space).train()
        backbone.nll(mixture, backbone.collate(task.train, task)).sum().backward()
        found.append(mixture.alpha.grad)
    torch.testing.assert_close(*found)


def test_rank_is_not_chosen_in_parameter_space() -> None:
    with pytest.raises(MixtureError, match="delta space only"):
        Mixture(frozen(), trio()).collapse(rank=2)


def test_collapsed_card_names_backbone_weights_and_libraries() -> None:
    mixture = Mixture(frozen(), trio(), target="b", initial={"a": 0.25, "b": 0.5, "c": 0.25})
    card = mixture.collapse(name="new").card
    assert (card.name, card.task, card.backbone) == ("new", "b", frozen().fingerprint)
    assert card.initialisation == expert("a").card.initialisation
    assert card.recipe["weights"] == pytest.approx({"a": 0.25, "b": 0.5, "c": 0.25})
    assert set(card.versions) == {"torch", "transformers", "peft"}


def test_expert_whose_tensors_do_not_fit_is_refused() -> None:
    one, other = expert("a"), expert("b", lora(r=4))
    liar = Expert(
        dataclasses.replace(other.card, initialisation=one.card.initialisation), one.config, other.tensors
    )
    with pytest.raises(ExpertError, match="of another shape"):
        Mixture(frozen(), [one, liar])

"""π-Tuning's modules on OFA and their interpolation, against an independent version of the official ones.

The official tensors are converted by `convert` and mixed by `Mixture`; the reference reads them as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ofa_reference import Reference
from ofa_small import batch, model
from torch import Tensor

from pituning import Expert, Mixture, diagonal_fisher
from pituning.errors import MixtureError
from pituning.expert import attach, attach_expert
from pituning.foundation import Frozen
from pituning.methods import peft_config
from pituning.models.ofa import OfaForConditionalGeneration
from pituning.models.ofa.conversion import ConversionConfig
from pituning.models.ofa.loss import smoothed_losses
from pituning.ofa_conversion import convert
from pituning.predict.fisher import batch_squared_fisher

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
WIDTH, HEADS, LAYERS, RANK, LENGTH, BOTTLENECK = 32, 4, 2, 4, 5, 8
SCALING = 1 / RANK
LABELS = {"image": torch.tensor([[7, 8, 9, 2, 5, 6], [9, 2, 7, 4, 1, 1], [5, 6, 7, 8, 9, 2]])}


def randoms(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * 0.4 for name, shape in shapes.items()}


def layers() -> list[str]:
    return [f"{part}.layers.{index}" for part in ("encoder", "decoder") for index in range(LAYERS)]


def attentions() -> list[str]:
    return [f"{name}.self_attn" for name in layers()] + [
        f"decoder.layers.{index}.encoder_attn" for index in range(LAYERS)
    ]


def official(method: str, count: int) -> dict[str, Tensor]:
    """Random tensors under the official names; `count` = 1 is one expert, more are interpolated."""
    shapes: dict[str, tuple[int, ...]] = {}
    every = [""] if count == 1 else [f"{e}." for e in range(count)]
    if method == "adapter":
        for name in layers():
            for place in "12":
                root = f"{name}.adapter{place}." if count == 1 else f"{name}.adapters{place}."
                for e in every:
                    shapes[f"{root}{e}down_proj.weight"] = (BOTTLENECK, WIDTH)
                    shapes[f"{root}{e}down_proj.bias"] = (BOTTLENECK,)
                    shapes[f"{root}{e}up_proj.weight"] = (WIDTH, BOTTLENECK)
                    shapes[f"{root}{e}up_proj.bias"] = (WIDTH,)
                if count > 1:
                    shapes[f"{name}.adapter_interpolation_weight{place}"] = (count,)
    elif method == "prefix":
        for part in ("encoder", "decoder"):
            for e in every:
                shapes[f"{part}.{part}_prompt_encoder.{e}embedding.weight"] = (LENGTH, LAYERS * 2 * WIDTH)
            if count > 1:
                shapes[f"{part}.prompt_weight_scale"] = (LAYERS, count)
    else:
        for name in attentions():
            for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
                for e in every:
                    shapes[f"{name}.{projection}.{e}lora_A"] = (RANK, WIDTH)
                    shapes[f"{name}.{projection}.{e}lora_B"] = (WIDTH, RANK)
            if count > 1:
                shapes[f"{name}.lora_interpolation_weight"] = (count,)
    return randoms(shapes, seed=count)


def checkpoint(folder: Path, weights: dict[str, Tensor]) -> Path:
    path = folder / "checkpoint.pt"
    torch.save({"args": None, "cfg": {"model": None}, "model": weights}, path)
    return path


class Converted:
    """An official checkpoint, converted, and the reference on its own tensors."""

    def __init__(self, folder: Path, method: str, count: int) -> None:
        random = model()
        self.added = official(method, count)
        weights = {**random.state_dict(), **self.added}
        out = folder / "out"
        written = convert(checkpoint(folder, weights), out)
        self.folders = {path.name: path for path in written.experts}
        self.base = OfaForConditionalGeneration.from_pretrained(written.backbone)
        self.backbone = Frozen(self.base)
        self.reference = Reference(weights, self.base.config, SCALING)

    def expert(self, name: str = "expert") -> Expert:
        return Expert.load(self.folders[name])

    def expected(self, inputs: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return self.reference.logits(
                inputs["input_ids"],
                inputs["decoder_input_ids"],
                inputs["patch_images"],
                inputs["patch_masks"],
            )


METHODS = pytest.mark.parametrize("method", ["adapter", "prefix", "lora"])


@METHODS
def test_an_official_expert_gives_its_logits(method: str, tmp_path: Path) -> None:
    case, inputs = Converted(tmp_path, method, 1), batch()
    expected, said = case.expected(inputs), inputs["decoder_input_ids"] != 1
    with torch.no_grad():
        bare = case.base(**inputs).logits
        logits = attach_expert(case.backbone, case.expert()).eval()(**inputs).logits
    assert not torch.allclose(bare[said], expected[said], atol=0.1)
    torch.testing.assert_close(logits[said], expected[said], **CLOSE)


@METHODS
def test_the_official_interpolation_is_one_expert(method: str, tmp_path: Path) -> None:
    case, inputs = Converted(tmp_path, method, 3), batch()
    expected, said = case.expected(inputs), inputs["decoder_input_ids"] != 1
    with torch.no_grad():
        logits = attach_expert(case.backbone, case.expert()).eval()(**inputs).logits
    torch.testing.assert_close(logits[said], expected[said], **CLOSE)


OFFICIAL_WEIGHTS: dict[str, Callable[[str], tuple[str, int | None]]] = {
    "adapter": lambda group: (
        re.sub(r"\.(attn_ln|self_attn_ln)$", ".adapter_interpolation_weight1", group).replace(
            ".fc2", ".adapter_interpolation_weight2"
        ),
        None,
    ),
    "prefix": lambda group: (f"{group.split('.')[0]}.prompt_weight_scale", int(group.split(".")[2])),
    "lora": lambda group: (f"{group}.lora_interpolation_weight", None),
}


def mixture_of(case: Converted, method: str) -> Mixture:
    """The three experts in our own mixture, with the official weights."""
    experts = [case.expert(f"expert_{index}") for index in range(3)]
    space, sharing = ("delta", "block") if method == "lora" else ("parameters", "module")
    found = Mixture(case.backbone, experts, space=space, sharing=sharing, target="expert_0")  # type: ignore[arg-type]
    with torch.no_grad():
        for column, group in enumerate(found.tensors.groups):
            name, row = OFFICIAL_WEIGHTS[method](group)
            found.alpha[:, column] = case.added[name] if row is None else case.added[name][row]
    return found.eval()


@METHODS
def test_a_mixture_of_three_and_its_collapse_give_the_official_logits(method: str, tmp_path: Path) -> None:
    case, inputs = Converted(tmp_path, method, 3), batch()
    expected, said = case.expected(inputs), inputs["decoder_input_ids"] != 1
    found = mixture_of(case, method)
    with torch.no_grad():
        mixed = found(**inputs).logits
        collapsed = attach_expert(case.backbone, found.collapse()).eval()(**inputs).logits
    torch.testing.assert_close(mixed[said], expected[said], **CLOSE)
    torch.testing.assert_close(collapsed[said], expected[said], **CLOSE)


@METHODS
def test_gradients_of_the_weights_are_the_official_ones(method: str, tmp_path: Path) -> None:
    case, inputs = Converted(tmp_path, method, 3), batch()
    targets = LABELS["image"]
    names = [name for name in case.added if "weight_scale" in name or "interpolation_weight" in name]
    for name in names:
        case.added[name].requires_grad_(True)
    weights = {**case.base.state_dict(), **case.added}
    logits = Reference(weights, case.base.config, SCALING).logits(
        inputs["input_ids"], inputs["decoder_input_ids"], inputs["patch_images"], inputs["patch_masks"]
    )
    _loss(logits, targets).backward()
    for name in names:
        case.added[name].requires_grad_(False)
    found = mixture_of(case, method)
    _loss(found(**inputs).logits, targets).backward()
    assert found.alpha.grad is not None
    for column, group in enumerate(found.tensors.groups):
        name, row = OFFICIAL_WEIGHTS[method](group)
        gradient = case.added[name].grad
        assert gradient is not None
        expected = gradient if row is None else gradient[row]
        torch.testing.assert_close(
            found.alpha.grad[:, column], expected, rtol=1e-3, atol=1e-4 * float(gradient.abs().max())
        )


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    return (smoothed_losses(logits, targets, 0.1) * (targets != 1)).sum()


def test_gradients_and_fisher_of_an_adapter_are_the_official_ones(tmp_path: Path) -> None:
    """The official embedding squares the gradients of whole batches; the sum is over all examples' number."""
    case = Converted(tmp_path, "adapter", 1)
    batches = [batch(seed=seed) for seed in (0, 1)]
    targets = LABELS["image"]
    squares: dict[str, Tensor] = {}
    for inputs in batches:
        added = {name: tensor.clone().requires_grad_(True) for name, tensor in case.added.items()}
        logits = Reference({**case.base.state_dict(), **added}, case.base.config).logits(
            inputs["input_ids"], inputs["decoder_input_ids"], inputs["patch_images"], inputs["patch_masks"]
        )
        _loss(logits, targets).backward()
        for name, tensor in added.items():
            assert tensor.grad is not None
            squares[name] = squares.get(name, torch.zeros(())) + tensor.grad.square() / 6
    adapted = attach_expert(case.backbone, case.expert())

    def nll(module: Any, inputs: dict[str, Tensor]) -> Tensor:
        losses = smoothed_losses(module(**inputs).logits, targets, 0.1)
        return (losses * (targets != 1)).sum(dim=1)

    found = batch_squared_fisher(adapted, batches, nll)
    assert len(found) == len(squares)
    for name, expected in squares.items():
        ours = [tensor for key, tensor in found.items() if _same(key, name)]
        assert len(ours) == 1, name
        torch.testing.assert_close(ours[0], expected, rtol=2e-3, atol=1e-6 * float(expected.max()))
    exact = diagonal_fisher(adapted, batches, nll)
    loop = diagonal_fisher(adapted, batches, nll, method="loop")
    for name, values in exact.items():
        torch.testing.assert_close(values, loop[name], rtol=1e-4, atol=1e-6 * float(values.max()))


def _same(ours: str, theirs: str) -> bool:
    """Whether a parameter of the adapted model is the official one called `theirs`."""
    layer, _, rest = theirs.partition(".adapter")
    place, side, kind = rest.split(".")
    norm = "attn_ln" if layer.startswith("encoder") else "self_attn_ln"
    site = norm if place == "1" else "fc2"
    return f"{layer}.{site}.bottleneck_{side.removesuffix('_proj')}" in ours and ours.endswith(kind)


def test_bitfit_trains_the_official_biases() -> None:
    base = model()
    adapted = attach(Frozen(base), peft_config("bitfit", base), seed=0)
    trained = {
        re.sub(r"base_model\.model\.|\.bias_delta\.default", "", name) + ".bias"
        for name, parameter in adapted.named_parameters()
        if parameter.requires_grad
    }
    expected = {
        name for name in base.state_dict() if name.endswith("bias") and ("layer_norm" in name or "fc" in name)
    }
    assert trained == expected


def test_a_bias_difference_is_a_changed_bias_and_merges() -> None:
    base, inputs = model(), batch()
    adapted = attach(Frozen(base), peft_config("bitfit", base), seed=0).eval()
    changed = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
                plain = re.sub(r"base_model\.model\.|\.bias_delta\.default", "", name) + ".bias"
                changed[plain] += parameter
        expected = Reference(changed, base.config).logits(
            inputs["input_ids"], inputs["decoder_input_ids"], inputs["patch_images"], inputs["patch_masks"]
        )
        said = inputs["decoder_input_ids"] != 1
        torch.testing.assert_close(adapted(**inputs).logits[said], expected[said], **CLOSE)
        before = base.state_dict()["encoder.layers.0.fc1.bias"].clone()
        adapted.merge_adapter()
        torch.testing.assert_close(adapted(**inputs).logits[said], expected[said], **CLOSE)
        adapted.unmerge_adapter()
        torch.testing.assert_close(adapted(**inputs).logits[said], expected[said], **CLOSE)
        torch.testing.assert_close(base.state_dict()["encoder.layers.0.fc1.bias"], before)


def test_experts_of_several_checkpoints_are_averaged_where_their_start_is_said(tmp_path: Path) -> None:
    random = model()
    for name, start in (("a", "seed7"), ("b", "seed7"), ("c", None)):
        weights = {**random.state_dict(), **official("adapter", 1)}
        (tmp_path / name).mkdir()
        convert(checkpoint(tmp_path / name, weights), tmp_path / name / "out", ConversionConfig(start=start))
    experts = {
        name: Expert.load(tmp_path / name / "out" / "expert").renamed(name) for name in ("a", "b", "c")
    }
    backbone = Frozen(OfaForConditionalGeneration.from_pretrained(tmp_path / "a" / "out" / "backbone"))
    Mixture(backbone, [experts["a"], experts["b"]], target="a")
    with pytest.raises(MixtureError, match="initialisation of c is not known"):
        Mixture(backbone, [experts["a"], experts["c"]], target="a")

"""Every number that the official OFA and π-Tuning code gave on small random models (`../shared/ofa`).

Tolerances are those of `parity/README.md`: the official code's own error in float32 is five times smaller.
The logits of experts and their interpolation are in `test_ofa_conversion.py`; tokens, pictures and texts of
the datasets in `test_ofa_processing.py` and `test_datasets.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn

from pituning import Mixture
from pituning.expert import Expert, ExpertCard, attach_expert
from pituning.foundation import Frozen
from pituning.models.ofa import Constraints, OfaConfig, OfaForConditionalGeneration, Trie
from pituning.models.ofa.candidates import plan
from pituning.models.ofa.loss import smoothed_losses
from pituning.models.ofa.petl import Adapter, experts_of, take_apart
from pituning.ofa_conversion import CONFIGS
from pituning.predict.fisher import batch_squared_fisher

PARITY = Path(__file__).parents[3] / "shared" / "ofa" / "parity"
SIZES = PARITY.parent / "state_dicts"
pytestmark = pytest.mark.skipif(
    not PARITY.is_dir(), reason="the official code's numbers (../shared/ofa) are not part of the repository"
)

FOLDERS = {"A": 1e-4, "A_arch_defaults": 1e-4, "A_postnorm_entangled": 2e-3}
CASES = ("image", "image_nopad", "text", "text2")
RENAMED = {
    "encoder_embed_dim": "d_model",
    "encoder_ffn_embed_dim": "encoder_ffn_dim",
    "decoder_ffn_embed_dim": "decoder_ffn_dim",
    "activation_fn": "activation_function",
}


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@cache
def model_of(folder: str, attention: str = "sdpa") -> OfaForConditionalGeneration:
    said = read(PARITY / folder / "config.json")
    options = {RENAMED.get(name, name): value for name, value in said["fairseq_args"].items()}
    known = {name: options[name] for name in OfaConfig().to_dict() if name in options}
    config = OfaConfig(
        **known,
        resnet_layers=said["resnet_layers"],
        scale_embedding=not options["no_scale_embedding"],
        decoder_adds_positions=not options["disable_entangle"],
    )
    model = OfaForConditionalGeneration._from_config(config, attn_implementation=attention).eval()
    weights = load_file(PARITY / "A" / "stem.safetensors") | load_file(PARITY / folder / "model.safetensors")
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert not [
        name
        for name in missing
        if "bucket" not in name
        and "num_batches" not in name
        and "version" not in name
        and name != "decoder.image_position_idx"
    ]
    return model.requires_grad_(False)


def inputs_of(case: str, file: str = "inputs") -> dict[str, Any]:
    known = load_file(PARITY / "A" / f"{file}.safetensors")
    names = {"src_tokens": "input_ids", "prev_output_tokens": "decoder_input_ids"}
    found = {
        names.get(n, n): known[f"{case}.{n}"]
        for n in (*names, "patch_images", "patch_masks", "code_masks")
        if f"{case}.{n}" in known
    }
    if "patch_masks" in found:
        found["patch_masks"] = found["patch_masks"].bool()
    return found


def encoder_inputs(case: str) -> dict[str, Any]:
    return {name: tensor for name, tensor in inputs_of(case).items() if name != "decoder_input_ids"}


def target_of(case: str) -> Tensor:
    return load_file(PARITY / "A" / "inputs.safetensors")[f"{case}.target"]


def close(found: Tensor, expected: Tensor, shown: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found[shown], expected[shown], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("size", ["tiny", "medium", "base", "large", "huge"])
def test_state_dicts_have_the_official_keys_shapes_and_types(size: Any) -> None:
    with torch.device("meta"):
        model = OfaForConditionalGeneration(OfaConfig.of_size(size))
    found = {name: (list(t.shape), str(t.dtype)[6:]) for name, t in model.state_dict().items()}
    assert found == {name: (shape, dtype) for name, shape, dtype in read(SIZES / f"ofa_{size}.json")}
    assert (
        sum(p.numel() for p in model.parameters())
        == read(SIZES / "summary.json")[f"ofa_{size}"]["parameters"]
    )


@pytest.mark.parametrize("folder", FOLDERS)
def test_keys_and_buffers_are_the_official_ones(folder: str) -> None:
    model, buffers = model_of(folder), load_file(PARITY / folder / "buffers.safetensors")
    state = model.state_dict()
    expected = {name: (shape, dtype) for name, shape, dtype in read(PARITY / folder / "state_dict_keys.json")}
    assert {name: (list(t.shape), str(t.dtype)[6:]) for name, t in state.items()} == expected
    place = torch.arange(1024)
    buckets = buffers["token_rp_bucket_by_distance"].long()[1023 + place[:, None] - place]
    for part in ("encoder", "decoder"):
        assert torch.equal(state[f"{part}.token_rp_bucket"], buckets)
        assert torch.equal(state[f"{part}.image_rp_bucket"], buffers[f"{part}.image_rp_bucket"].long())
    assert torch.equal(state["decoder.image_position_idx"], buffers["decoder.image_position_idx"].long())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("case", CASES)
def test_states_and_logits_are_the_official_ones(folder: str, attention: str, case: str) -> None:
    model, given, tolerance = model_of(folder, attention), inputs_of(case), FOLDERS[folder]
    known = load_file(PARITY / folder / "expected_base.safetensors")
    expected = {name.partition(".")[2]: t for name, t in known.items() if name.startswith(f"{case}.")}
    with torch.no_grad():
        encoded = model.encoder(**encoder_inputs(case), output_hidden_states=True)
        found = model(**given, output_hidden_states=True, output_attentions=True)
    said, seen = given["decoder_input_ids"] != 1, encoded.attention_mask
    close(found.logits, expected.pop("logits"), said, tolerance)
    close(encoded.last_hidden_state, expected.pop("encoder_out"), seen, tolerance)
    for name, value in expected.items():
        kind, _, index = name.partition(".")
        if kind == "encoder_states":
            close(encoded.hidden_states[int(index)], value, seen, tolerance)
        elif kind == "decoder_states":
            close(found.decoder_hidden_states[int(index)], value, said, tolerance)
        elif kind == "decoder_features":
            features = model.decoder.layer_norm(found.decoder_hidden_states[-1])
            close(features, value, said, tolerance)
        elif kind == "position_embeddings":
            close(encoded.position_embeddings, value, seen, tolerance)
        elif kind == "encoder_padding_mask":
            assert torch.equal(~seen, value.bool())
        elif kind == "image_features":
            torch.testing.assert_close(
                model.encoder.embed_images(given["patch_images"]), value, atol=tolerance, rtol=tolerance
            )
        else:
            assert kind == "cross_attention_last_layer_mean_heads", name
            if attention == "eager":
                close(found.cross_attentions[-1].mean(dim=1), value, said, tolerance)


@pytest.mark.parametrize("case", ["all", "mixed"])
def test_image_codes_are_decoded_as_officially(case: str) -> None:
    given = inputs_of(case, "inputs_code")
    expected = load_file(PARITY / "A" / "expected_code.safetensors")
    with torch.no_grad():
        logits = model_of("A")(**given).logits
    close(logits, expected[f"{case}.logits"], given["decoder_input_ids"] != 1, 1e-4)


def allowed(case: str, vocabulary: int = 101) -> Tensor:
    """The candidate mask that the numbers were made with."""
    target = target_of(case)
    samples, places = torch.arange(target.shape[0]), torch.arange(target.shape[1])
    token = torch.arange(vocabulary)
    mask = (token * (samples[:, None, None] + 3) + places[None, :, None]) % 4 == 0
    return mask | (token == target[..., None]) | (token == 2)


def as_written(logits: Tensor, target: Tensor, epsilon: float, mask: Tensor) -> Tensor:
    """The masked loss of each token [n] from logits [n, vocabulary], by SPEC §7's formula unsimplified."""
    surprise = -logits.log_softmax(dim=-1)
    nll = surprise.gather(1, target[:, None]).squeeze(1)
    share = (epsilon / (mask.sum(dim=1) - 1 + 1e-6)).to(logits)
    return (1 - epsilon - share) * nll + share * surprise.masked_fill(~mask, 0).sum(dim=1)


@pytest.mark.parametrize("folder", ["A", "A_arch_defaults"])
@pytest.mark.parametrize("case", ["image", "text"])
def test_losses_are_the_official_ones(folder: str, case: str) -> None:
    expected = read(PARITY / folder / "config.json")["losses"][case]
    target, shown, mask = target_of(case), target_of(case) != 1, allowed(case)
    assert int(shown.sum()) == expected["ntokens"]
    with torch.no_grad():
        logits = model_of(folder)(**inputs_of(case)).logits
    epsilon = expected["label_smoothing"]
    nll = smoothed_losses(logits, target, 0.0)
    masked = smoothed_losses(logits, target, epsilon, allowed=mask)[shown]
    assert float(nll[shown].sum()) == pytest.approx(expected["nll_sum"], rel=1e-4)
    plain = smoothed_losses(logits, target, epsilon)[shown].sum()
    assert float(plain) == pytest.approx(expected["loss_sum"], rel=1e-4)
    # Where one token is allowed, the official float32 takes 1e5 nll from 1e5 nll: three roundings of that
    # size (factor, two products) are in its number, not in ours. In float64 the formula shows what it means.
    meant = as_written(logits[shown].double(), target[shown], epsilon, mask[shown])
    torch.testing.assert_close(masked.double(), meant, rtol=1e-6, atol=1e-6)
    lone = shown & (mask.sum(dim=2) == 1)
    noise = 3 * 2**-24 * epsilon / 1e-6 * float(nll[lone].sum())
    tolerance = 1e-4 * expected["loss_sum_with_constraint_masks"] + noise
    assert float(masked.sum()) == pytest.approx(expected["loss_sum_with_constraint_masks"], abs=tolerance)


@dataclass(frozen=True)
class Held:
    """A tensor in the place of one in a checkpoint's file."""

    tensor: Tensor

    def read(self) -> Tensor:
        return self.tensor


def adapters(method: str, tensors: dict[str, Tensor], options: dict[str, Any]) -> list[Adapter]:
    """Official tensors (or their gradients, which are laid out alike) under the names that PEFT saves."""
    parts = take_apart({name: Held(tensor) for name, tensor in tensors.items()})  # type: ignore[misc]
    assert parts.method == method
    return list(experts_of(parts, model_of("A").config, options).experts)


def expert_of(method: str, adapter: Adapter, name: str, backbone: Frozen) -> Expert:
    card = ExpertCard(name=name, task=name, backbone=backbone.fingerprint, initialisation="official")
    return Expert(card, CONFIGS[method](**adapter.options), adapter.tensors)


def experts(variant: str) -> tuple[Frozen, list[Expert]]:
    backbone = Frozen(model_of("A"))
    tensors = load_file(PARITY / "A" / f"variant_{variant}.safetensors")
    options = read(PARITY / "A" / f"variant_{variant}.json")["extra_args"]
    method = variant.partition("_")[0]
    found = adapters(method, tensors, options)
    return backbone, [expert_of(method, one, f"expert_{n}", backbone) for n, one in enumerate(found)]


def weights_name(method: str, group: str) -> tuple[str, int | None]:
    """The official tensor, and its row, that holds the weights of one of our groups."""
    if method == "prefix":
        return f"{group.split('.')[0]}.prompt_weight_scale", int(group.split(".")[2])
    if method == "lora":
        return f"{group}.lora_interpolation_weight", None
    layer, _, site = group.rpartition(".")
    return f"{layer}.adapter_interpolation_weight{2 if site == 'fc2' else 1}", None


def mixture(method: str) -> Mixture:
    """Three official experts with the official weights."""
    backbone, three = experts(f"{method}_interp")
    space, sharing = ("delta", "block") if method == "lora" else ("parameters", "module")
    found = Mixture(backbone, three, space=space, sharing=sharing, target="expert_0")  # type: ignore[arg-type]
    known = load_file(PARITY / "A" / f"variant_{method}_interp.safetensors")
    with torch.no_grad():
        for column, group in enumerate(found.tensors.groups):
            name, row = weights_name(method, group)
            found.alpha[:, column] = known[name] if row is None else known[name][row]
    return found.eval()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", ["adapter", "prefix", "lora"])
def test_a_mixture_and_its_collapse_give_the_official_logits(method: str, case: str) -> None:
    found, given = mixture(method), inputs_of(case)
    expected = load_file(PARITY / "A" / f"expected_{method}_interp.safetensors")[f"{case}.logits"]
    said = given["decoder_input_ids"] != 1
    with torch.no_grad():
        close(found(**given).logits, expected, said, 1e-4)
        collapsed = attach_expert(found.backbone, found.collapse()).eval()
        close(collapsed(**given).logits, expected, said, 1e-4)


def near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def smoothed(case: str, logits: Tensor) -> Tensor:
    return (smoothed_losses(logits, target_of(case), 0.1) * (target_of(case) != 1)).sum()


@pytest.mark.parametrize("case", ["image", "text"])
@pytest.mark.parametrize("method", ["adapter", "prefix"])
def test_gradients_of_one_expert_are_the_official_ones(method: str, case: str) -> None:
    known = load_file(PARITY / "A" / f"grads_{method}.safetensors")
    backbone, (expert,) = experts(method)
    adapted = attach_expert(backbone, expert).eval()
    loss = smoothed(case, adapted(**inputs_of(case)).logits)
    assert float(loss.detach()) == pytest.approx(float(known[f"{case}.__loss_sum__"]), rel=1e-4)
    loss.backward()
    gradients = {name.partition(".")[2]: t for name, t in known.items() if name.startswith(f"{case}.")}
    gradients.pop("__loss_sum__")
    (expected,) = adapters(method, gradients, {})
    found = {n.replace(".default", ""): p.grad for n, p in adapted.named_parameters() if p.requires_grad}
    assert found.keys() == expected.tensors.keys()
    for name, gradient in expected.tensors.items():
        near(found[name], gradient)


@pytest.mark.parametrize("case", ["image", "text"])
def test_gradients_of_an_interpolation_are_the_official_ones(case: str) -> None:
    known = load_file(PARITY / "A" / "grads_adapter_interp.safetensors")
    found = mixture("adapter")
    loss = smoothed(case, found(**inputs_of(case)).logits)
    assert float(loss.detach()) == pytest.approx(float(known[f"{case}.__loss_sum__"]), rel=1e-4)
    loss.backward()
    gradients = {name.partition(".")[2]: t for name, t in known.items() if name.startswith(f"{case}.")}
    for column, group in enumerate(found.tensors.groups):
        name, _ = weights_name("adapter", group)
        if name in gradients:
            near(found.alpha.grad[:, column], gradients[name])  # type: ignore[index]
    groups = [weights_name("adapter", group)[0] for group in found.tensors.groups]
    expected = adapters("adapter", dict.fromkeys(groups, torch.zeros(3)) | gradients, {})
    rows = found.tensors.values.grad  # type: ignore[union-attr]
    for row, one in zip(rows, expected, strict=True):
        parts = row.split(found.tensors.slot_sizes)
        for slot, part in zip(found.tensors.slots, parts, strict=True):
            gradient = one.tensors[slot.name.replace(".default", "")]
            near(part.view(gradient.shape), gradient)


def test_the_task_embedding_is_the_official_one() -> None:
    known = load_file(PARITY / "A" / "fisher_adapter.safetensors")
    backbone, (expert,) = experts("adapter")
    adapted = attach_expert(backbone, expert)

    def nll(module: nn.Module, case: str) -> Tensor:
        losses = smoothed_losses(module(**inputs_of(case)).logits, target_of(case), 0.1)
        return (losses * (target_of(case) != 1)).sum(dim=1)

    found = batch_squared_fisher(adapted, ["text", "text2"], nll)
    (expected,) = adapters("adapter", known, {})
    assert {name.replace(".default", "") for name in found} == expected.tensors.keys()
    for name, values in found.items():
        torch.testing.assert_close(
            values, expected.tensors[name.replace(".default", "")], rtol=2e-3, atol=1e-6 * float(values.max())
        )


@pytest.mark.parametrize(
    ("key", "prompts"),
    [("classify_image", "decoder_prompts_none")]
    + [
        (f"snli_vqa_allcand_image_prompt_{kind}", f"decoder_prompts_{kind}")
        for kind in ("none", "prev_output", "src")
    ],
)
def test_candidates_score_as_officially(key: str, prompts: str) -> None:
    known, model, given = read(PARITY / "A" / "candidate_scores.json"), model_of("A"), encoder_inputs("image")
    chosen = plan(known["candidates"], eos=2)
    for sample, prompt in enumerate(known[prompts]):
        with torch.no_grad():
            encoded = model.encoder(**{name: tensor[sample : sample + 1] for name, tensor in given.items()})
            rows = [
                model(encoder_outputs=encoded, decoder_input_ids=torch.tensor([prompt + row])).logits[0]
                for row in chosen.rows
            ]
        choices = [
            chosen.choices(place, rows[int(row)][len(prompt) - 1 + int(depth)])
            for place, (row, depth) in enumerate(zip(chosen.place_row, chosen.place_depth, strict=True))
        ]
        scores = chosen.scores(torch.stack(choices)[None])[0]
        torch.testing.assert_close(scores, torch.tensor(known[key][sample]), atol=1e-4, rtol=1e-4)


def generation_cases() -> list[Any]:
    if not PARITY.is_dir():
        return []
    found = []
    for folder in FOLDERS:
        found += [(folder, "base", name) for name in read(PARITY / folder / "generation.json")["base"]]
    for variant in ("prefix", "prefix_interp", "adapter_interp", "lora"):
        whole = read(PARITY / "A" / f"generation_{variant}.json")
        found += [
            ("A", variant, name) for name, case in whole.get(variant, whole).items() if isinstance(case, dict)
        ]
    return found


def generator(folder: str, variant: str) -> Any:
    if variant == "base":
        return model_of(folder)
    if variant.endswith("_interp"):
        return mixture(variant.partition("_")[0]).mixed()
    backbone, (expert,) = experts(variant)
    model: PeftModel = attach_expert(backbone, expert).eval()
    return model


@pytest.mark.parametrize(("folder", "variant", "name"), generation_cases())
def test_generated_tokens_and_scores_are_the_official_ones(folder: str, variant: str, name: str) -> None:
    file = "generation.json" if variant == "base" else f"generation_{variant}.json"
    whole = read(PARITY / folder / file)
    case = whole.get(variant, whole)[name]
    settings = dict(case["settings"])
    limits: dict[str, Any] = {"unk_penalty": settings.pop("unk_penalty", 0.0)}
    if case.get("prefix_tokens"):
        limits |= {"prefix_tokens": torch.tensor(case["prefix_tokens"]), "soft_prefix": True}
    if case.get("trie_answers"):
        limits["trie"] = Trie([[0, *answer, 2] for answer in case["trie_answers"]], eos=2)
    if span := settings.pop("constraint_range", None):
        limits["token_range"] = tuple(map(int, span.split(",")))
    options = {
        "num_beams": settings.pop("beam_size"),
        "max_new_tokens": settings.pop("max_len_b") + 1,
        "min_new_tokens": settings.pop("min_len"),
        "no_repeat_ngram_size": settings.pop("no_repeat_ngram_size", 0),
        "length_penalty": settings.pop("len_penalty", 1.0),
        "temperature": settings.pop("temperature", 1.0),
        "normalize_scores": settings.pop("normalize_scores", True),
    }
    assert not settings.keys() - {"max_len_a", "constraint_trie"}
    output = generator(folder, variant).generate(
        **encoder_inputs(case["case"]),
        **options,
        constraints=Constraints(**limits),
        return_dict_in_generate=True,
        do_sample=False,
    )
    for found, expected in zip(output.hypotheses, case["hypotheses"], strict=True):
        assert [one.tokens for one in found] == [one["tokens"] for one in expected]
        for one, other in zip(found, expected, strict=True):
            assert one.score == pytest.approx(other["score"], abs=1e-4)
            assert one.positional_scores == pytest.approx(other["positional_scores"], abs=1e-4)

"""Laws of the adapter methods, on models of two layers made from a configuration and a seed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from peft import PeftModel, get_peft_model
from peft.utils.peft_types import PeftType
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from pituning.errors import ExpertError
from pituning.expert import method_of
from pituning.methods import METHOD_NAMES, BottleneckConfig, SelfAttentionPrefixConfig, peft_config
from pituning.methods.bottleneck import BottleneckModel
from pituning.methods.registration import extend_peft_type, register
from pituning.train import LEARNING_RATES

pytestmark = [
    # PEFT 0.21 with transformers 5.23, on every get_peft_model.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Detected that the base layer has no bias term:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore:Invalid `oft_block_size`:UserWarning"),
]

TEXT = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 4, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GQA = TEXT | {"num_key_value_heads": 2}
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION |= {"image_size": 8, "patch_size": 4}


def t5(**options: Any) -> nn.Module:
    sizes = {"vocab_size": 40, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4}
    config = transformers.T5Config(**sizes, decoder_start_token_id=0, pad_token_id=0, **options)
    return transformers.T5ForConditionalGeneration(config)


def llama(**options: Any) -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**GQA, **options))


def qwen2(**options: Any) -> nn.Module:
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**GQA, tie_word_embeddings=True, **options))


def bert(**options: Any) -> nn.Module:
    return transformers.BertModel(transformers.BertConfig(**TEXT, max_position_embeddings=32, **options))


def bert_classifier(**options: Any) -> nn.Module:
    config = transformers.BertConfig(**TEXT, max_position_embeddings=32, num_labels=3, **options)
    return transformers.BertForSequenceClassification(config)


def vit(**options: Any) -> nn.Module:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**VISION, num_labels=3, **options))


def clip(**options: Any) -> nn.Module:
    text = TEXT | {"max_position_embeddings": 32, "projection_dim": 8}
    vision = VISION | {"projection_dim": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8, **options)
    return transformers.CLIPModel(config)


def idefics3(**options: Any) -> nn.Module:
    text = GQA | {"model_type": "llama"}
    sizes = {"image_token_id": 39, "scale_factor": 2, "pad_token_id": 0}
    config = transformers.Idefics3Config(text_config=text, vision_config=VISION, **sizes, **options)
    return transformers.Idefics3ForConditionalGeneration(config)


MODELS: dict[str, Callable[..., nn.Module]] = {
    make.__name__: make for make in (t5, llama, qwen2, idefics3, bert, clip, bert_classifier, vit)
}
HEADS = {"bert_classifier": ("classifier",), "vit": ("classifier",)}
REFUSED = {("clip", "prompt"), ("vit", "prompt")}


def build(kind: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return MODELS[kind](**options).eval()


def batch(kind: str) -> dict[str, Tensor]:
    """Two examples; the second one has two positions of padding on the right."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 37, (2, 5), generator=generator)
    text = {"input_ids": ids, "attention_mask": torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])}
    image = {"pixel_values": torch.randn(2, 3, 8, 8, generator=generator)}
    if kind == "vit":
        return image
    if kind == "clip":
        return text | image
    if kind == "idefics3":
        ids[:, 1] = 39
        return text | {"pixel_values": image["pixel_values"][:, None]}
    if kind == "t5":
        return text | {"labels": torch.randint(3, 37, (2, 4), generator=generator)}
    return text


def outputs(model: Any, kind: str) -> Tensor:
    output = model(**batch(kind))
    names = ("logits", "logits_per_image", "last_hidden_state")
    return next(output[name] for name in names if output.get(name) is not None)


def shaken(model: nn.Module) -> None:
    """Move every trainable tensor, so that no method is at its initial zero."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


@pytest.mark.parametrize("method", [name for name in METHOD_NAMES if name != "bottleneck"])
@pytest.mark.parametrize("kind", MODELS)
def test_every_method_trains_and_reloads_exactly_or_is_refused(
    kind: str, method: str, tmp_path: Path
) -> None:
    model = build(kind)
    if (kind, method) in REFUSED:
        with pytest.raises(ExpertError, match="inputs_embeds"):
            peft_config(method, model)
        return
    with torch.no_grad():
        before = outputs(model, kind)
    adapted = get_peft_model(model, peft_config(method, model, heads=HEADS.get(kind, ())))
    shaken(adapted)
    for training in (True, False):
        adapted.train(training).zero_grad()
        outputs(adapted, kind).square().sum().backward()
        trainable = {name: p.grad for name, p in adapted.named_parameters() if p.requires_grad}
        assert trainable
        assert all(grad is not None and grad.abs().sum() > 0 for grad in trainable.values())
    for head in HEADS.get(kind, ()):
        assert any(f"{head}.modules_to_save" in name for name in trainable)
    with torch.no_grad():
        trained = outputs(adapted, kind)
        assert trained.shape != before.shape or not torch.allclose(trained, before)
        adapted.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(build(kind), tmp_path).eval()
        assert torch.equal(outputs(loaded, kind), trained)


@pytest.mark.parametrize("kind", MODELS)
def test_a_rate_was_chosen_for_what_every_method_is(kind: str) -> None:
    model = build(kind)
    made = {name: peft_config(name, model) for name in METHOD_NAMES if (kind, name) not in REFUSED}
    assert not {name for name, config in made.items() if method_of(config) not in LEARNING_RATES}


def test_registering_again_changes_nothing() -> None:
    members = list(PeftType)
    register("BOTTLENECK_ADAPTER", BottleneckConfig, BottleneckModel)
    assert list(PeftType) == members
    assert extend_peft_type("LORA") is PeftType.LORA
    assert PeftType("SELF_ATTENTION_PREFIX") is PeftType.SELF_ATTENTION_PREFIX
    assert PeftType.BOTTLENECK_ADAPTER == "BOTTLENECK_ADAPTER"
    assert PeftType.BOTTLENECK_ADAPTER in PeftType


# --- shortcuts


def test_aliases_and_task_types() -> None:
    model = build("bert_classifier")
    assert peft_config("bottleneck", model) == peft_config("adapter", model)
    expected = {"t5": "SEQ_2_SEQ_LM", "llama": "CAUSAL_LM", "bert": "FEATURE_EXTRACTION", "vit": None}
    expected |= {"clip": None, "bert_classifier": "SEQ_CLS", "idefics3": "CAUSAL_LM"}
    assert {kind: peft_config("lora", build(kind)).task_type for kind in expected} == expected


@pytest.mark.parametrize("config", [peft.LoraConfig(r=3), BottleneckConfig(bottleneck_size=5)])
def test_a_file_that_peft_wrote_gives_its_configuration_back(config: Any, tmp_path: Path) -> None:
    config.inference_mode = True
    config.save_pretrained(tmp_path)
    read = peft_config(str(tmp_path / "adapter_config.json"), build("llama"))
    config.inference_mode, config.task_type = False, "CAUSAL_LM"
    assert read == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "LORA", "rank": 3}, "rank"),
        ({"peft_type": "LORAX"}, "LORA"),
        ({}, "peft_type"),
        ([], "peft_type"),
        ({"peft_type": ["LORA"]}, "peft_type"),
    ],
)
def test_a_faulty_file_is_refused(values: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "method.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ExpertError, match=message):
        peft_config(str(path), build("llama"))


def test_a_file_that_is_no_json_or_does_not_exist_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "method.json"
    for _ in range(2):
        with pytest.raises(ExpertError, match="readable JSON"):
            peft_config(str(path), build("llama"))
        path.write_text("{")


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ExpertError, match=r"lora, .*bitfit.*'loora'"):
        peft_config("loora", build("llama"))


def test_pefts_own_prefix_is_refused_where_it_cannot_reach(tmp_path: Path) -> None:
    peft.PrefixTuningConfig(num_virtual_tokens=3).save_pretrained(tmp_path)
    with pytest.raises(ExpertError, match="'prefix'"):
        peft_config(str(tmp_path / "adapter_config.json"), build("vit"))


def test_bitfit_is_a_bias_on_every_linear_but_heads_and_output_embedding() -> None:
    for kind, left_out in (("llama", "lm_head"), ("bert_classifier", "classifier")):
        model = build(kind)
        linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        assert set(peft_config("bitfit", model).target_modules) == linear - {left_out}


def test_heads_that_peft_matches_by_the_end_of_their_name_get_no_adapter() -> None:
    sizes = {"vocab_size": 40, "dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 4, "num_labels": 3}
    model = transformers.DistilBertForSequenceClassification(transformers.DistilBertConfig(**sizes))
    adapted = get_peft_model(model, peft_config("bitfit", model, heads=["classifier"]))
    saved = {name for name, p in adapted.named_parameters() if p.requires_grad and "modules_to_save" in name}
    assert {name.split(".")[2] for name in saved} == {"pre_classifier", "classifier"}


# --- bottleneck


def adapted_modules(model: nn.Module, attribute: str) -> list[str]:
    return sorted(
        name for name, module in model.named_modules() if attribute in dict(module.named_children())
    )


def test_bottleneck_is_the_formula_of_houlsby() -> None:
    for activation, function in (("relu", torch.relu), ("gelu", nn.functional.gelu)):
        base = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
        config = BottleneckConfig(bottleneck_size=2, scaling=0.5, init_std=1.0, target_modules=["0", "1"])
        config.non_linearity = activation
        torch.manual_seed(3)
        model = get_peft_model(base, config)
        x = torch.randn(2, 3)
        expected = x
        for layer in base:
            assert not layer.bottleneck_up["default"].bias.any()
            y = layer.base_layer(expected)
            hidden = function(layer.bottleneck_down["default"](y))
            expected = y + 0.5 * layer.bottleneck_up["default"](hidden)
        assert torch.equal(model(x), expected)


def test_bottleneck_starts_at_normal_weights_and_zero_biases() -> None:
    torch.manual_seed(0)
    config = BottleneckConfig(bottleneck_size=64, target_modules=["0"])
    base = get_peft_model(nn.Sequential(nn.Linear(8, 64)), config).base_model.model
    for linear in (base[0].bottleneck_down["default"], base[0].bottleneck_up["default"]):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not linear.bias.any()


def test_bottlenecks_follow_self_attention_and_feed_forward_but_not_cross_attention() -> None:
    model = get_peft_model(build("t5"), BottleneckConfig())
    names = adapted_modules(model.base_model.model, "bottleneck_up")
    assert len(names) == 8
    assert all(name.endswith(("SelfAttention.o", "DenseReluDense.wo")) for name in names)


@pytest.mark.parametrize(
    "config",
    [BottleneckConfig(init_std=1.0), SelfAttentionPrefixConfig(init_std=1.0)],
    ids=["bottleneck", "prefix"],
)
@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_a_disabled_or_unloaded_adapter_leaves_the_base_model(kind: str, config: Any) -> None:
    model = build(kind)
    before, implementation = outputs(model, kind), model.config._attn_implementation
    config.target_modules = None
    adapted = get_peft_model(model, config)
    assert not torch.allclose(outputs(adapted, kind), before)
    with adapted.disable_adapter():
        assert torch.equal(outputs(adapted, kind), before)
    for merge in (adapted.merge_adapter, adapted.merge_and_unload):
        with pytest.raises(ExpertError, match="linear in its input"):
            merge()
    assert torch.equal(outputs(adapted.unload(), kind), before)
    assert model.config._attn_implementation == implementation


@pytest.mark.parametrize("config", [BottleneckConfig(), SelfAttentionPrefixConfig()])
def test_an_unknown_architecture_needs_target_modules(config: Any) -> None:
    with pytest.raises(ExpertError, match="target_modules"):
        get_peft_model(nn.Sequential(nn.Linear(2, 2)), config)


def test_all_faults_of_a_configuration_are_reported_together() -> None:
    with pytest.raises(ExpertError, match=r"(?s)bottleneck_size.*non_linearity.*dropout.*init_std"):
        BottleneckConfig(bottleneck_size=0, non_linearity="tanh", dropout=1.0, init_std=-1.0)  # type: ignore[arg-type]
    with pytest.raises(ExpertError, match=r"(?s)prefix_length.*dropout.*init_std"):
        SelfAttentionPrefixConfig(prefix_length=0, dropout=1.0, init_std=-1.0)


# --- prefix


def prefixed(kind: str, **options: Any) -> Any:
    model = build(kind, **options)
    return get_peft_model(model, SelfAttentionPrefixConfig(prefix_length=3, init_std=1.0)).eval()


def recorded(model: Any, kind: str) -> dict[str, tuple[Any, dict[str, Any], Tensor]]:
    """Call the model; positional and keyword inputs and first output of each self-attention by its name."""
    calls: dict[str, Any] = {}

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            calls[name] = (args, kwargs, output[0])

        return hook

    for name, module in model.named_modules():
        if hasattr(module, "prefix_key"):
            module.register_forward_hook(record(name), with_kwargs=True)
    outputs(model, kind)
    return calls


def naive(
    layer: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | float, seen: Tensor
) -> Tensor:
    """Attention over prefix and keys: `q [b, h, q, d]`, `k, v [b, h, k, d]`, `seen [b, 1, q, k]`."""
    repeat = q.shape[1] // layer.prefix_key["default"].shape[0]
    prefix_k, prefix_v = (
        p["default"].repeat_interleave(repeat, 0).expand(q.shape[0], -1, -1, -1)
        for p in (layer.prefix_key, layer.prefix_value)
    )
    own = (q @ k.transpose(-1, -2) * scale + bias).masked_fill(~seen, float("-inf"))
    weights = torch.cat([q @ prefix_k.transpose(-1, -2) * scale, own], dim=-1).softmax(-1)
    mixed = weights @ torch.cat([prefix_v, v], dim=2)
    return mixed.transpose(1, 2).flatten(2)


def heads_of(x: Tensor, width: int) -> Tensor:
    return x.unflatten(-1, (-1, width)).transpose(1, 2)


CAUSAL = torch.ones(5, 5, dtype=torch.bool).tril()
KEYS_SEEN = torch.tensor([[1] * 5, [1, 1, 1, 0, 0]]).bool()[:, None, None, :]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_prefix_in_llama_is_attention_written_out(implementation: str) -> None:
    model = prefixed("llama", attn_implementation=implementation)
    calls = recorded(model, "llama")
    assert len(calls) == 2
    for name, (args, kwargs, output) in calls.items():
        layer = model.get_submodule(name)
        attention = layer.base_layer
        x = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        q, k, v = (heads_of(p(x), 4) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
        q, k = apply_rotary_pos_emb(q, k, *kwargs["position_embeddings"])
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        mixed = naive(layer, q, k, v, 4**-0.5, 0.0, CAUSAL & KEYS_SEEN)
        torch.testing.assert_close(attention.o_proj(mixed), output)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_prefix_in_bert_is_attention_written_out(implementation: str) -> None:
    model = prefixed("bert", attn_implementation=implementation)
    calls = recorded(model, "bert")
    assert len(calls) == 2
    for name, (args, _, output) in calls.items():
        layer = model.get_submodule(name)
        attention = layer.base_layer
        q, k, v = (heads_of(p(args[0]), 4) for p in (attention.query, attention.key, attention.value))
        torch.testing.assert_close(naive(layer, q, k, v, 4**-0.5, 0.0, KEYS_SEEN.expand(-1, 1, 5, 5)), output)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_prefix_in_t5_is_attention_written_out_in_encoder_and_decoder(implementation: str) -> None:
    model = prefixed("t5", attn_implementation=implementation)
    calls = recorded(model, "t5")
    assert len(calls) == 4
    for name, (args, _, output) in calls.items():
        layer = model.get_submodule(name)
        attention = layer.base_layer
        first = model.get_submodule(name.replace("block.1", "block.0")).base_layer
        q, k, v = (heads_of(p(args[0]), 4) for p in (attention.q, attention.k, attention.v))
        length = q.shape[2]
        seen = CAUSAL[:4, :4].expand(2, 1, 4, 4) if "decoder" in name else KEYS_SEEN.expand(-1, 1, 5, 5)
        mixed = naive(layer, q, k, v, 1.0, first.compute_bias(length, length), seen)
        torch.testing.assert_close(attention.o(mixed), output)


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_prefix_is_the_same_in_sdpa_and_eager(kind: str) -> None:
    sdpa, eager = prefixed(kind), prefixed(kind, attn_implementation="eager")
    eager.load_state_dict(sdpa.state_dict())
    torch.testing.assert_close(outputs(sdpa, kind), outputs(eager, kind), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["t5", "llama", "qwen2", "idefics3"])
@torch.no_grad()
def test_generation_with_a_cache_is_generation_without(kind: str) -> None:
    model = prefixed(kind)
    inputs = {name: value for name, value in batch(kind).items() if name != "labels"}
    if kind != "t5":
        inputs["attention_mask"] = inputs["attention_mask"].flip(1)
    greedy = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "output_logits": True}
    runs = [
        model.generate(**inputs, **greedy, return_dict_in_generate=True, use_cache=c) for c in (True, False)
    ]
    assert torch.equal(runs[0].sequences, runs[1].sequences)
    torch.testing.assert_close(runs[0].logits, runs[1].logits, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_prefix_is_never_cached() -> None:
    cache = prefixed("llama")(**batch("llama"), use_cache=True).past_key_values
    assert cache.get_seq_length() == 5


@pytest.mark.parametrize("kind", ["t5", "llama", "bert"])
@torch.no_grad()
def test_padding_does_not_change_a_prefixed_model(kind: str) -> None:
    model = prefixed(kind)
    both = outputs(model, kind)[1]
    alone = {name: value[1:, :3] if name != "labels" else value[1:] for name, value in batch(kind).items()}
    output = model(**alone)
    one = (output.last_hidden_state if kind == "bert" else output.logits)[0]
    torch.testing.assert_close(both[: len(one)], one, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_prefix_leaves_other_models_of_the_same_configuration_alone() -> None:
    model = build("llama")
    torch.manual_seed(0)
    other = type(model)(model.config).eval()
    before = outputs(other, "llama")
    adapted = get_peft_model(model, SelfAttentionPrefixConfig())
    assert torch.equal(outputs(other, "llama"), before)
    adapted.unload()
    assert torch.equal(outputs(other, "llama"), before)


@torch.no_grad()
def test_two_prefixes_switch_and_add_up() -> None:
    model = prefixed("bert")
    first = outputs(model, "bert")
    model.add_adapter("second", SelfAttentionPrefixConfig(prefix_length=2, init_std=1.0))
    assert torch.equal(outputs(model, "bert"), first)
    model.set_adapter("second")
    second = outputs(model, "bert")
    assert not torch.allclose(first, second)
    model.base_model.set_adapter(["default", "second"])
    assert not torch.allclose(outputs(model, "bert"), second)
    model.delete_adapter("default")
    torch.testing.assert_close(outputs(model, "bert"), second)


def test_prefix_dropout_acts_in_training_only() -> None:
    config = SelfAttentionPrefixConfig(prefix_length=3, dropout=0.5, init_std=1.0)
    model = get_peft_model(build("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), config)
    assert not torch.equal(outputs(model.train(), "bert"), outputs(model, "bert"))
    assert torch.equal(outputs(model.eval(), "bert"), outputs(model, "bert"))


def test_changing_the_attention_implementation_under_a_prefix_is_refused() -> None:
    model = prefixed("llama")
    model.config._attn_implementation = "sdpa"
    with pytest.raises(ExpertError, match="'sdpa'"):
        outputs(model, "llama")


def test_an_attention_that_takes_no_mask_is_refused() -> None:
    model = build("llama")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ExpertError, match="flash_attention_2"):
        get_peft_model(model, SelfAttentionPrefixConfig())


def test_an_attention_outside_the_interface_of_transformers_is_refused() -> None:
    torch.manual_seed(0)
    model = transformers.MPNetModel(transformers.MPNetConfig(**TEXT, max_position_embeddings=32))
    with pytest.raises(ExpertError, match="MPNetSelfAttention"):
        get_peft_model(model, peft_config("prefix", model))

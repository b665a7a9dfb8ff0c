"""The OFA model against an independent implementation, and the laws that hold of any model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ofa_reference import Reference
from ofa_small import batch, config, model
from transformers import AutoModel, AutoModelForSeq2SeqLM

from pituning.errors import BackboneError, ConfigError
from pituning.models.ofa import Constraints, OfaConfig, OfaForConditionalGeneration, OfaModel, Trie

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def reference(found: OfaForConditionalGeneration, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return Reference(found.state_dict(), found.config).logits(
            inputs["input_ids"],
            inputs["decoder_input_ids"],
            inputs.get("patch_images"),
            inputs.get("patch_masks"),
        )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("pictures", [True, False])
def test_logits_equal_the_reference(attention: str, pictures: bool) -> None:
    found, inputs = model(attn_implementation=attention), batch(pictures=pictures)
    with torch.no_grad():
        logits = found(**inputs).logits
    expected = reference(found, inputs)
    said = inputs["decoder_input_ids"] != 1
    assert expected[said].std() > 0.5
    torch.testing.assert_close(logits[said], expected[said], **CLOSE)


def test_the_reference_sees_every_parameter() -> None:
    """What the reference did not use could be wrong in the model too."""
    found, inputs = model(), batch()
    found(**inputs).logits[inputs["decoder_input_ids"] != 1].square().sum().backward()
    idle = {name for name, p in found.named_parameters() if p.grad is None or not p.grad.any()}
    codes = {"decoder.code_layernorm_embedding", "decoder.image_pos_ln", "decoder.embed_image_positions"}
    assert {name.rpartition(".")[0] for name in idle} - codes == {
        f"decoder.image_rel_pos_table_list.{layer}" for layer in range(2)
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"normformer": False, "decoder_adds_positions": True},
        {"encoder_normalize_before": False, "decoder_normalize_before": False, "scale_resids": True},
        {"entangle_position_embedding": True, "scale_embedding": True, "add_type_embedding": False},
        {"share_all_embeddings": False, "share_decoder_input_output_embed": False},
    ],
)
def test_every_variant_changes_the_logits(changes: dict[str, Any]) -> None:
    inputs = batch()
    with torch.no_grad():
        plain, changed = model()(**inputs).logits, model(config(**changes))(**inputs).logits
    assert torch.isfinite(changed).all()
    assert not torch.allclose(plain, changed, atol=1e-2)


def test_codes_are_written_with_positions_of_the_picture() -> None:
    found, inputs = model(), batch()
    with torch.no_grad():
        words, codes = found(**inputs).logits, found(**inputs, code_masks=torch.tensor([1, 0, 0])).logits
    torch.testing.assert_close(codes[1:], words[1:], **CLOSE)
    assert not torch.allclose(codes[0], words[0], atol=1e-2)


def test_padding_does_not_change_a_sample() -> None:
    found, inputs = model(), batch(pictures=False)
    with torch.no_grad():
        together = found(**inputs).logits[1, :4]
        alone = found(
            input_ids=inputs["input_ids"][1:2, :9], decoder_input_ids=inputs["decoder_input_ids"][1:2, :4]
        )
    torch.testing.assert_close(together, alone.logits[0], **CLOSE)


def test_a_masked_picture_is_not_seen() -> None:
    found, inputs = model(), batch()
    with torch.no_grad():
        before = found(**inputs).logits
        inputs["patch_images"] = inputs["patch_images"] + torch.tensor([0.0, 0.0, 9.0]).view(3, 1, 1, 1)
        after = found(**inputs).logits
    torch.testing.assert_close(after[2], before[2], **CLOSE)


def test_steps_with_a_cache_equal_one_pass() -> None:
    found, inputs = model(), batch()
    previous = inputs.pop("decoder_input_ids")
    with torch.no_grad():
        whole = found(**inputs, decoder_input_ids=previous).logits
        encoded, cache, steps = found.encoder(**inputs), None, []
        for place in range(previous.shape[1]):
            step = found(
                encoder_outputs=encoded,
                decoder_input_ids=previous[:, place : place + 1],
                past_key_values=cache,
                use_cache=True,
            )
            cache = step.past_key_values
            steps.append(step.logits)
    said = previous != 1
    torch.testing.assert_close(torch.cat(steps, dim=1)[said], whole[said], **CLOSE)


def test_save_then_load_is_bit_exact(tmp_path: Path) -> None:
    found = model()
    found.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert isinstance(again, OfaForConditionalGeneration)
    assert again.state_dict().keys() == found.state_dict().keys()
    assert all(torch.equal(a, found.state_dict()[name]) for name, a in again.state_dict().items())
    features = AutoModel.from_pretrained(tmp_path)
    assert isinstance(features, OfaModel)
    inputs = batch()
    with torch.no_grad():
        projected = again.decoder.output_projection(features.eval()(**inputs).last_hidden_state)
        torch.testing.assert_close(projected, found(**inputs).logits)


def test_a_saved_model_leaves_out_what_its_configuration_tells(tmp_path: Path) -> None:
    model(config(image_bucket_size=42)).save_pretrained(tmp_path)
    buffers = 8 * (2 * 1024**2 + 2 * (42**2 + 1) ** 2)
    assert (tmp_path / "model.safetensors").stat().st_size < buffers / 2


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointed in (False, True):
        found = model().train()
        if checkpointed:
            found.activation_checkpointing_enable({"use_reentrant": False})
        found(**batch()).logits.square().mean().backward()
        gradients.append({name: p.grad for name, p in found.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_bfloat16_stays_near_float32() -> None:
    found, inputs = model(), batch()
    with torch.no_grad():
        whole = found(**inputs).logits
        half = found.to(torch.bfloat16)(**inputs).logits
    assert half.dtype is torch.bfloat16
    assert torch.nn.functional.cosine_similarity(half.float().flatten(), whole.flatten(), dim=0) > 0.995


@pytest.mark.parametrize(("frozen", "drifts"), [(True, False), (False, True)])
def test_a_frozen_stem_does_not_drift(frozen: bool, drifts: bool) -> None:
    found = model(config(freeze_batch_norm=frozen)).train()
    before = found.encoder.embed_images.bn1.running_mean.clone()
    found(**batch())
    assert torch.equal(before, found.encoder.embed_images.bn1.running_mean) is not drifts


def test_labels_give_the_mean_loss_of_shifted_tokens() -> None:
    found, inputs = model(), batch()
    inputs.pop("decoder_input_ids")
    labels = torch.tensor([[7, 8, 2], [9, 2, -100], [5, 2, -100]])
    fed = torch.tensor([[0, 7, 8], [0, 9, 2], [0, 5, 2]])
    with torch.no_grad():
        output = found(**inputs, labels=labels)
        logits = found(**inputs, decoder_input_ids=fed).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    torch.testing.assert_close(output.loss, expected)


def test_logits_at_some_places_are_those_of_all() -> None:
    found, inputs = model(), batch()
    inputs["labels"] = inputs["decoder_input_ids"].masked_fill(inputs["decoder_input_ids"] == 1, -100)
    said = inputs["labels"] != -100
    assert 0 < said.sum() < said.numel()
    with torch.no_grad():
        whole = found(**inputs)
        some = found(**{**inputs, "labels": inputs["labels"][said][None]}, logits_at=said)
        last = found(input_ids=inputs["input_ids"], decoder_input_ids=inputs["decoder_input_ids"])
        places = torch.tensor([[1, 0]]).expand(len(said), -1)
        swapped = found(
            input_ids=inputs["input_ids"], decoder_input_ids=inputs["decoder_input_ids"], logits_at=places
        )
    torch.testing.assert_close(some.logits[0], whole.logits[said])
    torch.testing.assert_close(some.loss, whole.loss)
    torch.testing.assert_close(swapped.logits, last.logits[:, [1, 0]])


def test_drop_path_leaves_whole_samples_out_in_training_only() -> None:
    found = model(config(encoder_drop_path_rate=0.9, decoder_drop_path_rate=0.9))
    inputs = batch()
    with torch.no_grad():
        torch.testing.assert_close(found(**inputs).logits, model()(**inputs).logits)
        torch.manual_seed(0)
        assert not torch.allclose(found.train()(**inputs).logits, model()(**inputs).logits, atol=1e-2)


def test_greedy_search_is_the_argmax_of_every_step() -> None:
    found, inputs = model(), batch()
    inputs.pop("decoder_input_ids")
    with torch.no_grad():
        expected = torch.zeros(3, 1, dtype=torch.long)
        for _ in range(5):
            logits = found(**inputs, decoder_input_ids=expected).logits[:, -1]
            logits[:, [1, 2]] = -torch.inf
            expected = torch.cat([expected, logits.argmax(-1, keepdim=True)], dim=1)
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    plain = found.generate(**inputs, **options, bad_words_ids=[[1]])
    assert torch.equal(plain, expected)
    assert torch.equal(found.generate(**inputs, **options, bad_words_ids=[[1]], use_cache=False), expected)
    own = found.generate(**inputs, **{**options, "max_new_tokens": 6}, constraints=Constraints())
    assert torch.equal(own[:, :6], expected)


def exhaustive(
    found: OfaForConditionalGeneration, encoded: Any, answers: list[list[int]], trie: Trie
) -> list[float]:
    """The score of each answer: log-probabilities among what the trie allows, by one pass an answer."""
    scores = []
    for answer in answers:
        sequence = [*answer, 2]
        logits = found(encoder_outputs=encoded, decoder_input_ids=torch.tensor([[0, *answer]])).logits[0]
        total = 0.0
        for place, token in enumerate(sequence):
            allowed = trie.after([0, *sequence[:place]])
            total += float(logits[place, allowed].log_softmax(0)[allowed.index(token)])
        scores.append(total / len(sequence))
    return scores


def test_a_wide_beam_in_a_trie_finds_and_scores_every_answer() -> None:
    found, inputs = model(), batch()
    answers = [[7], [8, 9], [8, 10, 11], [12]]
    trie = Trie([[0, *answer, 2] for answer in answers], eos=2)
    one = {name: tensor[:1] for name, tensor in inputs.items() if name != "decoder_input_ids"}
    output = found.generate(
        **one,
        num_beams=6,
        max_new_tokens=6,
        constraints=Constraints(trie=trie),
        return_dict_in_generate=True,
        do_sample=False,
    )
    found_scores = {tuple(h.tokens[:-1]): h.score for h in output.hypotheses[0] if h.score > -100}
    with torch.no_grad():
        expected = exhaustive(found, found.encoder(**one), answers, trie)
    assert found_scores == pytest.approx(dict(zip(map(tuple, answers), expected, strict=True)), abs=1e-4)
    assert output.sequences[0, 1] == max(zip(expected, answers, strict=True))[1][0]


def test_forced_prefixes_of_different_lengths_come_first() -> None:
    found, inputs = model(), batch()
    inputs.pop("decoder_input_ids")
    prefix = torch.tensor([[5, 6, 7], [8, 9, 1], [10, 1, 1]])
    tokens = found.generate(
        **inputs,
        num_beams=3,
        max_new_tokens=8,
        constraints=Constraints(prefix_tokens=prefix),
        do_sample=False,
    )
    for row, wanted in zip(tokens.tolist(), [[5, 6, 7], [8, 9], [10]], strict=True):
        assert row[1 : 1 + len(wanted)] == wanted


def test_a_soft_prefix_leaves_other_tokens_a_nat_below_the_least_likely_of_the_batch() -> None:
    found, inputs = model(), batch()
    start = inputs | {"decoder_input_ids": torch.zeros(3, 1, dtype=torch.long)}
    with torch.no_grad():
        scores = found(**start).logits[:, 0].log_softmax(dim=-1)
    wanted = int(scores[0].argmax())
    padding = scores[1:, 1].min()
    assert padding < scores[0, wanted]
    inputs.pop("decoder_input_ids")
    output = found.generate(
        **inputs,
        num_beams=2,
        max_new_tokens=2,
        constraints=Constraints(prefix_tokens=torch.tensor([[wanted], [1], [1]]), soft_prefix=True),
        return_dict_in_generate=True,
        do_sample=False,
    )
    first = {h.tokens[0] == wanted: h.positional_scores[0] for h in output.hypotheses[0]}
    assert first == pytest.approx({True: float(scores[0, wanted]), False: float(padding - 1)}, abs=1e-4)


def test_a_range_leaves_its_tokens_and_the_special_ones() -> None:
    found, inputs = model(), batch()
    inputs.pop("decoder_input_ids")
    options = {"num_beams": 2, "min_new_tokens": 4, "max_new_tokens": 5, "do_sample": False}

    def outside(limits: Constraints) -> bool:
        tokens = found.generate(**inputs, **options, constraints=limits)[:, 1:5]
        return bool((((tokens >= 4) & (tokens < 40)) | (tokens >= 50)).any())

    assert not outside(Constraints(token_range=(40, 50), unk_penalty=100.0))
    assert outside(Constraints(unk_penalty=100.0))


def test_beams_do_not_depend_on_the_cache_or_the_batch() -> None:
    found, inputs = model(), batch()
    inputs.pop("decoder_input_ids")
    options = {"num_beams": 4, "max_new_tokens": 7, "no_repeat_ngram_size": 2, "do_sample": False}
    together = found.generate(**inputs, **options)
    assert torch.equal(found.generate(**inputs, **options, use_cache=False), together)
    for row in range(3):
        alone = found.generate(**{name: tensor[row : row + 1] for name, tensor in inputs.items()}, **options)
        trimmed = together[row, : alone.shape[1]]
        assert torch.equal(alone[0], trimmed)
        assert (together[row, alone.shape[1] :] == 1).all()


def test_the_best_hypotheses_come_first() -> None:
    found, inputs = model(), batch()
    inputs.pop("decoder_input_ids")
    output = found.generate(
        **inputs,
        num_beams=4,
        num_return_sequences=3,
        max_new_tokens=6,
        return_dict_in_generate=True,
        do_sample=False,
    )
    assert output.sequences.shape[0] == 9
    scores = output.sequences_scores.view(3, 3)
    assert (scores.diff(dim=1) <= 0).all()
    for hypothesis in (h for found_ones in output.hypotheses for h in found_ones):
        mean = sum(hypothesis.positional_scores) / len(hypothesis.tokens)
        assert hypothesis.score == pytest.approx(mean, abs=1e-5)


def test_too_large_inputs_are_refused() -> None:
    found = model()
    with pytest.raises(BackboneError, match="at most 6 x 6 patches"):
        found(**batch() | {"patch_images": torch.zeros(3, 3, 128, 128)})
    long = torch.full((1, 1025), 5)
    with pytest.raises(BackboneError, match="at most 1024 tokens"):
        found(input_ids=long, decoder_input_ids=long[:, :2])
    with pytest.raises(BackboneError, match="at most 1024 tokens"):
        found(input_ids=long[:, :4], decoder_input_ids=long)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"d_model": 30}, "multiple of encoder_attention_heads"), ({"resnet_type": "resnet51"}, "resnet50")],
)
def test_a_wrong_configuration_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(**changes)


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'large'"):
        OfaConfig.of_size("larg")  # type: ignore[arg-type]

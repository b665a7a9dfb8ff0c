"""The OFA backbone: what it reads, says and scores for every kind of task."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from ofa_small import config, model, save, tokenizer
from torch import Tensor, nn

from pituning import (
    Example,
    FisherConfig,
    Mixture,
    Task,
    TrainConfig,
    embed,
    load_backbone,
    train,
    train_expert,
)
from pituning.backbones.ofa import Ofa
from pituning.decoding import Decoding
from pituning.errors import BackboneError, ConfigError
from pituning.expert import attach, attach_expert
from pituning.methods import METHOD_NAMES, peft_config
from pituning.metrics import mean_iou
from pituning.models.ofa import OfaImageProcessor, OfaProcessor
from pituning.models.ofa.loss import smoothed_losses
from pituning.train import evaluate, score

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning"),
    pytest.mark.filterwarnings("ignore:Invalid `oft_block_size`:UserWarning"),
    pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet:UserWarning"),
]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Ofa:
    found = load_backbone(save(tmp_path_factory.mktemp("ofa")), device="cpu")
    assert isinstance(found, Ofa)
    return found


def tasks() -> list[Task]:
    """Every modality; candidates that begin alike, free answers and boxes."""
    return [
        tiny.text_task(),
        tiny.picture_task(),
        tiny.picture_task(question=True),
        tiny.open_task(pictures=True),
        boxes(),
    ]


def boxes(**decoding: Any) -> Task:
    """Pictures of 8 x 8 pixels, each with a phrase and a box."""
    known = tiny.picture_task(question=True)
    corners = [(0.0, 0.0, 0.5, 0.25), (0.125, 0.25, 1.0, 1.0), (0.5, 0.5, 0.625, 0.875)]
    rows = tuple(
        Example(text_a=e.text_a, image=e.image, bbox=box)
        for e, box in zip(known.train, itertools.cycle(corners), strict=False)
    )
    return Task(
        name="boxes",
        modality="image+text",
        kind="grounding",
        metric="acc@iou0.5",
        train=rows,
        decoding=Decoding(**decoding),
    )


def moved(backbone: Ofa, task: Task) -> nn.Module:
    """With an adapter away from its start."""
    model = attach(backbone, peft_config("adapter", backbone.model), seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model


def losses(backbone: Ofa, model: nn.Module, examples: tuple[Example, ...], task: Task) -> Tensor:
    with torch.no_grad():
        return backbone.nll(model, backbone.collate(examples, task))


@pytest.mark.parametrize("task", tasks(), ids=lambda task: f"{task.name}-{task.kind}")
@pytest.mark.parametrize("prompt", ["none", "src", "prev_output"])
def test_nll_of_an_example_does_not_depend_on_padding_or_neighbours(
    task: Task, prompt: Any, backbone: Ofa
) -> None:
    task = replace(task, decoding=Decoding(decoder_prompt=prompt))
    backbone.check(task)
    model = moved(backbone, task)
    together = losses(backbone, model, task.train, task)
    alone = torch.cat([losses(backbone, model, (example,), task) for example in task.train])
    assert len(set(together.tolist())) > 1
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("decoding", "fed", "said"),
    [
        ({}, "<s>{A}", "{A}</s>"),
        ({"decoder_prompt": "src"}, "<s>{Q}</s>{A}", "{A}</s>"),
        ({"decoder_prompt": "prev_output"}, "<s>{Q}{A}", "{A}</s>"),
        ({"ends": False}, "<s>{A-}", "{A}"),
        ({"decoder_prompt": "src", "ends": False}, "<s>{Q}</s>{A-}", "{A}"),
        ({"decoder_prompt": "prev_output", "ends": False}, "<s>{Q}{A-}", "{A}"),
    ],
)
def test_the_decoder_reads_the_prompt_and_says_the_answer_alone(
    decoding: Any, fed: str, said: str, backbone: Ofa
) -> None:
    task = replace(tiny.text_task(), prompt=" {text_a}?", decoding=Decoding(**decoding))
    batch = backbone.collate(task.train, task)
    for row, example in enumerate(task.train):
        answer = f" {task.answer(example)}"
        words = {"{Q}": f" {example.text_a}?", "{A}": answer, "{A-}": answer[:-1]}
        shown, told = fed, said
        for key, value in words.items():
            shown, told = shown.replace(key, value), told.replace(key, value)
        tokens = batch["decoder_input_ids"][row]
        assert backbone.tokenizer.decode(tokens).replace("<pad>", "") == shown
        labels, mask = batch["labels"][row], batch["label_mask"][row].bool()
        assert backbone.tokenizer.decode(labels[mask]) == told
        # Each label is looked for where the token before it is read.
        places = batch["logits_at"][row][mask].tolist()
        for place, label in zip(places[:-1], labels.tolist(), strict=False):
            assert tokens[place + 1] == label
        assert places == [*range(places[0], places[0] + len(places))]


@pytest.mark.parametrize("prompt", ["none", "prev_output"])
@pytest.mark.parametrize("task", tasks()[:3], ids=lambda task: f"{task.name}-{task.modality}")
def test_candidates_are_scored_among_what_the_trie_allows(task: Task, prompt: Any, backbone: Ofa) -> None:
    task = replace(task, decoding=Decoding(decoder_prompt=prompt))
    model = moved(backbone, task)
    with torch.no_grad():
        found = backbone.log_likelihoods(model, task.train, task)
    torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(len(task.train)), atol=1e-5, rtol=1e-5)
    texts = [" " + task.candidate_texts[name] for name in task.candidates]
    encoded = backbone.tokenizer(texts, add_special_tokens=False)["input_ids"]
    sequences = [(*tokens, 2) for tokens in encoded]
    for row, example in enumerate(task.train):
        for column, name in enumerate(task.candidates):
            batch = backbone.collate((replace(example, label=name),), task)
            inputs = {
                key: batch[key] for key in batch if key in ("input_ids", "patch_images", "decoder_input_ids")
            }
            with torch.no_grad():
                logits = model(**inputs).logits[0][batch["logits_at"][0]]
            total = 0.0
            for place, token in enumerate(sequences[column]):
                start = sequences[column][:place]
                allowed = sorted({other[place] for other in sequences if other[:place] == start})
                total += float(logits[place, allowed].log_softmax(0)[allowed.index(token)])
            assert float(found[row, column]) == pytest.approx(total, abs=1e-4)


def test_predictions_are_the_likeliest_candidates(backbone: Ofa) -> None:
    task = tiny.picture_task(classes=4)
    model = moved(backbone, task)
    with torch.no_grad():
        best = backbone.log_likelihoods(model, task.train, task).argmax(dim=1)
    answers = backbone.predict(model, task.train, task, batch_size=2)
    assert answers == [task.candidates[index] for index in best.tolist()]


@pytest.mark.parametrize(("side", "reach"), [(None, None), (48, 64), (32, None)])
def test_box_tokens_are_the_official_bins_and_come_back_as_the_box(
    side: int | None, reach: int | None, backbone: Ofa
) -> None:
    task = replace(boxes(box_range=reach), image_size=side)
    used = side or 32
    batch = backbone.collate(task.train, task)
    for row, example in enumerate(task.train):
        assert example.bbox is not None
        pixels = torch.tensor(example.bbox) * 8
        bins = (pixels * (used / 8) / (reach or used) * 999).round().int().tolist()
        assert batch["labels"][row, :5].tolist() == [*backbone.tokenizer.bin_ids(bins), 2]
    written = [backbone._box_text(row[:4].tolist(), task) for row in batch["labels"]]
    assert task.score(written, task.train) == 1.0
    assert backbone._box_text([5, 6, 7, 8], task) == ""


def test_boxes_are_validated_by_their_overlap(backbone: Ofa, monkeypatch: pytest.MonkeyPatch) -> None:
    task = boxes(num_beams=3)
    task = replace(
        task,
        train=tuple(replace(e, bbox=(0.0, 0.0, 1.0, 0.5 + row / 99)) for row, e in enumerate(task.train)),
    )
    expert = train_expert(backbone, task, TrainConfig(method="adapter", epochs=10, learning_rate=2e-2))
    model = attach_expert(backbone, expert)
    drawn = backbone.predict(model, task.train, replace(task, decoding=Decoding()))
    overlaps = [mean_iou([box], [e.bbox]) for box, e in zip(drawn, task.train, strict=True) if e.bbox]
    beams: list[int] = []

    def spy(model: nn.Module, examples: Any, task: Task, **rest: Any) -> list[str]:
        beams.append(task.decoding.num_beams)
        return Ofa.predict(backbone, model, examples, task, **rest)

    monkeypatch.setattr(backbone, "predict", spy)
    found = evaluate(backbone, model, task, task.train)
    assert sorted(found.each) == pytest.approx(sorted(overlaps))
    assert found.merit == (pytest.approx(sum(overlaps) / len(overlaps)), found.negative_loss)
    assert found.overlap
    assert beams == [1]
    assert -found.negative_loss == pytest.approx(
        float(losses(backbone, model, task.train, task).mean()), rel=1e-4
    )
    monkeypatch.setattr(train, "BOXES", 2)
    few = evaluate(backbone, model, task, task.train)
    assert len(few.each) == 2
    assert set(few.each) <= set(found.each)
    assert few.negative_loss == found.negative_loss


def greedily(backbone: Ofa, model: nn.Module, example: Example, task: Task, tokens: int) -> str:
    """The likeliest next tokens, each by a whole pass over what `collate` feeds before the answer."""
    batch = backbone.collate([example], task)
    start = int(batch["logits_at"][0, 0]) + 1
    fed = batch["decoder_input_ids"][:, :start]
    inputs = {key: batch[key] for key in batch if key in ("input_ids", "patch_images", "patch_masks")}
    written = []
    with torch.no_grad():
        for _ in range(tokens):
            logits = model(**inputs, decoder_input_ids=fed).logits[:, -1]
            logits[:, 1] = -torch.inf
            best = logits.argmax(dim=-1, keepdim=True)
            if best.item() == 2:
                break
            written.append(best.item())
            fed = torch.cat([fed, best], dim=1)
    text: str = backbone.tokenizer.decode(written, skip_special_tokens=True)
    return text.strip()


@pytest.fixture(scope="module")
def random_backbone() -> Ofa:
    """Every weight random, so that answers differ."""
    reader = tokenizer()
    found = model(config(vocab_size=len(reader)))
    return Ofa(found, OfaProcessor(OfaImageProcessor(size=64), reader), name="random")


def test_free_answers_are_what_greedy_decoding_writes_behind_the_prompt(random_backbone: Ofa) -> None:
    found, written = random_backbone.model, set()
    for prompt in ("none", "src", "prev_output"):
        decoding = Decoding(decoder_prompt=prompt, max_new_tokens=6)  # type: ignore[arg-type]
        task = replace(tiny.open_task(pictures=True), decoding=decoding)
        expected = [greedily(random_backbone, found, example, task, 6) for example in task.train]
        assert all(expected)
        assert random_backbone.predict(found, task.train, task) == expected
        assert random_backbone.predict(found, task.train[:1], task) == expected[:1]
        written |= set(expected)
    assert len(written) > 1


def test_beams_and_limits_of_the_task_reach_the_search(random_backbone: Ofa) -> None:
    def found(**how: Any) -> list[str]:
        task = replace(tiny.open_task(pictures=True), decoding=Decoding(max_new_tokens=8, **how))
        return random_backbone.predict(random_backbone.model, task.train, task)

    assert found() != found(num_beams=4)
    assert found(num_beams=4) != found(num_beams=4, no_repeat_ngram_size=2)


def test_generated_boxes_have_four_corners(backbone: Ofa) -> None:
    """A head that likes bins, so that the answers are boxes at all."""
    task = boxes(num_beams=2)
    model = moved(backbone, task)
    bins = range(backbone.tokenizer.first_bin, backbone.tokenizer.first_bin + backbone.tokenizer.bins)

    def favour(_: nn.Module, __: Any, logits: Tensor) -> Tensor:
        logits[..., list(bins)] += 100.0
        return logits

    base: Any = model.get_base_model()  # type: ignore[operator]
    original = base._project
    base._project = lambda features, **how: favour(base, None, original(features, **how))
    try:
        answers = backbone.predict(model, task.train, task)
    finally:
        del base._project
    assert all(len(answer.split()) == 4 for answer in answers)
    assert all(0 <= float(edge) <= 999 for answer in answers for edge in answer.split())


def test_scoring_many_candidates_keeps_few_logits(backbone: Ofa) -> None:
    """Each place keeps its own choices, not the vocabulary's logits, nor the batch that they came from."""
    task = tiny.text_task()
    chosen = backbone._plan(task)
    logits = torch.randn(5, 3000)
    kept = chosen.choices(0, logits[2])
    assert kept.untyped_storage().nbytes() == kept.numel() * 4 < logits[2].numel()


def test_a_picture_larger_than_the_model_has_places_for_is_made_smaller(backbone: Ofa) -> None:
    task = replace(boxes(box_range=512), image_size=480)
    batch = backbone.collate(task.train, task)
    assert batch["patch_images"].shape[-2:] == (96, 96)  # 6 x 6 patches of 16 px
    written = [backbone._box_text(row[:4].tolist(), task) for row in batch["labels"]]
    assert task.score(written, task.train) == 1.0


def test_a_sample_without_a_picture_is_read_as_text_alone(backbone: Ofa) -> None:
    task = tiny.picture_task(question=True)
    blind = tuple(replace(example, image=None) for example in task.train)
    model = moved(backbone, task)
    mixed = losses(backbone, model, (task.train[0], blind[1]), task)
    torch.testing.assert_close(mixed[1:], losses(backbone, model, blind[1:2], task), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mixed[:1], losses(backbone, model, task.train[:1], task), rtol=1e-5, atol=1e-5)


def test_confidence_in_the_answer_weighs_its_loss(backbone: Ofa) -> None:
    known = tiny.open_task(pictures=True)
    sure, unsure = (
        replace(
            known,
            metric="vqa_accuracy",
            train=tuple(
                Example(text_a=e.text_a, image=e.image, references=(e.label or "",), weights=(weight,))
                for e in known.train
            ),
        )
        for weight in (1.0, 0.3)
    )
    model = moved(backbone, known)
    torch.testing.assert_close(
        losses(backbone, model, unsure.train, unsure), 0.3 * losses(backbone, model, sure.train, sure)
    )


@pytest.mark.parametrize("task", [tiny.picture_task(), tiny.open_task(pictures=True)], ids=["chosen", "free"])
def test_label_smoothing_spreads_over_what_candidates_allow(task: Task, backbone: Ofa) -> None:
    model = moved(backbone, task)
    batch = backbone.collate(task.train, task)
    with torch.no_grad():
        found = backbone.loss(model, batch, 0.1)
        plain = backbone.loss(model, batch, 0.0)
        inputs = {key: batch[key] for key in ("input_ids", "patch_images", "decoder_input_ids")}
        every = model(**inputs).logits
        logits = torch.stack([row[at] for row, at in zip(every, batch["logits_at"], strict=True)])
    torch.testing.assert_close(plain, losses(backbone, model, task.train, task))
    allowed = None
    if task.candidates:
        texts = [task.candidate_texts[name] for name in task.candidates]
        sequences = [
            [*backbone.tokenizer(" " + text, add_special_tokens=False)["input_ids"], 2] for text in texts
        ]
        allowed = torch.zeros_like(logits, dtype=torch.bool)
        for row, place in itertools.product(range(len(logits)), range(logits.shape[1])):
            said = batch["labels"][row, : place + 1].tolist()
            for sequence in sequences:
                if sequence[:place] == said[:place] and place < len(sequence):
                    allowed[row, place, sequence[place]] = True
    expected = smoothed_losses(logits, batch["labels"], 0.1, allowed=allowed) * batch["label_mask"]
    torch.testing.assert_close(found, expected.sum(dim=1), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, plain, rtol=1e-3)


def test_other_families_say_that_they_have_no_label_smoothing(backbone_of: Any, tmp_path: Path) -> None:
    other, task = backbone_of("t5"), tiny.text_task(validation=3)
    with pytest.raises(BackboneError, match="label smoothing needs an OFA"):
        train_expert(other, task, TrainConfig(epochs=1, label_smoothing=0.1), workdir=tmp_path)
    assert list(tmp_path.iterdir()) == []  # before anything is validated or written
    with pytest.raises(ConfigError, match="label_smoothing"):
        TrainConfig(label_smoothing=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHOD_NAMES if name != "bottleneck"])
def test_every_method_trains_embeds_mixes_and_collapses(method: str, backbone: Ofa) -> None:
    task = tiny.picture_task(validation=3, question=True)
    config = TrainConfig(method=method, epochs=1, batch_size=3)
    experts = [
        train_expert(backbone, tiny.picture_task(seed, validation=3, question=True), config, name=str(seed))
        for seed in (0, 1)
    ]
    embedding = embed(backbone, experts[0], task, FisherConfig())
    assert embedding.components
    assert all((values >= 0).all() for values in embedding.components.values())
    found = Mixture(backbone, experts, target="0").eval()
    collapsed = attach_expert(backbone, found.collapse()).eval()
    batch = backbone.collate(task.train, task)
    with torch.no_grad():
        expected = backbone.nll(found.mixed(), batch)
        torch.testing.assert_close(backbone.nll(collapsed, batch), expected, rtol=1e-5, atol=1e-5)
    assert 0 <= score(backbone, collapsed, replace(task, test=task.train)) <= 1


def test_a_setting_of_the_model_is_applied_and_an_unknown_one_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "ofa")
    changed = load_backbone(folder, settings={"dropout": 0.25, "encoder_drop_path_rate": 0.1})
    assert changed.model.encoder.layers[0].residual.dropout == 0.25  # type: ignore[union-attr, index]
    assert changed.fingerprint == load_backbone(folder).fingerprint
    with pytest.raises(BackboneError, match="Did you mean 'dropout'"):
        load_backbone(folder, settings={"drop_out": 0.1})
    for wrong in ({"dropout": 1.5}, {"dropout": -0.1}, {"d_model": 64.0}):
        with pytest.raises(BackboneError):
            load_backbone(folder, settings=wrong)

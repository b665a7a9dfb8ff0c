"""Pre-training: exact to repeat, exact to resume; boxes and texts become the tokens that they should."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from ofa_small import config, tokenizer
from PIL import Image
from torch import Tensor

from pituning.errors import ConfigError, TaskError, TrainingError
from pituning.mini20.definition import PIXELS
from pituning.mini20.lexicon import HELD_OUT as LEXICON_HELD_OUT
from pituning.mini20.scenes import ATTRIBUTES, sample_scene
from pituning.mini20.scenes import HELD_OUT as SCENES_HELD_OUT
from pituning.models.ofa import OfaForConditionalGeneration
from pituning.pretrain.config import PretrainConfig
from pituning.pretrain.lesson import Lesson, marks_of
from pituning.pretrain.loop import CHECKPOINT, CURVE, _schedule, train
from pituning.pretrain.mixture import Mixture
from pituning.pretrain.real import emoji_skills
from pituning.pretrain.samples import Sample, collate, patch_labels, source_tokens, word_labels
from pituning.pretrain.skills import TEXTS, comparing
from pituning.pretrain.sources import Gloss, read_emoji, read_glosses
from pituning.pretrain.vocabulary import learn_vocabulary

SHORT = PretrainConfig(
    steps=4, more_steps=2, batch_size=4, checkpoint_every=2, pieces=300, learning_rate=1e-3
)


def lesson() -> Lesson:
    torch.manual_seed(0)
    settings = config(
        vocab_size=len(tokenizer()), freeze_batch_norm=False, dropout=0.1, resnet_layers=(1, 1, 1)
    )
    return Lesson(OfaForConditionalGeneration(settings), tokenizer().bins)


def batches(step: int) -> tuple[str, dict[str, Tensor]]:
    rng = Random(step)
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
    found = lesson()
    curve = train(found, batches, SHORT, folder, stop_after=stop_after, progress=False)
    return found.state_dict(), [entry["loss"] for entry in curve]


def test_the_same_seed_gives_the_same_losses_and_weights(tmp_path: Path) -> None:
    weights, losses = run(tmp_path / "a")
    again, repeated = run(tmp_path / "b")
    assert losses == repeated
    assert len(set(losses)) == SHORT.updates
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
    assert len(json.loads((tmp_path / "parts" / CURVE).read_text())) == SHORT.updates


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
        train(lesson(), batches, other, tmp_path, progress=False)
    assert (tmp_path / CHECKPOINT).exists()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    def broken(step: int) -> tuple[str, dict[str, Tensor]]:
        name, batch = batches(step)
        batch["patch_images"][0] = torch.nan
        return name, batch

    with pytest.raises(TrainingError, match="must stay finite"):
        train(lesson(), broken, SHORT, tmp_path, progress=False)


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
    with pytest.raises(ConfigError, match=r"(?s)steps must be at least 1.*bins must be at least 2"):
        PretrainConfig(steps=0, bins=1)


@pytest.mark.parametrize("prompt", ["none", "src", "prev_output"])
def test_the_decoder_reads_what_the_sample_says_and_learns_the_answer_alone(prompt: str) -> None:
    reader = tokenizer(bins=11)
    sample = Sample(text=" a b c", answer="d", decoder_prompt=prompt)  # type: ignore[arg-type]
    batch = collate([sample], reader, 32)
    source, fed, labels = (batch[name][0].tolist() for name in ("input_ids", "decoder_input_ids", "labels"))
    answer = reader(" d", add_special_tokens=False)["input_ids"]
    read = source[: {"none": 1, "src": None, "prev_output": -1}[prompt]]
    assert fed == read + answer
    assert labels == [-100] * (len(read) - 1) + [*answer, reader.eos_token_id]


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The two folders in small, whose checksums count as the right ones."""
    emoji, wordnet = tmp_path / "emoji", tmp_path / "wordnet"
    (emoji / "img" / "google" / "64").mkdir(parents=True)
    wordnet.mkdir()
    red = np.zeros((64, 64, 4), np.uint8)
    red[16:48, 8:56] = (255, 0, 0, 255)
    Image.fromarray(red).save(emoji / "img" / "google" / "64" / "a.png")
    entry = {"has_img_google": True, "image": "a.png"}
    entries = [
        {**entry, "name": "RED BOX", "category": "Objects"},
        {**entry, "name": "A NAME OF FAR TOO MANY WORDS", "category": "Objects"},
        {**entry, "name": "RED FLAG", "category": "Flags"},
        {**entry, "name": "NO PICTURE", "category": "Objects", "has_img_google": False},
    ]
    (emoji / "emoji.json").write_text(json.dumps(entries))
    (wordnet / "data.noun").write_text(
        "  1 licence\n"
        '00000001 03 n 01 thing 0 001 ~ 00000002 n 0000 | what is; "a thing"\n'
        '00000002 03 n 02 cup 0 beaker 0 001 @ 00000001 n 0000 | a thing to drink from; "a cup of tea"\n'
    )
    (wordnet / "index.noun").write_text(
        "  1 licence\n"
        "beaker n 1 1 @ 1 0 00000002\n"
        "cup n 1 1 @ 1 3 00000002\n"
        "cup_tie n 1 1 @ 1 3 00000002\n"
        "thing n 1 1 ~ 1 9 00000001\n"
    )
    for name, file in (("EMOJI", emoji / "emoji.json"), ("NOUNS", wordnet / "data.noun")):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        monkeypatch.setattr(f"pituning.pretrain.sources.{name}_SHA256", digest)
    return emoji, wordnet


def test_short_names_of_pictures_and_glosses_of_met_nouns_are_read(sources: tuple[Path, Path]) -> None:
    (found,) = read_emoji(sources[0])
    assert found.name == "red box"
    assert found.picture.shape == (64, 64, 4)
    assert read_glosses(sources[1]) == (Gloss("cup", "a thing to drink from"), Gloss("thing", "what is"))


@pytest.mark.parametrize(("reader", "file"), [(read_emoji, "emoji.json"), (read_glosses, "data.noun")])
def test_a_source_of_another_version_or_none_is_refused(
    reader: Callable[[Path], object], file: str, tmp_path: Path
) -> None:
    with pytest.raises(TaskError, match=rf"must hold {file}.*Get it by"):
        reader(tmp_path)
    (tmp_path / file).write_text("{}")
    with pytest.raises(TaskError, match=r"of the version that ofa-mini was made with"):
        reader(tmp_path)


def test_boxes_of_emoji_are_of_what_is_not_transparent(sources: tuple[Path, Path]) -> None:
    red = read_emoji(sources[0])
    find = emoji_skills(red * 4)["finding"][0]
    for seed in range(20):
        sample = find(Random(seed))
        assert isinstance(sample.answer, tuple)
        assert sample.picture is not None
        x0, y0, x1, y1 = (round(64 * edge) for edge in sample.answer)
        inside = sample.picture[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1]
        assert inside[..., 0].mean() > 200
        assert inside[..., 1].mean() < 40


def test_a_step_is_made_by_its_random_numbers_alone_and_is_of_one_kind(sources: tuple[Path, Path]) -> None:
    mixture = Mixture.of(PretrainConfig(emoji=sources[0], wordnet=sources[1]))
    assert {"naming", "finding"} < set(mixture.pictures)
    assert "glossing" in mixture.texts
    del mixture.pictures["finding"]  # type: ignore[attr-defined]  # it wants four pictures
    kinds = set()
    for seed in range(8):
        kind, samples = mixture.samples(Random(seed), 12)
        again = mixture.samples(Random(seed), 12)[1]
        assert len(samples) == 12
        assert [(s.text, s.answer) for s in samples] == [(s.text, s.answer) for s in again]
        assert {sample.picture is not None for sample in samples} == {kind == "pictures"}
        kinds.add(kind)
    assert kinds == {"pictures", "text"}


def test_no_skill_shows_what_only_test_splits_hold() -> None:
    """Combinations of looks and words; definitions may name held-out nouns."""
    rng = Random(0)
    for _ in range(400):
        for thing in sample_scene(rng).things:
            assert (thing.look.colour, thing.look.shape, thing.look.pattern) not in SCENES_HELD_OUT
    words = {word.replace("_", " ") for word in LEXICON_HELD_OUT}
    for name, (make, _) in TEXTS.items():
        if name == "defining":
            continue
        for _ in range(100):
            sample = make(rng)
            said = f" {sample.text} {sample.answer} "
            assert not [word for word in words if f" {word} " in said], name


def test_the_vocabulary_is_the_same_again_and_holds_the_words_of_the_skills() -> None:
    short = PretrainConfig(pieces=600)
    first, again = (learn_vocabulary(short, Mixture.of(short)) for _ in range(2))
    assert first.get_vocab() == again.get_vocab()
    for words in (" what does the image describe?", " purple"):
        assert first.decode(first(words, add_special_tokens=False)["input_ids"]) == words
    assert len(first(" purple", add_special_tokens=False)["input_ids"]) == 1


def test_every_thing_of_a_scene_is_named_by_the_patches_under_it() -> None:
    for seed in range(50):
        scene = sample_scene(Random(seed))
        about = scene.things[0]
        labels = patch_labels(marks_of(scene, about), PIXELS, 64)
        assert labels.shape == (64, 10)
        there = labels[labels[:, 0] == 1]
        assert (labels[labels[:, 0] == 0][:, 1:] == -100).all()
        for thing in scene.things:
            edges = torch.tensor([round(edge * 63) for edge in thing.box])
            own = there[(there[:, 6:] == edges).all(dim=1)]
            assert len(own), thing
            look = [values.index(getattr(thing.look, name)) for name, values in ATTRIBUTES.items()]
            assert own.unique(dim=0).tolist() == [[1, int(thing is about), *look, *edges.tolist()]]


def test_every_token_of_a_word_that_one_text_alone_has_is_marked() -> None:
    reader, rng = tokenizer(), Random(0)
    ways = set()
    for _ in range(60):
        sample = comparing(rng)
        source = source_tokens(sample, reader)
        labels = word_labels(sample, source, reader)
        texts = re.findall(r'text\d " (.*?) "', sample.text)
        words = [text.split() for text in texts]
        marked = [source[at] for at, label in enumerate(labels) if label == 1]
        told = re.fullmatch(
            r"(?P<come>.*) for (?P<gone>.*)|(?P<added>.*) was added|(?P<left>.*) was left out|nothing",
            str(sample.answer),
        )
        assert told is not None
        gone, come = told["gone"] or told["left"], told["come"] or told["added"]
        wanted = [f" {word}" for word in (gone, come) if word]
        assert reader.decode(marked) == "".join(wanted)
        assert len([label for label in labels if label >= 0]) == sum(
            len(reader(f" {word}", add_special_tokens=False)["input_ids"]) for text in words for word in text
        )
        assert abs(len(words[0]) - len(words[1])) == (bool(gone) != bool(come))
        ways.add((bool(gone), bool(come)))
    assert len(ways) == 4


def test_words_labels_add_to_the_loss() -> None:
    found, rng = lesson().eval(), Random(0)
    batch = collate([comparing(rng) for _ in range(4)], tokenizer(), 32)
    assert batch["word_labels"].shape == batch["input_ids"].shape
    with torch.no_grad():
        more = found(**batch)
        del batch["word_labels"]
        assert more > found(**batch)


def test_the_rate_rises_and_falls_twice() -> None:
    config = PretrainConfig(steps=100, more_steps=50, warmup=0.1)
    rates = [_schedule(step, config) for step in range(config.updates)]
    assert rates[9] == rates[104] == 1
    assert max(rates[99], rates[149]) < 0.02
    assert rates[:10] == sorted(rates[:10])
    assert rates[105:] == sorted(rates[105:], reverse=True)


def test_pictures_without_marks_are_judged_by_their_answers_alone() -> None:
    found = lesson().eval()
    samples = [Sample(text=" how many?", answer="two", picture=np.zeros((32, 32, 3), dtype=np.uint8))] * 2
    batch = collate(samples, tokenizer(), 32)
    assert (batch["patch_labels"] == -100).all()
    with torch.no_grad():
        loss, whole = found(**batch), found.model(**{k: v for k, v in batch.items() if k != "patch_labels"})
        batch["patch_labels"][:, :, 0] = 0
        more = found(**batch)
    torch.testing.assert_close(loss, whole.loss)
    assert more > loss

"""What the page of a tuned task holds, for every kind of task."""

from __future__ import annotations

import html
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from pituning import PiConfig, Pool, TrainConfig, TuneConfig, pi_tune
from pituning.backbones import Backbone
from pituning.cli.tune import as_text, describe
from pituning.cli.tune_report import LETTERS, MEASURED, SHOWN, shown, tune_report
from pituning.example import Example, first_by_hash
from pituning.expert import attach_expert
from pituning.predict import embed
from pituning.report import ExampleShown, report_page
from pituning.result import PiResult
from pituning.selection import Lead
from pituning.task import Task
from pituning.train import evaluate, train_expert

BRIEF = TrainConfig(epochs=1, batch_size=4)
CONFIG = PiConfig(k=2, train=BRIEF, tune=TuneConfig(epochs=1, batch_size=4))


def picture(side: int = 8) -> bytes:
    return tiny.png(np.zeros((side, side, 3), dtype=np.uint8))


def size(found: ExampleShown) -> tuple[int, int]:
    assert found.image is not None
    with Image.open(io.BytesIO(found.image)) as image:
        assert image.format == "PNG"
        return image.size


def task_of(modality: str, kind: str, metric: str, **settings: object) -> Task:
    return Task(name="t", modality=modality, kind=kind, metric=metric, **settings)  # type: ignore[arg-type]


def test_labels_are_right_or_wrong() -> None:
    task = task_of("text", "text-classification", "accuracy", candidates=("no", "yes"), prompt="is {text_a}?")
    found = shown(task, Example(text_a="it", label="yes"), {"own": "no", "mixture": "yes"})
    assert (found.text, found.image) == ("is it?", None)
    assert [(a.who, a.text, a.right) for a in found.answers] == [
        ("gold", "yes", None),
        ("own", "no", False),
        ("mixture", "yes", True),
    ]


def test_boxes_are_places_in_the_picture() -> None:
    task = task_of("image+text", "grounding", "acc@iou0.5")
    example = Example(text_a="left", image=picture(), bbox=(0.0, 0.0, 0.5, 1.0))
    found = shown(task, example, {"own": "500 0 999 999", "mixture": "0 0 500 999", "base": "a cat"})
    assert [answer.right for answer in found.answers] == [None, False, True, False]
    assert found.answers[0].box == example.bbox
    assert found.answers[2].box == pytest.approx((0, 0, 0.5, 1), abs=0.01)
    assert found.answers[3].box == (0, 0, 0, 0)


def test_captions_are_not_judged_one_by_one() -> None:
    task = task_of("image", "captioning", "cider_d")
    found = shown(task, Example(image=picture(), references=("a dog", "the dog")), {"own": "a cat"})
    assert [(a.text, a.right) for a in found.answers] == [("a dog", None), ("a cat", None)]
    assert found.text == ""


def test_answers_that_many_people_gave_are_right() -> None:
    task = task_of("image+text", "vqa", "vqa_accuracy")
    example = Example(text_a="what?", image=picture(), references=("red", "pink"), weights=(1.0, 0.3))
    found = shown(task, example, {"a": "red", "b": "pink", "c": "blue"})
    assert [(a.text, a.right) for a in found.answers][1:] == [("red", True), ("pink", False), ("blue", False)]


def test_texts_and_pictures_fit_the_page() -> None:
    task = task_of("image+text", "vqa", "exact_match")
    found = shown(task, Example(text_a="x" * 5000, image=picture(8), label="a"), {})
    assert len(found.text) == LETTERS + 2
    assert size(found) == (160, 160)
    assert size(shown(task, Example(text_a="x", image=picture(1000), label="a"), {})) == (320, 320)


@pytest.fixture(scope="module")
def tuned(
    backbone_of: Callable[[str], Backbone], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Backbone, Task, Pool, PiResult]]:
    def run(kind: str) -> tuple[Backbone, Task, Pool, PiResult]:
        backbone = backbone_of(kind)
        pool = Pool.create(tmp_path_factory.mktemp("report") / "pool")
        for seed in (1, 2):
            other = replace(tiny.task_for(kind, seed), name=f"other{seed}")
            expert = train_expert(backbone, other, BRIEF)
            pool.add(expert, embed(backbone, expert, other))
        target = tiny.task_for(kind, validation=6)
        target = replace(target, name="target", test=tiny.task_for(kind, 5).train * 3)
        expert = train_expert(backbone, target, BRIEF, name="same")
        pool.add(expert, embed(backbone, expert, target))
        return backbone, target, pool, pi_tune(backbone, target, pool, CONFIG)

    return run


@pytest.mark.parametrize("kind", ["t5", "clip", "bert_classifier"])
def test_the_page_holds_the_result(
    kind: str, tuned: Callable[[str], tuple[Backbone, Task, Pool, PiResult]]
) -> None:
    backbone, task, pool, result = tuned(kind)
    report = tune_report(backbone, task, pool, result, ["pituning tune"])
    assert report.names == ["target:target", "other1", "other2"], "not the pool's own of this task"
    kept = {"The task's own expert": result.own.card.recipe["best_epoch"], "The mixture": result.best_epoch}
    assert report.kept_epochs == kept
    told = {
        who: f"kept as after epoch {epoch}" if epoch else "kept as it was before"
        for who, epoch in kept.items()
    }
    for who, state in told.items():
        assert f"{who}, {state}<" in html.unescape(report_page(report))
    assert report.modalities == [task.modality] * 3
    assert report.neighbors.keys() == {"other1", "other2"}
    assert list(report.scores.values()) == list(result.scores.values())
    assert len(report.examples) == SHOWN
    assert all(len(example.answers) == 4 for example in report.examples)
    assert report.plane is not None
    assert set(report.plane.corners) == {"target:target", "other1", "other2"}
    corner = next(point for point in report.plane.points if point.weights == (1, 0, 0))
    few = tuple(first_by_hash(task.test, MEASURED))
    alone = evaluate(backbone, attach_expert(backbone, result.own), task, few)
    assert corner.loss == pytest.approx(-alone.negative_loss, rel=1e-4)
    assert corner.score == alone.score
    assert ("data:image/png" in report_page(report)) == (task.modality == "image")
    again = tune_report(backbone, task, pool, result, ["pituning tune"])
    assert report_page(again) == report_page(report)


def test_a_result_that_is_worse_than_the_bare_backbone_is_told(
    tuned: Callable[[str], tuple[Backbone, Task, Pool, PiResult]],
) -> None:
    *_, result = tuned("t5")
    told = "the backbone alone scores higher than the adapter that was saved"
    for pi, expected in ((0.3, True), (0.5, False)):
        scored = replace(result, scores={**result.scores, "base": 0.5, "pi": pi})
        assert (told in as_text(scored, Path("out"))) is expected
    assert told not in as_text(replace(result, scores={}), Path("out"))


def test_a_mixture_that_is_kept_though_behind_is_told(
    tuned: Callable[[str], tuple[Backbone, Task, Pool, PiResult]],
) -> None:
    *_, result = tuned("t5")
    told = "kept all the same, being behind by no more than its standard error"
    for mean, kept, expected in ((-0.1, "mixture", True), (-0.1, "expert", False), (0.1, "mixture", False)):
        judged = replace(result, kept=kept, lead=Lead(mean, 0.2, 6))
        assert (told in as_text(judged, Path("out"))) is expected


def test_the_error_of_a_rank_cut_is_told_where_what_is_saved_was_cut(
    tuned: Callable[[str], tuple[Backbone, Task, Pool, PiResult]],
) -> None:
    *_, result = tuned("t5")
    card = replace(result.mixture.card, recipe={**result.mixture.card.recipe, "relative_error": 0.111})
    cut = replace(result, mixture=replace(result.mixture, card=card))
    for kept, error in (("mixture", 0.111), ("expert", None)):
        judged = replace(cut, kept=kept)
        assert ("relative error of the rank cut: 0.111" in as_text(judged, Path("out"))) is (
            error is not None
        )
        assert describe(judged, CONFIG, Path("out"))["relative_error"] == error


def test_what_decided_against_better_losses_is_the_score_of_what_is_written(
    tuned: Callable[[str], tuple[Backbone, Task, Pool, PiResult]],
) -> None:
    *_, result = tuned("t5")
    scores = {"mixture": 0.2, "expert": 0.3}
    found = {who: {"negative_loss": -1.0, "score": score} for who, score in scores.items()}
    lead = Lead(0.1, 0.02, 6)
    judged = replace(result, metric="exact_match", kept="expert", validation=found, lead=lead)
    told = "exact_match of mixture 0.2000, expert 0.3000, as answers are written"
    assert f"{told}; by the loss the mixture is ahead by 0.1000" in as_text(judged, Path("out"))
    assert judged.decided_by == "exact_match"


def test_without_test_data_or_neighbours_there_is_still_a_page(
    backbone_of: Callable[[str], Backbone], tmp_path: Path
) -> None:
    backbone, pool = backbone_of("bert"), Pool.create(tmp_path / "pool")
    task = replace(tiny.task_for("bert"), name="target")
    result = pi_tune(backbone, task, pool, CONFIG)
    report = tune_report(backbone, task, pool, result, [])
    assert (report.names, report.examples, report.scores) == (["target:target"], [], {})
    assert "No expert of the pool can be mixed with it in parameters space." in report_page(report)


def test_the_weights_of_a_mixture_that_was_not_kept_are_not_the_results(
    tuned: Callable[[str], tuple[Backbone, Task, Pool, PiResult]],
) -> None:
    backbone, task, pool, result = tuned("t5")
    for kept, told in (("mixture", "The result is"), ("expert", "The mixture, which was not kept, is")):
        judged = replace(result, kept=kept)
        page = report_page(tune_report(backbone, task, pool, judged, []))
        assert f"{told} the sum of the experts with these weights" in page
        assert ("experts mixed for target (not kept)" in as_text(judged, Path("out"))) is (kept == "expert")

import importlib.util
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pituning import captions, metrics
from pituning.cli.eval import by_metric
from pituning.errors import TaskError
from pituning.metrics import METRICS, metric_named
from pituning.task import Task

OFFICIAL = Path(__file__).parents[3] / "shared" / "ofa" / "metrics-parity" / "metrics.json"
needs_official = pytest.mark.skipif(
    not OFFICIAL.exists(),
    reason="the official numbers (../shared/ofa/metrics-parity) are not on this machine",
)

LABELS = ["no", "yes", "perhaps"]
edges = st.integers(0, 999)


@st.composite
def boxes(draw):
    x0, x1 = sorted(draw(st.lists(edges, min_size=2, max_size=2, unique=True)))
    y0, y1 = sorted(draw(st.lists(edges, min_size=2, max_size=2, unique=True)))
    return tuple(edge / 999 for edge in (x0, y0, x1, y1))


@settings(deadline=None)  # the first call imports scikit-learn
@given(st.lists(st.sampled_from(LABELS), min_size=2).filter(lambda labels: len(set(labels)) > 1))
def test_the_gold_labels_score_one_by_every_label_metric(labels):
    for metric in METRICS.values():
        if metric.gold == "label":
            assert metric.compute(labels, labels) == pytest.approx(1.0)


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1))
def test_label_metrics_stay_in_range_and_ignore_the_order_of_rows(pairs):
    shuffled = random.Random(0).sample(pairs, len(pairs))
    for name, low in [("accuracy", 0.0), ("f1", 0.0), ("matthews_correlation", -1.0)]:
        score = METRICS[name].compute(*map(list, zip(*pairs, strict=True)))
        assert low <= score <= 1.0
        assert METRICS[name].compute(*map(list, zip(*shuffled, strict=True))) == pytest.approx(score)


def test_label_metrics_equal_their_definitions_on_a_worked_example():
    labels, predictions = ["a", "a", "a", "b"], ["a", "a", "b", "b"]
    assert metrics.accuracy(predictions, labels) == 0.75
    assert metrics.f1(predictions, labels) == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert metrics.matthews_correlation(predictions, labels) == pytest.approx(2 / 12**0.5)


def test_predicting_one_class_has_no_correlation():
    assert metrics.matthews_correlation(["a"] * 4, ["a", "a", "b", "b"]) == 0.0


def test_more_classes_than_half_the_rows_gives_no_warning():
    labels = [str(i) for i in range(30)]
    assert metrics.f1(labels, labels) == metrics.matthews_correlation(labels, labels) == 1.0


def test_exact_match_accepts_any_reference_whatever_the_case_and_blanks():
    assert (
        metrics.exact_match(["Red  panda", "fox", ""], [("panda", "red panda"), ("foxes",), ("x",)]) == 1 / 3
    )


def test_chrf_takes_different_numbers_of_references_and_the_best_of_them():
    references = [("a red panda", "panda"), ("fox",)]
    assert metrics.chrf(["panda", "fox"], references) == pytest.approx(1.0)
    assert metrics.chrf(["zzz", "qqq"], references) == 0.0
    assert 0.0 < metrics.chrf(["a red pan", "fox"], references) < 1.0


@given(boxes(), boxes())
def test_iou_is_symmetric_within_zero_and_one_and_one_for_a_box_with_itself(a, b):
    assert metrics.iou(a, b) == metrics.iou(b, a)
    assert 0.0 <= metrics.iou(a, b) <= 1.0
    assert metrics.iou(a, a) == pytest.approx(1.0)


@given(boxes())
def test_a_written_box_reads_back(box):
    assert metrics.parse_box(metrics.format_box(box)) == pytest.approx(box)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "left",
        "1 2 3",
        "0 0 999 999 5",
        "-1 0 999 999",
        "0 0 1000 999",
        "0.1 0 1 1",
        "999 999 0 0",
        "² 0 9 9",
    ],
)
def test_a_prediction_that_is_no_box_is_wrong(text):
    assert metrics.accuracy_at_iou([text], [(0.0, 0.0, 1.0, 1.0)]) == 0.0


def test_boxes_count_from_an_overlap_of_one_half():
    gold = (0.0, 0.0, 1.0, 1.0)
    assert metrics.accuracy_at_iou(["[0, 0, 999, 500]", "0 0 999 499"], [gold, gold]) == 0.5
    assert metrics.accuracy_at_iou(["0 0 999 999"], [gold], threshold=1.0) == 1.0


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("mcc", "matthews_correlation"),
        ("chrF", "chrf"),
        ("exact_match / chrF / retrieval recall@k", "exact_match"),
        ("acc@iou0.5", "acc@iou0.5"),
    ],
)
def test_a_metric_is_found_by_alias_case_and_first_of_a_list(written, name):
    assert metric_named(written).name == name


def test_an_unknown_metric_is_refused_with_the_nearest_and_all_names():
    with pytest.raises(TaskError, match="Did you mean 'accuracy'") as caught:
        metric_named("acuracy")
    assert all(name in caught.value.fix for name in METRICS)


def test_decimals_write_a_box_that_may_lie_past_the_edge():
    assert metrics.parse_box("12.013 4 500.5 999") == pytest.approx((12.013 / 999, 4 / 999, 500.5 / 999, 1.0))
    assert metrics.parse_box("0.0 0.0 1065.6 1024.0")[2] == pytest.approx(1065.6 / 999)


@pytest.mark.parametrize("text", ["0.5 1 2", "1e3 0 1.5 2", "nan 0.1 1 2", "1.5.2 0 1 1", "0.1 0 inf 1"])
def test_decimals_that_are_no_box_are_wrong(text):
    assert metrics.parse_box(text) == (0.0, 0.0, 0.0, 0.0)


def test_f1_of_yes_counts_no_other_label():
    labels, predictions = ["yes", "yes", "no", "no"], ["yes", "no", "yes", "no"]
    assert metrics.f1_positive(predictions, labels) == 0.5
    assert metrics.f1_positive(["no"], ["yes"]) == metrics.f1_positive(["yes"], ["no"]) == 0.0
    assert metrics.f1_positive(["no"], ["no"]) == 1.0


def test_vqa_accuracy_is_the_mean_confidence_of_what_was_answered():
    answers = [{"dark red": 1.0, "red": 0.3}, {"2": 0.3, "1 and 2": 0.9}, {"no": 0.6}]
    assert metrics.vqa_accuracy(["red", "1 and 2", "yes"], answers) == pytest.approx(0.4)


# The official CIDEr-D, document frequencies from these references (shared/ofa/metrics-parity).
REFERENCES = [
    ["a man riding a horse on the beach", "a person rides a horse near the water", "man on a brown horse"],
    ["two dogs play in the snow", "dogs running through snow", "a couple of dogs in snow"],
    ["a plate of food on a table", "a white plate with food", "some food on a plate"],
]
CAPTIONS = ["a man riding a horse", "two dogs in the snow", "a red car on a street"]
CIDER_D = [3.026987124552689, 2.710005895712055, 0.1260067853601795]


def test_cider_d_equals_the_official_scores():
    assert captions.cider_d_scores(CAPTIONS, REFERENCES) == pytest.approx(CIDER_D, abs=1e-6)
    assert captions.cider_d(CAPTIONS, REFERENCES) == pytest.approx(1.9543333682685416, abs=1e-6)


def test_repeated_words_are_clipped_as_in_the_coco_tools():
    # pycocoevalcap 1.2, Cider().compute_score
    references = [["the dog and the cat and the cow", "the dog"], ["a red red car", "car"]]
    found = captions.cider_d_scores(["the the the dog", "a red red red red car red"], references)
    assert found == pytest.approx([1.9981215689211158, 1.8071284962220364], abs=1e-9)


@needs_official
def test_cider_d_and_boxes_equal_every_official_number():
    found = json.loads(OFFICIAL.read_text())
    case = found["cider_d"]
    assert captions.cider_d_scores(case["hypotheses"], case["references"]) == pytest.approx(
        case["scores"], abs=1e-6
    )
    boxes = found["refcoco_acc"]
    for hypothesis, reference, correct in zip(boxes["hyps"], boxes["refs"], boxes["correct"], strict=True):
        text = " ".join(f"{edge:.12f}" for edge in hypothesis)
        gold = tuple(edge / 999 for edge in reference)
        assert metrics.accuracy_at_iou([text], [gold]) == correct


def test_case_and_punctuation_of_captions_do_not_count():
    loud = [f" {text.upper()}!" for text in CAPTIONS]
    for name in ("cider_d", "bleu4"):
        score = METRICS[name].compute
        assert score(loud, REFERENCES) == pytest.approx(score(CAPTIONS, REFERENCES))


def test_a_caption_of_nothing_in_common_or_of_no_words_scores_nothing():
    for name in ("cider_d", "bleu4"):
        assert METRICS[name].compute(["zebra", "", "x y"], REFERENCES) == 0.0


def test_a_reference_as_caption_scores_more_than_others_and_bleu_one():
    exact = [texts[0] for texts in REFERENCES]
    assert captions.cider_d(exact, REFERENCES) > captions.cider_d(CAPTIONS, REFERENCES)
    assert captions.bleu4(exact, REFERENCES) == pytest.approx(1.0)


def test_bleu4_equals_the_coco_tools():
    # pycocoevalcap 1.2, Bleu(4).compute_score; it adds 1e-15 to each count, hence the tolerance.
    assert captions.bleu4(CAPTIONS, REFERENCES) == pytest.approx(0.5035337887074632, abs=1e-8)


@pytest.mark.skipif(
    importlib.util.find_spec("pycocoevalcap") is not None, reason="pycocoevalcap is installed"
)
@pytest.mark.parametrize("name", ["meteor", "spice"])
def test_metrics_in_java_say_what_is_missing(name):
    with pytest.raises(
        TaskError, match=f"{name} needs .*given: the Python package pycocoevalcap.*pip install"
    ):
        METRICS[name].compute(CAPTIONS, REFERENCES)


@pytest.mark.parametrize("name", ["meteor", "spice"])
def test_metrics_in_java_say_that_java_is_missing(name, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TaskError, match="the program java is not installed"):
        METRICS[name].compute(CAPTIONS, REFERENCES)


def test_eval_scores_by_the_metric_of_the_task_first_and_refuses_what_it_cannot_have():
    task = Task(name="t", modality="text", kind="text-classification", metric="f1", candidates=("a", "b"))
    assert list(by_metric(task, ["accuracy", "F1", "mcc"])) == ["f1", "accuracy", "matthews_correlation"]
    with pytest.raises(TaskError, match="f1_positive needs a candidate 'yes'"):
        by_metric(task, ["f1_positive"])
    with pytest.raises(TaskError, match="Did you mean 'accuracy'"):
        by_metric(task, ["acuracy"])

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pituning import metrics
from pituning.errors import TaskError
from pituning.metrics import METRICS, metric_named

LABELS = ["no", "yes", "perhaps"]
edges = st.integers(0, 999)


@st.composite
def boxes(draw):
    x0, x1 = sorted(draw(st.lists(edges, min_size=2, max_size=2, unique=True)))
    y0, y1 = sorted(draw(st.lists(edges, min_size=2, max_size=2, unique=True)))
    return tuple(edge / 999 for edge in (x0, y0, x1, y1))


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

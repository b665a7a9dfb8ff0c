import io
import json
import pickle
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pituning.errors import TaskError
from pituning.task import Example, Task, load_task

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
FOLDERS = sorted(path.parent for path in SHARED.glob("*/*/task.json"))


def png(color=(255, 0, 0), size=(4, 3), mode="RGB"):
    file = io.BytesIO()
    Image.new(mode, size, color).save(file, "PNG")
    return file.getvalue()


def examples(prefix, *labels):
    return tuple(Example(text_a=f"{prefix} {i}", label=label) for i, label in enumerate(labels))


def task(**changes):
    settings = {
        "name": "mood",
        "modality": "text",
        "kind": "text-classification",
        "metric": "accuracy",
        "candidates": ("bad", "very_good"),
        "train": examples("train", *["bad", "very_good"] * 5),
        "validation": examples("validation", *["bad", "very_good"] * 4),
        "test": examples("test", "bad", "very_good"),
    }
    return Task(**settings | changes)


boxed = Example(image=png(), text_a="the dot", bbox=(0.0, 0.25, 0.5, 1.0))
grounding = task(
    modality="image+text",
    kind="grounding",
    metric="acc@iou0.5",
    candidates=(),
    train=(boxed,),
    validation=(),
    test=(),
)
labels = st.lists(st.sampled_from(["bad", "very_good"]), max_size=12)
few_shot = st.fixed_dictionaries(
    {
        "train": labels.map(lambda tail: examples("t", "bad", "very_good", *tail)),
        "validation": labels.map(lambda drawn: examples("t", *drawn)),
    }
)


@pytest.mark.skipif(not FOLDERS, reason="the shared benchmark data (../shared/data) is not on this machine")
def test_there_are_26_shared_tasks():
    assert len(FOLDERS) == 26


@pytest.mark.parametrize(
    "folder",
    FOLDERS or [pytest.param(None, marks=pytest.mark.skip(reason="no ../shared/data"))],
    ids=lambda f: f and f.name,
)
def test_a_shared_task_loads_and_every_answer_of_its_test_split_scores_one(folder):
    loaded = load_task(folder)
    assert loaded.name == folder.name
    test = loaded.split("test")
    predictions = [e.label if loaded.candidates else loaded.answer(e) for e in test]
    assert loaded.score(predictions, test) == pytest.approx(1.0)
    shots = loaded.sample(shots=4, seed=0)
    assert len(shots.train) == 4 * max(1, len(loaded.candidates))


@given(few_shot, st.integers(1, 6), st.integers(), st.randoms())
def test_the_same_seed_draws_the_same_shots_whatever_the_row_order(splits, shots, seed, rng):
    shuffled = {name: tuple(rng.sample(split, len(split))) for name, split in splits.items()}
    first, second = (task(**rows).sample(shots, seed) for rows in (splits, shuffled))
    assert (first.train, first.validation) == (second.train, second.validation)
    assert first.fingerprint == second.fingerprint


@given(few_shot, st.integers(1, 6), st.integers())
def test_shots_are_distinct_and_validation_holds_no_shot_and_no_more_of_a_class(splits, shots, seed):
    drawn = task(**splits).sample(shots, seed)
    train, validation = [{e.digest for e in split} for split in (drawn.train, drawn.validation)]
    assert len(train) == len(drawn.train)
    assert not train & validation
    given_labels = Counter(e.label for e in splits["train"])
    classes = Counter(e.label for e in drawn.train)
    assert classes == {label: min(shots, n) for label, n in given_labels.items()}
    assert Counter(e.label for e in drawn.validation) <= classes


@given(few_shot, st.integers(1, 5), st.integers())
def test_more_shots_keep_those_drawn_with_fewer(splits, shots, seed):
    few, more = (task(**splits).sample(n, seed).train for n in (shots, shots + 1))
    assert set(few) <= set(more)


def test_another_seed_draws_other_shots():
    assert len({task().sample(2, seed).fingerprint for seed in range(8)}) > 4


def test_without_a_validation_split_validation_comes_from_the_training_examples_left():
    whole = task(validation=())
    drawn = whole.sample(3, seed=0)
    assert (len(drawn.train), len(drawn.validation)) == (6, 4)
    assert set(drawn.train) | set(drawn.validation) == set(whole.train)


def test_sampling_keeps_test_and_source_and_changes_the_fingerprint():
    whole = task()
    drawn = whole.sample(2, seed=0)
    assert drawn.test == whole.test
    assert drawn.source == whole.source == drawn.sample(1, seed=1).source
    assert drawn.fingerprint != whole.fingerprint


def test_free_form_answers_are_sampled_as_one_class():
    rows = tuple(Example(text_a=str(i), references=(str(i),)) for i in range(9))
    free = task(kind="text-generation", metric="chrf", candidates=(), train=rows, validation=(), test=())
    drawn = free.sample(4, seed=0)
    assert (len(drawn.train), len(drawn.validation)) == (4, 4)


@pytest.mark.parametrize("rows", [("bad", "bad"), ()])
def test_few_shot_data_without_every_class_is_refused(rows):
    with pytest.raises(TaskError, match=r"every class|must have train examples"):
        task(train=examples("t", *rows)).sample(2, seed=0)


def test_a_task_of_one_candidate_cannot_be_sampled():
    with pytest.raises(TaskError, match="two or more"):
        task(candidates=("bad",), train=examples("t", "bad", "bad")).sample(1, seed=0)


def test_shots_below_one_are_refused():
    with pytest.raises(TaskError, match="at least 1"):
        task().sample(0, seed=0)


@given(st.randoms())
def test_the_fingerprint_ignores_the_order_of_examples(rng):
    whole = task()
    shuffled = replace(whole, train=tuple(rng.sample(whole.train, len(whole.train))))
    assert (shuffled.fingerprint, shuffled.source) == (whole.fingerprint, whole.source)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "humour"},
        {"kind": "vqa"},
        {"metric": "f1"},
        {"candidates": ("very_good", "bad")},
        {"candidate_texts": {"bad": "awful"}},
        {"prompt": "{text_a}?"},
        {"train": examples("train", "bad", "very_good")},
        {"test": ()},
        {"test": examples("test", "very_good", "bad")},
    ],
    ids=str,
)
def test_the_fingerprint_changes_with_every_setting_and_example(change):
    assert task(**change).fingerprint != task().fingerprint


def test_every_field_of_an_example_counts_in_its_digest():
    full = Example(text_a="a", text_b="b", image=b"i", label="l", references=("r",), bbox=(0, 0, 1, 1))
    others = [
        {"text_a": "b"},
        {"text_b": None},
        {"image": b""},
        {"label": None},
        {"references": ()},
        {"bbox": (0, 0, 1, 0.5)},
    ]
    assert len({full.digest, *(replace(full, **other).digest for other in others)}) == 7
    assert replace(full, label="other").input_digest == full.input_digest


def test_a_task_survives_pickling_for_data_loading_workers():
    assert pickle.loads(pickle.dumps(task())) == task()


def test_the_text_is_the_rendered_prompt_or_the_texts_one_a_line():
    pair = Example(text_a="{text_b}", text_b="b", label="bad")
    assert task().text(pair) == "{text_b}\nb"
    assert task(prompt="{{ {text_a} | {text_b} }}").text(pair) == "{ {text_b} | b }"
    assert task(prompt="so {text_a}{text_b}").text(Example(image=png())) == "so "
    assert task().text(Example(image=png())) == ""


def test_validation_examples_that_training_shows_are_counted_and_drawn_out():
    seen = task(validation=(*examples("validation", "bad"), *examples("train", "bad", "very_good")))
    assert (task().repeated, seen.repeated) == (0, 2)
    assert seen.check() == []
    assert seen.sample(2, 0).repeated == 0


def test_what_a_shot_shows_does_not_validate_whatever_the_answer():
    captions = [
        Example(image=png(color), references=(f"{word} {color}",)) for color in range(6) for word in "abc"
    ]
    captioning = Task(name="c", modality="image", kind="captioning", metric="cider_d", train=tuple(captions))
    for seed in range(4):
        few = captioning.sample(4, seed)
        assert (len(few.train), few.repeated, len(few.validation)) == (4, 0, 4)


def test_inputs_that_training_shows_with_several_labels_are_counted():
    twice = [Example(text_a="so", label=label) for label in ("bad", "bad", "very_good")]
    assert task(train=(*examples("train", "bad"), *twice[:2])).contradicted == 0
    assert task(train=(*examples("train", "bad"), *twice)).contradicted == 1


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"bad": "very good"}, "bad, very_good are all 'very good'"),
        ({"bad": "x", "very_good": "x"}, "bad, very_good are all 'x'"),
        ({"bad": " "}, "'bad' is ' '"),
    ],
)
def test_labels_that_read_alike_are_refused(texts, said):
    with pytest.raises(TaskError, match="what a model reads for a label must be a text") as refused:
        task(candidate_texts=texts)
    assert said in str(refused.value)


def test_labels_that_differ_by_blanks_and_case_alone_are_doubted():
    labels = ("bad", "Bad ", "very_good")
    (fault,) = task(candidates=labels, train=examples("train", *labels)).check()
    assert "must differ by more than blanks and case; given: 'bad', 'Bad '. Mend" in str(fault)
    told = task(candidate_texts={"bad": "Good", "very_good": "good"}).check()
    assert "given: 'bad' ('Good'), 'very_good' ('good')." in str(told[0])
    named = {"Bad ": "capital bad"}
    assert task(candidates=labels, candidate_texts=named, train=examples("train", *labels)).check() == []


def test_a_label_of_underscores_alone_is_read_as_it_is():
    assert task(candidates=("_", "bad", "very_good")).candidate_texts["_"] == "_"


@pytest.mark.parametrize("prompt", ["Is it good?", "Is {text_b} good?", "{{text_a}}"])
def test_a_prompt_without_the_examples_text_is_a_fault(prompt):
    (fault,) = task(prompt=prompt).check()
    assert "a prompt must hold a text that the examples have" in str(fault)


def test_a_prompt_may_name_a_text_that_no_example_has_beside_one_that_all_have():
    assert task(prompt="{text_a}{text_b}").check() == []
    seen = tuple(Example(image=png(), label=label) for label in ("bad", "very_good"))
    assert task(modality="image", prompt="What is it?", train=seen, validation=(), test=()).check() == []


@pytest.mark.parametrize("prompt", ["{text_c}", "{}", "{text_a.x}", "{text_a!r}", "{text_a:>9}", "{text_a"])
def test_a_prompt_with_anything_but_the_texts_is_refused(prompt):
    with pytest.raises(TaskError, match="a prompt may hold"):
        task(prompt=prompt)


def test_the_answer_is_the_text_of_a_candidate_a_reference_or_a_box():
    assert task().answer(task().train[1]) == "very good"
    assert task(candidate_texts={"bad": "awful"}).answer(task().train[0]) == "awful"
    free = task(metric="exact_match", candidates=(), train=(), validation=(), test=())
    assert free.answer(Example(text_a="?", references=("one", "two"))) == "one"
    assert free.answer(Example(text_a="?", label="gold", references=("one",))) == "gold"
    assert grounding.answer(boxed) == "0 250 500 999"


def test_an_answer_that_is_absent_or_no_candidate_is_refused():
    with pytest.raises(TaskError, match=r"label 'very god'.*Did you mean 'very_good'"):
        task().answer_index(Example(text_a="x", label="very god"))
    with pytest.raises(TaskError, match="no bbox"):
        grounding.answer(Example(image=png(), text_a="x"))


def test_scores_follow_the_metric_and_take_candidate_names():
    whole = task(metric="mcc")
    assert whole.metric == "matthews_correlation"
    assert whole.score(["bad", "very_good"], whole.test) == 1.0
    assert whole.score(["very_good", "bad"], whole.test) == -1.0
    assert grounding.score(["0 250 500 999"], grounding.train) == 1.0
    assert grounding.score(["none"], grounding.train) == 0.0


@pytest.mark.parametrize(
    ("predictions", "message"),
    [([], "one prediction"), (["bad"], "one prediction"), (["bad", "very good"], "not the texts")],
)
def test_predictions_that_do_not_fit_are_refused(predictions, message):
    with pytest.raises(TaskError, match=message):
        task().score(predictions, task().test)


def test_splits_are_found_by_every_name_and_an_empty_one_is_refused():
    assert task().split("val") == task().split("validation") == task().validation
    with pytest.raises(TaskError, match=r"must have test examples; given: train \(10\)"):
        task(test=()).split("test")
    with pytest.raises(TaskError, match="Did you mean 'train'"):
        task().split("trian")


def test_all_faulty_settings_are_named_at_once():
    with pytest.raises(TaskError) as caught:
        task(modality="txt", metric="acuracy", candidates=("a", "a"), prompt="{x}")
    for word in ("'txt'", "'acuracy'", "candidates must differ", "'{x}'"):
        assert word in str(caught.value)


def test_a_sound_task_has_no_fault():
    assert task().check() == grounding.check() == []


def test_a_text_of_spaces_is_none():
    (fault,) = task(test=(Example(text_a=" \t", label="bad"), Example(text_a="x", label="bad"))).check()
    assert fault.given == "test row 1: none"


def test_check_names_every_faulty_row():
    broken = Example(image=png()[:40], text_a="x", label="bad")
    whole = task(
        modality="image+text",
        train=(Example(image=png(), label="bad"), broken, Example(text_a="x", label="bad")),
        validation=(Example(image=png((0, 0, 1)), label="worse"),),
        test=(Example(image=png(), label="very_good"), Example(image=png((0, 0, 1)), label="bad")),
    )
    given_texts = sorted(fault.given for fault in whole.check())
    expected = [
        "mood with 'bad' alone",
        "test row 1: is in train too",
        "test row 2: is in validation too",
        "train row 2: 40 bytes that cannot be decoded",
        "train row 3: none",
        "validation row 1: label 'worse'",
    ]
    assert len(given_texts) == len(expected)
    assert all(text.startswith(start) for text, start in zip(given_texts, expected, strict=True))


def test_many_faults_of_a_kind_name_five_rows_and_count_the_rest():
    (fault,) = task(test=examples("x", *["?"] * 8)).check()
    assert fault.given.startswith("test row 1: label '?'")
    assert fault.given.endswith("row 5: label '?'; and 3 more")


def test_one_empty_text_is_a_fault_for_check_that_does_not_stop_loading():
    whole = task(test=(*task().test, Example(label="bad")))
    assert [fault.given for fault in whole.check()] == ["test row 3: none"]
    assert whole._load_faults() == []


def test_images_open_in_rgb_with_transparent_parts_white():
    assert Example(image=png()).open_image().getpixel((0, 0)) == (255, 0, 0)
    assert Example(image=png((255, 0, 0, 0), mode="RGBA")).open_image().getpixel((0, 0)) == (255, 255, 255)
    assert Example(image=png(7, mode="P")).open_image().mode == "RGB"


@pytest.mark.parametrize("image", [None, b"", b"text", png()[:50], random.Random(0).randbytes(99)])
def test_an_image_that_cannot_be_decoded_is_refused(image):
    with pytest.raises(TaskError, match="image"):
        Example(image=image).open_image()


@pytest.mark.parametrize("box", [(0, 0, 30, 40), (0.5, 0, 0.5, 1), (0, 0, float("nan"), 1), (-0.1, 0, 1, 1)])
def test_a_box_that_is_not_in_fractions_is_refused(box):
    with pytest.raises(TaskError, match="as fractions"):
        Example(bbox=box)


@pytest.mark.parametrize("key", ["lables", "label", "promt", "Metric", "nname", "kinnd", "metirc", "metrik"])
def test_a_slip_in_a_key_is_found(key, tmp_path):
    (tmp_path / "task.json").write_text(json.dumps({key: "x"}))
    with pytest.raises(TaskError, match=f"key '{key}'.*Did you mean"):
        load_task(tmp_path)


@pytest.mark.parametrize("key", ["n_labels", "encoding", "label2", "licence", "mean", "names_of_annotators"])
def test_a_key_of_ones_own_is_left_alone(key, tmp_path):
    (tmp_path / "task.json").write_text(json.dumps({key: "x"}))
    (tmp_path / "train.csv").write_text("text_a,label\nit,a\nthat,b\n")
    assert len(load_task(tmp_path).train) == 2


def test_faults_of_all_files_are_told_at_once(tmp_path):
    (tmp_path / "task.json").write_text("{}")
    (tmp_path / "train.csv").write_text("words,label\nit,a\n")
    (tmp_path / "test.csv").write_text("text_a,label\n")
    told = r"2 faults:\n- train.csv must have a column.*\n- .*test.csv with 0 rows"
    with pytest.raises(TaskError, match=told):
        load_task(tmp_path)


@pytest.mark.parametrize(
    ("kind", "rows", "fault"),
    [
        ("text-pair-classification", "text_a,label\nit,a\nthat,b\n", "must have text_b"),
        ("image-classification", "text_a,label\nit,a\nthat,b\n", "image-classification must have pictures"),
        ("grounding", "text_a,label\nit,a\nthat,b\n", "grounding must have pictures"),
    ],
)
def test_a_kind_that_the_columns_do_not_fit_is_refused(kind, rows, fault, tmp_path):
    (tmp_path / "task.json").write_text(json.dumps({"kind": kind}))
    (tmp_path / "train.csv").write_text(rows)
    with pytest.raises(TaskError, match=fault):
        load_task(tmp_path)


def test_a_pair_without_its_second_text_is_told_by_row(tmp_path):
    (tmp_path / "task.json").write_text("{}")
    (tmp_path / "train.csv").write_text("text_a,text_b,label\nit,is,a\nthat,,b\n")
    (fault,) = load_task(tmp_path).check()
    assert (fault.must, fault.given) == ("a row of a task of text must have text_b", "train row 2: none")


def test_what_a_file_is_instead_of_a_table_is_told(tmp_path):
    (tmp_path / "task.json").write_text("{}")
    (tmp_path / "train.csv").write_text("text_a;label\nit;a\n")
    (tmp_path / "test.csv").write_bytes("text_a,label\ncafé,a\n".encode("latin-1"))
    with pytest.raises(TaskError, match=r"by commas \(.csv\) or tabs.*\n.*UTF-8") as raised:
        load_task(tmp_path)
    assert "one column, 'text_a;label'" in str(raised.value)


def test_a_broken_picture_of_a_folder_is_named(tmp_path):
    (tmp_path / "task.json").write_text("{}")
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "torn.png").write_bytes(b"no picture")
    with pytest.raises(TaskError, match=r"Pillow can decode; given: .*torn\.png"):
        load_task(tmp_path)


def test_an_image_is_given_as_bytes():
    with pytest.raises(TaskError, match="bytes of a picture's file; given: str"):
        Example(image="cat.png")


def test_a_wrong_kind_is_told_with_other_faults_of_its_file(tmp_path):
    (tmp_path / "task.json").write_text('{"kind": "text-clasification", "metric": 3}')
    with pytest.raises(TaskError, match=r"(?s)2 faults.*kind must be one of.*Did you mean"):
        load_task(tmp_path)


def test_a_column_called_text_is_the_text_where_there_are_no_pictures(tmp_path):
    (tmp_path / "task.json").write_text("{}")
    (tmp_path / "train.csv").write_text("text,label\nso,a\nno,b\n")
    assert [example.text_a for example in load_task(tmp_path).train] == ["so", "no"]
    (tmp_path / "x.png").write_bytes(b"x")
    (tmp_path / "train.csv").write_text("file_name,text,label\nx.png,so,a\nx.png,no,b\n")
    assert [example.text_a for example in load_task(tmp_path).train] == [None, None]


@pytest.mark.parametrize("ours", ["label", "references", "text_b"])
def test_a_column_called_text_that_is_something_else_is_not_the_text(ours, tmp_path):
    (tmp_path / "task.json").write_text(json.dumps({"columns": {ours: "text"}}))
    (tmp_path / "train.csv").write_text("question,text,label\nso,a,x\nno,b,y\n")
    with pytest.raises(TaskError, match="'text_a'"):
        load_task(tmp_path)


@pytest.mark.parametrize("name", ["text_a", "text_b", "label"])
def test_a_text_of_an_example_is_a_str(name: str) -> None:
    with pytest.raises(TaskError, match=f"{name} must be a text; given: 3. Give a str"):
        Example(**{name: 3})  # type: ignore[arg-type]

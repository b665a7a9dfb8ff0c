"""The 20 data sets: texts, answers and boxes as the official classes give them; every fault named."""

import base64
import io
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import yaml
from ofa_files import GLUE, IMAGE_CLASSES, NAMES, write_dataset, write_tsv
from PIL import Image

from pituning.backbones import load_backbone
from pituning.datasets import DATASETS, dataset_named
from pituning.datasets.files import read_rows
from pituning.datasets.texts import clean_caption, clean_question
from pituning.decoding import Decoding
from pituning.errors import TaskError
from pituning.task import Example, Task, load_task

OFFICIAL = Path(__file__).parents[3] / "shared" / "ofa"
needs_official = pytest.mark.skipif(
    not (OFFICIAL / "data-parity" / "expected.json").exists(),
    reason="the official numbers (../shared/ofa/data-parity) are not on this machine",
)


def picture(width=50, height=40, form="PNG", color="red"):
    file = io.BytesIO()
    Image.new("RGB", (width, height), color).save(file, form)
    return file.getvalue()


def cell(data):
    return base64.b64encode(data).decode()


def one_row(name, cells, folder, split="validation", **changes):
    path = write_tsv(folder / "rows.tsv", [cells])
    dataset = replace(dataset_named(name), **changes)
    ((_, example),) = read_rows(path, split, dataset, {}).examples
    return dataset, example


def rendered(dataset, example):
    return dataset.prompt.format(text_a=example.text_a or "", text_b=example.text_b or "")


IMAGE = cell(picture(64, 48))
# Cells and outputs of the official dataset classes (`shared/ofa/data-parity`), the pictures replaced.
OFFICIAL_TEXTS = [
    (
        "refcoco",
        [
            "79_1",
            "1000",
            "A woman in a white blouse, holding a glass of wine.",
            "3.79,2.75,42.66,30.06",
            IMAGE,
        ],
        {},
        ' which region does the text " a woman in a white blouse, holding a glass of wine. " describe?',
        None,
    ),
    (
        "refcoco+",
        ["80_0", "1001", "left/most zebra-like thing  (not the <person>)", "0,0,20,39", IMAGE],
        {},
        ' which region does the text " left most zebra like thing (not the person) " describe?',
        None,
    ),
    (
        "refcocog",
        ["80_0", "1001", "left/most zebra-like thing  (not the <person>)", "0,0,20,39", IMAGE],
        {"source_words": 3},
        ' which region does the text " left most zebra " describe?',
        None,
    ),
    (
        "snli-ve",
        ["7.jpg#0r1e", "7", IMAGE, "Two dogs/cats run - fast", "Animals are running.", "entailment"],
        {},
        ' can image and text1 " animals are running. " imply text2 " two dogs cats run fast "?',
        "yes",
    ),
    (
        "snli-ve",
        ["8.jpg#0r1c", "8", IMAGE, "nobody is here", "Three people stand.", "contradiction"],
        {"prompt": ' does the image describe " {text_b} "?'},
        ' does the image describe " nobody is here "?',
        "no",
    ),
    (
        "vqav2",
        ["901", "10", "What color - is the  car ", "1.0|!+dark red&&0.3|!+red", "car", IMAGE],
        {},
        " what color is the car? object: car",
        ("dark red", "red"),
    ),
    (
        "vqav2",
        ["900", "9", "Is this person wearing shorts?", "0.6|!+no", "house&&short&&tree&&sky", IMAGE],
        {"objects": 3},
        " is this person wearing shorts? object: house short tree",
        ("no",),
    ),
    (
        "vqav2",
        ["902", "11", "How many/much?", "0.3|!+2&&0.9|!+1 and 2", "", IMAGE],
        {},
        " how many much? object: ",
        ("2", "1 and 2"),
    ),
    (
        "vqav2",
        ["902", "11", "How many/much?", "0.3|!+2&&0.9|!+1 and 2", "", IMAGE],
        {"prompt": " {text_a}"},
        " how many much?",
        ("2", "1 and 2"),
    ),
    (
        "fgvc-aircraft",
        [IMAGE, "3", "Boeing 737-800"],
        {},
        " what does the image describe?",
        "Boeing 737-800",
    ),
    (
        "mnli",
        [
            "Case  sensitive TEXT  with many many words in it to be cut off at the twelfth word",
            "b",
            "1",
        ],
        {"source_words": 12},
        ' can text1 " case sensitive text with many many words in it to be cut " imply text2 " b "?',
        "yes",
    ),
    ("mnli", ["c c", "d", "2"], {}, ' can text1 " c c " imply text2 " d "?', "no"),
    ("mnli", ["c c", "d", "0"], {}, ' can text1 " c c " imply text2 " d "?', "maybe"),
    (
        "qqp",
        ["0", "1", "2", "How do I read?", "how can i read ?", "1"],
        {},
        ' is question " how do i read? " and question " how can i read ? " equivalent?',
        "yes",
    ),
    (
        "mrpc",
        ["He said the pie business does not fit.", '" The pie business does not fit ."', "1"],
        {},
        ' does text1 " he said the pie business does not fit. "'
        ' and text2 " " the pie business does not fit ." " have the same semantics?',
        "yes",
    ),
    (
        "qnli",
        ["0", "When did it start?", "It started in 1990.", "entailment"],
        {},
        ' does " it started in 1990. " contain the answer to question " when did it start? "?',
        "yes",
    ),
    ("qnli", ["2", "x", "y", "1"], {}, ' does " y " contain the answer to question " x "?', "yes"),
    (
        "rte",
        ["0", "No weapons found.", "Weapons found in Iraq.", "not_entailment"],
        {},
        ' can text1 " no weapons found. " imply text2 " weapons found in iraq. "?',
        "no",
    ),
    (
        "sst2",
        ["contains no wit , only labored gags", "1"],
        {},
        ' is the sentiment of text " contains no wit , only labored gags " positive or negative?',
        "positive",
    ),
]


@pytest.mark.parametrize(("name", "cells", "changes", "text", "answer"), OFFICIAL_TEXTS)
def test_a_row_gives_the_text_and_the_answer_of_the_official_code(
    name, cells, changes, text, answer, tmp_path
):
    dataset, example = one_row(name, cells, tmp_path, **changes)
    assert rendered(dataset, example) == text
    assert (example.references or None if isinstance(answer, tuple) else example.label) == answer


@pytest.mark.parametrize(
    ("split", "text", "references"),
    [
        ("train", "the sun sets over the trees, beyond some docks.", ("the sun sets over the trees",)),
        ("train", "A man's dog &&  two dogs run.&&It's a dog! ", ("A mans dog two dogs runIts",)),
        (
            "validation",
            "A man's dog &&  two dogs run.&&It's a dog! ",
            ("A mans dog", "two dogs run", "Its a dog"),
        ),
    ],
)
def test_captions_are_cut_in_train_and_all_kept_elsewhere_as_in_the_official_code(
    split, text, references, tmp_path
):
    cells = ["7", "70", text, "sky&&dock", IMAGE]
    _, example = one_row("coco-captions", cells, tmp_path, split, target_words=6)
    assert example.references == references


@pytest.mark.parametrize(
    ("text", "words", "caption", "question"),
    [
        ("  multiple   spaces\tand tabs", 4, "multiple spaces\tand tabs", "multiple spaces\tand tabs"),
        ("..!leading punct-with/slash", 4, "leading punct with slash", "leading punct with slash"),
        (" <person> and <PERSON>", None, "person and person", "<person> and <person>"),
        (" café naïve — 東京 😀", 4, "café naïve — 東京", "café naïve — 東京"),
        ("a\n\n\nb c\n", None, "a b c", "a b c"),
    ],
)
def test_texts_are_cleaned_as_in_the_official_code(text, words, caption, question):
    assert clean_caption(text, words) == caption
    assert clean_question(text, words) == question


@cache
def expected():
    return json.loads((OFFICIAL / "data-parity" / "expected.json").read_text())


@cache
def vocabulary():
    """GPT-2's pieces as bytes, by the id of the official dictionary."""
    lines = (OFFICIAL / "vocab" / "dict.txt").read_text(encoding="utf-8").splitlines()
    pieces = json.loads((OFFICIAL / "vocab" / "encoder.json").read_text(encoding="utf-8"))
    names = {number: piece for piece, number in pieces.items()}
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
    symbols = [line.split(" ")[0] for line in lines]
    return {
        index: bytes(byte_of[letter] for letter in names[int(symbol)])
        for index, symbol in enumerate(symbols, 4)
        if symbol.isdigit()
    }


def decoded(ids):
    return b"".join(vocabulary().get(index, b"") for index in ids).decode()


PARITY_NAMES = {
    "refcoco": "refcoco",
    "snli": "snli-ve",
    "caption": "coco-captions",
    "vqa": "vqav2",
    "image": "food101",
} | {name: name for name in ("mnli", "qqp", "mrpc", "qnli", "rte", "sst2")}


def parity_keys():
    if not (OFFICIAL / "data-parity" / "expected.json").exists():
        return [pytest.param("", marks=needs_official)]
    return [key for key, value in expected().items() if isinstance(value, dict) and "items" in value]


@pytest.mark.parametrize("key", parity_keys())
def test_the_files_of_the_official_numbers_give_its_texts_answers_weights_and_boxes(key):
    case = expected()[key]
    dataset = dataset_named(PARITY_NAMES[key.split("_")[0]])
    changes = {
        "source_words": case.get("max_src_length", dataset.source_words),
        "target_words": case.get("max_tgt_length", dataset.target_words),
        "objects": case.get("max_object_length", dataset.objects),
    }
    if case.get("add_caption") is False:
        changes["prompt"] = ' does the image describe " {text_b} "?'
    if case.get("add_object") is False:
        changes["prompt"] = " {text_a}"
    dataset = replace(dataset, **changes)
    split = "train" if case.get("split") == "train" else "validation"
    rows = read_rows(OFFICIAL / "data-parity" / case["file"], split, dataset, {}).examples
    task = Task(
        name=key,
        modality=dataset.modality,
        kind=dataset.kind,
        metric=dataset.metric,
        prompt=dataset.prompt,
        candidates=tuple(case.get("candidates", ())),
        train=tuple(example for _, example in rows),
    )
    assert len(rows) == len(case["items"])
    if dataset.labels:
        assert set(dataset.labels) == set(case["candidates"])
    for (_, example), item in zip(rows, case["items"], strict=True):
        assert task.text(example) == decoded(item["source"])
        if "region_coord" in item:
            with Image.open(io.BytesIO(example.image)) as image:
                sides = image.size * 2
            box = [edge * side for edge, side in zip(example.bbox, sides, strict=True)]
            assert box == pytest.approx(item["region_coord"], rel=1e-6)
            continue
        target = decoded(token for token in item["target"] if token > 2)
        if split == "validation" and dataset.kind == "captioning":
            assert " " + "&&".join(example.references) == target
        else:
            assert " " + task.answer(example) == target
        assert task.answer_weight(example) == pytest.approx(item.get("conf", [1.0])[0])
        if example.weights:
            assert dict(zip(example.references, example.weights, strict=True)) == item["ref_dict"]


@needs_official
@pytest.mark.parametrize(
    ("name", "clean"), [("pre_caption", clean_caption), ("pre_question", clean_question)]
)
def test_every_official_case_of_cleaning(name, clean):
    for case in expected()[name]:
        assert clean(case["text"], case["max_words"]) == case["out"]


# The definitions


def test_there_are_twenty_data_sets():
    assert len(DATASETS) == 20
    assert set(DATASETS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_official_files_load_and_the_gold_answers_score_best(name, tmp_path):
    task = load_task(write_dataset(name, tmp_path / "data"))
    assert task.name == name
    assert not [fault for fault in task.check() if "in no other split; given: test row" not in str(fault)]
    assert len(set(map(task.answer, task.train))) >= 2
    assert task.image_size == (None if task.modality == "text" else 480)
    names = [task.answer(example) for example in task.test]
    if task.candidates:
        names = [task.candidates[task.answer_index(example)] for example in task.test]
    best = task.score(names, task.test)
    if name == "vqav2":
        assert best == pytest.approx(sum(map(task.answer_weight, task.test)) / len(task.test))
    elif name == "coco-captions":
        assert best > 5
    else:
        assert best == pytest.approx(1.0)
    assert len(task.sample(2, seed=0).train) >= 2


@pytest.mark.parametrize("word", ["refcoco_plus", "RefCOCO+", "refcoco-plus"])
def test_a_name_may_be_written_in_several_ways(word, tmp_path):
    assert dataset_named(word).name == "refcoco+"
    folder = write_dataset("refcoco+", tmp_path / "x", dataset=word)
    assert load_task(folder).name == "refcoco+"


def test_an_unknown_data_set_is_refused_with_the_nearest(tmp_path):
    folder = write_dataset("qnli", tmp_path / "x", dataset="qnil")
    with pytest.raises(TaskError, match="Did you mean 'qnli'"):
        load_task(folder)


def test_a_task_file_goes_before_the_definition(tmp_path):
    folder = write_dataset(
        "vqav2",
        tmp_path / "x",
        name="mine",
        prompt=" {text_a}",
        metric="exact_match",
        image_size=64,
        labels=[],
        decoding={"num_beams": 5, "decoder_prompt": "src"},
    )
    task = load_task(folder)
    assert (task.name, task.metric, task.image_size, task.candidates) == ("mine", "exact_match", 64, ())
    assert task.text(task.train[0]).endswith("?")
    assert task.decoding == Decoding(num_beams=5, decoder_prompt="src")


def test_a_task_file_may_give_the_labels_their_own_names(tmp_path):
    folder = write_dataset(
        "mnli", tmp_path / "x", labels={"entailment": "yes", "neutral": "maybe", "contradiction": "no"}
    )
    task = load_task(folder)
    assert {example.label for example in task.train} == {"entailment", "neutral", "contradiction"}
    assert task.answer(task.train[0]) == "maybe"


def test_box_of_refcoco_is_that_of_the_pixels(tmp_path):
    cells = ["1_0", "1", "a", "10,5.5,49,40.4", cell(picture(50, 40))]
    _, example = one_row("refcoco", cells, tmp_path)
    assert example.bbox == (10 / 50, 5.5 / 40, 49 / 50, 1.0)


def test_equal_pictures_are_held_once_in_either_alphabet(tmp_path):
    data = picture(form="JPEG")
    other = base64.urlsafe_b64encode(data).decode()
    assert other != cell(data)
    rows = [[text, str(number), "x"] for number, text in enumerate([cell(data), other, cell(data)], 1)]
    examples = [
        e for _, e in read_rows(write_tsv(tmp_path / "a.tsv", rows), "train", DATASETS["dtd"], {}).examples
    ]
    assert examples[0].image == data
    assert examples[0].image is examples[1].image is examples[2].image


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    return load_backbone(str(tiny.save("t5", tmp_path_factory.mktemp("t5"))))


@pytest.mark.parametrize("name", GLUE)
def test_a_model_of_text_does_the_glue_tasks_by_the_same_definitions(name, t5, tmp_path):
    task = load_task(write_dataset(name, tmp_path))
    t5.check(task)
    assert t5.nll(t5.model, t5.collate(task.train, task)).isfinite().all()
    assert set(t5.predict(t5.model, task.test, task)) <= set(task.candidates)


# Answers to questions


def questions(folder, train, test=None, **settings):
    folder.mkdir(exist_ok=True)
    splits = {}
    for split, rows in {"train": train, "test": test or train}.items():
        cells = [[str(i), "1", "what", answers, "", IMAGE] for i, answers in enumerate(rows)]
        splits[split] = write_tsv(folder / f"{split}.tsv", cells).name
    (folder / "task.yaml").write_text(yaml.safe_dump({"dataset": "vqav2", "splits": splits} | settings))
    return folder


def test_the_answer_is_the_most_confident_and_the_first_of_equals(tmp_path):
    task = load_task(questions(tmp_path, ["0.3|!+a&&0.9|!+b&&0.9|!+c", "1.0|!+d"]))
    assert task.candidates == ("b", "d")
    assert [task.answer(e) for e in task.train] == ["b", "d"]
    assert [task.answer_weight(e) for e in task.train] == [0.9, 1.0]
    assert task.score(["b", "b"], task.test) == pytest.approx(0.45)


def test_a_label_goes_before_the_answers_and_has_weight_one(tmp_path):
    task = load_task(questions(tmp_path, ["0.3|!+a", "1.0|!+d"]))
    for label in ("a", "d"):
        sampled = replace(task.train[0], label=label)
        assert (task.answer(sampled), task.answer_weight(sampled)) == (label, 1.0)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("a.json", '{"yes": 1, "no": 0, "two": 2}'),
        ("a.json", '["no", "yes", "two"]'),
        ("a.txt", "no\nyes\ntwo\n"),
    ],
)
def test_candidates_come_from_a_file_of_answers_in_its_order(file, content, tmp_path):
    folder = questions(tmp_path / "t", ["0.3|!+no&&0.3|!+maybe", "0.9|!+maybe&&0.3|!+yes"], answers=file)
    (folder / file).write_text(content)
    task = load_task(folder)
    assert task.candidates == ("no", "yes", "two")
    assert [task.answer(e) for e in task.train] == ["no", "yes"]
    assert [task.answer_weight(e) for e in task.train] == [0.3, 0.3]


def test_an_answer_in_train_that_is_no_candidate_is_a_fault_but_may_be_in_test(tmp_path):
    folder = questions(tmp_path / "t", ["1.0|!+no", "1.0|!+zebra"], answers="a.txt")
    (folder / "a.txt").write_text("no\nyes\nzebras\n")
    with pytest.raises(TaskError, match=r"column 4 \(answers\).*train.tsv row 2: 'zebra'.*mean 'zebras'"):
        load_task(folder)
    folder = questions(tmp_path / "t", ["1.0|!+no"], ["1.0|!+zebra"], answers="a.txt")
    task = load_task(folder)
    assert task.score(["yes"], task.test) == 0.0


def test_a_pickle_of_answers_is_not_opened_but_explained(tmp_path):
    folder = questions(tmp_path / "t", ["1.0|!+no"], answers="trainval_ans2label.pkl")
    (folder / "trainval_ans2label.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(TaskError, match=r"If you trust .* python -c .*trainval_ans2label\.pkl"):
        load_task(folder)


def test_answers_for_another_kind_of_data_set_are_refused(tmp_path):
    with pytest.raises(TaskError, match="data set of questions"):
        load_task(write_dataset("dtd", tmp_path / "x", answers="a.txt"))


# Tables


def write_parquet(path, rows, classes=None):
    table = pa.Table.from_pylist(rows)
    if classes:
        feature = {"label": {"names": classes, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": feature}})})
    pq.write_table(table, path)


def table_task(folder, name, rows, *, classes=None, suffix="parquet", **settings):
    folder.mkdir(exist_ok=True)
    path = folder / f"train.{suffix}"
    if suffix == "parquet":
        write_parquet(path, rows, classes)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "task.yaml").write_text(yaml.safe_dump({"dataset": name} | settings))
    return load_task(folder)


PNG = picture(50, 40)


@pytest.mark.parametrize(
    ("name", "row", "text"),
    [
        ("mnli", {"premise": "A", "hypothesis": "B"}, ' can text1 " a " imply text2 " b "?'),
        ("rte", {"sentence1": "A", "sentence2": "B"}, ' can text1 " a " imply text2 " b "?'),
        (
            "qnli",
            {"question": "A", "sentence": "B"},
            ' does " b " contain the answer to question " a "?',
        ),
        (
            "qqp",
            {"question1": "A", "question2": "B"},
            ' is question " a " and question " b " equivalent?',
        ),
        (
            "mrpc",
            {"sentence1": "A", "sentence2": "B"},
            ' does text1 " a " and text2 " b " have the same semantics?',
        ),
        ("sst2", {"sentence": "A"}, ' is the sentiment of text " a " positive or negative?'),
    ],
)
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_tables_of_glue_count_labels_as_hugging_face_does(name, row, text, suffix, tmp_path):
    meaning = {
        "mnli": ["yes", "maybe", "no"],
        "qnli": ["yes", "no"],
        "rte": ["yes", "no"],
        "sst2": ["negative", "positive"],
    }.get(name, ["no", "yes"])
    rows = [row | {"label": number, "idx": number} for number in range(len(meaning))]
    task = table_task(tmp_path, name, rows, suffix=suffix)
    assert [task.answer(example) for example in task.train] == meaning
    assert task.text(task.train[0]) == text


def test_class_names_in_the_file_go_before_the_usual_order(tmp_path):
    rows = [{"premise": "a", "hypothesis": "b", "label": number} for number in range(3)]
    task = table_task(tmp_path, "mnli", rows, classes=["contradiction", "entailment", "neutral"])
    assert [example.label for example in task.train] == ["no", "yes", "maybe"]


@pytest.mark.parametrize("name", IMAGE_CLASSES)
def test_tables_of_pictures_name_their_classes(name, tmp_path):
    rows = [{"image": {"bytes": PNG, "path": "a.png"}, "label": number} for number in (0, 1, 1)]
    task = table_task(tmp_path, name, rows, classes=["apple_pie", "baby back ribs"])
    assert task.candidates == ("apple_pie", "baby back ribs")
    assert [task.answer(example) for example in task.train][:2] == ["apple pie", "baby back ribs"]


def test_pictures_may_be_paths_beside_the_table(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    rows = [{"file_name": "a.png", "label": word} for word in ("rose", "iris")]
    task = table_task(tmp_path, "flowers102", rows, suffix="jsonl")
    assert task.train[0].image == PNG


@pytest.mark.parametrize(
    "texts",
    [
        {"sentences": [{"raw": "Left dog", "sent_id": 1}, {"raw": "the dog", "sent_id": 2}]},
        {"captions": ["Left dog", "the dog"]},
        {"question": "Please look.", "answer": ["Left dog", "the dog"]},
    ],
)
def test_a_table_of_regions_gives_an_example_a_text(texts, tmp_path):
    task = table_task(tmp_path, "refcoco", [texts | {"image": PNG, "bbox": [5.0, 10.0, 25.0, 40.0]}])
    assert [example.text_a for example in task.train] == ["left dog", "the dog"]
    assert {example.bbox for example in task.train} == {(0.1, 0.25, 0.5, 1.0)}


def test_boxes_of_a_table_may_be_corner_and_size(tmp_path):
    rows = [{"image": PNG, "bbox": [30.0, 10.0, 10.0, 20.0], "caption": "x"}]
    task = table_task(tmp_path, "refcocog", rows, box_format="xywh")
    assert task.train[0].bbox == (0.6, 0.25, 0.8, 0.75)
    with pytest.raises(TaskError, match=r"column 'bbox'.*train.parquet row 1.*box_format: xywh"):
        table_task(tmp_path, "refcocog", rows)
    with pytest.raises(TaskError, match="xyxy or xywh"):
        table_task(tmp_path, "refcocog", rows, box_format="yxyx")


def test_tables_of_entailment(tmp_path):
    rows = [{"image": PNG, "premise": "A cat.", "hypothesis": "A-pet", "label": i} for i in range(3)]
    task = table_task(tmp_path, "snli-ve", rows, classes=["entailment", "neutral", "contradiction"])
    assert [example.label for example in task.train] == ["yes", "maybe", "no"]
    assert task.text(task.train[0]) == ' can image and text1 " a cat. " imply text2 " a pet "?'


def test_entailment_without_premises_needs_a_prompt_without_them(tmp_path):
    rows = [{"image": PNG, "hypothesis": "A pet", "label": word} for word in ("neutral", "entailment")]
    with pytest.raises(TaskError, match="must have a column 'premise'"):
        table_task(tmp_path, "snli-ve", rows)
    task = table_task(tmp_path, "snli-ve", rows, prompt=' does the image describe " {text_b} "?')
    assert task.text(task.train[0]) == ' does the image describe " a pet "?'


def test_tables_of_captions_give_an_example_a_caption_in_train_and_one_a_picture_elsewhere(tmp_path):
    rows = [{"image": PNG, "captions": ["A dog, running.", "A cat!"]}]
    write_parquet(tmp_path / "test.parquet", rows)
    task = table_task(tmp_path, "coco-captions", rows)
    assert [task.answer(example) for example in task.train] == ["A dog running", "A cat"]
    assert [example.references for example in task.test] == [("A dog running", "A cat")]


VOTES = ["yes"] * 5 + ["no"] * 3 + ["Maybe", "two"]


@pytest.mark.parametrize(
    "answers",
    [
        {"answers": [{"answer": text, "answer_id": i} for i, text in enumerate(VOTES)]},
        {"answers": VOTES},
        {"answers": {"answer": VOTES, "answer_id": list(range(10))}},
        {"label": {"ids": ["yes", "no", "maybe", "two"], "weights": [1.0, 0.9, 0.3, 0.3]}},
        {"answers": json.dumps(VOTES)},
    ],
)
def test_votes_of_a_table_become_confidences(answers, tmp_path):
    rows = [answers | {"image": PNG, "question": "Is it red?"}]
    (example,) = table_task(tmp_path, "vqav2", rows).train
    assert dict(zip(example.references, example.weights, strict=True)) == {
        "yes": 1.0,
        "no": 0.9,
        "maybe": 0.3,
        "two": 0.3,
    }
    assert (example.text_a, example.text_b) == ("is it red?", None)


@pytest.mark.parametrize(
    ("dataset", "cells"),
    [
        ("vqav2", {"answers": str(VOTES), "question": "Is it red?"}),
        ("vqav2", {"answers": "['yes' 'no']", "question": "Is it red?"}),
        ("vqav2", {"answers": "{'yes': 1.0}", "question": "Is it red?"}),
        ("coco-captions", {"captions": "['a dog', 'a cat']"}),
    ],
)
def test_a_list_as_python_writes_it_is_refused(dataset, cells, tmp_path):
    with pytest.raises(TaskError, match="a list in a cell is written as JSON"):
        table_task(tmp_path, dataset, [cells | {"image": PNG}])


def test_of_answers_equally_sure_the_one_with_most_votes_comes_first(tmp_path):
    rows = [{"answers": ["a"] * 4 + ["b"] * 6, "image": PNG, "question": "Is it red?"}]
    (example,) = table_task(tmp_path, "vqav2", rows).train
    assert (example.references, example.weights) == (("b", "a"), (1.0, 1.0))


def test_columns_of_a_table_may_be_mapped_and_missing_ones_are_named(tmp_path):
    rows = [{"text": "A", "mood": "positive"}, {"text": "B", "mood": "negative"}]
    with pytest.raises(TaskError, match=r"must have a column 'label' or 'labels'.*columns: \{label:"):
        table_task(tmp_path, "sst2", rows)
    assert table_task(tmp_path, "sst2", rows, columns={"label": "mood"}).train[0].label == "positive"


# Faults

BROKEN = [
    ("refcoco", 3, "1,2,30", r"column 4 \(region_coord\) must hold four numbers", "'1,2,30'"),
    ("refcoco", 3, "a,b,c,d", r"column 4 \(region_coord\) must hold four numbers", "'a,b,c,d'"),
    ("refcoco", 3, "1,2,nan,30", r"column 4 \(region_coord\) must hold four numbers", "nan"),
    ("refcoco", 3, "1,2,90,30", r"column 4 \(region_coord\) must hold a box inside", "1,2,90,30 on"),
    ("refcoco+", 3, "-3,2,20,30", r"column 4 \(region_coord\) must hold a box inside", "-3,2,20,30"),
    ("refcocog", 3, "20,2,10,30", r"column 4 \(region_coord\) must hold a box x0,y0,x1,y1 with", "20,2"),
    ("refcoco", 4, "not*base64!", r"column 5 \(image\) must hold a picture in base64", "not\\*base64"),
    ("refcoco", 4, "QUJD", r"column 5 \(image\) must hold an image file", "3 bytes"),
    ("snli-ve", 5, "perhaps", r"column 6 \(label\) must hold one of entailment, neutral", "'perhaps'"),
    ("snli-ve", 2, "", r"column 3 \(image\) must hold an image file", "0 bytes"),
    ("coco-captions", 4, "QUJ", r"column 5 \(image\) must hold a picture in base64", "QUJ"),
    ("vqav2", 3, "yes", r"column 4 \(answers\) must hold answers as confidence\|!\+answer", "'yes'"),
    ("vqav2", 3, "2.5|!+yes", r"column 4 \(answers\) must hold answers", "2.5"),
    ("vqav2", 3, "1.0|!+yes&&x|!+no", r"column 4 \(answers\) must hold answers", "x\\|!\\+no"),
    ("food101", 2, " ", r"column 3 \(class name\) must hold the name of a class", "an empty cell"),
    ("mnli", 2, "3", r"column 3 \(label\) must hold one of .* 0 to 2 \(neutral, entailment", "'3'"),
    ("qqp", 5, "", r"column 6 \(label\) must hold one of not_duplicate", "an empty cell"),
    ("qnli", 3, "-1", r"column 4 \(label\) must hold one of", "'-1'"),
    ("rte", 3, "label", r"column 4 \(label\) must hold one of", "'label'.* column names, remove"),
    ("sst2", 1, "good", r"column 2 \(label\) must hold one of negative, positive", "'good'"),
]


def broken_line(folder, file, change):
    lines = (folder / file).read_text().splitlines()
    cells = lines[1].split("\t")
    lines[1] = "\t".join(change(cells))
    (folder / file).write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(("name", "place", "text", "must", "given"), BROKEN)
def test_a_bad_cell_is_named_by_file_row_and_column(name, place, text, must, given, tmp_path):
    folder = write_dataset(name, tmp_path / "x")
    broken_line(folder, f"{name}_val.tsv", lambda cells: [*cells[:place], text, *cells[place + 1 :]])
    with pytest.raises(TaskError, match=f"(?s){must}.*{name.replace('+', '[+]')}_val.tsv row 2: .*{given}"):
        load_task(folder)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_with_too_few_cells_says_which_column_is_missing(name, tmp_path):
    folder = write_dataset(name, tmp_path / "x")
    last = max(column.place for column in DATASETS[name].columns) + 1
    broken_line(folder, f"{name}_train.tsv", lambda cells: cells[: last - 1])
    with pytest.raises(TaskError, match=rf"column {last} \(.*must be there.* row 2: {last - 1} cells"):
        load_task(folder)


def test_a_class_that_train_lacks_is_named(tmp_path):
    folder = write_dataset("eurosat", tmp_path / "x")
    broken_line(folder, "eurosat_test.tsv", lambda cells: [*cells[:2], "forrest"])
    with pytest.raises(TaskError, match=r"column 3.*eurosat_test.tsv row 2: 'forrest'.*mean 'forest'"):
        load_task(folder)


def test_faults_of_all_files_are_told_at_once(tmp_path):
    folder = write_dataset("sst2", tmp_path / "x")
    for split in ("train", "val"):
        broken_line(folder, f"sst2_{split}.tsv", lambda cells: [cells[0], "bad"])
    (folder / "sst2_test.tsv").write_bytes(b"fine\t1\ncaf\xe9\t1\n")
    with pytest.raises(TaskError) as caught:
        load_task(folder)
    for part in ("sst2_train.tsv row 2: 'bad'", "sst2_val.tsv row 2", "sst2_test.tsv row 2: byte 4 is 0xe9"):
        assert part in str(caught.value)


def test_a_box_up_to_a_pixel_outside_is_cut_off(tmp_path):
    cells = ["1_0", "1", "a", "-0.6,0,50.9,41", cell(picture(50, 40))]
    assert one_row("refcoco", cells, tmp_path)[1].bbox == (0.0, 0.0, 1.0, 1.0)
    with pytest.raises(TaskError, match="inside the picture"):
        one_row("refcoco", [*cells[:3], "0,0,50,41.05", cells[4]], tmp_path)


# Settings that any task may have

PLAIN = {"name": "t", "modality": "text", "kind": "text-generation", "metric": "chrf"}


def plain(**changes):
    return Task(**PLAIN | {"train": (Example(text_a="a", references=("b",)),)} | changes)


def test_the_fingerprint_of_a_task_without_the_new_settings_is_what_it_was():
    # Written before there were image_size, decoding and weights: pools on disk hold such hashes.
    assert plain().fingerprint == "b06575581b754fffac3d1abe457b940c5e182b1623c7846fa418e0a57013032f"
    assert plain().train[0].digest == "2f68c8c22078d4aec234b241f4c2d60b9eaa5bdd3b03917f28ca2c5c2c028d8f"


def test_the_new_settings_change_the_fingerprint():
    weighted = (Example(text_a="a", references=("b",), weights=(0.5,)),)
    versions = [
        plain(),
        plain(image_size=64),
        plain(decoding=Decoding(num_beams=5)),
        plain(decoding=Decoding(ends=False)),
        plain(train=weighted),
    ]
    assert len({version.fingerprint for version in versions}) == len(versions)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"decoding": {"num_beam": 5}}, "Did you mean 'num_beams'"),
        ({"decoding": {"num_beams": 0}}, "whole number from 1"),
        ({"decoding": {"num_beams": None}}, "whole number from 1"),
        ({"decoding": {"box_range": 0}}, "whole number from 1"),
        ({"decoding": {"ends": "no"}}, "true or false"),
        ({"decoding": {"decoder_prompt": "prev"}}, "one of none, src, prev_output"),
        ({"decoding": {"min_new_tokens": 9, "max_new_tokens": 8}}, "must not exceed"),
        ({"decoding": 5}, "must map names"),
        ({"image_size": 0}, "pixels from 1"),
        ({"image_size": "big"}, "whole number"),
        ({"kind": "captioning"}, "must be of kind"),
    ],
)
def test_settings_out_of_range_are_refused(settings, said, tmp_path):
    with pytest.raises(TaskError, match=said):
        load_task(write_dataset("sst2", tmp_path / "x", **settings))


def test_weights_must_be_one_a_reference():
    for weights in [(0.5, 0.5), (1.5,), (float("nan"),)]:
        with pytest.raises(TaskError, match="one confidence"):
            Example(references=("a",), weights=weights)


def test_a_file_of_another_kind_may_use_the_names_of_our_keys(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text_a": "a", "label": "x"}\n{"text_a": "b", "label": "y"}\n')
    (tmp_path / "task.yaml").write_text("answers: 5\nbox_format: [1]\ndatasets: [glue]\nanswer: 3\n")
    assert load_task(tmp_path).candidates == ("x", "y")


@pytest.mark.parametrize("setting", [{"box_format": "xywh"}, {"columns": {"text_a": "phrase"}}])
def test_what_is_for_tables_is_refused_for_official_files(setting, tmp_path):
    folder = write_dataset("refcoco", tmp_path / "data", **setting)
    with pytest.raises(TaskError, match="must be of tables"):
        load_task(folder)

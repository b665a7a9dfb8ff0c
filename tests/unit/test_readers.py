import base64
import csv
import io
import json
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from pituning.errors import TaskError
from pituning.task import load_task


def png(color):
    file = io.BytesIO()
    Image.new("RGB", (4, 3), color).save(file, "PNG")
    return file.getvalue()


TEXTS = [
    {"text_a": 'He said "no,\tnever"\nand left', "text_b": "so", "label": "bad"},
    {"text_a": "ça va — 好", "text_b": None, "label": "good"},
    {"text_a": " kept blanks ", "text_b": "2", "label": "bad"},
]
PICTURES = [
    {
        "image": png((i, 0, 0)),
        "text_a": "what?",
        "references": ["one", "two"][: i % 3],
        "bbox": [0.1, 0.2, 0.4, 1.0],
    }
    for i in range(1, 4)
]
CLASSES = [{"image": png((i, 0, 0)), "label": "odd" if i % 2 else "even"} for i in range(4)]


def write_parquet(path, rows):
    table = pa.Table.from_pylist(rows)
    if "bbox" in table.column_names:
        at = table.column_names.index("bbox")
        table = table.set_column(at, "bbox", table["bbox"].cast(pa.list_(pa.float32())))
    pq.write_table(table, path)


def as_text(value):
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def write_jsonl(path, rows):
    lines = [json.dumps({k: as_text(v) for k, v in row.items()}) for row in rows]
    path.write_text("\n".join(lines) + "\n")


def write_delimited(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: json.dumps(v) if isinstance(v, list) else as_text(v) for k, v in row.items()})


WRITERS = {
    "parquet": write_parquet,
    "jsonl": write_jsonl,
    "csv": write_delimited,
    "tsv": write_delimited,
}


def write_task(folder, rows, suffix="jsonl", split="train", **settings):
    folder.mkdir(exist_ok=True)
    (folder / "task.yaml").write_text(yaml.safe_dump({"name": "t"} | settings))
    WRITERS[suffix](folder / f"{split}.{suffix}", rows)
    return folder


def raw_task(folder, **files):
    """A task folder with these files, `_` standing for the dot of their names."""
    for name, content in ({"task_yaml": "name: t"} | files).items():
        (folder / name.replace("_", ".")).write_text(content)
    return folder


@pytest.mark.parametrize("rows", [TEXTS, PICTURES, CLASSES], ids=["texts", "boxes", "classes"])
def test_the_same_content_has_the_same_fingerprint_in_every_format(tmp_path, rows):
    loaded = [load_task(write_task(tmp_path / suffix, rows, suffix)) for suffix in WRITERS]
    assert len({task.fingerprint for task in loaded}) == 1
    assert len(loaded[0].train) == len(rows)


@pytest.mark.parametrize("text", ["[sic] a text", '["Stop"] he said', "['Tis the season]", "[", '["'])
def test_a_text_may_begin_with_a_bracket(text, tmp_path):
    write_delimited(tmp_path / "train.csv", [{"text_a": "x", "references": text}])
    assert load_task(raw_task(tmp_path)).train[0].references == (text,)


@pytest.mark.parametrize("name", ["image_path", "file_name"])
@pytest.mark.parametrize(
    "layout", ["train.csv", "train/metadata.jsonl", "metadata.csv", "labels/metadata.csv"]
)
def test_a_table_of_image_paths_holds_the_same_content_as_one_of_images(tmp_path, layout, name):
    expected = load_task(write_task(tmp_path / "inline", CLASSES))
    table = tmp_path / "files" / layout
    (table.parent / "img").mkdir(parents=True)
    rows = []
    for i, row in enumerate(CLASSES):
        (table.parent / "img" / f"{i}.png").write_bytes(row["image"])
        rows.append({name: f"img/{i}.png", "label": row["label"]})
    WRITERS[table.suffix[1:]](table, rows)
    settings = {"name": "t"} | ({"splits": {"train": "labels"}} if layout.startswith("labels") else {})
    (tmp_path / "files" / "task.yaml").write_text(yaml.safe_dump(settings))
    assert load_task(tmp_path / "files").fingerprint == expected.fingerprint


def test_one_subfolder_of_images_a_class_holds_the_same_content_too(tmp_path):
    expected = load_task(write_task(tmp_path / "inline", CLASSES))
    for i, row in enumerate(CLASSES):
        file = tmp_path / "files" / "train" / row["label"] / f"{i}.PNG"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(row["image"])
    (tmp_path / "files" / "task.json").write_text('{"name": "t"}')
    assert load_task(tmp_path / "files").fingerprint == expected.fingerprint


def test_the_folder_of_a_label_may_be_a_link(tmp_path):
    for label in ("cat", "dog"):
        path = tmp_path / "elsewhere" / label / "1.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(CLASSES[0]["image"])
    (tmp_path / "task" / "train").mkdir(parents=True)
    (tmp_path / "elsewhere" / "dog").rename(tmp_path / "task" / "train" / "dog")
    (tmp_path / "task" / "train" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    (tmp_path / "task" / "task.json").write_text('{"name": "t"}')
    assert load_task(tmp_path / "task").candidates == ("cat", "dog")


@pytest.mark.parametrize("stray", ["loose.png", "cat/2020/deep.png"])
def test_a_picture_outside_the_folders_of_labels_is_told(tmp_path, stray):
    for file in ("cat/1.png", "dog/2.png", stray):
        path = tmp_path / "train" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CLASSES[0]["image"])
    (tmp_path / "task.json").write_text('{"name": "t"}')
    with pytest.raises(TaskError, match=f"train/LABEL/picture.png; given: 1 elsewhere.*{stray}"):
        load_task(tmp_path)


def test_a_label_without_a_picture_does_not_vanish_unseen(tmp_path, caplog):
    for label in ("cat", "dog", "bird"):
        (tmp_path / "train" / label).mkdir(parents=True)
        (tmp_path / "train" / label / "1.png").write_bytes(CLASSES[0]["image"])
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "task.json").write_text('{"name": "t"}')
    assert load_task(tmp_path).candidates == ("bird", "cat", "dog")
    (tmp_path / "train" / "bird" / "1.png").unlink()
    assert not caplog.records
    (tmp_path / "train" / "bird" / "1.heic").touch()
    assert load_task(tmp_path).candidates == ("cat", "dog")
    assert "labels without a training picture are not known: bird" in caplog.text
    caplog.clear()
    (tmp_path / "task.json").write_text('{"name": "t", "labels": ["bird", "cat", "dog"]}')
    assert load_task(tmp_path).candidates == ("bird", "cat", "dog")
    assert not caplog.records


def test_a_picture_that_is_cut_off_is_named(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / "train" / label).mkdir(parents=True)
        (tmp_path / "train" / label / "1.png").write_bytes(CLASSES[0]["image"])
    noise = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(noise, "PNG")
    (tmp_path / "train" / "dog" / "2.png").write_bytes(noise.getvalue()[:2000])
    (tmp_path / "task.json").write_text('{"name": "t"}')
    (fault,) = load_task(tmp_path).image_faults()
    assert f"train row 3: {tmp_path / 'train' / 'dog' / '2.png'}: " in fault.given


@pytest.mark.parametrize("table", [False, True])
def test_a_picture_that_may_not_be_read_is_told_as_that(tmp_path, monkeypatch, table):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "1.png").write_bytes(CLASSES[0]["image"])
    (tmp_path / "task.json").write_text('{"name": "t"}')
    if table:
        (tmp_path / "train.csv").write_text("file_name,label\ntrain/cat/1.png,cat\n")

    def locked(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", locked)
    with pytest.raises(TaskError, match=r"files must be readable; given: .*1\.png, which may not be read"):
        load_task(tmp_path)


@pytest.mark.parametrize("name", ["validation", "val", "valid", "dev"])
def test_validation_is_found_by_every_usual_name(tmp_path, name):
    write_task(tmp_path, TEXTS)
    write_jsonl(tmp_path / f"{name}.jsonl", TEXTS[:2])
    assert len(load_task(tmp_path).validation) == 2


def test_columns_and_splits_of_the_users_own_names_are_mapped(tmp_path):
    rows = [{"sentence": row["text_a"], "target": row["label"], "text_a": "not this"} for row in TEXTS]
    write_task(
        tmp_path,
        rows,
        "csv",
        split="reviews",
        splits={"train": "reviews.csv"},
        columns={"text_a": "sentence", "label": "target"},
    )
    task = load_task(tmp_path / "task.yaml")
    assert task.train[0].text_a == TEXTS[0]["text_a"]
    assert task.candidates == ("bad", "good")


def test_labels_keep_the_order_and_texts_of_the_task_file(tmp_path):
    write_task(tmp_path, [{"text_a": "x", "label": 1}, {"text_a": "y", "label": 0.0}])
    task = load_task(raw_task(tmp_path, task_yaml="labels: {1: good, 0: bad}"))
    assert task.candidates == ("1", "0")
    assert task.answer(task.train[0]) == "good"


@pytest.mark.parametrize(
    ("rows", "settings", "expected"),
    [
        (TEXTS, {}, ("text", "text-pair-classification", "accuracy")),
        (TEXTS[1:2] * 2, {}, ("text", "text-classification", "accuracy")),
        (CLASSES, {}, ("image", "image-classification", "accuracy")),
        ([CLASSES[0] | {"text_a": "?"}], {}, ("image+text", "vqa", "accuracy")),
        ([CLASSES[0] | {"text_a": "?"}], {"kind": "vqa"}, ("image+text", "vqa", "exact_match")),
        ([{"image": png((9, 9, 9)), "references": "one"}], {}, ("image", "captioning", "cider_d")),
        ([{"image": png((9, 9, 9)), "bbox": "0 0 1 .5"}], {}, ("image", "grounding", "acc@iou0.5")),
        ([{"text_a": "?", "references": "[sic] one"}], {}, ("text", "text-generation", "exact_match")),
    ],
)
def test_modality_kind_and_metric_are_inferred_from_the_data(tmp_path, rows, settings, expected):
    task = load_task(write_task(tmp_path, rows, **settings))
    assert (task.modality, task.kind, task.metric) == expected


def test_an_image_in_the_layout_of_hugging_face_datasets_is_read(tmp_path):
    rows = [{"image": {"bytes": row["image"], "path": None}, "label": row["label"]} for row in CLASSES]
    assert load_task(write_task(tmp_path, rows, "parquet")).train[0].image == CLASSES[0]["image"]


def test_an_image_longer_than_a_csv_cell_may_be_is_read_and_the_limit_put_back(tmp_path):
    csv.field_size_limit(131_072)
    rows = [{"image": bytes(200_000), "label": label} for label in "ab"]
    assert load_task(write_task(tmp_path, rows, "csv")).train[0].image == bytes(200_000)
    assert csv.field_size_limit() == 131_072


def test_folders_called_like_partitions_add_no_column(tmp_path):
    folder = tmp_path / "label=wrong"
    assert {e.label for e in load_task(write_task(folder, TEXTS, "parquet")).train} == {"bad", "good"}


def test_every_fault_of_a_file_is_named_at_once(tmp_path):
    rows = [{"image": "%%", "label": "a"}, {"image": None, "label": ["b"]}]
    with pytest.raises(TaskError, match=r"(?s)train.jsonl row 1: '%%'.*train.jsonl row 2: a list"):
        load_task(write_task(tmp_path, rows))


ROWS = '{"text_a": "x", "label": "a"}\n{"text_a": "y", "label": "b"}\n'


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"task_yaml": "name: [1"}, r"must be YAML .*task.yaml line 1"),
        ({"task_yaml": "name: t\nkind: vqa\nname: u"}, r"line 3: the key 'name' stands twice"),
        ({"task_yaml": "name: t\nlabels: {a\nkind: x"}, r"must be YAML .*line \d"),
        ({"task_yaml": "- a"}, "list at the top"),
        ({"task_yaml": "!!python/object/apply:os.getcwd []"}, "must be YAML"),
        ({"task_json": "{}"}, r"one task.yaml or task.json.*task.yaml and task.json"),
        ({"task_yaml": "metrics: accuracy"}, r"key 'metrics'.*Did you mean 'metric'"),
        ({"task_yaml": "metric: acuracy"}, r"metric 'acuracy'.*Did you mean 'accuracy'"),
        ({"task_yaml": "kind: grouding"}, "Did you mean 'grounding'"),
        ({"task_yaml": "modality: video"}, "modality must be one of"),
        ({"task_yaml": "metric: 3"}, "metric must be text"),
        ({"task_yaml": "name: 1.5"}, "name must be text"),
        ({"task_yaml": "labels: [yes, no]"}, r"labels must be a list of texts.*True.*quotes"),
        ({"task_yaml": "labels: a"}, "labels must be a list"),
        ({"task_yaml": "labels: [a, b, a]"}, "labels must differ"),
        ({"task_yaml": "labels: [a]\ncandidates: [b]"}, "one setting"),
        ({"task_yaml": "labels: [a, c]"}, r"train row 2: label 'b'"),
        ({"task_yaml": "columns: {text: x}"}, r"keys of columns must be ours.*'text'. Did you mean 'text_a'"),
        ({"task_yaml": "columns: [text_a]"}, "columns must map names"),
        (
            {"task_yaml": "columns: {text_a: text_aa}"},
            r"column 'text_aa'.*'text_a', 'label'.*Did you mean",
        ),
        ({"task_yaml": "splits: {trian: a.csv}"}, r"keys of splits.*Did you mean 'train'"),
        ({"task_yaml": "splits: {val: a.csv, dev: b.csv}"}, "named once"),
        ({"task_yaml": "splits: {test: trian.jsonl}"}, r"must exist.*Did you mean 'train.jsonl'"),
        ({"task_yaml": "splits: {test: task.yaml}"}, "a data file must be one of"),
        ({"train_csv": "text_a,label\nx,a\n"}, r"one file.*train.jsonl and train.csv for train"),
        ({"train_jsonl": ""}, "with 0 rows"),
        ({"train_jsonl": ROWS + "{broken"}, "line 3"),
        ({"train_jsonl": ROWS + "[1]"}, "line 3: list"),
        ({"train_jsonl": '{"label": "a"}'}, r"must have a column 'text_a', 'image' or 'file_name'.*'label'"),
        (
            {"train_jsonl": '{"text_b": "a", "label": "a"}'},
            r"must have a column 'text_a'.*'label'\. Rename it",
        ),
        (
            {"test_csv": "text_a,references\nx,\"['a', 'b']\"\n"},
            r"a list in a cell is written as JSON.*row 1: \"\['a', 'b'\]",
        ),
        ({"train_jsonl": '{"text_a": "a"}'}, r"must have a column 'label'"),
        ({"train_jsonl": '{"text_a": ["a"], "label": "a"}'}, "row 1: a list"),
        ({"train_jsonl": '{"text_a": "a", "label": null}'}, "needs references or label"),
        ({"train_jsonl": '{"text_a": null, "label": "a"}', "task_yaml": ""}, "must have text_a"),
        ({"train_jsonl": '{"file_name": "no.png", "label": "a"}'}, r"row 1: 'no.png' \(No such file"),
        ({"train_jsonl": '{"image": "no/ picture.png", "label": "a"}'}, r"bytes or base64.*file_name"),
        ({"train_jsonl": '{"text_a": "x", "bbox": [1, 2, 3]}'}, "four numbers"),
        ({"train_jsonl": '{"text_a": "x", "bbox": [5, 5, 30, 40]}'}, r"row 1: bbox \[5.0.*pixel coordinates"),
        ({"test_csv": "text_a,label\n"}, "test.csv with 0 rows"),
        ({"test_csv": ""}, "test.csv with 0 rows"),
        ({"test_csv": "text_a,label\nx,a,b\n"}, "line 2: 3 cells under 2"),
        ({"test_csv": 'text_a,label\n"x"y,a\n'}, "line 2"),
        ({"test_csv": "label,label\na,b\n"}, "names a column twice"),
        ({"test_tsv": 'text_a\tlabel\n"x\ta\n'}, "test.tsv line 2: unexpected end"),
        ({"test_parquet": "PAR1 and no more"}, "truncated or not Parquet"),
    ],
)
def test_a_faulty_task_is_refused_with_what_must_hold_and_what_was_given(tmp_path, files, message):
    with pytest.raises(TaskError, match=message):
        load_task(raw_task(tmp_path, **{"train_jsonl": ROWS} | files))


def test_a_path_that_is_no_task_is_refused(tmp_path):
    (tmp_path / "sst2").mkdir()
    table = tmp_path / "train.csv"
    table.write_text("x")
    faults = [
        (tmp_path / "sst", r"does not exist\. Did you mean 'sst2'"),
        (tmp_path / "sst2", "with neither"),
        (table, "folder or its task.yaml"),
        ("/dev/null", r"which is none\. Check the path"),
        ("mini20/sst2", r"mini_task\(NAME\)"),
    ]
    for path, message in faults:
        with pytest.raises(TaskError, match=message):
            load_task(path)


def test_a_task_without_training_data_is_refused(tmp_path):
    with pytest.raises(TaskError, match="no train file"):
        load_task(write_task(tmp_path, TEXTS, split="test"))


def test_pictures_without_folders_of_labels_are_told_how_they_lie(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "1.png").write_bytes(CLASSES[0]["image"])
    (tmp_path / "task.json").write_text('{"name": "t"}')
    with pytest.raises(TaskError, match=r"a folder for each label, as train/cat/1\.png"):
        load_task(tmp_path)


@pytest.mark.parametrize("name", ["Train.CSV", "Train"])
def test_training_data_in_upper_case_is_to_be_renamed(tmp_path, name):
    write_task(tmp_path, TEXTS, split="test")
    (tmp_path / name).mkdir() if name == "Train" else (tmp_path / name).write_text("text_a,label\nso,a\n")
    with pytest.raises(TaskError, match=rf"but {name}\. Rename {name} to {name.lower()}\."):
        load_task(tmp_path)


@pytest.mark.parametrize("keep", [10, 400, -8])
def test_a_truncated_parquet_file_is_refused(tmp_path, keep):
    file = write_task(tmp_path, CLASSES, "parquet") / "train.parquet"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(TaskError, match="truncated or not Parquet"):
        load_task(tmp_path)


def test_text_that_is_not_utf8_is_refused(tmp_path):
    (raw_task(tmp_path) / "train.csv").write_bytes(b"text_a,label\n\xff\xfe,a\n")
    with pytest.raises(TaskError, match="utf-8"):
        load_task(tmp_path)


def test_a_pickle_is_never_opened(tmp_path):
    (raw_task(tmp_path, task_yaml="splits: {train: train.pkl}") / "train.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(TaskError, match="a data file must be one of"):
        load_task(tmp_path)


def test_numbers_are_read_as_the_names_that_the_file_has_for_them(tmp_path):
    rows = [{"text_a": "so", "label": 1}, {"text_a": "no", "label": 0}]
    table = pa.Table.from_pylist(rows)
    features = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}
    told = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(told, tmp_path / "train.parquet")
    (tmp_path / "task.yaml").write_text("name: t")
    task = load_task(tmp_path)
    assert (task.candidates, [example.label for example in task.train]) == (("neg", "pos"), ["pos", "neg"])
    (tmp_path / "test.csv").write_text("text_a,label\nwell,1\n")  # as other programs leave it
    assert load_task(tmp_path).test[0].label == "pos"
    (tmp_path / "task.yaml").write_text("{name: t, labels: {0: bad, 1: good}}")
    task = load_task(tmp_path)
    assert ([*task.candidate_texts.values()], [e.label for e in task.train]) == (["bad", "good"], ["1", "0"])


def pictures(folder, *files):
    """The same picture under these names."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(CLASSES[0]["image"])
    (folder / "task.json").write_text('{"name": "t"}')


def test_what_is_hidden_among_pictures_is_no_label_and_no_picture(tmp_path):
    hidden = (".ipynb_checkpoints/1-checkpoint.png", "cat/.ipynb_checkpoints/1-checkpoint.png", "cat/._1.png")
    pictures(tmp_path, *(f"train/{file}" for file in ("cat/1.png", "dog/1.png", *hidden)))
    task = load_task(tmp_path)
    assert (task.candidates, len(task.train)) == (("cat", "dog"), 2)


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("Test/cat/1.png", "Test is not read: Rename Test to test."),
        ("val/1.png", "val is not read: Put its pictures into a folder for each label, as val/cat/1.png."),
    ],
)
def test_a_split_that_is_not_read_is_told(tmp_path, caplog, file, told):
    pictures(tmp_path, "train/cat/1.png", "train/dog/1.png", file)
    load_task(tmp_path)
    assert caplog.messages == [told]


def test_pictures_that_a_table_names_are_not_told_as_unread(tmp_path, caplog):
    pictures(tmp_path, "test/1.png", "test/2.png")
    (tmp_path / "train.csv").write_text("file_name,label\ntest/1.png,cat\ntest/2.png,dog\n")
    load_task(tmp_path)
    assert caplog.messages == []


def test_a_label_that_no_training_picture_has_is_told_with_its_picture(tmp_path):
    pictures(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/bird/1.png")
    with pytest.raises(TaskError, match=r"row 1: .*test/bird/1\.png: label 'bird'"):
        load_task(tmp_path)

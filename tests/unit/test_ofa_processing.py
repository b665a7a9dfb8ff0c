"""OFA's tokenizer, image processor and processor, against what the official code returns."""

from __future__ import annotations

import base64
import copy
import csv
import io
import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING

from pituning.errors import BackboneError
from pituning.models.ofa.configuration import OfaConfig
from pituning.models.ofa.image_processing import IMAGENET_MEAN, IMAGENET_STD, OfaImageProcessor
from pituning.models.ofa.processing import OfaProcessor
from pituning.models.ofa.tokenization import BPE_FILES, OfaTokenizer

OFFICIAL = Path(__file__).parents[3] / "shared" / "ofa"
DATA, VOCAB = OFFICIAL / "data-parity", OFFICIAL / "vocab"
needs_official = pytest.mark.skipif(
    not OFFICIAL.is_dir(), reason="the official code's numbers (../shared/ofa) are not part of the repository"
)
CORPUS = ("which region does the text describe?", " yes", " no", " <bin_3> </s>", " maybe the left")
GROUPS = ("refcoco", "snli_ve_prev_output_cap", "caption_val", "vqa_obj_prev_output", "image_classify")
# The picture's column in the official files.
PICTURE = {"refcoco": 4, "snli": 2, "caption": 4, "vqa": 5, "image": 0}


def golden() -> dict[str, Any]:
    return json.loads((DATA / "expected.json").read_text()) if DATA.is_dir() else {"tokenizer": []}


GOLDEN = golden()


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    if OfaConfig not in TOKENIZER_MAPPING:
        AutoTokenizer.register(OfaConfig, tokenizer_class=OfaTokenizer)
    if OfaConfig not in IMAGE_PROCESSOR_MAPPING:
        AutoImageProcessor.register(OfaConfig, image_processor_classes={"pil": OfaImageProcessor})
    if OfaConfig not in PROCESSOR_MAPPING:
        AutoProcessor.register(OfaConfig, OfaProcessor)


@cache
def full() -> OfaTokenizer:
    return OfaTokenizer.from_bpe_folder(VOCAB)


@cache
def trained() -> tuple[list[str], list[tuple[str, str]]]:
    """The pieces and merges of a small vocabulary."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(CORPUS, trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    ids = bpe.get_vocab()
    merges = json.loads(bpe.to_str())["model"]["merges"]
    return sorted(ids, key=lambda piece: ids[piece]), [(left, right) for left, right in merges]


@cache
def small() -> OfaTokenizer:
    return OfaTokenizer.of_pieces(*trained(), codes=2, bins=20)


def letters() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def bpe_folder(folder: Path, **changed: str) -> Path:
    """A small folder in the official layout, with other contents for the files in `changed`."""
    pieces, merges = trained()
    encoder = {piece: index for index, piece in enumerate(pieces)}
    contents = {
        "dict": "".join(f"{encoder[piece]} 7\n" for piece in reversed(pieces)) + "madeupword0000 0\n",
        "encoder": json.dumps(encoder),
        "vocab": "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges),
    } | changed
    folder.mkdir(exist_ok=True)
    for name in BPE_FILES:
        (folder / name).write_text(contents[name.partition(".")[0]], encoding="utf-8")
    return folder


# --- tokenizer ---


@needs_official
def test_vocabulary_has_the_official_ids() -> None:
    expected = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "madeupword0002": 50263, "<mask>": 50264}
    expected |= {"<code_0>": 50265, "<code_8191>": 58456, "<bin_0>": 58457, "<bin_999>": 59456}
    assert {token: full().convert_tokens_to_ids(token) for token in expected} == expected
    assert (len(full()), full().first_bin, full().bins, full().codes) == (59457, 58457, 1000, 8192)
    assert (full().bos_token_id, full().pad_token_id, full().eos_token_id, full().unk_token_id) == (
        0,
        1,
        2,
        3,
    )
    assert len(full()) == OfaConfig().vocab_size
    assert full().model_max_length == 1024


@needs_official
@pytest.mark.parametrize("case", GOLDEN["tokenizer"], ids=lambda case: repr(case["text"]))
def test_official_ids_and_texts(case: dict[str, Any]) -> None:
    plain = full()(case["text"], add_special_tokens=False).input_ids
    assert plain == case["ids"]
    assert full()(case["text"]).input_ids == [0, *case["ids"], 2]
    assert full().decode(plain) == case["decoded"]
    assert full().decode([0, *plain, 2, 1], skip_special_tokens=True) == case["decoded"]


@needs_official
@pytest.mark.parametrize("key", sorted(GOLDEN.keys() - {"tokenizer", "pre_caption", "pre_question"}))
def test_official_sequences_survive_decoding_and_encoding(key: str) -> None:
    for item in GOLDEN[key]["items"]:
        text = full().decode(item["source"], skip_special_tokens=True)
        assert full()(text).input_ids == item["source"]


@needs_official
def test_boxes_are_the_official_bins() -> None:
    ids = GOLDEN["refcoco"]["items"][0]["target"][:4]
    numbers = [index - full().first_bin for index in ids]
    assert full().bin_ids(numbers) == ids
    assert full().decode(ids) == "".join(f"<bin_{number}>" for number in numbers)


@needs_official
def test_vocabulary_files_of_the_port_give_the_same_tokenizer(tmp_path: Path) -> None:
    ids = {token: index for token, index in full().get_vocab().items() if index < 50265}
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    shutil.copy(VOCAB / "vocab.bpe", tmp_path / "merges.txt")
    added = {token: index for token, index in full().get_vocab().items() if index >= 50265}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    ported = OfaTokenizer.from_pretrained(tmp_path)
    assert ported.get_vocab() == full().get_vocab()
    assert ported(" <bin_3> <code_1>").input_ids == full()(" <bin_3> <code_1>").input_ids


@needs_official
@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_round_trips_and_yields_only_pieces(text: str) -> None:
    ids = full()(text, add_special_tokens=False).input_ids
    assert full().decode(ids) == text
    assert all(4 <= index < 50261 for index in ids)


SYMBOLS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<bin_0>", "<bin_19>", "<code_1>", " ", "\n", "x", "é")


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(), st.lists(st.sampled_from(SYMBOLS)).map("".join)))
def test_any_text_round_trips_with_a_small_vocabulary(text: str) -> None:
    ids = small()(text, add_special_tokens=False).input_ids
    assert small().decode(ids) == small().decode([0, *ids, 2, 1], skip_special_tokens=True) == text
    assert all(4 <= index < small().mask_token_id for index in ids)


def test_special_tokens_stand_around_a_text_and_no_space_is_added() -> None:
    plain = small()("yes", add_special_tokens=False).input_ids
    assert small()("yes").input_ids == [0, *plain, 2]
    assert small().decode(small()("yes").input_ids) == "<s>yes</s>"
    assert plain != small()(" yes", add_special_tokens=False).input_ids


def test_padding_is_on_the_right() -> None:
    batch = small()([" yes", " maybe the"], padding=True, return_tensors="pt")
    length = len(small()(" yes").input_ids)
    assert batch["input_ids"].dtype == torch.int64
    assert set(batch) == {"input_ids", "attention_mask"}
    assert (batch["input_ids"][0, length:] == 1).all()
    assert batch["attention_mask"].sum(1).tolist() == [length, batch["input_ids"].shape[1]]


def test_a_pair_is_written_as_bart_does() -> None:
    yes, no = (small()(text, add_special_tokens=False).input_ids for text in (" yes", " no"))
    assert small()(" yes", " no").input_ids == [0, *yes, 2, 2, *no, 2]


def test_bins() -> None:
    first = small().first_bin
    assert small().bins == 20
    assert first == len(small()) - 20 == small().convert_tokens_to_ids("<bin_0>")
    assert small().bin_ids(np.array([0, 19])) == [first, first + 19]
    assert [small().is_bin(index) for index in (first - 1, first, first + 19, first + 20)] == [0, 1, 1, 0]
    assert small().decode(small().bin_ids([3, 4]), skip_special_tokens=True) == "<bin_3><bin_4>"
    for numbers in ([-1], [20]):
        with pytest.raises(BackboneError, match=f"from 0 to 19; given: {numbers[0]}"):
            small().bin_ids(numbers)


@pytest.mark.parametrize("load", [OfaTokenizer.from_pretrained, AutoTokenizer.from_pretrained])
def test_saved_tokenizer_comes_back(tmp_path: Path, load: Any) -> None:
    small().save_pretrained(tmp_path)
    OfaConfig().save_pretrained(tmp_path)
    assert_same(load(tmp_path), small())


def test_saved_tokenizer_needs_no_configuration(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    assert_same(AutoTokenizer.from_pretrained(tmp_path), small())


def test_saving_twice_writes_the_same_files(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path / "a")
    OfaTokenizer.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        first, second = (json.loads((tmp_path / folder / name).read_text()) for folder in "ab")
        for how in ("is_local", "local_files_only"):  # transformers notes how it was loaded
            first.pop(how, None)
            second.pop(how, None)
        assert first == second


def test_a_token_of_ones_own_is_kept(tmp_path: Path) -> None:
    mine = copy.deepcopy(small())
    mine.add_tokens(["<region>"])
    mine.save_pretrained(tmp_path)
    again = OfaTokenizer.from_pretrained(tmp_path)
    assert again.convert_tokens_to_ids("<region>") == len(small())
    assert again(" yes<region> <bin_3>").input_ids == mine(" yes<region> <bin_3>").input_ids
    assert again.first_bin == small().first_bin


def assert_same(found: Any, expected: OfaTokenizer) -> None:
    assert type(found) is OfaTokenizer
    assert found.get_vocab() == expected.get_vocab()
    assert found.special_tokens_map == expected.special_tokens_map
    for name in ("first_bin", "bins", "codes", "model_max_length", "padding_side", "pad_token_id"):
        assert getattr(found, name) == getattr(expected, name)
    for text in (*CORPUS, "<s> literal </s><bin_3><code_1><mask>", "é 東京"):
        assert found(text).input_ids == expected(text).input_ids
        assert found.decode(found(text).input_ids, skip_special_tokens=True) == text
    assert found.backend_tokenizer.to_str() == expected.backend_tokenizer.to_str()


def test_bpe_folder_is_read_in_the_order_of_dict(tmp_path: Path) -> None:
    tokenizer = OfaTokenizer.from_bpe_folder(bpe_folder(tmp_path), codes=2, bins=20)
    pieces, _ = trained()
    assert tokenizer.convert_ids_to_tokens([4, 3 + len(pieces)]) == [pieces[-1], pieces[0]]
    assert tokenizer.convert_tokens_to_ids("madeupword0000") == 4 + len(pieces) == tokenizer.mask_token_id - 1
    assert tokenizer.decode(tokenizer(" maybe <s>", add_special_tokens=False).input_ids) == " maybe <s>"


@pytest.mark.parametrize("name", BPE_FILES)
def test_folder_without_a_file(tmp_path: Path, name: str) -> None:
    (bpe_folder(tmp_path) / name).unlink()
    with pytest.raises(BackboneError, match=f"without {name}"):
        OfaTokenizer.from_bpe_folder(tmp_path)


def test_folder_without_files(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"without dict.txt, encoder.json, vocab.bpe"):
        OfaTokenizer.from_bpe_folder(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dict": "9999 1\n"}, "1 lines name ids that encoder.json lacks .9999.; .* are on no line"),
        ({"dict": "nonsense\n"}, "line 1 is not a symbol"),
        ({"encoder": "{"}, "is JSON, piece to id"),
        ({"encoder": "[1]"}, "other JSON"),
        ({"vocab": "#version: 0.2\n"}, "every piece is made by a merge; given: no merge in .*vocab.bpe for"),
        ({"vocab": "a b c\n"}, "two pieces with a space between; given: a b c"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, changed: dict[str, str], message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        OfaTokenizer.from_bpe_folder(bpe_folder(tmp_path, **changed))


def test_dict_with_a_line_twice(tmp_path: Path) -> None:
    folder = bpe_folder(tmp_path)
    with (folder / "dict.txt").open("a") as file:
        file.write("0 7\n")
    with pytest.raises(BackboneError, match="pieces are distinct"):
        OfaTokenizer.from_bpe_folder(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids: ids | {"far": 999}, "ids with gaps"),
        (lambda ids: ids | {"<s>": 1, "<pad>": 0}, "ids 0 to 3 are <pad> <s>"),
        (lambda ids: ids | {"<bin_0>": len(ids)}, "other codes and bins than the 2 and 3 asked for"),
        (lambda ids: ids | {"last": len(ids)}, "<mask> is not the last"),
        (
            lambda ids: {name: index for name, index in ids.items() if name != "z"},
            "no piece for 1 of the 256",
        ),
    ],
)
def test_vocabulary_in_another_order(change: Any, message: str) -> None:
    ids = {name: index for index, name in enumerate(["<s>", "<pad>", "</s>", "<unk>", *letters(), "<mask>"])}
    assert len(OfaTokenizer(ids, [], codes=2, bins=3)) == 266
    with pytest.raises(BackboneError, match=message):
        OfaTokenizer(change(ids), [], codes=2, bins=3)


def test_merges_of_unknown_pieces() -> None:
    with pytest.raises(
        BackboneError, match="merges join two pieces of the vocabulary to a third; given: a b"
    ):
        OfaTokenizer.of_pieces(letters(), [("a", "b")])


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="no vocab and merges"):
        OfaTokenizer()
    with pytest.raises(BackboneError, match="special token"):
        OfaTokenizer.of_pieces([*letters(), "</s>"], [])


# --- pictures ---


def pictures(key: str) -> list[Image.Image]:
    """Those of the official file of a data set."""
    csv.field_size_limit(10**7)
    with (DATA / GOLDEN[key]["file"]).open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    column = PICTURE[key.partition("_")[0]]
    coded = [row[column].replace("-", "+").replace("_", "/") for row in rows]
    return [Image.open(io.BytesIO(base64.b64decode(code))) for code in coded]


@needs_official
@pytest.mark.parametrize("key", GROUPS)
def test_pixels_are_the_official_ones(key: str) -> None:
    official = load_file(DATA / "patch_images.safetensors")
    imagenet = GOLDEN[key].get("imagenet_default_mean_and_std", False)
    mean = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD} if imagenet else {}
    processor = OfaImageProcessor(**mean)
    found = processor(pictures(key), size=GOLDEN[key]["patch_image_size"])["patch_images"]
    assert found.dtype == torch.float32
    for row, pixels in enumerate(found):
        torch.testing.assert_close(pixels, official[f"{key}.{row}.patch_image"], atol=1e-6, rtol=0)


def test_a_picture_is_stretched_to_a_square() -> None:
    left = Image.new("RGB", (40, 10), "black")
    left.paste((255, 0, 0), (0, 0, 20, 10))
    pixels = OfaImageProcessor(size=16)(left)["patch_images"]
    assert pixels.shape == (1, 3, 16, 16)
    assert pixels[0, 0, :, 0].tolist() == [1.0] * 16
    assert pixels[0, 0, :, -1].tolist() == [-1.0] * 16
    assert (pixels[0, 1:] == -1).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA"])
def test_pictures_of_any_mode(mode: str) -> None:
    picture = Image.new("RGB", (9, 5), "white").convert(mode)
    assert (OfaImageProcessor(size=8)(picture)["patch_images"] == 1).all()


def test_size_of_one_call_does_not_stay() -> None:
    processor = OfaImageProcessor(size=16)
    grey = Image.new("RGB", (5, 5), (51, 51, 51))
    assert processor([grey] * 3, size=32)["patch_images"].shape == (3, 3, 32, 32)
    pixels = processor(grey)["patch_images"]
    assert pixels.shape == (1, 3, 16, 16)
    torch.testing.assert_close(pixels, torch.full_like(pixels, -0.6))


def test_processor_of_pictures_comes_back(tmp_path: Path) -> None:
    processor = OfaImageProcessor(size=64, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD)
    processor.save_pretrained(tmp_path)
    for again in (OfaImageProcessor.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)):
        assert type(again) is OfaImageProcessor
        assert again.to_dict() == processor.to_dict()
    assert OfaImageProcessor.from_pretrained(tmp_path, size=32).size == 32


@pytest.mark.parametrize(
    ("given_images", "message"),
    [
        ([], "an empty list"),
        (np.zeros((4, 4, 3)), "ndarray"),
        (["a.png"], "a picture is a PIL image; given: str"),
        ("a.png", "given: str"),
    ],
)
def test_what_is_no_picture(given_images: Any, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        OfaImageProcessor(size=8)(given_images)


def test_faults_of_an_image_processor_come_together() -> None:
    told = r"(?s)image_mean is three numbers;.*image_std is three numbers above 0"
    with pytest.raises(BackboneError, match=told):
        OfaImageProcessor(image_mean=[0.5], image_std=[1, 1, 0])
    for size in (0, 2.5, True, {"height": 8}):
        with pytest.raises(BackboneError, match="side of a square in pixels"):
            OfaImageProcessor(size=size)  # type: ignore[arg-type]


def test_torchvision_is_not_needed() -> None:
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from PIL import Image\n"
        "from pituning.models.ofa.image_processing import OfaImageProcessor\n"
        "print(OfaImageProcessor(size=8)(Image.new('L', (3, 3)))['patch_images'].shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "torch.Size([1, 3, 8, 8])", done.stderr


# --- both ---


def both() -> OfaProcessor:
    return OfaProcessor(OfaImageProcessor(size=16), small())


def test_a_batch_of_texts_and_pictures() -> None:
    red = Image.new("RGB", (5, 9), "red")
    batch = both()(text=[" yes", " which region?"], images=[red, None], return_tensors="pt", size=32)
    assert set(batch) == set(both().model_input_names)
    assert batch["patch_images"].shape == (2, 3, 32, 32)
    assert batch["patch_masks"].dtype == torch.bool
    assert batch["patch_masks"].tolist() == [True, False]
    alone = small()([" yes", " which region?"], padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], alone["input_ids"])
    assert torch.equal(batch["attention_mask"], alone["attention_mask"])
    assert both().batch_decode(batch["input_ids"], skip_special_tokens=True) == [" yes", " which region?"]
    assert both().decode(batch["input_ids"][0]).startswith("<s> yes</s><pad>")


def test_one_text_and_one_picture_are_a_batch_of_one() -> None:
    batch = both()(text=" yes", images=Image.new("RGB", (5, 9)))
    assert [batch[name].shape[0] for name in batch] == [1, 1, 1, 1]
    assert batch["patch_images"].shape[-1] == 16


def test_texts_alone_and_pictures_alone() -> None:
    assert set(both()(text=[" yes"])) == {"input_ids", "attention_mask"}
    assert set(both()(images=[Image.new("RGB", (5, 9))])) == {"patch_images", "patch_masks"}


def test_long_texts_are_cut_when_asked() -> None:
    batch = both()(text=[" which region does the text"], truncation=True, max_length=4)
    assert batch["input_ids"].shape == (1, 4)
    assert batch["input_ids"][0, -1] == 2


@needs_official
@pytest.mark.parametrize("key", [key for key in GROUPS if key in GOLDEN])
def test_a_batch_is_the_official_one(key: str) -> None:
    official = GOLDEN[key]
    texts = [full().decode(item["source"], skip_special_tokens=True) for item in official["items"]]
    processor = OfaProcessor(OfaImageProcessor(size=official["patch_image_size"]), full())
    batch = processor(text=texts, images=pictures(key))
    assert batch["input_ids"].tolist() == official["batch"]["src_tokens"]
    assert batch["patch_masks"].all()


@pytest.mark.parametrize("load", [OfaProcessor.from_pretrained, AutoProcessor.from_pretrained])
def test_saved_processor_comes_back(tmp_path: Path, load: Any) -> None:
    both().save_pretrained(tmp_path)
    OfaConfig().save_pretrained(tmp_path)
    again = load(tmp_path)
    assert type(again) is OfaProcessor
    assert again.image_processor.to_dict() == both().image_processor.to_dict()
    assert_same(again.tokenizer, small())


def test_texts_and_pictures_that_do_not_pair() -> None:
    with pytest.raises(BackboneError, match="given: 2 texts and 1 pictures"):
        both()(text=[" yes", " no"], images=Image.new("RGB", (5, 9)))
    with pytest.raises(BackboneError, match="given: neither"):
        both()()

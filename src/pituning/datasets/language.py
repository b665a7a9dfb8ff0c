"""The six GLUE tasks: prompts, labels and columns (any model that reads text can do them)."""

from __future__ import annotations

from dataclasses import replace

from pituning.datasets.definition import Column, Dataset
from pituning.decoding import Decoding

# The decoder reads the encoder's text; the answer is the one token after it, without an end.
_DECODING = Decoding(decoder_prompt="src", ends=False, max_new_tokens=1)
_WORDS = 512

_YES_NO = {"no": "no", "yes": "yes"}
_MAYBE_YES_NO = {"maybe": "maybe", "yes": "yes", "no": "no"}


def _columns(first: int, *titles: str, place: tuple[int, ...] = ()) -> tuple[Column, ...]:
    """text_a, maybe text_b, and label, from cell `first` on."""
    fields = ("text_a", "text_b")[: len(titles)]
    usual = {"text_a": ("sentence1", "text1", "text"), "text_b": ("sentence2", "text2")}
    texts = [
        Column(field=field, place=first + number, title=title, names=(title, *usual[field], field))
        for number, (field, title) in enumerate(zip(fields, titles, strict=True))
    ]
    label = Column(field="label", place=first + len(titles), title="label", names=("label", "labels"))
    return (*texts, label)


def _pair(
    name: str, prompt: str, columns: tuple[Column, ...], words: dict[str, str], *, metric: str = "accuracy"
) -> Dataset:
    """A task of two texts whose integers follow the order of `words` in both kinds of file."""
    return Dataset(
        name=name,
        modality="text",
        kind="text-pair-classification",
        metric=metric,
        prompt=prompt,
        columns=columns,
        labels=_YES_NO,
        words=words,
        tsv_numbers=tuple(words),
        table_numbers=tuple(words),
        source_words=_WORDS,
        decoding=_DECODING,
    )


_IMPLIES = ' can text1 " {text_a} " imply text2 " {text_b} "?'
MNLI = Dataset(
    name="mnli",
    modality="text",
    kind="text-pair-classification",
    metric="accuracy",
    prompt=_IMPLIES,
    columns=_columns(0, "premise", "hypothesis"),
    labels=_MAYBE_YES_NO,
    words={"entailment": "yes", "neutral": "maybe", "contradiction": "no"},
    tsv_numbers=("neutral", "entailment", "contradiction"),
    table_numbers=("entailment", "neutral", "contradiction"),
    source_words=_WORDS,
    decoding=_DECODING,
)
# Tables of Hugging Face count entailment as 0, the official files as 1.
RTE = replace(
    _pair(
        "rte", _IMPLIES, _columns(1, "sentence1", "sentence2"), {"not_entailment": "no", "entailment": "yes"}
    ),
    table_numbers=("entailment", "not_entailment"),
)
QNLI = replace(
    RTE,
    name="qnli",
    prompt=' does " {text_b} " contain the answer to question " {text_a} "?',
    columns=_columns(1, "question", "sentence"),
)
QQP = _pair(
    "qqp",
    ' is question " {text_a} " and question " {text_b} " equivalent?',
    _columns(3, "question1", "question2"),
    {"not_duplicate": "no", "duplicate": "yes"},
    metric="accuracy",
)
MRPC = _pair(
    "mrpc",
    ' does text1 " {text_a} " and text2 " {text_b} " have the same semantics?',
    _columns(0, "sentence1", "sentence2"),
    {"not_equivalent": "no", "equivalent": "yes"},
    metric="accuracy",
)
SST2 = Dataset(
    name="sst2",
    modality="text",
    kind="text-classification",
    metric="accuracy",
    prompt=' is the sentiment of text " {text_a} " positive or negative?',
    columns=_columns(0, "sentence"),
    labels={"negative": "negative", "positive": "positive"},
    words={"negative": "negative", "positive": "positive"},
    tsv_numbers=("negative", "positive"),
    table_numbers=("negative", "positive"),
    source_words=_WORDS,
    decoding=_DECODING,
)

GLUE = (MNLI, QQP, MRPC, QNLI, RTE, SST2)

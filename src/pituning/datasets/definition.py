"""What a built-in data set is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pituning.decoding import Decoding


@dataclass(frozen=True, kw_only=True)
class Column:
    """Where a field of a row is found.

    Attributes:
        field: ours: text_a, text_b, image, bbox, references (also a question's answers), label or objects.
        place: of its cell in the official TSV file, from 0.
        title: what the official code calls it.
        names: of its column in tables, the first that is there counts.
        needed: whether a table must have it.
    """

    field: str
    place: int
    title: str
    names: tuple[str, ...]
    needed: bool = True

    @property
    def official(self) -> str:
        """The column of a TSV file in words; people count from 1."""
        return f"column {self.place + 1} ({self.title})"


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A task without its data.

    Attributes:
        prompt: of the encoder, with the leading space of the official code.
        columns: what is read of a row.
        labels: the candidates and their texts; None: those of the training rows; {}: free-form answers.
        words: label of the files -> ours, which is what a model says.
        tsv_numbers: the words that 0, 1 ... stand for in official files.
        table_numbers: the same in tables, where no ClassLabel says otherwise.
        source_words: texts are cut to so many words.
        target_words: so are the captions of the training split.
        objects: so many of the objects seen in a picture are told with a question.
    """

    name: str
    modality: str
    kind: str
    metric: str
    prompt: str
    columns: tuple[Column, ...]
    labels: Mapping[str, str] | None = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    tsv_numbers: tuple[str, ...] = ()
    table_numbers: tuple[str, ...] = ()
    source_words: int = 80
    target_words: int = 20
    objects: int = 30
    image_size: int | None = None
    decoding: Decoding = field(default_factory=Decoding)

"""OFA's vocabulary: byte-level BPE pieces of text, image codes and box coordinates, in the official order."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pituning.errors import BackboneError

BOS, PAD, EOS, UNK, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"
BPE_FILES = ("dict.txt", "encoder.json", "vocab.bpe")

Merges = Sequence[tuple[str, str]]


@final
class OfaTokenizer(PreTrainedTokenizerFast):  # type: ignore[misc]
    """Text to ids and back. Ids in order: `<s> <pad> </s> <unk>`, the pieces, `<mask>`, the codes, the bins.

    No text ever yields an id of a special token, a code or a bin: "</s>" or "<bin_3>" in a caption are
    characters like any others. Bins come from `bin_ids`. No space is added in front of a text, and words
    after the first carry theirs, so a prompt begins with a space of its own, as OFA's do.

    Args:
        vocab: piece -> id with ids from 0, or the path of a `vocab.json` that holds them. Codes and bins may
            be missing: they are appended.
        merges: pairs of pieces by rank, or the path of a `merges.txt`.
        codes: how many image codes `<code_i>` there are.
        bins: how many steps `<bin_i>` a coordinate has.
        options: of `PreTrainedTokenizerFast`.

    Raises:
        BackboneError: ids with gaps or in another order, a byte without a piece, or merges of unknown pieces.

    Example:
        >>> letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        >>> tokenizer = OfaTokenizer.of_pieces(letters, [], codes=0, bins=10)
        >>> len(tokenizer), tokenizer.first_bin, tokenizer.bin_ids([0, 9])
        (271, 261, [261, 270])
        >>> tokenizer.decode([*tokenizer("a <bin_3>").input_ids, *tokenizer.bin_ids([3])])
        '<s>a <bin_3></s><bin_3>'
    """

    vocab_files_names = {  # noqa: RUF012  (transformers reads the mapping)
        "vocab_file": "vocab.json",
        "merges_file": "merges.txt",
        "tokenizer_file": "tokenizer.json",
    }
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012
    # Tells transformers to hand over the vocabulary and the merges that it finds in tokenizer.json.
    model = models.BPE

    def __init__(
        self,
        vocab: Mapping[str, int] | str | None = None,
        merges: Merges | str | None = None,
        *,
        codes: int = 8192,
        bins: int = 1000,
        **options: Any,
    ) -> None:
        pieces, pairs = _read(vocab, merges)
        ids = _completed(pieces, codes, bins)
        _check_merges(ids, pairs)
        self._tokenizer = _backend(ids, pairs)
        added = options.pop("added_tokens_decoder", {})
        super().__init__(
            **{"model_max_length": 1024, "clean_up_tokenization_spaces": False}
            | {"bos_token": BOS, "pad_token": PAD, "eos_token": EOS, "unk_token": UNK, "mask_token": MASK}
            | options
            # As added tokens, codes and bins would be found in texts.
            | {"added_tokens_decoder": {i: token for i, token in added.items() if str(token) not in ids}}
            | {"split_special_tokens": True, "codes": codes, "bins": bins}
        )
        self.codes, self.bins = codes, bins
        self.first_bin = len(ids) - bins

    @classmethod
    def of_pieces(cls, pieces: Iterable[str], merges: Merges, *, codes: int = 8192, bins: int = 1000) -> Self:
        """A vocabulary in OFA's order from BPE pieces, in the order of their ids.

        Raises:
            BackboneError: a piece twice, or one that is a special token; or as the class.
        """
        names = [BOS, PAD, EOS, UNK, *pieces, MASK]
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            must = "pieces are distinct and none is a special token"
            raise BackboneError(must, _some(twice), "Leave special tokens out; give each piece once.")
        return cls({name: index for index, name in enumerate(names)}, merges, codes=codes, bins=bins)

    @classmethod
    def from_bpe_folder(cls, folder: str | Path, *, codes: int = 8192, bins: int = 1000) -> Self:
        """The tokenizer of OFA's BPE folder: `dict.txt`, `encoder.json` and `vocab.bpe`.

        `dict.txt` names GPT-2's ids in the order of OFA's; `encoder.json` says which piece each one is.

        Raises:
            BackboneError: a file is missing or cannot be read, or the files do not fit one another.
        """
        folder = Path(folder)
        missing = [name for name in BPE_FILES if not (folder / name).is_file()]
        if missing:
            given = f"{folder} without {', '.join(missing)}"
            fix = "Give the folder utils/BPE of the OFA repository."
            raise BackboneError(f"OFA's BPE folder holds {', '.join(BPE_FILES)}", given, fix)
        pieces = _pieces_of(folder / "dict.txt", _encoder_of(folder / "encoder.json"))
        merges = _merges_of(folder / "vocab.bpe")
        _check_reachable(folder / "vocab.bpe", pieces, merges)
        return cls.of_pieces(pieces, merges, codes=codes, bins=bins)

    def bin_ids(self, numbers: Iterable[int]) -> list[int]:
        """Ids of the bins of these numbers.

        Raises:
            BackboneError: a number is not in 0..bins-1.
        """
        ids = [self.first_bin + int(number) for number in numbers]
        if not all(map(self.is_bin, ids)):
            outside = [index - self.first_bin for index in ids if not self.is_bin(index)]
            fix = "Clip coordinates to the picture before they become bins."
            raise BackboneError(f"a bin is a number from 0 to {self.bins - 1}", _some(outside), fix)
        return ids

    def is_bin(self, index: int) -> bool:
        """Whether this id is a bin's."""
        return self.first_bin <= index < self.first_bin + self.bins


def _backend(ids: Mapping[str, int], merges: Merges) -> Tokenizer:
    whole = Tokenizer(models.BPE(dict(ids), list(merges)))
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.decoder = decoders.ByteLevel()
    whole.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}",
        pair=f"{BOS} $A {EOS} {EOS} $B:0 {EOS}",
        special_tokens=[(BOS, ids[BOS]), (EOS, ids[EOS])],
    )
    return whole


def _read(
    vocab: Mapping[str, int] | str | None, merges: Merges | str | None
) -> tuple[Mapping[str, int], Merges]:
    """From the files of a saved tokenizer where these are paths."""
    if vocab is None or merges is None:
        given = " and ".join(name for name, part in (("vocab", vocab), ("merges", merges)) if part is None)
        fix = "Save a tokenizer there, or use OfaTokenizer.from_bpe_folder."
        raise BackboneError("a tokenizer needs a vocabulary and merges", f"no {given}", fix)
    if isinstance(vocab, str):
        vocab = _encoder_of(Path(vocab))
    if isinstance(merges, str):
        merges = _merges_of(Path(merges))
    return vocab, [(left, right) for left, right in merges]


def _completed(vocab: Mapping[str, int], codes: int, bins: int) -> dict[str, int]:
    """With codes and bins at the end, which it may hold already."""
    names = [f"<code_{index}>" for index in range(codes)] + [f"<bin_{index}>" for index in range(bins)]
    ids = dict(sorted(vocab.items(), key=lambda item: item[1]))
    if not any(name in ids for name in ("<code_0>", "<bin_0>")):
        ids |= {name: len(vocab) + index for index, name in enumerate(names)}
    order = list(ids)
    faults = []
    if list(ids.values()) != list(range(len(ids))):
        faults.append("ids with gaps")
    if order[:4] != [BOS, PAD, EOS, UNK]:
        faults.append(f"ids 0 to 3 are {' '.join(order[:4])}")
    if order[len(order) - len(names) :] != names:
        faults.append(f"other codes and bins than the {codes} and {bins} asked for")
    if order[len(order) - len(names) - 1] != MASK:
        faults.append(f"{MASK} is not the last before the codes and bins")
    if lacking := sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(ids)):
        faults.append(f"no piece for {len(lacking)} of the 256 bytes ({_some(lacking)})")
    if faults:
        must = f"OFA's ids are {BOS} {PAD} {EOS} {UNK}, pieces (each byte among them), {MASK}, codes, bins"
        raise BackboneError(must, "; ".join(faults), "Build it with OfaTokenizer.of_pieces.")
    return ids


def _check_merges(ids: Mapping[str, int], merges: Merges) -> None:
    unknown = [f"{a} {b}" for a, b in merges if a not in ids or b not in ids or a + b not in ids]
    if unknown:
        must = "merges join two pieces of the vocabulary to a third"
        raise BackboneError(must, _some(unknown), "Take both from the same files.")


def _check_reachable(path: Path, pieces: Iterable[str], merges: Merges) -> None:
    """A cut vocab.bpe would go unnoticed: words would fall into more and shorter pieces."""
    made = {left + right for left, right in merges}
    # <|endoftext|> and fairseq's fill-up words are never made from text.
    lost = [p for p in pieces if len(p) > 1 and p not in made and not p.startswith(("<|", "madeupword"))]
    if lost:
        given = f"no merge in {path} for {len(lost)} pieces ({_some(lost)})"
        raise BackboneError("every piece is made by a merge", given, "Fetch vocab.bpe again.")


def _encoder_of(path: Path) -> dict[str, int]:
    try:
        ids = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BackboneError(f"{path} is JSON, piece to id", str(error), "Fetch the file again.") from error
    if not isinstance(ids, dict) or not all(type(index) is int for index in ids.values()):
        raise BackboneError(f"{path} is JSON, piece to id", "other JSON", "Fetch the file again.")
    return ids


def _pieces_of(path: Path, encoder: Mapping[str, int]) -> list[str]:
    """The piece on each line of dict.txt; a line that is no number (fairseq's fill-up words) is its own."""
    pieces = {str(index): piece for piece, index in encoder.items()}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BackboneError(f"{path} is UTF-8 text", str(error), "Fetch the file again.") from error
    symbols = [line.rpartition(" ")[0] for line in lines]
    faults = []
    if unknown := [symbol for symbol in symbols if symbol.isdecimal() and symbol not in pieces]:
        faults.append(f"{len(unknown)} lines name ids that encoder.json lacks ({_some(unknown)})")
    if absent := sorted(set(pieces) - set(symbols), key=int):
        faults.append(f"{len(absent)} ids of encoder.json are on no line ({_some(absent)})")
    if "" in symbols:
        faults.append(f"line {symbols.index('') + 1} is not a symbol, a space and a count")
    if faults:
        must = f"{path} names each id of encoder.json once"
        raise BackboneError(must, "; ".join(faults), "Take the three files from one BPE folder.")
    return [pieces.get(symbol, symbol) for symbol in symbols]


def _merges_of(path: Path) -> list[tuple[str, str]]:
    """Pairs of pieces, one a line, after a line with the version."""
    lines = path.read_text(encoding="utf-8").split("\n")
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    wrong = [" ".join(pair) for pair in pairs if len(pair) != 2]
    if wrong:
        must = f"lines of {path} are two pieces with a space between"
        raise BackboneError(must, _some(wrong), "Fetch the file again.")
    return [(left, right) for left, right in pairs]


def _some(things: Sequence[object]) -> str:
    return ", ".join(map(str, things[:5])) + (", ..." if len(things) > 5 else "")

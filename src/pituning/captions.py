"""How good captions are, held against several references each: CIDEr-D, BLEU-4, METEOR, SPICE."""

from __future__ import annotations

import math
import shutil
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec

from pituning.errors import TaskError

ORDERS = 4
"""n-grams of one to four words."""

SIGMA = 6.0
"""Width of CIDEr-D's penalty for a caption longer or shorter than its reference, in words."""

JAVA = ("meteor", "spice")
"""The metrics that need it."""

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)

Ngram = tuple[str, ...]
References = Sequence[Sequence[str]]


def cider_d(predictions: Sequence[str], references: References) -> float:
    """CIDEr-D of a corpus (Vedantam et al., CVPR 2015), as the COCO tools scale it: it may reach 10.

    n-grams weigh by how few images they describe; those counts are taken from the references given, so a
    score of few images (of one: always 0) says little.

    Example:
        >>> cider_d(["a dog", "two cats"], [["a dog runs", "one dog"], ["two cats", "cats"]]) > 1
        True
    """
    found = cider_d_scores(predictions, references)
    return sum(found) / len(found)


def cider_d_scores(predictions: Sequence[str], references: References) -> list[float]:
    """CIDEr-D of each prediction."""
    counted = [[_ngrams(plain_words(text)) for text in texts] for texts in references]
    images = Counter(gram for texts in counted for gram in set().union(*texts))
    # A gram that no image has counts as if one had.
    rarity = {gram: math.log(len(counted)) - math.log(count) for gram, count in images.items()}
    unseen = math.log(len(counted))
    return [
        _cider_of(_ngrams(plain_words(text)), texts, rarity, unseen)
        for text, texts in zip(predictions, counted, strict=True)
    ]


def _cider_of(
    caption: Counter[Ngram],
    references: Sequence[Counter[Ngram]],
    rarity: Mapping[Ngram, float],
    unseen: float,
) -> float:
    """10 times the mean over n and over references of the clipped cosine, times the penalty on length."""
    mine, mine_length = _weighted(caption, rarity, unseen)
    total = 0.0
    for reference in references:
        theirs, their_length = _weighted(reference, rarity, unseen)
        penalty = math.exp(-((mine_length - their_length) ** 2) / (2 * SIGMA**2))
        for order in range(ORDERS):
            a, b = mine[order], theirs[order]
            dot = sum(min(weight, b[gram]) * b[gram] for gram, weight in a.items() if gram in b)
            norm = math.hypot(*a.values()) * math.hypot(*b.values())
            total += penalty * dot / norm if norm else 0.0
    return 10 * total / ORDERS / len(references) if references else 0.0


def _weighted(
    grams: Counter[Ngram], rarity: Mapping[Ngram, float], unseen: float
) -> tuple[list[dict[Ngram, float]], int]:
    """Counts times rarity by order, and the length: as in the official code the pairs of words."""
    weights: list[dict[Ngram, float]] = [{} for _ in range(ORDERS)]
    for gram, count in grams.items():
        weights[len(gram) - 1][gram] = count * rarity.get(gram, unseen)
    return weights, sum(count for gram, count in grams.items() if len(gram) == 2)


def _ngrams(words: Sequence[str]) -> Counter[Ngram]:
    return Counter(
        tuple(words[start : start + order])
        for order in range(1, ORDERS + 1)
        for start in range(len(words) - order + 1)
    )


def bleu4(predictions: Sequence[str], references: References) -> float:
    """BLEU-4 of the corpus in [0, 1], without smoothing, against the nearest reference length.

    Words are those of COCO's evaluation up to its splitting of contractions: lower case, no punctuation.

    Example:
        >>> bleu4(["A dog runs on grass."], [["a dog runs on grass", "a dog"]])
        1.0
    """
    from sacrebleu.metrics import BLEU  # lazy: only texts need it

    width = max(map(len, references))
    plain = [[_plain(text) for text in texts] for texts in references]
    streams = [[texts[i] if i < len(texts) else None for texts in plain] for i in range(width)]
    scorer = BLEU(tokenize="none", smooth_method="none", force=True)
    score = float(scorer.corpus_score([_plain(text) for text in predictions], streams).score)
    return min(score / 100, 1.0)  # sacrebleu sums logarithms: 100.00000000000004


def meteor(predictions: Sequence[str], references: References) -> float:
    """METEOR in [0, 1], from the optional package pycocoevalcap, which runs Java.

    Raises:
        TaskError: the package or Java is missing.
    """
    return _by_java("meteor", predictions, references)


def spice(predictions: Sequence[str], references: References) -> float:
    """SPICE in [0, 1], from the optional package pycocoevalcap, which runs Java.

    Raises:
        TaskError: the package or Java is missing.
    """
    return _by_java("spice", predictions, references)


def _by_java(metric: str, predictions: Sequence[str], references: References) -> float:
    """What the class `Metric` of the module pycocoevalcap.metric.metric says."""
    require_java(metric)
    truth = {row: [_plain(text) for text in texts] for row, texts in enumerate(references)}
    found = {row: [_plain(text)] for row, text in enumerate(predictions)}
    try:
        module = import_module(f"pycocoevalcap.{metric}.{metric}")  # lazy: optional
        score, _ = getattr(module, metric.capitalize())().compute_score(truth, found)
    except Exception as fault:  # a Java program and its downloads: whatever goes wrong is the user's to know
        raise TaskError(
            f"metric {metric} must be computed by the Java program of pycocoevalcap",
            f"{type(fault).__name__}: {fault}",
            "Try pycocoevalcap by itself (SPICE fetches a parser at first), or choose cider_d or bleu4.",
        ) from fault
    return float(score)


def require_java(metric: str) -> None:
    """Do nothing where what METEOR and SPICE need is installed.

    Raises:
        TaskError: it is not; the message says what is missing.
    """
    missing = [] if find_spec("pycocoevalcap") else ["the Python package pycocoevalcap"]
    missing += [] if shutil.which("java") else ["the program java"]
    if missing:
        raise TaskError(
            f"metric {metric} needs the Python package pycocoevalcap and the program java",
            f"{' and '.join(missing)} is not installed",
            "Install them (pip install pycocoevalcap, and a Java runtime), or choose cider_d or bleu4.",
        )


def plain_words(text: str) -> list[str]:
    """The words of a caption: lower case, without punctuation.

    Example:
        >>> plain_words("A man's dog, running.")
        ['a', 'mans', 'dog', 'running']
    """
    return text.lower().translate(_NO_PUNCTUATION).split()


def _plain(text: str) -> str:
    return " ".join(plain_words(text))

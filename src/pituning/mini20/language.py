"""The six language tasks, one for each of GLUE's, with the prompts and answers of the real ones."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import replace

from pituning.datasets import language as glue
from pituning.datasets.definition import Dataset
from pituning.example import Example
from pituning.mini20.answering import draw_asking
from pituning.mini20.definition import Maker, Sizes
from pituning.mini20.entailment import draw_three_way, draw_two_way
from pituning.mini20.frames import ALL, SEEN, Frame, Vocabulary
from pituning.mini20.grammar import Form, Wording, draw_form, fitted, sentence
from pituning.mini20.paraphrase import CHANGE, draw_questions, draw_sentences
from pituning.mini20.questions import draw_passive, question
from pituning.mini20.sentiment import draw_opinion, opinion_text
from pituning.task import Task

SHORTEST, LONGEST = 4, 18
"""Words of a text."""

REWORDED = 0.1
"""How likely a word of mnli and rte that has synonyms is another in the second text."""
OTHER_FORM = 0.25
"""How likely the second text is told in another order than the first, or in the passive."""

Drawing = tuple[str, str | None, object]
"""text_a, text_b and what they were told from (frames, for the tests)."""
Draw = Callable[[random.Random, Vocabulary, str], Drawing]
"""Random numbers, the words of the split and the wanted answer to one drawing."""


def _mnli(rng: random.Random, words: Vocabulary, answer: str) -> Drawing:
    pair = draw_three_way(rng, words, answer)
    return *_two_sentences(pair.premise, pair.hypothesis, rng, REWORDED), pair


def _rte(rng: random.Random, words: Vocabulary, answer: str) -> Drawing:
    pair = draw_two_way(rng, words, answer)
    form, before = draw_form(pair.premise, rng), Wording(rng=rng)
    others = () if pair.other is None else (pair.other,)
    told = _joined(pair.premise, form, *others, wording=before)
    after = Wording(rng=rng, before=before.words, change=REWORDED)
    return told, sentence(pair.hypothesis, after, _form_after(form, pair.hypothesis, rng)), pair


def _qnli(rng: random.Random, words: Vocabulary, answer: str) -> Drawing:
    pair = draw_asking(rng, words, answer)
    before = Wording(rng=rng)
    asked = question(pair.about, pair.asked, before)
    after = Wording(rng=rng, before=before.words, change=CHANGE[answer])
    first, *second = pair.events
    return asked, _joined(first, draw_form(first, rng), *second, wording=after), pair


def _qqp(rng: random.Random, words: Vocabulary, answer: str) -> Drawing:
    pair = draw_questions(rng, words, answer)
    passive, before = draw_passive(rng), Wording(rng=rng)
    one = question(pair.one, pair.asked[0], before, passive=passive)
    after = Wording(rng=rng, before=before.words, change=CHANGE[answer])
    turned = rng.random() < OTHER_FORM
    return one, question(pair.other, pair.asked[1], after, passive=passive ^ turned), pair


def _mrpc(rng: random.Random, words: Vocabulary, answer: str) -> Drawing:
    pair = draw_sentences(rng, words, answer)
    return *_two_sentences(pair.one, pair.other, rng, CHANGE[answer]), pair


def _sst2(rng: random.Random, words: Vocabulary, answer: str) -> Drawing:
    opinion = draw_opinion(rng, answer, held_out=words is ALL)
    return opinion_text(opinion, rng), None, opinion


def _two_sentences(one: Frame, other: Frame, rng: random.Random, change: float) -> tuple[str, str]:
    """The second mostly has the first one's form; a word that can be said otherwise is so by `change`."""
    form, before = draw_form(one, rng), Wording(rng=rng)
    first = sentence(one, before, form)
    after = Wording(rng=rng, before=before.words, change=change)
    return first, sentence(other, after, _form_after(form, other, rng))


def _form_after(form: Form, frame: Frame, rng: random.Random) -> Form:
    return draw_form(frame, rng) if rng.random() < OTHER_FORM else fitted(form, frame)


def _joined(told: Frame, form: Form, *others: Frame, wording: Wording) -> str:
    """One event, or two in one sentence in any order, without a phrase in front that could mean both."""
    if not others:
        return sentence(told, wording, form)
    pair = [(told, form), *((other, draw_form(other, wording.rng)) for other in others)]
    wording.rng.shuffle(pair)
    link = wording.rng.choice((" and ", " while ", ", and ", " before "))
    return link.join(sentence(event, wording, replace(its, front=None, cleft=False)) for event, its in pair)


_DRAWS: dict[str, tuple[Dataset, Draw]] = {
    "mnli": (glue.MNLI, _mnli),
    "qqp": (glue.QQP, _qqp),
    "mrpc": (glue.MRPC, _mrpc),
    "qnli": (glue.QNLI, _qnli),
    "rte": (glue.RTE, _rte),
    "sst2": (glue.SST2, _sst2),
}


def drawings(name: str, seed: int, split: str, count: int) -> list[tuple[Example, object]]:
    """Examples of one split of a task, each with what it was told from.

    All answers are equally frequent but for the remainder of `count`. No input occurs twice, and none is
    in both test and the other splits: a checksum of the texts says which of the two may have it.
    """
    dataset, draw = _DRAWS[name]
    rng = random.Random(f"{name} {split} {seed}")
    words = ALL if split == "test" else SEEN
    answers = [list(dataset.labels or ())[number % len(dataset.labels or ())] for number in range(count)]
    rng.shuffle(answers)
    seen: set[tuple[str, str | None]] = set()
    made = []
    for answer in answers:
        while True:
            one, other, origin = draw(rng, words, answer)
            texts = (one, other)
            mine = zlib.crc32(repr(texts).encode()) % 2 == (split == "test")
            if mine and one != other and texts not in seen and _short(one) and _short(other or one):
                break
        seen.add(texts)
        made.append((Example(text_a=one, text_b=other, label=answer), origin))
    return made


def _short(text: str) -> bool:
    return SHORTEST <= len(text.split()) <= LONGEST


def _make(name: str, seed: int, sizes: Sizes) -> Task:
    dataset = _DRAWS[name][0]
    data = {
        split: tuple(example for example, _ in drawings(name, seed, split, count))
        for split, count in vars(sizes).items()
    }
    return Task(
        name=name,
        modality=dataset.modality,
        kind=dataset.kind,
        metric=dataset.metric,
        candidates=tuple(dataset.labels or ()),
        candidate_texts=dict(dataset.labels or {}),
        prompt=dataset.prompt,
        decoding=dataset.decoding,
        **data,  # type: ignore[arg-type]
    )


def mnli(seed: int, sizes: Sizes) -> Task:
    """Does a sentence follow from another: maybe, yes or no."""
    return _make("mnli", seed, sizes)


def qqp(seed: int, sizes: Sizes) -> Task:
    """Do two questions ask the same."""
    return _make("qqp", seed, sizes)


def mrpc(seed: int, sizes: Sizes) -> Task:
    """Do two sentences mean the same."""
    return _make("mrpc", seed, sizes)


def qnli(seed: int, sizes: Sizes) -> Task:
    """Does a sentence contain the answer to a question."""
    return _make("qnli", seed, sizes)


def rte(seed: int, sizes: Sizes) -> Task:
    """Does a sentence follow from a longer one."""
    return _make("rte", seed, sizes)


def sst2(seed: int, sizes: Sizes) -> Task:
    """Is an opinion positive or negative."""
    return _make("sst2", seed, sizes)


TASKS: dict[str, Maker] = {"mnli": mnli, "qqp": qqp, "mrpc": mrpc, "qnli": qnli, "rte": rte, "sst2": sst2}

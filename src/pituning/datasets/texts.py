"""Texts as the official code cleans them before they become tokens."""

from __future__ import annotations

import re
import string

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_LEADING = ",.!?*#:;~"


def clean_caption(text: str, max_words: int | None = None) -> str:
    """Lower case, no leading punctuation, blanks for - and /, single blanks; the first `max_words` words.

    Example:
        >>> clean_caption("left/most  zebra-like thing (not the <person>)")
        'left most zebra like thing (not the person)'
    """
    return _clean(text, max_words, person=True)


def clean_question(text: str, max_words: int | None = None) -> str:
    """As `clean_caption`, but <person> stays.

    Example:
        >>> clean_question("What color - is the  car ")
        'what color is the car'
    """
    return _clean(text, max_words, person=False)


def clean_sentence(text: str, max_words: int | None = None) -> str:
    """Lower case, single blanks, the first `max_words` words: the texts of GLUE.

    Example:
        >>> clean_sentence(" Case  sensitive TEXT", 2)
        'case sensitive'
    """
    return " ".join(text.lower().strip().split()[:max_words])


def caption_target(text: str, max_words: int) -> str:
    """The caption to be learnt: without punctuation, cut to `max_words` words.

    Example:
        >>> caption_target("A man's dog, running.", 3)
        'A mans dog'
    """
    return " ".join(text.translate(_NO_PUNCTUATION).split()[:max_words])


def caption_reference(text: str) -> str:
    """A caption to be compared with: without punctuation.

    Example:
        >>> caption_reference(" It's a dog! ")
        'Its a dog'
    """
    return " ".join(text.split()).translate(_NO_PUNCTUATION).strip()


def _clean(text: str, max_words: int | None, *, person: bool) -> str:
    text = text.lower().lstrip(_LEADING).replace("-", " ").replace("/", " ")
    if person:
        text = text.replace("<person>", "person")
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    words = text.split(" ")
    return text if max_words is None or len(words) <= max_words else " ".join(words[:max_words])

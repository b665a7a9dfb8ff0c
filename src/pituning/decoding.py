"""How a task's answers are decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from pituning.errors import TaskError
from pituning.spelling import did_you_mean

DecoderPrompt = Literal["none", "src", "prev_output"]


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """What generation and the decoder's input look like; the defaults are those of any other task.

    Attributes:
        decoder_prompt: what the decoder reads before the answer: nothing, the encoder's text, or that text
            without its end-of-sequence token.
        ends: whether an answer ends with the end-of-sequence token; False: it is one token without it.
        num_beams: 1 decodes greedily.
        max_new_tokens: the longest answer; the end-of-sequence token counts, but with OFA, as in its code.
        min_new_tokens: the shortest.
        no_repeat_ngram_size: no n-gram of this size twice in an answer; 0 allows all.
        box_range: pixels of the resized image that the highest box token stands for; None: the image's size.

    Raises:
        TaskError: a value of the wrong type or out of range; all of them are named.

    Example:
        >>> Decoding(num_beams=5, max_new_tokens=16).num_beams
        5
    """

    decoder_prompt: DecoderPrompt = "none"
    ends: bool = True
    num_beams: int = 1
    max_new_tokens: int = 64
    min_new_tokens: int = 0
    no_repeat_ngram_size: int = 0
    box_range: int | None = None

    def __post_init__(self) -> None:
        TaskError.collect([fault for entry in fields(self) if (fault := self._fault(entry.name))])
        if self.min_new_tokens > self.max_new_tokens:
            given = f"{self.min_new_tokens} and {self.max_new_tokens}"
            raise TaskError(
                "decoding.min_new_tokens must not exceed max_new_tokens", given, "Lower the first."
            )

    def changed(self, given: Mapping[str, Any]) -> Decoding:
        """This with the values of `given`, a mapping from field names as a task file holds it.

        Raises:
            TaskError: a name that is none of ours, or a bad value.

        Example:
            >>> Decoding(num_beams=5).changed({"max_new_tokens": 16}).max_new_tokens
            16
        """
        names = [entry.name for entry in fields(self)]
        TaskError.collect(
            [
                TaskError(
                    f"the keys of decoding must be of {', '.join(names)}",
                    f"{name!r}",
                    f"{did_you_mean(str(name), names)}Rename it, or remove it.",
                )
                for name in given
                if name not in names
            ]
        )
        return replace(self, **given)

    def changes(self) -> dict[str, Any]:
        """The fields that differ from the defaults."""
        usual = {entry.name: entry.default for entry in fields(self)}
        return {name: getattr(self, name) for name, value in usual.items() if getattr(self, name) != value}

    def _fault(self, name: str) -> TaskError | None:
        value = getattr(self, name)
        if name == "decoder_prompt":
            choices = get_args(DecoderPrompt)
            near = did_you_mean(str(value), choices)
            good, wanted = isinstance(value, str) and value in choices, f"one of {', '.join(choices)}"
        elif name == "ends":
            good, wanted, near = isinstance(value, bool), "true or false", ""
        else:
            least = 0 if name in ("min_new_tokens", "no_repeat_ngram_size") else 1
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
            good, wanted, near = whole, f"a whole number from {least}", ""
            good = good or (name == "box_range" and value is None)
        if good:
            return None
        return TaskError(f"decoding.{name} must be {wanted}", f"{value!r}", f"{near}Mend it.")

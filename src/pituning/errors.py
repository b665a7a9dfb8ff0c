"""The mistakes a user can make. Every message says what must hold, what was given and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pituning.spelling import brief, did_you_mean


class PituningError(ValueError):
    """A mistake in the input. The command prints the message and exits with code 2.

    Args:
        must: what must hold ("a task needs at least one training example").
        given: what was found instead ("train.parquet has 0 rows").
        fix: what to do about it ("add examples, or name another split in task.json").
    """

    def __init__(self, must: str, given: str, fix: str) -> None:
        self.must, self.given, self.fix = must, given, fix
        super().__init__(f"{must}; given: {given.removesuffix('.')}. {fix}")

    def __reduce__(self) -> tuple[type[PituningError], tuple[object, ...]]:
        """As another process sends it: pickle would make it from the message alone."""
        return type(self), (self.must, self.given, self.fix)

    @classmethod
    def collect(cls, faults: Sequence[PituningError]) -> None:
        """Raise all `faults` as one error, so that a user mends them in one go; do nothing for none."""
        if not faults:
            return
        if len(faults) == 1:
            raise faults[0]
        found = cls(
            " and ".join(dict.fromkeys(fault.must for fault in faults)),
            "; ".join(fault.given for fault in faults),
            " ".join(dict.fromkeys(fault.fix for fault in faults)),
        )
        found.args = ("\n- ".join([f"{len(faults)} faults:", *map(str, faults)]),)
        raise found


class TaskError(PituningError):
    """The task's files, columns, labels or metric."""


class BackboneError(PituningError):
    """The foundation model, its processor, or a task that this family of models cannot do."""


class ExpertError(PituningError):
    """An adapter's configuration, files, card or method."""


class PoolError(PituningError):
    """The pool folder and what it holds."""


class RemoteError(PituningError):
    """A Hub repository or a URL that cannot be reached, read or written."""


class StaleEmbeddingError(PoolError):
    """A task embedding whose expert, data or configuration changed since it was computed."""


class MixtureError(PituningError):
    """Experts that cannot be interpolated in the space that was asked for."""


class TrainingError(PituningError):
    """Training that cannot start or go on, such as a loss that is not finite."""


class ConfigError(PituningError):
    """An option outside its range."""

    @classmethod
    def misnamed(cls, config: object) -> list[ConfigError]:
        """A fault for each field of a dataclass whose value is none of its `Literal`."""
        hints = get_type_hints(type(config)).items()
        return [fault for name, kind in hints for fault in cls._no_choice(kind, name, getattr(config, name))]

    @classmethod
    def check_choice(cls, kind: Any, **values: object) -> None:
        """Raise ConfigError for arguments whose value is none of their `Literal`."""
        cls.collect([fault for name, value in values.items() for fault in cls._no_choice(kind, name, value)])

    @classmethod
    def _no_choice(cls, kind: Any, name: str, value: object) -> list[ConfigError]:
        allowed = _literals(kind)
        if not allowed or value in allowed:
            return []
        names = [*filter(None, allowed)]
        fix = f"{did_you_mean(str(value), names)}Name one of them."
        return [cls(f"{name} is one of {', '.join(names)}", repr(value), fix)]

    @classmethod
    def check_kinds(cls, *pairs: tuple[Any, object]) -> None:
        """Raise ConfigError for a value that is not of its type, such as a path for what lies there."""
        for kind, value in pairs:
            if not isinstance(value, kind):
                name = " or ".join(one.__name__ for one in get_args(kind) or (kind,))
                given = f"{brief(value)}, a {type(value).__name__}"
                raise cls(f"what stands here must be of type {name}", given, _MADE_BY.get(name, _MADE))

    @classmethod
    def check_numbers(cls, config: object) -> None:
        """Raise ConfigError for fields of a dataclass that are numbers or bools, and have something else.

        What is NumPy's becomes Python's, which JSON can hold.
        """
        faults = []
        for name, hint in get_type_hints(type(config)).items():
            value, kinds = getattr(config, name), get_args(hint) or (hint,)
            if value is None and NoneType in kinds:
                continue
            whole = int in kinds
            if bool in kinds and type(value).__name__ in ("bool", "bool_"):  # NumPy's, too
                object.__setattr__(config, name, bool(value))
            elif bool in kinds:
                fix = "Write one of them, without quotes."
                faults.append(cls(f"{name} must be True or False", repr(value), fix))
            if not (whole or float in kinds):
                continue
            if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
                must = f"{name} must be a {'whole ' if whole else ''}number"
                faults.append(cls(must, repr(value), "Write one, without quotes."))
            elif not isinstance(value, int | float):
                plain = int(value) if isinstance(value, Integral) else float(value)
                object.__setattr__(config, name, plain)
        cls.collect(faults)


_MADE_BY = {
    "Backbone": "`load_backbone(name_or_path)` makes one.",
    "Task": "`load_task(folder)` makes one.",
    "Pool": "`Pool(folder)` makes one.",
    "Expert": "`Expert.load(folder)` makes one.",
    "Example": "`Example(text_a=...)` makes one.",
    "TaskEmbedding": "`embed(backbone, expert, task)` makes one.",
    "Sequence": "Put it into a list.",
    "Module": "The model comes first; of an expert, `attach_expert(backbone, expert)` makes one.",
    "Mapping": "Give the `components` of a task embedding.",
    "str or PathLike": "Give the path of a folder.",
    "Integral": "Write a whole number, without quotes.",
    "Real": "Write a number, without quotes.",
}
_MADE = "Its name, with the settings in brackets, makes one."


def _literals(kind: Any) -> list[str | None]:
    """The values of a `Literal`, and None where the type is one or None; else none."""
    optional = NoneType in get_args(kind)
    kinds = get_args(kind) if optional else (kind,)
    values = [value for one in kinds if get_origin(one) is Literal for value in get_args(one)]
    return [*values, None] if values and optional else values

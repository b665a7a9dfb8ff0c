"""Command-line options from the fields of a configuration: defaults, help and checks stay beside the code."""

from __future__ import annotations

import argparse
import dataclasses
import types
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

C = TypeVar("C")


def add_options(
    parser: argparse.ArgumentParser,
    config: type[Any],
    *,
    title: str,
    prefix: str = "",
    without: Collection[str] = (),
    explained: type[Any] | None = None,
) -> None:
    """One option a field that has help text, named `--prefix-field-name`.

    Args:
        parser: gets a group of options under `title`.
        config: a dataclass.
        title: of the group.
        prefix: of the options' names, where two configurations have fields of one name.
        without: fields that are no options.
        explained: a base of `config` whose options the parser has too, without the prefix.
    """
    hints = get_type_hints(config)
    group = parser.add_argument_group(title)
    known = {entry.name for entry in dataclasses.fields(explained)} if explained else set()
    for entry in dataclasses.fields(config):
        if entry.name in without or "help" not in entry.metadata:
            continue
        option = entry.name.replace("_", "-")
        names = [entry.metadata["short"]] if "short" in entry.metadata and not prefix else []
        names.append(f"--{prefix}{'-' if prefix else ''}{option}")
        help_text = f"as --{option}" if entry.name in known else entry.metadata["help"].replace("%", "%%")
        destination = _destination(prefix, entry.name)
        kind = _plain(hints[entry.name])
        if kind is bool:
            group.add_argument(
                *names, action="store_true", dest=destination, default=argparse.SUPPRESS, help=help_text
            )
            continue
        choices = get_args(kind) if get_origin(kind) is Literal else None
        shown = "" if entry.default is None else f" (default: {entry.default})"
        group.add_argument(
            *names,
            dest=destination,
            type=str if choices else kind,
            choices=choices,
            default=argparse.SUPPRESS,
            metavar=None if choices else kind.__name__.upper(),
            help=help_text + shown,
        )


def read_options(
    options: argparse.Namespace,
    config: type[C],
    *,
    prefix: str = "",
    defaults: Mapping[str, Any] = MappingProxyType({}),
    **fixed: Any,
) -> C:
    """The configuration with `defaults`, what was given on the command line, and `fixed` on top."""
    given = vars(options)
    names = [entry.name for entry in dataclasses.fields(config)]  # type: ignore[arg-type]
    chosen = {
        name: given[_destination(prefix, name)] for name in names if _destination(prefix, name) in given
    }
    return config(**{**defaults, **chosen, **fixed})


def given_options(options: argparse.Namespace, config: type[Any], *, prefix: str = "") -> dict[str, Any]:
    """Name of an option -> value, of the fields of `config` that the command line gives (without a prefix).

    Args:
        options: as parsed.
        config: a dataclass.
        prefix: of the names in another command.
    """
    given, before = vars(options), f"--{prefix}-" if prefix else "--"
    names = [entry.name for entry in dataclasses.fields(config) if entry.name in given]
    return {f"{before}{name.replace('_', '-')}": given[name] for name in names}


def _destination(prefix: str, name: str) -> str:
    return f"{prefix}_{name}" if prefix else name


def _plain(hint: Any) -> Any:
    """`int` of `int | None`."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(kind for kind in get_args(hint) if kind is not type(None))
    return hint

"""`--recipe`: a file of settings, by name (those of the paper come with the package) or by path."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from pituning.errors import ConfigError
from pituning.interpolate import TuneConfig
from pituning.mixing import PiConfig
from pituning.safe_files import UniqueKeyLoader
from pituning.spelling import did_you_mean
from pituning.train import TrainConfig

Settings = Mapping[str, Any]
SECTIONS = {"train": TrainConfig, "mix": PiConfig, "tune": TuneConfig}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings that stand where the command line gives none.

    Attributes:
        model: of the backbone's configuration, such as its dropout.
        train: of TrainConfig; a `method` that is a file lies beside the recipe.
        mix: of PiConfig.
        tune: of TuneConfig.
    """

    model: Settings = field(default_factory=dict)
    train: Settings = field(default_factory=dict)
    mix: Settings = field(default_factory=dict)
    tune: Settings = field(default_factory=dict)

    def config(self, *, shots: int | None, seed: int) -> PiConfig:
        """All of it, for a run with so many shots."""
        train, tune = TrainConfig(**self.train), TuneConfig(**self.tune)
        return PiConfig(**self.mix, shots=shots, seed=seed, train=train, tune=tune)


def add_recipe_option(parser: argparse.ArgumentParser) -> None:
    """`--recipe`."""
    names = ", ".join(sorted(_shipped()))
    parser.add_argument(
        "--recipe", metavar="NAME|FILE", help=f"settings of the paper ({names}) or your own YAML"
    )


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The recipe that was named, or an empty one.

    Raises:
        ConfigError: no such recipe, or a section or key that is none.
    """
    return read_recipe(options.recipe) if options.recipe else Recipe()


def read_recipe(name: str) -> Recipe:
    """The recipe called `name`, or in the file of that path.

    Raises:
        ConfigError: no such recipe, or a section or key that is none.

    Example:
        >>> read_recipe("ofa-lora").mix["space"]
        'delta'
    """
    shipped = _shipped()
    path = shipped.get(name, Path(name))
    if not path.is_file():
        raise ConfigError(
            f"a recipe is a YAML file or one of {', '.join(sorted(shipped))}",
            repr(name),
            f"{did_you_mean(name, shipped)}Check the name or path.",
        )
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), UniqueKeyLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("a recipe must be YAML", f"{path}: {error}", "Mend the file.") from error
    _check(content, path)
    sections = {section: dict(values or {}) for section, values in content.items()}
    method = str(sections.get("train", {}).get("method", ""))
    if method.endswith(".json"):
        sections["train"]["method"] = str(path.parent / method)
    return Recipe(**sections)


def _shipped() -> dict[str, Path]:
    folder = Path(str(resources.files("pituning") / "recipes"))
    return {file.stem: file for file in folder.glob("*.yaml")}


def _check(content: object, path: Path) -> None:
    """Sections and keys must be known; values are checked by the configurations themselves."""
    known = [entry.name for entry in fields(Recipe)]
    must, fix = f"a recipe maps {', '.join(known)} to settings", "Write `train: {epochs: 5}`."
    if not isinstance(content, dict):
        raise ConfigError(must, f"{path}", fix)
    for section, value in content.items():
        if not isinstance(value, dict | None):
            raise ConfigError(must, f"`{section}: {value}` in {path.name}", fix)
    faults = [
        ConfigError(
            f"the sections of a recipe are {', '.join(known)}",
            f"{section!r} in {path.name}",
            f"{did_you_mean(str(section), known)}Rename it.",
        )
        for section in content
        if section not in known
    ]
    for section, config in SECTIONS.items():
        kinds = get_type_hints(config)
        names = [entry.name for entry in fields(config) if "help" in entry.metadata]
        for key, value in (content.get(section) or {}).items():
            if key not in names:
                fix = f"{did_you_mean(str(key), names)}Rename it."
                must = f"the settings of {section} are {', '.join(names)}"
                faults.append(ConfigError(must, f"{key!r} in {path.name}", fix))
            elif not _fits(value, kinds[key]):
                must = f"{key} of {section} must be {_words(kinds[key])}"
                exponent = isinstance(value, str) and float in _choices(kinds[key])
                fix = "Write numbers with a point: 1.0e-4." if exponent else "Mend it."
                faults.append(ConfigError(must, f"{value!r} in {path.name}", fix))
    ConfigError.collect(faults)


def _choices(kind: Any) -> tuple[Any, ...]:
    """What a field's type allows: types, and values of a Literal."""
    return get_args(kind) if get_args(kind) else (kind,)


def _fits(value: object, kind: Any) -> bool:
    """Whether YAML's value is of a field's type; 3 is a float too, yes is no number."""
    kinds = _choices(kind)
    numbers = (float,) if isinstance(value, int) and not isinstance(value, bool) else ()
    return type(value) in kinds or value in kinds or any(number in kinds for number in numbers)


def _words(kind: Any) -> str:
    return " or ".join(one.__name__ if isinstance(one, type) else repr(one) for one in _choices(kind))

"""Freely licensed pictures and text that installable packages carry.

| source | package | licence | read |
|---|---|---|---|
| emoji | npm `emoji-datasource-google` 16.0.0 | MIT; pictures: Noto Emoji, Apache 2.0 | pictures, names |
| WordNet 3.0 | Debian `wordnet-base` | WordNet 3.0 | nouns that were met in tagged text: glosses |
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pituning.errors import TaskError

EMOJI_SHA256 = "1d602e65be88772bf8cc368ce16b855d719eeddbafe128d471b80203f494d29f"
NOUNS_SHA256 = "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2"

LONGEST_NAME, LONGEST_GLOSS = 5, 14
"""Words."""

NOT_SHOWN = ("Flags", "Component")
"""Categories of emoji that are left out."""


@dataclass(frozen=True, eq=False)
class Emoji:
    """A picture, uint8 [64, 64, 4] with its alpha, and its name."""

    name: str
    picture: NDArray[np.uint8]


@dataclass(frozen=True)
class Gloss:
    """A noun and its definition."""

    word: str
    text: str


def read_emoji(folder: Path) -> tuple[Emoji, ...]:
    """Those of the package folder whose name has at most `LONGEST_NAME` words.

    Raises:
        TaskError: the folder is not that of the package, or of another version.
    """
    index = _checked(folder / "emoji.json", EMOJI_SHA256, "npm pack emoji-datasource-google@16.0.0")
    found = []
    for entry in json.loads(index):
        name = str(entry["name"]).lower()
        shown = entry["has_img_google"] and entry["category"] not in NOT_SHOWN
        if shown and len(name.split()) <= LONGEST_NAME:
            with Image.open(folder / "img" / "google" / "64" / entry["image"]) as image:
                found.append(Emoji(name, np.asarray(image.convert("RGBA"))))
    return tuple(found)


def read_glosses(folder: Path) -> tuple[Gloss, ...]:
    """The first sense of each noun of one word that tagged text holds, where its gloss is short.

    Raises:
        TaskError: the folder does not hold WordNet 3.0.
    """
    advice = "apt-get install wordnet-base; its folder is /usr/share/wordnet"
    data = _checked(folder / "data.noun", NOUNS_SHA256, advice)
    senses = {line[:8]: line for line in data.decode("ascii").splitlines() if not line.startswith("  ")}
    found = []
    for line in (folder / "index.noun").read_text("ascii").splitlines():
        fields = line.split()
        if line.startswith("  ") or "_" in fields[0] or not fields[0].isalpha():
            continue
        pointers = int(fields[3])
        tagged, first = int(fields[5 + pointers]), fields[6 + pointers]
        gloss = senses[first].partition(" | ")[2]
        text = gloss.split(";")[0].split(' "')[0].strip().lower()
        if tagged and len(text.split()) <= LONGEST_GLOSS:
            found.append(Gloss(fields[0], text))
    return tuple(found)


def _checked(file: Path, sha256: str, advice: str) -> bytes:
    if not file.is_file():
        raise TaskError(f"{file.parent} must hold {file.name}", "there is none", f"Get it by: {advice}")
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise TaskError(
            f"{file} must be of the version that ofa-mini was made with", "another", f"Get it by: {advice}"
        )
    return data

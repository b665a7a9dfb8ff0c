"""The README of a pool on the Hub: its experts, how alike their tasks are, how to load them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import final

import yaml

from pituning.adapter_files import CARD, CONFIG
from pituning.card import ExpertCard
from pituning.errors import PituningError, PoolError
from pituning.pool import Pool
from pituning.predict import Neighbor, TaskEmbedding, TaskGraph
from pituning.predict.embedding import EMBEDDING
from pituning.predict.sketch import layout
from pituning.remote.layout import SharedPool, at_once
from pituning.remote.place import REPOSITORY
from pituning.safe_files import parse_json

MARK = "<!-- Written by `pituning pool push`, which replaces it. To keep your own text, delete this line. -->"
MOST_COMPARED = 200
MOST_SHOWN = 1000
NEIGHBORS = 3

Files = Mapping[str, bytes]


@final
@dataclass(frozen=True)
class Row:
    """What the table says of an expert."""

    name: str
    task: str
    method: str
    scores: Mapping[str, float]
    backbone: str

    @classmethod
    def of(cls, name: str, files: Files) -> Row:
        """Of an expert's card and configuration."""
        card = ExpertCard.parse(files[CARD], f"{name}/{CARD}")
        method = str(parse_json(files[CONFIG]).get("peft_type", ""))
        return cls(name, card.task, method, card.scores, card.backbone_name)


def is_ours(readme: bytes) -> bool:
    """Whether a push wrote it, and may replace it."""
    return MARK.encode() in readme


def model_card(pool: Pool, shared: SharedPool, pushed: Collection[str]) -> str:
    """The README of the repository once the experts `pushed` are there too.

    Of the others, what it says is read at the place.
    """
    names = sorted({*shared.names, *pushed})
    compared = len(names) <= MOST_COMPARED
    others = [name for name in names[:MOST_SHOWN] if name not in pushed]
    found = dict(zip(others, at_once(lambda name: _at_place(shared, name, compared), others), strict=True))
    found |= {name: _told(pool.files(name), compared) for name in names[:MOST_SHOWN] if name in pushed}
    rows = [_row(name, found[name]) for name in names[:MOST_SHOWN]]
    near = nearest({name: files[EMBEDDING] for name, files in found.items() if EMBEDDING in files})
    return text(shared.place.repository, rows, near if compared else {}, len(names))


def nearest(embeddings: Files) -> dict[str, list[Neighbor]]:
    """The nearest of each, among those of embeddings that can be compared."""
    groups: dict[bytes, dict[str, TaskEmbedding]] = defaultdict(dict)
    for name, content in embeddings.items():
        with suppress(PituningError):
            one = TaskEmbedding.from_bytes(content, Path(name))
            groups[layout(one)][name] = one
    found: dict[str, list[Neighbor]] = {}
    for group in groups.values():
        graph = TaskGraph([*group.values()], names=[*group])
        found |= {name: graph.nearest(embedding, NEIGHBORS) for name, embedding in group.items()}
    return found


def text(repository: str, rows: Sequence[Row], near: Mapping[str, Sequence[Neighbor]], experts: int) -> str:
    """The README itself.

    Args:
        repository: the Hub's id.
        rows: of the experts shown.
        near: expert -> its neighbours; no column where it is empty.
        experts: how many there are.
    """
    backbones = sorted({row.backbone for row in rows if _is_on_hub(row.backbone)})
    methods = sorted({row.method.lower() for row in rows if row.method})
    front = {"library_name": "peft", "tags": ["pituning", "adapter-pool", *methods]}
    front |= {"base_model": backbones[0] if len(backbones) == 1 else backbones} if backbones else {}
    columns = ["expert", "task", "method", "scores", *(["nearest tasks"] if near else [])]
    table = [columns, ["---"] * len(columns)]
    for row in rows:
        scores = ", ".join(f"{plain(split)} {score:.4f}" for split, score in row.scores.items())
        cells = [plain(row.name), plain(row.task), plain(row.method), scores]
        if near:
            cells.append(", ".join(f"{plain(n.name)} {n.similarity:.3f}" for n in near.get(row.name, ())))
        table.append(cells)
    more = [f"And {experts - len(rows)} more."] if experts > len(rows) else []
    example = rows[0].name if rows else "EXPERT"
    base = backbones[0] if backbones else "path/of/the/backbone"
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, sort_keys=False).rstrip(),
            "---",
            MARK,
            f"# A pool of {experts} PEFT experts",
            "",
            "Each folder is a PEFT adapter with a card, `expert.json`; `.manifest` has its SHA-256 hashes.",
            "",
            *("| " + " | ".join(cells) + " |" for cells in table),
            *more,
            "",
            "Scores are in the metric that the expert's card names; how alike two tasks are, in [0, 1], is "
            "the similarity of their Fisher embeddings.",
            "",
            "## Load",
            "",
            "All of it, to tune on a new task:",
            "",
            "```",
            f"pituning pool pull pool --from {repository}",
            "pituning tune TASK --backbone BACKBONE --pool pool --out adapter",
            "```",
            "",
            "One expert, with PEFT alone:",
            "",
            "```python",
            "from peft import PeftModel",
            "from transformers import AutoModel",
            "",
            f'backbone = AutoModel.from_pretrained("{base}")',
            f'model = PeftModel.from_pretrained(backbone, "{repository}", subfolder="{example}")',
            "```",
            "",
            "Take the `AutoModelFor…` class that fits the backbone. Experts of a method that PEFT lacks "
            "(bottleneck adapter, self-attention prefix, bias differences) need `import pituning` first.",
            "",
        ]
    )


def plain(said: str) -> str:
    """A stranger's text as one cell of a table, without markup of its own."""
    return re.sub(r"([\\`*_{}\[\]<>|#!&~])", r"\\\1", " ".join(said.split()))


def _row(name: str, files: Files) -> Row:
    try:
        return Row.of(name, files)
    except (PituningError, LookupError, ValueError, AttributeError):  # another's expert, which is damaged
        return Row(name, "", "", {}, "")


def _told(files: Files, compared: bool) -> Files:
    """Without the weights, of which a thousand experts have too many to hold."""
    return {file: content for file, content in files.items() if file in _wanted(compared)}


def _at_place(shared: SharedPool, name: str, compared: bool) -> Files:
    """What the card says of an expert that is there already; nothing of one that is damaged."""
    try:
        return shared.files(name, shared.entry(name), _wanted(compared))
    except PoolError:
        return {}


def _wanted(compared: bool) -> set[str]:
    return {CARD, CONFIG, EMBEDDING} if compared else {CARD, CONFIG}


def _is_on_hub(backbone: str) -> bool:
    return bool(REPOSITORY.fullmatch(backbone)) and not Path(backbone).exists()

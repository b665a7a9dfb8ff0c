"""The model that the package carries."""

from __future__ import annotations

from random import Random

import pytest
import torch
from safetensors import safe_open
from skill_answers import right

from pituning.backbones import Backbone, load_backbone
from pituning.errors import BackboneError
from pituning.pretrain.skills import Skill, comparing, grounding, matching, reading
from pituning.weights import OFA_MINI

MOST_BYTES = 16_000_000


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("ofa-mini")


def test_the_files_are_small_and_say_nothing_of_where_they_were_made() -> None:
    assert sum(file.stat().st_size for file in OFA_MINI.iterdir()) <= MOST_BYTES
    assert (OFA_MINI / "README.md").is_file()
    for file in OFA_MINI.glob("*.json"):
        assert "_name_or_path" not in file.read_text()


def test_the_weights_are_stored_in_half_precision_and_loaded_in_single(backbone: Backbone) -> None:
    with safe_open(OFA_MINI / "model.safetensors", framework="pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert kinds <= {torch.float16, torch.int64}
    assert {p.dtype for p in backbone.model.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in backbone.model.parameters())
    assert backbone.name == "ofa-mini"


@pytest.mark.parametrize(
    ("skill", "least"), [(grounding, 0.85), (matching, 0.9), (reading, 0.9), (comparing, 0.9)]
)
def test_it_has_learnt_its_skills(backbone: Backbone, skill: Skill, least: float) -> None:
    """On samples that it never saw, written greedily: the very words, or a box with an IoU of 0.5."""
    rng = Random(f"test {skill.__name__}")
    assert right(backbone, [skill(rng) for _ in range(64)]) >= least


def test_a_plain_folder_of_that_name_is_named_by_its_path() -> None:
    with pytest.raises(BackboneError, match="a backbone is a local folder, a Hub id, 'ofa-mini' or 'minilm'"):
        load_backbone("./ofa-mini")

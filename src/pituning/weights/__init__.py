"""What the package carries: the model `ofa-mini`, made by `python -m pituning.pretrain` (see its README)."""

from __future__ import annotations

from pathlib import Path

OFA_MINI = Path(__file__).parent / "ofa-mini"

"""What the package carries: the model `ofa-mini`, and a pool of its experts for the twenty tasks of `mini20`.

Both are made by commands of ours: see the model's README, and docs/mini20.md.
"""

from __future__ import annotations

from pathlib import Path

OFA_MINI = Path(__file__).parent / "ofa-mini"
MINI20 = Path(__file__).parent / "mini20"

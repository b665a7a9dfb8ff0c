"""Load saved experts in a process of their own: transformers and PEFT, nothing of ours.

Argument: a JSON file [{cell, auto, base, labels, adapter, arrays, own}]. `arrays` is a safetensors file with
the inputs under "in." and the expected outputs as "expected". Cells with `own` are loaded last: their methods
PEFT lacks, and they need `import pituning.methods`. Prints JSON: cell -> largest difference, or the error.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file

OUTPUTS = ("logits", "logits_per_image", "last_hidden_state")


def difference(cell: dict) -> float:
    auto = getattr(transformers, cell["auto"])
    # The head that was saved with the adapter takes the place of the base's, whatever its size.
    sized = {"num_labels": cell["labels"], "ignore_mismatched_sizes": True} if cell["labels"] else {}
    base = auto.from_pretrained(cell["base"], **sized)
    model = PeftModel.from_pretrained(base, cell["adapter"]).eval()
    arrays = load_file(cell["arrays"])
    expected = arrays.pop("expected")
    with torch.no_grad():
        output = model(**{name.removeprefix("in."): tensor for name, tensor in arrays.items()})
    found = next(output[name] for name in OUTPUTS if output.get(name) is not None)
    if found.shape != expected.shape:
        raise ValueError(f"{tuple(found.shape)} instead of {tuple(expected.shape)}")
    return float((found - expected).abs().max())


def main(file: str) -> None:
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    found = {}
    for cell in sorted(json.loads(Path(file).read_text()), key=lambda cell: cell["own"]):
        if cell["own"]:
            import pituning.methods  # noqa: F401
        elif "pituning" in sys.modules:
            raise SystemExit("pituning was imported")
        try:
            found[cell["cell"]] = difference(cell)
        except Exception as error:
            found[cell["cell"]] = f"{type(error).__name__}: {error}"
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])

"""Reports of made-up tasks, for the tests of the page."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from pituning.report import Answer, ExampleShown, Plane, Point, Report, grid

NAMES = [
    *("refcoco", "refcoco+", "refcocog", "snli-ve", "coco-captions", "vqav2"),
    *("food101", "caltech101", "dtd", "eurosat", "fgvc-aircraft", "flowers102", "oxford-pets"),
    *("stanford-cars", "mnli", "qqp", "mrpc", "qnli", "rte", "sst2"),
]
MODALITIES = ["image+text"] * 4 + ["image", "image+text"] + ["image"] * 8 + ["text"] * 6
KINDS = ["image+text", "image", "text", "unknown"]


def similarities(modalities: list[str], seed: int = 0) -> list[list[float]]:
    """Tasks of one modality are alike."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(len(KINDS), 12)) * 1.3
    points = np.array([centres[KINDS.index(kind)] + generator.normal(size=12) for kind in modalities])
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    return np.exp(-apart / 9).tolist()


def pool_report(tasks: int = 20) -> Report:
    """What `graph` shows."""
    names = (NAMES + [f"task-{index}" for index in range(tasks)])[:tasks]
    modalities = (MODALITIES + ["unknown"] * tasks)[:tasks]
    command = "pituning graph --pool pool --out graph.html"
    return Report(
        title="The tasks of pool",
        names=names,
        modalities=modalities,
        similarity=similarities(modalities),
        commands=[command],
    )


def whole_report(tasks: int = 20) -> Report:
    """What `tune` shows: every part of a page."""
    pool = pool_report(tasks)
    target, *others = pool.names
    near = sorted(others, key=lambda name: -pool.similarity[0][pool.names.index(name)])[:3]
    mixed = [target, *near]
    weights = {
        f"layer.{layer}.query": {
            name: (2 if i == layer % len(mixed) else 1) / (1 + len(mixed)) for i, name in enumerate(mixed)
        }
        for layer in range(12)
    }
    history = [
        {"epoch": epoch, "loss": 2 / epoch, "validation_loss": 2.2 / epoch, "score": 1 - 0.5 / epoch}
        for epoch in range(1, 6)
    ]
    return Report(
        title=f"π-Tuning of {target}",
        summary=["The mixture was kept."],
        names=pool.names,
        modalities=pool.modalities,
        similarity=pool.similarity,
        target=target,
        neighbors={name: pool.similarity[0][pool.names.index(name)] for name in near},
        weights=weights,
        plane=Plane(
            corners=(target, others[0], others[-1]),
            points=[Point(weights=at, loss=1 + at[1] + 3 * at[2], score=at[0]) for at in grid()],
        )
        if tasks > 2
        else None,
        curves={"The task's own expert": history, "The mixture": history},
        scores={"backbone alone": 0.1, "the task's own expert": 0.5, "π-Tuning (saved)": 0.6},
        metric="acc@iou0.5",
        examples=[
            ExampleShown(
                text="the red one",
                image=png(),
                answers=[
                    Answer(who="gold", text="250 250 750 750", box=(0.25, 0.25, 0.75, 0.75)),
                    Answer(who="the task's own expert", text="left", right=False, box=(0, 0, 0, 0)),
                    Answer(who="π-Tuning", text="250 250 750 800", right=True, box=(0.25, 0.25, 0.75, 0.8)),
                ],
            ),
            ExampleShown(text="is it?", answers=[Answer(who="gold", text="yes"), Answer(who="a", text="")]),
        ],
        commands=["pituning tune refcoco --backbone b --pool pool --out out", "pituning eval refcoco"],
        facts={"torch": "2.4"},
    )


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, format="PNG")
    return file.getvalue()

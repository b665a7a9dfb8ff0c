"""What a page shows of a tuned task."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence

from PIL import Image

from pituning.backbones import Backbone
from pituning.example import Example, first_by_hash
from pituning.expert import attach_expert
from pituning.interpolate import Mixture
from pituning.metrics import format_box, parse_box
from pituning.pool import Pool
from pituning.report import Answer, ExampleShown, Plane, Point, Report, grid
from pituning.result import PiResult
from pituning.selection import bare
from pituning.spelling import listed
from pituning.task import Task
from pituning.train import evaluate

log = logging.getLogger(__name__)

SHOWN = 6  # test examples
MEASURED = 32  # test examples, in the plane between three experts; fewer of many candidates
LETTERS = 600  # of a text, at most
PIXELS = (160, 320)  # of a picture's longer side: enlarged to the first at least, reduced to the second
JUDGED = {"exact_match", "acc@iou0.5", "vqa_accuracy"}  # metrics that judge a single free-form answer


def tune_report(
    backbone: Backbone, task: Task, pool: Pool, result: PiResult, commands: Sequence[str]
) -> Report:
    """The result of `pi_tune(backbone, task, pool)`, with the answers to some test examples."""
    modalities = {expert.name: expert.card.modality for expert in result.others}
    modalities[result.own.name] = task.modality
    names = [name for name in result.similarity if name in modalities]
    titles, trained = stage_titles(result), result.own.card  # an adapter from elsewhere has no history
    return Report(
        title=f"π-Tuning of {task.name}",
        summary=_summary(result),
        names=names,
        modalities=[modalities[name] for name in names],
        similarity=[[result.similarity[name][other] for other in names] for name in names],
        target=result.own.name,
        neighbors={neighbor.name: neighbor.similarity for neighbor in result.neighbors},
        weights=result.weights_by_group if result.neighbors else {},
        kept=result.kept == "mixture",
        plane=plane_between(backbone, task, result),
        curves={"The task's own expert": trained.history, "The mixture": result.history},
        kept_epochs={
            "The task's own expert": trained.recipe.get("best_epoch"),
            "The mixture": result.best_epoch,
        },
        scores={titles[stage]: result.scores[stage] for stage in shown_stages(result)},
        metric=result.metric,
        examples=shown_examples(backbone, task, result, pool.init_seed),
        commands=commands,
        facts={
            "backbone": f"{backbone.name} ({backbone.fingerprint[:12]})",
            "pool": str(pool.path),
            **result.expert.card.versions,
        },
    )


def stage_titles(result: PiResult) -> dict[str, str]:
    """The names of `scores`, for people."""
    return {
        "base": "backbone alone",
        "expert": "the task's own expert",
        "neighbor": f"best neighbour alone ({result.best_neighbor})",
        "init": f"mixture before tuning ({_told_start(result)})",
        "pi": "π-Tuning (saved)" if result.kept == "mixture" else "the task's own expert (saved)",
    }


def shown_stages(result: PiResult) -> list[str]:
    """Those scored; without neighbours, what was not mixed is the expert again."""
    return [stage for stage in result.scores if stage != "init" or result.neighbors]


def _told_start(result: PiResult) -> str:
    if not result.start:
        return "equal weights"
    return f"mostly {result.start}"


def plane_between(backbone: Backbone, task: Task, result: PiResult) -> Plane | None:
    """The loss of mixtures of the task's own expert, and the most and the least alike of other tasks.

    None where there are fewer than two of those, or the task has no test split.
    """
    own, others = result.own, result.others
    examples = tuple(first_by_hash(task.test, MEASURED // (1 + len(task.candidates) // MEASURED)))
    if len(others) < 2 or not examples:
        return None
    log.info("report: the loss between %s, %s and %s", own.name, others[0].name, others[-1].name)
    experts = [own, others[0], others[-1]]
    corners = (own.name, others[0].name, others[-1].name)
    mixture = Mixture(backbone, experts, space=result.space, target=result.own.name)
    points = []
    for weights in grid():
        mixture.start_at(dict(zip(corners, weights, strict=True)))
        found = evaluate(backbone, mixture.mixed(), task, examples, draw=False)
        points.append(Point(weights=weights, loss=-found.negative_loss, score=found.score))
    return Plane(corners=corners, points=points)


def shown_examples(backbone: Backbone, task: Task, result: PiResult, seed: int) -> list[ExampleShown]:
    """The first test examples by hash, as the bare backbone, the own expert and the mixture answer them."""
    examples = first_by_hash(task.test, SHOWN)
    if not examples:
        return []
    models = {
        "backbone alone": bare(backbone, task, seed),
        "the task's own expert": attach_expert(backbone, result.own),
    }
    if result.neighbors:
        after = "π-Tuning" if result.kept == "mixture" else "the mixture, which was not kept"
        models[after] = attach_expert(backbone, result.mixture)
    answers = {who: backbone.predict(model, examples, task) for who, model in models.items()}
    return [
        shown(task, example, {who: given[row] for who, given in answers.items()})
        for row, example in enumerate(examples)
    ]


def shown(task: Task, example: Example, said: Mapping[str, str]) -> ExampleShown:
    """An example, its gold answer, and who says what to it."""
    boxes = task.draws_boxes
    gold = task.candidates[task.answer_index(example)] if task.candidates else task.answer(example)
    answers = [Answer(who="gold", text=gold, box=example.bbox if boxes else None)]
    for who, text in said.items():
        right = _right(task, example, text, gold)
        box = parse_box(text) if boxes else None
        told = format_box(box) if box and any(box) else text  # as the gold one is written, in integers
        answers.append(Answer(who=who, text=told, right=right, box=box))
    text = task.text(example)
    return ExampleShown(
        text=text if len(text) <= LETTERS else f"{text[:LETTERS]} …",
        image=None if example.image is None else _png(example.open_image()),
        answers=answers,
    )


def _right(task: Task, example: Example, said: str, gold: str) -> bool | None:
    """None where the metric does not judge one answer alone."""
    if task.candidates:
        return said == gold
    return task.score([said], [example]) >= 0.5 if task.metric in JUDGED else None


def _png(picture: Image.Image) -> bytes:
    """The picture at a size fit to be looked at."""
    least, most = PIXELS
    longer = max(picture.size)
    if longer < least:
        times = -(-least // longer)
        picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    picture.thumbnail((most, most))
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


def _summary(result: PiResult) -> list[str]:
    """What was mixed, and what was kept."""
    told = ", ".join(f"{n.name} ({n.similarity:.3f})" for n in result.neighbors)
    mixed = f"Mixed with the task's own expert: {told}." if told else told_alone(result)
    if not result.validation and result.kept == "mixture":
        unchecked = "There was nothing to validate on: the mixture was kept unchecked."
        return [mixed, unchecked, *told_worse(result)]
    kept = "The mixture was kept" if result.kept == "mixture" else "The task's own expert was kept"
    return [mixed, *([f"{kept}: {told_lead(result)}."] if result.lead else []), *told_worse(result)]


def told_alone(result: PiResult) -> str:
    """Why there is no mixture."""
    told = f"No expert of the pool can be mixed with it in {result.space} space"
    return f"{told}: {listed(result.reasons)}." if result.reasons else f"{told}."


def told_worse(result: PiResult) -> list[str]:
    """A sentence where the bare backbone does better; nothing elsewhere."""
    if not result.scores or result.scores["pi"] >= result.scores["base"]:
        return []
    return ["On the test split the backbone alone scores higher than the adapter that was saved."]


def told_lead(result: PiResult) -> str:
    """What decided, of the own expert and of the mixture, and how sure that is."""
    both = ", ".join(f"{name} {value:.4f}" for name, value in result.deciding.items())
    told = f"{result.decided_by} of {both}"
    if not result.lead:
        return told
    side = "ahead" if result.lead.mean > 0 else "behind"
    error = f"{abs(result.lead.mean):.4f}, standard error {result.lead.error:.4f}"
    lead = f"the mixture is {side} by {error}, on {result.lead.examples} labelled examples"
    if result.decided_by_score:
        return f"{told}, as answers are written; by the loss {lead}"
    told += f"; {lead}"
    if result.lead.mean <= 0 and result.kept == "mixture":
        told += " (kept all the same, being behind by no more than its standard error)"
    scores = [f"{who} {found['score']:.4f}" for who, found in result.validation.items() if "score" in found]
    return told + (f"; {result.metric} of {', '.join(scores)}" if scores else "")

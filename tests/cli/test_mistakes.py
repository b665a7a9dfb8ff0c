"""A user's mistake: exit code 2, one clear message on stderr, nothing on stdout, nothing changed on disk."""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from command import SHORT, call, outcome_of, process, read_rows, refuse, tree, write_rows, write_task
from conftest import World

Case = Callable[[World, Path], tuple[object, ...]]


def training(world: World, task: Path, pool: Path, *options: object) -> tuple[object, ...]:
    return ("train", task, "--backbone", world.backbone, "--pool", pool, *SHORT, *options)


def tune(world: World, out: Path, *options: object) -> tuple[object, ...]:
    fixed = ("--backbone", world.backbone, "--pool", world.pool, "--out", out)
    return ("tune", world.task(), *fixed, *options)


def tuning(world: World, out: Path, *options: object) -> tuple[object, ...]:
    return tune(world, out, "--epochs", 1, "--expert-epochs", 1, *options)


def broken_task(world: World, folder: Path, change: Callable[[Path], Any]) -> tuple[object, ...]:
    change(write_task(folder / "task"))
    return training(world, folder / "task", folder / "pool")


def without_column(task: Path) -> None:
    write_rows(task / "train.jsonl", [{"label": row["label"]} for row in read_rows(task / "train.jsonl")])


def with_metric(task: Path) -> None:
    said = json.loads((task / "task.json").read_text())
    (task / "task.json").write_text(json.dumps(said | {"metric": "acuracy"}))


def empty(task: Path) -> None:
    (task / "validation.jsonl").write_text("")


def with_label(task: Path) -> None:
    write_rows(task / "train.jsonl", [*read_rows(task / "train.jsonl"), {"text_a": "w1", "label": "rde"}])


def method(folder: Path, kind: str, **values: object) -> Path:
    """A file of a method."""
    file = folder / "method.json"
    file.write_text(json.dumps({"peft_type": kind, **values}))
    return file


def one_class(world: World, folder: Path) -> tuple[object, ...]:
    task = write_task(folder / "task")
    kept = [row for row in read_rows(task / "train.jsonl") if row["label"] == "red"]
    write_rows(task / "train.jsonl", kept)
    return training(world, task, folder / "pool", "--shots", 2)


def unreadable_picture(world: World, folder: Path) -> tuple[object, ...]:
    task = folder / "task"
    task.mkdir()
    (task / "task.json").write_text('{"modality": "image", "labels": ["red", "green"]}')
    pictures = [tiny.png([[[200, 0, 0]] * 8] * 8), tiny.png([[[0, 200, 0]] * 8] * 8), b"not a picture"]
    for index, content in enumerate(pictures):
        (task / f"{index}.png").write_bytes(content)
    labels = ["red", "green", "red"]
    write_rows(
        task / "train.jsonl", [{"file_name": f"{i}.png", "label": label} for i, label in enumerate(labels)]
    )
    backbone = tiny.save("vit", folder / "vit")
    return ("train", task, "--backbone", backbone, "--pool", folder / "pool", *SHORT)


def other_backbone(folder: Path) -> Path:
    return tiny.save("bert", folder / "other", seed=1)


def on_other_backbone(world: World, folder: Path) -> tuple[object, ...]:
    fixed = ("--backbone", other_backbone(folder), "--pool", world.pool, "--out", folder / "out")
    return ("tune", world.task(), *fixed)


def evaluated_on_other_backbone(world: World, folder: Path) -> tuple[object, ...]:
    return ("eval", world.task("a"), "--expert", world.pool / "a", "--backbone", other_backbone(folder))


def truncated(world: World, folder: Path) -> tuple[object, ...]:
    pool = shutil.copytree(world.pool, folder / "pool")
    weights = pool / "b" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    return ("tune", world.task(), "--backbone", world.backbone, "--pool", pool, "--out", folder / "out")


def truncated_expert(world: World, folder: Path) -> tuple[object, ...]:
    expert = shutil.copytree(world.pool / "b", folder / "b")
    weights = expert / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    return ("eval", world.task("b"), "--expert", expert)


def pickled(world: World, folder: Path) -> Path:
    expert = shutil.copytree(world.pool / "a", folder / "a")
    (expert / "adapter_model.safetensors").unlink()
    (expert / "adapter_model.bin").write_bytes(b"\x80\x04.")
    return expert


def not_a_pool(world: World, folder: Path) -> Path:
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("mine")
    return folder / "mine"


def below_a_file(folder: Path) -> Path:
    """Not writable even for root."""
    (folder / "file").write_text("mine")
    return folder / "file" / "new"


def existing(folder: Path) -> Path:
    (folder / "out").mkdir()
    return folder / "out"


TASKS: dict[str, tuple[Case, tuple[str, ...]]] = {
    "no task folder": (
        lambda w, t: training(w, w.root / "tasks" / "targe", t / "pool"),
        ("a task must be an existing folder", "targe", "Did you mean 'target'?"),
    ),
    "missing column": (
        lambda w, t: broken_task(w, t, without_column),
        ("must have a column 'text_a'", "columns 'label'", "columns: {text_a: THEIR_NAME}"),
    ),
    "unknown metric": (
        lambda w, t: broken_task(w, t, with_metric),
        ("metric must be one of", "'acuracy'", "Did you mean 'accuracy'?"),
    ),
    "empty split": (
        lambda w, t: broken_task(w, t, empty),
        ("must have at least one example", "validation.jsonl with 0 rows", "Add rows"),
    ),
    "label outside the candidates": (
        lambda w, t: broken_task(w, t, with_label),
        ("one of the candidates red, green", "train row 25: label 'rde'", "Did you mean 'red'?"),
    ),
    "one class alone": (one_class, ("must hold every class", "1 of 2 classes: red", "for 'green'")),
    "undecodable picture": (
        unreadable_picture,
        ("an image must be a file that Pillow can decode", "train row 3: 13 bytes", "Replace the file"),
    ),
}

BACKBONES: dict[str, tuple[Case, tuple[str, ...]]] = {
    "no such backbone folder": (
        lambda w, t: (
            *("train", w.task(), "--pool", t / "pool"),
            *("--backbone", "./no-such"),
        ),
        ("a backbone is a local folder", "'./no-such', a folder that does not exist", "Check the path"),
    ),
    "no such backbone on the Hub": (
        lambda w, t: ("train", w.task(), "--pool", t / "pool", "--backbone", "no-such/model"),
        ("a backbone is a local folder, a Hub id", "no-such/model", "Check the path or name"),
    ),
    "backbone folder without a model": (
        lambda w, t: ("train", w.task(), "--pool", t / "pool", "--backbone", w.task()),
        ("a backbone is a local folder", "target", "config.json is missing, damaged or of another version"),
    ),
    "pool of another backbone": (
        on_other_backbone,
        ("must hold experts that were trained on this backbone", "was not trained on", "Name the backbone"),
    ),
    "expert of another backbone": (
        evaluated_on_other_backbone,
        ("must be used on the backbone it was trained on", "has fingerprint", "Load that backbone"),
    ),
}

FILES: dict[str, tuple[Case, tuple[str, ...]]] = {
    "truncated weights in the pool": (
        truncated,
        ("'b' must be as it was added", "adapter_model.safetensors was altered", "add it again"),
    ),
    "truncated weights": (truncated_expert, ("must be a whole safetensors file", "truncated", "again")),
    "pickle into the pool": (
        lambda w, t: ("pool", "add", t / "new", pickled(w, t)),
        ("never read", "only adapter_model.bin, a pickle", "safe_serialization=True"),
    ),
    "pickle to eval": (
        lambda w, t: ("eval", w.task("a"), "--expert", pickled(w, t)),
        ("never read", "only adapter_model.bin, a pickle", "safe_serialization=True"),
    ),
    "pool not writable": (
        lambda w, t: training(w, w.task(), below_a_file(t)),
        ("must be writable", "Not a directory", "another folder"),
    ),
    "pool to add to not writable": (
        lambda w, t: ("pool", "add", below_a_file(t), w.pool / "a"),
        ("must be writable", "Not a directory", "another folder"),
    ),
    "adapter not writable": (
        lambda w, t: tuning(w, below_a_file(t)),
        ("must be writable", "Not a directory", "another folder"),
    ),
    "report not writable": (
        lambda w, t: ("graph", "--pool", w.pool, "--out", below_a_file(t)),
        ("must be writable", "Not a directory", "another --out"),
    ),
    "adapter folder exists": (
        lambda w, t: tuning(w, existing(t)),
        ("never overwritten", "out exists", "another --out"),
    ),
    "report exists": (
        lambda w, t: ("graph", "--pool", w.pool, "--out", existing(t)),
        ("never overwritten", "out exists", "another --out"),
    ),
    "demo folder exists": (
        lambda w, t: ("demo", "--out", existing(t)),
        ("a new folder", "which exists", "another --out"),
    ),
    "demo folder not writable": (
        lambda w, t: ("demo", "--out", below_a_file(t)),
        ("file must be writable", "choose another folder"),
    ),
    "unknown target of the demo": (
        lambda w, t: ("demo", "--target", "refcoccog", "--out", t / "out"),
        ("--target is one of refcoco, ", "given: 'refcoccog'", "Did you mean 'refcocog'?"),
    ),
    "not a pool to train into": (
        lambda w, t: training(w, w.task(), not_a_pool(w, t)),
        ("a new pool starts in a new or empty folder", "holds other files", "Choose another"),
    ),
    "not a pool to tune from": (
        lambda w, t: (
            *("tune", w.task(), "--backbone", w.backbone),
            *("--pool", not_a_pool(w, t), "--out", t / "out"),
        ),
        ("a pool is a folder with a pool.json", "mine has none", "pituning pool build"),
    ),
    "an own expert of another task": (
        lambda w, t: tune(w, t / "out", "--expert", w.pool / "a"),
        ("the own expert must fit target", "a is of the task a", "Leave it out"),
    ),
    "no own expert": (
        lambda w, t: tune(w, t / "out", "--expert", w.pool / "none"),
        ("an expert is an existing folder", "none", "Check the path"),
    ),
    "an own expert with settings to train one": (
        lambda w, t: tune(w, t / "out", "--expert", w.pool / "a", "--expert-epochs", 3),
        ("an expert that is given is not trained", "--expert-epochs", "Leave these or --expert out"),
    ),
    "nothing to check": (
        lambda w, t: ("check", t / "none"),
        ("must exist", "none", "Name a task"),
    ),
}

OPTIONS: dict[str, tuple[Case, tuple[str, ...]]] = {
    "unknown verb": (lambda w, t: ("tunes",), ("a verb is one of", "'tunes'", "Did you mean 'tune'?")),
    "unknown method": (
        lambda w, t: training(w, w.task(), t / "pool", "--method", "lorra"),
        ("a method is one of lora", "'lorra'", "Did you mean 'lora'?", "Choose one"),
    ),
    "missing method file": (
        lambda w, t: training(w, w.task(), t / "pool", "--method", t / "none.json"),
        ("none.json",),
    ),
    "method file of a wrong type": (
        lambda w, t: training(w, w.task(), t / "pool", "--method", method(t, "LORA", rank_pattern=3)),
        ("the method must fit the backbone", "Error: ", "Choose another --method"),
    ),
    "method file of a wrong pattern": (
        lambda w, t: training(
            w, w.task(), t / "pool", "--method", method(t, "BOTTLENECK_ADAPTER", target_modules="[")
        ),
        ("the method must fit the backbone", "unterminated character set", "Choose another --method"),
    ),
    "method file that PEFT fills in so that it cannot be read again": (
        lambda w, t: training(
            w, w.task(), t / "pool", "--method", method(t, "IA3", target_modules=["query"])
        ),
        ("the method must fit the backbone", "Error: ", "Choose another --method"),
    ),
    "weight decay that is no number": (
        lambda w, t: training(w, w.task(), t / "pool", "--weight-decay", "nan"),
        ("weight_decay must be at least 0", "given: nan", "Raise"),
    ),
    "an option of train for the recipe of build": (
        lambda w, t: ("pool", "build", t / "p", w.task(), "--backbone", w.backbone, "--epochs", 2),
        ("given: --epochs 2; other settings are given in a YAML file, with --recipe: `train:",),
    ),
    "unknown option of a verb without a recipe": (
        lambda w, t: ("pool", "list", w.pool, "--zzzz"),
        ("given: --zzzz. Run `pituning pool --help`",),
    ),
    "unknown option": (
        lambda w, t: tuning(w, t / "out", "--shot", "4"),
        ("given: --shot 4", "did you mean --shots? Run `pituning tune --help`"),
    ),
    "unknown option with its value": (
        lambda w, t: tuning(w, t / "out", "--bakbone=ofa-mini"),
        ("given: --bakbone=ofa-mini", "did you mean --backbone?"),
    ),
    "unknown option that is like no other": (
        lambda w, t: tuning(w, t / "out", "--dry"),
        ("given: --dry. Run `pituning tune --help`",),
    ),
    "unknown method of the own expert": (
        lambda w, t: tuning(w, t / "out", "--expert-method", "lorra"),
        ("a method is one of lora", "Did you mean 'lora'?"),
    ),
    "family is no option": (
        lambda w, t: training(w, w.task(), t / "pool", "--family", "causal"),
        ("given: --family causal", "pituning train --help"),
    ),
    "missing option": (lambda w, t: ("tune", w.task()), ("--backbone, --pool, --out", "tune --help")),
    "option that is no number": (
        lambda w, t: tuning(w, t / "out", "-k", "two"),
        ("argument -k/--k: invalid int value: 'two'", "tune --help"),
    ),
    "unknown space": (
        lambda w, t: tuning(w, t / "out", "--space", "vector"),
        ("--space: invalid choice: 'vector'", "'parameters', 'delta'"),
    ),
    "no neighbours to tune": (
        lambda w, t: tuning(w, t / "out", "-k", 0),
        ("k must be at least 1", "given: 0", "Raise k"),
    ),
    "no neighbours to predict": (
        lambda w, t: ("predict", w.task("a"), "--pool", w.pool, "-k", 0),
        ("k must be at least 1", "given: 0", "one neighbour or more"),
    ),
    "no shots": (
        lambda w, t: training(w, w.task(), t / "pool", "--shots", 0),
        ("shots must be at least 1", "given: 0", "one example"),
    ),
    "no shots for the demo": (
        lambda w, t: ("demo", "--out", t / "out", "--shots", 0),
        ("shots must be at least 1", "given: 0", "Raise shots"),
    ),
    "no examples": (
        lambda w, t: training(w, w.task(), t / "pool", "--max-examples", -1),
        ("max_examples must be at least 1", "given: -1", "Raise it"),
    ),
    "several options out of range": (
        lambda w, t: training(w, w.task(), t / "pool", "--batch-size", 0, "--warmup", 2, "--seed", 10**20),
        ("batch_size must be at least 1", "seed must lie in 0..", "warmup must lie in [0, 1)"),
    ),
    "embedding option out of range": (
        lambda w, t: training(w, w.task(), t / "pool", "--fisher-max-examples", 0),
        ("max_examples must be at least 1", "given: 0", "Raise"),
    ),
    "rank in parameter space": (
        lambda w, t: tuning(w, t / "out", "--rank", 4),
        ("a rank is chosen in delta space only", "4 in parameters", "Leave the rank out"),
    ),
    "slash in a name": (
        lambda w, t: training(w, w.task(), t / "pool", "--name", "a/b"),
        ("letters, digits, dots", "'a/b'", "--name"),
    ),
    "slash in an added name": (
        lambda w, t: ("pool", "add", t / "pool", w.pool / "a", "--name", "../a"),
        ("letters, digits, dots", "'../a'", "--name"),
    ),
    "taken name": (
        lambda w, t: training(w, w.task("a"), w.pool),
        ("a name is used once", "'a' is taken", "--replace"),
    ),
    "another initialisation": (
        lambda w, t: training(w, w.task(), w.pool, "--init-seed", 1),
        ("start from its own --init-seed", "1, where", "Leave --init-seed out"),
    ),
    "unknown expert to show": (
        lambda w, t: ("pool", "show", w.pool, "d"),
        ("must be in the pool", "'d'", "holds: a, b, c"),
    ),
    "unknown expert to remove": (
        lambda w, t: ("pool", "remove", w.pool, "d"),
        ("must be in the pool", "'d'", "holds: a, b, c"),
    ),
    "no expert to show": (
        lambda w, t: ("pool", "show", w.pool),
        ("takes one expert", "0", "pituning pool show POOL EXPERT"),
    ),
    "build without tasks": (
        lambda w, t: ("pool", "build", str(t / "new"), "--backbone", "minilm"),
        ("takes tasks and their --backbone", "no task", "pool build POOL TASK"),
    ),
    "build of two faulty tasks": (
        lambda w, t: ("pool", "build", str(t / "new"), t / "x", t / "y", "--backbone", w.backbone),
        ("an existing folder", "x, which does not exist", "y, which does not exist"),
    ),
    "adapter folder that is none": (
        lambda w, t: ("eval", w.task(), "--expert", w.pool.parent / "poool", "--backbone", w.backbone),
        ("an expert is an existing folder", "poool, which is none", "Did you mean 'pool'?"),
    ),
    "pool folder that is none": (
        lambda w, t: ("pool", "list", w.pool.parent / "poool"),
        ("a pool is a folder with", "poool, which does not exist", "Did you mean 'pool'?"),
    ),
    "build without a backbone": (
        lambda w, t: ("pool", "build", str(t / "new"), w.task()),
        ("takes tasks and their --backbone", "no --backbone", "pool build POOL TASK"),
    ),
    "expert to a verb of all": (
        lambda w, t: ("pool", "list", w.pool, "a"),
        ("looks at all experts", "a", "Leave them out"),
    ),
    "task without an expert, embedded at its expert": (
        lambda w, t: ("predict", w.task(), "--pool", w.pool, "--at", "expert"),
        (
            "a task that is embedded at an expert",
            "needs its own in the pool",
            "at its expert",
            "--pool",
            "--fisher-at expert ...` first",
        ),
    ),
    "an expert that is embedded otherwise": (
        lambda w, t: ("predict", w.task("a"), "--pool", w.pool, "--setting", "paper"),
        ("needs its own in the pool", "embedded in another way", "--setting paper`, or leave --setting out"),
    ),
    "an expert that is embedded otherwise, by two options": (
        lambda w, t: (
            *("predict", w.task("a"), "--pool", w.pool),
            *("--at", "expert", "--labels", "sampled"),
        ),
        ("embedded in another way", "--labels sampled --at expert`, or leave --labels and --at out"),
    ),
    "an expert of other shots, to be embedded otherwise": (
        lambda w, t: ("predict", w.task("a"), "--pool", w.pool, "--at", "expert", "--shots", "1"),
        ("trained on other shots: give its own --shots and --seed.",),
    ),
    "labels that no expert of the pool was embedded with": (
        lambda w, t: ("predict", w.task(), "--pool", w.pool, "--labels", "sampled"),
        (
            "must be embedded in one way",
            "the target at the untrained adapter with sampled labels, the experts at the untrained adapter.",
            "pituning embed",
        ),
    ),
    "a pool that was embedded otherwise": (
        lambda w, t: tuning(w, t / "out", "--fisher-at", "expert"),
        (
            "must be embedded in one way",
            "the target at its expert, the experts at the untrained adapter",
            "options",
        ),
    ),
    "an own expert that is not there": (
        lambda w, t: ("predict", w.task(), "--pool", w.pool, "--name", "mine"),
        ("'mine'", "a, b, c"),
    ),
    "an own expert of other data": (
        lambda w, t: ("predict", w.task(), "--pool", w.pool, "--name", "a"),
        ("'a' must have been embedded on the data of", "it was not, or", "leave --name out"),
    ),
    "no shots to predict from": (
        lambda w, t: ("predict", w.task(), "--pool", w.pool, "--shots", 0),
        ("shots must be at least 1", "given: 0", "one example"),
    ),
    **{
        f"{verb[-1]} of a pool that would hide the carried one": (
            lambda w, t, make=make: make(w),
            ("only a pool of one's own is written to", "'mini20'", "Choose another folder"),
        )
        for *verb, make in (
            ("train", lambda w: training(w, w.task(), "mini20")),
            ("pool", "build", lambda w: ("pool", "build", "mini20", w.task(), "--backbone", w.backbone)),
            ("pool", "add", lambda w: ("pool", "add", "mini20", w.pool / "a")),
            ("pool", "pull", lambda w: ("pool", "pull", "mini20", "--from", w.pool)),
        )
    },
    "results in a file": (
        lambda w, t: (
            "bench",
            w.task(),
            "--backbone",
            w.backbone,
            "--pool",
            w.pool,
            "--out",
            w.task() / "task.json",
        ),
        ("results go into a folder", "task.json: it is a file", "Choose another --out"),
    ),
    "embedding on other data": (
        lambda w, t: ("embed", w.task("a"), "--pool", w.pool, "--shots", 2),
        ("the data it was trained on", "other --shots", "--replace"),
    ),
}

ALL = TASKS | BACKBONES | FILES | OPTIONS


@pytest.mark.parametrize("case", ALL)
def test_mistake_is_explained_and_changes_nothing(case: str, world: World, tmp_path: Path) -> None:
    make, fragments = ALL[case]
    arguments = make(world, tmp_path)
    before = tree(world.root, world.backbone, tmp_path)
    refuse(call(*arguments), *fragments)
    assert tree(world.root, world.backbone, tmp_path) == before


@pytest.mark.parametrize(
    ("action", "option"),
    [
        ("build", "--replace"),
        ("build", "--name=x"),
        ("list", "--repair"),
        ("list", "--method=ia3"),
        ("verify", "--engine=process"),
        ("verify", "--cpus=0"),
        ("push", "--revision=x"),
        ("list", "--from=x"),
        ("pull", "--backbone=x"),
    ],
)
def test_an_option_of_another_action_is_refused(world: World, action: str, option: str) -> None:
    outcome = call("pool", action, world.pool, option)
    refuse(outcome, f"`pool {action}` takes its own options", option.split("=")[0])


def test_error_under_json_stands_on_stderr_alone(world: World, tmp_path: Path) -> None:
    refuse(call(*tuning(world, tmp_path / "out", "-k", 0), "--json"), "k must be at least 1")
    refuse(call("tune", "--json"), "are required")


def test_infinite_loss_names_the_step_and_keeps_the_last_good_state(world: World, tmp_path: Path) -> None:
    pool, work = tmp_path / "pool", tmp_path / "pool" / ".work-target"
    fatal = training(world, world.task(), pool, "--learning-rate", 1e30, "--warmup", 0)
    refuse(call(*fatal), "must stay finite", "at step 2; the state of epoch 0 was kept", "Lower the learning")
    assert [path.name for path in work.iterdir()] == ["checkpoint.safetensors"]
    kept = tree(work)
    refuse(call(*fatal, "--resume"), "at step 2; the state of epoch 0 was kept")
    assert tree(work) == kept
    refuse(call(*training(world, world.task(), pool, "--resume")), "is of another run", "without --resume")
    assert call("pool", "list", pool, "--json").document["experts"] == []
    assert call(*training(world, world.task(), pool)).code == 0


def test_infinite_loss_while_tuning_writes_no_adapter(world: World, tmp_path: Path) -> None:
    before = tree(world.root)
    fatal = tuning(world, tmp_path / "out", "--learning-rate", 1e30, "--warmup", 0)
    refuse(call(*fatal), "must stay finite", "at step 2", "Lower the learning rate")
    assert not (tmp_path / "out").exists()
    assert (tmp_path / ".out.work" / "mixture" / "checkpoint.safetensors").exists()
    assert tree(world.root) == before


def test_checkpoints_are_called_overwritten_only_when_they_are(world: World, tmp_path: Path) -> None:
    fatal = tuning(world, tmp_path / "out", "--learning-rate", 1e30, "--warmup", 0)
    assert "overwritten" not in call(*fatal).err
    kept = tree(tmp_path)
    for wrong in (("--backbone", "minilmm"), ("--expert-method", "lorra"), ("--expert-method", "ia3")):
        outcome = call(*fatal, *wrong)
        assert (outcome.code, "overwritten" in outcome.err, tree(tmp_path)) == (2, False, kept)
    told = f"warning: the checkpoint in {tmp_path / '.out.work' / 'expert'} is overwritten; `resume` goes on"
    assert told in call(*fatal).err
    assert "overwritten" not in call(*fatal, "--resume").err


def full_disk(monkeypatch: pytest.MonkeyPatch, method: str, file: str) -> None:
    whole = getattr(Path, method)

    def write(path: Path, content: Any, *rest: Any, **options: Any) -> int:
        if path.name != file:
            return int(whole(path, content, *rest, **options))
        whole(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, method, write)


@pytest.mark.parametrize(
    ("method", "file"),
    [
        ("write_bytes", "adapter_model.safetensors"),
        ("write_bytes", "embedding.safetensors"),
        ("write_bytes", "expert.json"),
        ("write_text", ".entry"),
    ],
)
def test_full_disk_leaves_the_pool_as_it_was(
    method: str, file: str, world: World, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(pool)
    full_disk(monkeypatch, method, file)
    refuse(call(*training(world, world.task(), pool)), "No space left", "the pool is as it was")
    shutil.rmtree(pool / ".work-target")  # the checkpoint, for --resume
    assert tree(pool) == before


@pytest.mark.parametrize(
    ("method", "file"),
    [
        ("write_bytes", "checkpoint.new"),
        ("write_bytes", "adapter_model.safetensors"),
        ("write_text", "result.json"),
        ("write_text", "report.html"),
    ],
)
def test_full_disk_leaves_no_half_adapter(
    method: str, file: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(world.root)
    with monkeypatch.context() as patch:
        full_disk(patch, method, file)
        refuse(call(*tuning(world, tmp_path / "out")), "must be writable and have room", "No space left")
    assert not (tmp_path / "out").exists()
    assert tree(world.root) == before
    assert call(*tuning(world, tmp_path / "out", "--resume")).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_full_disk_leaves_no_half_report(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch, "write_text", ".graph.html.new")
    refuse(call("graph", "--pool", world.pool, "--out", tmp_path / "graph.html"), "No space left")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "verbs"),
    [
        ("adapter_model.safetensors", ["eval", "check expert", "predict", "verify", "check pool", "repair"]),
        ("a.json", ["predict", "verify", "repair"]),
        ("pool.json", ["predict", "repair"]),
        ("train.jsonl", ["check task", "predict"]),
        ("task.json", ["check task"]),
    ],
)
def test_what_may_not_be_read_is_not_called_damaged(
    file: str, verbs: list[str], world: World, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = {
        "eval": ("eval", world.task("a"), "--expert", pool / "a"),
        "check expert": ("check", pool / "a"),
        "check pool": ("check", pool),
        "check task": ("check", world.task("a")),
        "predict": ("predict", world.task("a"), "--pool", pool),
        "verify": ("pool", "verify", pool),
        "repair": ("pool", "verify", pool, "--repair"),
    }
    before = tree(pool)

    def locked(opening: Callable[..., Any]) -> Callable[..., Any]:
        def opened(path: Any, *rest: Any, **options: Any) -> Any:
            if isinstance(path, str | Path) and Path(path).name == file:  # which root may read all the same
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return opening(path, *rest, **options)

        return opened

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", locked(os.open))
        patch.setattr(io, "open", locked(io.open))
        outcomes = {verb: call(*commands[verb]) for verb in verbs}
    for verb, outcome in outcomes.items():
        told = outcome.out + outcome.err
        assert outcome.code == 2, verb
        assert "files must be readable" in told, verb
        assert "chmod u+r" in told, verb
        for wrong in ("--repair", "truncated", "Mend", "again"):
            assert wrong not in told, (verb, told)
    assert tree(pool) == before


@pytest.mark.parametrize("way", ["open", "iterdir"])
def test_repair_moves_nothing_where_a_file_may_not_be_read(
    way: str, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pool / "a" / "adapter_model.safetensors").write_bytes(b"damaged")
    module, kept = (io, "b/adapter_model.safetensors") if way == "open" else (Path, "b")
    before, opening = tree(pool), getattr(module, way)

    def locked(path: Any, *rest: Any, **options: Any) -> Any:
        if Path(path) == pool / kept:  # which root may read all the same
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opening(path, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, way, locked)
        refuse(call("pool", "verify", pool, "--repair"), "files must be readable")
    assert tree(pool) == before
    assert "moved to" in call("pool", "verify", pool, "--repair").out


def test_file_that_cannot_be_opened_is_a_message(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(_: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "train.jsonl")

    monkeypatch.setattr("pituning.cli.predict.task_named", locked)
    outcome = call("predict", "x", "--pool", world.pool)
    refuse(outcome, "must be readable", "Permission denied: 'train.jsonl'", "Check the path")


@pytest.mark.slow
def test_real_size_limit_leaves_the_pool_as_it_was(world: World, pool: Path, tmp_path: Path) -> None:
    before = tree(pool)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    adding = ("pool", "add", pool, world.pool / "a", "--name", "again")
    refuse(outcome_of(process(*adding, first=limited)), "must be writable and have room", "too large")
    assert tree(pool) == before


def test_a_place_that_cannot_be_written_is_found_before_anything_is_trained(
    world: World, tmp_path: Path
) -> None:
    outcome = call(*tuning(world, below_a_file(tmp_path)))
    assert (outcome.code, outcome.err) == (2, outcome.complaint), "no stage has begun"
    refuse(outcome, "must be writable", "nothing was changed")


@pytest.mark.parametrize("option", ["--label-smoothing", "--expert-label-smoothing"])
def test_labels_that_cannot_be_smoothed_are_refused_before_anything_is_trained(
    option: str, world: World, tmp_path: Path
) -> None:
    tuned = call(*tuning(world, tmp_path / "out", option, 0.1))
    fixed = ("bench", world.task(), "--backbone", world.backbone, "--pool", world.pool)
    for outcome in (tuned, call(*fixed, "--out", tmp_path / "results", "--methods", "pi", option, 0.1)):
        refuse(outcome, "label smoothing needs an OFA backbone", "Leave label_smoothing out")
        assert "training the task's own" not in outcome.err


def test_looking_for_a_place_leaves_no_folder(world: World, tmp_path: Path) -> None:
    task = write_task(tmp_path / "task")
    options = ("--backbone", tmp_path / "none", "--pool", world.pool)
    assert call("tune", task, *options, "--out", tmp_path / "new" / "deep" / "out").code == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_missing_backbone_folder_is_found_without_the_network(world: World, tmp_path: Path) -> None:
    online = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    arguments = ("train", world.task(), "--pool", tmp_path / "pool", "--backbone", tmp_path / "none")
    outcome = outcome_of(process(*arguments, env=online))
    refuse(outcome, "a folder that does not exist")
    assert "Retrying" not in outcome.err
    assert not list(tmp_path.iterdir())

"""Official OFA checkpoints: what is read of them without running anything, and what they become."""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoProcessor, AutoTokenizer

from pituning.errors import BackboneError, ExpertError, PituningError
from pituning.expert import Expert
from pituning.foundation import fingerprint_of
from pituning.models.ofa import OfaConfig, OfaForConditionalGeneration
from pituning.models.ofa.base import COMPUTED
from pituning.models.ofa.checkpoint import open_checkpoint
from pituning.models.ofa.conversion import Conversion, ConversionConfig
from pituning.ofa_conversion import convert
from pituning_command import main

OFFICIAL = Path(__file__).parents[3] / "shared" / "ofa"
PARITY = OFFICIAL / "parity"
needs_official = pytest.mark.skipif(
    not PARITY.is_dir(), reason="the official code's numbers (../shared/ofa) are not part of the repository"
)

SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 20,
    "token_bucket_size": 6,
    "image_bucket_size": 4,
    "code_image_size": 16,
    "resnet_layers": [1, 2, 1],
    "max_position_embeddings": 64,
}
PLAIN = dict.fromkeys(("scale_attn", "scale_fc", "scale_heads"), False)
SEPARATE = dict.fromkeys(
    ("share_all_embeddings", "share_decoder_input_output_embed", "tie_word_embeddings"), False
)
BARE = dict.fromkeys(
    (
        "encoder_normalize_before",
        "decoder_normalize_before",
        "layernorm_embedding",
        "patch_layernorm_embedding",
        "code_layernorm_embedding",
        "add_type_embedding",
    ),
    False,
)
TABLES = tuple(f"{part}.{name}" for part in ("encoder", "decoder") for name in ("token_rp_bucket",))


@cache
def frozen(**changes: Any) -> OfaForConditionalGeneration:
    """Nothing in it is zero or one."""
    torch.manual_seed(0)
    model = OfaForConditionalGeneration(OfaConfig(**{**SMALL, **changes})).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point() and not name.endswith("version"):
                tensor.add_(torch.randn_like(tensor) * 0.1)
    return model


def state(**changes: Any) -> OrderedDict[str, Tensor]:
    """All but the large tables, which a checkpoint may lack."""
    found = frozen(**changes).state_dict()
    return OrderedDict((name, tensor) for name, tensor in found.items() if name not in TABLES)


def options(**changes: Any) -> argparse.Namespace:
    """As the official training keeps them."""
    return argparse.Namespace(
        encoder_embed_dim=16, encoder_layers=2, activation_fn="gelu", disable_entangle=True, **changes
    )


def saved(folder: Path, model: Any, *, old: bool = False, name: str = "ofa.pt", **more: Any) -> Path:
    """A checkpoint as fairseq writes it."""
    file = folder / name
    tree = {"args": None, "cfg": {"model": options()}, "model": model, "extra_state": {"epoch": 3}, **more}
    torch.save(tree, file, _use_new_zipfile_serialization=not old)
    return file


def loaded(done: Conversion) -> OfaForConditionalGeneration:
    model, report = OfaForConditionalGeneration.from_pretrained(
        done.backbone, dtype="auto", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model.eval()


def logits(model: nn.Module) -> Tensor:
    source, target = torch.tensor([[0, 5, 6, 2], [0, 7, 2, 1]]), torch.tensor([[0, 8, 9], [0, 11, 1]])
    picture = torch.linspace(-1, 1, 2 * 3 * 32 * 48).view(2, 3, 32, 48).to(next(model.parameters()).dtype)
    with torch.no_grad():
        return model(input_ids=source, patch_images=picture, decoder_input_ids=target).logits


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# The model


@pytest.mark.parametrize(
    ("changes", "old"),
    [({}, False), ({}, True), (PLAIN, False), ({**SEPARATE, **BARE}, False), ({"scale_resids": True}, True)],
    ids=["zip", "before torch 1.6", "no NormFormer", "after-norm, separate embeddings", "scaled residuals"],
)
def test_the_converted_model_gives_the_same_logits(tmp_path: Path, changes: Any, old: bool) -> None:
    done = convert(saved(tmp_path, state(**changes), old=old), tmp_path / "out")
    assert torch.equal(logits(loaded(done)), logits(frozen(**changes)))
    assert left(tmp_path) == {"ofa.pt", "out"}
    for name in (*SMALL, *changes):
        assert getattr(done.config, name) == getattr(frozen(**changes).config, name), name


def test_options_that_no_shape_shows_are_taken(tmp_path: Path) -> None:
    said = options(no_scale_embedding=False, attn_scale_factor=1.5, entangle_position_embedding=True)
    said.disable_entangle, said.activation_fn = False, "relu"
    done = convert(saved(tmp_path, state(), cfg={"model": said}), tmp_path / "out")
    config = OfaConfig.from_pretrained(done.backbone)
    assert (config.scale_embedding, config.attn_scale_factor, config.activation_function) == (
        True,
        1.5,
        "relu",
    )
    assert config.entangle_position_embedding
    assert config.decoder_adds_positions
    without = convert(saved(tmp_path, state(), cfg=None, name="bare.pt"), tmp_path / "bare").config
    assert (without.scale_embedding, without.attn_scale_factor) == (False, 2.0)
    assert (without.decoder_adds_positions, without.activation_function) == (False, "gelu")


def test_options_of_the_older_args_are_read(tmp_path: Path) -> None:
    file = saved(tmp_path, state(), cfg=None, args=options(attn_scale_factor=3.0))
    assert convert(file, tmp_path / "out").config.attn_scale_factor == 3.0


def test_options_that_contradict_the_shapes_are_listed(tmp_path: Path) -> None:
    said = argparse.Namespace(encoder_layers=6, decoder_attention_heads=12, dropout=0.1)
    with pytest.raises(BackboneError, match=r"decoder_attention_heads is 12.*encoder_layers is 6"):
        convert(saved(tmp_path, state(), cfg={"model": said}), tmp_path / "out")


def test_the_moving_average_is_taken_where_asked(tmp_path: Path) -> None:
    average = OrderedDict((n, t + 1 if n == "encoder.image_proj.bias" else t) for n, t in state().items())
    file = saved(tmp_path, state(), extra_state={"ema": average})
    done = convert(file, tmp_path / "ema", ConversionConfig(ema=True))
    plain = convert(file, tmp_path / "plain")
    bias = "encoder.image_proj.bias"
    assert torch.equal(loaded(done).state_dict()[bias], state()[bias] + 1)
    assert torch.equal(loaded(plain).state_dict()[bias], state()[bias])
    with pytest.raises(BackboneError, match=r"without extra_state\.ema"):
        convert(saved(tmp_path, state(), name="none.pt"), tmp_path / "no", ConversionConfig(ema=True))


def test_the_float32_part_of_an_average_is_used_for_float32(tmp_path: Path) -> None:
    exact = {"encoder.image_proj.bias": torch.full((16,), 1 / 3)}
    half = OrderedDict((name, half_of(tensor)) for name, tensor in state().items())
    file = saved(tmp_path, half, extra_state={"ema": half, "ema_fp32_params": exact})
    done = convert(file, tmp_path / "out", ConversionConfig(ema=True, dtype="float32"))
    assert torch.equal(loaded(done).state_dict()["encoder.image_proj.bias"], exact["encoder.image_proj.bias"])


def half_of(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor


@pytest.mark.parametrize(
    ("asked", "kept"),
    [("stored", torch.float16), ("float32", torch.float32), ("bfloat16", torch.bfloat16)],
)
def test_half_precision_is_kept_or_changed(tmp_path: Path, asked: Any, kept: torch.dtype) -> None:
    half = OrderedDict((name, half_of(tensor)) for name, tensor in state().items())
    done = convert(saved(tmp_path, half), tmp_path / "out", ConversionConfig(dtype=asked))
    weight = loaded(done).encoder.layers[0].fc1.weight
    assert weight.dtype == kept
    assert torch.equal(weight, half["encoder.layers.0.fc1.weight"].to(kept))
    assert AutoConfig.from_pretrained(done.backbone).dtype == kept


def test_a_value_too_large_for_float16_is_refused(tmp_path: Path) -> None:
    large = state() | {"encoder.image_proj.bias": torch.full((16,), 1e5)}
    with pytest.raises(BackboneError, match=r"encoder\.image_proj\.bias reaches 1e\+05"):
        convert(saved(tmp_path, large), tmp_path / "out", ConversionConfig(dtype="float16"))
    assert left(tmp_path) == {"ofa.pt"}


# Keys


def test_missing_extra_and_misshapen_tensors_are_all_listed(tmp_path: Path) -> None:
    wrong = state()
    del wrong["decoder.layers.0.fc2.bias"]
    wrong["decoder.layers.0.adapter.weight"] = torch.zeros(2)
    wrong["encoder.pos_ln.weight"] = torch.zeros(3)
    with pytest.raises(BackboneError) as caught:
        convert(saved(tmp_path, wrong), tmp_path / "out")
    for part in (
        "missing: decoder.layers.0.fc2.bias",
        "not of this model: decoder.layers.0.adapter.weight",
        "encoder.pos_ln.weight ((3,), where the model has (16,))",
    ):
        assert part in caught.value.given
    assert left(tmp_path) == {"ofa.pt"}


def test_what_the_model_computes_may_be_missing_or_of_another_length(tmp_path: Path) -> None:
    lacking = OrderedDict(
        (name, tensor)
        for name, tensor in state().items()
        if name.rsplit(".", 1)[-1] not in (*COMPUTED, "num_batches_tracked")
    )
    lacking["decoder.image_position_idx"] = torch.zeros(1 + 4 + 768, dtype=torch.long)  # as in the port
    done = convert(saved(tmp_path, lacking), tmp_path / "out")
    assert done.config.code_image_size == SMALL["code_image_size"]
    assert torch.equal(logits(loaded(done)), logits(frozen()))
    shorter = loaded(done).state_dict()["decoder.image_position_idx"]
    assert torch.equal(shorter, frozen().state_dict()["decoder.image_position_idx"])


def test_another_table_of_buckets_is_reported(tmp_path: Path) -> None:
    other = state()
    other["encoder.image_rp_bucket"] = other["encoder.image_rp_bucket"].flip(0)
    notes = convert(saved(tmp_path, other), tmp_path / "out").notes
    assert any("encoder.image_rp_bucket is not the official table" in note for note in notes)


def test_missing_rows_are_drawn_from_the_seed(tmp_path: Path) -> None:
    cut = {"encoder.embed_image_positions.weight": 9, "decoder.embed_image_positions.weight": 12}
    short = state()
    short |= {name: short[name][:rows].clone() for name, rows in cut.items()}
    file = saved(tmp_path, short)
    done = convert(file, tmp_path / "out")
    again = convert(file, tmp_path / "again")
    other = convert(file, tmp_path / "other", ConversionConfig(seed=1))
    for name, rows in cut.items():
        table = loaded(done).state_dict()[name]
        assert torch.equal(table[:rows], short[name])
        assert 0.1 < float(table[rows:].std()) < 0.45  # d^-0.5 is 0.25
        assert torch.equal(table, loaded(again).state_dict()[name])
        assert not torch.equal(table[rows:], loaded(other).state_dict()[name][rows:])
        assert any(f"random rows were appended to {name}" in note for note in done.notes)


@pytest.mark.parametrize("changes", [{}, SEPARATE], ids=["tied", "separate"])
def test_a_vocabulary_grows_by_the_same_rows_everywhere(tmp_path: Path, changes: Any) -> None:
    bpe(tmp_path / "bpe")
    done = convert(
        saved(tmp_path, state(**changes)), tmp_path / "out", ConversionConfig(bpe=str(tmp_path / "bpe"))
    )
    found = loaded(done).state_dict()
    tables = [
        found[f"{name}.weight"][SMALL["vocab_size"] :]
        for name in ("encoder.embed_tokens", "decoder.embed_tokens", "decoder.output_projection")
    ]
    assert done.config.vocab_size == 4 + 256 + 1 + 8192 + 1000
    assert torch.equal(tables[0], tables[1])
    assert torch.equal(tables[0], tables[2])
    assert abs(float(tables[0].std()) - 0.25) < 0.01


# Other forms of a checkpoint

PORT = (
    ("encoder.layers.0.attn_ln.", "encoder.layers.0.self_attn_mid_layer_norm."),
    ("encoder.layers.1.attn_ln.", "encoder.layers.1.self_attn_mid_layer_norm."),
    ("decoder.layers.0.self_attn_ln.", "decoder.layers.0.self_attn_mid_layer_norm."),
    ("decoder.layers.0.cross_attn_ln.", "decoder.layers.0.cross_attn_mid_layer_norm."),
    ("decoder.layers.0.encoder_attn.", "decoder.layers.0.cross_attn."),
    ("decoder.layers.0.encoder_attn_layer_norm.", "decoder.layers.0.cross_attn_layer_norm."),
    (".ffn_layernorm.", ".ffn_layer_norm."),
)


def port_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        for ours, theirs in PORT:
            name = name.replace(ours, theirs)
        if not name.endswith("version"):
            renamed[name] = tensor
    return renamed


@pytest.mark.parametrize("form", ["bin", "safetensors", "parts"])
def test_the_port_of_transformers_is_read(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "port"
    folder.mkdir()
    tensors = {name: tensor.clone() for name, tensor in port_of(state()).items()}
    assert len(set(tensors) & set(state())) < len(state()) - 25
    (folder / "config.json").write_text(
        json.dumps({"model_type": "ofa", "normformer": True, "d_model": 16, "attn_scale_factor": 3.0})
    )
    if form == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
    elif form == "safetensors":
        for name in ("decoder.embed_tokens.weight", "decoder.output_projection.weight"):
            del tensors[name]  # tied
        save_file(tensors, folder / "model.safetensors")
    else:
        names = list(tensors)
        split = {"a.bin": names[::2], "b.bin": names[1::2]}
        for part, held in split.items():
            torch.save({name: tensors[name] for name in held}, folder / part)
        index = {"weight_map": {name: part for part, held in split.items() for name in held}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    done = convert(folder, tmp_path / "out")
    assert done.config.attn_scale_factor == 3.0
    assert torch.equal(logits(loaded(done)), logits(frozen(attn_scale_factor=3.0)))


def test_what_was_converted_can_be_converted_again(tmp_path: Path) -> None:
    first = convert(saved(tmp_path, state(**PLAIN)), tmp_path / "first")
    second = convert(first.backbone, tmp_path / "second", ConversionConfig(dtype="bfloat16"))
    assert loaded(second).dtype == torch.bfloat16
    assert second.config.scale_attn is False


# Files that are not whole, or not what they should be


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before torch 1.6"])
def test_a_cut_file_is_an_error_wherever_it_is_cut(tmp_path: Path, old: bool) -> None:
    small = OrderedDict((name, tensor) for name, tensor in state().items() if "embed_images" not in name)
    whole = saved(tmp_path, small, old=old).read_bytes()
    cut = tmp_path / "cut.pt"
    places = [0, 1, 3, 10, 60, 1000, len(whole) // 3, len(whole) // 2, len(whole) - 1, len(whole) - 30]
    for length in places:
        cut.write_bytes(whole[:length])
        with pytest.raises(BackboneError):
            convert(cut, tmp_path / "out")
    assert left(tmp_path) == {"ofa.pt", "cut.pt"}


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path: Path) -> None:
    file = saved(tmp_path, state())
    content = bytearray(file.read_bytes())
    spot = content.find(state()["encoder.layers.0.fc1.weight"].numpy().tobytes())
    assert spot > 0
    content[spot + 100] ^= 4
    file.write_bytes(content)
    with pytest.raises(BackboneError, match="checksum"):
        convert(file, tmp_path / "out")
    assert left(tmp_path) == {"ofa.pt"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "starts with b''"),
        (b"\x89PNG\r\n", "starts with"),
        (b"version https://git-lfs.github.com/spec/v1\n", "starts with"),
        (pickle.dumps({"model": 1}), "torch did not write"),
    ],
)
def test_what_is_no_checkpoint_is_said(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(BackboneError, match=said):
        convert(tmp_path / "x.pt", tmp_path / "out")


def test_another_model_is_no_ofa(tmp_path: Path) -> None:
    torch.save({"model": nn.Linear(2, 2).state_dict()}, tmp_path / "linear.pt")
    with pytest.raises(BackboneError, match=r"must be an OFA.*bias, weight"):
        convert(tmp_path / "linear.pt", tmp_path / "out")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(BackboneError, match="holds a list"):
        convert(tmp_path / "list.pt", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(BackboneError, match=r"without data\.pkl"):
        convert(tmp_path / "zip.pt", tmp_path / "out")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BackboneError, match=r"one of model\.safetensors"):
        convert(tmp_path / "folder", tmp_path / "out")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    file = saved(tmp_path, state())
    (tmp_path / "out").mkdir()
    convert(file, tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    with pytest.raises(BackboneError, match="not empty"):
        convert(file, tmp_path / "out")
    with pytest.raises(BackboneError, match="a file"):
        convert(file, file)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before


# Pickles that would run code


class Runs:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def text(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def string(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def attacks(sentinel: Path) -> dict[str, bytes]:
    """Name -> a pickle that would create the sentinel file if it were run."""
    shell = string(f"touch {sentinel}")
    code = string(f"__import__('pathlib').Path({str(sentinel)!r}).touch()")
    namespace = b"cargparse\nNamespace\n)\x81"
    start, end = b"\x80\x02", b"."
    deep = {"cfg": {"model": argparse.Namespace(a=[Runs(os.system, f"touch {sentinel}")])}}
    return {
        "os.system": start + text("os.system") + b"(" + shell + b"tR" + end,
        "posix.system": start + text("posix.system") + b"(" + shell + b"tR" + end,
        "eval": start + text("builtins.eval") + b"(" + code + b"tR" + end,
        "exec of Python 2": start + text("__builtin__.eval") + b"(" + code + b"tR" + end,
        "nested": pickle.dumps(deep, protocol=2),
        "protocol 4": pickle.dumps(deep, protocol=4),
        "protocol 0": pickle.dumps(deep, protocol=0),
        "new object": start + text("subprocess.Popen") + b"(" + shell + b"t\x81" + end,
        "old instance": b"(" + shell + b"iposix\nsystem\n" + end,
        "state setter": start
        + namespace
        + b"}"
        + string("__setstate__")
        + text("posix.system")
        + b"sb"
        + shell
        + b"b"
        + end,
        "class attribute": start
        + b"cargparse\nNamespace\n"
        + b"N}"
        + string("__setstate__")
        + text("posix.system")
        + b"s\x86b"
        + end,
        "function's code": start
        + text("torch._utils._rebuild_tensor_v2")
        + b"N}"
        + string("__code__")
        + code
        + b"s\x86b"
        + end,
        "getattr": start
        + text("builtins.getattr")
        + b"("
        + text("argparse.Namespace")
        + string("__init__")
        + b"tR"
        + b"("
        + shell
        + b"tR"
        + end,
        "getattr of a module": start
        + text("builtins.getattr")
        + b"("
        + text("torch.Size")
        + string("__call__")
        + b"tR"
        + end,
        "a name with dots": b"\x80\x04"
        + b"\x8c\x0bcollections"
        + b"\x8c\x14OrderedDict.__init__"
        + b"\x93)R"
        + end,
        "load from bytes": start + text("torch.storage._load_from_bytes") + b"(" + shell + b"tR" + end,
        "torch.load": start + text("torch.serialization.load") + b"(" + shell + b"tR" + end,
        "import": start + text("builtins.__import__") + b"(" + string("os") + b"tR" + end,
        "import by name": start + text("side_effect.Thing") + b")R" + end,
    }


@pytest.mark.parametrize("name", list(attacks(Path("x"))))
@pytest.mark.parametrize("form", ["zip", "stream"])
def test_a_pickle_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: str) -> None:
    sentinel, file = tmp_path / "it-ran", tmp_path / "bad.pt"
    (tmp_path / "side_effect.py").write_text(f"open({str(sentinel)!r}, 'w')\nclass Thing: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    bad = attacks(sentinel)[name]
    if form == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", bad)
            archive.writestr("archive/version", "3\n")
    else:
        first = [
            pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": 1})
        ]
        file.write_bytes(b"".join(first) + bad + pickle.dumps([], protocol=2))
    with pytest.raises(BackboneError):
        open_checkpoint(file)
    assert not sentinel.exists()
    assert "side_effect" not in sys.modules


def test_the_attacks_would_work_on_pickle_itself(tmp_path: Path) -> None:
    sentinel = tmp_path / "it-ran"
    for name in ("os.system", "eval", "nested", "state setter", "old instance"):
        with contextlib.suppress(Exception):
            pickle.loads(attacks(sentinel)[name])
        assert sentinel.exists(), name
        sentinel.unlink()


def test_a_refused_global_is_named(tmp_path: Path) -> None:
    file = saved(tmp_path, state(), criterion=Runs(os.system, "true"))
    with pytest.raises(BackboneError, match=r"names (posix|nt)\.system; nothing of it was run"):
        convert(file, tmp_path / "out")
    assert left(tmp_path) == {"ofa.pt"}


def test_configuration_objects_are_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sentinel = tmp_path / "it-ran"
    package = tmp_path / "lib" / "fairseq"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "configs.py").write_text(
        "import enum\nclass Choice(enum.Enum):\n    a = 'no_c10d'\nclass Cfg: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "lib")
    from fairseq.configs import Cfg, Choice  # type: ignore[import-not-found]

    kept = Cfg()
    kept.backend, kept.path, kept.extra = Choice.a, Path("data"), OrderedDict(a={1, 2})
    extra = {"best": np.float64(0.5), "kind": torch.float16, "shape": torch.Size([2]), "rows": np.zeros(3)}
    optimizer = {
        "state": {0: {"exp_avg": torch.zeros(3), "step": 4}},
        "param_groups": [{"betas": (0.9, 0.999)}],
    }
    more = {"extra_state": extra, "last_optimizer_state": optimizer}
    file = saved(
        tmp_path, state(), cfg={"model": options(attn_scale_factor=3.0), "distributed": kept}, **more
    )
    for name in [name for name in sys.modules if name.startswith("fairseq")]:
        monkeypatch.delitem(sys.modules, name)
    (package / "configs.py").write_text(f"open({str(sentinel)!r}, 'w')\n")
    assert convert(file, tmp_path / "out").config.attn_scale_factor == 3.0
    assert not sentinel.exists()
    assert "fairseq" not in sys.modules


@pytest.mark.parametrize(("offset", "stride"), [(2, 1), (-1, 1), (3, -1)])
def test_a_tensor_cannot_reach_past_its_storage(tmp_path: Path, offset: int, stride: int) -> None:
    class Wide:
        def __reduce__(self) -> Any:
            whole = torch.zeros(4)
            return torch._utils._rebuild_tensor_v2, (
                torch.storage.TypedStorage(
                    wrap_storage=whole.untyped_storage(), dtype=whole.dtype, _internal=True
                ),
                offset,
                (4,),
                (stride,),
                False,
                OrderedDict(),
            )

    torch.save({"model": {"a": Wide()}}, tmp_path / "wide.pt")
    with pytest.raises(BackboneError, match="reaches past its 4 elements"):
        open_checkpoint(tmp_path / "wide.pt")


@pytest.mark.parametrize("old", [False, True])
def test_views_of_one_storage_are_read_as_they_are(tmp_path: Path, old: bool) -> None:
    whole = torch.arange(24.0)
    views = {
        "a": whole[3:9].view(2, 3),
        "b": whole.view(4, 6).T,
        "c": whole[:0],
        "d": whole[5],
        "e": whole > 3,
    }
    parameter = {"f": nn.Parameter(whole.bfloat16())}
    torch.save({"model": {**views, **parameter}}, tmp_path / "v.pt", _use_new_zipfile_serialization=not old)
    found = open_checkpoint(tmp_path / "v.pt").weights
    for name, tensor in (views | parameter).items():
        assert torch.equal(found[name].read(), tensor), name


# The processor


def bpe(folder: Path) -> Path:
    """All bytes as pieces, and no merges."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted(ByteLevel.alphabet())
    (folder / "encoder.json").write_text(json.dumps({letter: index for index, letter in enumerate(letters)}))
    (folder / "vocab.bpe").write_text("#version: 0.2\n")
    (folder / "dict.txt").write_text("".join(f"{index} 1\n" for index in range(256)))
    return folder


@pytest.mark.parametrize("place", [".", "BPE", "utils/BPE", "named"])
def test_the_processor_is_written_where_its_files_are(tmp_path: Path, place: str) -> None:
    holder = tmp_path / "there"
    holder.mkdir()
    folder = bpe(tmp_path / "elsewhere" if place == "named" else holder / place)
    asked = ConversionConfig(bpe=str(folder)) if place == "named" else ConversionConfig()
    done = convert(saved(holder, state()), tmp_path / "out", asked)
    assert done.tokenizer is not None
    assert done.tokenizer.resolve() == folder.resolve()
    assert AutoTokenizer.from_pretrained(tmp_path / "out").first_bin == 4 + 256 + 1 + 8192
    batch = AutoProcessor.from_pretrained(tmp_path / "out")(text=" hi")
    assert batch["input_ids"].shape == (1, 5)


def test_without_its_files_the_weights_are_converted_alone_and_it_is_said(tmp_path: Path) -> None:
    done = convert(saved(tmp_path, state()), tmp_path / "out")
    assert done.tokenizer is None
    assert any("converted alone" in note and "--bpe" in note for note in done.notes)
    with pytest.raises(BackboneError, match=r"dict\.txt"):
        convert(saved(tmp_path, state()), tmp_path / "two", ConversionConfig(bpe=str(tmp_path)))


# Adapters, prefixes, LoRA


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.3


def adapters(count: int) -> dict[str, Tensor]:
    """As the official code names them."""
    found, seed = {}, 0
    for layer in ("encoder.layers.0", "encoder.layers.1", "decoder.layers.0"):
        for place in "12":
            names = (
                [f"adapters{place}.{index}" for index in range(count)] if count > 1 else [f"adapter{place}"]
            )
            for name in names:
                for part, shape in {
                    "down_proj.weight": (3, 16),
                    "down_proj.bias": (3,),
                    "up_proj.weight": (16, 3),
                    "up_proj.bias": (16,),
                }.items():
                    seed += 1
                    found[f"{layer}.{name}.{part}"] = random(*shape, seed=seed)
            if count > 1:
                found[f"{layer}.adapter_interpolation_weight{place}"] = random(count, seed=1000 + seed) * 5
    return found


def official_adapters(model: nn.Module, given: dict[str, Tensor]) -> Tensor:
    """SPEC: hidden = relu(Σ w down(x)), out = Σ w up(hidden) + x, after attention and after fc2."""
    model = copy.deepcopy(model)

    def after(prefix: str, place: str) -> Any:
        raw = given.get(f"{prefix}.adapter_interpolation_weight{place}")
        names = (
            [f"adapter{place}"] if raw is None else [f"adapters{place}.{index}" for index in range(len(raw))]
        )
        weights = torch.ones(1) if raw is None else raw.softmax(0)

        def mixed(x: Tensor, side: str) -> Tensor:
            each = [
                nn.functional.linear(
                    x, given[f"{prefix}.{n}.{side}.weight"], given[f"{prefix}.{n}.{side}.bias"]
                )
                for n in names
            ]
            return sum(weight * part for weight, part in zip(weights, each, strict=True))

        return lambda module, inputs, x: x + mixed(mixed(x, "down_proj").relu(), "up_proj")

    for prefix in ("encoder.layers.0", "encoder.layers.1", "decoder.layers.0"):
        layer = model.get_submodule(prefix)
        first = layer.attn_ln if prefix.startswith("encoder") else layer.self_attn_ln
        first.register_forward_hook(after(prefix, "1"))
        layer.fc2.register_forward_hook(after(prefix, "2"))
    return logits(model)


def adapted(done: Conversion, name: str = "expert") -> Tensor:
    folder = next(folder for folder in done.experts if folder.name == name)
    return logits(PeftModel.from_pretrained(loaded(done), folder).eval())


@pytest.mark.parametrize("changes", [{}, PLAIN], ids=["NormFormer", "plain"])
@pytest.mark.parametrize("count", [1, 3])
def test_adapters_give_the_official_logits(tmp_path: Path, count: int, changes: Any) -> None:
    given = adapters(count)
    done = convert(saved(tmp_path, state(**changes) | given), tmp_path / "out")
    torch.testing.assert_close(
        adapted(done), official_adapters(frozen(**changes), given), atol=1e-5, rtol=1e-5
    )
    assert torch.equal(logits(loaded(done)), logits(frozen(**changes)))
    card = Expert.load(tmp_path / "out" / "expert").card
    assert card.backbone == fingerprint_of(loaded(done))
    assert Path(card.backbone_name) == (tmp_path / "out" / "backbone").resolve()
    names = ["expert"] if count == 1 else ["expert", "expert_0", "expert_1", "expert_2"]
    assert [folder.name for folder in done.experts] == names
    for index in range(count if count > 1 else 0):
        alone = {
            n.replace(f"adapters1.{index}.", "adapter1.").replace(f"adapters2.{index}.", "adapter2."): t
            for n, t in given.items()
            if "weight1" not in n and "weight2" not in n
        }
        expected = official_adapters(frozen(**changes), alone)
        torch.testing.assert_close(adapted(done, f"expert_{index}"), expected, atol=1e-5, rtol=1e-5)


def official_prefix(done: Conversion) -> Tensor:
    """SPEC: keys and values of the prefix stand before those of the self-attention, without any bias."""
    model, tensors = copy.deepcopy(frozen()), Expert.load(done.experts[0]).tensors

    def with_prefix(attention: Any, key: Tensor, value: Tensor) -> Any:
        def forward(x: Tensor, bias: Tensor, **_: Any) -> tuple[Tensor, None]:
            parts = [
                attention._heads(proj(x)) for proj in (attention.q_proj, attention.k_proj, attention.v_proj)
            ]
            keys = torch.cat([key.expand(len(x), -1, -1, -1), parts[1]], dim=2)
            values = torch.cat([value.expand(len(x), -1, -1, -1), parts[2]], dim=2)
            scores = parts[0] @ keys.transpose(2, 3) * attention.scaling
            scores[..., key.shape[1] :] += bias
            y = scores.softmax(-1) @ values * attention.c_attn[:, None, None]
            return attention.out_proj(y.transpose(1, 2).reshape(x.shape)), None

        return forward

    for layer in ("encoder.layers.0", "encoder.layers.1", "decoder.layers.0"):
        attention = model.get_submodule(f"{layer}.self_attn")
        pair = [tensors[f"base_model.model.{layer}.self_attn.prefix_{name}"] for name in ("key", "value")]
        attention.forward = with_prefix(attention, *pair)
    return logits(model)


@pytest.mark.parametrize("count", [1, 2])
def test_prefixes_are_cut_into_keys_and_values_of_layers(tmp_path: Path, count: int) -> None:
    length, given = 5, {}
    layers = {"encoder": 2, "decoder": 1}
    for index in range(count):
        number = f"{index}." if count > 1 else ""
        for part, many in layers.items():
            table = random(length, many * 2 * 16, seed=index + many)
            given[f"{part}.{part}_prompt_encoder.{number}embedding.weight"] = table
    if count > 1:
        # The decoder's has as many rows as the encoder has layers.
        given |= {f"{part}.prompt_weight_scale": random(2, count, seed=9) * 4 for part in layers}
    done = convert(saved(tmp_path, state() | given), tmp_path / "out")
    tensors = Expert.load(tmp_path / "out" / "expert").tensors
    for part, heads in (("encoder", 2), ("decoder", 4)):
        numbers = [f"{index}." for index in range(count)] if count > 1 else [""]
        tables = torch.stack([given[f"{part}.{part}_prompt_encoder.{n}embedding.weight"] for n in numbers])
        views = tables.view(count, length, 2 * layers[part], heads, -1)
        for layer in range(layers[part]):
            scale = given.get(f"{part}.prompt_weight_scale")
            weights = torch.ones(1) if scale is None else scale[layer].softmax(0)
            for name, index in (("key", 2 * layer), ("value", 2 * layer + 1)):
                expected = sum(w * view[:, index] for w, view in zip(weights, views, strict=True))
                found = tensors[f"base_model.model.{part}.layers.{layer}.self_attn.prefix_{name}"]
                torch.testing.assert_close(found, expected.transpose(0, 1))
    torch.testing.assert_close(adapted(done), official_prefix(done), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(adapted(done), logits(frozen()), atol=1e-2)


PROJECTIONS = [
    f"{attention}.{name}_proj"
    for attention in (
        "encoder.layers.0.self_attn",
        "encoder.layers.1.self_attn",
        "decoder.layers.0.self_attn",
        "decoder.layers.0.encoder_attn",
    )
    for name in ("q", "k", "v", "out")
]


def loras(count: int) -> dict[str, Tensor]:
    found = {}
    for seed, projection in enumerate(PROJECTIONS):
        for index in range(count):
            number = f"{index}." if count > 1 else ""
            found[f"{projection}.{number}lora_A"] = random(2, 16, seed=seed + 100 * index)
            found[f"{projection}.{number}lora_B"] = random(16, 2, seed=seed + 100 * index + 50)
        if count > 1:
            attention = projection.rsplit(".", 1)[0]
            found[f"{attention}.lora_interpolation_weight"] = random(count, seed=seed // 4) * 5
    return found


def official_lora(given: dict[str, Tensor], count: int, alpha: float) -> Tensor:
    """SPEC: output = Σ w (base(x) + α/r B A x)."""
    model = copy.deepcopy(frozen())

    def after(projection: str) -> Any:
        raw = given.get(f"{projection.rsplit('.', 1)[0]}.lora_interpolation_weight", torch.zeros(1))
        numbers = [f"{index}." for index in range(count)] if count > 1 else [""]

        def add(module: nn.Module, inputs: tuple[Tensor], y: Tensor) -> Tensor:
            for weight, number in zip(raw.softmax(0), numbers, strict=True):
                a, b = given[f"{projection}.{number}lora_A"], given[f"{projection}.{number}lora_B"]
                y = y + weight * alpha / 2 * (inputs[0] @ a.T @ b.T)
            return y

        return add

    for projection in PROJECTIONS:
        model.get_submodule(projection).register_forward_hook(after(projection))
    return logits(model)


def copies(count: int) -> OrderedDict[str, Tensor]:
    """The backbone's state with each projection once for each expert."""
    found = OrderedDict()
    for name, tensor in state().items():
        projection, _, kind = name.rpartition(".")
        if projection in PROJECTIONS:
            found |= {f"{projection}.{index}.{kind}": tensor.clone() for index in range(count)}
        else:
            found[name] = tensor
    return found


@pytest.mark.parametrize(("alpha", "said"), [(None, "the official default"), (8, "as the checkpoint says")])
def test_lora_gives_the_official_logits_and_says_its_alpha(tmp_path: Path, alpha: Any, said: str) -> None:
    given = loras(1)
    model = options() if alpha is None else options(lora_alpha=alpha)
    done = convert(saved(tmp_path, state() | given, cfg={"model": model}), tmp_path / "out")
    torch.testing.assert_close(adapted(done), official_lora(given, 1, alpha or 1), atol=1e-5, rtol=1e-5)
    assert any(f"alpha is {alpha or 1}, {said}" in note for note in done.notes)
    assert any("already added" in note for note in done.notes)


def test_interpolated_lora_is_one_exact_lora(tmp_path: Path) -> None:
    given = loras(3)
    done = convert(saved(tmp_path, copies(3) | given), tmp_path / "out")
    torch.testing.assert_close(adapted(done), official_lora(given, 3, 1), atol=1e-5, rtol=1e-5)
    assert torch.equal(logits(loaded(done)), logits(frozen()))
    assert Expert.load(tmp_path / "out" / "expert").config.r == 6
    alone = {
        name.replace("_proj.1.", "_proj."): tensor for name, tensor in given.items() if ".interp" not in name
    }
    alone = {name: tensor for name, tensor in alone.items() if "interpolation" not in name}
    torch.testing.assert_close(adapted(done, "expert_1"), official_lora(alone, 1, 1), atol=1e-5, rtol=1e-5)


def test_copies_that_differ_need_the_clean_backbone(tmp_path: Path) -> None:
    merged = copies(2)
    merged["encoder.layers.0.self_attn.q_proj.1.weight"] += 0.01
    file = saved(tmp_path, merged | loras(2))
    with pytest.raises(
        BackboneError, match=r"differ in encoder\.layers\.0\.self_attn\.q_proj\.weight.*--backbone"
    ):
        convert(file, tmp_path / "out")
    clean = convert(saved(tmp_path, state(), name="clean.pt"), tmp_path / "clean")
    done = convert(file, tmp_path / "out", ConversionConfig(backbone=str(tmp_path / "clean")))
    assert left(tmp_path / "out") == {"expert", "expert_0", "expert_1"}
    assert done.backbone == clean.backbone.resolve()
    torch.testing.assert_close(adapted(done), official_lora(loras(2), 2, 1), atol=1e-5, rtol=1e-5)
    card = Expert.load(tmp_path / "out" / "expert").card
    again = convert(saved(tmp_path, state() | loras(1), name="one.pt"), tmp_path / "one")
    assert card.backbone == Expert.load(again.experts[0]).card.backbone


def test_experts_of_another_backbone_or_not_whole_are_refused(tmp_path: Path) -> None:
    convert(saved(tmp_path, state()), tmp_path / "base")
    asked = ConversionConfig(backbone=str(tmp_path / "base"))
    with pytest.raises(BackboneError, match="a model alone"):
        convert(tmp_path / "ofa.pt", tmp_path / "out", asked)
    with pytest.raises(BackboneError, match=r"without config\.json"):
        convert(
            saved(tmp_path, adapters(1), name="a.pt"),
            tmp_path / "out",
            ConversionConfig(backbone=str(tmp_path)),
        )
    lacking = adapters(2)
    del lacking["decoder.layers.0.adapters2.1.up_proj.bias"]
    with pytest.raises(ExpertError, match=r"decoder\.layers\.0\.adapter2\.up_proj\.bias"):
        convert(saved(tmp_path, lacking, name="b.pt"), tmp_path / "out", asked)
    one = adapters(1)
    del one["decoder.layers.0.adapter2.up_proj.bias"]
    with pytest.raises(ExpertError, match=r"decoder\.layers\.0\.fc2\.bottleneck_up\.bias"):
        convert(saved(tmp_path, one, name="c.pt"), tmp_path / "out", asked)
    unweighted = {name: tensor for name, tensor in adapters(2).items() if "interpolation" not in name}
    with pytest.raises(ExpertError, match="an interpolation has weights"):
        convert(saved(tmp_path, unweighted, name="d.pt"), tmp_path / "out", asked)
    with pytest.raises(ExpertError, match="one method"):
        convert(saved(tmp_path, adapters(1) | loras(1), name="e.pt"), tmp_path / "out", asked)
    wide = {
        f"{part}.{part}_prompt_encoder.embedding.weight": torch.zeros(2, 100)
        for part in ("encoder", "decoder")
    }
    with pytest.raises(ExpertError, match=r"2 · 2 · 16 columns.*\(2, 100\)"):
        convert(saved(tmp_path, wide, name="f.pt"), tmp_path / "out", asked)
    assert not (tmp_path / "out").exists()


# The command


def call(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def test_the_command_converts_and_says_what_it_wrote(tmp_path: Path) -> None:
    file = saved(tmp_path, state() | adapters(2))
    code, out, err = call("convert", "ofa", file, tmp_path / "out", "--dtype", "bfloat16", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["dtype"] == "bfloat16"
    assert document["tokenizer"] is None
    assert [Path(folder).name for folder in document["experts"]] == ["expert", "expert_0", "expert_1"]
    counted = {id(parameter): parameter.numel() for parameter in frozen().parameters()}
    assert document["parameters"] == sum(counted.values())
    assert isinstance(
        AutoModelForSeq2SeqLM.from_pretrained(document["backbone"]), OfaForConditionalGeneration
    )
    code, out, _ = call("convert", "ofa", file, tmp_path / "two")
    assert code == 0
    assert "converted alone" in out


@pytest.mark.parametrize("given", ["missing.pt", "cut.pt", "bad.pt"])
def test_the_command_says_a_mistake_in_a_line_with_exit_code_2(tmp_path: Path, given: str) -> None:
    (tmp_path / "cut.pt").write_bytes(saved(tmp_path, state()).read_bytes()[:5000])
    torch.save({"model": Runs(os.system, "true")}, tmp_path / "bad.pt")
    code, out, err = call("convert", "ofa", tmp_path / given, tmp_path / "out")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
    assert not [name for name in left(tmp_path) if name.startswith(".")]


# The official code's numbers


def official_state(folder: str) -> OrderedDict[str, Tensor]:
    """The full official state dict; what is not kept in the files follows from their README."""
    known = {
        **load_file(PARITY / "A" / "stem.safetensors"),
        **load_file(PARITY / folder / "model.safetensors"),
        **load_file(PARITY / folder / "buffers.safetensors"),
    }
    place = torch.arange(1024)
    found: OrderedDict[str, Tensor] = OrderedDict()
    for name, shape, _ in json.loads((PARITY / folder / "state_dict_keys.json").read_text()):
        if name.endswith("token_rp_bucket"):
            by_distance = next(t for n, t in known.items() if n.endswith("token_rp_bucket_by_distance"))
            found[name] = by_distance[1023 + place[:, None] - place[None, :]]
        elif name.endswith("num_batches_tracked"):
            found[name] = torch.tensor(7)
        else:
            found[name] = torch.tensor([3.0]) if name.endswith("version") else known[name]
        assert list(found[name].shape) == shape
    return found


def assert_official_logits(model: nn.Module, folder: str, name: str, tolerance: float = 1e-4) -> None:
    inputs = load_file(PARITY / "A" / "inputs.safetensors")
    expected = load_file(PARITY / folder / f"expected_{name}.safetensors")
    for case in ("image", "image_nopad", "text", "text2"):
        given: dict[str, Any] = {}
        if f"{case}.patch_images" in inputs:
            given["patch_images"] = inputs[f"{case}.patch_images"]
            given["patch_masks"] = inputs[f"{case}.patch_masks"].bool()
        target = inputs[f"{case}.prev_output_tokens"]
        with torch.no_grad():
            found = model(input_ids=inputs[f"{case}.src_tokens"], decoder_input_ids=target, **given).logits
        shown = target != 1
        torch.testing.assert_close(
            found[shown], expected[f"{case}.logits"][shown], atol=tolerance, rtol=tolerance
        )


@needs_official
@pytest.mark.parametrize(
    ("folder", "tolerance"), [("A", 1e-4), ("A_arch_defaults", 1e-4), ("A_postnorm_entangled", 2e-3)]
)
def test_official_models_give_their_logits(tmp_path: Path, folder: str, tolerance: float) -> None:
    said = json.loads((PARITY / folder / "config.json").read_text())["fairseq_args"]
    file = saved(tmp_path, official_state(folder), cfg={"model": argparse.Namespace(**said)})
    done = convert(file, tmp_path / "out")
    assert not [note for note in done.notes if "official table" in note]
    assert_official_logits(loaded(done), folder, "base", tolerance)


@needs_official
@pytest.mark.parametrize(
    "name", ["adapter", "adapter_interp", "prefix", "prefix_interp", "lora", "lora_interp"]
)
def test_official_experts_give_their_logits(tmp_path: Path, name: str) -> None:
    added = load_file(PARITY / "A" / f"variant_{name}.safetensors")
    described = json.loads((PARITY / "A" / f"variant_{name}.json").read_text())
    whole = official_state("A")
    for key in described["new_keys"]:
        if key not in added:  # the copies of a projection, equal to the base's
            projection, _, kind = key.rsplit(".", 2)
            added[key] = official_state("A")[f"{projection}.{kind}"]
            whole.pop(f"{projection}.{kind}", None)
    file = saved(tmp_path, whole | added, cfg={"model": argparse.Namespace(**described["extra_args"])})
    done = convert(file, tmp_path / "out")
    model = PeftModel.from_pretrained(loaded(done), tmp_path / "out" / "expert").eval()
    assert_official_logits(model, "A", name)


@needs_official
@pytest.mark.parametrize("size", ["tiny", "medium", "base", "large", "huge"])
def test_the_shapes_of_official_sizes_give_their_configuration(size: Any) -> None:
    from pituning.models.ofa.archives import Place, Weight
    from pituning.models.ofa.checkpoint import Checkpoint
    from pituning.models.ofa.shape import config_of

    entries = json.loads((OFFICIAL / "state_dicts" / f"ofa_{size}.json").read_text())
    place = {
        "decoder.embed_tokens.weight": 0,
        "encoder.embed_tokens.weight": 0,
        "decoder.output_projection.weight": 0,
    }
    weights = {
        name: Weight(Path("x"), Place(place.get(name, 1), 0), torch.float32, tuple(shape), tuple(shape))
        for name, shape, _ in entries
    }
    found = config_of(Checkpoint(path=Path("x"), weights=weights), weights)
    assert found.to_dict() == OfaConfig.of_size(size).to_dict()


def test_errors_are_of_the_house() -> None:
    assert issubclass(BackboneError, PituningError)

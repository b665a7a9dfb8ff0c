"""From an OFA checkpoint to the folder of a Hugging Face model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from transformers.initialization import no_init_weights

from pituning.errors import BackboneError, ConfigError
from pituning.models.ofa.archives import Weight
from pituning.models.ofa.checkpoint import Checkpoint, open_checkpoint, read_config
from pituning.models.ofa.configuration import OfaConfig
from pituning.models.ofa.entries import BATCHES, TOKENS, entries_of, is_computed
from pituning.models.ofa.image_processing import OfaImageProcessor
from pituning.models.ofa.modeling import OfaForConditionalGeneration
from pituning.models.ofa.processing import OfaProcessor
from pituning.models.ofa.safetensors_stream import write_safetensors
from pituning.models.ofa.shape import config_of
from pituning.models.ofa.tokenization import BPE_FILES, OfaTokenizer
from pituning.spelling import listed

PORT_NAMES = (
    (r"(encoder\.layers\.\d+)\.self_attn_mid_layer_norm\.", r"\1.attn_ln."),
    (r"(decoder\.layers\.\d+)\.self_attn_mid_layer_norm\.", r"\1.self_attn_ln."),
    (r"(decoder\.layers\.\d+)\.cross_attn_mid_layer_norm\.", r"\1.cross_attn_ln."),
    (r"(decoder\.layers\.\d+)\.cross_attn_layer_norm\.", r"\1.encoder_attn_layer_norm."),
    (r"(decoder\.layers\.\d+)\.cross_attn\.", r"\1.encoder_attn."),
    (r"((?:encoder|decoder)\.layers\.\d+)\.ffn_layer_norm\.", r"\1.ffn_layernorm."),
)
"""Names in the Hugging Face port, and fairseq's, which are ours."""


@dataclass(frozen=True, kw_only=True)
class ConversionConfig:
    """What of a checkpoint is converted, and how."""

    ema: bool = field(default=False, metadata={"help": "take the moving average of the weights"})
    dtype: Literal["stored", "float32", "float16", "bfloat16"] = field(
        default="stored", metadata={"help": "of the weights; stored: each as it is"}
    )
    bpe: str | None = field(
        default=None,
        metadata={
            "help": f"folder of {', '.join(BPE_FILES)} (default: the checkpoint's, or BPE or utils/BPE in it)"
        },
    )
    backbone: str | None = field(
        default=None,
        metadata={"help": "a converted OFA that the checkpoint's experts belong to; only they are converted"},
    )
    start: str | None = field(
        default=None,
        metadata={
            "help": "a name for the initialisation of the experts; those with one name may be averaged "
            "(default: known only for experts of one checkpoint)"
        },
    )
    seed: int = field(default=0, metadata={"help": "of rows that are appended to embeddings"})

    def __post_init__(self) -> None:
        """Collect what is of another kind."""
        ConfigError.check_numbers(self)
        ConfigError.collect(ConfigError.misnamed(self))

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """The dtype; None where each tensor keeps its own."""
        found: torch.dtype | None = getattr(torch, self.dtype, None)
        return found


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was written.

    Attributes:
        backbone: the model's folder.
        config: the model's shape.
        parameters: numbers in the model's weights.
        tokenizer: the folder that it came from; None where none was found.
        experts: expert folders.
        notes: what the user should know, in sentences.
    """

    backbone: Path
    config: OfaConfig
    parameters: int
    tokenizer: Path | None
    experts: Sequence[Path] = ()
    notes: Sequence[str] = ()


def chosen_weights(checkpoint: Checkpoint, config: ConversionConfig) -> dict[str, Weight]:
    """The weights or their moving average, under fairseq's names.

    Raises:
        BackboneError: there is no moving average.
    """
    weights = dict(checkpoint.weights)
    if config.ema:
        if not checkpoint.ema:
            raise BackboneError(
                "--ema takes the moving average that a checkpoint holds",
                f"{checkpoint.path} without extra_state.ema",
                "Leave --ema out: the weights themselves are converted.",
            )
        weights = dict(checkpoint.ema)
        if config.dtype == "float32":
            finer = checkpoint.ema_float32.items()
            weights |= {k: w for k, w in finer if k in weights and w.shape == weights[k].shape}
    renamed = {}
    for name, weight in weights.items():
        for port, ours in PORT_NAMES:
            name = re.sub(rf"^{port}", ours, name)
        renamed[name] = weight
    # transformers writes an embedding that is tied once.
    for name in TOKENS[1:]:
        if checkpoint.config and name not in renamed and TOKENS[0] in renamed:
            renamed[name] = renamed[TOKENS[0]]
    return renamed


def write_model(
    checkpoint: Checkpoint, weights: Mapping[str, Weight], folder: Path, options: ConversionConfig
) -> Conversion:
    """Write the model, its configuration and, where its files are found, its processor.

    Raises:
        BackboneError: the checkpoint is no OFA, or its tensors are not those of the model.
    """
    config = config_of(checkpoint, weights)
    tokenizer, source = _tokenizer(checkpoint.path, options)
    if tokenizer is not None:
        config.vocab_size = max(config.vocab_size, len(tokenizer))
    entries, said = entries_of(weights, config, dtype=options.torch_dtype, seed=options.seed)
    folder.mkdir(exist_ok=True)
    write_safetensors(folder / "model.safetensors", entries)
    dtypes = Counter(entry.dtype for entry in entries if entry.dtype.is_floating_point)
    config.dtype = dtypes.most_common(1)[0][0]
    config.architectures = ["OfaForConditionalGeneration"]
    config.save_pretrained(folder)
    if tokenizer is None:
        said.append(
            f"No tokenizer: {', '.join(BPE_FILES)} are not beside the checkpoint, so the weights were "
            "converted alone. Name their folder with --bpe to get a processor too."
        )
    else:
        size = min(480, 16 * config.image_bucket_size)
        OfaProcessor(OfaImageProcessor(size=size), tokenizer).save_pretrained(folder)
    if checkpoint.options.get("sync_bn"):
        said.append("The stem was trained with sync_bn (eps 1e-3 in batch norm); ours has 1e-5.")
    counted = [entry for entry in entries if not entry.name.endswith((BATCHES, "_mean", "_var"))]
    return Conversion(
        backbone=folder,
        config=config,
        parameters=sum(torch.Size(entry.shape).numel() for entry in counted),
        tokenizer=source,
        notes=said,
    )


def _tokenizer(path: Path, options: ConversionConfig) -> tuple[OfaTokenizer | None, Path | None]:
    """The tokenizer of the folder that was named, or of one beside the checkpoint."""
    if options.bpe is not None:
        return OfaTokenizer.from_bpe_folder(options.bpe), Path(options.bpe)
    beside = path if path.is_dir() else path.parent
    for folder in (beside, beside / "BPE", beside / "utils" / "BPE"):
        if all((folder / name).is_file() for name in BPE_FILES):
            return OfaTokenizer.from_bpe_folder(folder), folder
    if path.is_dir() and all((path / name).is_file() for name in ("vocab.json", "merges.txt")):
        return OfaTokenizer(str(path / "vocab.json"), str(path / "merges.txt")), path
    return None, None


def converted_before(folder: Path) -> Conversion:
    """An OFA that was converted before.

    Raises:
        BackboneError: the folder holds none.
    """
    said = read_config(folder / "config.json")
    if said.get("model_type") != "ofa" or "OfaForConditionalGeneration" not in said.get("architectures", ()):
        found = f"of {said.get('model_type', 'an unknown architecture')}" if said else "without config.json"
        raise BackboneError(
            "--backbone is the folder of a converted OFA",
            f"{folder} {found}",
            "Convert the model first: `pituning convert ofa CHECKPOINT OUT`.",
        )
    config = OfaConfig.from_pretrained(folder)
    return Conversion(backbone=folder, config=config, parameters=0, tokenizer=None)


@torch.no_grad()
def light_model(folder: Path, config: OfaConfig) -> OfaForConditionalGeneration:
    """A converted model in bfloat16, read tensor by tensor: half the memory, and the same fingerprint.

    Raises:
        BackboneError: the folder holds no weights, or not all.
    """
    with no_init_weights():
        model = OfaForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.tie_weights()
    weights = open_checkpoint(folder).weights
    tied = model._tied_weights_keys
    missing = []
    for name, tensor in model.state_dict().items():
        if name in weights and weights[name].shape == tuple(tensor.shape):
            tensor.copy_(weights[name].read())
        elif name not in tied and not is_computed(name):
            missing.append(name)
    if missing:
        raise BackboneError(
            "a converted OFA holds all weights that its config.json describes",
            f"{folder} without {listed(missing)}",
            "Convert the model again.",
        )
    return model  # type: ignore[no-any-return]

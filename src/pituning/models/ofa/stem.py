"""The image stem: the first three stages of a ResNet-v1.5.

He et al., CVPR 2016; names and strides as in torchvision. Officially 1,024 channels at a sixteenth of the
size. Letters: n images, h by w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pituning.models.ofa.residual import DropPath, rising_rates

EXPANSION = 4
"""Channels of a block's output, over those inside it."""


class StemNorm(nn.BatchNorm2d):
    """Batch norm that, where frozen, uses its running statistics in training too and never changes them."""

    def __init__(self, channels: int, *, frozen: bool) -> None:
        super().__init__(channels)
        self.frozen = frozen

    def forward(self, input: Tensor) -> Tensor:
        """[n, channels, h, w] to the same shape."""
        if not self.frozen:
            return super().forward(input)
        return nn.functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


def convolved(x: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    """norm(conv(x)); a frozen norm is folded into the convolution's weights, which saves a pass over x."""
    if not (isinstance(norm, StemNorm) and norm.frozen and type(conv) is nn.Conv2d):
        found: Tensor = norm(conv(x))
        return found
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight.float() * torch.rsqrt(norm.running_var.float() + norm.eps)
    shift = norm.bias.float() - norm.running_mean.float() * scale
    weight = (conv.weight.float() * scale[:, None, None, None]).to(x.dtype)
    return nn.functional.conv2d(x, weight, shift.to(x.dtype), conv.stride, conv.padding)


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride) and 1x1 convolution beside the identity."""

    def __init__(self, inputs: int, planes: int, stride: int, *, frozen: bool, drop_path: float) -> None:
        super().__init__()
        outputs = planes * EXPANSION
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = StemNorm(planes, frozen=frozen)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = StemNorm(planes, frozen=frozen)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = StemNorm(outputs, frozen=frozen)
        self.drop_path = DropPath(drop_path)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, StemNorm(outputs, frozen=frozen))

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, h, w] to [n, 4 * planes, h / stride, w / stride]."""
        identity = x if self.downsample is None else convolved(x, *self.downsample)
        out = convolved(x, self.conv1, self.bn1).relu_()
        out = convolved(out, self.conv2, self.bn2).relu_()
        out = convolved(out, self.conv3, self.bn3)
        summed: Tensor = self.drop_path(out) + identity
        return summed.relu_()


class ResNetStem(nn.Module):
    """Pictures to feature maps.

    Args:
        blocks: in each of the three stages.
        planes: channels inside the blocks of each stage.
        max_pool: halve the size before the first stage.
        frozen: see StemNorm.
        drop_path: rate of a stage's last block; it rises linearly from 0 within each stage.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        planes: Sequence[int] = (64, 128, 256),
        *,
        max_pool: bool = True,
        frozen: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, planes[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = StemNorm(planes[0], frozen=frozen)
        self.max_pool = max_pool
        inputs = planes[0]
        for index, (inside, count) in enumerate(zip(planes, blocks, strict=True), 1):
            stage = nn.Sequential()
            for number, rate in enumerate(rising_rates(drop_path, count)):
                stride = 2 if index > 1 and number == 0 else 1
                stage.append(Bottleneck(inputs, inside, stride, frozen=frozen, drop_path=rate))
                inputs = inside * EXPANSION
            self.add_module(f"layer{index}", stage)

    def forward(self, pictures: Tensor) -> Tensor:
        """[n, 3, h, w] to [n, 4 * planes[-1], h / 16, w / 16]; h / 8 without pooling."""
        x = convolved(pictures, self.conv1, self.bn1).relu_()
        if self.max_pool:
            x = nn.functional.max_pool2d(x, 3, stride=2, padding=1)
        for index in (1, 2, 3):
            x = self.get_submodule(f"layer{index}")(x)
        return x

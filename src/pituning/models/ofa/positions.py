"""Where things are: bucket tables of relative positions, and the bias that absolute positions give attention.

Letters: b batch, h heads, q queries, k keys, d model width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

CODE_POSITIONS = 769
"""Fillers after a picture's image-code positions, so that longer sequences index something."""


def token_buckets(bucket_size: int, positions: int) -> Tensor:
    """Row of the relative table for each query and key, int64 [positions, positions].

    Distances up to half of `bucket_size` have a row each; farther ones share rows, logarithmically.
    """
    middle = bucket_size // 2
    place = torch.arange(positions)
    distance = place[:, None] - place[None, :]
    size = distance.abs().clamp(min=1).float()  # float32: the ceiling is sensitive
    far = torch.log(size / middle) / math.log((positions - 1) / middle) * (middle - 1)
    bucket = torch.where(distance.abs() <= middle, distance, distance.sign() * (far.ceil().long() + middle))
    return bucket + bucket_size - 1


def image_buckets(side: int) -> Tensor:
    """Row of the image's relative table for each pair of patch ids, int64 [side² + 1, side² + 1].

    Patch ids start at 1, row by row; id 0 stands for the start of a sequence of image codes.
    """
    width = 2 * side - 1
    rows, columns = torch.arange(side * side) // side, torch.arange(side * side) % side
    down = rows[:, None] - rows[None, :] + side - 1
    across = columns[:, None] - columns[None, :] + side - 1
    buckets = torch.empty(side * side + 1, side * side + 1, dtype=torch.long)
    buckets[1:, 1:] = down * width + across
    last = width * width + 3
    buckets[0, :], buckets[:, 0], buckets[0, 0] = last - 3, last - 2, last - 1
    return buckets


def patch_ids(height: int, width: int, side: int, device: torch.device | None = None) -> Tensor:
    """Ids of a picture's patches, row by row, int64 [height * width]."""
    rows = torch.arange(height, device=device)[:, None]
    return (rows * side + torch.arange(width, device=device) + 1).flatten()


def code_position_ids(code_image_size: int, side: int) -> Tensor:
    """Patch ids in the order in which a picture's image codes are written: 0, the patches, then fillers."""
    window = code_image_size // 8
    filler = torch.full((CODE_POSITIONS,), 1024)
    return torch.cat([torch.zeros(1, dtype=torch.long), patch_ids(window, window, side), filler])


def absolute_bias(
    queries: Tensor, keys: Tensor, q_linear: nn.Linear, k_linear: nn.Linear, heads: int, scaling: float
) -> Tensor:
    """Attention scores of positions alone, [b, h, q, k] from [b, q, d] and [b, k, d].

    For a single query (a step of decoding) the keys are not projected: q·(W k) = (Wᵀ q)·k.
    """
    batch, count, width = queries.shape
    bias: Tensor
    query = (q_linear(queries) * scaling).view(batch, count, heads, -1).transpose(1, 2)
    if count == 1 and type(k_linear) is nn.Linear:
        weight = k_linear.weight.view(heads, -1, width)
        constant = (query * k_linear.bias.view(heads, 1, -1)).sum(-1, keepdim=True)
        bias = query @ weight @ keys[:, None].transpose(2, 3) + constant
        return bias
    key = k_linear(keys).view(batch, keys.shape[1], heads, -1).transpose(1, 2)
    bias = query @ key.transpose(2, 3)
    return bias


def relative_bias(table: nn.Module, buckets: Tensor) -> Tensor:
    """Learned bias of relative positions, [h, q, k] from int64 [q, k]."""
    bias: Tensor = table(buckets).permute(2, 0, 1)
    return bias

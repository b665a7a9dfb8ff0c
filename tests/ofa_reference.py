"""OFA and π-Tuning's modules once more, written from the papers' official behaviour as plain functions.

It shares nothing with `pituning.models.ofa`: no modules, no cache, no fused attention. It reads a state dict
with the official names, PETL keys included, and computes logits step by step in the precision it is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, gelu, layer_norm, linear, max_pool2d, relu


@dataclass(frozen=True)
class Reference:
    """Logits from a state dict.

    Args:
        weights: official names -> tensors.
        config: an OfaConfig, for its numbers.
        lora_scaling: alpha / r.
    """

    weights: Mapping[str, Tensor]
    config: Any
    lora_scaling: float = 1.0

    def logits(
        self, tokens: Tensor, previous: Tensor, pictures: Tensor | None, shown: Tensor | None
    ) -> Tensor:
        states, visible, positions = self.encode(tokens, pictures, shown)
        return self.decode(previous, states, visible, positions)

    def encode(
        self, tokens: Tensor, pictures: Tensor | None, shown: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        w, c = self.weights, self.config
        length, heads = tokens.shape[1], c.encoder_attention_heads
        places = w["encoder.embed_positions.weight"][:length]
        x = w["encoder.embed_tokens.weight"][tokens] + w["encoder.type_embedding.weight"][0]
        x = self.norm(x, "encoder.layernorm_embedding")
        visible, position = tokens != 1, self.norm(places, "encoder.pos_ln")
        ids = torch.empty(0, dtype=torch.long)
        if pictures is not None:
            features = self.stem(pictures)
            height, width = features.shape[-2:]
            ids = torch.tensor([r * c.image_bucket_size + k + 1 for r in range(height) for k in range(width)])
            patches = self.linear(features.flatten(2).transpose(1, 2), "encoder.image_proj")
            patches = self.norm(
                patches + w["encoder.type_embedding.weight"][1], "encoder.patch_layernorm_embedding"
            )
            seen = torch.ones(patches.shape[:2], dtype=torch.bool)
            if shown is not None:
                seen = seen & shown[:, None]
            place = self.norm(w["encoder.embed_image_positions.weight"][ids], "encoder.image_pos_ln")
            x, visible = torch.cat([patches, x], 1), torch.cat([seen, visible], 1)
            position = torch.cat([place, position])
        x = x * visible[..., None]
        absolute = self.absolute(position, position, "encoder.pos_q_linear", "encoder.pos_k_linear", heads)
        many = len(ids)
        for layer in range(c.encoder_layers):
            bias = absolute.clone()
            token_table = w[f"encoder.token_rel_pos_table_list.{layer}.weight"]
            image_table = w[f"encoder.image_rel_pos_table_list.{layer}.weight"]
            for i in range(length):
                for j in range(length):
                    bias[:, many + i, many + j] += token_table[self.token_bucket(i - j)]
            for i, a in enumerate(ids.tolist()):
                for j, b in enumerate(ids.tolist()):
                    bias[:, i, j] += image_table[self.image_bucket(a, b)]
            mask = torch.where(visible[:, None, None], 0.0, -math.inf).to(x.dtype) + bias
            x = self.attend(x, x, mask, f"encoder.layers.{layer}.self_attn", "attn_ln", heads, "adapter1")
            x = self.feed_forward(x, f"encoder.layers.{layer}")
        return self.norm(x, "encoder.layer_norm"), visible, position

    def decode(self, previous: Tensor, states: Tensor, visible: Tensor, positions: Tensor) -> Tensor:
        w, c = self.weights, self.config
        length, heads = previous.shape[1], c.decoder_attention_heads
        x = self.norm(w["decoder.embed_tokens.weight"][previous], "decoder.layernorm_embedding")
        place = self.norm(w["decoder.embed_positions.weight"][:length], "decoder.pos_ln")
        own = self.absolute(place, place, "decoder.self_pos_q_linear", "decoder.self_pos_k_linear", heads)
        cross = self.absolute(
            place, positions, "decoder.cross_pos_q_linear", "decoder.cross_pos_k_linear", heads
        )
        hidden = torch.full((length, length), -math.inf, dtype=x.dtype).triu(1)
        padding = torch.where(previous == 1, -math.inf, 0.0).to(x.dtype)[:, None, None]
        beyond = torch.where(visible, 0.0, -math.inf).to(x.dtype)[:, None, None]
        for layer in range(c.decoder_layers):
            bias = own.clone()
            table = w[f"decoder.token_rel_pos_table_list.{layer}.weight"]
            for i in range(length):
                for j in range(length):
                    bias[:, i, j] += table[self.token_bucket(i - j)]
            name = f"decoder.layers.{layer}"
            mask = bias + hidden + padding
            x = self.attend(x, x, mask, f"{name}.self_attn", "self_attn_ln", heads, "adapter1")
            x = self.attend(x, states, cross + beyond, f"{name}.encoder_attn", "cross_attn_ln", heads, "")
            x = self.feed_forward(x, name)
        return linear(self.norm(x, "decoder.layer_norm"), w["decoder.output_projection.weight"])

    def attend(
        self, x: Tensor, other: Tensor, mask: Tensor, name: str, after: str, heads: int, adapter: str
    ) -> Tensor:
        layer, kind = name.rpartition(".")[0], name.rpartition(".")[2]
        normed = self.norm(x, f"{layer}.{kind}_layer_norm")
        source = normed if kind == "self_attn" else other
        width = x.shape[-1] // heads
        scale = (width * self.config.attn_scale_factor) ** -0.5
        query = self.projected(normed, name, "q_proj") * scale
        key, value = self.projected(source, name, "k_proj"), self.projected(source, name, "v_proj")
        if kind == "self_attn":
            key, value, mask = self.prefixed(layer, key, value, mask)
        rows = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            scores = query[..., part] @ key[..., part].transpose(1, 2) + mask[:, head]
            out = scores.softmax(-1) @ value[..., part]
            rows.append(out * self.weights[f"{name}.c_attn"][head])
        out = self.projected(torch.cat(rows, -1), name, "out_proj")
        out = self.norm(out, f"{layer}.{after}")
        return x + (self.adapted(out, layer, adapter) if adapter else out)

    def feed_forward(self, x: Tensor, layer: str) -> Tensor:
        hidden = gelu(self.linear(self.norm(x, f"{layer}.final_layer_norm"), f"{layer}.fc1"))
        out = self.linear(self.norm(hidden, f"{layer}.ffn_layernorm"), f"{layer}.fc2")
        return x + self.adapted(out, layer, "adapter2")

    def adapted(self, x: Tensor, layer: str, which: str) -> Tensor:
        """One adapter, or several averaged in their parameters: down and up each on their own."""
        w, name = self.weights, f"{layer}.{which}"
        if f"{name}.down_proj.weight" in w:
            hidden = relu(self.linear(x, f"{name}.down_proj"))
            return x + self.linear(hidden, f"{name}.up_proj")
        vector = f"{layer}.adapter_interpolation_weight{which[-1]}"
        if vector not in w:
            return x
        mix = w[vector].softmax(0)
        several = f"{layer}.adapters{which[-1]}"
        downs = [self.linear(x, f"{several}.{e}.down_proj") for e in range(len(mix))]
        hidden = relu(sum(m * down for m, down in zip(mix, downs, strict=True)))
        ups = [self.linear(hidden, f"{several}.{e}.up_proj") for e in range(len(mix))]
        return x + sum(m * up for m, up in zip(mix, ups, strict=True))

    def prefixed(self, layer: str, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Learned keys and values in front, seen by all and without position bias."""
        part, _, number = layer.partition(".layers.")
        encoder, w = f"{part}.{part}_prompt_encoder", self.weights
        alone = w.get(f"{encoder}.embedding.weight")
        if alone is not None:
            table = alone
        elif f"{part}.prompt_weight_scale" in w:
            mix = w[f"{part}.prompt_weight_scale"][int(number)].softmax(0)
            tables = [w[f"{encoder}.{e}.embedding.weight"] for e in range(len(mix))]
            table = sum(m * t for m, t in zip(mix, tables, strict=True))
        else:
            return key, value, mask
        slices = table.view(len(table), -1, key.shape[-1])
        learned = [slices[:, 2 * int(number) + k].expand(len(key), -1, -1) for k in (0, 1)]
        front = mask.new_zeros(*mask.shape[:-1], len(table))
        return (
            torch.cat([learned[0], key], 1),
            torch.cat([learned[1], value], 1),
            torch.cat([front, mask], -1),
        )

    def projected(self, x: Tensor, name: str, which: str) -> Tensor:
        """A projection, with LoRA, or several whole copies mixed in their outputs."""
        w = self.weights
        vector = f"{name}.lora_interpolation_weight"
        plain = self.linear(x, f"{name}.{which}")
        if vector in w:
            mix = w[vector].softmax(0)
            return sum(m * (plain + self.low_rank(x, f"{name}.{which}.{e}")) for e, m in enumerate(mix))
        return plain + self.low_rank(x, f"{name}.{which}") if f"{name}.{which}.lora_A" in w else plain

    def low_rank(self, x: Tensor, name: str) -> Tensor:
        return x @ self.weights[f"{name}.lora_A"].T @ self.weights[f"{name}.lora_B"].T * self.lora_scaling

    def absolute(self, queries: Tensor, keys: Tensor, q: str, k: str, heads: int) -> Tensor:
        width = queries.shape[-1] // heads
        scale = (width * self.config.attn_scale_factor) ** -0.5
        left = (self.linear(queries, q) * scale).view(len(queries), heads, width).transpose(0, 1)
        right = self.linear(keys, k).view(len(keys), heads, width).transpose(0, 1)
        return left @ right.transpose(1, 2)

    def token_bucket(self, distance: int) -> int:
        middle, last = self.config.token_bucket_size // 2, 1023
        far = abs(distance)
        if far <= middle:
            return distance + self.config.token_bucket_size - 1
        ratio = torch.log(torch.tensor(far / middle)) / math.log(last / middle) * (middle - 1)
        steps = math.ceil(float(ratio)) + middle
        return (steps if distance > 0 else -steps) + self.config.token_bucket_size - 1

    def image_bucket(self, a: int, b: int) -> int:
        side = self.config.image_bucket_size
        (row_a, column_a), (row_b, column_b) = divmod(a - 1, side), divmod(b - 1, side)
        return (row_a - row_b + side - 1) * (2 * side - 1) + column_a - column_b + side - 1

    def stem(self, pictures: Tensor) -> Tensor:
        name = "encoder.embed_images"
        x = relu(self.batch_norm(self.conv(pictures, f"{name}.conv1", 2, 3), f"{name}.bn1"))
        x = max_pool2d(x, 3, 2, 1)
        for stage, count in enumerate(self.config.blocks, 1):
            for number in range(count):
                x = self.block(x, f"{name}.layer{stage}.{number}", 2 if stage > 1 and number == 0 else 1)
        return x

    def block(self, x: Tensor, name: str, stride: int) -> Tensor:
        y = relu(self.batch_norm(self.conv(x, f"{name}.conv1"), f"{name}.bn1"))
        y = relu(self.batch_norm(self.conv(y, f"{name}.conv2", stride, 1), f"{name}.bn2"))
        y = self.batch_norm(self.conv(y, f"{name}.conv3"), f"{name}.bn3")
        if f"{name}.downsample.0.weight" in self.weights:
            x = self.batch_norm(self.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return relu(x + y)

    def conv(self, x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        return conv2d(x, self.weights[f"{name}.weight"], stride=stride, padding=padding)

    def batch_norm(self, x: Tensor, name: str) -> Tensor:
        w = self.weights
        mean, variance = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return batch_norm(x, mean, variance, w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-5)

    def norm(self, x: Tensor, name: str) -> Tensor:
        return layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def linear(self, x: Tensor, name: str) -> Tensor:
        return linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

# Copyright (c) 2026, the nemo_dreamfusion authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Attention of heads wider than flash kernels take, such as the one head of 512 channels of a VAE's encoder.

On a GPU torch's flash and cuDNN kernels take heads of up to 256 channels, and its memory-efficient kernel any width
(``check_head_dim_size_flash``, ``check_cudnn_tensor_shapes`` and ``check_head_dim_size_mem_efficient`` in
https://github.com/pytorch/pytorch/blob/main/aten/src/ATen/native/transformers/cuda/sdp_utils.cpp). So the last one is what
torch chooses for 512 channels, forward and backward; it is tiled for narrow heads, whose output stays in registers. Here the
same sums are plain matrix products, which any device does well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCKS = 'blocks'  # its word in a configuration
QUERIES = 1024  # of a block: with 4,096 keys its scores are 16 MiB


def attention_in_blocks(query: Tensor, key: Tensor, value: Tensor, queries: int = QUERIES) -> Tensor:
    """Return softmax(Q K^T / sqrt(D)) V, [..., L, D], with the scores of some queries at a time.

    Of the matrix of all pairs nothing is kept: the backward pass computes it again, as flash attention does (Dao et al.,
    2022, https://arxiv.org/abs/2205.14135, algorithm 4), but with whole rows, so that torch's own softmax serves.
    Half precision is computed in float32. Where ``model.tf32`` is set, a GPU's tensor cores multiply queries by keys without
    loss, and round probabilities by 2e-4 before they multiply them by the values.

    Args:
        query: [..., L, D].
        key, value: [..., K, D].
        queries: L of a block.

    >>> q, k, v = torch.randn(3, 1, 5, 4)
    >>> torch.allclose(attention_in_blocks(q, k, v, queries=2), torch.softmax(q @ k.mT / 2, -1) @ v, atol=1e-6)
    True
    """
    return _BlockAttention.apply(query, key, value, queries)


class _BlockAttention(torch.autograd.Function):
    """Keeps query, key, value and output."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, queries: int) -> Tensor:
        q, k, v, scale = _wide(query), _wide(key), _wide(value), query.shape[-1] ** -0.5
        with torch.autocast(query.device.type, enabled=False):
            rows = [torch.softmax(scale * (rows @ k.mT), -1) @ v for rows in q.split(queries, -2)]
        output = torch.cat(rows, -2).to(query.dtype)
        ctx.save_for_backward(query, key, value, output)
        ctx.queries, ctx.scale = queries, scale
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output = ctx.saved_tensors
        q, k, v, g = (_wide(tensor) for tensor in (query, key, value, grad))
        # Of each query's gradients of probabilities, under its probabilities
        means = (g * output).sum(-1, keepdim=True)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for start in range(0, q.shape[-2], ctx.queries):
            rows = slice(start, start + ctx.queries)
            probabilities = torch.softmax(ctx.scale * (q[..., rows, :] @ k.mT), -1)
            grad_v += probabilities.mT @ g[..., rows, :]
            grad_scores = (g[..., rows, :] @ v.mT - means[..., rows, :]) * probabilities
            grad_q[..., rows, :] = grad_scores @ k
            grad_k += grad_scores.mT @ q[..., rows, :]
        grad_q, grad_k = ctx.scale * grad_q, ctx.scale * grad_k
        return grad_q.to(query.dtype), grad_k.to(key.dtype), grad_v.to(value.dtype), None


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class BlockAttention:
    """A processor for the attention of a VAE of diffusers: x [B, C, h, w] -> x + attention among its pixels."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Return [B, C, h, w]; nothing but ``hidden_states`` is used, as a VAE's encoder has nothing else."""
        assert encoder_hidden_states is None and attention_mask is None, 'a denoiser reads more than pixels'
        pixels = attn.group_norm(hidden_states.flatten(2)).mT
        heads = [
            layer(pixels).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer in (attn.to_q, attn.to_k, attn.to_v)
        ]
        attended = attn.to_out[0](attention_in_blocks(*heads).transpose(1, 2).flatten(2))
        return (attended.mT.reshape(hidden_states.shape) + hidden_states) / attn.rescale_output_factor

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

"""Attention in blocks of queries equals diffusers' own, forward and backward, and keeps no matrix of pairs."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

from nemo_dreamfusion.checkpoints.block_attention import BlockAttention, attention_in_blocks


def vae_attention(channels: int, heads: int = 1) -> Attention:
    """The attention of a VAE's mid block, as diffusers builds it."""
    torch.manual_seed(0)
    layer = Attention(
        channels,
        heads=heads,
        dim_head=channels // heads,
        rescale_output_factor=1,
        eps=1e-6,
        norm_num_groups=32,
        residual_connection=True,
        bias=True,
        upcast_softmax=True,
        _from_deprecated_attn_block=True,
    )
    return layer.requires_grad_(False)


def attend(layer: Attention, processor, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The output, and the gradient of a function of it whose slope is the same at every element's size."""
    layer.set_processor(processor)
    output = layer(image, temb=None)
    (gradient,) = torch.autograd.grad(output.float().cos().mean(dim=1).sum(), image)
    return output, gradient


@pytest.mark.parametrize(
    ('channels', 'side', 'heads'), [(32, 3, 1), (64, 33, 1), (512, 16, 1), (512, 33, 1), (64, 8, 2)]
)
def test_equals_diffusers_with_its_gradient(channels, side, heads):
    """At 33 x 33 pixels there are 1,089 queries: a block, and a part of one."""
    layer = vae_attention(channels, heads)
    image = torch.randn(2, channels, side, side, requires_grad=True)
    wanted, found = (attend(layer, processor, image) for processor in (AttnProcessor2_0(), BlockAttention()))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize('queries', [1, 3, 7, 100])
def test_gradients_are_those_of_differences(queries):
    q, k, v = (torch.randn(2, rows, 4, dtype=torch.float64, requires_grad=True) for rows in (7, 5, 5))
    assert torch.autograd.gradcheck(lambda *x: attention_in_blocks(*x, queries=queries), (q, k, v))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    """Scores and probabilities are float32: only inputs, output and gradients are rounded."""
    inputs = [torch.randn(1, 1, 40, 64).mul(3).to(dtype).requires_grad_() for _ in range(3)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    slopes = torch.randn(1, 1, 40, 64).to(dtype)
    found, wanted = attention_in_blocks(*inputs), attention_in_blocks(*exact)
    gradients = torch.autograd.grad(found, inputs, slopes), torch.autograd.grad(wanted, exact, slopes.double())
    for ours, exactly in ((found, wanted), *zip(*gradients, strict=True)):
        assert ours.dtype == dtype
        largest = exactly.abs().max().item()
        torch.testing.assert_close(ours.double(), exactly, atol=2 * torch.finfo(dtype).eps * largest, rtol=0)


def test_no_matrix_of_pairs_is_kept():
    layer, image = vae_attention(32), torch.randn(1, 32, 32, 32, requires_grad=True)
    kept = {}
    for name, processor in (('plain', AttnProcessor()), ('blocks', BlockAttention())):
        layer.set_processor(processor)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, sizes=sizes: (sizes.append(x.numel()), x)[1], lambda x: x
        ):
            layer(image)
        kept[name] = max(sizes)
    assert kept == {'plain': 1024**2, 'blocks': 32 * 1024}  # all pairs of pixels; all channels of all pixels


def test_it_is_compiled_in_one_piece():
    torch._dynamo.reset()
    compiled = torch.compile(lambda *x: attention_in_blocks(*x, queries=16), backend='aot_eager', fullgraph=True)
    inputs = [torch.randn(1, 1, 40, 8, requires_grad=True) for _ in range(3)]
    results = []
    for attention in (compiled, attention_in_blocks):
        output = attention(*inputs)
        results.append([output, *torch.autograd.grad(output.square().sum(), inputs)])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    torch._dynamo.reset()

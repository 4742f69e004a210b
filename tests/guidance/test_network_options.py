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


"""Precision, speed and memory of the networks: each option acts, and changes no result by more than rounding."""

from __future__ import annotations

import pytest
import torch
from guidance.small_steps import loss, parameters_of, prepared
from refusals import refusal

from nemo_dreamfusion.modules.guidance.guidance_mixing import GuidanceMixing
from nemo_dreamfusion.modules.guidance.networks.options import NetworkOptions
from nemo_dreamfusion.modules.guidance.networks.precision import weight_dtype


@pytest.fixture(scope='module')
def guidance(sd_folder):
    return prepared(sd_folder)


@pytest.mark.parametrize(
    ('precision', 'dtype'),
    [(p, torch.float16) for p in (16, '16', '16-mixed', '16-true', 'fp16', 'transformer-engine-float16')]
    + [(p, torch.bfloat16) for p in ('bf16', 'bf16-mixed', 'bf16-true', 'transformer-engine')]
    + [(p, torch.float32) for p in (32, '32', '32-true', 'FP32', None)]
    + [(p, torch.float64) for p in (64, '64', '64-true')],
)
def test_every_spelling_of_a_precision_maps(precision, dtype):
    assert weight_dtype(precision) == dtype
    assert NetworkOptions(precision=precision).precision == precision


@pytest.mark.parametrize('precision', ['17', 'half-mixed', True, 8])
def test_unknown_precisions_are_refused(precision):
    with refusal('precision', precision, '16-mixed', 'precision=32'):
        weight_dtype(precision, name='precision')
    with refusal('model.guidance.networks.precision', precision, 'auto', '16-mixed'):
        NetworkOptions(precision=precision)


@pytest.mark.parametrize(('has', 'expected'), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_what_the_device_is_fast_with(sd_folder, monkeypatch, has, expected):
    for name in ('_is_avx512_bf16_supported', '_is_amx_tile_supported'):
        monkeypatch.setattr(torch.cpu, name, lambda: has, raising=False)
    assert weight_dtype('auto', 'cpu') == expected
    assert weight_dtype('auto', 'cuda:0') == torch.float16
    guidance = prepared(sd_folder, networks=NetworkOptions(precision='auto'))
    assert {p.dtype for p in parameters_of(guidance)} == {expected}
    with refusal('model.guidance.networks.precision', 'auto', 'float16'):
        weight_dtype('auto')  # an engine is built for no device in particular


@pytest.mark.parametrize('precision', ['bf16-mixed', '16-mixed', 64])
def test_weights_take_the_precision_and_the_loss_stays_float32(sd_folder, render, cameras, precision):
    mixing = GuidanceMixing(guidance_scale=2.0)  # a scale s shows bfloat16's rounding s-fold
    other = prepared(sd_folder, networks=NetworkOptions(precision=precision), mixing=mixing)
    assert {p.dtype for p in parameters_of(other)} == {weight_dtype(precision)}
    with torch.autocast('cpu', dtype=torch.bfloat16):
        output = loss(other, render, cameras, latent=False)
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    full = loss(prepared(sd_folder, mixing=mixing), render, cameras, latent=False)
    torch.testing.assert_close(output.loss, full.loss, rtol=0.05, atol=0)


def saved_bytes(guidance, render) -> int:
    """Memory that one encoding keeps for its backward pass."""
    kept = []

    def pack(tensor):
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        guidance.encode(render.image)
    return sum(kept)


def image_gradient(guidance, render):
    (gradient,) = torch.autograd.grad(guidance.encode(render.image).square().sum(), render.image)
    return gradient


def test_checkpointing_keeps_less_and_gives_the_same_gradient(sd_folder, guidance, render):
    checkpointed = prepared(sd_folder, networks=NetworkOptions(checkpoint_vae=True))
    assert saved_bytes(checkpointed, render) < 0.5 * saved_bytes(guidance, render)
    torch.testing.assert_close(image_gradient(checkpointed, render), image_gradient(guidance, render))


def test_compile_compiles_unet_and_encoder(sd_folder, guidance, render):
    compiled = []

    def backend(graph, inputs):
        compiled.append(len(list(graph.graph.nodes)))
        return graph.forward

    torch._dynamo.reset()
    fast = prepared(sd_folder, networks=NetworkOptions(compile=backend))
    assert compiled == []  # not for the images that the latent map is fitted to
    assert fast.noise_predictor._compiled_call_impl is not None
    torch.testing.assert_close(fast.encode(render.image), guidance.encode(render.image))
    assert max(compiled) > 50
    torch._dynamo.reset()


def test_vae_slicing_encodes_one_image_at_a_time(sd_folder, guidance, render):
    sliced = prepared(sd_folder, networks=NetworkOptions(vae_slicing=True))
    batches = []
    sliced.encode.encoder.vae.encoder.register_forward_hook(lambda _, inputs, __: batches.append(len(inputs[0])))
    result = sliced.encode(render.image)
    assert batches == [1, 1]
    torch.testing.assert_close(result, guidance.encode(render.image))


def test_channels_last_changes_the_layout_and_not_the_result(sd_folder, guidance, render):
    other = prepared(sd_folder, networks=NetworkOptions(channels_last=True))
    kernel = other.encode.encoder.vae.encoder.conv_in.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last) and not kernel.is_contiguous()
    torch.testing.assert_close(other.encode(render.image), guidance.encode(render.image), atol=1e-5, rtol=1e-4)


def kernels(guidance, render, cameras) -> tuple[float, set[str]]:
    """The loss of one step, and the attention kernels that torch ran for it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        value = loss(guidance, render, cameras, latent=False).loss.item()
    return value, {event.key for event in profile.key_averages() if 'attention' in event.key}


def test_attention_formulas_agree_and_are_the_ones_asked_for(sd_folder, render, cameras):
    found = {
        name: kernels(prepared(sd_folder, networks=NetworkOptions(attention=name)), render, cameras)
        for name in ('sdpa', 'flash', 'math')
    }
    for name in ('flash', 'math'):
        assert found[name][0] == pytest.approx(found['sdpa'][0], rel=1e-4)
    assert any('flash' in kernel for kernel in found['flash'][1])
    assert not found['math'][1]  # neither in the UNet nor in the VAE: products and a softmax
    with refusal('model.guidance.networks.attention', 'xformers', 'model.guidance.networks.attention=sdpa'):
        prepared(sd_folder, networks=NetworkOptions(attention='xformers'))


def test_the_vae_encoder_attends_as_asked(sd_folder):
    for attention, kind in (('math', 'AttnProcessor'), ('sdpa', 'AttnProcessor2_0'), ('flash', 'AttnProcessor2_0')):
        vae = prepared(sd_folder, networks=NetworkOptions(attention=attention)).encode.encoder.vae
        assert {type(p).__name__ for p in vae.attn_processors.values()} == {kind}


def test_flash_attention_that_cannot_run_is_an_error_and_not_another_kernel(sd_folder, render, cameras):
    guidance = prepared(sd_folder, networks=NetworkOptions(attention='flash', precision=64))
    unet = guidance.noise_predictor.unet
    with pytest.raises(RuntimeError, match='No available kernel'):
        attention = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1
        mask = torch.zeros(1, 1, 4, dtype=torch.float64).requires_grad_(True)  # no flash kernel differentiates a mask
        attention.processor(attention, torch.zeros(1, 4, 16, dtype=torch.float64), attention_mask=mask)


@pytest.mark.parametrize('attention', ['sdpa', 'flash', 'math'])
def test_the_vae_encoder_attends_in_blocks(sd_folder, guidance, render, attention):
    """Whatever the UNet does, with the latents and the gradient of the formula that torch chooses."""
    other = prepared(sd_folder, networks=NetworkOptions(attention=attention, vae_attention='blocks'))
    assert {type(p).__name__ for p in other.encode.encoder.vae.attn_processors.values()} == {'BlockAttention'}
    unet = {type(p).__name__ for p in other.noise_predictor.unet.attn_processors.values()}
    assert 'BlockAttention' not in unet
    torch.testing.assert_close(other.encode(render.image), guidance.encode(render.image), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(image_gradient(other, render), image_gradient(guidance, render), atol=1e-5, rtol=1e-5)


def test_an_unknown_attention_of_the_vae_is_refused():
    with refusal('model.guidance.networks.vae_attention', 'block', 'model.guidance.networks.vae_attention=blocks'):
        NetworkOptions(vae_attention='block')
    with refusal('model.guidance.networks.attention', 'blocks', 'sdpa'):  # a UNet's heads are narrow
        NetworkOptions(attention='blocks')

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

"""NeMo's archives of every vintage give what NeMo's own modules gave."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from refusals import refusal

from nemo_dreamfusion.checkpoints import nemo_config, nemo_keys
from nemo_dreamfusion.checkpoints.nemo_checkpoint import NemoCheckpoint
from nemo_dreamfusion.checkpoints.nemo_text import text_config, to_clip_names
from nemo_dreamfusion.checkpoints.noise_schedule import compute_betas, make_nemo_buffers

NAMES = ['sd1_2023_10', 'sd1_v2.4', 'sd2_v2.4_megatron_clip', 'sd1_v1.23_unnormalised_kv']
TOLERANCE = {'rtol': 0, 'atol': 1e-4}


@pytest.fixture(scope='module')
def checkpoints(archive):
    return {name: NemoCheckpoint(archive(name), unnormalised_kv='v1.23' in name) for name in NAMES}


@pytest.mark.parametrize('name', NAMES)
@torch.no_grad()
def test_the_unet_gives_what_nemo_gave(checkpoints, answers, name):
    unet, known = checkpoints[name].unet(torch.float32), answers(name)
    eps = unet(known['x'], known['t'], encoder_hidden_states=known['context']).sample
    torch.testing.assert_close(eps, known['eps'], **TOLERANCE)
    padded = F.pad(known['context'], (0, 0, 0, 3))
    eps80 = unet(known['x'], known['t'], encoder_hidden_states=padded).sample
    torch.testing.assert_close(eps80, known['eps_context80'], **TOLERANCE)


@pytest.mark.parametrize('name', NAMES)
@torch.no_grad()
def test_the_vae_gives_what_nemo_gave(checkpoints, answers, name):
    vae, known = checkpoints[name].vae(torch.float32), answers(name)
    torch.testing.assert_close(vae.encode(known['image']).latent_dist.parameters, known['moments'], **TOLERANCE)
    torch.testing.assert_close(vae.decode(known['z']).sample, known['decoded'], **TOLERANCE)


@pytest.mark.parametrize('name', NAMES)
@torch.no_grad()
def test_the_text_encoder_gives_what_nemo_gave(checkpoints, answers, name):
    encoder, known = checkpoints[name].text_encoder(torch.float32), answers(name)
    torch.testing.assert_close(encoder(known['tokens']).last_hidden_state, known['text_embeddings'], **TOLERANCE)


@pytest.mark.parametrize('name', NAMES)
def test_schedule_scale_and_length_come_from_the_archive(checkpoints, name):
    checkpoint = checkpoints[name]
    scheduler = checkpoint.scheduler_config()
    assert scheduler['prediction_type'] == ('v_prediction' if 'sd2' in name else 'epsilon')
    assert scheduler['beta_schedule'] == 'scaled_linear' and 'trained_betas' not in scheduler
    assert checkpoint.context_length() == 80
    assert checkpoint.vae(torch.float32).config.scaling_factor == 0.18215
    assert checkpoint.unet(torch.float32).config.sample_size == 16


def test_v123_is_detected_and_said_and_plain_unless_asked(archive, answers, caplog):
    known = answers('sd1_v1.23_unnormalised_kv')
    with caplog.at_level(logging.WARNING):
        unet = NemoCheckpoint(archive('sd1_v1.23_unnormalised_kv')).unet(torch.float32)
    assert 'unnormalised_kv=true' in caplog.text
    with torch.no_grad():
        eps = unet(known['x'], known['t'], encoder_hidden_states=known['context']).sample
    assert 0.01 < (eps - known['eps']).abs().max() < 0.1


def test_v123_attention_is_said_where_it_is_used_and_refused_where_it_never_was(archive, caplog):
    with caplog.at_level(logging.WARNING):
        NemoCheckpoint(archive('sd1_v1.23_unnormalised_kv'), unnormalised_kv=None).unet(torch.float32)
    assert not caplog.text  # an engine holds it already
    with caplog.at_level(logging.WARNING):
        NemoCheckpoint(archive('sd1_v1.23_unnormalised_kv'), unnormalised_kv=True).unet(torch.float32)
    assert 'takes un-normalised keys and values' in caplog.text and 'need' not in caplog.text
    for name in ('sd1_2023_10', 'sd1_v2.4'):
        with refusal('unnormalised_kv', True, 'unnormalised_kv=false'):
            NemoCheckpoint(archive(name), unnormalised_kv=True).unet(torch.float32)


def test_context_length_can_be_set(archive):
    assert NemoCheckpoint(archive('sd1_v2.4'), context_length=77).context_length() == 77
    assert NemoCheckpoint(archive('sd1_v2.4'), context_length=None).context_length() is None


def test_stored_betas_that_differ_from_the_configuration_count():
    config = {'linear_start': 0.00085, 'linear_end': 0.012, 'timesteps': 10}
    said = nemo_config.scheduler_config(config, {})
    stored = make_nemo_buffers(said)['betas']
    assert 'trained_betas' not in nemo_config.scheduler_config(config, {'betas': stored})
    other = nemo_config.scheduler_config(config, {'betas': stored * 1.1})
    torch.testing.assert_close(compute_betas(other).float(), stored * 1.1)


def test_a_stored_scale_factor_counts():
    sizes = {'ch_mult': [1], 'ch': 32, 'in_channels': 3, 'out_ch': 3, 'z_channels': 4, 'num_res_blocks': 1}
    config = {'first_stage_config': {'ddconfig': sizes}}
    assert nemo_config.vae_config(config, {}, {'scale_factor': torch.tensor(0.25)})['scaling_factor'] == 0.25


@pytest.mark.parametrize(
    'wrap',
    [
        lambda k: k.removeprefix('model.'),
        lambda k: k.replace('model.', 'model.module.', 1),
        lambda k: k.replace('model.model.diffusion_model.', 'model.model._orig_mod.diffusion_model.'),
        lambda k: k.replace('model.model.diffusion_model.', 'model.model.diffusion_model._orig_mod.'),
        lambda k: (
            k.replace('model.model.diffusion_model.', 'model.unet.')
            .replace('model.first_stage_model.', 'model.vae.')
            .replace('model.cond_stage_model.', 'model.text_encoder.')
        ),
    ],
    ids=['bare', 'amp O2', 'compiled model', 'compiled unet', 'DreamBooth'],
)
def test_what_wrappers_put_in_front_is_taken_off(wrap):
    keys = ['model.model.diffusion_model.out.0.weight', 'model.first_stage_model.quant_conv.bias',
            'model.cond_stage_model.transformer.x', 'model.betas']  # fmt: skip
    parts = nemo_keys.split_parts(
        {wrap(key): torch.zeros(1) for key in keys} | {'model.x._extra_state': torch.zeros(1)}
    )
    assert [list(part) for part in parts.values()] == [
        ['out.0.weight'],
        ['quant_conv.bias'],
        ['transformer.x'],
        ['betas'],
    ]


def transformer_engine(unet: dict) -> dict:
    """A v2 UNet under the names that NeMo gives its Transformer Engine layers, whose gate comes first."""
    result = {}
    for key, value in unet.items():
        if 'ff.net.1.proj.' in key:
            value = torch.cat(value.chunk(2)[::-1])
        for old, new in (('.norm.', '.norm_to_q.layer_norm_'), ('.to_q.weight', '.norm_to_q.weight')):
            key = key.replace(f'attn1{old}', f'attn1{new}').replace(f'attn2{old}', f'attn2{new}')
        for old, new in (('net.0.', 'net.layer_norm_'), ('net.1.proj.', 'net.fc1_'), ('net.3.', 'net.fc2_')):
            key = key.replace(f'ff.{old}', f'ff.{new}')
        result[key] = value
    return result


def ldm(unet: dict) -> dict:
    """A v2 UNet under LDM's names."""
    table = {
        '.attn1.norm.': '.norm1.',
        '.attn2.norm.': '.norm2.',
        'ff.net.0.': 'norm3.',
        'ff.net.1.proj': 'ff.net.0.proj',
        'ff.net.3.': 'ff.net.2.',
        'in_layers.1.': 'in_layers.2.',
        'out_layers.2.': 'out_layers.3.',
    }
    result = {}
    for key, value in unet.items():
        key = 'out.2' + key[5:] if key.startswith('out.1.') else key
        for old, new in table.items():
            key = key.replace(old, new)
        result[key] = value
    return result


@pytest.mark.parametrize('rename', [transformer_engine, ldm])
def test_other_names_come_back_to_the_same_tensors(checkpoints, rename):
    unet = checkpoints['sd1_v2.4'].parts['unet']
    renamed = rename(unet)
    assert set(renamed) != set(unet)
    back = nemo_keys.to_latest_names(renamed)
    assert set(back) == set(unet)
    assert all(torch.equal(back[key], unet[key]) for key in unet)


OPEN_CLIP = {
    'embeddings.token_embedding.weight': 'token_embedding.weight',
    'embeddings.position_embedding.weight': 'positional_embedding',
    'final_layer_norm': 'ln_final',
    'encoder.layers': 'transformer.resblocks',
    'layer_norm1': 'ln_1',
    'layer_norm2': 'ln_2',
    'self_attn.out_proj': 'attn.out_proj',
    'mlp.fc1': 'mlp.c_fc',
    'mlp.fc2': 'mlp.c_proj',
}


def open_clip(tensors: dict) -> dict:
    """CLIPTextModel's tensors under OpenCLIP's names, query, key and value fused."""
    result, fused = {}, {}
    for key, value in tensors.items():
        if '.self_attn.' in key and 'out_proj' not in key:
            layer, _, rest = key.partition('.self_attn.')
            fused.setdefault((layer, rest.split('.')[1]), {})[rest[0]] = value
            continue
        for old, new in OPEN_CLIP.items():
            key = key.replace(old, new)
        result[f'model.{key}'] = value
    for (layer, leaf), parts in fused.items():
        name = layer.replace('encoder.layers', 'transformer.resblocks')
        result[f'model.{name}.attn.in_proj_{leaf}'] = torch.cat([parts[p] for p in 'qkv'])
    return result | {'model.text_projection': torch.zeros(2, 2), 'model.logit_scale': torch.zeros(())}


def test_open_clip_and_its_penultimate_layer(checkpoints):
    tensors = checkpoints['sd1_v2.4'].text_tensors()
    cond = {'_target_': 'nemo.x.FrozenOpenCLIPEmbedder', 'version': 'laion2b_s32b_b79k', 'layer': 'last'}
    found = to_clip_names(open_clip(tensors), cond)
    assert set(found) == set(tensors) and all(torch.equal(found[key], tensors[key]) for key in tensors)
    config = text_config(found, cond)
    assert (config['hidden_act'], config['num_hidden_layers']) == ('gelu', 2)
    fewer = to_clip_names(open_clip(tensors), {**cond, 'layer': 'penultimate'})
    assert text_config(fewer, cond)['num_hidden_layers'] == 1 and 'final_layer_norm.weight' in fewer
    assert nemo_config.context_length({'cond_stage_config': cond}, 77) is None


def test_megatrons_interleaved_heads(checkpoints):
    q, k, v = torch.randn(3, 8, 8)
    fused = torch.stack([m.view(4, 2, 8) for m in (q, k, v)], 1).reshape(24, 8)  # [heads, 3, width of a head, ...]
    cond = {
        '_target_': 'x.FrozenMegatronCLIPEmbedder',
        'cfg': {'text': {'num_attention_heads': 4, 'megatron_legacy': False}},
    }
    name = 'model.language_model.encoder.layers.0.self_attention.query_key_value.weight'
    found = to_clip_names({name: fused}, cond)
    for part, expected in (('q', q), ('k', k), ('v', v)):
        assert torch.equal(found[f'encoder.layers.0.self_attn.{part}_proj.weight'], expected)


@pytest.mark.parametrize(
    ('width', 'asked', 'expected'), [(768, None, 12), (1024, None, 16), (32, None, 4), (768, 6, 6)]
)
def test_heads_of_the_text_encoder(width, asked, expected):
    tensors = {
        'embeddings.token_embedding.weight': torch.empty(520, width),
        'embeddings.position_embedding.weight': torch.empty(77, width),
        'encoder.layers.0.mlp.fc1.weight': torch.empty(4 * width, width),
    }
    config = text_config(tensors, {'_target_': 'x.FrozenCLIPEmbedder'}, asked)
    assert (config['num_attention_heads'], config['hidden_act']) == (expected, 'quick_gelu')

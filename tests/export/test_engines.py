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

"""examples/build_engines.py: what it writes, what it refuses, and that it writes all or nothing."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
import yaml

from nemo_dreamfusion.checkpoints.diffusers_format import DiffusersCheckpoint
from nemo_dreamfusion.checkpoints.nemo_checkpoint import NemoCheckpoint
from nemo_dreamfusion.export import engines
from nemo_dreamfusion.export.engines import build_engines, onnx_plan
from nemo_dreamfusion.modules.guidance.engines.plans import fingerprint, read_plans

pytest.importorskip('onnxruntime')
ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / 'examples' / 'build_engines.py'
CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def built(sd_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('engines') / 'small'
    differences = build_engines(str(sd_folder), str(folder), engine='onnxruntime')
    assert set(differences) == {'clip', 'unet', 'vae'} and max(differences.values()) < 1e-4
    return folder


def test_the_folder_is_nemos(built, sd_folder):
    files = sorted(str(path.relative_to(built)) for path in built.rglob('*') if path.is_file())
    onnx = [f'onnx/{name}/{name}.onnx' for name in ('clip', 'unet', 'vae')]
    assert files == [*onnx, 'plan/clip.plan', 'plan/conf.yaml', 'plan/unet.plan', 'plan/vae.plan']
    conf = yaml.safe_load((built / 'plan' / 'conf.yaml').read_text())
    weights = conf.pop('weights')
    assert conf == {
        'clip': {
            'tokens': [1, 16],
            'logits': [1, 16, 16],
            'unconditional_guidance_scale': 7.5,
            'max_length': 16,
            'openai_clip': True,  # its activation is OpenAI's
        },
        'unet': {'x': [2, 4, 8, 8], 't': [2], 'context': [2, 16, 16], 'logits': [2, 4, 8, 8]},
        'vae': {'z': [1, 4, 8, 8], 'logits': [1, 3, 32, 32]},
        'sampler': {'eta': 0, 'inference_steps': 50, 'sampler_type': 'PLMS'},
        'batch_size': 1,
        'downsampling_factor': 4,
        'in_channels': 4,
        'height': 32,
        'width': 32,
        'engine': 'onnxruntime',
        'precision': 'float32',
    }
    assert weights['unet'] == fingerprint(DiffusersCheckpoint(str(sd_folder)).unet(torch.float32))


@pytest.mark.parametrize(
    ('name', 'kind', 'expected'),
    [('sd1_v2.4', 'FrozenCLIPEmbedder', True), ('sd2_v2.4_megatron_clip', 'FrozenMegatronCLIPEmbedder', False)],
)
def test_conf_says_whose_text_encoder_it_is(name, kind, expected):
    archive = NemoCheckpoint(str(ROOT / 'tests' / 'data' / 'nemo_sd' / f'{name}.nemo'))
    assert archive.config['cond_stage_config']['_target_'].endswith(kind)
    shapes = {'clip': {'tokens': [1, 77]}, 'unet': {'x': [2, 4, 8, 8]}, 'vae': {'logits': [1, 3, 64, 64]}}
    conf = engines._with_nemo_keys(shapes, 1, openai_clip=archive.is_openai_clip())
    assert conf['clip']['openai_clip'] is expected


@torch.no_grad()
def test_the_vae_plan_decodes_as_torch(built, sd_folder):
    runner = read_plans(str(built / 'plan'), 'onnxruntime').open('vae', CPU)
    vae = DiffusersCheckpoint(str(sd_folder)).vae(torch.float32)
    for rows in (1, 4):
        z = torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(rows))
        torch.testing.assert_close(runner({'z': z})['logits'], vae.decode(z).sample, rtol=1e-4, atol=1e-5)


def test_weights_beyond_one_file_stand_beside_the_plan(built, tmp_path):
    conf = (built / 'plan' / 'conf.yaml').read_text()
    (tmp_path / 'conf.yaml').write_text(conf)
    for name in ('clip', 'unet'):
        onnx_plan(built / 'onnx' / name / f'{name}.onnx', tmp_path / f'{name}.plan', largest=1000)
    assert (tmp_path / 'unet.plan.data').stat().st_size > (tmp_path / 'unet.plan').stat().st_size
    split = tmp_path / 'split' / 'clip'  # a large model leaves the exporter in several files, too
    split.mkdir(parents=True)
    for name in ('clip.plan', 'clip.plan.data'):
        (tmp_path / name).rename(split / name)
    onnx_plan(split / 'clip.plan', tmp_path / 'clip.plan', largest=1000)
    tokens = {'tokens': torch.arange(32, dtype=torch.int32).view(2, 16)}
    whole, parted = (read_plans(str(f), 'onnxruntime').open('clip', CPU)(tokens) for f in (built / 'plan', tmp_path))
    assert torch.equal(whole['logits'], parted['logits'])


@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_build_leaves_nothing(sd_folder, tmp_path, monkeypatch, error):
    def stop(self, dtype):
        raise error

    monkeypatch.setattr(DiffusersCheckpoint, 'unet', stop)  # clip is written by then
    with pytest.raises(error):
        build_engines(str(sd_folder), str(tmp_path / 'engines'), engine='onnxruntime')
    assert list(tmp_path.iterdir()) == []


def test_a_plan_that_differs_from_torch_is_refused(sd_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(engines.TOLERANCE, torch.float32, 0.0)
    with pytest.raises(ValueError, match='clip.plan differs from torch by .* 0 is allowed'):
        build_engines(str(sd_folder), str(tmp_path / 'engines'), engine='onnxruntime')
    assert list(tmp_path.iterdir()) == []


def test_engines_are_replaced_only_when_asked_and_only_engines(sd_folder, built, tmp_path, monkeypatch):
    before = (built / 'plan' / 'conf.yaml').read_bytes()
    with pytest.raises(ValueError, match='Set force=true'):
        build_engines(str(sd_folder), str(built), engine='onnxruntime')
    monkeypatch.setattr(DiffusersCheckpoint, 'vae', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_engines(str(sd_folder), str(built), engine='onnxruntime', force=True)
    assert (built / 'plan' / 'conf.yaml').read_bytes() == before
    (tmp_path / 'thesis.tex').write_text('x')
    with pytest.raises(ValueError, match='not a folder of engines'):
        build_engines(str(sd_folder), str(tmp_path), engine='onnxruntime', force=True)


@pytest.mark.parametrize(
    ('options', 'reason'),
    [
        ({'engine': 'onnxruntme'}, "engine = 'onnxruntme'.*Set engine=onnxruntime"),
        ({'precision': 'bf16'}, "precision = 'bf16'.*32 or 16"),
        ({'batch_size': 2}, 'takes any batch'),
        ({'max_batch_size': 2}, 'takes any batch'),
        ({'engine': 'tensorrt', 'batch_size': 0}, 'batch_size = 0'),
        ({'engine': 'tensorrt', 'batch_size': 4, 'max_batch_size': 2}, 'max_batch_size = 2.*at least batch_size, 4'),
        ({'source': '/no/such/folder'}, "source='/no/such/folder': there is no such folder. Set source to"),
        ({'source': 'none.nemo'}, 'no such file'),
        ({'context_length': 'eighty'}, "context_length = 'eighty'"),
        ({'context_length': 80}, 'context_length = 80.*no .nemo archive'),
        ({'unnormalised_kv': True}, 'unnormalised_kv = True.*no .nemo archive'),
    ],
)
def test_bad_requests_are_refused_and_leave_nothing(sd_folder, tmp_path, options, reason):
    asked = {'source': str(sd_folder), 'out_dir': str(tmp_path / 'new'), 'engine': 'onnxruntime', **options}
    with pytest.raises(ValueError, match=reason):
        build_engines(**asked)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('arguments', 'reason'),
    [
        (['source=pocket'], 'out_dir is missing'),
        (['source=pocket', 'out_dir=new', 'engin=onnxruntime'], 'Did you mean engine?'),
        (['source=none.nemo', 'out_dir=new', 'engine=onnxruntime'], 'no such file'),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(tmp_path, monkeypatch, capsys, arguments, reason):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPT))['main'](arguments)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.startswith('error: ') and reason in said and said.count('\n') == 1
    assert list(tmp_path.iterdir()) == []

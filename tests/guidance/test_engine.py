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

"""sd_trt: plans that ONNX Runtime runs give what torch gives; everything around TensorRT is refused in one sentence."""

from __future__ import annotations

import importlib.util
import runpy
import shutil
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import yaml
from hydra.utils import instantiate
from refusals import NO_VALUE, refusal
from small_model import small_config

from nemo_dreamfusion.checkpoints.convert import convert
from nemo_dreamfusion.checkpoints.own_weights import OwnWeights
from nemo_dreamfusion.data.cameras import cameras_from_orbit
from nemo_dreamfusion.export.engines import build_engines
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.modules.guidance.distillation.csd import ClassifierScoreDistillation
from nemo_dreamfusion.modules.guidance.distillation.ism import IntervalScoreMatching
from nemo_dreamfusion.modules.guidance.distillation.vsd import VariationalScoreDistillation
from nemo_dreamfusion.modules.guidance.engine import EngineGuidance
from nemo_dreamfusion.modules.guidance.engines.plans import read_plans
from nemo_dreamfusion.modules.guidance.engines.runner import spec_of
from nemo_dreamfusion.modules.guidance.guidance_mixing import GuidanceMixing
from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.modules.guidance.nemo import NemoGuidance
from nemo_dreamfusion.modules.guidance.networks.options import NetworkOptions
from nemo_dreamfusion.modules.guidance.timesteps import UniformTimesteps
from nemo_dreamfusion.parts.types import PromptSet

pytest.importorskip('onnxruntime')
ROOT = Path(__file__).resolve().parents[2]
ARCHIVES = ROOT / 'tests' / 'data' / 'nemo_sd'
PROMPTS = PromptSet('a red cube', negative='bad')
MIXING = GuidanceMixing(guidance_scale=7.5)
VIEWS = cameras_from_orbit(*(torch.tensor(v) for v in ([0.0, 90.0], [15.0, 15.0], [3.2, 3.2], [36.0, 36.0])), 16, 16)


@pytest.fixture(scope='module')
def plan_dir(sd_folder, tmp_path_factory) -> Path:
    """The plans of ``sd_folder``."""
    folder = tmp_path_factory.mktemp('engines') / 'small'
    build_engines(str(sd_folder), str(folder), engine='onnxruntime')
    return folder / 'plan'


def engine_guidance(plan_dir, checkpoint, **options) -> EngineGuidance:
    return EngineGuidance(plan_dir=str(plan_dir), checkpoint=str(checkpoint), engine='onnxruntime', **options)


def loss_and_gradient(guidance, prompts, render, cameras, *, latent=False):
    guidance.prepare(prompts, 'cpu')
    loss = guidance.loss(
        render, cameras, step=0, progress=0.3, latent=latent, generator=torch.Generator().manual_seed(3)
    ).loss
    return loss.detach(), torch.autograd.grad(loss, render.image)[0]


def assert_same_guidance(engine, torch_one, render, cameras, *, prompts=PROMPTS, latent=False):
    found, wanted = (loss_and_gradient(g, prompts, render, cameras, latent=latent) for g in (engine, torch_one))
    assert wanted[1].abs().max() > 0
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-3, atol=0)
    assert (found[1] - wanted[1]).abs().max() < 1e-3 * wanted[1].abs().max()


@pytest.mark.slow
def test_the_pocket_model_guides_through_onnxruntime_as_in_torch(tmp_path, render_of, cameras, capsys):
    main = runpy.run_path(str(ROOT / 'examples' / 'build_engines.py'))['main']
    main(['source=pocket', f'out_dir={tmp_path / "engines"}', 'engine=onnxruntime'])
    said = capsys.readouterr().out
    assert all(f'{name}.plan gives what torch gives' in said for name in ('clip', 'unet', 'vae')) and 'Done' in said
    convert('pocket', str(tmp_path / 'pocket.nemo'))
    engine = engine_guidance(tmp_path / 'engines' / 'plan', tmp_path / 'pocket.nemo', mixing=MIXING)
    in_torch = HuggingFaceGuidance(source='pocket', mixing=MIXING)
    hamburger = PromptSet('a hamburger', front='a hamburger, front view')
    for latent in (False, True):
        assert_same_guidance(engine, in_torch, render_of(size=64), cameras, prompts=hamburger, latent=latent)
    assert (engine.image_size, engine.latent_size) == (64, 16)


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'score': ClassifierScoreDistillation(weighting='uniform')},
        {'mixing': GuidanceMixing(guidance_rescale=0.5)},
        {'score': IntervalScoreMatching(), 'timesteps': UniformTimesteps(max_step_ratio=0.5)},
        {'mixing': GuidanceMixing(perp_neg='threestudio')},
        {'networks': NetworkOptions(channels_last=True, vae_slicing=True, checkpoint_vae=True)},
    ],
    ids=['defaults', 'csd', 'rescale', 'ism', 'perp_neg', 'networks'],
)
@pytest.mark.parametrize('count', [1, 3])
def test_every_option_gives_what_torch_gives_at_any_batch(sd_folder, plan_dir, render_of, cameras_at, options, count):
    views = cameras_at(azimuth=(0.0, 40.0, 120.0)[:count], elevation=(0.0, 20.0, 70.0)[:count])
    engine = engine_guidance(plan_dir, sd_folder, **options)
    assert_same_guidance(engine, HuggingFaceGuidance(source=str(sd_folder), **options), render_of(count), views)


def test_the_vae_encoder_stays_in_torch_and_takes_the_switches(sd_folder, plan_dir):
    options = {'channels_last': True, 'vae_slicing': True, 'checkpoint_vae': True, 'compile': 'eager', 'precision': 16}
    guidance = engine_guidance(plan_dir, sd_folder, networks=NetworkOptions(**options))
    guidance.prepare(PROMPTS, 'cpu')
    encoder = guidance.encode.encoder
    assert encoder.vae.use_slicing and encoder.vae.encoder.gradient_checkpointing
    assert encoder._compiled_call_impl is not None and encoder.vae.dtype == torch.float16
    assert encoder.vae.encoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert guidance.weights.name == str(sd_folder) and not list(
        guidance.noise_predictor.__dict__.get('parameters', ())
    )


@pytest.mark.slow
def test_nemo_archives_keep_their_80_tokens_and_their_attention(build_sd, tmp_path, render, cameras_at, caplog):
    tokenizer = str(build_sd(tmp_path / 'long', length=77) / 'tokenizer')
    archive = str(ARCHIVES / 'sd1_v1.23_unnormalised_kv.nemo')
    build_engines(archive, str(tmp_path / 'engines'), engine='onnxruntime', unnormalised_kv=True)
    engine = engine_guidance(tmp_path / 'engines' / 'plan', archive, tokenizer=tokenizer)
    in_torch = NemoGuidance(checkpoint=archive, parts=OwnWeights(tokenizer=tokenizer), unnormalised_kv=True)
    caplog.clear()
    engine.prepare(PROMPTS, 'cpu')
    assert 'unnormalised_kv' not in caplog.text  # the plan has it, so there is nothing to ask for
    assert_same_guidance(engine, in_torch, render, cameras_at())
    assert engine.embeddings.views.shape == in_torch.embeddings.views.shape == (4, 80, 32)
    torch.testing.assert_close(engine.embeddings.views, in_torch.embeddings.views, rtol=1e-4, atol=1e-5)


def test_half_precision_plans_are_cast_to(sd_folder, tmp_path, render, cameras):
    build_engines(str(sd_folder), str(tmp_path / 'half'), engine='onnxruntime', precision='16-mixed')
    guidance = engine_guidance(tmp_path / 'half' / 'plan', sd_folder)
    found, _ = loss_and_gradient(guidance, PROMPTS, render, cameras)
    wanted, _ = loss_and_gradient(HuggingFaceGuidance(source=str(sd_folder)), PROMPTS, render, cameras)
    assert guidance.noise_predictor.runner.inputs['x'].dtype == torch.float16
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0)


# --- each call is checked against what the engine itself says


def unet_feeds(rows=2, **changed):
    feeds = {
        'x': torch.zeros(rows, 4, 8, 8),
        't': torch.zeros(rows, dtype=torch.int32),
        'context': torch.zeros(rows, 16, 16),
    }
    return {**feeds, **changed}


@pytest.fixture(scope='module')
def unet_runner(plan_dir):
    return read_plans(str(plan_dir), 'onnxruntime').open('unet', torch.device('cpu'))


def test_the_runner_knows_the_engine(unet_runner):
    said = {name: str(spec) for name, spec in {**unet_runner.inputs, **unet_runner.outputs}.items()}
    sizes = {'x': 'float32 [B, 4, 8, 8]', 't': 'int32 [B]', 'context': 'float32 [B, 16, 16]'}
    assert said == {**sizes, 'logits': 'float32 [B, 4, 8, 8]'}
    for rows in (1, 2, 5):
        assert unet_runner(unet_feeds(rows))['logits'].shape == (rows, 4, 8, 8)


def test_the_runner_reads_views_as_they_are(unet_runner):
    x = torch.randn(2, 8, 8, 4, generator=torch.Generator().manual_seed(0)).permute(0, 3, 1, 2)
    plain, viewed = (unet_runner(unet_feeds(x=x))['logits'] for x in (x.contiguous(), x))
    assert torch.equal(plain, viewed) and plain.abs().max() > 0


@pytest.mark.parametrize(
    ('feeds', 'value', 'way_out'),
    [
        (unet_feeds(y=torch.zeros(2)), 'y', ['x', 't', 'context']),
        ({'x': torch.zeros(2, 4, 8, 8)}, "['x']", ['t', 'context']),
        (unet_feeds(x=torch.zeros(2, 4, 8, 9)), '[2, 4, 8, 9]', ['x', 'float32 [B, 4, 8, 8]']),
        (unet_feeds(x=torch.zeros(2, 4, 8)), '[2, 4, 8]', ['x', 'float32 [B, 4, 8, 8]']),
        (unet_feeds(t=torch.tensor(1, dtype=torch.int32)), "'t': 0", ['batch', 'at least 1']),
        (unet_feeds(t=torch.zeros(2, dtype=torch.int64)), 'torch.int64 [2]', ['t', 'int32 [B]']),
        (unet_feeds(context=torch.zeros(2, 16, 16).half()), 'torch.float16 [2, 16, 16]', ['float32 [B, 16, 16]']),
        (unet_feeds(t=torch.zeros(3, dtype=torch.int32)), "'t': 3", ['batch', 'one number of rows']),
        (unet_feeds(0), "'t': 0", ['batch', 'at least 1']),
        (unet_feeds(x=torch.zeros(2, 4, 8, 8, device='meta')), 'meta', ['device', 'cpu']),
    ],
)
def test_a_wrong_name_type_or_shape_is_refused(unet_runner, feeds, value, way_out):
    with refusal('unet.plan', value, *way_out):
        unet_runner(feeds)


def test_a_limited_batch_is_refused_by_name(plan_dir):
    runner = read_plans(str(plan_dir), 'onnxruntime').open('unet', torch.device('cpu'))
    runner.batch = (1, 4)  # as a TensorRT plan has it
    assert runner(unet_feeds(4))['logits'].shape[0] == 4
    with refusal('unet.plan', "'x': 5", 'at most 4', 'max_batch_size'):
        runner(unet_feeds(5))


@pytest.mark.parametrize(('dtype', 'shape'), [(None, ('B', 4)), (torch.float32, (2, 4)), (torch.float32, (-1, 4, -1))])
def test_engines_of_other_shapes_are_refused(dtype, shape):
    with refusal('unet.plan', str(list(shape)), 'nemo-dreamfusion-build-engines'):
        spec_of(Path('unet.plan'), 'x', dtype, shape)
    assert spec_of(Path('unet.plan'), 'x', torch.float32, (-1, 4, 8)).sizes == (4, 8)


# --- plans that cannot serve


def spoiled(plan_dir, tmp_path, spoil) -> Path:
    copy = Path(shutil.copytree(plan_dir, tmp_path / 'plan'))
    spoil(copy)
    return copy


def change_conf(change):
    def spoil(folder):
        conf = yaml.safe_load((folder / 'conf.yaml').read_text())
        change(conf)
        (folder / 'conf.yaml').write_text(yaml.safe_dump(conf))

    return spoil


@pytest.mark.parametrize(
    ('spoil', 'named'),
    [
        (shutil.rmtree, ['model.guidance.plan_dir']),
        (lambda f: (f / 'unet.plan').unlink(), ['model.guidance.plan_dir', 'unet.plan']),
        (lambda f: (f / 'conf.yaml').unlink(), ['model.guidance.plan_dir', 'conf.yaml']),
        (lambda f: (f / 'conf.yaml').write_text('a: [1'), ['conf.yaml']),
        (lambda f: (f / 'conf.yaml').write_text('- 1'), ['conf.yaml', 'engine', 'weights', 'clip.tokens']),
        (change_conf(lambda c: c['unet'].pop('context')), ['conf.yaml', 'unet.context']),
        (change_conf(lambda c: c.update(weights=None)), ['conf.yaml', 'weights']),
        (change_conf(lambda c: c.update(engine='tensorrt')), ['model.guidance.plan_dir', 'tensorrt', 'clip.onnx']),
    ],
)
def test_a_spoiled_folder_is_refused_before_any_work(sd_folder, plan_dir, tmp_path, spoil, named):
    folder = spoiled(plan_dir, tmp_path, spoil)
    with refusal('nemo-dreamfusion-build-engines', NO_VALUE, *named) as caught:
        engine_guidance(folder, sd_folder).check_prompts(PROMPTS)
    assert str(folder) in str(caught.value)


def test_a_folder_that_was_built_for_tensorrt_also_runs_on_onnxruntime(sd_folder, plan_dir, tmp_path, render, cameras):
    """Through the ONNX models beside the plans; the plans themselves are TensorRT's and are not looked at."""
    shutil.copytree(plan_dir.parent, tmp_path / 'engines')
    plans = tmp_path / 'engines' / 'plan'
    change_conf(lambda c: c.update(engine='tensorrt', max_batch_size=4))(plans)
    for plan in plans.glob('*.plan'):
        plan.unlink()
    assert_same_guidance(
        engine_guidance(plans, sd_folder), HuggingFaceGuidance(source=str(sd_folder)), render, cameras
    )


def test_plans_for_onnxruntime_do_not_run_on_tensorrt(plan_dir):
    with refusal('model.guidance.engine', 'tensorrt', 'model.guidance.engine=onnxruntime'):
        read_plans(str(plan_dir), 'tensorrt')


@pytest.mark.parametrize(
    ('spoil', 'named'),
    [
        (lambda f: (f / 'unet.plan').write_bytes(b'no model'), []),
        (lambda f: shutil.copy(f / 'clip.plan', f / 'unet.plan'), ['conf.yaml']),
        (change_conf(lambda c: c['unet'].update(x=[2, 4, 16, 16])), ['conf.yaml', '[B, 4, 16, 16]']),
    ],
)
def test_a_plan_that_is_not_what_conf_says_is_refused(sd_folder, plan_dir, tmp_path, spoil, named):
    folder = spoiled(plan_dir, tmp_path, spoil)
    with refusal(str(folder / 'unet.plan'), NO_VALUE, 'nemo-dreamfusion-build-engines', *named):
        engine_guidance(folder, sd_folder).prepare(PROMPTS, 'cpu')


def test_plans_of_another_checkpoint_are_refused_by_name(sd_folder, plan_dir, tmp_path):
    from safetensors.torch import load_file, save_file

    other = Path(shutil.copytree(sd_folder, tmp_path / 'other'))
    file = other / 'unet' / 'diffusion_pytorch_model.safetensors'
    tensors = load_file(file)
    tensors['conv_in.bias'] += 1e-4
    save_file(tensors, file)
    with refusal('model.guidance.checkpoint', str(other), 'unet', 'nemo-dreamfusion-build-engines'):
        engine_guidance(plan_dir, other).prepare(PROMPTS, 'cpu')


def test_a_device_that_the_package_does_not_run_on_is_refused(plan_dir):
    plans = read_plans(str(plan_dir), 'onnxruntime')
    with refusal('onnxruntime', 'meta', 'trainer.accelerator=cpu'):
        plans.open('unet', torch.device('meta'))


# --- options


@pytest.mark.parametrize(
    ('options', 'key', 'way_out'),
    [
        ({'score': VariationalScoreDistillation()}, 'score', ['model/guidance/score=sds', 'model/guidance=sd_nemo']),
        (
            {'networks': NetworkOptions(attention='math')},
            'networks.attention',
            ['model.guidance.networks.attention=sdpa'],
        ),
        ({'engine': 'openvino'}, 'engine', ['tensorrt', 'onnxruntime']),
        ({'plan_dir': None}, 'plan_dir', ['model.guidance.plan_dir=<path>']),
        ({'plan_dir': '???'}, 'plan_dir', ['model.guidance.plan_dir=<path>']),
        ({'checkpoint': ''}, 'checkpoint', ['model.guidance.checkpoint=<path>']),
        ({'tokenizer': 'x'}, 'tokenizer', ['model.guidance.tokenizer']),
    ],
)
def test_options_that_cannot_act_are_refused_by_name(options, key, way_out):
    with refusal(f'model.guidance.{key}', NO_VALUE, *way_out):
        EngineGuidance(**{'plan_dir': 'plan', 'checkpoint': 'folder', **options})


def test_an_object_outlives_its_plans():
    """A finished object is restored with the guidance that made it, which must not ask for its files then."""
    assert EngineGuidance(plan_dir='/gone/plan', checkpoint='/gone/sd.nemo').engine == 'tensorrt'


def test_without_onnxruntime_one_error_says_what_to_do(sd_folder, plan_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)  # importing it now fails
    with refusal('onnxruntime', NO_VALUE, 'nemo_dreamfusion[onnxruntime]', 'model/guidance=sd_nemo'):
        engine_guidance(plan_dir, sd_folder).check_prompts(PROMPTS)


@pytest.mark.skipif(importlib.util.find_spec('tensorrt') is not None, reason='TensorRT is installed')
@pytest.mark.parametrize('ask', ['check_prompts', 'prepare', 'build'])
def test_without_tensorrt_one_error_says_what_to_do(sd_folder, plan_dir, tmp_path, ask):
    guidance = EngineGuidance(plan_dir=str(plan_dir), checkpoint=str(sd_folder), engine='tensorrt')
    calls = {
        'check_prompts': lambda: guidance.check_prompts(PROMPTS),
        'prepare': lambda: guidance.prepare(PROMPTS, 'cpu'),
        'build': lambda: build_engines(str(sd_folder), str(tmp_path / 'engines'), engine='tensorrt'),
    }
    with pytest.raises(ValueError) as caught:
        calls[ask]()
    said = str(caught.value)
    for part in ("'tensorrt' is not installed", 'NVIDIA GPU', "[tensorrt]'", 'model.guidance.engine=onnxruntime'):
        assert part in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_short_fit_through_onnxruntime_makes_the_same_object(sd_folder, plan_dir, tmp_path):
    config = small_config('trainer.max_steps=12', "model.prompt='a red cube'", 'model.background.probability=0.0')
    guidances = (HuggingFaceGuidance(source=str(sd_folder)), engine_guidance(plan_dir, sd_folder))
    images = []
    for guidance in guidances:
        torch.manual_seed(0)
        model = DreamFusion(config.model)
        before = model.render_cameras(VIEWS).image
        model.guidance = guidance
        trainer = pl.Trainer(**config.trainer, enable_progress_bar=False, default_root_dir=tmp_path)
        trainer.fit(model, datamodule=instantiate(config.model.data))
        images.append(model.render_cameras(VIEWS).image)
    moved = (images[0] - before).abs().mean()
    assert moved > 0.01
    assert (images[0] - images[1]).abs().mean() < 0.01 * moved

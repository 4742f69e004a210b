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


"""``--config-name dreamfusion-sd``: composed, and run for two steps with a Stable Diffusion of the true architecture.

The networks have the depth, resolutions and 77 tokens of Stable Diffusion 1.x, random weights and few channels; the renders
are shrunk, everything else is the recipe's.
"""

import lightning.pytorch as pl
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from small_diffusion import FULL_DEPTH, build_folder
from small_model import CONF, SMALL, WEAK_LOSSES

from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.modules.guidance.networks.precision import weight_dtype
from nemo_dreamfusion.parts.schedules import linear_schedule, resolution_at

VIEWS = {f'{view}_prompt': f', {view} view' for view in ('front', 'side', 'back', 'overhead')}


def recipe(*overrides: str):
    with initialize_config_dir(str(CONF), version_base=None):
        return compose('dreamfusion-sd', overrides=list(overrides))


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / 'model' / group).glob('*.yaml'))


def test_the_recipe_is_what_its_comments_say():
    config = recipe()
    model = OmegaConf.to_container(config.model, resolve=True)
    assert config.trainer.max_steps == model['iters'] == 10_000
    assert [resolution_at(model['resolution'], step, 10_000) for step in (0, 4999, 5000, 8000)] == [64, 64, 256, 512]
    assert {key: model[key] for key in VIEWS} == VIEWS
    assert model['optim']['lr'] * model['encoding_lr_ratio'] == pytest.approx(0.01)
    assert [linear_schedule(model['loss']['lambda_orientation'], step) for step in (0, 2500, 9999)] == [10, 505, 1000]
    assert model['guidance']['networks']['precision'] == config.trainer.precision == '16-mixed'
    assert model['nerf']['encoder_cfg']['start_level'] == 8 and model['nerf']['encoder_cfg']['num_levels'] == 16
    assert model['renderer']['max_steps'] == 1024
    assert 0 < model['data']['train']['overhead_probability'] < 1
    DreamFusion(config.model)  # every option is accepted; nothing is loaded yet


def test_no_precision_is_lightnings_default_for_scene_and_guidance():
    model = DreamFusion(recipe('trainer.precision=null').model)
    precision = model.guidance.network_options.precision
    assert precision is None and weight_dtype(precision, 'cuda') == torch.float32


@pytest.mark.parametrize('main', ['dreamfusion', 'dreamfusion-sd'])
@pytest.mark.parametrize('group', ['nerf', 'background', 'material', 'renderer', 'guidance', 'optim', 'loss', 'data'])
def test_a_main_configuration_adds_no_key_to_a_choice(main, group):
    with initialize_config_dir(str(CONF), version_base=None):
        for choice in choices(group):
            alone = compose(f'model/{group}/{choice}').model[group]
            inside = compose(main, overrides=[f'model/{group}={choice}']).model[group]
            assert set(inside) == set(alone), choice


@pytest.fixture(scope='module')
def stable_diffusion(tmp_path_factory):
    return build_folder(tmp_path_factory.mktemp('sd') / 'full_depth', **FULL_DEPTH)


def test_two_steps_with_a_stable_diffusion_of_the_true_architecture(stable_diffusion, tmp_path):
    small = [
        text for text in SMALL if 'resolution=16' not in text and 'max_steps=8' not in text and text not in WEAK_LOSSES
    ]
    config = recipe(
        *small,
        'model.renderer.grid_resolution=16',
        'model.prompt=a dragon',
        f'model.guidance.source={stable_diffusion}',
        'model.guidance.mixing.perp_neg=threestudio',
        'model.latent_resolution=24',
        'model.resolution=[[0, 16], [0.5, 32]]',
        'trainer.max_steps=2',
        'trainer.precision=32',
    )
    torch.manual_seed(0)
    model = DreamFusion(config.model)
    before = {name: value.clone() for name, value in model.named_parameters()}
    seen, guide = [], model.guidance.loss

    def watched(render, cameras, **options):
        output = guide(render, cameras, **options)
        seen.append((options['latent'], render.image.shape[1], output.loss.item()))
        return output

    model.guidance.loss = watched
    trainer = pl.Trainer(
        **{**config.trainer, 'enable_progress_bar': False, 'enable_model_summary': False}, default_root_dir=tmp_path
    )
    trainer.fit(model, datamodule=instantiate(config.model.data))
    assert (model.guidance.latent_size, model.guidance.image_size) == (64, 512)
    assert model.guidance.embeddings.views.shape[1] == 77
    assert [(latent, size) for latent, size, _ in seen] == [(True, 24), (False, 32)]
    assert all(0 < loss < float('inf') for _, _, loss in seen)
    logged = trainer.callback_metrics
    assert logged['loss_orientation_weighted'] > 0 and logged['loss_opacity_weighted'] > 0
    moved = [name for name, value in model.named_parameters() if not torch.equal(value, before[name])]
    assert len(moved) == len(before) and all(value.isfinite().all() for value in model.parameters())

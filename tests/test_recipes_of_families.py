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

"""``dreamfusion-sdxl``, ``-sd3`` and ``-mvdream``: composed, and run for three steps with small random models."""

import lightning.pytorch as pl
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from small_diffusion import build_folder
from small_families import build_sd3, build_sdxl
from small_model import CONF, SMALL

from nemo_dreamfusion.models.dreamfusion import DreamFusion


def build_mvdream(folder):
    return build_folder(folder, unet={'class_embed_type': 'projection', 'projection_class_embeddings_input_dim': 16})


BUILD = {'sdxl': build_sdxl, 'sd3': build_sd3, 'mvdream': build_mvdream}


def recipe(family, *overrides):
    with initialize_config_dir(str(CONF), version_base=None):
        return compose(f'dreamfusion-{family}', overrides=list(overrides))


@pytest.mark.parametrize('family', BUILD)
def test_three_steps_of_a_recipe(family, tmp_path):
    small = [text for text in SMALL if 'resolution=16' not in text and 'max_steps=8' not in text]
    config = recipe(
        family,
        *small,
        'model.renderer.grid_resolution=16',
        'model.prompt=a dragon',
        f'model.guidance.source={BUILD[family](tmp_path / family)}',
        'model.latent_resolution=16',
        'model.resolution=[[0, 16], [0.5, 24]]',
        'trainer.max_steps=3',
        'trainer.precision=32',
    )
    model = DreamFusion(config.model)
    before = {name: value.clone() for name, value in model.named_parameters()}
    seen, guide = [], model.guidance.loss

    def watched(render, cameras, **options):
        output = guide(render, cameras, **options)
        seen.append((options['latent'], len(cameras), output))
        return output

    model.guidance.loss = watched
    trainer = pl.Trainer(
        **{**config.trainer, 'enable_progress_bar': False, 'enable_model_summary': False}, default_root_dir=tmp_path
    )
    trainer.fit(model, datamodule=instantiate(config.model.data))
    assert model.guidance.family.weights.family.name == family
    assert [latent for latent, _, _ in seen] == [family != 'mvdream', False, False]
    assert {count for _, count, _ in seen} == {4 if family == 'mvdream' else 1}
    for _, _, output in seen:
        assert output.loss.isfinite() and output.loss > 0
        assert len(output.timesteps.unique()) == 1  # one level of noise for all views of an object
    moved = [name for name, value in model.named_parameters() if not torch.equal(value, before[name])]
    assert len(moved) == len(before) and all(value.isfinite().all() for value in model.parameters())


def test_the_recipes_are_what_their_comments_say():
    configs = {family: recipe(family, 'model.guidance.source=x') for family in BUILD}
    for config in configs.values():
        DreamFusion(config.model)  # every option is accepted; nothing is loaded yet
    assert configs['sd3'].trainer.max_steps == 15_000 and configs['sd3'].model.guidance.mixing.guidance_scale == 100
    for ratio, sigma in ((0.02, 0.06), (0.7, 0.875)):  # shift 3
        assert 3 * ratio / (1 + 2 * ratio) == pytest.approx(sigma, abs=0.003)
    mvdream = configs['mvdream'].model
    assert mvdream.data.train.views == mvdream.data.train.batch_size == 4
    assert mvdream.guidance.mixing.guidance_scale == 50
    assert mvdream.optim.lr * mvdream.encoding_lr_ratio == pytest.approx(0.01)

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


"""One contract for all back ends: every field x renderer x background x shading that the configuration offers.

The choices are read from ``examples/conf/model``, so a new back end is tested by being there. What cannot be built on
this machine skips with its own error message.
"""

from functools import cache
from itertools import product

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from small_model import CONF

from nemo_dreamfusion.data.cameras import cameras_from_orbit, rays
from nemo_dreamfusion.modules.backgrounds.base import Background
from nemo_dreamfusion.modules.materials.base import Material
from nemo_dreamfusion.modules.nerf.base import RadianceField
from nemo_dreamfusion.modules.renderers.base import Renderer, Scene
from nemo_dreamfusion.parts.build import build
from nemo_dreamfusion.parts.optional import MissingPackageError
from nemo_dreamfusion.parts.specs import SHADINGS, Light

KINDS = {'nerf': RadianceField, 'renderer': Renderer, 'background': Background, 'material': Material}
SIZES = {'renderer': {'max_steps': 32, 'grid_resolution': 8}}


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / 'model' / group).glob('*.yaml'))


@cache
def options(group: str, choice: str) -> dict:
    with initialize_config_dir(str(CONF), version_base=None):
        composed = compose('dreamfusion', overrides=[f'model/{group}={choice}'])
    return OmegaConf.to_container(composed.model[group], resolve=True)


def make(group: str, choice: str):
    torch.manual_seed(0)
    try:
        return build(f'model.{group}', {**options(group, choice), **SIZES.get(group, {})}, KINDS[group])
    except MissingPackageError as error:
        pytest.skip(str(error))


def scene_and_renderer(nerf: str, renderer: str, background: str, material: str):
    scene = Scene(
        field=make('nerf', nerf), background=make('background', background), material=make('material', material)
    )
    return scene, make('renderer', renderer)


def view(count: int, size: int):
    same = torch.ones(count)
    return rays(cameras_from_orbit(same * 30, same * 20, same * 3.2, same * 36, size, size))


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize(
    ('nerf', 'renderer', 'background', 'material'),
    list(product(choices('nerf'), choices('renderer'), choices('background'), choices('material'))),
)
def test_every_combination_fills_the_same_output(nerf, renderer, background, material, training):
    scene, render = scene_and_renderer(nerf, renderer, background, material)
    for module in (scene.field, scene.background, scene.material, render):
        module.train(training)
    render.update(scene.field.density, 0, torch.Generator().manual_seed(0))
    light = Light(direction=torch.tensor([[0.0, 1.0, 0.0]]).expand(2, 3), ambient=0.1)
    for shading in SHADINGS:
        generator = torch.Generator().manual_seed(0)
        out = render.render(view(2, 6), scene, shading=shading, light=light, with_normals=True, generator=generator)
        assert out.image.shape == (2, 6, 6, 3) and out.normals.shape == (2, 6, 6, 3)
        assert out.opacity.shape == out.depth.shape == (2, 6, 6, 1)
        assert out.image.isfinite().all() and out.normals.isfinite().all()
        for values in (out.image, out.opacity):
            assert values.min() >= -1e-6 and values.max() <= 1 + 1e-5
        assert out.depth.min() >= 0 and out.depth.max() <= 3.2 + 3**0.5
        assert out.opacity.max() > 0.1


@pytest.mark.parametrize('renderer', choices('renderer'))
@pytest.mark.parametrize('background', choices('background'))
@pytest.mark.parametrize('nerf', choices('nerf'))
def test_d20_a_lambertian_step_gives_every_parameter_a_gradient(nerf, renderer, background):
    scene, render = scene_and_renderer(nerf, renderer, background, 'basic_shading')
    light = Light(direction=torch.tensor([[0.0, 1.0, 0.0]]), ambient=0.1)
    out = render.render(
        view(1, 8), scene, shading='lambertian', light=light, generator=torch.Generator().manual_seed(0)
    )
    out.image.square().sum().backward()
    for module in (scene.field, scene.background, scene.material, render):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize('renderer', choices('renderer'))
@pytest.mark.parametrize('nerf', choices('nerf'))
@pytest.mark.parametrize('count', [0, 1])
def test_d27_no_ray_and_one_ray(nerf, renderer, count):
    scene, render = scene_and_renderer(nerf, renderer, 'static', 'basic_shading')
    bundle = view(count, 1)
    out = render.render(bundle, scene, shading='albedo', with_normals=True)
    assert out.image.shape == (count, 1, 1, 3)
    positions = torch.zeros(count, 3)
    assert scene.field(positions).density.shape == (count,)
    assert scene.field.normals(positions).shape == (count, 3)


@pytest.mark.parametrize('nerf', choices('nerf'))
def test_fields_know_all_their_parameters_by_group(nerf):
    field = make('nerf', nerf)
    listed = [id(p) for group in field.parameter_groups().values() for p in group]
    assert sorted(listed) == sorted(id(p) for p in field.parameters())

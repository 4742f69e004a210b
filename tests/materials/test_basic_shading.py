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

"""Each shading against its formula, written out by hand for single points."""

import math
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from refusals import refusal

from nemo_dreamfusion.modules.materials.basic_shading import BasicShading
from nemo_dreamfusion.parts.types import SHADINGS, SHADINGS_WITH_NORMALS

CONF = Path(__file__).parents[2] / 'nemo_dreamfusion/conf/model/material/basic_shading.yaml'
ALBEDO = torch.tensor([[0.8, 0.4, 0.2]])
UP = torch.tensor([[0.0, 1.0, 0.0]])
DOWN = -UP


def slanted(degrees):
    """A unit vector that far from up, toward +x."""
    return torch.tensor([[math.sin(math.radians(degrees)), math.cos(math.radians(degrees)), 0.0]])


def shade(shading, *, normals=UP, light=None, ambient=0.25, albedo=ALBEDO, directions=DOWN, **options):
    light = slanted(60) if light is None else light  # n . l = 0.5
    return BasicShading(**options)(albedo, normals, directions, light, ambient, shading)


def points(count):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(3, count, 3, generator=generator), dim=-1)
    return torch.rand(count, 3, generator=generator), *vectors


def test_albedo_is_the_albedo_whatever_the_light():
    assert torch.equal(shade('albedo', normals=None), ALBEDO)


def test_lambertian_never_exceeds_the_albedo():
    expected = torch.tensor([[0.8, 0.4, 0.2]]) * (0.25 + 0.75 * 0.5)
    torch.testing.assert_close(shade('lambertian'), expected)
    torch.testing.assert_close(shade('lambertian', light=UP), ALBEDO)  # fully lit: the albedo, not twice of it
    torch.testing.assert_close(shade('lambertian', light=DOWN), ALBEDO * 0.25)  # from behind: ambient alone
    albedo, normals, directions, light = points(500)
    assert (BasicShading()(albedo, normals, directions, light, 0.1, 'lambertian') <= albedo).all()


def test_textureless_shows_the_shape():
    torch.testing.assert_close(shade('textureless'), torch.full((1, 3), 0.25 + 0.75 * 0.5))
    normals = slanted(20).requires_grad_()
    shade('textureless', normals=normals).sum().backward()
    assert normals.grad.abs().sum() > 0


def test_dot_products_run_over_the_last_axis():
    """Each point of a batch of three (where axes could be mixed up) equals the point alone."""
    albedo, normals, directions, light = points(3)
    for shading in SHADINGS:
        together = BasicShading()(albedo, normals, directions, light, 0.2, shading)
        for i in range(3):
            row = slice(i, i + 1)
            alone = BasicShading()(albedo[row], normals[row], directions[row], light[row], 0.2, shading)
            torch.testing.assert_close(together[row], alone)


def test_phong_adds_a_highlight_where_the_mirrored_light_meets_the_eye():
    lambert = ALBEDO * (0.25 + 0.75 * 0.5)
    eye_in_mirror = -slanted(-60)  # the eye stands at -60 degrees; directions run from it into the scene
    lit = shade('phong', directions=eye_in_mirror, specular=0.2, shininess=8.0)
    torch.testing.assert_close(lit, lambert + 0.75 * 0.2)
    off = shade('phong', directions=-slanted(-30), specular=0.2, shininess=8.0)  # 30 degrees beside it
    torch.testing.assert_close(off, lambert + 0.75 * 0.2 * math.cos(math.radians(30)) ** 8)
    behind = shade('phong', light=slanted(120), directions=eye_in_mirror)
    torch.testing.assert_close(behind, ALBEDO * 0.25)
    assert shade('phong', light=UP, directions=DOWN, albedo=torch.ones(1, 3)).max() <= 1


def test_normal_as_colour():
    torch.testing.assert_close(shade('normal'), torch.tensor([[0.5, 1.0, 0.5]]))


def test_full_ambient_is_flat():
    albedo, normals, directions, light = points(20)
    for shading in ('lambertian', 'phong'):
        torch.testing.assert_close(BasicShading()(albedo, normals, directions, light, 1.0, shading), albedo)


@pytest.mark.parametrize('shading', SHADINGS)
@pytest.mark.parametrize('count', [0, 1])
def test_no_points_and_one_point(shading, count):
    albedo, normals, directions, light = points(count)
    assert BasicShading()(albedo, normals, directions, light, 0.3, shading).shape == (count, 3)


@pytest.mark.parametrize('shading', SHADINGS_WITH_NORMALS)
def test_gradients_are_finite_at_a_flat_point(shading):
    albedo = ALBEDO.clone().requires_grad_()
    normals = torch.zeros(1, 3, requires_grad=True)
    (shade(shading, normals=normals, albedo=albedo).sum() + 0 * albedo.sum()).backward()
    assert normals.grad.isfinite().all() and albedo.grad.isfinite().all()


def test_nothing_is_a_parameter():
    assert not list(BasicShading().parameters()) and not BasicShading().state_dict()


def test_refuses_missing_normals_and_unknown_shadings():
    with refusal('shading', 'lambertian', 'with_normals=True'):
        shade('lambertian', normals=None)
    with refusal('shading', 'lambertain', 'lambertian'):
        shade('lambertain')
    with refusal('model.material.shininess', 0, 'greater than 0'):
        BasicShading(shininess=0)


def test_yaml_builds_the_default():
    config = OmegaConf.load(CONF)
    material = hydra.utils.instantiate(config)
    assert {key: getattr(material, key) for key in config if key != '_target_'} == vars_of(BasicShading())


def vars_of(material):
    return {'specular': material.specular, 'shininess': material.shininess}

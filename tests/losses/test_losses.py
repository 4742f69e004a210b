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

"""Each loss against closed forms and double loops; the set of them against what is promised."""

import math
from dataclasses import replace
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from refusals import refusal

from nemo_dreamfusion.modules.losses.dreamfusion import DreamFusionLosses
from nemo_dreamfusion.modules.losses.opacity import entropy_loss, opacity_loss, z_variance_loss
from nemo_dreamfusion.modules.losses.orientation import orientation_loss
from nemo_dreamfusion.modules.losses.smoothness import normal_smoothness_2d, normal_smoothness_3d
from nemo_dreamfusion.parts.types import RenderOutput, SampleTerms

CONF = Path(__file__).parents[2] / 'nemo_dreamfusion/conf/model/loss/dreamfusion.yaml'
NAMES = ['opacity', 'entropy', 'z_variance', 'orientation', 'normal_smoothness_2d', 'normal_smoothness_3d']
NONE = {f'lambda_{name}': 0.0 for name in NAMES}


def units(*shape, seed=0):
    values = torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(values, dim=-1)


def render(samples=5):
    """A render of 2 x 3 x 4 pixels with everything in it."""
    generator = torch.Generator().manual_seed(1)
    opacity = torch.rand(2, 3, 4, 1, generator=generator, dtype=torch.float64)
    terms = SampleTerms(
        weights=torch.rand(samples, generator=generator, dtype=torch.float64),
        positions=torch.zeros(samples, 3, dtype=torch.float64),
        directions=units(samples, seed=1),
        normals=units(samples, seed=2),
        normals_jittered=units(samples, seed=3),
    )
    return RenderOutput(
        image=opacity.expand(-1, -1, -1, 3),
        opacity=opacity,
        depth=opacity,
        normals=units(2, 3, 4),
        samples=terms,
        depth_variance=opacity / 2,
    )


def test_opacity_closed_form():
    value = opacity_loss(torch.tensor([0.0, 1.0, 0.5]).view(1, 1, 3, 1))
    assert value.item() == pytest.approx((0.1 + math.sqrt(1 + 0.01) + math.sqrt(0.25 + 0.01)) / 3)


def test_entropy_closed_form():
    assert entropy_loss(torch.full((1, 2, 2, 1), 0.5)).item() == pytest.approx(1.0)  # one bit: fog
    assert entropy_loss(torch.tensor([0.0, 1.0])).item() < 2e-4
    quarter = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert entropy_loss(torch.tensor([0.25, 0.75])).item() == pytest.approx(quarter)


@pytest.mark.parametrize('loss', [opacity_loss, entropy_loss])
def test_opacity_losses_have_finite_slopes_at_the_ends(loss):
    opacity = torch.tensor([0.0, 1.0], requires_grad=True)
    loss(opacity).backward()
    assert opacity.grad.isfinite().all()


def test_orientation_double_loop_over_the_last_axis():
    weights, normals, directions = torch.rand(3).double(), units(3, seed=4), units(3, seed=5)  # three: axes could mix
    expected = 0.0
    for i in range(3):
        along = sum(normals[i, axis].item() * directions[i, axis].item() for axis in range(3))
        expected += weights[i].item() * max(0.0, along) ** 2
    assert orientation_loss(weights, normals, directions, 7).item() == pytest.approx(expected / 7)


def test_orientation_ignores_what_faces_the_camera_and_leaves_the_weights_alone():
    down = torch.tensor([[0.0, 0.0, -1.0]])
    weights = torch.ones(1, requires_grad=True)
    assert orientation_loss(weights, -down, down, 1).item() == 0
    normals = down.clone().requires_grad_()
    loss = orientation_loss(weights, normals, down, 1)
    assert loss.item() == 1
    loss.backward()
    assert weights.grad is None and normals.grad.abs().sum() > 0


def test_z_variance_pulls_what_a_ray_sees_to_one_distance():
    """Two layers on one ray: the gradient takes from both ends and gives to the middle."""
    weights = torch.tensor([0.3, 0.2, 0.3], requires_grad=True)
    distance = torch.tensor([1.0, 2.0, 3.0])
    opacity = weights.sum()
    depth = (weights * distance).sum() / opacity
    variance = (weights * distance.square()).sum() / opacity - depth.square()
    loss = z_variance_loss(variance, opacity)
    assert loss.item() == pytest.approx(0.75, rel=1e-5)
    loss.backward()
    first, middle, last = weights.grad.tolist()
    assert first == pytest.approx(last, rel=1e-4) and first > 0 > middle
    assert z_variance_loss(variance, torch.tensor(0.4)) == 0  # hardly anything is there


def test_normal_smoothness_2d_double_loop():
    image = units(3, 3, 3, seed=6)
    down = across = 0.0
    for b in range(3):
        for i in range(3):
            for j in range(3):
                for c in range(3):
                    down += (image[b, i + 1, j, c] - image[b, i, j, c]).item() ** 2 if i < 2 else 0.0
                    across += (image[b, i, j + 1, c] - image[b, i, j, c]).item() ** 2 if j < 2 else 0.0
    assert normal_smoothness_2d(image).item() == pytest.approx(down / (3 * 2 * 3) + across / (3 * 3 * 2))


def test_normal_smoothness_of_a_flat_image_and_of_one_pixel_is_zero():
    assert normal_smoothness_2d(units(1).expand(2, 4, 4, 3)).item() == 0
    assert normal_smoothness_2d(units(1, 1, 1)).item() == 0


def test_normal_smoothness_3d_double_loop():
    normals, jittered = units(3, seed=7), units(3, seed=8)
    expected = sum(abs((normals[i, c] - jittered[i, c]).item()) for i in range(3) for c in range(3)) / 3
    assert normal_smoothness_3d(torch.rand(3), normals, jittered).item() == pytest.approx(expected)


def test_samples_of_weight_zero_change_no_loss_and_get_no_gradient():
    everything = DreamFusionLosses(**{name: 1.0 for name in NONE})
    plain = render()
    expected = everything(plain, 0)
    more = {'weights': torch.zeros(4, dtype=torch.float64), 'positions': torch.ones(4, 3, dtype=torch.float64)}
    more |= {name: units(4, seed=9 + i) for i, name in enumerate(['directions', 'normals', 'normals_jittered'])}
    terms = {name: torch.cat([getattr(plain.samples, name), value]) for name, value in more.items()}
    terms['normals'].requires_grad_()
    found = everything(replace(plain, samples=SampleTerms(**terms)), 0)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-12), name
    (found['orientation'] + found['normal_smoothness_3d']).backward()
    assert terms['normals'].grad[:5].abs().sum() > 0 and terms['normals'].grad[5:].abs().max() == 0


def test_normal_smoothness_3d_without_samples_is_zero():
    assert normal_smoothness_3d(torch.zeros(5), units(5, seed=7), units(5, seed=8)) == 0
    assert normal_smoothness_3d(torch.zeros(0), units(0), units(0)) == 0


@pytest.mark.parametrize('samples', [0, 1])
def test_no_sample_and_one_sample(samples):
    everything = DreamFusionLosses(**{name: 1.0 for name in NONE})
    terms = everything(render(samples), 0)
    assert all(value.isfinite() and value.shape == () for value in terms.values())
    if not samples:
        assert terms['orientation'] == 0 and terms['normal_smoothness_3d'] == 0


@pytest.mark.parametrize('name', NAMES)
def test_every_weight_acts(name):
    """Whatever is weighted is computed, and nothing else; a small weight counts as much as a large one."""
    losses = DreamFusionLosses(**{**NONE, f'lambda_{name}': 0.25})
    terms = losses(render(), 0)
    assert list(terms) == [name] and terms[name] > 0
    assert losses.weights(0)[name] == 0.25


@pytest.mark.parametrize(
    ('name', 'missing'),
    [
        ('opacity', 'opacity'),
        ('entropy', 'opacity'),
        ('z_variance', 'depth_variance'),
        ('orientation', 'samples'),
        ('orientation', 'samples.normals'),
        ('normal_smoothness_2d', 'normals'),
        ('normal_smoothness_3d', 'samples.normals'),
        ('normal_smoothness_3d', 'samples.normals_jittered'),
    ],
)
def test_a_loss_whose_input_is_missing_raises_naming_the_option(name, missing):
    losses = DreamFusionLosses(**{**NONE, f'lambda_{name}': 0.01})
    output = render()
    if missing.startswith('samples.'):
        output = replace(output, samples=replace(output.samples, **{missing.removeprefix('samples.'): None}))
    else:
        output = replace(output, **{missing: None})
    with refusal(f'model.loss.lambda_{name}', missing, f'model.loss.lambda_{name}=0', 'model/renderer'):
        losses(output, 0)
    assert DreamFusionLosses(**NONE)(output, 0) == {}


def test_weights_follow_their_schedules_and_say_what_the_render_must_hold():
    losses = DreamFusionLosses(
        **{**NONE, 'lambda_entropy': [0, 0.0, 1.0, 10], 'lambda_normal_smoothness_3d': [5, 0.0, 1.0, 5]}
    )
    assert losses.weights(0) == {name: 0.0 for name in NAMES}
    assert losses.weights(4)['entropy'] == pytest.approx(0.4)
    assert (losses.needs_normals(4), losses.needs_jittered_normals(4)) == (False, False)
    assert (losses.needs_normals(5), losses.needs_jittered_normals(5)) == (True, True)
    only_2d = DreamFusionLosses(**{**NONE, 'lambda_normal_smoothness_2d': 1.0})
    assert only_2d.needs_normals(0) and not only_2d.needs_jittered_normals(0)


def test_refuses_bad_weights_by_their_option():
    with refusal('model.loss.lambda_entropy', 'high', '[start_step, start, end, end_step]'):
        DreamFusionLosses(lambda_entropy='high')
    with pytest.raises(TypeError):
        DreamFusionLosses(lambda_entrpy=1.0)


def test_yaml_builds_the_defaults():
    config = OmegaConf.load(CONF)
    losses = hydra.utils.instantiate(config)
    assert losses.schedules == DreamFusionLosses().schedules
    assert set(config) - {'_target_'} == set(NONE)
    assert not losses.state_dict()

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

"""Schedules are pure functions of the step."""

import math

import pytest
import torch
from omegaconf import OmegaConf
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.parts.schedules import (
    check_resolution,
    check_schedule,
    linear_schedule,
    open_levels,
    plan_step,
    resolution_at,
)

OPTIONS = dict(
    iters=100,
    latent_iter_ratio=0.2,
    albedo_iter_ratio=0.5,
    min_ambient_ratio=0.1,
    textureless_ratio=0.25,
    latent_shading='albedo',
    resolution=64,
    latent_resolution=32,
)


def plan(step, seed=0, **changes):
    return plan_step(step, generator=torch.Generator().manual_seed(seed), **{**OPTIONS, **changes})


@pytest.mark.parametrize(
    ('value', 'step', 'expected'),
    [
        (0.5, 0, 0.5),
        ([10, 1.0, 3.0, 20], 0, 1.0),
        ([10, 1.0, 3.0, 20], 10, 1.0),
        ([10, 1.0, 3.0, 20], 15, (1.0 + 3.0) / 2),
        ([10, 1.0, 3.0, 20], 20, 3.0),
        ([10, 1.0, 3.0, 20], 999, 3.0),
        ([10, 1.0, 3.0, 10], 9, 1.0),
        ([10, 1.0, 3.0, 10], 10, 3.0),
        (OmegaConf.create([0, 0.0, 1.0, 4]), 1, 0.25),
    ],
)
def test_linear_schedule(value, step, expected):
    assert linear_schedule(value, step) == pytest.approx(expected)


@pytest.mark.parametrize('value', ['1', [1, 2], [1], [0, 'a', 1, 2], None, math.nan])
def test_check_schedule_names_the_option(value):
    with refusal('model.loss.lambda_entropy', NO_VALUE, 'a number'):
        check_schedule('model.loss.lambda_entropy', value)


def test_phases_in_order():
    phases = [plan(step).phase for step in range(100)]
    assert phases == ['latent'] * 20 + ['albedo'] * 31 + ['shaded'] * 49  # step 50 = 100 * 0.5 is still albedo
    sizes = [(plan(step).height, plan(step).width) for step in (0, 19, 20, 99)]
    assert sizes == [(32, 32), (32, 32), (64, 64), (64, 64)]


def test_no_latent_phase_when_its_share_is_zero():
    assert plan(0, latent_iter_ratio=0.0).phase == 'albedo'
    assert plan(1, latent_iter_ratio=0.0, albedo_iter_ratio=0.0).phase == 'shaded'


def test_flat_light_before_the_shaded_phase():
    for step in (0, 30):
        assert plan(step).ambient == 1.0 and plan(step).shading == 'albedo'
    assert plan(0, latent_shading='normal').shading == 'normal'


def test_shaded_phase_shares():
    plans = [plan(80, seed) for seed in range(800)]
    ambient = torch.tensor([p.ambient for p in plans])
    assert 0.1 <= ambient.min() < 0.12 and 0.98 < ambient.max() <= 1
    assert abs(ambient.mean() - (0.1 + 1) / 2) < 4 * 0.9 / math.sqrt(12 * 800)
    share = sum(p.shading == 'textureless' for p in plans) / 800
    assert abs(share - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 800)
    assert {p.shading for p in plans} == {'textureless', 'lambertian'}


def test_same_draws_in_every_phase():
    """A resumed run stays in step: the generator moves by the same amount in each phase."""
    states = []
    for step in (0, 30, 80):
        generator = torch.Generator().manual_seed(0)
        plan_step(step, generator=generator, **OPTIONS)
        states.append(generator.get_state())
    assert torch.equal(states[0], states[1]) and torch.equal(states[1], states[2])
    assert plan(80, seed=5) == plan(80, seed=5)


def test_resolution_grows():
    sizes = [[0, 32], [0.25, 64], [0.75, 128]]
    assert [resolution_at(sizes, step, 100) for step in (0, 24, 25, 74, 75, 99)] == [32, 32, 64, 64, 128, 128]
    assert resolution_at(48, 3, 100) == 48
    assert resolution_at(OmegaConf.create(sizes), 30, 100) == 64
    assert check_resolution('model.resolution', OmegaConf.create(sizes)) == sizes


@pytest.mark.parametrize('value', [0, '64', [], [[0.5, 64]], [[0, 64], [0.2]], [[0, 64], [0.8, 96], [0.4, 128]], [64]])
def test_check_resolution_names_the_option(value):
    with refusal('model.resolution', NO_VALUE, 'number'):
        check_resolution('model.resolution', value)


def test_open_levels_step_by_step():
    options = dict(levels=10, start_level=4, start_step=20, interval=5)
    assert [open_levels(step, **options) for step in (0, 19, 20, 24, 25, 30, 1000)] == [4, 4, 4, 4, 5, 6, 10]
    assert open_levels(0, **{**options, 'start_level': None}) == 10

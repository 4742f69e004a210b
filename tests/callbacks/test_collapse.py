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

"""The diagnosis on drawn opacity images, and the callback in a fit."""

import logging

import pytest
import torch
from refusals import refusal

from nemo_dreamfusion.callbacks.collapse import CollapseDetection, diagnose

pytestmark = pytest.mark.filterwarnings('ignore')


def disk(radius, inside=1.0, outside=0.0, soft=0.05, size=32):
    """Opacity [2, S, S] of a disk with a soft rim; the image reaches from -1 to 1."""
    ticks = (torch.arange(size) + 0.5) / size * 2 - 1
    distance = torch.hypot(*torch.meshgrid(ticks, ticks, indexing='ij'))
    image = outside + (inside - outside) * torch.sigmoid((radius - distance) / soft)
    return image.expand(2, size, size)


@pytest.mark.parametrize('radius', [0.15, 0.5, 0.9])
@pytest.mark.parametrize('soft', [0.001, 0.05])
def test_objects_are_fine(radius, soft):
    assert diagnose(disk(radius, soft=soft)) is None


def test_an_object_that_touches_two_edges_is_fine():
    bar = torch.zeros(4, 32, 32)
    bar[:, 10:22] = 1
    assert diagnose(bar) is None


def test_a_young_soft_blob_is_fine():
    assert diagnose(disk(0.4, inside=0.8, soft=0.15)) is None


def wall(corner=6, size=32):
    """Solid up to the edges but for two corners, as a field that fills its box looks from around: 8 % are empty."""
    image = torch.ones(8, size, size)
    image[:, :corner, : size // 5] = image[:, :corner, -(size // 5) :] = 0
    return image


@pytest.mark.parametrize(
    ('opacity', 'words', 'advice'),
    [
        (torch.zeros(2, 32, 32), 'Nothing is left', 'blob_density'),
        (disk(0.03, soft=0.001), 'Nothing is left', 'lambda_opacity'),
        (torch.ones(2, 32, 32), 'Everything is solid', 'lambda_opacity'),
        (wall(), 'Everything is solid: 93 %', 'blob_radius'),
        (torch.full((2, 32, 32), 0.5), 'All is fog', 'lambda_entropy'),
        (torch.full((2, 32, 32), 0.2), 'All is fog', 'background=random'),
        (disk(0.4, outside=0.3), 'All is fog', 'lambda_entropy'),  # a ball in a haze that fills the box
        (torch.full((2, 32, 32), torch.nan), 'broken', 'model.optim.lr'),
    ],
)
def test_collapses_are_named_with_what_to_try(opacity, words, advice):
    message = diagnose(opacity)
    assert words in message and advice in message


def vanish(model, step):
    with torch.no_grad():
        model.nerf.radius.fill_(0.5 if step < 6 else 0.0)


def test_warns_once_after_the_warm_up(ball, cameras, trainer, caplog):
    watch = CollapseDetection(interval=2, warmup_steps=4)
    with caplog.at_level(logging.WARNING, logger='nemo_dreamfusion'):
        trainer(watch, max_steps=12, limit_val_batches=0).fit(model := ball(vanish), cameras)
    assert [r.getMessage().partition(':')[0] for r in caplog.records] == ['Step 8. Nothing is left']
    assert watch.message.startswith('Nothing is left')
    assert len(model.rendered) == 5  # at steps 4, 6, 8, 10, 12
    assert {len(views) for views in model.rendered} == {4}


def test_says_when_the_object_comes_back(ball, cameras, trainer, caplog):
    def flicker(model, step):
        with torch.no_grad():
            model.nerf.radius.fill_(0.0 if step < 3 else 0.5)

    watch = CollapseDetection(interval=1, warmup_steps=1)
    with caplog.at_level(logging.WARNING, logger='nemo_dreamfusion'):
        trainer(watch, max_steps=6, limit_val_batches=0).fit(ball(flicker), cameras)
    assert len(caplog.records) == 2 and 'recovered' in caplog.records[1].getMessage()
    assert watch.message is None


def test_refuses_bad_intervals():
    with refusal('interval', 0, 'at least 1'):
        CollapseDetection(interval=0)

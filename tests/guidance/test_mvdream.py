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

"""Guidance by MVDream: four views a step, one level of noise, attention across them, the camera with every text."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from guidance.conftest import make_render
from guidance.small_steps import loss, prepared
from refusals import NO_VALUE, refusal
from small_diffusion import build_folder

from nemo_dreamfusion.data.cameras import cameras_from_orbit
from nemo_dreamfusion.modules.guidance.distillation.vsd import VariationalScoreDistillation
from nemo_dreamfusion.modules.guidance.families.base import split_vector
from nemo_dreamfusion.modules.guidance.families.mvdream import camera_numbers
from nemo_dreamfusion.modules.guidance.guidance_mixing import GuidanceMixing
from nemo_dreamfusion.parts.types import PromptSet


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    camera = {'class_embed_type': 'projection', 'projection_class_embeddings_input_dim': 16}
    return build_folder(tmp_path_factory.mktemp('mvdream') / 'small', unet=camera)


@pytest.fixture(scope='module')
def guidance(folder):
    return prepared(folder)


def ring(*azimuths):
    azimuth = torch.tensor(azimuths)
    same = torch.ones(len(azimuth))
    return cameras_from_orbit(azimuth, 10 * same, 3 * same, 36 * same, 32, 32)


TWO_RINGS = ring(20.0, 110.0, 200.0, 290.0, -150.0, -60.0, 30.0, 120.0)


def test_views_of_an_object_attend_to_each_other_and_share_a_time(guidance):
    """The gradient of a view changes with another view of its object, and not with those of another object."""
    render = make_render(8)
    output = loss(guidance, render, TWO_RINGS, latent=False)
    before = torch.autograd.grad(output.loss, render.image)[0]
    assert output.timesteps.view(2, 4).unique(dim=1).shape == (2, 1) and output.timesteps[0] != output.timesteps[4]
    changed = make_render(8)
    with torch.no_grad():
        changed.image[3] = 1 - changed.image[3]
    after = torch.autograd.grad(loss(guidance, changed, TWO_RINGS, latent=False).loss, changed.image)[0]
    moved = (after - before).abs().amax(dim=(1, 2, 3)) / before.abs().max()
    assert (moved[:4] > 1e-4).all() and (moved[4:] < 1e-6).all()


@pytest.mark.parametrize('perp_neg', [None, 'threestudio'])
def test_every_text_carries_its_camera(guidance, perp_neg):
    texts = guidance.embeddings.conditioning(TWO_RINGS, perp_neg=perp_neg)
    texts = dataclasses.replace(texts, faulty=texts.plain + 1.0)
    found = guidance.family.condition(texts, TWO_RINGS)
    poses = camera_numbers(TWO_RINGS.camera_to_world)
    for name in ('text', 'unconditional', 'empty', 'plain', 'faulty'):
        tokens, pose = split_vector(getattr(found, name), 16)
        assert torch.equal(tokens, getattr(texts, name)) and torch.equal(pose, poses), name
    if perp_neg:
        for k, negatives in enumerate(found.negatives.unbind(1)):
            tokens, pose = split_vector(negatives, 16)
            assert torch.equal(tokens, texts.negatives[:, k]) and torch.equal(pose, poses)


def test_the_camera_changes_the_prediction(guidance):
    render = make_render(4)
    first, turned = (loss(guidance, render, ring(*(a + 90.0 * k for k in range(4)))).loss for a in (0.0, 45.0))
    assert first != turned


@pytest.mark.parametrize('cameras', [ring(0.0, 90.0), ring(0.0, 90.0, 180.0, 180.0), ring(0.0, -90.0, 180.0, 90.0)])
def test_other_cameras_are_refused(guidance, cameras):
    with refusal('cameras', NO_VALUE, 'model/data=four_views'):
        loss(guidance, make_render(len(cameras)), cameras)


def test_perp_neg_and_rescale_work_on_four_views(folder):
    guidance = prepared(folder, mixing=GuidanceMixing(perp_neg='threestudio', guidance_rescale=0.5))
    assert loss(guidance, make_render(4), ring(0.0, 90.0, 180.0, 270.0)).loss.isfinite()


def test_a_score_that_trains_the_unet_is_refused(folder):
    pytest.importorskip('peft')
    with refusal('model.guidance.score', 'VariationalScoreDistillation', 'model/guidance/score=sds'):
        prepared(folder, PromptSet('a red cube'), score=VariationalScoreDistillation())

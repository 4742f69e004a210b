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

"""Edits of a model: what may change, what is compared with, what stays, and what is refused."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf
from refusals import NO_VALUE, refusal
from small_model import small_config

from nemo_dreamfusion.data.cameras import cameras_from_orbit, rays
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.models.edit_options import EditOptions, read_edit
from nemo_dreamfusion.models.edit_region import LOOKS, SurfaceParts
from nemo_dreamfusion.models.editing import Edit, check_finds_region
from nemo_dreamfusion.modules.guidance.base import Guidance
from nemo_dreamfusion.modules.losses.field_difference import field_difference
from nemo_dreamfusion.modules.renderers.base import Scene
from nemo_dreamfusion.parts.colors import linear_rgb_to_lab
from nemo_dreamfusion.parts.types import FieldOutput

EDIT = ['model/guidance/score=dds', 'model.prompt=a blue cube', "model.edit.source_prompt='a red cube'"]


def make(*overrides) -> DreamFusion:
    return DreamFusion(small_config(*overrides).model)


@pytest.fixture(scope='module')
def model():
    return make(*EDIT, 'model.edit.change_box=[-1,0,-1,1,1,1]')


def views(count=2):
    index = torch.arange(count).float()
    return rays(cameras_from_orbit(80 * index, 20 + index, 0 * index + 3.2, 0 * index + 36, 16, 16))


def test_boxes_and_balls_join_and_what_is_kept_is_taken_out():
    points = torch.tensor([[0.0, 0.5, 0.0], [0.0, -0.5, 0.0], [0.9, 0.9, 0.9], [0.0, 0.9, 0.0]])
    assert EditOptions().may_change(points).all()
    box = EditOptions(change_box=[-0.5, 0.0, -0.5, 0.5, 1.0, 0.5])
    assert box.may_change(points).tolist() == [True, False, False, True]
    both = EditOptions(change_box=[-0.5, 0.0, -0.5, 0.5, 1.0, 0.5], change_sphere=[1, 1, 1, 0.3])
    assert both.may_change(points).tolist() == [True, False, True, True]
    kept = EditOptions(change_sphere=[0, 0, 0, 0.95], keep_sphere=[0, 1, 0, 0.2])
    assert kept.may_change(points).tolist() == [True, True, False, False]
    assert EditOptions(keep_box=[-1, -1, -1, 1, 0, 1]).may_change(points).tolist() == [True, False, True, True]


def test_the_picture_before_is_that_of_the_same_rays_background_and_jitter(model):
    model.train()
    edit = Edit(model.edit_options, model.scene, model.renderer)
    generator = torch.Generator().manual_seed(3)
    now, before = edit.render(model.renderer, model.scene, views(), generator=generator)
    assert torch.equal(now.image, before.image) and now.image.requires_grad and not before.image.requires_grad
    after = torch.rand(1, generator=generator)
    generator.manual_seed(3)
    plain = model.renderer.render(views(), model.scene, generator=generator)
    assert torch.equal(plain.image, now.image) and torch.equal(torch.rand(1, generator=generator), after)


def test_the_guidance_moves_nothing_where_the_object_may_not_change(model):
    """Rays of a camera that sees the kept half alone give no gradient; those of the other half do."""
    edit = Edit(model.edit_options, model.scene, model.renderer)
    same = torch.zeros(1)
    bundle = rays(cameras_from_orbit(same, same, same + 3.2, same + 36, 16, 16))
    generator = torch.Generator().manual_seed(0)
    now, _ = edit.render(model.renderer, model.scene, bundle, generator=generator)
    upper, lower = now.opacity[:, :8].sum(), now.opacity[:, 8:].sum()
    gradients = [
        torch.autograd.grad(half, model.nerf.table, retain_graph=True)[0].abs().sum() for half in (upper, lower)
    ]
    assert gradients[0] > 0 and gradients[1] == 0
    colors = Edit(EditOptions(source_prompt='x', keep_shape=True), model.scene, model.renderer)
    now, _ = colors.render(model.renderer, model.scene, bundle, generator=generator)
    assert not now.opacity.requires_grad and now.image.requires_grad


def test_the_difference_counts_what_may_not_change_alone(model):
    edit = Edit(model.edit_options, model.scene, model.renderer)
    generator = torch.Generator().manual_seed(0)
    renders = edit.render(model.renderer, model.scene, views(), generator=generator)
    assert edit.losses(model.nerf, renders, generator)['keep'] == 0

    class Changed:
        """The field with other colours in one half."""

        bound = model.nerf.bound

        def __init__(self, sign):
            self.sign = sign

        def __call__(self, positions):
            out = model.nerf(positions)
            moved = (self.sign * positions[:, 1] > 0)[:, None]
            return FieldOutput(out.density, torch.where(moved, 1 - out.albedo, out.albedo))

    assert edit.losses(Changed(1), renders, generator)['keep'] == 0
    edit_of_colors = Edit(EditOptions(source_prompt='x', keep_sphere=[0, -1, 0, 1.2]), model.scene, model.renderer)
    assert edit_of_colors.losses(Changed(-1), renders, generator)['keep'] >= 0
    assert (
        Edit(EditOptions(source_prompt='x'), model.scene, model.renderer).losses(model.nerf, renders, generator) == {}
    )


def move(model, *, colors=0.0, density=1.0):
    """The field with other colours or another density everywhere."""

    def moved(positions):
        out = model.nerf(positions)
        return FieldOutput(density * out.density, (out.albedo + colors).clamp(0, 1))

    moved.bound = model.nerf.bound
    return moved


def test_with_colours_kept_the_shape_alone_learns_and_colours_are_held(model):
    edit = Edit(EditOptions(source_prompt='x', keep_color=True), model.scene, model.renderer)
    generator = torch.Generator().manual_seed(0)
    renders = edit.render(model.renderer, model.scene, views(), generator=generator)
    colors = list(model.nerf.features_net.parameters())
    gradients = torch.autograd.grad(renders[0].image.sum(), [model.nerf.table, *colors], allow_unused=True)
    assert gradients[0].any() and not any(g is not None and g.any() for g in gradients[1:])
    assert edit.losses(move(model, colors=0.2), renders, generator)['keep'] > 0
    assert edit.losses(move(model, density=3.0), renders, generator)['keep'] == 0


class SaysWhat(Guidance):
    """Sees one half of each picture differently under the new words."""

    def __init__(self, upper):
        super().__init__()
        self.upper, self.shares = upper, []

    def compare_words(self, render, cameras, *, share, generator):
        self.shares.append(share)
        opacity = render.opacity.permute(0, 3, 1, 2)
        half = torch.zeros_like(opacity)
        rows = slice(0, 8) if self.upper else slice(8, 16)
        half[:, :, rows] = opacity[:, :, rows]
        return half


class Ball:
    """A ball of radius 0.6, solid, red above and green below."""

    bound = 1.0

    def __call__(self, positions, *, with_albedo=True):
        density = 1e3 * (positions.norm(dim=1) < 0.6).float()
        upper = (positions[:, 1] > 0)[:, None]
        return FieldOutput(density, torch.where(upper, torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.1, 0.6, 0.1])))

    def density(self, positions):
        return self(positions).density


@pytest.fixture
def ball_edit(model):
    """An edit of a ball's colours, within what further options say."""

    def begin(**options):
        edit = Edit(EditOptions(source_prompt='x', keep_shape=True, **options), model.scene, model.renderer)
        edit._scene = Scene(Ball(), edit._scene.material, edit._scene.background)
        return edit

    return begin


@pytest.mark.parametrize('upper', [True, False])
def test_the_half_whose_picture_the_words_change_is_found(ball_edit, upper):
    edit, guidance = ball_edit(), SaysWhat(upper)
    draw = torch.Generator().manual_seed(0)

    def cameras():
        around = 360 * torch.rand(5, generator=draw)
        same = torch.zeros(5)
        return cameras_from_orbit(around, same, same + 3.2, same + 36, 16, 16)

    edit.find_parts(guidance, cameras, torch.Generator().manual_seed(0))
    assert len(guidance.shares) == -(-LOOKS // 5) and 0.25 < guidance.shares[0] < guidance.shares[-1] < 0.85
    points = torch.tensor([[0.0, 0.4, 0.4], [0.0, -0.4, 0.4], [0.4, 0.4, 0.0], [-0.4, -0.4, 0.0]])
    assert edit.may_change(points).tolist() == [upper, not upper, upper, not upper]


def test_what_was_found_holds_within_the_regions(ball_edit):
    points = torch.tensor([[0.0, 0.4, 0.4], [0.0, -0.4, 0.4], [0.0, 0.4, -0.4]])
    edit = ball_edit(change_box=[-1, -1, 0, 1, 1, 1])
    colors = Ball()(points).albedo
    lab = linear_rgb_to_lab(colors[:2])
    edit.parts = SurfaceParts(torch.cat([lab / 20, points[:2] / 0.25], 1), torch.tensor([True, False]), 1.0)
    assert edit.may_change(points).tolist() == [True, False, False]


def test_no_parts_are_looked_for_where_nobody_asks(ball_edit, model):
    for edit in (ball_edit(find_region=False), Edit(EditOptions(source_prompt='x'), model.scene, model.renderer)):
        edit.find_parts(SaysWhat(True), pytest.fail, torch.Generator())
        assert edit.parts is None and edit.may_change(torch.zeros(1, 3)).all()


def test_a_guidance_that_compares_no_words_says_what_to_do(ball_edit):
    same = torch.zeros(1)
    with pytest.raises(NotImplementedError, match='find_region=false'):
        ball_edit().find_parts(
            Guidance(), lambda: cameras_from_orbit(same, same, same + 3, same + 36, 8, 8), torch.Generator()
        )


def test_an_object_of_fog_says_that_all_of_it_may_change(ball_edit, monkeypatch, caplog):
    monkeypatch.setattr(Ball, 'density', lambda self, positions: 0.1 * (positions.norm(dim=1) < 0.6).float())
    monkeypatch.setattr(
        Ball, '__call__', lambda self, places, *, with_albedo=True: FieldOutput(self.density(places), places.abs())
    )
    edit, same = ball_edit(), torch.zeros(1)
    edit.find_parts(
        SaysWhat(True), lambda: cameras_from_orbit(same, same, same + 3.2, same + 36, 16, 16), torch.Generator()
    )
    assert edit.parts is None and edit.may_change(torch.zeros(1, 3)).all()
    assert 'an opacity of 0.' in caplog.text and 'model.edit.change_box' in caplog.text


def test_a_guidance_that_compares_no_words_is_refused_at_once():
    asks, regions = EditOptions(source_prompt='x', keep_shape=True), EditOptions(source_prompt='x')
    with pytest.raises(ValueError, match=r'model\.edit\.find_region.*Guidance.*Set it to false'):
        check_finds_region(asks, Guidance())
    for options, guidance in ((None, Guidance()), (regions, Guidance()), (asks, SaysWhat(True))):
        check_finds_region(options, guidance)


def test_difference_of_fields_by_hand():
    density, before = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 2.0])
    now = FieldOutput(density, torch.tensor([[0.5] * 3, [0.2] * 3]))
    then = FieldOutput(before, torch.tensor([[0.5] * 3, [0.6] * 3]))
    alpha = 1 - torch.exp(torch.tensor([-0.1, -0.2]))
    yes, no = torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    found = [field_difference(now, then, 0.1, shape=a, color=b).item() for a, b in ((yes, no), (no, yes), (yes, yes))]
    shape, color = alpha[0].item() ** 2 / 2, alpha[1].item() * 0.4**2 / 2
    assert found == pytest.approx([shape, color, shape + color])


def test_the_object_before_is_in_no_archive_and_no_optimizer(model):
    names, count = list(model.state_dict()), len(list(model.parameters()))
    model.begin_edit()
    assert list(model.state_dict()) == names and len(list(model.parameters())) == count
    model.__dict__['edit'] = None


@pytest.mark.parametrize(
    ('overrides', 'key', 'value', 'way_out'),
    [
        (["model.edit.source_prompt='  '"], 'model.edit.source_prompt', '  ', 'a red cube'),
        (["model.edit.source_prompt='A  blue cube'"], 'model.edit.source_prompt', 'A  blue cube', 'model.prompt'),
        (
            ['model.edit.source_prompt=null', 'model.edit.keep_shape=true'],
            *('model.edit.source_prompt', None, "model.edit.source_prompt='a red cube'"),
        ),
        (['model.edit.change_box=[0,0,0,1,0,1]'], 'model.edit.change_box', [0, 0, 0, 1, 0, 1], '[x0,y0,z0,x1,y1,z1]'),
        (['model.edit.change_box=[0,0,0,1]'], 'model.edit.change_box', [0, 0, 0, 1], '[x0,y0,z0,x1,y1,z1]'),
        (['model.edit.keep_sphere=[0,0,0,0]'], 'model.edit.keep_sphere', [0, 0, 0, 0], '[x,y,z,radius]'),
        (['model.edit.change_sphere=[1.5,1.5,0,0.6]'], 'model.edit.change_sphere', [1.5, 1.5, 0, 0.6], 'scene'),
        (['model.edit.change_box=[2,-1,-1,3,1,1]'], 'model.edit.change_box', [2, -1, -1, 3, 1, 1], 'scene'),
        (['model.edit.keep_box=[-1,-1,-1,1,1,1]'], 'model.edit', NO_VALUE, 'smaller'),
        (
            ['model.edit.change_box=[-1,-1,-1,0,0,0]', 'model.edit.keep_box=[-1,-1,-1,1,1,1]'],
            *('model.edit', NO_VALUE, 'larger'),
        ),
        (
            ['model.edit.keep_shape=true', 'model.edit.keep_color=true'],
            *('model.edit.keep_color', True, 'Leave one out'),
        ),
        (
            ['model.edit.source_prompt=null', 'model.edit.keep_color=true'],
            'model.edit.source_prompt',
            None,
            'a red cube',
        ),
        (['model.edit.keep_weight=-1'], 'model.edit.keep_weight', -1, 'at least 0'),
        (['model.edit.change_box=all'], 'model.edit.change_box', 'all', 'a list'),
        (['+model.edit.region=1'], 'model.edit.region', NO_VALUE, 'change_box'),
    ],
)
def test_bad_regions_and_sentences_are_refused_before_any_work(overrides, key, value, way_out):
    with refusal(key, value, way_out):
        make(*EDIT, *overrides)


@pytest.mark.parametrize(
    'region', [{'change_sphere': [0.02, 0, 0, 0.01]}, {'change_box': [0.99, 0.01, 0, 2, 0.02, 1]}]
)
def test_a_region_may_be_as_small_as_one_likes(region):
    options = {'prompt': 'a blue cube', 'edit': {'source_prompt': 'a red cube', **region}}
    assert read_edit(options, 1.0) is not None


def test_an_archive_of_before_edits_has_no_such_node():
    cfg = small_config('model.prompt=a duck').model
    OmegaConf.set_struct(cfg, False)
    del cfg['edit']
    assert DreamFusion(cfg).edit_options is None

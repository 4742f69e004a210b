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

"""Where rays are sampled: hidden samples, and renders whose number of samples is predicted."""

import copy
import json
import logging

import lightning.pytorch as pl
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from small_model import TowardColour, small_config

from nemo_dreamfusion.callbacks.preview import Preview
from nemo_dreamfusion.data.cameras import cameras_from_orbit, rays
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.modules.backgrounds.static import StaticBackground
from nemo_dreamfusion.modules.losses.dreamfusion import DreamFusionLosses
from nemo_dreamfusion.modules.materials.basic_shading import BasicShading
from nemo_dreamfusion.modules.nerf.torchngp import TorchNGPField
from nemo_dreamfusion.modules.renderers.base import Renderer, Scene
from nemo_dreamfusion.modules.renderers.samplers import (
    RaySampler,
    SampleBudget,
    count_visible,
)
from nemo_dreamfusion.modules.renderers.torchngp import TorchNGPRaymarchingRenderer
from nemo_dreamfusion.ops.compositing import accumulate, render_weights, visible_prefix
from nemo_dreamfusion.ops.marching import keep_first
from nemo_dreamfusion.ops.rays import positions_on_rays
from nemo_dreamfusion.parts.build import build
from nemo_dreamfusion.parts.types import Samples


def packed(counts: list[int], seed: int = 0) -> Samples:
    """Samples of rays with so many samples each, at random distances in order."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.cat([torch.rand(count, generator=generator).sort().values for count in counts])
    ray_indices = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return Samples(ray_indices, starts, starts + 0.01, torch.tensor([0, *counts]).cumsum(0))


def fog(positions: torch.Tensor) -> torch.Tensor:
    """Clear on one side, thick on the other."""
    return 40.0 * (positions[:, 0] + positions[:, 2]).clamp(min=0)


class SmallBudget(SampleBudget):
    UNIT, KNOWN = 10, 1


class TooSmallBudget(SampleBudget):
    """Predicts half of what was needed lately."""

    UNIT, KNOWN, HEADROOM = 1, 1, 0.5


def predict_with(renderer: TorchNGPRaymarchingRenderer, budget: type[SampleBudget]) -> None:
    """Let the sampler do on a CPU what it does on a GPU, with another budget."""
    sampler = renderer.sampler
    sampler.predicts = True
    sampler.marched, sampler.kept = (budget(sampler.dropped_steps) for _ in range(2))


# Hidden samples


def test_the_visible_samples_of_each_ray_are_kept():
    samples = packed([30, 0, 1, 60, 0])
    origins, directions = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2))
    middle = (samples.starts + samples.ends)[:, None] / 2
    positions = origins[samples.ray_indices] + middle * directions[samples.ray_indices]
    visible = visible_prefix(fog(positions), samples, 0.5)
    assert 0 < visible.sum() < len(samples)
    counts = count_visible(samples, origins, directions, fog, 0.5)
    assert torch.equal(counts, torch.bincount(samples.ray_indices[visible], minlength=5))
    kept = keep_first(samples, counts)
    for name in ('ray_indices', 'starts', 'ends'):
        assert torch.equal(getattr(kept, name), getattr(samples, name)[visible])
    # what has no length is not kept, and does not change what is
    more = keep_first(samples, samples.offsets.diff(), 200)
    assert torch.equal(count_visible(more, origins, directions, fog, 0.5), counts)


@pytest.mark.parametrize(('thickness', 'evaluated_once'), [(1.0, True), (8.0, True), (3e4, False)])
def test_samples_hidden_after_the_field_are_those_left_out_before(thickness, evaluated_once):
    origins = torch.tensor([0.0, 0.0, 3.0]) + torch.randn(64, 3, generator=torch.Generator().manual_seed(3)) * 0.2
    directions = torch.tensor([[0.0, 0.0, -1.0]]).expand(64, 3)
    sampler = RaySampler(bound=1.0, step_size=0.02, max_samples=200, transmittance_thresh=1e-2)
    raw = torch.tensor(thickness, requires_grad=True)
    sums = []
    for leave_hidden in (False, True):
        options = {'training': True, 'leave_hidden': leave_hidden}
        occupied = torch.ones(2, 2, 2, dtype=torch.bool)
        samples = sampler.sample(origins, directions, occupied, lambda x: raw.detach() * fog(x) / 40, **options)
        assert samples.with_hidden == (leave_hidden and evaluated_once)
        middle = (samples.starts + samples.ends) / 2
        positions = positions_on_rays(origins, directions, middle, samples)
        density = sampler.hide(raw * fog(positions) / 40, samples)
        weights = render_weights(density, samples)[0]
        opacity = accumulate(weights, None, samples, 64)
        colour = accumulate(weights, positions, samples, 64)
        gradient = torch.autograd.grad((opacity * colour).sum(), raw)[0]
        sums.append((opacity, colour, gradient))
    for before, after in zip(*sums, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)
    assert opacity.mean() > 0.1


def test_a_threshold_of_zero_keeps_all_and_asks_nobody():
    sampler = RaySampler(bound=1.0, step_size=0.1, max_samples=99, transmittance_thresh=0.0)
    ray = torch.tensor([[0.0, 0.0, 3.0]]), torch.tensor([[0.0, 0.0, -1.0]])
    assert len(sampler.sample(*ray, torch.ones(2, 2, 2, dtype=torch.bool), None)) == 2 / 0.1


@pytest.mark.gpu
def test_on_a_gpu_the_same_samples_are_kept_and_the_field_is_asked_once():
    samples = packed([30, 0, 1, 60, 0])
    there = Samples(*(x.cuda() for x in (samples.ray_indices, samples.starts, samples.ends, samples.offsets)))
    origins, directions = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2))
    here = count_visible(samples, origins, directions, fog, 1e-2)
    asked = []
    found = count_visible(there, origins.cuda(), directions.cuda(), lambda x: asked.append(len(x)) or fog(x), 1e-2)
    assert asked == [len(samples)] and torch.equal(found.cpu(), here)


# The budget


def run(budget: SampleBudget, totals: list[int], rays: int = 2) -> list[int | None]:
    """Return the predictions for steps with so many samples."""
    capacities = []
    for step, total in enumerate(totals):
        capacities.append(budget.predict(rays))
        budget.record(step, torch.tensor(total), capacities[-1])
    return capacities


def test_the_prediction_is_what_was_needed_lately_and_a_third_more():
    assert run(SmallBudget(set()), [100, 40, 40, 40, 40]) == [None, None, None, 130, 130]


def test_a_few_steps_are_no_guide():
    capacities = run(SampleBudget(set()), [100] * 30)
    known = SampleBudget.KNOWN + 2
    assert capacities[:known] == [None] * known and capacities[known:] == [SampleBudget.UNIT] * (30 - known)


def test_a_step_with_more_samples_is_read_two_steps_later_and_predictions_grow(caplog):
    dropped = set()
    budget = SmallBudget(dropped)
    with caplog.at_level(logging.WARNING, logger='nemo_dreamfusion'):
        assert run(budget, [100] * 4 + [200] * 4) == [None, None, None, 130, 130, 130, 130, 260]
        assert dropped == {4}
        budget.check_pending()
        assert dropped == {4, 5, 6}
        run(budget, [200] * 2)
    assert dropped == {4, 5, 6}
    (warned,) = (record.getMessage() for record in caplog.records)
    assert all(word in warned for word in ('200', '130', 'steps_with_dropped_rays', 'model.renderer.max_steps'))


def test_the_largest_number_is_forgotten_after_a_while():
    budget = SmallBudget(set())
    capacities = run(budget, [1000] + [100] * (SampleBudget.REMEMBERED + 4))
    assert capacities[10] == 1300 and capacities[-1] == 130


def test_another_number_of_rays_is_not_predicted_from_these():
    dropped = set()
    budget = SmallBudget(dropped)
    run(budget, [100] * 4 + [200])
    assert budget.predict(3) is None and budget.predict(3) is None
    assert dropped == {4}  # what was not read yet is counted all the same


def test_there_are_places_even_where_there_was_no_sample():
    assert run(SmallBudget(set()), [0] * 5)[-1] == 10


def test_a_copy_keeps_the_count_and_predicts_nothing():
    sampler = RaySampler(bound=1.0, step_size=0.1, max_samples=99, transmittance_thresh=0.0)
    run(sampler.marched, [100000] * 20)
    sampler.dropped_steps.add(3)
    other = copy.deepcopy(sampler)
    assert other.marched.predict(2) is None and sampler.marched.predict(2) is not None
    assert other.count_dropped_steps() == 1 and other.marched.dropped_steps is other.kept.dropped_steps


# Renders


def make_scene() -> Scene:
    torch.manual_seed(0)
    field = TorchNGPField(encoder_cfg={'num_levels': 2, 'log2_hashmap_size': 8, 'desired_resolution': 16})
    return Scene(field, BasicShading(), StaticBackground(color=(0.0, 0.0, 1.0)))


def render_steps(scene: Scene, budget: type[SampleBudget] | None, steps: int = 6):
    """Pictures of training steps with the gradients of their losses, and the renderer."""
    renderer = TorchNGPRaymarchingRenderer(max_steps=64, grid_resolution=8, transmittance_thresh=0.1)
    if budget is not None:
        predict_with(renderer, budget)
    losses = DreamFusionLosses(lambda_opacity=1.0, lambda_orientation=1.0, lambda_normal_smoothness_2d=1.0)
    found = []
    for step in range(steps):
        same = torch.ones(2)
        view = cameras_from_orbit(torch.tensor([0.0, 90.0]) + step, same * 20, same * 3.0, same * 40.0, 16, 16)
        generator = torch.Generator().manual_seed(step)
        render = renderer.render(rays(view), scene, shading='lambertian', generator=generator)
        loss = render.image.square().mean() + sum(losses(render, step).values())
        found.append((render, loss, torch.autograd.grad(loss, list(scene.field.parameters()), allow_unused=True)))
    return found, renderer


def test_predicted_numbers_change_no_picture_and_no_gradient():
    scene = make_scene()
    exact, _ = render_steps(scene, None)
    found, renderer = render_steps(scene, SmallBudget)
    assert renderer.count_dropped_steps() == 0
    for step, ((a, loss_a, gradients_a), (b, loss_b, gradients_b)) in enumerate(zip(exact, found)):
        more = len(b.samples.weights) - len(a.samples.weights)
        assert more > 0 if step >= 3 else more == 0
        assert (b.samples.weights == 0).sum() == more
        for name in ('image', 'opacity', 'depth', 'normals'):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(loss_a, loss_b)
        for one, other in zip(gradients_a, gradients_b, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('choice', ['torchngp_raymarching', 'nerfacc'])
def test_samples_of_length_zero_weigh_nothing_in_every_renderer(choice):
    if choice == 'nerfacc':
        pytest.importorskip('nerfacc')
    renderer = build(
        'model.renderer',
        OmegaConf.to_container(small_config(f'model/renderer={choice}').model.renderer, resolve=True),
        Renderer,
    )
    samples = packed([5, 0, 3])
    more = keep_first(samples, samples.offsets.diff(), 20)
    exists = more.ends > more.starts
    density = torch.rand(20).requires_grad_()
    weights = renderer.weights(density, more)
    values = torch.rand(20, 3)
    sums = renderer.accumulate(weights, values, more, 3)
    assert exists.sum() == 8 and (weights[~exists] == 0).all()
    torch.testing.assert_close(weights[exists], renderer.weights(density[exists], samples))
    torch.testing.assert_close(sums, renderer.accumulate(weights[exists], values[exists], samples, 3))
    gradient = torch.autograd.grad(sums.square().sum(), density)[0]
    assert (gradient[~exists] == 0).all() and (gradient[exists] != 0).all()


def test_too_few_places_take_the_samples_of_the_last_rays_and_of_no_others():
    scene = make_scene()
    exact, _ = render_steps(scene, None)
    found, renderer = render_steps(scene, TooSmallBudget)
    assert renderer.count_dropped_steps() == 3  # of six, the first three of which waited for their number
    for step, ((a, *_), (b, *_)) in enumerate(zip(exact, found)):
        if step < 3:
            assert torch.equal(a.image, b.image)
            continue
        whole, left = a.opacity.flatten(), b.opacity.flatten()
        last = left.nonzero()[-1].item()  # ray that has a sample
        assert whole[:last].max() > 0.5 and whole[last + 1 :].max() > 0.5
        torch.testing.assert_close(left[:last], whole[:last])
        torch.testing.assert_close(b.image.view(-1, 3)[:last], a.image.view(-1, 3)[:last])
        background = torch.tensor([0.0, 0.0, 1.0])
        assert torch.equal(b.image.view(-1, 3)[last + 1 :], background.expand(len(whole) - last - 1, 3))


def fit(folder, budget, *, steps, callback_state=None):
    """Fit the small model; return what metrics.json holds and the preview's state."""
    config = small_config(f'trainer.max_steps={steps}', 'model.iters=8')
    model = DreamFusion(config.model)
    model.guidance = TowardColour()
    if budget is not None:
        predict_with(model.renderer, budget)
    no_mesh = dict(mesh_resolution=0, mesh_faces=500, texture_size=64)
    preview = Preview(folder=folder, interval=0, size=16, turntable_frames=2, turntable_size=16, **no_mesh)
    preview.load_state_dict(callback_state or {'seconds': 0.0})
    options = {**config.trainer, 'enable_progress_bar': False, 'enable_model_summary': False}
    pl.Trainer(**options, default_root_dir=folder, callbacks=[preview]).fit(
        model, datamodule=instantiate(config.model.data)
    )
    return json.loads((folder / 'metrics.json').read_text()), preview.state_dict()


@pytest.mark.filterwarnings('ignore')
def test_steps_that_lose_rays_are_counted_in_metrics_and_warned_of_once(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger='nemo_dreamfusion.modules.renderers.samplers'):
        metrics, _ = fit(tmp_path, SmallBudget, steps=6)
        assert metrics['steps_with_dropped_rays'] == 0 and not caplog.records
        metrics, state = fit(tmp_path, TooSmallBudget, steps=6)
        assert metrics['steps_with_dropped_rays'] == state['steps_with_dropped_rays'] == 3
        assert len(caplog.records) == 1 and caplog.records[0].levelname == 'WARNING'
    metrics, _ = fit(tmp_path, None, steps=2, callback_state=state)
    assert metrics['steps_with_dropped_rays'] == 3  # those of the run before

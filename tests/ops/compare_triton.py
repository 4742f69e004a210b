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

"""Run by test_triton.py with TRITON_INTERPRET=1: prints, as JSON, how far Triton's kernels are from the reference.

A distance is the largest difference over a case's tensors, each relative to the tensor's largest element. Thin and thick
samples are cases of their own: beside others their errors would not show.
"""

import json
import os
from functools import partial

import torch

from nemo_dreamfusion.callbacks.grad_scaler import AsyncGradScaler
from nemo_dreamfusion.data.cameras import rays
from nemo_dreamfusion.data.samplers import OrbitCameras
from nemo_dreamfusion.modules.backgrounds.static import StaticBackground
from nemo_dreamfusion.modules.losses.dreamfusion import DreamFusionLosses
from nemo_dreamfusion.modules.materials.basic_shading import BasicShading
from nemo_dreamfusion.modules.nerf.torchngp import TorchNGPField
from nemo_dreamfusion.modules.renderers.base import Scene
from nemo_dreamfusion.modules.renderers.samplers import SampleBudget
from nemo_dreamfusion.modules.renderers.torchngp import TorchNGPRaymarchingRenderer
from nemo_dreamfusion.ops.adan import FusedAdan
from nemo_dreamfusion.ops.backends import select
from nemo_dreamfusion.ops.compositing import accumulate, render_weights, visible_prefix
from nemo_dreamfusion.ops.grid_networks import fuses, grid_networks, grid_networks_backward_op, grid_networks_op
from nemo_dreamfusion.ops.hash_grid import COMPILED_FEATURES, GridLayout, hash_grid_encode
from nemo_dreamfusion.ops.marching import keep_first, march_op, march_rays
from nemo_dreamfusion.parts.types import Samples

FACES = [[0.25, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1 / 3, 2 / 3, 0.5], [2.0, -1.0, 1.0]]


def hash_grid(interpolation, features, n):
    """Everything that can be differentiated, at points on faces and corners first; one level dense and one hashed."""
    grid = GridLayout.make(2, features, 8, 3, 30, interpolation)
    x = torch.cat([torch.tensor(FACES), torch.rand(n, 3) * 1.1 - 0.05])[:n].requires_grad_()
    table = torch.randn(grid.rows, features, requires_grad=True)
    grad = torch.randn(n, grid.width, requires_grad=True)
    y = hash_grid_encode(x, table, grid)
    slope, to_table = torch.autograd.grad(y, (x, table), grad, create_graph=True)
    second = torch.autograd.grad(slope, (x, table, grad), torch.randn(n, 3), retain_graph=True)
    mixed = torch.autograd.grad(to_table, (x, grad), torch.randn(grid.rows, features))
    return y, slope, to_table, *second, *mixed


def draw_networks(layout, *hidden):
    """A network with these hidden widths and one output, and one with as many layers, others, and three."""

    def draw(widths):
        pairs = list(zip(widths[:-1], widths[1:]))
        weights = [torch.randn(after, before) * before**-0.5 for before, after in pairs]
        return weights, [torch.randn(after) * 0.3 for _, after in pairs]

    return [draw([layout.width, *hidden, 1]), draw([layout.width, *(max(1, w - 3) for w in hidden), 3])]


def through_networks(hidden, features=2, levels=5, open_levels=5, n=130, bound=2.0, count=2):
    """Outputs with and without gradients to come, gradients, and gradients of gradients, which go through the reference.

    The second output of the last gradient is read by nothing.
    """
    layout = GridLayout.make(levels, features, 9, 3, 20)
    positions, table = (torch.rand(n, 3) * 2.2 - 1.1) * bound, torch.randn(layout.rows, features)
    networks = draw_networks(layout, *hidden)[:count]
    assert fuses(positions, table, layout, networks) == (select.mode() == 'triton')
    leaves = [t.requires_grad_() for t in (table, *(t for layers in networks for part in layers for t in part))]
    inputs, options = (positions, table, layout, networks), {'bound': bound, 'open_levels': open_levels}
    with torch.no_grad():
        plain = grid_networks(*inputs, **options)
    outputs = grid_networks(*inputs, **options)
    gradients = torch.autograd.grad(outputs, leaves, [torch.randn_like(o) for o in outputs], retain_graph=True)
    unread = torch.autograd.grad(outputs[0].sum(), leaves, retain_graph=True, materialize_grads=True)
    (slope,) = torch.autograd.grad(outputs[-1].square().sum(), table, create_graph=True)
    second = torch.autograd.grad(slope.square().sum(), leaves, materialize_grads=True)
    return *plain, *outputs, *gradients, *unread, *second


def networks_not_a_number():
    """A weight and rows of the table that are no numbers reach every output and gradient that they reach elsewhere."""
    layout = GridLayout.make(5, 2, 9, 3, 20)
    positions, table, networks = torch.rand(70, 3) * 2 - 1, torch.randn(layout.rows, 2), draw_networks(layout, 32, 16)
    with torch.no_grad():
        table[192:448], networks[0][0][1][3, 5] = torch.nan, torch.nan  # half of a level
    leaves = [t.requires_grad_() for t in (table, *(t for layers in networks for part in layers for t in part))]
    outputs = grid_networks(positions, table, layout, networks, bound=1.0, open_levels=5)
    gradients = torch.autograd.grad(outputs, leaves, [torch.randn_like(o) for o in outputs])
    results = [t.isnan() for t in (*outputs, *gradients)]
    assert results[0].all() and results[1].any() and not results[1].all()
    return results


def networks_operators():
    """torch's own checks of the registered operators (schema, fake tensors, autograd, tracing) with these kernels."""
    layout = GridLayout.make(3, 2, 6, 2, 5)
    networks, positions, table = draw_networks(layout, 16), torch.rand(70, 3) * 2 - 1, torch.randn(layout.rows, 2)
    weights = [t for layers, _ in networks for t in layers]
    biases = [t for _, layers in networks for t in layers]
    described = [list(part) for part in (layout.resolutions, layout.offsets, layout.hashed)]
    options = ([2, 2], *described, layout.smooth, 2, 1.0)
    if select.mode() == 'triton':
        check_operator(grid_networks_op, (positions, table, weights, biases, *options, False))
        encoded, *outputs = grid_networks_op(positions, table, weights, biases, *options, True)
        grads = [torch.randn_like(o) for o in outputs]
        check_operator(grid_networks_backward_op, (grads, encoded, positions, weights, biases, *options))
        table, weights, biases = table.requires_grad_(), *[[t.requires_grad_() for t in p] for p in (weights, biases)]
        check_operator(grid_networks_op, (positions, table, weights, biases, *options, True))
    return ()


def check_operator(operator, arguments):
    results = torch.library.opcheck(operator, arguments)
    assert set(results.values()) == {'SUCCESS'}, results


def marching():
    origins = torch.randn(64, 3) * 1.5
    directions = torch.nn.functional.normalize(torch.randn(64, 3) - origins, dim=1)
    occupancy = torch.rand(9, 9, 9) < 0.3
    limits = {'bound': 1.0, 'step_size': 0.05, 'max_samples': 20}
    samples, _ = march_rays(origins, directions, occupancy, jitter=torch.rand(64), **limits)
    return samples.ray_indices, samples.starts, samples.ends, samples.offsets


def fixed_places():
    """Arrays with more and with fewer places than there are samples, and what is computed from them."""
    origins = torch.randn(20, 3) * 1.5
    directions = torch.nn.functional.normalize(torch.randn(20, 3) - origins, dim=1)
    occupancy, limits = torch.rand(9, 9, 9) < 0.3, {'bound': 1.0, 'step_size': 0.05, 'max_samples': 20}
    results = []
    exact, total = march_rays(origins, directions, occupancy, **limits)
    for capacity in (len(exact) + 50, len(exact) - 3, 5):
        found, again = march_rays(origins, directions, occupancy, **limits, capacity=capacity)
        assert again == total == len(exact) and len(found) == capacity
        density, values = torch.rand(capacity).requires_grad_(), torch.rand(capacity, 3).requires_grad_()
        weights = render_weights(density, found)[0]
        image = accumulate(weights, values, found, 20)
        results += [found.ray_indices, found.starts, found.ends, found.offsets, weights, image]
        results += torch.autograd.grad(image, (density, values), torch.randn_like(image))
        for size in (capacity, 4):
            kept = keep_first(found, (found.offsets.diff() + 1) // 2, size)
            results += [kept.ray_indices, kept.starts, kept.ends, kept.offsets]
    return results


class SmallBudget(SampleBudget):
    """Predicts after one step."""

    UNIT, KNOWN = 16, 1


def training_renders():
    """Four pictures in training mode with their gradients; with Triton the last has a predicted number of samples."""
    field = TorchNGPField(encoder_cfg={'num_levels': 2, 'log2_hashmap_size': 8, 'desired_resolution': 16})
    renderer = TorchNGPRaymarchingRenderer(max_steps=16, grid_resolution=8, transmittance_thresh=0.2)
    sampler = renderer.sampler
    sampler.predicts = select.mode() == 'triton'
    sampler.marched, sampler.kept = (SmallBudget(sampler.dropped_steps) for _ in range(2))
    scene, losses = Scene(field, BasicShading(), StaticBackground()), DreamFusionLosses(lambda_orientation=1.0)
    generator = torch.Generator(torch.empty(0).device)
    results = []
    for step in range(4):
        cameras = OrbitCameras(views=4, elevation_deg=20.0, distance=3.0 - 0.1 * step, fov_deg=40.0, height=2, width=4)
        generator.manual_seed(step)
        options = {'shading': 'lambertian', 'generator': generator}
        render = renderer.render(rays(cameras[step].to(generator.device)), scene, **options)
        assert (render.samples.weights == 0).any() == (sampler.predicts and step > 2)
        loss = render.image.sum() + sum(losses(render, step).values())
        results += [render.image, render.depth, loss, *torch.autograd.grad(loss, list(field.parameters()))]
    assert renderer.count_dropped_steps() == 0
    return results


def march_without_end():
    """A thousand million candidates: a program must stop where the last of its rays leaves the box."""
    rays = torch.tensor([[0.1, 0.2, -3.0], [5.0, 5.0, 5.0]]), torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    full, jitter = torch.ones(4, 4, 4, dtype=torch.bool), torch.zeros(2)
    if select.mode() == 'triton':
        return march_op(*rays, jitter, full, 1.0, 0.1, 1000, 10**9, -1)[:4]
    samples, _ = march_rays(*rays, full, bound=1.0, step_size=0.1, max_samples=1000, jitter=jitter)
    return samples.ray_indices, samples.starts, samples.ends, samples.offsets


def compositing(channels, thickness):
    """Samples 0.05 long on rays of all sorts of lengths; thickness: their largest density."""
    counts = torch.tensor([0, 3, 300, 1, 0, 128])
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    n = int(offsets[-1])
    starts = torch.rand(n)
    samples = Samples(torch.repeat_interleave(torch.arange(6), counts), starts, starts + 0.05, offsets)
    density, values = (torch.rand(n) * thickness).requires_grad_(), torch.randn(n, channels, requires_grad=True)
    weights, transmittance = render_weights(density, samples)
    image, opacity = accumulate(weights, values, samples, 6), accumulate(weights, None, samples, 6)
    outputs = (weights, transmittance, image, opacity)
    grads = torch.autograd.grad(outputs, (density, values), [torch.randn_like(t) for t in outputs])
    return *outputs, *grads, visible_prefix(density, samples, 0.3)


def thin_samples():
    """Optical depths of 2e-5, and those around where the series takes over."""
    results = []
    for depth in (2e-5, 1e-3, 9.9e-3, 1.01e-2):
        starts = torch.tensor([0.0, 0.02, 0.04])
        samples = Samples(torch.zeros(3, dtype=torch.int64), starts, starts + 0.02, torch.tensor([0, 3]))
        density = (depth / (samples.ends - samples.starts)).requires_grad_()
        weights, transmittance = render_weights(density, samples)
        results += [weights, transmittance, *torch.autograd.grad(weights[2], density)]
    return results


def not_a_number():
    """Where the results are not numbers, and that pruning keeps the sample that is none."""
    counts = torch.tensor([3, 4])
    density = torch.rand(7)
    density[5] = torch.nan
    density.requires_grad_()
    starts = torch.rand(7)
    samples = Samples(torch.repeat_interleave(torch.arange(2), counts), starts, starts + 0.05, torch.tensor([0, 3, 7]))
    weights, transmittance = render_weights(density, samples)
    opacity = accumulate(weights, None, samples, 2)
    (grad,) = torch.autograd.grad(opacity[1], density)
    visible = visible_prefix(density, samples, 1e-3)
    return weights.isnan(), transmittance.isnan(), opacity.isnan(), grad[3:5].isnan(), visible


def adan():
    parameter = torch.randn(3000, requires_grad=True)
    optimizer = FusedAdan([parameter], lr=0.1, weight_decay=0.1, max_grad_norm=1.0)
    for _ in range(3):
        parameter.grad = torch.randn(3000)
        optimizer.step()
    return (parameter, *optimizer.state[parameter].values())


def adan_left_out():
    """A step for which found_inf is set, the first one too, changes nothing; with the reference nobody takes it."""
    parameter = torch.randn(3000, requires_grad=True)
    optimizer = FusedAdan([parameter], lr=0.1, weight_decay=0.1, max_grad_norm=1.0)
    assert optimizer.reads_found_inf == (select.mode() == 'triton')
    for step in range(4):
        parameter.grad = torch.randn(3000) * (float('nan') if step in (0, 2) else 1.0)
        if optimizer.reads_found_inf:
            optimizer.found_inf = torch.tensor(float(step in (0, 2)))
        elif step in (0, 2):
            parameter.grad = None
        optimizer.step()
    return (parameter, *optimizer.state[parameter].values())


def adan_scaled():
    """The same under the gradient scaler of 16-mixed, which then reads nothing from the device."""
    parameter = torch.randn(3000, requires_grad=True)
    optimizer = FusedAdan([parameter], lr=0.1, weight_decay=0.1, max_grad_norm=1.0)
    scaler = AsyncGradScaler(parameter.device.type, init_scale=8.0)
    for step in range(4):
        optimizer.zero_grad()
        factor = torch.inf if step in (0, 2) else 1.0
        scaler.scale((parameter * torch.randn(3000) * factor).sum()).backward()
        scaler.unscale_(optimizer)
        if optimizer.reads_found_inf:
            scaler.step(optimizer)
            assert optimizer.found_inf is None
        else:
            parameter.grad = None if step in (0, 2) else parameter.grad
            optimizer.step()
        scaler.update()
    return (parameter, *optimizer.state[parameter].values(), torch.tensor(scaler.get_scale()))


def nothing():
    """No point, no ray, no sample."""
    grid = GridLayout.make(2, 2, 8, 3, 9)
    full = torch.ones(2, 2, 2, dtype=torch.bool)
    samples, _ = march_rays(torch.zeros(0, 3), torch.zeros(0, 3), full, bound=1, step_size=0.5, max_samples=3)
    weights, _ = render_weights(torch.zeros(0), samples)
    return hash_grid_encode(torch.zeros(0, 3), torch.zeros(grid.rows, 2), grid), accumulate(weights, None, samples, 0)


CASES = {
    **{
        f'hash grid, {features} features, {n} points': partial(hash_grid, 'smoothstep', features, n)
        for features in COMPILED_FEATURES
        for n in (0, 129)
    },
    'hash grid, 1 point': partial(hash_grid, 'smoothstep', 2, 1),
    'hash grid, linear': partial(hash_grid, 'linear', 2, 129),
    **{
        f'grid and networks, {features} features, {open_levels} open levels': partial(
            through_networks, (32,), features, open_levels=open_levels
        )
        for features, open_levels in ((1, 5), (2, 3), (4, 5), (8, 1))
    },
    'grid and networks, 16 wide, bound 1.5': partial(through_networks, (16,), bound=1.5),
    'grid and networks, 48 wide, one network': partial(through_networks, (48, 20), count=1, n=64),
    'grid and networks, full size': partial(through_networks, (64, 64), levels=16, open_levels=16, n=65),
    'grid and networks, no hidden layer': partial(through_networks, (), n=1),
    'grid and networks, no point': partial(through_networks, (32,), n=0),
    'grid and networks, not a number': networks_not_a_number,
    'grid and networks, the registered operators': networks_operators,
    'marching': marching,
    'marching without end': march_without_end,
    'fixed places': fixed_places,
    'training renders': training_renders,
    'compositing, 3 channels': partial(compositing, 3, 4.0),
    'compositing, 4 channels': partial(compositing, 4, 4.0),
    'compositing, all but clear': partial(compositing, 3, 1e-3),
    'compositing, all but opaque': partial(compositing, 3, 4000.0),
    'thin samples': thin_samples,
    'not a number': not_a_number,
    'adan': adan,
    'adan, scaled': adan_scaled,
    'adan, a step left out': adan_left_out,
    'nothing': nothing,
}


def difference(found, expected) -> float:
    assert found.shape == expected.shape, (found.shape, expected.shape)
    found, expected = found.detach().double(), expected.detach().double()
    distance = (found - expected).abs().max() / expected.abs().max().clamp_min(1e-12) if found.numel() else 0.0
    return float('inf') if distance != distance else float(distance)


def main():
    if os.environ.get('TRITON_INTERPRET') != '1':
        torch.set_default_device('cuda')
    errors = {}
    for name, case in CASES.items():
        results = []
        for backend in ('triton', 'reference'):
            os.environ[select.VARIABLE] = backend
            torch.manual_seed(0)
            results.append(case())
        errors[name] = max(map(difference, *results), default=0.0)
    print(json.dumps(errors))


if __name__ == '__main__':
    main()

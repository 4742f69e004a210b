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

"""The single operators: ours against the torch reference and against installed peers."""

from __future__ import annotations

from itertools import cycle

import peers
import torch
from measure import Case, Results, Way
from torch import Tensor

from nemo_dreamfusion.ops.adan import STATE, FusedAdan
from nemo_dreamfusion.ops.compositing import accumulate, render_weights
from nemo_dreamfusion.ops.hash_grid import GridLayout, hash_grid_encode
from nemo_dreamfusion.ops.marching import march_rays

STEPS = 1024  # along the diagonal of the box
STEP_SIZE = 2 * 3**0.5 / STEPS


def hash_grid(device: torch.device) -> Case:
    """Time the encoding and the gradient of its table, for the full-size grid."""
    layout, n = GridLayout.make(16, 2, 19, 16, 2048), 2**17
    table = (torch.randn(layout.rows, 2, device=device) * 1e-2).requires_grad_()
    positions, grad = torch.rand(n, 3, device=device), torch.randn(n, layout.width, device=device)

    def run() -> Results:
        table.grad = None
        y = hash_grid_encode(positions, table, layout)
        y.backward(grad)
        return {'encoding': y, 'gradient of the table': table.grad}

    setting = '16 levels x 2 features x 2^19 rows, 2^17 points'
    others = (Way('torch reference', run, 'reference'), peers.tinycudann_grid(layout, positions, grad))
    return Case('hash_grid_forward_backward', setting, Way('ours', run), others)


def grid_normals(device: torch.device) -> Case:
    """Time the gradient of the positions, and the gradient of that: what normals by autograd cost in the encoding."""
    layout, n = GridLayout.make(16, 2, 19, 16, 2048), 2**14
    table = (torch.randn(layout.rows, 2, device=device) * 1e-2).requires_grad_()
    positions = torch.rand(n, 3, device=device).requires_grad_()
    grad, toward = torch.randn(n, layout.width, device=device), torch.randn(n, 3, device=device)

    def run() -> Results:
        table.grad = None
        y = hash_grid_encode(positions, table, layout)
        (slope,) = torch.autograd.grad(y, positions, grad, create_graph=True)
        slope.backward(toward, inputs=[table])
        return {'gradient of the positions': slope, 'its gradient of the table': table.grad}

    return Case(
        'hash_grid_double_backward',
        '16 levels x 2 features x 2^19 rows, 2^14 points',
        Way('ours', run),
        (Way('torch reference', run, 'reference'),),
    )


def _view(device: torch.device, side: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rays of a square image toward the origin, and a grid with a ball in it."""
    axis = (torch.arange(side, device=device) + 0.5) / side - 0.5
    y, x = torch.meshgrid(axis, axis, indexing='ij')
    directions = torch.nn.functional.normalize(torch.stack([x, y, torch.full_like(x, -1.6)], -1).view(-1, 3), dim=1)
    origins = torch.tensor([0.0, 0.0, 3.2], device=device).expand_as(directions).contiguous()
    cell = (torch.arange(128, device=device) + 0.5) / 64 - 1
    squares = cell**2
    occupancy = (squares[:, None, None] + squares[:, None] + squares) < 0.6**2
    return origins, directions, occupancy


def marching(device: torch.device) -> Case:
    """Time the samples of a 64 x 64 view of a ball."""
    origins, directions, occupancy = _view(device)
    jitter = torch.rand(len(origins), device=device)

    def run() -> Results:
        samples, _ = march_rays(
            origins, directions, occupancy, bound=1.0, step_size=STEP_SIZE, max_samples=STEPS, jitter=jitter
        )
        return {name: getattr(samples, name) for name in ('starts', 'ends', 'ray_indices', 'offsets')}

    others = (
        Way('torch reference', run, 'reference'),
        peers.nerfacc_march(origins, directions, occupancy, STEP_SIZE),
        peers.torch_ngp_march(origins, directions, occupancy, STEPS),
    )
    return Case('march_rays', f'64 x 64 rays, {STEPS} steps, 128^3 cells', Way('ours', run), others)


def compositing(device: torch.device) -> Case:
    """Time the weights of the samples of that view and the sums of their colours, forward and backward."""
    origins, directions, occupancy = _view(device)
    samples, _ = march_rays(origins, directions, occupancy, bound=1.0, step_size=STEP_SIZE, max_samples=STEPS)
    density = (torch.rand(len(samples), device=device) * 5).requires_grad_()
    colour = torch.rand(len(samples), 3, device=device).requires_grad_()
    grad = torch.randn(len(origins), 3, device=device)

    def run() -> Results:
        weights, _ = render_weights(density, samples)
        image = accumulate(weights, colour, samples, len(origins))
        to_density, to_colour = torch.autograd.grad(image, (density, colour), grad)
        return {'image': image, 'gradient of density': to_density, 'gradient of colour': to_colour}

    others = (
        Way('torch reference', run, 'reference'),
        peers.nerfacc_composite(density, colour, samples, grad),
        peers.torch_ngp_composite(density, colour, samples, grad),
    )
    return Case('composite_forward_backward', f'{len(samples)} samples on 64 x 64 rays', Way('ours', run), others)


def fused_adan(device: torch.device) -> Case:
    """Time one step on the 12.2 million numbers of the full-size table."""
    start = torch.randn(GridLayout.make(16, 2, 19, 16, 2048).rows * 2, device=device)
    gradients = torch.randn_like(start), torch.randn_like(start)  # alternate: the gradient's change counts, too
    classes = {'ours': FusedAdan, 'torch reference': FusedAdan}
    try:
        from nemo.core.optim.adan import Adan
    except ImportError:
        pass
    else:
        classes['nemo.core.optim.adan (foreach)'] = Adan

    def way(name: str) -> Way:
        parameter = start.clone().requires_grad_()
        optimizer = classes[name]([parameter], lr=1e-3, weight_decay=2e-5)
        turns = cycle(gradients)

        def run() -> Results:
            parameter.grad = next(turns)
            optimizer.step()
            state = optimizer.state[parameter]
            return {'parameter': parameter} | {key: state[key] for key in STATE}

        def subtract_start(results: Results) -> Results:
            return dict(results) | {'parameter': results['parameter'] - start}

        return Way(name, run, 'reference' if name == 'torch reference' else 'auto', unpack=subtract_start)

    ours, *others = map(way, classes)
    # A parameter of size 5 is rounded to 3e-7, and a step moves it by 1e-3.
    return Case(
        'fused_adan',
        f'{start.numel() / 1e6:.1f} M parameters',
        ours,
        tuple(others),
        tolerances={'parameter': 1e-3},
        runs_before=3,
    )


CASES = {
    'hash_grid_forward_backward': hash_grid,
    'hash_grid_double_backward': grid_normals,
    'march_rays': marching,
    'composite_forward_backward': compositing,
    'fused_adan': fused_adan,
}

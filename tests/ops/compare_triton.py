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

"""Run by test_triton.py with TRITON_INTERPRET=1: prints, as JSON, how far each Triton body is from the reference."""

import json
import os

import torch

from nemo_dreamfusion.ops import native
from nemo_dreamfusion.ops.adan import FusedAdan
from nemo_dreamfusion.ops.compositing import accumulate, render_weights, visible_prefix
from nemo_dreamfusion.ops.hash_grid import GridLayout, hash_grid_encode
from nemo_dreamfusion.ops.marching import march_rays
from nemo_dreamfusion.parts.specs import Samples


def hash_grid(interpolation):
    grid = GridLayout.make(4, 2, 8, 3, 30, interpolation)
    x = (torch.rand(300, 3) * 1.1 - 0.05).requires_grad_()
    table, grad = torch.randn(grid.rows, 2, requires_grad=True), torch.randn(300, grid.width, requires_grad=True)
    y = hash_grid_encode(x, table, grid)
    slope, to_table = torch.autograd.grad(y, (x, table), grad, create_graph=True)
    second = torch.autograd.grad(slope, (x, table, grad), torch.randn(300, 3))
    return y, slope, to_table, *second


def marching():
    origins = torch.randn(200, 3) * 1.5
    directions = torch.nn.functional.normalize(torch.randn(200, 3) - origins, dim=1)
    occupancy = torch.rand(9, 9, 9) < 0.3
    limits = {'bound': 1.0, 'step_size': 0.05, 'max_samples': 20, 'min_distance': 0.2}
    samples = march_rays(origins, directions, occupancy, jitter=torch.rand(200), **limits)
    return samples.ray_indices, samples.starts, samples.ends, samples.offsets


def compositing(channels):
    counts = torch.tensor([0, 3, 300, 1, 0, 128])
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    n = int(offsets[-1])
    starts = torch.rand(n)
    samples = Samples(torch.repeat_interleave(torch.arange(6), counts), starts, starts + 0.05, offsets)
    density, values = (torch.rand(n) * 4).requires_grad_(), torch.randn(n, channels, requires_grad=True)
    weights, transmittance = render_weights(density, samples)
    image, opacity = accumulate(weights, values, samples, 6), accumulate(weights, None, samples, 6)
    outputs = (weights, transmittance, image, opacity)
    grads = torch.autograd.grad(outputs, (density, values), [torch.randn_like(t) for t in outputs])
    return *outputs, *grads, visible_prefix(density, samples, 0.3)


def adan():
    parameter = torch.randn(3000, requires_grad=True)
    optimizer = FusedAdan([parameter], lr=0.1, weight_decay=0.1, max_grad_norm=1.0)
    for _ in range(3):
        parameter.grad = torch.randn(3000)
        optimizer.step()
    return (parameter, *optimizer.state[parameter].values())


def nothing():
    """No point, no ray, no sample."""
    grid = GridLayout.make(2, 2, 8, 3, 9)
    full = torch.ones(2, 2, 2, dtype=torch.bool)
    samples = march_rays(torch.zeros(0, 3), torch.zeros(0, 3), full, bound=1, step_size=0.5, max_samples=3)
    weights, _ = render_weights(torch.zeros(0), samples)
    return hash_grid_encode(torch.zeros(0, 3), torch.zeros(grid.rows, 2), grid), accumulate(weights, None, samples, 0)


CASES = {
    'hash grid, smoothstep': lambda: hash_grid('smoothstep'),
    'hash grid, linear': lambda: hash_grid('linear'),
    'marching': marching,
    'compositing, 3 channels': lambda: compositing(3),
    'compositing, 4 channels': lambda: compositing(4),
    'adan': adan,
    'nothing': nothing,
}


def difference(found, expected) -> float:
    assert found.shape == expected.shape, (found.shape, expected.shape)
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12)) if len(found) else 0.0


def main():
    errors = {}
    for name, case in CASES.items():
        results = []
        for body in ('triton', 'reference'):
            os.environ[native.VARIABLE] = body
            torch.manual_seed(0)
            results.append(case())
        errors[name] = max(map(difference, *results))
    print(json.dumps(errors))


if __name__ == '__main__':
    main()

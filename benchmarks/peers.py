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

"""The same operators of other packages: one way each, or the reason why it does not run here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType

import torch
from measure import Results, Skipped, Way
from torch import Tensor

from nemo_dreamfusion.ops.hash_grid import GridLayout
from nemo_dreamfusion.parts.types import Samples


def _with_package(
    name: str, module: str, device: torch.device, make: Callable[[ModuleType], Way], *, needs_cuda: bool = True
) -> Way | Skipped:
    """Return the way that ``make`` builds with the imported package, tried once, or the reason why there is none."""
    try:
        package = importlib.import_module(module)
    except Exception as error:  # a compiled package without its GPU, driver or matching torch raises anything at all
        return Skipped(name, f'import {module}: {_first_line(error)}')
    if needs_cuda and device.type != 'cuda':
        return Skipped(name, 'its functions for this are CUDA kernels, and this device is none')
    try:
        way = make(package)
        way.run()
    except Exception as error:  # another release than the one these lines were written for
        return Skipped(name, f'does not run here: {_first_line(error)}')
    return way


def _first_line(error: Exception) -> str:
    return f'{type(error).__name__}: {(str(error).strip() or "no message").splitlines()[0]}'


def tinycudann_grid(layout: GridLayout, positions: Tensor, grad: Tensor) -> Way | Skipped:
    """Encode with tiny-cuda-nn: its table has its own numbers, so only its time is compared."""
    options = {
        'otype': 'HashGrid',
        'n_levels': layout.levels,
        'n_features_per_level': layout.features,
        'log2_hashmap_size': 19,
        'base_resolution': layout.resolutions[0],
        'per_level_scale': (layout.resolutions[-1] / layout.resolutions[0]) ** (1 / (layout.levels - 1)),
        'interpolation': 'Smoothstep',
    }

    def make(tinycudann: ModuleType) -> Way:
        encoding = tinycudann.Encoding(3, options, dtype=torch.float32)

        def run() -> Results:
            encoding.params.grad = None
            encoding(positions).backward(grad)
            return {}

        return Way('tiny-cuda-nn', run, compared=False)

    return _with_package('tiny-cuda-nn', 'tinycudann', positions.device, make)


def nerfacc_march(origins: Tensor, directions: Tensor, occupancy: Tensor, step_size: float) -> Way | Skipped:
    """March with NerfAcc: its steps begin at the cells of the grid, so its samples differ and only its time is compared."""

    def make(nerfacc: ModuleType) -> Way:
        estimator = nerfacc.OccGridEstimator(roi_aabb=[-1.0] * 3 + [1.0] * 3, resolution=len(occupancy), levels=1)
        estimator = estimator.to(origins.device)
        estimator.binaries.copy_(occupancy[None])

        def run() -> Results:
            estimator.sampling(origins, directions, render_step_size=step_size, early_stop_eps=0.0)
            return {}

        return Way('nerfacc', run, compared=False)

    return _with_package('nerfacc', 'nerfacc', origins.device, make)


def nerfacc_composite(density: Tensor, colour: Tensor, samples: Samples, grad: Tensor) -> Way | Skipped:
    """Composite with NerfAcc: on CUDA its packed kernels, on the CPU, where they do not run, torch functions of rows [R, S].

    The rows are laid out before the time is taken.
    """
    packed, n_rays = density.is_cuda, len(grad)
    columns = torch.arange(len(density), device=density.device) - samples.offsets[samples.ray_indices]
    shape = (n_rays, int(columns.max()) + 1)

    def lay_out(values: Tensor) -> Tensor:
        values = values.detach()
        if not packed:
            values = values.new_zeros(*shape, *values.shape[1:]).index_put((samples.ray_indices, columns), values)
        return values.clone()

    def unpack(results: Results) -> Results:
        if packed:
            return results
        at_samples = {name: t[samples.ray_indices, columns] for name, t in results.items() if name != 'image'}
        return {'image': results['image']} | at_samples

    def make(nerfacc: ModuleType) -> Way:
        starts, ends = lay_out(samples.starts), lay_out(samples.ends)
        given = lay_out(density).requires_grad_(), lay_out(colour).requires_grad_()
        rays = {'ray_indices': samples.ray_indices, 'n_rays': n_rays} if packed else {}

        def run() -> Results:
            weights = nerfacc.render_weight_from_density(starts, ends, given[0], **rays)[0]
            image = nerfacc.accumulate_along_rays(weights, given[1], **rays)
            to_density, to_colour = torch.autograd.grad(image, given, grad)
            return {'image': image, 'gradient of density': to_density, 'gradient of colour': to_colour}

        return Way('nerfacc', run, unpack=unpack)

    return _with_package('nerfacc', 'nerfacc', density.device, make, needs_cuda=False)


def torch_ngp_march(origins: Tensor, directions: Tensor, occupancy: Tensor, max_steps: int) -> Way | Skipped:
    """March with torch-ngp: its samples begin elsewhere in a step, so only its time is compared."""

    def make(raymarching: ModuleType) -> Way:
        size = len(occupancy)
        cells = torch.cartesian_prod(*[torch.arange(size, device=origins.device)] * 3)
        grid = torch.zeros(1, size**3, device=origins.device)
        grid[0, raymarching.morton3D(cells).long()] = occupancy.flatten().float()
        bits = raymarching.packbits(grid, 0.5)
        box = torch.tensor([-1.0] * 3 + [1.0] * 3, device=origins.device)

        def run() -> Results:
            near, far = raymarching.near_far_from_aabb(origins, directions, box, 0.0)
            # by position, as torch.autograd.Function.apply wants: ... counter, mean_count, perturb, align, all rays, ...
            options = (None, -1, False, -1, True, 0, max_steps)
            raymarching.march_rays_train(origins, directions, 1.0, bits, 1, size, near, far, *options)
            return {}

        return Way('torch-ngp', run, compared=False)

    return _with_package('torch-ngp', 'raymarching', origins.device, make)


def torch_ngp_composite(density: Tensor, colour: Tensor, samples: Samples, grad: Tensor) -> Way | Skipped:
    """Composite with torch-ngp: it ends a ray where little light is left, so only its time is compared."""

    def make(raymarching: ModuleType) -> Way:
        lengths = samples.ends - samples.starts
        deltas = torch.stack([lengths, lengths], dim=1)
        numbers, first = torch.arange(len(grad), device=grad.device), samples.offsets[:-1]
        rays = torch.stack([numbers, first, samples.offsets[1:] - first], dim=1).int()
        given = density.detach().clone().requires_grad_(), colour.detach().clone().requires_grad_()

        def run() -> Results:
            image = raymarching.composite_rays_train(*given, deltas, rays)[-1]
            torch.autograd.grad(image, given, grad)
            return {}

        return Way('torch-ngp', run, compared=False)

    return _with_package('torch-ngp', 'raymarching', density.device, make)

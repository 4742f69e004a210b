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

"""Drawing a triangle mesh with its gradient: ours against the torch reference and nvdiffrast where it is installed."""

from __future__ import annotations

import math
from functools import partial

import torch
from measure import Case, Results, Skipped, Way
from torch import Tensor

from nemo_dreamfusion.ops.rasterisers import make_rasteriser
from nemo_dreamfusion.parts.optional import MissingPackageError


def _ball(n_faces: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a ball of about ``n_faces`` triangles before a camera, in clip space [V, 4], and its faces."""
    rings = round(math.sqrt(n_faces / 4))
    polar = torch.linspace(0, math.pi, rings + 1)[:, None]
    around = torch.arange(2 * rings) * (math.pi / rings)
    x, y, z = polar.sin() * around.sin(), polar.cos().expand(-1, 2 * rings), polar.sin() * around.cos()
    points = torch.stack([x, y, z], -1).view(-1, 3)
    index = torch.arange(len(points)).view(rings + 1, -1)
    a, b, c, d = index[:-1], index[1:], index[1:].roll(-1, 1), index[:-1].roll(-1, 1)
    faces = torch.cat([torch.stack(one, -1).view(-1, 3) for one in ((a, b, c), (a, c, d))])
    depth = 3.75 - points[:, 2]
    near, far = 2.0, 6.0
    z = (depth * (far + near) - 2 * far * near) / (far - near)
    clip = torch.stack([2.4 * points[:, 0], 2.4 * points[:, 1], z, depth], -1)
    return clip.to(device), faces.to(device)


def draw(n_faces: int, side: int, device: torch.device) -> Case:
    """Time one view with positions, normals and coverage: visibility, interpolation, silhouettes, and the way back."""
    clip, faces = _ball(n_faces, device)
    clip.requires_grad_()
    attributes = torch.randn(len(clip), 6, device=device)
    grad = torch.randn(1, side, side, 7, device=device)

    def way(name: str) -> Results:
        tools = make_rasteriser(name)
        raster = tools.rasterise(clip, faces, side, side, cull_back_faces=True)
        values = tools.interpolate(attributes, faces, raster)
        seen = (raster.face_ids >= 0).float()[..., None]
        image = tools.antialias(torch.cat([values, seen], -1), raster, clip, faces)
        (slope,) = torch.autograd.grad(image, clip, grad)
        return {'image': image, 'gradient of the vertices': slope}

    ours = Way('ours', partial(way, 'own'))
    others: list[Way | Skipped] = [Way('torch reference', partial(way, 'own'), 'reference')]
    try:
        make_rasteriser('nvdiffrast')
        others.append(Way('nvdiffrast', partial(way, 'nvdiffrast'), compared=False))
    except MissingPackageError as error:
        others.append(Skipped('nvdiffrast', str(error).partition(',')[0]))
    return Case(
        f'draw_mesh_{n_faces // 1000}k_{side}', f'{len(faces)} triangles, {side} x {side}', ours, tuple(others)
    )


CASES = {'draw_mesh_20k_256': partial(draw, 20_000, 256), 'draw_mesh_100k_512': partial(draw, 100_000, 512)}

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

"""Triangles before cameras: where their vertices are in the picture, and which way they face."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_dreamfusion.parts.types import CameraBatch, TriangleMesh

NEAREST = 0.01  # of the near plane, in half sides of the box


def to_clip(vertices: Tensor, cameras: CameraBatch, bound: float) -> Tensor:
    """Project vertices [V, 3] by B cameras to clip space [B, V, 4]; the whole box lies between the near and far planes.

    Sums of products and no matrix product: autocast and TF32 would round it, and move vertices by pixels.
    """
    pose = cameras.camera_to_world
    local = ((vertices.float() - pose[:, None, :3, 3])[..., None] * pose[:, None, :3, :3]).sum(-2)
    x, y, back = local.unbind(-1)
    focal = 1 / torch.tan(cameras.fov_y_rad / 2)[:, None]
    reach = pose[:, :3, 3].norm(dim=1)[:, None]
    near = (reach - math.sqrt(3) * bound).clamp(min=NEAREST * bound)
    far = reach + math.sqrt(3) * bound
    z = ((far + near) * -back - 2 * far * near) / (far - near)
    return torch.stack([focal * x * cameras.height / cameras.width, focal * y, z, -back], -1)


def vertex_normals(mesh: TriangleMesh) -> Tensor:
    """Return unit normals [V, 3] of the vertices: means over their faces by area; zero where they cancel out."""
    a, b, c = (mesh.vertices.index_select(0, corner) for corner in mesh.faces.T)
    across = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(mesh.vertices).index_add(0, mesh.faces.T.flatten(), across.repeat(3, 1))
    return F.normalize(total, dim=1, eps=1e-20)

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

"""Paint a texture: the field's albedo at the point of the surface that each texel shows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nemo_dreamfusion.export.raster import cover
from nemo_dreamfusion.export.stills import to_uint8

_BATCH = 1 << 18  # points per call of the field


def bake(
    vertices: np.ndarray,
    faces: np.ndarray,
    uv: np.ndarray,
    size: int,
    color_fn: Callable[[np.ndarray], np.ndarray],  # [N, 3] -> [N, 3] in [0, 1]
) -> np.ndarray:
    """Return the texture [size, size, 3] uint8; texels that show no surface take the colour of the nearest that does.

    Args:
        vertices: [V, 3].
        faces: [F, 3].
        uv: [V, 2] in [0, 1], v from the top row down.
        size: texels of a side.
        color_fn: display values at points of the surface.
    """
    texel, positions = texel_positions(vertices, faces, uv, size)
    texture = np.zeros((size * size, 3), np.uint8)
    texture[texel] = to_uint8(color_fn(positions))
    covered = np.zeros(size * size, bool)
    covered[texel] = True
    return fill_gutters(texture.reshape(size, size, 3), covered.reshape(size, size))


def texel_positions(
    vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the texels [N], flat, whose centres lie on a triangle, and their points of the surface [N, 3] float32."""
    column, row = np.round(uv.astype(np.float64) * size, 3).T  # float32 would move corners off the centres of texels
    texels, points = [np.zeros(0, np.int64)], [np.zeros((0, 3), np.float32)]
    for texel, face, share in cover(column, row, faces, size, size):
        texels.append(texel)
        points.append((share[..., None] * vertices[faces[face]]).sum(1).astype(np.float32))
    texel, first = np.unique(np.concatenate(texels), return_index=True)  # one that lies on an edge has two triangles
    return texel, np.concatenate(points)[first]


def fill_gutters(texture: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Give each texel of [T, T, C] that is not covered [T, T] the colour of the nearest one that is.

    The whole texture is filled, so that its smaller copies (mip-maps) do not take on a colour of nothing.
    """
    from scipy.ndimage import distance_transform_edt

    if not covered.any():
        return texture
    nearest = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    return texture[nearest[0], nearest[1]]


def albedo_of(
    field: Callable[[Tensor], Tensor], bound: float, device: torch.device, batch: int = _BATCH
) -> Callable[[np.ndarray], np.ndarray]:
    """Turn a field's albedo, [N, 3] tensors to [N, 3], into a function of arrays that takes any number of points.

    Raises (the function):
        ValueError: for colours that are not finite numbers.
    """

    @torch.no_grad()
    def look_up(positions: np.ndarray) -> np.ndarray:
        inside = torch.from_numpy(np.ascontiguousarray(positions, np.float32)).clamp(-bound, bound)
        parts = [field(part.to(device)).float().cpu() for part in inside.split(batch)]
        colors = torch.cat(parts).numpy() if parts else np.zeros((0, 3), np.float32)
        broken = int((~np.isfinite(colors)).any(-1).sum())
        if broken:
            raise ValueError(
                f'the field is broken: {broken} of {len(colors)} colours on its surface are not finite numbers. '
                'Take an earlier checkpoint, or train again with a lower model.optim.lr.'
            )
        return colors.clip(0, 1)

    return look_up

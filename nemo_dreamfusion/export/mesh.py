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

"""Extract a triangle mesh from a field: marching cubes at a threshold that the field's own silhouettes choose.

World axes and units all along: a vertex of the mesh stands where the field is, y up, the front at +z, as glTF has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from nemo_dreamfusion.export.bake import albedo_of
from nemo_dreamfusion.export.mesh_files import Mesh
from nemo_dreamfusion.modules.nerf.base import RadianceField
from nemo_dreamfusion.parts.checks import check_positive, check_range, refuse

_DECADES = 2.0  # densities are cut to so many powers of ten around the threshold before they are interpolated
_PORE = 2  # grid corners; what a ball of this radius cannot enter from outside is filled
_BLUR = 0.024  # of half the box, as wide as a trained field's noise: standard deviation of the blur in :func:`_smooth`
_BLURRED = (0.85, 1.5)  # grid corners: the least and the most of it, for coarse and for fine grids


class HasField(Protocol):
    """A model with a radiance field, such as ``DreamFusion``."""

    @property
    def nerf(self) -> RadianceField:
        """Return the field."""


@torch.no_grad()
def extract_mesh(
    density_fn: Callable[[Tensor], Tensor],  # [N, 3] -> [N]
    color_fn: Callable[[Tensor], Tensor],  # [N, 3] -> [N, 3] in [0, 1]
    *,
    bound: float,
    resolution: int = 128,
    threshold: float | str = 'auto',
    device: torch.device | str = 'cpu',
    batch: int = 1 << 18,
    min_share: float = 0.02,
) -> Mesh:
    """Extract the surface where the density crosses ``threshold``, with its colours; see :func:`extract_triangles`.

    Args:
        density_fn: density per world unit.
        color_fn: albedo.
        bound: half the side of the box, world units.
        resolution: grid corners along a side.
        threshold: a density, or ``auto``: see :func:`auto_threshold`.
        device: where the functions are evaluated.
        batch: points per call.
        min_share: parts of the surface with less than this share of the largest part's area are left out.

    Raises:
        ValueError: for an empty or broken field, or a threshold that it does not reach.
    """
    vertices, faces = extract_triangles(
        density_fn,
        bound=bound,
        resolution=resolution,
        threshold=threshold,
        device=device,
        batch=batch,
        min_share=min_share,
    )
    colors = albedo_of(color_fn, vertices, bound=bound, device=device, batch=batch)
    return Mesh(vertices=vertices, faces=faces, vertex_colors=colors)


@torch.no_grad()
def extract_triangles(
    density_fn: Callable[[Tensor], Tensor],  # [N, 3] -> [N]
    *,
    bound: float,
    resolution: int = 128,
    threshold: float | str = 'auto',
    device: torch.device | str = 'cpu',
    batch: int = 1 << 18,
    min_share: float = 0.02,
) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices [V, 3] and faces [F, 3] of the surface where the density crosses ``threshold``.

    It is closed where it meets the box. Arguments and errors are those of :func:`extract_mesh`, which adds colours.
    """
    check_positive('bound', bound)
    check_range('resolution', resolution, 4, 2048, integer=True)
    check_positive('batch', batch, integer=True)
    check_range('min_share', min_share, 0, 1)
    density = sample_grid(density_fn, bound=bound, resolution=resolution, device=device, batch=batch)
    level = _choose_level(density, threshold, 2 * bound / (resolution - 1))
    vertices, faces = _march(density, level, bound)
    return _remove_floaters(vertices, faces, min_share)


@torch.no_grad()
def sample_grid(
    density_fn: Callable[[Tensor], Tensor], *, bound: float, resolution: int, device: torch.device | str, batch: int
) -> np.ndarray:
    """Evaluate the density at the corners of a grid over the box, both faces included: [G, G, G], indexed [x, y, z].

    Args:
        density_fn: [N, 3] -> [N], per world unit.
        bound: half the side of the box, world units.
        resolution: grid corners along a side, G.
        device: where the function is evaluated.
        batch: points per call.

    Raises:
        ValueError: for densities that are not finite.
    """
    ticks = torch.linspace(-bound, bound, resolution, device=device)
    values = []
    for index in torch.arange(resolution**3, device=device).split(batch):
        x, y, z = index // resolution**2, index // resolution % resolution, index % resolution
        values.append(density_fn(torch.stack([ticks[x], ticks[y], ticks[z]], -1)).float().cpu())
    density = torch.cat(values).view(resolution, resolution, resolution).numpy()
    broken = int((~np.isfinite(density)).sum())
    if broken:
        raise ValueError(
            f'the field is broken: {broken} of {density.size} densities are not finite numbers. '
            'Take an earlier checkpoint, or train again with a lower model.optim.lr.'
        )
    return density


def auto_threshold(density: np.ndarray, spacing: float, candidates: int = 96) -> float:
    """Return the density whose surface casts the silhouettes that the volume itself casts.

    Along each axis a pixel of the volume is solid where the opacity 1 - exp(-sum of density * spacing) is above one
    half; the threshold is the one whose solid voxels cover the same pixels best (intersection over union), so mesh and
    render agree whatever the field's activation and scale are. Among equals it is the geometric middle.

    Args:
        density: [G, G, G] per world unit.
        spacing: world units between corners.
        candidates: thresholds tried.

    Raises:
        ValueError: if nothing in the field is solid.
    """
    solid = np.stack([1 - np.exp(-density.sum(axis) * spacing) > 0.5 for axis in range(3)])
    if not solid.any():
        raise ValueError(
            f'the field is empty: its largest density is {density.max():.3g}, and no line of sight through it is more '
            'than half opaque, so there is no surface. Train longer, lower model.loss.lambda_opacity or raise '
            'model.nerf.blob_density; or give a threshold below that density to see what is there.'
        )
    peak = np.stack([density.max(axis) for axis in range(3)])
    lowest = max(float(peak[solid].min()) * 1e-2, float(peak.max()) * 1e-6)
    tried = np.geomspace(lowest, float(peak.max()), candidates + 1)[:-1]
    agreement = np.array([((peak > t) & solid).sum() / ((peak > t) | solid).sum() for t in tried])
    best = tried[agreement >= agreement.max() - 1e-9]
    return float(np.sqrt(best[0] * best[-1]))


def _choose_level(density: np.ndarray, threshold: float | str, spacing: float) -> float:
    if isinstance(threshold, str):
        if threshold != 'auto':
            refuse('threshold', threshold, "'auto' or a density")
        return auto_threshold(density, spacing)
    check_positive('threshold', threshold)
    if threshold >= density.max():
        raise ValueError(
            f'threshold = {threshold:g} leaves nothing: the largest density of the field is {density.max():.3g}. '
            "Give a smaller one, or threshold='auto'."
        )
    return float(threshold)


def _march(density: np.ndarray, level: float, bound: float) -> tuple[np.ndarray, np.ndarray]:
    """Run marching cubes on the logarithm of the density, which an exponential field makes almost linear, smoothed.

    Training leaves the inside of an object porous, where no camera looks. It is filled first, or most triangles would lie
    there.
    """
    relative = np.log(np.clip(density / level, 10**-_DECADES, 10**_DECADES))
    solid = relative > 0
    relative[_find_hidden(solid) & ~solid] = _DECADES * np.log(10)
    relative = _smooth(relative)
    closed = np.pad(relative, 1, constant_values=-_DECADES * np.log(10))  # a surface also where the object is cut
    return march(closed, bound + 2 * bound / (len(density) - 1))


def march(values: np.ndarray, bound: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the surface where values [G, G, G] over [-bound, bound]^3 are zero: vertices [V, 3], faces [F, 3].

    Marching cubes: Lewiner et al., 2003, as in scikit-image. The inside is where the values are above zero.
    """
    from skimage.measure import marching_cubes

    vertices, faces, _, _ = marching_cubes(values, 0.0, gradient_direction='ascent', allow_degenerate=False)
    return (vertices * (2 * bound / (len(values) - 1)) - bound).astype(np.float32), faces.astype(np.int64)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Blur, and add back the blurred difference once: noise goes, curved surfaces stay where they are.

    A wave of gain g under the blur keeps 2 g - g^2 of its height (twicing: Tukey, Exploratory Data Analysis, 1977).
    """
    from scipy.ndimage import gaussian_filter

    deviation = float(np.clip(_BLUR * (len(values) - 1) / 2, *_BLURRED))
    blurred = gaussian_filter(values, deviation, mode='nearest')
    return blurred + gaussian_filter(values - blurred, deviation, mode='nearest')


def _find_hidden(solid: np.ndarray) -> np.ndarray:
    """Tell which corners nothing reaches from outside through openings of ``2 * _PORE`` corners: bool [G, G, G].

    Corners that near the surface are left out.
    """
    from scipy.ndimage import binary_dilation, binary_erosion, binary_fill_holes
    from skimage.morphology import ball

    around = np.pad(solid, 2 * _PORE)
    filled = binary_fill_holes(binary_erosion(binary_dilation(around, ball(_PORE)), ball(_PORE)))
    inner = slice(2 * _PORE, -2 * _PORE)
    return binary_erosion(filled, ball(_PORE))[inner, inner, inner]


def _remove_floaters(vertices: np.ndarray, faces: np.ndarray, min_share: float) -> tuple[np.ndarray, np.ndarray]:
    """Remove small parts, and the walls of cavities, which nobody sees."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = np.concatenate([faces[:, :2], faces[:, 1:]])
    graph = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(len(vertices),) * 2)
    parts, part_of_vertex = connected_components(graph, directed=False)
    part_of_face = part_of_vertex[faces[:, 0]]
    a, b, c = vertices[faces].astype(np.float64).transpose(1, 0, 2)
    across = np.cross(b - a, c - a)
    area = np.bincount(part_of_face, np.linalg.norm(across, axis=-1) / 2, parts)
    volume = np.bincount(part_of_face, (a * across).sum(-1) / 6, parts)  # negative where the walls face inward
    outer = np.where(volume > 0, area, 0)
    kept = (outer > 0) & (outer >= min_share * outer.max())
    faces = faces[kept[part_of_face]]
    used, renumbered = np.unique(faces, return_inverse=True)
    return vertices[used], renumbered.reshape(-1, 3)

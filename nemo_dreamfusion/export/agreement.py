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

"""How well a mesh shows what the field shows: silhouettes and colours from the same cameras."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nemo_dreamfusion.data.samplers import OrbitCameras
from nemo_dreamfusion.export.mesh_files import Mesh
from nemo_dreamfusion.export.raster import rasterize
from nemo_dreamfusion.parts.images import compute_psnr, compute_silhouette_iou
from nemo_dreamfusion.parts.types import CameraBatch, RenderOutput

GOOD_IOU = 0.9  # below: the mesh is not what the pictures show
VIEWS, VIEW_SIZE = 8, 128  # pixels of a side


class RendersViews(Protocol):
    """A model that shows its field from given cameras, such as ``DreamFusion``."""

    def render_cameras(self, cameras: CameraBatch) -> RenderOutput:
        """Render B views, without a gradient."""


@dataclass(frozen=True)
class Agreement:
    """Of a mesh and the field that it comes from, over the views."""

    iou: float  # of the silhouettes, mean over the views: pixels that are more than half opaque
    psnr: float | None  # dB, of the colours of all pixels where both are opaque; None where they never are

    def warning(self) -> str | None:
        """Say what is wrong and what to do; None where the mesh is good."""
        if self.iou >= GOOD_IOU:
            return None
        return (
            f'The mesh covers what the renders show by {self.iou:.2f} only (intersection over union; at least '
            f'{GOOD_IOU} is good): the object is foggy or has thin parts. Train longer, raise model.loss.lambda_entropy '
            'for a harder surface, or set mesh_resolution and mesh_faces higher.'
        )


def orbit_around(bound: float) -> OrbitCameras:
    """Return cameras that see the ball in a box of half side ``bound``: as those that the shipped test set has."""
    return OrbitCameras(
        views=VIEWS, elevation_deg=15.0, distance=3.7 * bound, fov_deg=36.0, height=VIEW_SIZE, width=VIEW_SIZE
    )


def measure_agreement(model: RendersViews, mesh: Mesh, orbit: OrbitCameras) -> Agreement:
    """Compare the mesh with the field's own renders.

    Args:
        model: whose field the mesh comes from.
        mesh: with colours or a texture.
        orbit: the views.
    """
    ious, seen, drawn = [], [], []
    for i in range(len(orbit)):
        render = model.render_cameras(orbit[i])
        image, opacity = rasterize(mesh, orbit[i], samples=1)  # at the centres of pixels, as the rays of the field
        field, solid = _host(render.opacity)[..., 0], opacity[..., 0]
        ious.append(compute_silhouette_iou(field, solid))
        both = (field > 0.95) & (solid == 1)
        seen.append(_host(render.image)[both])
        drawn.append(image[both])
    colors, others = torch.cat(seen), torch.cat(drawn)
    psnr = round(compute_psnr(colors, others), 2) if len(colors) else None
    return Agreement(round(sum(ious) / len(ious), 4), psnr)


def _host(values: Tensor) -> Tensor:
    return values.detach().float().cpu()

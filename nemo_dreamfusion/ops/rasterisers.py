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
"""Who draws a mesh: our own three functions, or nvdiffrast's behind the same names (the one file that imports it)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_dreamfusion.ops.antialias import antialias
from nemo_dreamfusion.ops.rasterise import as_batch, interpolate, rasterise
from nemo_dreamfusion.parts.checks import check_choice
from nemo_dreamfusion.parts.optional import require
from nemo_dreamfusion.parts.types import RasterOutput

RASTERISERS = ('own', 'nvdiffrast')


@dataclass(frozen=True)
class Rasteriser:
    """The three functions that draw a mesh, as ``ops.rasterise`` and ``ops.antialias`` define them."""

    rasterise: Callable[..., RasterOutput]
    interpolate: Callable[[Tensor, Tensor, RasterOutput], Tensor]
    antialias: Callable[[Tensor, RasterOutput, Tensor, Tensor], Tensor]


def make_rasteriser(name: str) -> Rasteriser:
    """Return the functions of ``own`` or ``nvdiffrast``.

    Raises:
        ValueError: for another name.
        MissingPackageError: where nvdiffrast is asked for and is not installed.
    """
    check_choice('model.renderer.rasteriser', name, RASTERISERS)
    if name == 'own':
        return Rasteriser(rasterise, interpolate, antialias)
    return _Nvdiffrast().functions()


class _Nvdiffrast:
    """nvdiffrast's public functions (https://nvlabs.github.io/nvdiffrast), with rows turned: its images begin below.

    Its output tensor holds two barycentrics, z / w and the face's number plus one. It draws the backs of faces too, which
    the fronts of a closed mesh hide.
    """

    def __init__(self) -> None:
        self.module = require(
            'nvdiffrast.torch',
            extra=None,
            reason='model.renderer.rasteriser=nvdiffrast draws with it',
            instead='model.renderer.rasteriser=own',
            install='git+https://github.com/NVlabs/nvdiffrast',
        )
        self.context = None

    def functions(self) -> Rasteriser:
        return Rasteriser(self.rasterise, self.interpolate, self.antialias)

    def rasterise(
        self, positions_clip: Tensor, faces: Tensor, height: int, width: int, *, cull_back_faces: bool = False
    ) -> RasterOutput:
        positions = as_batch('positions_clip', positions_clip, 4)
        if self.context is None:
            self.context = self.module.RasterizeCudaContext(device=positions.device)
        out, _ = self.module.rasterize(self.context, positions.contiguous(), faces.int(), (height, width))
        u, v, depth, number = out.flip(1).unbind(-1)
        seen = number > 0
        weights = torch.stack([u, v, 1 - u - v], -1) * seen[..., None]
        depth = torch.where(seen, depth.detach(), torch.inf)
        return RasterOutput(number.long() - 1, weights, depth, cull_back_faces)

    def interpolate(self, attributes: Tensor, faces: Tensor, raster: RasterOutput) -> Tensor:
        values = as_batch('attributes', attributes)
        out, _ = self.module.interpolate(values.contiguous(), self._as_theirs(raster), faces.int())
        return out.flip(1)

    def antialias(self, image: Tensor, raster: RasterOutput, positions_clip: Tensor, faces: Tensor) -> Tensor:
        positions = as_batch('positions_clip', positions_clip, 4)
        given = image.flip(1).contiguous(), self._as_theirs(raster), positions.contiguous(), faces.int()
        return self.module.antialias(*given).flip(1)

    @staticmethod
    def _as_theirs(raster: RasterOutput) -> Tensor:
        number = (raster.face_ids + 1).to(raster.barycentrics)[..., None]
        depth = torch.where(raster.depth.isfinite(), raster.depth, 0)[..., None]
        return torch.cat([raster.barycentrics[..., :2], depth, number], -1).flip(1).contiguous()

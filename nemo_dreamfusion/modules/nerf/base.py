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


"""What every radiance field shares: density activation, the blob that an object grows from, normals; and every surface."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nemo_dreamfusion.modules.nerf.lattice import AnySize, interpolate_lattice, lattice_points
from nemo_dreamfusion.modules.nerf.signed_distance import signed_distance
from nemo_dreamfusion.parts.build import Configurable
from nemo_dreamfusion.parts.checks import check_choice, check_positive
from nemo_dreamfusion.parts.compilation import inductor_options
from nemo_dreamfusion.parts.types import FieldOutput, FileMesh, TriangleMesh

DENSITY_ACTIVATIONS = ('exp', 'softplus')
NORMAL_TYPES = (
    'autograd',
    'forward_finite_difference',
    'backward_finite_difference',
    'central_finite_difference',
)
FIRST_SHAPE = 64  # points along each axis of the lattice that holds a mesh to start from


class RadianceField(Configurable, AnySize):
    """A volume: density and albedo at every point of the box [-bound, bound]^3.

    ``density_activation`` maps the network's raw density d(x) plus the blob b(x), from which an object grows, to density:

    * ``exp``: exp(d + b) with b(x) = blob_density * exp(-|x|^2 / (2 blob_radius^2)) (DreamFusion, appendix A.2);
    * ``softplus``: softplus(d + b) with b(x) = blob_density * (1 - |x| / blob_radius) (Magic3D).

    A mesh may take the blob's place, see :meth:`start_from`. Subclasses implement :meth:`raw` and :meth:`parameter_groups`.

    Args:
        bound: half the side of the box, world units.
        density_activation: ``exp`` or ``softplus``.
        blob_density: height of the blob at the centre (before the activation).
        blob_radius: its width, world units.
        normal_type: ``autograd`` or one of the finite differences of ``NORMAL_TYPES``.
        normal_epsilon: step of the finite differences, world units.

    Raises:
        ValueError: for a value that is out of range or not among the choices.
    """

    ANY_SIZE = ('first_distance',)
    first_distance: Tensor | None  # [G, G, G, 1] to the mesh that the object starts from, negative inside; world units

    def __init__(
        self,
        *,
        bound: float = 1.0,
        density_activation: str = 'softplus',
        blob_density: float = 10.0,
        blob_radius: float = 0.5,
        normal_type: str = 'central_finite_difference',
        normal_epsilon: float = 0.01,
    ) -> None:
        super().__init__()
        check_positive('model.nerf.bound', bound)
        check_positive('model.nerf.blob_radius', blob_radius)
        check_positive('model.nerf.normal_epsilon', normal_epsilon)
        check_choice('model.nerf.density_activation', density_activation, DENSITY_ACTIVATIONS)
        check_choice('model.nerf.normal_type', normal_type, NORMAL_TYPES)
        self.bound = float(bound)
        self.density_activation = density_activation
        self.blob_density = float(blob_density)
        self.blob_radius = float(blob_radius)
        self.normal_type = normal_type
        self.normal_epsilon = float(normal_epsilon)
        self.register_buffer('first_distance', None)

    def raw(self, positions: Tensor, *, with_albedo: bool) -> tuple[Tensor, Tensor | None]:
        """Return the network's outputs before activations: raw density [N] and albedo [N, 3], None unless asked for."""
        raise NotImplementedError

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return all parameters, in the groups ``encoding`` (may take a larger learning rate) and ``network``."""
        raise NotImplementedError

    def networks(self) -> list[nn.Module]:
        """Return the networks of plain torch layers, which torch.compile can make faster."""
        return []

    def compile_networks(self, switch: bool | str | Callable) -> None:
        """Compile :meth:`networks` as model.compile says, for any number of positions; false compiles none."""
        if switch:
            for network in self.networks():
                network.compile(**inductor_options(switch), dynamic=True)

    def set_progress(self, step: int) -> None:
        """Tell the field which training step comes: coarse-to-fine fields open levels by it."""

    def blob(self, positions: Tensor) -> Tensor:
        """Return what is added to the raw density, so that a fresh field holds a soft ball, or a mesh: [N, 3] -> [N]."""
        if self.first_distance is not None:
            return self._blob_of_mesh(interpolate_lattice(self.first_distance, positions, self.bound)[:, 0])
        if self.density_activation == 'exp':
            squared = (positions * positions).sum(-1)
            return self.blob_density * torch.exp(-squared / (2 * self.blob_radius**2))
        return self.blob_density * (1 - positions.norm(dim=-1) / self.blob_radius)

    def _blob_of_mesh(self, distance: Tensor) -> Tensor:
        """Return ``blob_density`` within the mesh, less in a skin, and outside what the blob has so far from its ball."""
        skin = 2 * 2 * self.bound / FIRST_SHAPE
        inside = self.blob_density * (-distance / skin).clamp(max=1)
        if self.density_activation == 'exp':
            outside = self.blob_density * torch.exp(-distance.square() / (2 * self.blob_radius**2))
            return torch.where(distance < 0, self.blob_density, outside)
        return torch.where(distance < 0, inside, -self.blob_density * distance / self.blob_radius)

    def start_from(self, mesh: TriangleMesh) -> None:
        """Let a mesh take the blob's place: a fresh field then holds its shape.

        Raises:
            ValueError: for a mesh without a face, or with coordinates that are not finite.
        """
        points = lattice_points(FIRST_SHAPE, self.bound)
        distance = signed_distance(points, mesh, bound=self.bound, sheet=2 * 2 * self.bound / FIRST_SHAPE)
        device = next((p.device for p in self.parameters()), None)
        self.first_distance = distance.view(FIRST_SHAPE, FIRST_SHAPE, FIRST_SHAPE, 1).to(device)

    def activate_density(self, raw: Tensor, positions: Tensor) -> Tensor:
        """Return the density per world unit, in float32: raw density [N] at positions [N, 3] -> [N]."""
        total = raw.float() + self.blob(positions)
        if self.density_activation == 'exp':
            return _ClampedExp.apply(total)
        return F.softplus(total)

    def forward(self, positions: Tensor, *, with_albedo: bool = True) -> FieldOutput:
        """Return the density [N] and, where asked for, the albedo [N, 3] at positions [N, 3]."""
        raw_density, raw_albedo = self.raw(positions, with_albedo=with_albedo)
        albedo = None if raw_albedo is None else torch.sigmoid(raw_albedo.float())
        return FieldOutput(density=self.activate_density(raw_density, positions), albedo=albedo)

    def density(self, positions: Tensor) -> Tensor:
        """Return the density per world unit: [N, 3] -> [N]."""
        return self.forward(positions, with_albedo=False).density

    def normals(self, positions: Tensor) -> Tensor:
        """Return unit vectors against the density's gradient, blob included: [N, 3] -> [N, 3]; zero where it is flat."""
        gradient = (
            self._autograd_gradient(positions) if self.normal_type == 'autograd' else self._differences(positions)
        )
        return -F.normalize(gradient, dim=-1, eps=1e-10)

    def _autograd_gradient(self, positions: Tensor) -> Tensor:
        keep_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            points = positions if positions.requires_grad else positions.detach().requires_grad_(True)
            density = self.density(points)
            return torch.autograd.grad(density.sum(), points, create_graph=keep_graph)[0]

    def _differences(self, positions: Tensor) -> Tensor:
        """Return finite differences of the density along the axes, probes clamped to the box: [N, 3] -> [N, 3].

        The probes of a sample lie side by side, so that the table rows which they share are still in the cache.
        """
        step = self.normal_epsilon * torch.eye(3, device=positions.device, dtype=positions.dtype)
        here = positions[:, None, :].expand(-1, 3, -1)
        ahead = here if self.normal_type.startswith('backward') else here + step
        behind = here if self.normal_type.startswith('forward') else here - step
        if self.normal_type.startswith('central'):
            high, low = self._densities(torch.cat([ahead, behind], 1)).split(3, 1)
        elif self.normal_type.startswith('forward'):
            high, low = self._densities(torch.cat([ahead, here[:, :1]], 1)).split((3, 1), 1)
        else:
            high, low = self._densities(torch.cat([here[:, :1], behind], 1)).split((1, 3), 1)
        distance = (ahead.clamp(-self.bound, self.bound) - behind.clamp(-self.bound, self.bound)).diagonal(
            dim1=1, dim2=2
        )
        return (high - low) / distance.clamp(min=1e-3 * self.normal_epsilon)

    def _densities(self, probes: Tensor) -> Tensor:
        """Return the density at K points of each sample, clamped to the box: [N, K, 3] -> [N, K]."""
        return self.density(probes.reshape(-1, 3).clamp(-self.bound, self.bound)).view(probes.shape[:2])


class Surface(Configurable, nn.Module):
    """A shape of triangles in the box [-bound, bound]^3, and what of it is learnt; a mesh renderer draws it.

    Attributes:
        bound: half the side of the box, world units.
        closed: whether no camera outside can see a face from its back.
        keeps_triangles: whether it draws the triangles that it starts from, moved or not, rather than others near them.
        keeps_shape: whether they stay where they are.
    """

    bound: float
    closed: bool
    keeps_triangles: bool = False
    keeps_shape: bool = False

    def forward(self) -> TriangleMesh:
        """Return the surface, differentiable with respect to what is learnt of it."""
        raise NotImplementedError

    def keep_shape(self) -> None:
        """Learn nothing of the shape."""
        raise NotImplementedError

    def as_in_file(self) -> FileMesh | None:
        """Return the triangles as they are now in the file that they came from; None where there is none."""
        return None

    def start_from(self, mesh: TriangleMesh, file: FileMesh | None = None) -> None:
        """Take a first shape.

        Args:
            mesh: in the box.
            file: the same triangles as in their file, which a surface that keeps its triangles keeps.

        Raises:
            ValueError: for a mesh that leaves nothing to draw.
        """
        raise NotImplementedError


class _ClampedExp(torch.autograd.Function):
    """exp whose argument is clamped in the backward pass, so that no single sample overflows a step's gradient.

    As trunc_exp in torch-ngp, https://github.com/ashawkey/torch-ngp.
    """

    LIMIT = 15.0

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.exp(x.clamp(max=math.log(torch.finfo(torch.float32).max) / 2))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * torch.exp(x.clamp(max=_ClampedExp.LIMIT))

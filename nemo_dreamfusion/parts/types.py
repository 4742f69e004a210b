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

"""The data that travels between the parts of the package, and the legend of shapes and units.

Letters in shapes: B images (cameras), H rows and W columns of an image, R = B * H * W rays (row-major over B, H, W),
N samples along all rays together (packed: the samples of one ray stand next to each other, rays in order), C channels,
V vertices and F faces of a triangle mesh.

Units and axes: world units, right-handed, y up, the object inside [-bound, bound]^3 with its front facing +z. A camera has
x right, y up and looks down its own -z. Angles say ``_deg`` or ``_rad``. Directions have unit length. Density is per
world unit of length. Images are linear RGB in [0, 1]; depth is the distance along the (unit) ray.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from nemo_dreamfusion.parts.views import View

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Shading = Literal['albedo', 'textureless', 'lambertian', 'phong', 'normal']
SHADINGS: tuple[str, ...] = ('albedo', 'textureless', 'lambertian', 'phong', 'normal')
SHADINGS_WITH_NORMALS: tuple[str, ...] = ('textureless', 'lambertian', 'phong', 'normal')


def _move(data: Any, device: torch.device | str) -> Any:
    """Copy a dataclass, with its fields that can move (tensors, dataclasses of tensors) on ``device``."""
    moved = {name: _move_field(value, device) for name, value in vars(data).items() if hasattr(value, 'to')}
    return replace(data, **moved)


def _move_field(value: Any, device: torch.device | str) -> Any:
    """Move a tensor or a dataclass to ``device``; from the host to a GPU through pinned memory, without waiting."""
    import torch  # only here: a command line that is refused imports none

    if isinstance(value, torch.Tensor) and not value.is_cuda and torch.device(device).type == 'cuda':
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)


@dataclass(frozen=True)
class CameraBatch:
    """B pinhole cameras that share one image size.

    Azimuth 0 stands on +z and looks at the front, positive toward +x; elevation 0 is the horizon, positive up.
    """

    camera_to_world: Tensor  # [B, 4, 4], rotation of determinant +1
    fov_y_rad: Tensor  # [B], full vertical angle of view
    azimuth_deg: Tensor  # [B], in [-180, 180)
    elevation_deg: Tensor  # [B], in [-90, 90]
    distance: Tensor  # [B], from the camera to the world's origin
    height: int
    width: int

    def __len__(self) -> int:
        return self.camera_to_world.shape[0]

    def to(self, device: torch.device | str) -> CameraBatch:
        """Return the cameras with their tensors on ``device``."""
        return _move(self, device)

    def __getitem__(self, index: slice) -> CameraBatch:
        """Return the cameras of a slice of B as a batch."""
        tensors = {k: v[index] for k, v in vars(self).items() if not isinstance(v, int)}
        return CameraBatch(**tensors, height=self.height, width=self.width)


@dataclass(frozen=True)
class RayBundle:
    """One ray per pixel, through pixel centres, in row-major order over (B, H, W)."""

    origins: Tensor  # [R, 3]
    directions: Tensor  # [R, 3], unit length
    image_shape: tuple[int, int, int]  # (B, H, W)
    cameras: CameraBatch | None = None  # that cast them; None for rays of another origin

    def __len__(self) -> int:
        return self.origins.shape[0]


@dataclass(frozen=True)
class TriangleMesh:
    """A surface of V vertices and F triangles."""

    vertices: Tensor  # [V, 3], world units
    faces: Tensor  # [F, 3] int64, counterclockwise seen from outside
    crossings: Tensor | None = None  # [K, 2] signed distances in cells at both ends of each grid edge that it cuts

    def to(self, device: torch.device | str) -> TriangleMesh:
        """Return the mesh on ``device``."""
        return _move(self, device)


@dataclass(frozen=True)
class FileMesh:
    """Triangles as a file has them, and where they stand in the world."""

    vertices: Tensor  # [V, 3] in the file's own units; doubled along the seams of its texture
    faces: Tensor  # [F, 3] int64, wound as in the file
    uv: Tensor  # [V, 2], v from the texture's top row down; [0, 2] of a file without
    placement: Tensor  # [3, 4]: world = placement[:, :3] vertex + placement[:, 3]


@dataclass(frozen=True)
class RasterOutput:
    """What a triangle mesh shows at the pixel centres of B images."""

    face_ids: Tensor  # [B, H, W] int64, the visible face; -1 where there is none
    barycentrics: Tensor  # [B, H, W, 3] weights of its corners, perspective-correct, sum 1; 0 where there is none
    depth: Tensor  # [B, H, W] z / w of the clip space, in [-1, 1], without a gradient; inf where there is none
    cull_back_faces: bool = False  # whether faces whose corners run clockwise in the image were left out


@dataclass(frozen=True)
class Light:
    """One distant light per image.

    ambient is the share of light that comes from everywhere: 1 gives flat albedo, 0 a light from one side only.
    """

    direction: Tensor  # [B, 3], unit length, from the object toward the light
    ambient: float = 1.0


@dataclass(frozen=True)
class FieldOutput:
    """A radiance field at N points."""

    density: Tensor  # [N], >= 0
    albedo: Tensor | None  # [N, 3] in [0, 1]; None where it was not asked for


@dataclass(frozen=True)
class Samples:
    """Packed samples along rays: those of ray r are offsets[r] : offsets[r + 1], near ones first, offsets[R] = N.

    The last samples of a ray may have length 0 (starts = ends): their weight is 1 - exp(-density * 0) = 0.
    """

    ray_indices: Tensor  # [N] int64, ascending
    starts: Tensor  # [N], distance along the ray where the interval begins
    ends: Tensor  # [N], where it ends
    offsets: Tensor  # [R + 1] int64
    with_hidden: bool = False  # whether some may lie behind spent light, and are still to be hidden

    def __len__(self) -> int:
        return self.starts.shape[0]

    @property
    def middles(self) -> Tensor:
        """Return the distances along the rays [N] at which the field is evaluated."""
        return (self.starts + self.ends) / 2


@dataclass(frozen=True)
class SampleTerms:
    """The per-sample quantities that regularisers read; samples of weight 0 are no part of the picture."""

    weights: Tensor  # [N], the share of its pixel that each sample gives
    positions: Tensor  # [N, 3]
    directions: Tensor  # [N, 3], unit, from the camera into the scene
    normals: Tensor | None  # [N, 3], unit, pointing out of the object; None where nobody asked for them
    normals_jittered: Tensor | None = None  # [N, 3], normals at slightly moved positions (3-D smoothness)

    def to(self, device: torch.device | str) -> SampleTerms:
        """Return the terms on ``device``."""
        return _move(self, device)


@dataclass(frozen=True)
class RenderOutput:
    """The output of a renderer. Every renderer fills every field; only what was not asked for is None."""

    image: Tensor  # [B, H, W, 3], composited over the background, in [0, 1]
    opacity: Tensor  # [B, H, W, 1] in [0, 1]
    depth: Tensor  # [B, H, W, 1], expected distance along the ray of what was hit (0 where nothing is)
    normals: Tensor | None  # [B, H, W, 3], weighted sum of unit normals (length <= opacity); None where not asked for
    samples: SampleTerms | None = None
    mesh: TriangleMesh | None = None  # what a mesh renderer drew; None of a volume
    depth_variance: Tensor | None = None  # [B, H, W, 1], variance of the depth along the ray; None where unread

    def to(self, device: torch.device | str) -> RenderOutput:
        """Return the render on ``device`` (Lightning moves predictions with it)."""
        return _move(self, device)


@dataclass(frozen=True)
class GuidanceOutput:
    """One evaluation of the guidance."""

    loss: Tensor  # scalar; its gradient with respect to the latents is the score's gradient / B
    timesteps: Tensor  # [B] int64, the diffusion times used
    gradient_norm: Tensor  # scalar, mean L2 norm per image of the score's gradient (detached)


VIEWS = ('front', 'side', 'back', 'overhead')


@dataclass(frozen=True)
class PromptSet:
    """The texts of one object, by view: those of the table ``views`` or, where it is empty, NeMo's four.

    Of the four, a text left None is ``prompt`` with the view's text of ``added`` behind it.
    """

    prompt: str
    negative: str = ''
    front: str | None = None
    side: str | None = None
    back: str | None = None
    overhead: str | None = None
    added: tuple[str, str, str, str] = (', front view', ', side view', ', back view', ', overhead view')
    views: tuple[View, ...] = ()
    source: str = ''  # what the object is before an edit; empty where there is none

    def before(self) -> PromptSet:
        """Return the texts of the object before the edit: of each view the same words behind another prompt."""
        views = tuple(replace(view, prompt=None) for view in self.views)
        return PromptSet(self.source, negative=self.negative, added=self.added, views=views)

    def written(self) -> dict[str, str | None]:
        """Return the whole texts that the user wrote, by view; None for the others."""
        return {view: getattr(self, view) for view in VIEWS}

    def by_view(self) -> dict[str, str]:
        """Return the full text of each view, in the table's order: {'front': ..., 'side': ..., ...}."""
        if self.views:
            return {view.name: view.prompt or self.prompt + view.text for view in self.views}
        made = dict(zip(VIEWS, (self.prompt + added for added in self.added), strict=True))
        return {view: text or made[view] for view, text in self.written().items()}


@dataclass(frozen=True)
class StepPlan:
    """The schedules at one training step."""

    phase: Literal['latent', 'albedo', 'shaded']
    shading: Shading
    ambient: float
    height: int
    width: int

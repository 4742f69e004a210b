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

"""Twenty edits of the pocket world, and the true scenes before and after each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from nemo_dreamfusion.pocket.metrics import FOV_Y_DEG, build_cameras
from nemo_dreamfusion.pocket.metrics.colors import FILLED
from nemo_dreamfusion.pocket.world.prompts import build_scene
from nemo_dreamfusion.pocket.world.render import Render, render
from nemo_dreamfusion.pocket.world.sdf import Primitive, Scene

SHAPE, COLOR = 'model.edit.keep_shape=true', 'model.edit.keep_color=true'
TOP, BOTTOM = 'model.edit.change_box=[-1,0.08,-1,1,1,1]', 'model.edit.change_box=[-1,-1,-1,1,0.08,1]'
STACK, SIDE = 'a red cube on top of a green cylinder', 'a yellow sphere next to a purple cone'


@dataclass(frozen=True)
class EditCase:
    """What an object is, what it shall be, and what is said beside the two sentences."""

    source: str
    target: str
    overrides: tuple[str, ...]

    @property
    def keeps_shape(self) -> bool:
        """Whether only colours change."""
        return SHAPE in self.overrides


EDITS = (
    EditCase(STACK, 'a blue cube on top of a green cylinder', (SHAPE,)),
    EditCase('a red cube', 'a blue cube', (SHAPE,)),
    EditCase('a house with a green roof', 'a house with a red roof', (SHAPE,)),
    EditCase(STACK, 'a red cone on top of a green cylinder', (COLOR, TOP)),
    EditCase('a blue car', 'a red car', (SHAPE,)),
    EditCase(STACK, 'a red cube on top of a yellow cylinder', (SHAPE,)),
    EditCase(STACK, 'a red pyramid on top of a green cylinder', (COLOR, TOP)),
    EditCase('a red cube', 'a yellow cube', (SHAPE,)),
    EditCase('a house with a green roof', 'a house with a blue roof', (SHAPE,)),
    EditCase(STACK, 'a purple cube on top of a green cylinder', (SHAPE,)),
    EditCase('a blue car', 'a green car', (SHAPE,)),
    EditCase(STACK, 'a red sphere on top of a green cylinder', (COLOR, TOP)),
    EditCase(SIDE, 'a red sphere next to a purple cone', (SHAPE,)),
    EditCase(SIDE, 'a yellow sphere next to a green cone', (SHAPE,)),
    EditCase(STACK, 'a red cube on top of a green cone', (COLOR, BOTTOM)),
    EditCase('a brown chair', 'a white chair', (SHAPE,)),
    EditCase('a brown chair', 'a red chair', (SHAPE,)),
    EditCase('a green torus', 'an orange torus', (SHAPE,)),
    EditCase('a green torus', 'a purple torus', (SHAPE,)),
    EditCase(SIDE, 'a pink sphere next to a purple cone', (SHAPE,)),
)


@lru_cache(1)  # the pictures of one edit, by several rows
def render_true_scenes(case: EditCase, size: int) -> tuple[Render, Render, Tensor]:
    """Render the 16 views of the true scenes before and after, and say which pixels show what is new.

    What stays stands where it stood: the world centres its scenes, so that the lower thing sinks under another shape.

    Returns:
        Both scenes, albedo on white, and [16, size, size] bool.
    """
    before = build_scene(case.source)
    after = _stand_as(before, build_scene(case.target))
    old = {_looks(solid) for solid in before.primitives}
    new = [float(_looks(solid) not in old) for solid in after.primitives]
    marked = Scene([replace(solid, color=(one,) * 3) for solid, one in zip(after.primitives, new, strict=True)])
    with torch.no_grad():
        scenes = [_render(scene, size, 1.0) for scene in (before, after)]
        return scenes[0], scenes[1], _render(marked, size, 0.0).image[..., 0] > FILLED


def _render(scene: Scene, size: int, background: float) -> Render:
    behind = torch.full((3,), background)
    return render(scene, build_cameras(), size=size, fov_y_deg=FOV_Y_DEG, ambient=1.0, background=behind)


def _looks(solid: Primitive) -> tuple[object, ...]:
    """Return what makes a solid the same in two scenes, wherever it stands."""
    return solid.kind, solid.size, solid.color, solid.part


def _stand_as(before: Scene, after: Scene) -> Scene:
    """Move a scene so that the first solid that it shares with another stands where it stands there."""
    for solid in after.primitives:
        for other in before.primitives:
            if _looks(solid) == _looks(other):
                x, y, z = (b - a for a, b in zip(solid.center, other.center, strict=True))
                return Scene([primitive.translate((x, y, z)) for primitive in after.primitives])
    return after

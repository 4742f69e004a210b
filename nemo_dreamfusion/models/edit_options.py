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

"""The node ``model.edit``: what an object is before an edit, and which part of it may change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nemo_dreamfusion.modules.nerf.lattice import lattice_points
from nemo_dreamfusion.parts.build import read_options
from nemo_dreamfusion.parts.checks import check_range, refuse

_LATTICE = 48  # points along each axis at which a region is looked for
_BOX, _SPHERE = ('[x0,y0,z0,x1,y1,z1]', 6), ('[x,y,z,radius]', 4)
Region = Sequence[float]


@dataclass(frozen=True)
class EditOptions:
    """How a finished object is edited. Regions are in the object's coordinates: y up, the front at +z.

    Attributes:
        source_prompt: what the object is now; ``model.prompt`` is what it shall be. null: no edit.
        change_box: [x0, y0, z0, x1, y1, z1], two opposite corners of a box in which it may change.
        change_sphere: [x, y, z, radius], a ball in which it may change. Without either it may change anywhere.
        keep_box: a box in which it may not change.
        keep_sphere: a ball in which it may not change.
        keep_shape: only colours change.
        keep_color: only the shape changes; what is new has the colour that the field already has there.
        find_region: with ``keep_shape``, only those parts of the surface change, within what is said by regions, that the
            diffusion model sees differently under the new words.
        keep_weight: of the difference to the object as it was, where it may not change.
    """

    source_prompt: str | None = None
    change_box: Region | None = None
    change_sphere: Region | None = None
    keep_box: Region | None = None
    keep_sphere: Region | None = None
    keep_shape: bool = False
    keep_color: bool = False
    find_region: bool = True
    keep_weight: float = 5000.0

    def may_change(self, positions: Tensor) -> Tensor:
        """Return whether the object may change at positions: [N, 3] -> [N] bool."""
        everywhere = torch.ones_like(positions[:, 0], dtype=torch.bool)
        change = _inside(positions, self.change_box, self.change_sphere)
        keep = _inside(positions, self.keep_box, self.keep_sphere)
        return (everywhere if change is None else change) & ~(~everywhere if keep is None else keep)

    @property
    def keeps_something(self) -> bool:
        """Whether any part, or the shape, must stay."""
        regions = (self.change_box, self.change_sphere, self.keep_box, self.keep_sphere)
        return self.keep_shape or self.keep_color or any(region is not None for region in regions)

    @property
    def finds_region(self) -> bool:
        """Whether the parts that may change are still to be found: only of a change of colours is it known how."""
        return self.keep_shape and self.find_region


def _inside(positions: Tensor, box: Region | None, sphere: Region | None) -> Tensor | None:
    """Return which positions [N, 3] lie in either: [N] bool; None where there is neither."""
    found = None
    if box is not None:
        low, high = positions.new_tensor(box[:3]), positions.new_tensor(box[3:])
        found = ((positions >= low) & (positions <= high)).all(-1)
    if sphere is not None:
        ball = (positions - positions.new_tensor(sphere[:3])).square().sum(-1) <= sphere[3] ** 2
        found = ball if found is None else found | ball
    return found


def read_edit(options: Mapping[str, Any], bound: float, *, draws_mesh: bool = False) -> EditOptions | None:
    """Return how a ``model`` node edits; None where it does not.

    Args:
        options: the node, plain containers.
        bound: of its field.
        draws_mesh: whether triangles are drawn, whose colours alone can be edited.

    Raises:
        ValueError: for a source prompt that is empty or says what the prompt says, a region without a volume or outside of
            the scene, or regions that leave nothing to change.
    """
    edit = read_options('model.edit', EditOptions, options.get('edit'))
    check_range('model.edit.keep_weight', edit.keep_weight, 0)
    if edit.source_prompt is None:
        if edit.keeps_something:
            way_out = "Set model.edit.source_prompt='a red cube', as the object was made."
            refuse(
                'model.edit.source_prompt', None, 'what the object is now, beside other keys of model.edit', way_out
            )
        return None
    words = edit.source_prompt.lower().split()
    if not words:
        refuse('model.edit.source_prompt', edit.source_prompt, 'what the object is now', "Set it to 'a red cube'.")
    if words == str(options.get('prompt')).lower().split():
        way_out = "Set model.prompt to what it shall be: 'a blue cube'."
        refuse('model.edit.source_prompt', edit.source_prompt, 'other than model.prompt', way_out)
    if edit.keep_shape and edit.keep_color:
        refuse('model.edit.keep_color', True, 'false beside keep_shape=true: nothing could change', 'Leave one out.')
    for name in ('change_box', 'change_sphere', 'keep_box', 'keep_sphere'):
        if (region := getattr(edit, name)) is not None:
            _check_region(f'model.edit.{name}', region, bound, is_box=name.endswith('box'))
    if draws_mesh and not edit.keep_shape:
        way_out = 'Set model.edit.keep_shape=true, or edit the object before its mesh stage.'
        refuse('model.edit.keep_shape', False, 'true for a mesh, whose colours can be edited', way_out)
    if not edit.may_change(torch.cat([lattice_points(_LATTICE, bound), *_change_centers(edit, bound)])).any():
        way_out = 'Make what is kept smaller, or what may change larger.'
        refuse('model.edit', 'its regions', 'such that something may change', way_out)
    return edit


def _change_centers(edit: EditOptions, bound: float) -> list[Tensor]:
    """Return the centres [1, 3] of the regions that may change, within the scene: they may lie between all other points."""
    centers = []
    if edit.change_box is not None:
        low, high = torch.tensor(list(edit.change_box), dtype=torch.float32).view(2, 3).clamp(-bound, bound)
        centers.append((low + high)[None] / 2)
    if edit.change_sphere is not None:
        centers.append(torch.tensor([list(edit.change_sphere[:3])], dtype=torch.float32).clamp(-bound, bound))
    return centers


def _check_region(name: str, region: Region, bound: float, *, is_box: bool) -> None:
    form, length = _BOX if is_box else _SPHERE
    way_out = f'Write {name}={form}.'
    if len(region) != length:
        refuse(name, list(region), f'{length} numbers', way_out)
    for value in region:
        check_range(name, value, advice=way_out)
    low, high = (
        (region[:3], region[3:])
        if is_box
        else ([c - region[3] for c in region[:3]], [c + region[3] for c in region[:3]])
    )
    if any(a >= b for a, b in zip(low, high, strict=True)):
        allowed = 'a box whose first corner is the lower one on each axis' if is_box else 'a ball of a radius above 0'
        refuse(name, list(region), allowed, way_out)
    outside = any(a > bound or b < -bound for a, b in zip(low, high, strict=True))
    if not is_box:  # the corner of its box may reach in where the ball does not
        outside = sum(max(abs(c) - bound, 0) ** 2 for c in region[:3]) > region[3] ** 2
    if outside:
        refuse(name, list(region), f'a region that reaches into the scene, -{bound:g} to {bound:g} on each axis')

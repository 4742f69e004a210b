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

"""Build the named objects, each a list of primitives inside the unit ball, its front facing +z.

Parts are thick: at 64 pixels one pixel is about 0.033 units wide. The primitives of an object's main colour have the part
`main`; those of a second part that a prompt can name have its word.
"""

from __future__ import annotations

from collections.abc import Callable

from nemo_dreamfusion.pocket.world.objects import buildings, figures, food, furniture, things, vehicles
from nemo_dreamfusion.pocket.world.sdf import Primitive

MAIN = 'main'

OBJECTS: dict[str, Callable[[], list[Primitive]]] = {
    'hamburger': food.hamburger,
    'snowman': figures.snowman,
    'mushroom': food.mushroom,
    'tree': figures.tree,
    'table': furniture.table,
    'chair': furniture.chair,
    'house': buildings.house,
    'rocket': vehicles.rocket,
    'car': vehicles.car,
    'duck': figures.duck,
    'ice cream cone': food.ice_cream_cone,
    'robot': figures.robot,
    'boat': vehicles.boat,
    'cake': food.cake,
    'cup': food.cup,
    'bench': furniture.bench,
    'lamp': furniture.lamp,
    'bicycle': vehicles.bicycle,
    'stairs': buildings.stairs,
    'key': things.key,
    'sofa': furniture.sofa,
    'bus': vehicles.bus,
    'airplane': vehicles.airplane,
    'penguin': figures.penguin,
    'cat': figures.cat,
    'clock': things.clock,
    'castle': buildings.castle,
    'gift': things.gift,
}

# Objects whose front, side and back views differ.
WITH_FRONT = (
    *('snowman', 'chair', 'house', 'car', 'duck', 'robot'),
    *('bench', 'stairs', 'sofa', 'bus', 'airplane', 'penguin', 'cat', 'clock', 'castle'),
)

# The word of each object's second part, where it has one: `house` → `roof`.
PARTS: dict[str, str] = {
    name: part for name, build in OBJECTS.items() for part in sorted({p.part for p in build()} - {'', MAIN})
}

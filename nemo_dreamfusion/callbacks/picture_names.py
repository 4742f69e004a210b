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

"""The names of pictures and of colours, and their checks, which need no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import ImageColor

from nemo_dreamfusion.parts.checks import check_choice, refuse

PICTURES = ('turntable', 'webp', 'gif', 'stills', 'relit', 'depth', 'normals')


def check_pictures(name: str, value: Any) -> tuple[str, ...]:
    """Return a list of names of ``PICTURES`` as a tuple, each once, or refuse it as the setting ``name``."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        refuse(name, value, f'a list of {", ".join(PICTURES)}', f"Set '{name}=[turntable,stills]', or '{name}=[]'.")
    return tuple(dict.fromkeys(check_choice(name, one, PICTURES) for one in value))


def check_background(name: str, value: Any) -> tuple[float, float, float] | None:
    """Return a colour as three numbers in [0, 1], None for None, or refuse it as the setting ``name``.

    >>> check_background('picture_background', '#ff0000')
    (1.0, 0.0, 0.0)
    """
    if value is None:
        return None
    try:
        red, green, blue = ImageColor.getrgb(value)[:3]
    except (ValueError, AttributeError, TypeError):
        refuse(
            name,
            value,
            "null (the scene's own) or the name of a colour",
            f"Set '{name}=black' or '{name}=\"#223344\"'.",
        )
    return red / 255, green / 255, blue / 255

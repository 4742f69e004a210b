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

"""Write moving pictures that pages show without a player: animated WebP."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from nemo_dreamfusion.export.stills import to_uint8
from nemo_dreamfusion.parts.checks import check_positive
from nemo_dreamfusion.parts.files import atomic_path

_QUALITY = 75


def save_webp(frames: Iterable[Tensor | np.ndarray], path: str | Path, *, fps: float = 16, side: int = 256) -> Path:
    """Write images [H, W, 3] in [0, 1] to a .webp that repeats for ever; the file is whole or not there.

    Args:
        frames: at least one.
        path: of the file.
        fps: frames per second.
        side: pixels; what is larger is reduced until no side is longer.

    Raises:
        ValueError: for a rate that is no positive number, or no frame at all.
    """
    check_positive('fps', fps)
    images = [Image.fromarray(to_uint8(frame)) for frame in frames]
    if not images:
        raise ValueError(f'no frame was given for {path}: an animation needs at least one.')
    for image in images:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    options = dict(save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0, quality=_QUALITY)
    with atomic_path(path) as temporary:
        images[0].save(temporary, format='WEBP', method=3, **options)
    return Path(path)

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

"""Write moving pictures that pages show without a player: animated WebP and GIF."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from nemo_dreamfusion.export.stills import to_uint8
from nemo_dreamfusion.parts.checks import check_positive, refuse
from nemo_dreamfusion.parts.files import atomic_path

_OPTIONS: dict[str, dict[str, Any]] = {
    '.webp': dict(format='WEBP', method=3, quality=75),
    '.gif': dict(format='GIF', optimize=False),
}
_SAMPLED = 8  # frames that a .gif's colours are chosen from


def save_animation(
    frames: Iterable[Tensor | np.ndarray], path: str | Path, *, fps: float = 16, side: int = 256
) -> Path:
    """Write images [H, W, 3] in [0, 1] to a .webp or .gif that repeats for ever; the file is whole or not there.

    Args:
        frames: at least one.
        path: of the file.
        fps: frames per second; a .gif counts in hundredths of a second.
        side: pixels; what is larger is reduced until no side is longer.

    Raises:
        ValueError: for another suffix, a rate that is no positive number, or no frame at all.
    """
    check_positive('fps', fps)
    suffix = Path(path).suffix.lower()
    if suffix not in _OPTIONS:
        refuse('the path of an animation', str(path), f'a path that ends in {" or ".join(_OPTIONS)}')
    images = [Image.fromarray(to_uint8(frame)) for frame in frames]
    if not images:
        raise ValueError(f'no frame was given for {path}: an animation needs at least one.')
    for image in images:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    if suffix == '.gif':
        images = _with_one_palette(images)
    with atomic_path(path) as temporary:
        timing: dict[str, Any] = dict(append_images=images[1:], duration=round(1000 / fps), loop=0)
        images[0].save(temporary, save_all=True, **timing, **_OPTIONS[suffix])
    return Path(path)


def _with_one_palette(images: list[Image.Image]) -> list[Image.Image]:
    """Give all images the 256 colours that suit a few of them: a palette for each frame would make the colours jump."""
    some = images[:: max(1, len(images) // _SAMPLED)][:_SAMPLED]
    sheet = Image.new('RGB', (some[0].width, some[0].height * len(some)))
    for i, image in enumerate(some):
        sheet.paste(image, (0, i * image.height))
    palette = sheet.quantize(256, method=Image.Quantize.MEDIANCUT)
    return [image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for image in images]

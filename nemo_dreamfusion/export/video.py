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

"""Write videos that play everywhere: H.264, 4:2:0 (the one file that imports imageio)."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import numpy as np
from torch import Tensor

from nemo_dreamfusion.export.stills import to_uint8
from nemo_dreamfusion.parts.checks import check_positive
from nemo_dreamfusion.parts.files import atomic_path
from nemo_dreamfusion.parts.optional import require


def save_video(frames: Iterable[Tensor | np.ndarray], path: str | Path, *, fps: int = 24) -> Path:
    """Write images [H, W, 3] in [0, 1], as they come, to an .mp4; the file is whole or not there.

    4:2:0 halves the resolution of colour and needs even sides: an odd side repeats its last line.

    Raises:
        ValueError: for another suffix, a rate that is no positive number, or no frame at all.
    """
    check_positive('fps', fps)
    if Path(path).suffix.lower() != '.mp4':
        raise ValueError(f'{path} is no video path: its suffix must be .mp4.')
    imageio = require('imageio.v2', extra=None, reason='videos are written with it (imageio[ffmpeg])')
    options = dict(
        format='FFMPEG',
        fps=fps,
        codec='libx264',
        pixelformat='yuv420p',
        quality=8,
        macro_block_size=2,
        ffmpeg_log_level='error',
        # half of the work of x264's own choice for a tenth more bytes; the index in front: plays while it loads
        output_params=['-preset', 'veryfast', '-movflags', '+faststart'],
    )
    count = 0
    with atomic_path(path) as temporary:
        with closing(
            imageio.get_writer(temporary, **options)
        ) as writer:  # its own `with` leaves ffmpeg after an error
            for frame in frames:
                writer.append_data(_pad_to_even(to_uint8(frame)))
                count += 1
        if not count:
            raise ValueError(f'no frame was given for {path}: a video needs at least one.')
    return Path(path)


def _pad_to_even(frame: np.ndarray) -> np.ndarray:
    height, width, _ = frame.shape
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode='edge')

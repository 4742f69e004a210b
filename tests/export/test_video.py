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

"""Videos read back: size, number of frames, format, colours."""

import subprocess

import imageio.v2 as imageio
import imageio_ffmpeg
import pytest
import torch
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.export.video import save_video


def frames(count=5, height=33, width=64):
    """The left half red, the right half turning from black to blue."""
    for i in range(count):
        frame = torch.zeros(height, width, 3)
        frame[:, : width // 2, 0] = 1
        frame[:, width // 2 :, 2] = i / (count - 1)
        yield frame


def test_video_reads_back(tmp_path):
    path = save_video(frames(), tmp_path / 'turntable.mp4', fps=12)
    reader = imageio.get_reader(path)
    read = [frame.astype(float) for frame in reader]
    data = reader.get_meta_data()
    assert len(read) == 5 and read[0].shape == (34, 64, 3)  # 33 rows made even
    assert data['fps'] == 12 and data['codec'] == 'h264' and data['pix_fmt'].startswith('yuv420p')
    for i, frame in enumerate(read):
        left, right = frame[4:28, 4:28].mean((0, 1)), frame[4:28, 36:60].mean((0, 1))
        assert left[0] > 235 and left[1:].max() < 25
        assert right[2] == pytest.approx(255 * i / 4, abs=15)
    assert [p.name for p in tmp_path.iterdir()] == ['turntable.mp4']


def test_ffmpeg_finds_nothing_wrong_with_the_file(tmp_path):
    path = save_video(frames(), tmp_path / 'a.mp4')
    command = [imageio_ffmpeg.get_ffmpeg_exe(), '-v', 'error', '-i', str(path), '-f', 'null', '-']
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ''


def test_a_failing_render_leaves_no_half_video(tmp_path):
    def broken():
        yield torch.zeros(16, 16, 3)
        raise RuntimeError('render')

    with pytest.raises(RuntimeError, match='render'):
        save_video(broken(), tmp_path / 'a.mp4')
    with refusal(str(tmp_path / 'a.mp4'), 'no frame', 'at least one'):
        save_video([], tmp_path / 'a.mp4')
    with refusal(str(tmp_path / 'a.gif'), NO_VALUE, '.mp4'):
        save_video(frames(), tmp_path / 'a.gif')
    assert not list(tmp_path.iterdir())

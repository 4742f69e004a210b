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

"""Each picture by name, of a ball whose silhouette, depth and normals are known."""

import imageio.v2 as imageio
import numpy as np
import pytest
from PIL import Image
from refusals import refusal

from nemo_dreamfusion.callbacks.picture_names import PICTURES, check_background, check_pictures
from nemo_dreamfusion.callbacks.pictures import ANIMATED, Pictures
from nemo_dreamfusion.callbacks.preview import Preview

pytestmark = pytest.mark.filterwarnings('ignore')
NO_MESH = dict(mesh_resolution=0, mesh_faces=500, texture_size=64)


@pytest.fixture
def written(ball, cameras, trainer, tmp_path):
    """Every picture of the ball."""
    options = dict(size=16, turntable_frames=8, turntable_size=64, **NO_MESH, pictures=PICTURES)
    model = ball()
    trainer(Preview(folder=tmp_path, interval=0, **options), max_steps=1, limit_val_batches=0).fit(model, cameras)
    return tmp_path, model


def frames(path):
    return np.stack([image for image in imageio.get_reader(path)]).astype(float) / 255


def test_every_picture_shows_the_ball(written):
    folder, model = written
    for name in ('turntable.mp4', 'relit.mp4', 'depth.mp4', 'normals.mp4'):
        assert frames(folder / name).shape == (8, 64, 64, 3)
    assert frames(folder / 'turntable.mp4')[3, 32, 32] == pytest.approx([1, 0, 0], abs=0.05)
    depth = frames(folder / 'depth.mp4')
    # the ball's nearest point stands its radius before the origin
    assert depth[0, 32, 32] == pytest.approx((1 + model.nerf.radius.item()) / 2, abs=0.03)
    assert depth[0, 2, 2] == pytest.approx(0, abs=0.03)
    normals = frames(folder / 'normals.mp4')
    elevation = np.deg2rad(20)
    assert normals[0, 32, 32] == pytest.approx(
        [0.5, (np.sin(elevation) + 1) / 2, (np.cos(elevation) + 1) / 2], abs=0.06
    )
    assert normals[0, 2, 2] == pytest.approx(1, abs=0.03)
    turn = Image.open(folder / 'turntable.webp')
    assert turn.size == (64, 64) and turn.convert('RGB').getpixel((32, 32))[0] > 240  # equal frames are joined to one


def test_turntable_and_webp_render_each_frame_once(ball, cameras, trainer, tmp_path):
    model = ball()
    options = dict(size=16, turntable_frames=8, turntable_size=16, **NO_MESH, pictures=['turntable', 'webp'])
    trainer(Preview(folder=tmp_path, interval=0, **options), max_steps=1, limit_val_batches=0).fit(model, cameras)
    assert len(model.rendered) == 8 + 8  # the strip, and the turn


def test_the_light_travels_while_the_camera_stands(written):
    folder, _ = written
    images = frames(folder / 'relit.mp4')[..., 0]
    inside = images[:, 18:46, 18:46]
    left, right = inside[:, :, :8].mean((1, 2)), inside[:, :, -8:].mean((1, 2))
    assert (
        right[2] > left[2] + 0.1 and left[6] > right[6] + 0.1
    )  # lit from the side of growing azimuth, then from the other
    assert inside[0].mean() > inside[4].mean() + 0.1  # from the camera's side, then from behind
    assert images[:, 2, 2] == pytest.approx(1, abs=0.03)


def test_stills_have_straight_alpha(written):
    folder, _ = written
    assert sorted(path.name for path in (folder / 'stills').iterdir()) == [
        f'rgba_{azimuth:03d}.png' for azimuth in (0, 90, 180, 270)
    ]
    still = np.asarray(Image.open(folder / 'stills' / 'rgba_090.png'))
    assert still.shape == (64, 64, 4)
    assert still[32, 32].tolist() == [255, 0, 0, 255] and still[2, 2].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(('names', 'count'), [([], 0), (['stills'], 4)])
def test_only_what_is_asked_for_is_written(ball, cameras, trainer, tmp_path, names, count):
    options = dict(size=16, turntable_frames=0, turntable_size=16, **NO_MESH, pictures=names)
    trainer(Preview(folder=tmp_path, interval=0, **options), max_steps=1, limit_val_batches=0).fit(ball(), cameras)
    assert len(list(tmp_path.rglob('rgba_*.png'))) == count
    assert not list(tmp_path.rglob('*.mp4')) + list(tmp_path.rglob('*.webp'))


def test_no_frames_leave_no_moving_picture(trainer):
    assert (
        list(Pictures(['turntable', 'webp', 'relit', 'depth', 'normals'], frames=0, size=16, fps=8).files(None, None))
        == []
    )


@pytest.mark.parametrize('value', ['turntable', None, 3, ['png'], [1]])
def test_other_pictures_are_refused(value):
    wrong = value[0] if isinstance(value, list) else value
    with refusal('pictures', wrong, 'turntable'):
        check_pictures('pictures', value)


def test_a_long_turn_is_thinned_for_pages_and_has_the_chosen_background(ball, cameras, trainer, tmp_path):
    names, frames_of_turn = ['turntable', 'gif', 'relit'], 2 * ANIMATED
    options = dict(turntable_frames=frames_of_turn, turntable_size=32, pictures=names, picture_background='#0000ff')
    preview = Preview(folder=tmp_path, interval=0, size=16, **NO_MESH, **options)
    trainer(preview, max_steps=1, limit_val_batches=0).fit(ball(), cameras)
    assert len(frames(tmp_path / 'turntable.mp4')) == frames_of_turn
    turn = Image.open(tmp_path / 'turntable.gif')
    # equal frames are joined to one, which lasts as long: a turn of 120 frames at 24 a second
    assert sum(_durations(turn)) == pytest.approx(5000, abs=200)
    assert turn.convert('RGB').getpixel((1, 1)) == (0, 0, 255)
    for name in ('turntable.mp4', 'relit.mp4'):
        images = frames(tmp_path / name)
        assert images[3, 2, 2] == pytest.approx([0, 0, 1], abs=0.06)
        assert images[3, 16, 16, 0] > images[3, 16, 16, 2] + 0.2  # the ball is red


def _durations(image):
    for index in range(image.n_frames):
        image.seek(index)
        yield image.info['duration']


@pytest.mark.parametrize('value', ['no colour', 3, [1, 0, 0]])
def test_other_backgrounds_are_refused(value):
    with refusal('picture_background', value, 'the name of a colour'):
        check_background('picture_background', value)

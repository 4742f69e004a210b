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

"""Pictures of the viewer: coarse to fine, cancelled by a camera that moves, within a budget, and none while nobody looks."""

import io
import math
import threading
import time

import pytest
import torch
import trimesh
from small_model import SMALL, TowardColour, small_config

from nemo_dreamfusion.data.cameras import cameras_from_orbit, rays
from nemo_dreamfusion.launch import load_config
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.parts.images import compute_psnr
from nemo_dreamfusion.viewer import budget as budget_module
from nemo_dreamfusion.viewer.budget import BORROWED, SAVED, Budget
from nemo_dreamfusion.viewer.cameras import Pose, camera_of
from nemo_dreamfusion.viewer.handover import Handover
from nemo_dreamfusion.viewer.moving import moving_mesh
from nemo_dreamfusion.viewer.options import Look
from nemo_dreamfusion.viewer.painter import HEIGHTS, Page, Painter, heights
from nemo_dreamfusion.viewer.scene_copy import SceneCopy

pytestmark = pytest.mark.unit

FOV = math.radians(36)


@pytest.fixture(scope='module')
def model():
    made = DreamFusion(small_config().model)
    made.guidance = TowardColour()
    return made


class Recorded:
    """A screen that keeps what it is shown."""

    def __init__(self):
        self.shown, self.meshes, self.moving = [], [], 0

    def show(self, picture):
        self.shown.append(picture)

    def show_mesh(self):
        self.moving += 1

    def set_mesh(self, glb):
        self.meshes.append(glb)


def pose(azimuth_deg=0.0, elevation_deg=0.0, distance=3.7):
    """viser's pose of a camera on an orbit, from our own matrix: its y and z are turned over."""
    one = torch.ones(1)
    ours = cameras_from_orbit(one * azimuth_deg, one * elevation_deg, one * distance, one * 36, 8, 8)
    from scipy.spatial.transform import Rotation

    turned = ours.camera_to_world[0, :3, :3] * torch.tensor([1.0, -1.0, -1.0])
    x, y, z, w = Rotation.from_matrix(turned.numpy()).as_quat()
    return Pose.from_page(ours.camera_to_world[0, :3, 3].tolist(), (w, x, y, z), FOV, 1.5)


@pytest.mark.parametrize(('azimuth', 'elevation'), [(0, 0), (40, 20), (-130, -35), (90, 80)])
def test_a_page_sees_what_the_renderer_sees_from_there(azimuth, elevation):
    one = torch.ones(1)
    expected = rays(cameras_from_orbit(one * azimuth, one * elevation, one * 3.7, one * 36, 6, 9))
    found = rays(camera_of(pose(azimuth, elevation), 6))
    assert found.image_shape == expected.image_shape
    assert torch.allclose(found.origins, expected.origins, atol=1e-5)
    assert torch.allclose(found.directions, expected.directions, atol=1e-5)


@pytest.mark.parametrize(
    ('position', 'wxyz'),
    [((0, 0), (1, 0, 0, 0)), ((0, 0, 'x'), (1, 0, 0, 0)), ((0, 0, math.nan), (1, 0, 0, 0)), ((0, 0, 1), (0,) * 4)],
)
def test_what_is_no_camera_is_none(position, wxyz):
    assert Pose.from_page(position, wxyz, FOV, 1.0) is None


def test_values_of_a_page_are_put_into_range():
    wild = Look.from_page(
        layer='__import__', light_azimuth_deg=1e9, ambient=math.inf, background=7, resolution=10**9, box=[(5, -5)] * 3
    )
    assert (wild.layer, wild.background, wild.resolution) == ('albedo', 'as trained', 1024)
    assert (wild.light_azimuth_deg, wild.ambient, wild.box) == (180.0, 0.3, ((-1.0, 1.0),) * 3)
    camera = camera_of(Pose.from_page((1e9, 0, 0), (9, 0, 0, 0), 40.0, 1e9), 10)
    assert camera.width == 40 and float(camera.distance) == 1e3 and float(camera.fov_y_rad) < 1.8


def test_heights_end_with_the_one_asked_for():
    assert heights(256) == [48, 96, 192, 256] and heights(48) == [48] and heights(1024)[-2:] == [HEIGHTS[-1], 1024]
    assert heights(256, sketched=True) == [128, 192, 256] and heights(96, sketched=True) == [96, 96]


def image(scene, look, at=None, size=100):
    camera = camera_of(at or pose(), 16)
    return torch.cat(list(scene.tiles(camera, look, size))).view(camera.height, camera.width, 3)


def test_tiles_make_the_picture_that_the_model_renders(model):
    at = pose(30, 10)
    for layer, shading in (('albedo', 'albedo'), ('normals', 'normal')):
        expected = model.render_cameras(camera_of(at, 16), shading=shading).image[0]
        assert torch.allclose(image(SceneCopy(model), Look(layer=layer), at, 37), expected, atol=1e-6)


def test_a_sketch_is_nearly_what_the_field_shows_and_of_the_same_weights(model):
    made = DreamFusion(small_config().model)
    scene, camera = SceneCopy(made), camera_of(pose(30, 10), 64)
    for look in (Look(), Look(background='black'), Look('opacity'), Look('depth')):
        field = torch.cat(list(scene.tiles(camera, look, 4096)))
        assert compute_psnr(scene.sketch(camera, look), field) > 35 and field.std() > 0.01
    before = scene.sketch(camera, Look())
    with torch.no_grad():
        made.nerf.table += 0.5
    scene.refresh(made, 1)
    assert not torch.equal(scene.sketch(camera, Look()), before)
    half = ((-1.0, 0.0), (-1.0, 1.0), (-1.0, 1.0))
    assert scene.can_sketch(Look()) and not scene.can_sketch(Look('shaded')) and not scene.can_sketch(Look(box=half))


def test_triangles_are_drawn_as_the_model_draws_them():
    options = [one for one in SMALL if 'model.renderer' not in one] + ['model.renderer.surface.cells=10']
    made = DreamFusion(load_config('dreamfusion-dmtet', options).model)
    made.guidance = TowardColour()
    scene, at = SceneCopy(made), pose(30, 10)
    expected = made.render_cameras(camera_of(at, 16)).image[0]
    assert torch.allclose(image(scene, Look(), at, 37), expected, atol=1e-6)
    assert moving_mesh(scene, Look().box)[:4] == b'glTF'


def test_a_box_cuts_triangles_open_and_the_mesh_that_stands_in_for_them():
    """A half of a ball: from the side of the cut its outline is the same, across it half is gone."""
    options = [one for one in SMALL if 'model.renderer' not in one] + ['model.renderer.surface.cells=10']
    scene = SceneCopy(DreamFusion(load_config('dreamfusion-dmtet', options).model))
    half = Look(layer='opacity', box=((-1.0, 0.0), (-1.0, 1.0), (-1.0, 1.0)))
    whole = image(scene, Look(layer='opacity'), pose(0))[..., 0]
    cut, middle = image(scene, half, pose(0))[..., 0], whole.shape[1] // 2
    torch.testing.assert_close(cut[:, : middle - 1], whole[:, : middle - 1])
    assert whole[:, middle + 1 :].max() == 1 and cut[:, middle + 1 :].max() == 0
    assert image(scene, half, pose(90))[..., 0].sum() == pytest.approx(
        float(whole.sum()), rel=0.1
    )  # into the half shell
    content = io.BytesIO(moving_mesh(scene, half.box))
    assert trimesh.load(content, file_type='glb', force='mesh').bounds[1][0] == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match='box'):
        moving_mesh(scene, ((0.99, 1.0),) * 3)


def test_light_background_opacity_depth_and_box(model):
    scene = SceneCopy(model)
    render = model.render_cameras(camera_of(pose(), 16))
    assert torch.allclose(image(scene, Look(layer='opacity'))[..., :1], render.opacity[0], atol=1e-6)
    black, white = (image(scene, Look(background=name)) for name in ('black', 'white'))
    assert torch.allclose(white - black, (1 - render.opacity[0]).expand(-1, -1, 3), atol=1e-5)
    lit = [image(scene, Look('textureless', azimuth, 0.0, 0.0, 'black')) for azimuth in (-90.0, 90.0)]
    left = [float(picture[:, :12].sum()) for picture in lit]  # x < 0 is on the left
    assert left[0] > 2 * left[1]
    near = image(scene, Look('depth', background='black'))
    assert near[8, 12, 0] > near[8, 12 - 5, 0] > near[0, 0, 0]  # a ball: its middle is nearest
    half = image(scene, Look('opacity', box=((-1.0, 0.0), (-1.0, 1.0), (-1.0, 1.0))))
    assert half[:, 13:].max() < 0.01 and torch.allclose(half[:, :11], image(scene, Look('opacity'))[:, :11], atol=1e-5)


def test_a_copy_keeps_its_weights_until_it_is_refreshed(model):
    scene, before = SceneCopy(model, 3), None
    before = image(scene, Look())
    table = model.nerf.table
    kept = table.detach().clone()
    with torch.no_grad():
        table += 0.5
    try:
        assert torch.equal(image(scene, Look()), before) and not any(p.requires_grad for p in scene.nerf.parameters())
        scene.refresh(model, 9)
        assert scene.step == 9 and not torch.equal(image(scene, Look()), before)
    finally:
        with torch.no_grad():
            table.copy_(kept)


def test_a_handover_never_writes_what_is_being_read(model):
    handover = Handover()
    assert handover.take() is None
    handover.offer(model, 1, now=True)
    front = handover.take()
    handover.offer(model, 2, now=True)
    handover.offer(model, 3, now=True)  # the last one was not taken yet
    assert (front.step, handover.copies, handover.is_stale) == (1, 2, True)
    second = handover.take()
    assert second is not front and (second.step, handover.is_stale) == (2, False)
    handover.offer(model, 4)  # within a second
    assert not handover.is_stale
    handover.offer(model, 5, now=True)
    assert handover.take() is front and front.step == 5  # the two change hands


def test_a_budget_fills_by_its_share(monkeypatch):
    now, spent = [0.0], [0.0]
    monkeypatch.setattr(budget_module.time, 'monotonic', lambda: now[0])
    budget = Budget(0.1, clock=lambda: spent[0])
    with budget.spend():
        spent[0] += SAVED + 0.2
    assert budget.seconds_to_wait(urgent=False) == pytest.approx(0.2 / 0.1)
    assert budget.seconds_to_wait(urgent=True) == 0.0
    now[0] += 2.0
    assert budget.seconds_to_wait(urgent=False) == pytest.approx(0.0, abs=1e-9)
    with budget.spend():
        spent[0] += BORROWED + 0.1
    assert budget.seconds_to_wait(urgent=True) == pytest.approx(0.1 / 0.1)  # urgent work borrows so much and no more
    now[0] += 1000.0
    with budget.spend():
        spent[0] += SAVED + 0.1
    assert budget.seconds_to_wait(urgent=False) == pytest.approx(0.1 / 0.1)  # no more is saved up than SAVED


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class Fixed:
    """A source of one scene."""

    is_stale = False

    def __init__(self, scene):
        self.take = lambda: scene


@pytest.fixture
def painter(model):
    handover = Handover()
    handover.offer(model, 0, now=True)
    made = Painter(handover, Budget(1.0), lambda: Look(resolution=200))
    made.start()
    yield made
    made.close()
    assert 'viewer' not in {thread.name for thread in threading.enumerate()}


def test_pictures_climb_to_the_resolution_and_a_moved_camera_starts_again(painter):
    screen = Recorded()
    page = painter.pages[0] = Page(screen)
    page.move(pose(), with_mesh=True)
    painter.wake()
    wait_for(lambda: len(screen.shown) == 3)
    assert [picture.shape for picture in screen.shown] == [(128, 192, 3), (192, 288, 3), (200, 300, 3)]
    wait_for(lambda: screen.meshes)
    assert screen.meshes[0][:4] == b'glTF' and screen.moving == 0
    page.move(pose(90), with_mesh=True)
    assert screen.moving == 1
    painter.wake()
    wait_for(lambda: len(screen.shown) == 6)
    assert len(screen.shown[3]) == 128
    page.move(page.pose, with_mesh=True)  # the same again: nothing to do
    time.sleep(0.3)
    assert len(screen.shown) == 6 and len(screen.meshes) == 1


def test_a_box_without_any_of_the_object_has_no_mesh(model):
    look, screen = [Look()], Recorded()
    painter = Painter(Fixed(None), Budget(1.0), lambda: look[0])
    painter.copy, page = SceneCopy(model), Page(screen)
    page.pose = pose()
    for box, moving in ((look[0].box, 1), (((0.99, 1.0),) * 3, 1), (look[0].box, 2)):
        look[0] = Look(box=box)
        wait_for(lambda: painter._make_mesh([page]) == 0)
        page.move(pose(30 * (page.generation + 1)), with_mesh=True)
        assert screen.moving == moving
    assert len(screen.meshes) == 2


def test_a_camera_that_moves_cancels_its_picture(painter):
    class Slow:
        step, device, nerf = 0, torch.device('cpu'), None

        def wait(self):
            pass

        def can_sketch(self, look):
            return False

        def tiles(self, camera, look, size):
            for _ in range(10):
                page.generation += 1  # it moved
                yield torch.zeros(1, 3)
                asked.append(1)

    asked, screen = [], Recorded()
    painter._source = Fixed(Slow())
    page = Page(screen)
    page.pose = pose()
    painter.pages[0] = page
    painter.wake()
    wait_for(lambda: painter.cancelled >= 3)
    del painter.pages[0]
    assert asked == [] and screen.shown == []


def test_nothing_is_done_while_nobody_looks(painter, model, monkeypatch):
    calls = []
    monkeypatch.setattr(painter, '_source', None)  # asked for anything, it would fail
    monkeypatch.setattr(painter, '_fail', calls.append)
    painter.wake()
    time.sleep(0.3)
    assert (painter.pictures, painter.meshes, painter.copy, calls) == (0, 0, None, [])


def test_a_broken_scene_is_one_warning_and_no_end(painter, model, caplog):
    screen = Recorded()
    painter.pages[0] = page = Page(screen)

    class Broken(SceneCopy):
        def sketch(self, *_):
            raise RuntimeError('out of memory')

    painter._source = Fixed(Broken(model))
    page.move(pose(), with_mesh=False)
    painter.wake()
    wait_for(lambda: 'out of memory' in caplog.text)
    time.sleep(1.2)
    assert caplog.text.count('out of memory') == 1 and painter._thread.is_alive()

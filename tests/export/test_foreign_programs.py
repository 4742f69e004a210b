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

"""The .glb in other programs: the front view there is that of the field, with a letter F that is not mirrored."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from analytic_fields import BOUND, Field, Model, orbit, sign_color
from PIL import Image

from nemo_dreamfusion.data.samplers import OrbitCameras
from nemo_dreamfusion.export.assets import export_asset
from nemo_dreamfusion.export.mesh_files import load_mesh, srgb_to_linear
from nemo_dreamfusion.export.raster import rasterize
from nemo_dreamfusion.pocket.metrics.colors import delta_e_2000, linear_rgb_to_lab

SIZE = 128


@pytest.fixture(scope='module')
def front():
    """The front camera, and the field's own view: colour and opacity."""
    camera = OrbitCameras(views=1, elevation_deg=10, distance=3.7 * BOUND, fov_deg=36, height=SIZE, width=SIZE)[0]
    render = Model(Field(color=sign_color)).render_cameras(camera)
    return camera, render.image[0].numpy(), render.opacity[0, ..., 0].numpy()


@pytest.fixture(scope='module')
def glb(tmp_path_factory):
    """The asset, with a normal map and vertex colours beside the texture."""
    path = tmp_path_factory.mktemp('foreign') / 'mesh.glb'
    export_asset(
        Model(Field(color=sign_color)), path, resolution=128, faces=6000, texture_size=1024, orbit=orbit(size=24)
    )
    return path


def compare(image, opacity, front):
    """Return the silhouettes' intersection over union and the mean CIEDE2000 where both are solid."""
    _, own, solid = front
    a, b = solid > 0.5, opacity > 0.5
    both = (solid > 0.99) & (opacity > 0.99)
    lab = [linear_rgb_to_lab(srgb_to_linear(colors[both])) for colors in (own, image)]
    return (a & b).sum() / (a | b).sum(), float(delta_e_2000(*lab).mean())


def check(image, opacity, front):
    iou, difference = compare(image, opacity, front)
    print(f'IoU {iou:.4f}, mean CIEDE2000 {difference:.2f}')
    assert iou >= 0.97 and difference <= 5
    mirrored_iou, mirrored_difference = compare(image[:, ::-1], opacity[:, ::-1], front)
    assert mirrored_iou < 0.8 and mirrored_difference > 5  # the comparison can tell


def test_trimesh_reads_what_the_field_shows(glb, front):
    image, opacity = rasterize(load_mesh(glb), front[0])
    check(image[0].numpy(), opacity[0, ..., 0].numpy(), front)


@pytest.mark.slow
def test_blender_shows_what_the_field_shows(glb, front, tmp_path):
    if subprocess.run([sys.executable, '-c', 'import bpy'], capture_output=True).returncode:
        pytest.skip('pip install bpy')
    camera = front[0]
    pose = {'camera_to_world': camera.camera_to_world[0].tolist(), 'fov_y_rad': camera.fov_y_rad.item(), 'size': SIZE}
    (tmp_path / 'camera.json').write_text(json.dumps(pose))
    script = Path(__file__).with_name('render_in_blender.py')
    command = [sys.executable, str(script), str(glb), str(tmp_path / 'camera.json'), str(tmp_path / 'front.png')]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (tmp_path / 'front.png').is_file(), done.stderr
    seen = np.asarray(Image.open(tmp_path / 'front.png')).astype(np.float64) / 255
    check(seen[..., :3], seen[..., 3], front)

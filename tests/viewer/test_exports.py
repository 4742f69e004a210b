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

"""Files that a page asks for: of the sizes that the run has, from a copy that a GPU's event does not stop."""

import imageio.v2 as imageio
import pytest
from analytic_fields import orbit
from small_model import TowardColour, small_config

from nemo_dreamfusion.export.mesh_files import load_mesh
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.viewer.exports import Exporter, ExportOptions
from nemo_dreamfusion.viewer.scene_copy import SceneCopy

pytestmark = pytest.mark.filterwarnings('ignore')

OPTIONS = ExportOptions(mesh_resolution=24, mesh_faces=300, texture_size=64, turntable_frames=5, turntable_size=32)


class Event:
    """As torch.cuda.Event: it can be waited for and not copied."""

    def __init__(self):
        self.waited = 0

    def wait(self):
        self.waited += 1

    def __deepcopy__(self, memo):
        raise TypeError('cannot pickle')


@pytest.fixture(scope='module')
def scene():
    model = DreamFusion(small_config('model.nerf.blob_density=30').model)
    model.guidance = TowardColour()
    return SceneCopy(model, 7)


def test_files_have_the_sizes_of_the_run_and_a_gpus_event_is_waited_for(scene, tmp_path):
    said = []
    exporter = Exporter(tmp_path, {'prompt': 'a duck'}, orbit(2, 32), OPTIONS, said.append)
    scene._ready = Event()
    exporter.mesh(scene)
    exporter.wait()
    mesh = load_mesh(tmp_path / 'viewer' / 'step000007.glb')
    assert 100 < len(mesh.faces) <= 300 and mesh.texture.shape == (64, 64, 3)
    exporter.turntable(scene)
    exporter.wait()
    frames = [frame for frame in imageio.get_reader(tmp_path / 'viewer' / 'step000007.mp4')]
    assert len(frames) == 5 and frames[0].shape == (32, 32, 3)
    assert scene._ready.waited == 2 and said[-1].startswith('Wrote viewer/step000007.mp4')


def test_a_copy_that_cannot_be_made_is_said_and_the_page_goes_on(scene, tmp_path, monkeypatch):
    said = []
    exporter = Exporter(tmp_path, {}, orbit(2, 32), OPTIONS, said.append)
    monkeypatch.setattr(scene, 'wait', lambda: 1 / 0)
    exporter.mesh(scene)
    exporter.wait()
    assert 'step000007.glb was not written' in said[-1] and not (tmp_path / 'viewer').exists()

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

"""What a run leaves, from a scene whose pictures and mesh are known."""

import json
import logging
import time

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from PIL import Image

from nemo_dreamfusion.callbacks.collapse import CollapseDetection
from nemo_dreamfusion.callbacks.preview import Preview
from nemo_dreamfusion.export.mesh_files import load_mesh

pytestmark = pytest.mark.filterwarnings('ignore')
SMALL = dict(size=16, turntable_frames=6, turntable_size=16, mesh_resolution=32, mesh_faces=30000, texture_size=128)
NO_MESH = {**SMALL, 'mesh_resolution': 0}


def test_a_fit_leaves_everything(ball, cameras, trainer, tmp_path):
    model = ball()
    pictures = ['turntable', 'webp', 'stills', 'relit']
    preview = Preview(folder=tmp_path / 'run', interval=0, pictures=pictures, **SMALL)
    trainer(preview, max_steps=4).fit(model, cameras)
    folder = tmp_path / 'run'
    assert {p.name for p in folder.iterdir()} == {
        *('preview.png', 'turntable.mp4', 'mesh.glb', 'metrics.json', 'validation.png', 'validation'),
        *('turntable.webp', 'relit.mp4', 'stills'),
    }
    strip = np.asarray(Image.open(folder / 'preview.png'))
    assert strip.shape[1] == 8 * 128  # eight views, enlarged to where their labels fit
    for i in range(8):
        assert strip[64, i * 128 + 64].tolist() == [255, 0, 0]  # the ball is in the middle of each
        assert strip[5, i * 128 + 5].tolist() == [255, 255, 255]
    assert sum(1 for _ in imageio.get_reader(folder / 'turntable.mp4')) == 6
    radii = np.linalg.norm(load_mesh(folder / 'mesh.glb').vertices, axis=1)
    assert np.abs(radii - model.nerf.radius.item()).max() < 2 / 31  # a voxel
    metrics = json.loads((folder / 'metrics.json').read_text())
    assert metrics['steps'] == 4 and metrics['last_step']['opacity'] == 0.25
    assert metrics['fit_seconds'] > 0 and metrics['diagnosis'] is None and metrics['mesh']['faces'] > 100


def test_previews_every_so_often(ball, cameras, trainer, tmp_path):
    times = []

    def note(model, step):
        path = tmp_path / 'preview.png'
        times.append(path.stat().st_mtime_ns if path.exists() else 0)

    preview = Preview(folder=tmp_path, interval=2, pictures=['turntable'], **NO_MESH)
    model = ball(note)
    trainer(preview, max_steps=6, limit_val_batches=0).fit(model, cameras)
    assert [bool(t) for t in times] == [False, False, True, True, True, True]
    assert times[2] == times[3] < times[4] == times[5]
    assert len(model.rendered) == 8 * 3 + 6  # after steps 2 and 4 and at the end, and the turntable
    assert not (tmp_path / 'mesh.glb').exists()


def test_cameras_stand_as_the_test_sets_do(ball, cameras, trainer, tmp_path):
    model = ball()
    trainer(Preview(folder=tmp_path, interval=0, **SMALL), max_steps=1, limit_val_batches=0).fit(model, cameras)
    for views in model.rendered:
        assert views.distance.item() == pytest.approx(3.2) and views.elevation_deg.item() == pytest.approx(20)
    assert [v.azimuth_deg.item() for v in model.rendered[:8]] == [0, 45, 90, 135, -180, -135, -90, -45]


def test_test_and_validate_leave_their_views(ball, cameras, trainer, tmp_path):
    run = trainer(Preview(folder=tmp_path, **SMALL))
    run.validate(ball(), cameras, verbose=False)
    run.test(ball(), cameras, verbose=False)
    for name in ('validation', 'test'):
        assert Image.open(tmp_path / f'{name}.png').size[0] == 3 * 144  # 24 pixels enlarged six times
        names = ['azimuth+000_elevation+20.png', 'azimuth+120_elevation+20.png', 'azimuth-120_elevation+20.png']
        assert sorted(p.name for p in (tmp_path / name).iterdir()) == sorted(names)
        assert Image.open(tmp_path / name / names[1]).size == (24, 24)


def test_an_empty_object_still_leaves_its_pictures_and_says_why_there_is_no_mesh(
    ball, cameras, trainer, tmp_path, caplog
):
    def vanish(model, step):
        with torch.no_grad():
            model.nerf.radius.fill_(-1.0)

    with caplog.at_level(logging.WARNING, logger='nemo_dreamfusion'):
        run = trainer(Preview(folder=tmp_path, interval=0, **SMALL), max_steps=2, limit_val_batches=0)
        run.fit(ball(vanish), cameras)
    assert 'mesh.glb was not written: the field is empty' in caplog.text
    (said,) = [r.getMessage() for r in caplog.records if 'Nothing is left' in r.getMessage()]
    assert 'The finished object looks wrong' in said and 'Try a smaller model.loss.lambda_opacity' in said
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert metrics['mesh'] is None and metrics['diagnosis'].startswith('Nothing is left')
    assert (tmp_path / 'turntable.mp4').exists() and not (tmp_path / 'mesh.glb').exists()


def test_a_picture_that_fails_costs_no_other_file(ball, cameras, trainer, tmp_path, caplog):
    (tmp_path / 'turntable.mp4').mkdir()  # in the way, while the mesh is in the making
    pictures = ['turntable', 'stills']
    run = trainer(Preview(folder=tmp_path, interval=0, pictures=pictures, **SMALL), max_steps=1, limit_val_batches=0)
    with caplog.at_level(logging.WARNING, logger='nemo_dreamfusion'):
        run.fit(ball(), cameras)
    assert 'turntable.mp4 was not written' in caplog.text
    assert (tmp_path / 'mesh.glb').is_file() and len(list((tmp_path / 'stills').iterdir())) == 4
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert metrics['mesh']['faces'] > 100 and metrics['mesh']['seconds'] > 0


def test_pictures_that_cannot_begin_cost_no_mesh(ball, cameras, trainer, tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise ValueError('no room for the voxels')

    monkeypatch.setattr('nemo_dreamfusion.callbacks.pictures.FastViews', fail)
    run = trainer(Preview(folder=tmp_path, interval=0, **SMALL), max_steps=1, limit_val_batches=0)
    with caplog.at_level(logging.WARNING, logger='nemo_dreamfusion'):
        run.fit(ball(), cameras)
    assert 'The pictures were not written: no room' in caplog.text and 'mesh.glb was not' not in caplog.text
    assert (tmp_path / 'mesh.glb').is_file()


def test_the_fits_time_goes_on_after_a_resume(ball, cameras, trainer, tmp_path):
    preview = Preview(folder=tmp_path, interval=0, **NO_MESH)
    run = trainer(preview, max_steps=2, limit_val_batches=0)
    run.fit(ball(), cameras)
    spent = preview.state_dict()['seconds']
    assert spent == preview.state_dict()['seconds'] > 0  # the clock stands still after the fit
    later = Preview(folder=tmp_path, interval=0, **NO_MESH)
    later.load_state_dict({'seconds': 100.0, 'step_seconds': 50.0})
    trainer(later, max_steps=2, limit_val_batches=0).fit(ball(), cameras)
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert 100 <= metrics['fit_seconds'] < 200 and 50 / 2 <= metrics['seconds_per_step'] < 100 / 2


def test_a_checkpoint_from_before_the_steps_had_a_clock_can_be_resumed(tmp_path):
    preview = Preview(folder=tmp_path, **SMALL)
    preview.load_state_dict({'seconds': 100.0})
    assert preview.state_dict() == {'seconds': 100.0, 'step_seconds': 0.0, 'steps_with_dropped_rays': 0}


def test_a_steps_time_counts_no_preview_and_no_validation(ball, cameras, trainer, tmp_path):
    model = ball()
    render = model.render_cameras
    model.render_cameras = lambda views, **options: (time.sleep(0.05), render(views, **options))[1]
    callbacks = [Preview(folder=tmp_path, interval=1, **NO_MESH), CollapseDetection(interval=1, warmup_steps=0)]
    trainer(*callbacks, max_steps=4).fit(model, cameras)
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert metrics['fit_seconds'] > (3 * 8 + 3) * 0.05  # three previews of eight views, one validation of three
    assert 0 < metrics['seconds_per_step'] < 0.05

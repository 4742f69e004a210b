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

"""A fit that is watched: the same numbers as one that nobody watches, paused, saved, stopped and exported from a page."""

import _thread
import os
import signal
import socket
import threading
import time
from functools import partial

import imageio.v2 as imageio
import lightning.pytorch as pl
import pytest
import torch
import trimesh
from refusals import refusal
from reliability.fits import tiny

from nemo_dreamfusion import launch
from nemo_dreamfusion.callbacks.live_viewer import LiveViewer

pytest.importorskip('viser', reason='the extra "viewer" is not installed')
from viewer.socket_page import SocketPage, listening_addresses, wait_for  # noqa: E402

from nemo_dreamfusion.launch.viewing import open_viewer  # noqa: E402

SPARSE = ['pictures=[]', 'turntable_frames=0', 'mesh_resolution=0', 'viewer.port=0', 'viewer.resolution=64']
WATCHED = 'viewer.enabled=true'


def configure(folder, *overrides):
    return tiny(folder, *SPARSE, 'exp_manager.create_checkpoint_callback=true', *overrides)


class Between(pl.Callback):
    """Calls a function after each step, with the fit's viewer and how many steps were made."""

    def __init__(self, act=lambda viewer, step: None):
        self.act = act
        self.viewer, self.numbers = None, {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.callback = next((c for c in trainer.callbacks if isinstance(c, LiveViewer)), None)
        self.viewer = self.callback and self.callback.viewer
        self.act(self.viewer, trainer.global_step)
        if self.viewer is not None:
            painter = self.viewer.painter
            self.numbers = {
                'copies': self.viewer.handover.copies,
                'pictures': painter.pictures,
                'meshes': painter.meshes,
                'pages': len(painter.pages),
            }


def fit(folder, *overrides, act=lambda viewer, step: None):
    torch.manual_seed(0)
    between = Between(act)
    return launch.fit(configure(folder, *overrides), callbacks=[between]), between


def weights(result):
    return {name: tensor.clone() for name, tensor in result.model.state_dict().items()}


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    """The weights of a fit without a viewer."""
    return weights(fit(tmp_path_factory.mktemp('alone'), 'trainer.max_steps=8')[0])


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_nobody_looks_nothing_is_done_and_the_weights_are_the_same(alone, tmp_path, capsys):
    result, between = fit(tmp_path, 'trainer.max_steps=8', WATCHED)
    assert same(weights(result), alone)
    assert between.numbers == {'copies': 0, 'pictures': 0, 'meshes': 0, 'pages': 0}
    assert 'Viewer: http://127.0.0.1:' in capsys.readouterr().out
    assert not (result.folder / 'viewer').exists() and not alive()


def test_somebody_looks_turns_and_leaves_and_the_weights_are_the_same(alone, tmp_path):
    pages, seen = [], []

    def act(viewer, step):
        if step == 2:
            assert set(listening_addresses(int(viewer.url.rpartition(':')[2]))) == {'0100007F'}
            pages.append(SocketPage(viewer.url))
            wait_for(lambda: viewer.is_watched)
        elif step == 4:
            seen.append(pages[0].wait_for_picture(64))  # the last one: coarser ones may be overtaken on their way
            before = len(pages[0].pictures)  # the next one may be there at once
            pages[0].turn(120)
            seen.append(pages[0].wait_for_picture(64, after=before))
            wait_for(lambda: 'step 3 of 8' in pages[0].text('Fit'))
            assert 'opacity' in pages[0].text('Fit')
            wait_for(lambda: viewer.painter.meshes)
        elif step == 6:
            pages[0].close()
            wait_for(lambda: not viewer.is_watched)

    result, between = fit(tmp_path, 'trainer.max_steps=8', WATCHED, act=act)
    assert same(weights(result), alone)
    assert (seen[0] != seen[1]).any() and seen[0].std() > 5
    assert between.numbers['copies'] >= 1 and between.numbers['pages'] == 0 and not alive()


def alive():
    """Threads of viewers that were closed."""
    return [thread for thread in threading.enumerate() if thread.name == 'viewer']


def in_thread(act):
    """Run what a reader of the page does beside the fit; what it raises, raise in the test."""
    failed = []

    def run():
        try:
            act()
        except BaseException as error:
            failed.append(error)
            _thread.interrupt_main()  # a fit that is paused would wait for ever

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def finish():
        thread.join(60)
        assert not thread.is_alive()
        if failed:
            raise failed[0]

    return finish


def test_pause_save_export_and_stop_then_the_same_command_goes_on(alone, tmp_path, monkeypatch):
    paused, finish = [], []

    def reader(url, folder):
        page = SocketPage(url)
        page.wait_for_picture()
        page.click('Pause')
        wait_for(lambda: 'paused' in page.text('Fit'))
        paused.append(page.text('Fit').splitlines()[0])
        time.sleep(1.3)
        paused.append(page.text('Fit').splitlines()[0])
        page.click('Save now')
        wait_for(lambda: list((folder / 'checkpoints').glob('*step=3*-last.ckpt')))
        page.click('Turntable (.mp4)')
        wait_for(lambda: 'Wrote viewer/step' in page.text('Last file'), 60)
        page.click('Stop')

    def act(viewer, step):
        if step == 1:
            finish.append(in_thread(partial(reader, viewer.url, next(tmp_path.iterdir()))))
            wait_for(lambda: viewer.is_watched)  # so that step 2 shows it something
        if step == 2:  # the pause begins after step 3
            wait_for(lambda: watched[0].control.paused)

    watched = []
    monkeypatch.setattr(LiveViewer, 'on_fit_start', lambda self, *_: watched.append(self))
    with pytest.raises(launch.FitInterrupted) as stopped:
        fit(tmp_path, 'trainer.max_steps=8', WATCHED, 'turntable_size=32', act=act)
    finish[0]()
    assert stopped.value.exit_code == 75 and paused == ['step 3 of 8, paused'] * 2
    (video,) = (stopped.value.folder / 'viewer').iterdir()
    assert imageio.get_reader(video).get_meta_data()['size'] == (32, 32)
    assert video.name in ('step000002.mp4', 'step000003.mp4')  # what was shown when it was asked for
    result, _ = fit(tmp_path, 'trainer.max_steps=8')
    assert same(weights(result), alone)


def test_a_paused_fit_answers_the_signal_of_slurm_and_stays_paused(tmp_path, monkeypatch):
    answered, seen, finish, watched = threading.Event(), [], [], []
    monkeypatch.setattr(LiveViewer, 'on_fit_start', lambda self, *_: watched.append(self))

    def warn_and_look(control):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert answered.wait(30)
        seen.append(control.paused)
        control.resume()

    def act(viewer, step):
        if step == 2:
            watched[0].control.pause()
            finish.append(in_thread(partial(warn_and_look, watched[0].control)))

    before = signal.signal(signal.SIGUSR1, lambda *_: answered.set())  # as Lightning's own, which queues the job again
    try:
        result, _ = fit(tmp_path, 'trainer.max_steps=3', WATCHED, act=act)
    finally:
        signal.signal(signal.SIGUSR1, before)
    finish[0]()
    assert seen == [True] and result.status == 'finished'


def test_what_cannot_work_is_refused_before_the_fit(tmp_path):
    with socket.socket() as other:
        other.bind(('127.0.0.1', 0))
        other.listen()
        port = other.getsockname()[1]
        with refusal('viewer.port', port, 'viewer.port=0'):
            launch.fit(configure(tmp_path, WATCHED, f'viewer.port={port}'))
        launch.fit(configure(tmp_path / 'off', 'trainer.max_steps=1', f'viewer.port={port}'))  # nobody asks for it
    assert not [path for path in tmp_path.iterdir() if path.name != 'off']  # no folder of a run
    for key, value, way_out in (
        ('viewer.port', 80, '1024'),
        ('viewer.port', 70000, '65535'),
        ('viewer.resolution', 5000, '1024'),
        ('viewer.enabled', 'maybe', 'true or false'),
        ('viewer.host', '0.0.0.0', 'viewer'),
    ):
        with refusal(key, value if key != 'viewer.host' else key, way_out):
            launch.fit(configure(tmp_path, f'++{key}={value}'))


def test_a_finished_object_is_shown_and_exported(tmp_path):
    made, _ = fit(tmp_path, 'trainer.max_steps=2', 'model.nerf.blob_density=30')
    overrides = [
        f'restore_from_path={made.folder / "DreamFusion.nemo"}',
        'mode=view',
        'mesh_faces=300',
        'mesh_resolution=32',
        'texture_size=64',
    ]
    with open_viewer(configure(tmp_path, *overrides)) as (viewer, folder):
        page = SocketPage(viewer.url)
        page.wait_for_picture(64)
        page.set('Show', 'normals')
        count = len(page.pictures)
        assert (page.wait_for_picture(64, after=count) != page.wait_for_picture(64)).any()
        assert 'Stop' not in page.controls
        page.set('Pixels', 10**9)  # put into range
        page.set('Show', '/etc/passwd')
        page.set('Angle of view °', -5.0)
        page.click('Mesh (.glb)')
        wait_for(lambda: 'Wrote viewer/step' in page.text('Last file'), 60)
        files = list((folder / 'viewer').iterdir())
        page.close()
    assert [path.suffix for path in files] == ['.glb']
    assert 100 < len(trimesh.load(files[0], force='mesh').faces) <= 300
    assert folder == made.folder and not alive()

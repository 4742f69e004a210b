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

"""The viewer in a real browser: it connects, drags, sees two pictures, pauses, exports, stops; nothing leaves it."""

from functools import partial
from urllib.parse import urlsplit

import numpy as np
import pytest
from browser import Browser

pytest.importorskip('viser', reason='the extra "viewer" is not installed')
from viewer.socket_page import listening_addresses, wait_for  # noqa: E402
from viewer.test_live import WATCHED, fit, in_thread  # noqa: E402

from nemo_dreamfusion import launch  # noqa: E402

pytestmark = pytest.mark.slow

FIT = "[...document.querySelectorAll('textarea')].map(t => t.value).join('|')"
SCENE = (slice(150, 450), slice(150, 450))  # what the panel does not cover


@pytest.fixture
def browser(tmp_path):
    made = Browser(tmp_path / 'profile')
    yield made
    made.close()


def look_and_steer(browser, viewer, folder, found):
    browser.open(viewer.url)
    wait_for(lambda: viewer.painter.pictures >= 2, 60)
    browser.wait_for("document.body.innerText.includes('Background')")
    found['first'] = browser.screenshot(folder / 'first.png')
    count, before = viewer.painter.pictures, dict(viewer.painter.pages)
    pose = next(iter(before.values())).pose
    wait_for(lambda: viewer.painter.meshes, 60)
    browser.drag((300, 300), (420, 330))
    wait_for(lambda: next(iter(viewer.painter.pages.values())).pose != pose, 30)
    wait_for(lambda: viewer.painter.pictures > count + 1, 60)
    browser.run('new Promise(done => setTimeout(done, 500))')
    found['second'] = browser.screenshot(folder / 'second.png')
    found['listening'] = listening_addresses(int(viewer.url.rpartition(':')[2]))
    browser.click_on('Fit')
    browser.click_on('Pause')
    found['paused'] = browser.wait_for(f"{FIT}.includes('paused') && {FIT}")
    browser.screenshot(folder / 'paused.png')
    browser.click_on('Export')
    browser.click_on('Turntable (.mp4)')
    browser.wait_for(f"{FIT}.includes('Wrote viewer/')")
    browser.click_on('Fit')
    browser.click_on('Stop')


def test_a_fit_watched_by_a_browser(browser, tmp_path):
    found, finish = {}, []
    runs = tmp_path / 'runs'

    def act(viewer, step):
        if step == 1:
            finish.append(in_thread(partial(look_and_steer, browser, viewer, tmp_path, found)))
        if step == 2:  # a step takes milliseconds, a browser seconds to start
            wait_for(lambda: viewer.is_watched, 60)

    with pytest.raises(launch.FitInterrupted) as stopped:
        settings = ('trainer.max_steps=2000', 'model.nerf.blob_density=30', 'turntable_size=32', 'turntable_frames=6')
        fit(runs, *settings, WATCHED, act=act)
    finish[0]()
    assert stopped.value.exit_code == 75
    difference = np.abs(found['first'][SCENE].astype(int) - found['second'][SCENE])
    assert found['first'][SCENE].std() > 3 and difference.max() > 10
    assert found['listening'] == {'0100007F'} and ', paused' in found['paused']
    assert len(list((stopped.value.folder / 'viewer').glob('step*.mp4'))) == 1
    outside = [url for url in browser.requests if urlsplit(url).scheme not in ('data', 'blob')]
    assert outside and {urlsplit(url).hostname for url in outside} <= {'127.0.0.1', None}

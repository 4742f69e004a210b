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

"""The report in a real browser, from the disk: the asset loads and is seen, and nothing is asked of a network."""

from urllib.parse import urlsplit

import numpy as np
import pytest
from browser import Browser
from PIL import Image

from nemo_dreamfusion.export.mesh_files import Mesh, save_mesh
from nemo_dreamfusion.export.report.page import RunFacts, write_report

pytestmark = pytest.mark.slow

LISTEN = """
window.seen = [];
for (const kind of ['load', 'error'])
  document.addEventListener(kind, e => { if (e.target.localName == 'model-viewer') window.seen.push(kind); }, true);
"""


def test_the_report_shows_the_asset_and_asks_no_network(tmp_path):
    folder = tmp_path / 'a-duck-1'
    folder.mkdir()
    Image.new('RGB', (1024, 128), 'blue').save(folder / 'preview.png')
    corners = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    red = np.tile(np.float32([1, 0, 0]), (4, 1))
    save_mesh(Mesh(vertices=corners, faces=faces, vertex_colors=red), folder / 'mesh.glb')
    metrics = {'steps': 5, 'fit_seconds': 2.0, 'diagnosis': None, 'mesh': {'faces': 4}}
    markup = '<img src=http://example.com/x.png> a duck'
    page = write_report(
        RunFacts(prompt=markup, seed=7, metrics=metrics, curves={'loss': [(1, 3.0), (5, 1.0)]}), folder
    )
    browser = Browser(tmp_path / 'profile')
    try:
        browser.open(page.as_uri(), before=LISTEN)
        browser.wait_for("window.seen.includes('load')")
        browser.run('new Promise(done => setTimeout(done, 1500))')
        place = browser.run(
            "(r => [r.x, r.y, r.width, r.height])(document.querySelector('model-viewer').getBoundingClientRect())"
        )
        picture = browser.screenshot(tmp_path / 'report.png').astype(int)
        seen, requests = browser.run('window.seen'), list(browser.requests)
    finally:
        browser.close()
    x, y, width, height = (round(value) for value in place)
    inside = picture[max(y, 0) : y + height, max(x, 0) : x + width]
    is_red = (inside[..., 0] > 80) & (inside[..., 0] > 2 * inside[..., 1]) & (inside[..., 0] > 2 * inside[..., 2])
    assert is_red.mean() > 0.02  # the tetrahedron
    assert 'error' not in seen and {urlsplit(url).scheme for url in requests} <= {'file', 'data', 'blob'}

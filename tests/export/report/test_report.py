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

"""The report of a run and the gallery of many: what they say, what a prompt cannot do, and that they ask no network."""

import base64
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from nemo_dreamfusion.export.mesh_files import Mesh, save_mesh
from nemo_dreamfusion.export.report.curves import draw_curve
from nemo_dreamfusion.export.report.gallery import write_gallery
from nemo_dreamfusion.export.report.page import RunFacts, read_asset, write_report

pytestmark = pytest.mark.unit

MARKUP = '"><script>alert(1)</script><img src=x onerror=alert(2)>\' & a duck'
VOID = {'meta', 'img', 'input', 'link', 'br'}


class Page(HTMLParser):
    """Elements with their attributes, text, and whether every element is closed in order."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.elements, self.text, self.open, self.scripts = [], '', [], []
        self.feed(path.read_text(encoding='utf-8'))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == 'script':
            self.scripts.append('')

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ['script']:
            self.scripts[-1] += data
        elif self.open[-1:] != ['style']:
            self.text += data

    def sources(self):
        """Every place that the browser might fetch something from."""
        names = ('src', 'href', 'poster', 'data', 'srcset', 'action', 'environment-image', 'skybox-image')
        return [attrs[name] for _, attrs in self.elements for name in names if attrs.get(name)]


@pytest.fixture
def run(tmp_path):
    """A run's folder with a strip, a video's bytes and a mesh."""
    folder = tmp_path / 'a-duck-1'
    folder.mkdir()
    Image.new('RGB', (32, 8), 'red').save(folder / 'preview.png')
    (folder / 'turntable.mp4').write_bytes(b'moving')
    corners = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    save_mesh(Mesh(vertices=corners, faces=faces, vertex_colors=np.ones((4, 3), np.float32)), folder / 'mesh.glb')
    return folder


def facts(**changes):
    metrics = {'steps': 5, 'fit_seconds': 2.0, 'diagnosis': None, 'mesh': {'faces': 4, 'agreement': {'iou': 0.97}}}
    metrics |= {'scores': {'iou': 0.75, 'view_accuracy': None}}
    defaults = dict(prompt='a duck', seed=7, metrics=metrics, curves={'loss': [(1, 3.0), (5, 1.0)]})
    return RunFacts(**{**defaults, **changes})


def test_the_report_holds_the_run(run):
    changed = {'model.optim.lr': (0.5, 0.001)}
    page = Page(write_report(facts(changed=changed, warnings=['Step 3. All is fog: try']), run))
    for said in (
        'a duck',
        'seed 7',
        '5 steps',
        'All is fog',
        'agreement.iou',
        '0.97',
        '0.75',
        'model.optim.lr',
        '0.001',
    ):
        assert said in page.text
    assert 'face the right way' not in page.text  # an object without a front has no such score
    embedded = {(tag, attrs['src'].partition(';')[0]): attrs['src'] for tag, attrs in page.elements if 'src' in attrs}
    for kind, name in (
        (('img', 'data:image/png'), 'preview.png'),
        (('video', 'data:video/mp4'), 'turntable.mp4'),
        (('model-viewer', 'data:model/gltf-binary'), 'mesh.glb'),
    ):
        assert base64.b64decode(embedded[kind].partition(',')[2]) == (run / name).read_bytes()
    assert [tag for tag, _ in page.elements].count('svg') == 1


def test_the_report_asks_no_network_and_runs_no_other_script(run):
    page = Page(write_report(facts(), run))
    assert not [source for source in page.sources() if re.match(r'\w+://|//', source)]
    assert page.scripts == [read_asset('model-viewer.min.js'), read_asset('report.js')]
    (policy,) = [a['content'] for tag, a in page.elements if a.get('http-equiv') == 'Content-Security-Policy']
    assert (
        "default-src 'none'" in policy and 'http' not in policy and 'unsafe-inline' not in policy.split('style-src')[0]
    )
    assert policy.count("'sha256-") == 2


@pytest.mark.parametrize('place', ['prompt', 'warning', 'setting', 'diagnosis', 'curve', 'figure'])
def test_markup_stays_text(run, place):
    given = {
        'prompt': dict(prompt=MARKUP),
        'warning': dict(warnings=[MARKUP]),
        'setting': dict(changed={'model.negative_prompt': (MARKUP, '')}),
        'diagnosis': dict(metrics={'diagnosis': MARKUP}),
        'curve': dict(curves={MARKUP: [(1, 1.0)]}),
        'figure': dict(metrics={'mesh': {MARKUP: MARKUP}}),
    }
    page = Page(write_report(facts(**given[place]), run))
    assert MARKUP in page.text
    assert len(page.scripts) == 2 and not [a for _, a in page.elements if 'onerror' in a or a.get('src') == 'x']


def test_without_a_mesh_there_is_a_page_without_a_script(run):
    for name in ('mesh.glb', 'preview.png', 'turntable.mp4'):
        (run / name).unlink()
    page = Page(write_report(facts(metrics={}, seed=None, curves={}), run))
    assert page.scripts == [] and 'mesh_resolution' in page.text and page.sources() == []
    assert {path.name for path in run.iterdir()} == {'report.html'}


def test_a_report_that_cannot_be_written_leaves_the_one_before(run, monkeypatch):
    path = write_report(facts(prompt='before'), run)
    monkeypatch.setattr('os.replace', lambda *_: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    with pytest.raises(OSError):
        write_report(facts(prompt='after'), run)
    assert Page(path).text.count('before') and not list(run.glob('.report*'))


def test_the_viewer_is_shipped_with_its_licence():
    assert 'Apache License' in read_asset('model-viewer-LICENSE.txt')
    script = read_asset('model-viewer.min.js')
    assert 'customElements.define("model-viewer"' in script and '</script' not in script.lower()


def test_a_curve_has_its_points_where_they_belong_and_a_gap_where_one_is_not_finite():
    svg = draw_curve('loss', [1, 2, 3, 5], [4.0, math.nan, 2.0, 0.0])
    first, second = (
        [tuple(map(float, point.split(','))) for point in points.split()]
        for points in re.findall('points="(.*?)"', svg)
    )
    assert first[0][0] < second[0][0] < second[1][0]  # to the right with the step
    assert first[0][1] < second[0][1] < second[1][1]  # downward with the value
    assert (second[0][0] - first[0][0]) == pytest.approx(second[1][0] - second[0][0])  # 1 to 3 as 3 to 5
    assert '0 to 4' in svg and 'no finite value' in draw_curve('loss', [1], [math.inf])


def test_the_gallery_links_its_runs_relatively_and_loads_them_when_seen(run, tmp_path):
    write_report(facts(), run)
    jobs = [
        {'prompt': MARKUP, 'status': 'finished', 'folder': str(run), 'steps': 5, 'fit_seconds': 2.0, 'remark': ''},
        {'prompt': 'a zeppelin', 'status': 'failed', 'folder': '', 'remark': 'not known'},
    ]
    page = Page(write_gallery(jobs, tmp_path / 'gallery.html'))
    for said in (MARKUP, 'a zeppelin', 'failed', 'not known'):
        assert said in page.text
    assert page.scripts == [] and not [a for _, a in page.elements if 'onerror' in a]
    (image,) = [a for tag, a in page.elements if tag == 'img']
    assert image['loading'] == 'lazy' and image['src'] == 'a-duck-1/preview.png'
    assert {'a-duck-1/report.html', 'a-duck-1/mesh.glb'} <= set(page.sources())
    assert all((tmp_path / source).is_file() for source in page.sources())

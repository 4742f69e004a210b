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

"""The page over finished runs: what it shows and holds, what it leaves of an earlier one, and its limit."""

import json
import shutil

import pytest
from PIL import Image
from refusals import refusal
from small_model import small_config

from nemo_dreamfusion.export.mesh_files import load_mesh
from nemo_dreamfusion.launch.command_line import main_gallery
from nemo_dreamfusion.launch.gallery import make_gallery
from nemo_dreamfusion.models.dreamfusion import DreamFusion

pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.fixture
def runs(tmp_path):
    """Two finished runs, one of them with markup in its prompt, and a folder that is none."""
    for name, prompt in (('a-duck-1', 'a duck'), ('b-2', 'a <b>tree</b>')):
        folder = tmp_path / 'runs' / name
        folder.mkdir(parents=True)
        DreamFusion(small_config(f"model.prompt='{prompt}'").model).save_to(str(folder / 'DreamFusion.nemo'))
        (folder / 'metrics.json').write_text(json.dumps({'steps': 500, 'fit_seconds': 60.0, 'scores': {'iou': 0.875}}))
        Image.new('RGB', (16, 16), 'red').save(folder / 'turntable.webp')
    (tmp_path / 'runs' / 'sweep').mkdir()
    return tmp_path / 'runs'


def test_the_page_shows_every_run_with_its_scores_and_a_light_mesh(runs, tmp_path, capsys):
    (tmp_path / 'out' / 'old-run').mkdir(parents=True)
    (tmp_path / 'out' / 'old-run' / 'mesh.glb').write_bytes(b'')
    (tmp_path / 'out' / 'mine').mkdir()
    main_gallery([f'runs={runs}', f'out={tmp_path / "out"}', 'faces=500', 'texture_size=64'])
    assert str(tmp_path / 'out' / 'objects.html') in capsys.readouterr().out
    page = (tmp_path / 'out' / 'objects.html').read_text()
    assert (
        'a duck' in page and 'a &lt;b&gt;tree' in page and '0.875' in page and 'src="a-duck-1/turntable.webp"' in page
    )
    assert str(runs) not in page  # nothing points out of the folder
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {'objects.html', 'a-duck-1', 'b-2', 'mine'}
    mesh = load_mesh(tmp_path / 'out' / 'a-duck-1' / 'mesh.glb')
    assert len(mesh.faces) <= 500 and mesh.texture.shape[0] == 64


def test_a_page_that_is_too_large_is_refused(runs, tmp_path):
    with refusal('limit_mb', '0.01', 'set faces or texture_size lower'):
        make_gallery(str(runs), str(tmp_path / 'out'), faces=500, texture_size=64, limit_mb=0.01)


def test_a_folder_without_runs_is_refused(tmp_path):
    with refusal('runs', str(tmp_path), 'DreamFusion.nemo'):
        make_gallery(str(tmp_path), str(tmp_path / 'out'))
    assert not (tmp_path / 'out').exists()


def test_a_benchmark_s_fits_need_no_more_than_their_archives(runs, tmp_path):
    """Pictures and scores are made of them; a benchmark of several rows is asked which."""
    bench = tmp_path / 'bench'
    fit = bench / 'fits' / 'sds' / 'seed-1' / 'a-duck-1'
    fit.mkdir(parents=True)
    shutil.copyfile(runs / 'a-duck-1' / 'DreamFusion.nemo', fit / 'DreamFusion.nemo')
    page = make_gallery(str(bench), str(tmp_path / 'out'), faces=500, texture_size=64).read_text()
    turn = Image.open(tmp_path / 'out' / 'a-duck-1' / 'turntable.webp')
    assert turn.size == (224, 224)
    assert all(f'>{name}</th>' in page for name in ('silhouettes, IoU', 'surface, F-score at 1 %', 'surface, normals'))
    shutil.copytree(fit.parent, bench / 'fits' / 'csd' / 'seed-1')
    with refusal('runs', str(bench), 'csd', 'sds'):
        make_gallery(str(bench), str(tmp_path / 'out'))

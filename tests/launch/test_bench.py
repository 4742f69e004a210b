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

"""nemo-dreamfusion-bench: what it refuses, intervals, and a small benchmark with a row of a user's own from end to end."""

import json
import re
import shutil
import subprocess
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from commands import run_here
from pages import FENCE, ROOT
from PIL import Image
from refusals import NO_VALUE, check_refusal, refusal
from small_model import SMALL

from nemo_dreamfusion.export.mesh_files import load_mesh
from nemo_dreamfusion.launch.benchmarking import running
from nemo_dreamfusion.launch.benchmarking.first_meshes import BALL, write_first_mesh
from nemo_dreamfusion.launch.benchmarking.plan import SETTINGS, read_plan
from nemo_dreamfusion.launch.benchmarking.report import (
    COLUMNS,
    compute_differences,
    compute_means,
    find_overlaps,
    write_table,
)
from nemo_dreamfusion.launch.benchmarking.running import bench
from nemo_dreamfusion.launch.benchmarking.statistics import Interval, bootstrap
from nemo_dreamfusion.launch.benchmarking.suites import read_suite
from nemo_dreamfusion.launch.command_line import main_bench
from nemo_dreamfusion.launch.configuration import load_config
from nemo_dreamfusion.parts.build import PLUGINS
from nemo_dreamfusion.pocket.world.draws import is_held_out

MINE = 'rows.mine=[model.guidance.score._target_=my_module.MyScore,+model.guidance.score.kept=0.2]'
FAST = ['resolution=32', 'mesh_resolution=24', 'points=500', 'gallery=4', 'bootstrap=100', 'seeds=[1]', 'steps=4']


def run(command, **options):
    """The user's own row needs a process, for its plugin; the others are fitted here, one after the other."""
    return (subprocess.run if 'MyScore' in ' '.join(command) else run_here)(command, **options)


def quote(overrides):
    return '[' + ','.join(json.dumps(one) for one in overrides) + ']'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A working folder with the module of the docs and a suite of one prompt."""
    place = tmp_path_factory.mktemp('bench')
    page = (ROOT / 'docs' / 'benchmark.md').read_text(encoding='utf-8')
    (code,) = [block for language, block in FENCE.findall(page) if language == 'python']
    assert len(code.splitlines()) <= 30
    (place / 'my_module.py').write_text(code)
    (place / 'prompts.txt').write_text('a red cube\n')
    return place


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv(PLUGINS, '')
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.syspath_prepend(folder)


def settings(*more):
    small = quote([one for one in SMALL if not one.startswith(('trainer.max_steps', 'turntable_frames'))])
    return load_config('bench', ['suite=prompts.txt', 'out=out', *FAST, f'overrides={small}', *more])


@pytest.fixture(scope='module')
def first(folder):
    """What a first benchmark of two rows has left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv('OMP_NUM_THREADS', '1')
        patch.setenv('PYTHONPATH', str(ROOT))
        patch.setenv(PLUGINS, '')
        patch.setattr(running, 'subprocess', SimpleNamespace(run=run))
        return bench(settings(MINE, 'plugins=[my_module]', 'only=[sds,mine]'))


@pytest.mark.slow
def test_rows_are_fitted_measured_and_shown(first, folder):
    assert first['failed'] == [] and [one['row'] for one in first['objects']] == ['sds', 'mine']
    for one in first['objects']:
        assert one['prompt'] == 'a red cube' and one['seed'] == 1 and one['steps'] == 4 and one['fit_seconds'] > 0
        assert (
            0 <= one['f_score_1'] <= one['f_score_2'] <= 1
            and 0 < one['chamfer'] < 2
            and 1 <= one['retrieval_rank'] <= 4
        )
        assert 0 <= one['iou'] <= 1 and one['view_accuracy'] is None and 0 < one['delta_e'] < 150
    assert set(first['rows']) == {'sds', 'mine'} and first['machine']['torch']
    assert not list(folder.rglob('turntable.mp4')) and not list(folder.rglob('mesh.glb'))  # nobody would look at them
    own, theirs = first['objects']
    assert own['psnr_db'] != theirs['psnr_db']  # another score, another object
    assert json.loads((folder / 'out' / 'results.json').read_text()) == first
    page = (folder / 'out' / 'leaderboard.md').read_text()
    assert 'my_module.MyScore' in page and '| mine |' in page
    (picture,) = re.findall(r'\]\((leaderboard/.*?)\)', page)
    with Image.open(folder / 'out' / picture) as sheet:
        pixels = np.asarray(sheet.convert('RGB'))
    assert (pixels[40:, :80].astype(int) @ [1, -1, -1] > 100).any()  # the true cube is red


@pytest.mark.slow
def test_finished_fits_stay_and_a_missing_one_is_made_again_alike(first, folder, monkeypatch):
    monkeypatch.setattr(running, 'subprocess', SimpleNamespace(run=run))
    fits = folder / 'out' / 'fits'
    (kept,) = fits.glob('mine/seed-1/*/DreamFusion.nemo')
    (scores,) = fits.glob('mine/seed-1/*/scores.json')
    before = kept.stat().st_mtime_ns
    scores.unlink()  # killed between fit and measurement
    shutil.rmtree(fits / 'sds')  # killed before this fit
    again = bench(settings('only=[sds]'))  # without the other row: it is in the folder
    assert kept.stat().st_mtime_ns == before and not scores.exists() and set(again['rows']) == {'sds'}
    again = bench(settings(MINE, 'plugins=[my_module]', 'only=[mine]'))
    assert kept.stat().st_mtime_ns == before and set(again['rows']) == {'sds', 'mine'}
    for one, (old, new) in product(COLUMNS, zip(first['objects'], again['objects'], strict=True)):
        if one not in ('fit_seconds', 'retrieved'):
            assert new[one] == pytest.approx(old[one], abs=1e-3), one


@pytest.mark.parametrize(
    ('more', 'key', 'value', 'way_out'),
    [
        (['seeds=[2]'], 'seeds', '[2]', 'out='),
        (['points=600'], 'scoring', NO_VALUE, 'out='),
        (['rows.sds=[model.seed=3]'], 'rows.sds', "['model.seed=3']", 'out='),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(first, more, key, value, way_out):
    with pytest.raises(ValueError) as caught:
        bench(settings('only=[sds]', *more))
    check_refusal(str(caught.value), key, value, way_out)


@pytest.mark.parametrize(
    ('arguments', 'key', 'value', 'way_out'),
    [
        (['suite=nowhere.txt'], 'suite', 'nowhere.txt', 'held_out60'),
        (['only=[csdd]'], 'rows.csdd', NO_VALUE, 'csd'),
        (['rows.mine=3', 'only=[mine]'], 'rows.mine', 3, 'key=value'),
        (
            ['rows.mine=[model.guidance.scroe=1]', 'only=[mine]'],
            'model.guidance.scroe',
            NO_VALUE,
            'model.guidance.score',
        ),
        ([MINE, 'only=[mine]'], 'model.guidance.score._target_', 'my_module.MyScore', PLUGINS),
        (['plugins=[no_such_module]'], 'plugins', 'no_such_module', 'PYTHONPATH'),
        (['plugins=["my module"]'], PLUGINS, 'my module', 'my_module'),
        (['seeds=[]'], 'seeds', [], 'seeds=[1,2,3]'),
        (['gallery=1'], 'gallery', 1, 'at least 2'),
        (['analytic=3'], 'analytic', 3, 'True'),
        (['outt=x'], 'outt', NO_VALUE, 'out'),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, key, value, way_out, folder, capfd, run_command):
    before = set(folder.iterdir())
    assert run_command(main_bench, 'suite=prompts.txt', 'out=refused', *arguments) == 2
    said = capfd.readouterr().err
    assert said.startswith('error: ') and said.count('\n') == 1, said
    check_refusal(said, key, value, way_out)
    assert set(folder.iterdir()) - {folder / '__pycache__'} == before - {folder / '__pycache__'}


def test_held_out_suite_holds_no_text_of_the_training():
    prompts = read_suite('held_out60')
    assert len(set(prompts)) == 60 and all(map(is_held_out, prompts)) and prompts == read_suite('held_out60')
    assert len(read_suite('suite12')) == 12


def test_interval_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(3, 0.5, 400)
    found = bootstrap({str(i): [value] for i, value in enumerate(values)}, draws=4000)
    half = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_interval_covers_the_truth_as_often_as_it_says():
    generator, hits = np.random.default_rng(1), 0
    for _ in range(200):  # 30 objects that differ by 1, three seeds of each that differ by 0.5
        level = generator.normal(0, 1, 30)
        values = {str(i): list(level[i] + generator.normal(0, 0.5, 3)) for i in range(30)}
        found = bootstrap(values, draws=300)
        hits += found.low <= 0 <= found.high
    assert 180 <= hits <= 200


def test_objects_weigh_alike_however_many_seeds_they_have():
    assert bootstrap({'a': [0.0, 0.0, 0.0], 'b': [1.0], 'c': []}).mean == 0.5
    assert bootstrap({'a': []}) is None
    assert bootstrap({'a': [0.0, 1.0], 'b': [2.0]}) == bootstrap({'a': [0.0, 1.0], 'b': [2.0]})


def test_seeds_may_be_added(first):
    plan = read_plan(settings('only=[sds]', 'seeds=[1,2]'))
    assert [fit.seed for fit in plan.fits if fit.row == 'sds'] == [1, 2]


def test_a_row_whose_defaults_have_changed_since_is_refused(first, folder):
    path = folder / 'out' / SETTINGS
    before = path.read_text()
    saved = json.loads(before)
    path.write_text(json.dumps({**saved, 'marks': {**saved['marks'], 'sds': 'another'}}))
    try:
        with pytest.raises(ValueError) as caught:
            read_plan(settings('only=[sds]', 'seeds=[1,2]'))
    finally:
        path.write_text(before)
    check_refusal(str(caught.value), 'rows.sds', [], 'out=')


def test_difference_to_the_first_row_is_taken_object_by_object(folder):
    plan = read_plan(
        settings('only=[sds,csd]', 'rows={sds: [], csd: []}', 'out=paired', 'seeds=[1,2]', 'overrides=[]')
    )
    levels = np.random.default_rng(2).uniform(0, 1, 30)  # objects differ by far more than the rows do
    objects = [
        {**dict.fromkeys(COLUMNS, level + (0.01 if row == 'csd' else 0)), 'retrieval_rank': 1, 'row': row}
        | {'prompt': str(level), 'seed': seed}
        for level, row, seed in product(levels, ('sds', 'csd'), (1, 2))
        if (row, seed) != ('sds', 2)
    ]
    found = compute_differences(plan, objects)
    assert set(found) == {'csd'} and found['csd']['retrieved'].mean == 0
    iou = found['csd']['iou']
    assert (iou.mean, iou.low, iou.high) == pytest.approx((0.01, 0.01, 0.01))
    assert compute_means(plan, objects)['csd']['iou'].overlaps(compute_means(plan, objects)['sds']['iou'])


def test_overlaps_and_best_values_are_told():
    low, near, high = Interval(0.1, 0.0, 0.2), Interval(0.2, 0.15, 0.3), Interval(0.9, 0.8, 1.0)
    means = {name: dict.fromkeys(COLUMNS, one) for name, one in (('a', high), ('b', near), ('c', low))}
    assert find_overlaps(means)['iou'] == [['b', 'c']]
    rows = write_table(means).splitlines()[2:]
    assert (
        rows[0].startswith('| a | **0.900** [0.800, 1.000] |') and '**0.1000**' in rows[2]
    )  # Chamfer: less is better


def test_a_row_may_start_from_another_rows_object_or_from_a_mesh():
    rows = ['rows.nerf=[]', 'rows.then=[config=dreamfusion-dmtet,after=nerf]']
    rows += ['rows.painted=[config=dreamfusion-mesh,mesh=true]', 'only=[nerf,then,painted]', 'overrides=[]']
    plan = read_plan(settings(*rows, 'out=stages'))
    nerf, then, painted = (next(fit for fit in plan.fits if fit.row == row) for row in ('nerf', 'then', 'painted'))
    assert 'dreamfusion-dmtet' in then.command and then.after == 'nerf'
    assert f"restore_from_path='{nerf.folder}/DreamFusion.nemo'" in then.overrides
    assert f"model.mesh='{painted.mesh_path}'" in painted.overrides and painted.mesh == 'true'
    for row, key, way_out in (('[after=then]', 'rows.then', 'starts from none'), ('[mesh=cube]', 'rows.then', 'ball')):
        with refusal(key, NO_VALUE, way_out):
            read_plan(settings(f'rows.then={row}', 'only=[then]', 'out=stages2'))


def test_the_first_meshes_are_the_true_surface_and_a_ball(tmp_path):
    for kind, radius in (('true', 0.5), ('ball', BALL)):
        write_first_mesh(kind, 'a red sphere', tmp_path / f'{kind}.ply')
        mesh = load_mesh(tmp_path / f'{kind}.ply')
        far = np.linalg.norm(mesh.vertices, axis=-1)
        a, b, c = mesh.vertices[mesh.faces].transpose(1, 0, 2)
        volume = (a * np.cross(b, c)).sum() / 6
        assert far.max() - far.min() < 0.01 and volume == pytest.approx(4 / 3 * np.pi * far.mean() ** 3, rel=0.01)
        assert kind == 'true' or far.mean() == pytest.approx(radius, rel=0.01)

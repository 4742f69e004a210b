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

"""Edits from the command's settings to the files: what is compared, resumed, restored, rendered, exported and refused."""

import json

import pytest
import torch
from refusals import NO_VALUE, refusal
from small_model import SMALL

from nemo_dreamfusion import launch
from nemo_dreamfusion.data.cameras import cameras_from_orbit
from nemo_dreamfusion.launch.benchmarking.edit_report import write_edit_report, write_edit_table
from nemo_dreamfusion.launch.benchmarking.edit_suite import EDITS, EditCase, render_true_scenes
from nemo_dreamfusion.launch.benchmarking.edits import SCORES, bench_edits, read_edit_plan
from nemo_dreamfusion.launch.command_line import main_bench
from nemo_dreamfusion.models.dreamfusion import DreamFusion

QUICK = [
    *SMALL,
    'turntable_frames=0',
    'pictures=[]',
    'mesh_resolution=0',
    'preview_interval=0',
    'model.data.val.views=1',
]
QUICK += [f'model.data.{views}.{side}=16' for views in ('val', 'test') for side in ('width', 'height')]
SENTENCES = ['model.prompt=a blue cube', "model.edit.source_prompt='a red cube'"]
REGION = ['model.edit.change_box=[-1,0,-1,1,1,1]']
PER_STEP = 'exp_manager.checkpoint_callback_params.every_n_train_steps=1'


def fit(name, *overrides):
    return launch.fit(launch.load_config(name, [*QUICK, 'trainer.max_steps=2', *overrides]))


def look(model):
    same = torch.zeros(1)
    return model.render_cameras(cameras_from_orbit(same + 30, same + 20, same + 3.2, same + 36, 16, 16)).image


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    return tmp_path_factory.mktemp('edits')


@pytest.fixture(scope='module')
def source(base):
    made = fit('dreamfusion', 'model.prompt=a red cube', f'exp_manager.explicit_log_dir={base / "source"}')
    return f'restore_from_path={made.folder / "DreamFusion.nemo"}'


@pytest.fixture(scope='module')
def edited(base, source):
    return fit(
        'dreamfusion-edit', *SENTENCES, *REGION, source, f'exp_manager.explicit_log_dir={base / "edited"}', PER_STEP
    )


def test_an_edited_object_is_a_run_like_any_other(edited, base):
    """Its archive needs nothing of the object before; it is looked at and exported."""
    assert {'DreamFusion.nemo', 'metrics.json', 'config.yaml', 'report.html'} <= {path.name for path in edited.files}
    assert 'loss_keep' in edited.metrics['last_step']
    archive = edited.folder / 'DreamFusion.nemo'
    restored = DreamFusion.restore_from(str(archive), map_location='cpu')
    assert torch.equal(look(restored), look(edited.model)) and restored.edit is None
    assert restored.prompts.source == 'a red cube'
    shown = launch.render(
        launch.load_config(
            'dreamfusion', [*QUICK, 'mode=test', f'restore_from_path={archive}', f'exp_manager.exp_dir={base}']
        )
    )
    assert len(shown.views) == 8
    options = ['mode=export-mesh', f'restore_from_path={archive}', f'mesh_fname={base / "edited.ply"}']
    try:
        launch.export(launch.load_config('dreamfusion', [*QUICK, *options, 'mesh_resolution=24']))
    except ValueError as error:
        assert 'surface' in str(error)  # an object of two steps may have none
    else:
        assert (base / 'edited.ply').is_file()


def test_a_resumed_edit_ends_where_one_without_a_break_does(base, source, edited):
    options = [
        *SENTENCES,
        *REGION,
        source,
        PER_STEP,
        'model.iters=2',
        f'exp_manager.explicit_log_dir={base / "resumed"}',
    ]
    fit('dreamfusion-edit', *options, 'trainer.max_steps=1')
    resumed = fit('dreamfusion-edit', *options)
    for name, value in edited.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_colours_change_where_the_words_say_alone_and_a_resumed_edit_finds_the_same(base, source):
    options = [*SENTENCES, 'model.edit.keep_shape=true', source, PER_STEP, 'model.iters=2']
    whole, resumed, everywhere = (f'exp_manager.explicit_log_dir={base / name}' for name in ('parts', 'on', 'all'))
    edited = fit('dreamfusion-edit', *options, whole)
    parts = edited.model.edit.parts
    assert parts is not None and parts.changes.any()
    fit('dreamfusion-edit', *options, resumed, 'trainer.max_steps=1')
    again = fit('dreamfusion-edit', *options, resumed)
    assert torch.equal(again.model.edit.parts.centers, parts.centers)
    assert torch.equal(again.model.edit.parts.changes, parts.changes)
    for name, value in edited.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    assert fit('dreamfusion-edit', *options, everywhere, 'model.edit.find_region=false').model.edit.parts is None


def test_edits_of_one_object_have_folders_of_their_own(base, source):
    folders = [
        fit('dreamfusion-edit', 'model.prompt=a blue cube', f'model.edit.source_prompt={before}', source,
            f'exp_manager.exp_dir={base / "many"}', 'trainer.max_steps=1').folder
        for before in ('a red cube', 'a cube')
    ]  # fmt: skip
    assert folders[0] != folders[1] and all(folder.name.startswith('a-blue-cube-') for folder in folders)


@pytest.mark.parametrize(
    ('name', 'overrides', 'key', 'value', 'way_out'),
    [
        ('dreamfusion-edit', SENTENCES, 'model.edit.source_prompt', NO_VALUE, 'restore_from_path=<file>.nemo'),
        ('dreamfusion', SENTENCES, 'model.edit.source_prompt', NO_VALUE, 'restore_from_path=<file>.nemo'),
    ],
)
def test_an_edit_of_nothing_is_refused_before_any_work(name, overrides, key, value, way_out, base):
    before = set(base.iterdir())
    with refusal(key, value, way_out):
        fit(name, *overrides, f'exp_manager.exp_dir={base / "nothing"}')
    assert set(base.iterdir()) == before


def test_scores_and_sentences_that_do_not_belong_together_are_refused(source, base):
    folder = f'exp_manager.exp_dir={base / "nothing"}'
    with refusal('model.edit.source_prompt', None, "model.edit.source_prompt='a red cube'"):
        fit('dreamfusion-edit', 'model.prompt=a blue cube', source, folder)
    with refusal('model.guidance.score', 'ScoreDistillationSampling', 'dreamfusion-edit'):
        fit('dreamfusion', *SENTENCES, source, folder)
    with refusal('model.edit.keep_shape', False, 'model.edit.keep_shape=true'):
        mesh = [one for one in QUICK if not one.startswith('model.renderer')]
        cfg = launch.load_config('dreamfusion-edit', [*mesh, *SENTENCES, source, folder, 'model/renderer=mesh'])
        launch.fit(cfg)


# The benchmark


def test_twenty_edits_of_known_truth():
    """Each is in the world, and changes some pixels and, of two things, not all."""
    assert len({(case.source, case.target) for case in EDITS}) == len(EDITS) == 20
    for case in EDITS:
        before, after, changed = render_true_scenes(case, 32)
        assert 0.005 < changed.float().mean() < 0.5, case
        if case.keeps_shape:  # a new colour
            differ = (before.image - after.image).abs().amax(-1)
            assert (differ[changed] > 0.05).all()
        assert case.keeps_shape == torch.equal(before.opacity, after.opacity), case


def test_what_stays_stands_where_it_stood():
    """The world centres its scenes; under a taller thing the cylinder would sink."""
    stack = EditCase('a red cube on top of a green cylinder', 'a red sphere on top of a green cylinder', ())
    before, after, changed = render_true_scenes(stack, 32)
    assert torch.equal(before.image[0, 24:], after.image[0, 24:]) and not torch.equal(before.image, after.image)
    assert changed[0, 8:14, 16].all() and not changed[0, 20:].any()  # all of the sphere is new, the cylinder is not


def test_an_edit_is_fitted_measured_and_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    small = (
        '[' + ','.join(f'"{one}"' for one in (*SMALL[:-3], 'trainer.max_steps=2', 'model.data.val.height=16')) + ']'
    )
    settings = [f'out={tmp_path}', 'edits=[2]', f'overrides={small}', f'source_overrides={small}', 'resolution=32']
    cfg = launch.load_config('bench-edits', settings)
    _, _, source, *_ = read_edit_plan(cfg).edits[0]  # fitted here as planned; the edit is by a process of its own
    launch.fit(launch.load_config(source.config, source.overrides))
    found = bench_edits(cfg)
    assert found['failed'] == [], found
    (one,) = found['edits']
    assert (one['source'], one['target'], one['steps']) == ('a red cube', 'a blue cube', 2)
    assert 0 <= one['iou_before'] <= 1 and one['kept_psnr_db'] is None  # all of it changes its colour
    page = (tmp_path / 'edits.md').read_text(encoding='utf-8')
    assert 'a red cube → a blue cube' in page and (tmp_path / 'dds' / 'edit-02' / 'views.png').is_file()
    kept = (tmp_path / 'dds' / 'edit-02' / SCORES).stat().st_mtime_ns
    assert (
        bench_edits(cfg)['edits'] == found['edits']
        and kept == (tmp_path / 'dds' / 'edit-02' / SCORES).stat().st_mtime_ns
    )
    with refusal('resolution', 48, 'out=<another folder>'):
        read_edit_plan(launch.load_config('bench-edits', [*settings, 'resolution=48']))


def test_the_report_has_earlier_calls_and_what_could_not_be_measured(tmp_path, run_command, capfd):
    """Fits that are finished by their files, of which one archive is damaged."""
    first, second = ([f'out={tmp_path}', *words] for words in (['edits=[1,2]'], ['edits=[3]', 'only=[pds]']))
    scores = {'changed_delta_e': 1.0, 'kept_psnr_db': None, 'iou_before': 1.0, 'fit_seconds': 1.0, 'steps': 1}
    for words in (first, second):
        for number, _, *fits in read_edit_plan(launch.load_config('bench-edits', words)).edits:
            for fit in fits:
                fit.folder.mkdir(parents=True, exist_ok=True)
                (fit.folder / 'metrics.json').write_text(json.dumps({'steps': fit.steps}))
                (fit.folder / 'DreamFusion.nemo').write_text('damaged')
            if number != 2:
                (fits[1].folder / SCORES).write_text(json.dumps(scores))
    assert run_command(main_bench, '--config-name', 'bench-edits', *first) == 1
    assert 'error: dds, edit 2, a blue cube: was not measured' in capfd.readouterr().err
    found = bench_edits(launch.load_config('bench-edits', second))
    assert [(one['row'], one['edit']) for one in found['edits']] == [('dds', 1), ('pds', 3)] and not found['failed']


@pytest.mark.parametrize(
    ('setting', 'key', 'value', 'way_out'),
    [
        ('edits=[21]', 'edits', 21, 'at most 20'),
        ('only=[ddss]', 'rows.ddss', NO_VALUE, 'dds'),
        ('rows.dds=[model.edit.keep=1]', 'model.edit.keep', NO_VALUE, 'model.edit.keep_box'),
        ("source_overrides=['model.seedd=1']", 'source_overrides', NO_VALUE, 'model.seed'),
    ],
)
def test_bad_settings_of_the_benchmark_are_refused(setting, key, value, way_out, tmp_path):
    with refusal(key, value, way_out):
        read_edit_plan(launch.load_config('bench-edits', [f'out={tmp_path / "x"}', setting]))
    assert not (tmp_path / 'x').exists()


def test_the_table_counts_what_is_as_good_as_was_wanted(tmp_path):
    common = {'row': 'dds', 'source': 'a', 'target': 'b', 'fit_seconds': 9.6}
    made = [
        {**common, 'edit': 1, 'keeps_shape': True, 'changed_delta_e': 15.0, 'kept_psnr_db': 27.9, 'iou_before': 0.951},
        {**common, 'edit': 2, 'keeps_shape': False, 'changed_delta_e': 15.1, 'kept_psnr_db': None, 'iou_before': 0.5},
    ]
    lines = write_edit_table(made).splitlines()
    assert lines[2] == '| 1 | dds | a | b | **15.0** | 27.9 | **0.951** | 10 |'
    assert lines[3] == '| 2 | dds | a | b | 15.1 |  |  | 10 |'
    assert lines[4] == '| | dds | | as good as wanted | 1 of 2 | 0 of 1 | 1 of 1 | |'
    failed = [{'edit': 3, 'row': 'dds', 'source': 'a', 'target': 'b', 'reason': 'failed'}]
    write_edit_report(tmp_path, {}, made, failed)
    assert json.loads((tmp_path / 'results.json').read_text())['failed'] == failed
    assert '- edit 3 by dds: failed' in (tmp_path / 'edits.md').read_text()

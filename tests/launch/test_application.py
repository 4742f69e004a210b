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

"""The application as a program or a notebook has it: what fit, render, export and evaluate return and raise."""

import json
import logging
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import imageio.v2 as imageio
import lightning.pytorch as pl
import pytest
import torch
import trimesh
from refusals import NO_VALUE, refusal
from small_model import NO_PICTURES, SMALL

from nemo_dreamfusion import launch
from nemo_dreamfusion.launch import fitting, reporting
from nemo_dreamfusion.launch.paths import CONF
from nemo_dreamfusion.launch.reporting import changed_settings, collected_warnings, score_known

ROOT = Path(__file__).parents[2]
QUICK = [*SMALL, 'mesh_resolution=16', 'model.data.val.views=1', 'model.data.test.views=2', 'preview_interval=0']
QUICK += [f'model.data.{views}.{side}=16' for views in ('val', 'test') for side in ('width', 'height')]


def configure(folder, *overrides):
    """A configuration whose fit takes seconds."""
    return launch.load_config(overrides=[*QUICK, f'exp_manager.exp_dir={folder}', 'trainer.max_steps=2', *overrides])


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    return tmp_path_factory.mktemp('runs')


@pytest.fixture(scope='module')
def made(base):
    """What a fit returned."""
    return launch.fit(configure(base, 'model.prompt=a duck'))


@pytest.mark.slow
def test_a_fit_returns_the_object_and_all_that_it_left(made, base):
    assert made.status == 'finished' and made.folder.parent == base
    assert {path.name for path in made.files} == set(fitting.FILES)
    assert made.metrics == json.loads((made.folder / 'metrics.json').read_text())
    assert made.metrics['steps'] == 2 and made.model.prompts.prompt == 'a duck'
    for name in ('nemo_logger', 'lightning.pytorch'):  # what is said later does not go into its files
        files = [getattr(handler, 'baseFilename', '') for handler in logging.getLogger(name).handlers]
        assert not any(Path(file).is_relative_to(made.folder) for file in files)


def test_a_fit_leaves_a_report(made):
    page = (made.folder / 'report.html').read_text(encoding='utf-8')
    body = re.sub(r'<script.*?</script>|base64,[^"]*', '', page, flags=re.S)
    assert '://' not in body
    for said in (
        '<h1>a duck</h1>',
        'seed 1, 2 steps',
        '>trainer.max_steps</th><td class="number">2</td>',
        '>faces</th>',
    ):
        assert said in body
    drawn = re.findall(r'aria-label="(\w+): ', body)
    assert {'loss', 'guidance', 'opacity', 'gradient_norm'} <= set(drawn)
    assert set(made.metrics['scores']) == {'iou', 'psnr_db', 'view_accuracy'}
    assert f'{made.metrics["scores"]["iou"]:.4g}</td>' in body


def test_settings_are_compared_with_the_nearest_configuration():
    assert changed_settings(launch.load_config()) == {} == changed_settings(launch.load_config('dreamfusion-sd'))
    cfg = launch.load_config('dreamfusion-sd', ['model.optim.lr=0.5', 'model.prompt=a cat', '+trainer.max_epochs=3'])
    changed = changed_settings(cfg)
    assert changed.keys() == {'model.optim.lr', 'trainer.max_epochs'}
    assert changed['model.optim.lr'][0] == 0.5 and changed['trainer.max_epochs'] == (3, 'not set')


def test_the_nearest_configuration_is_found_among_all_that_a_fit_may_have():
    assert sorted(reporting.SHIPPED) == sorted(path.stem for path in CONF.glob('dreamfusion*.yaml'))
    for name, close in reporting.NEAR.items():  # no other can be nearer, by the triangle inequality
        cfg = launch.load_config(name)
        others = [reporting._shipped_settings(other) for other in reporting.SHIPPED if other != name]
        here = reporting._settings(cfg)
        assert min(sum(here[key] != other.get(key) for key in here) for other in others) >= 2 * close
    for name in ('dreamfusion-edit', 'dreamfusion-sdxl'):  # eight settings from dreamfusion, two from dreamfusion-sd
        assert changed_settings(launch.load_config(name, ['model.optim.lr=0.5'])).keys() == {'model.optim.lr'}


def test_warnings_of_a_fit_are_collected_once():
    logger = logging.getLogger('nemo_dreamfusion.callbacks.collapse')
    with collected_warnings() as said:
        for _ in range(2):
            logger.warning('Step %d. All is fog', 3)
        logger.info('fine')
    logger.warning('later')
    assert said == ['Step 3. All is fog']


def test_an_object_of_another_model_has_no_scores(made):
    other = SimpleNamespace(options={'guidance': {'source': 'a/b'}})
    assert score_known(other) == {} and score_known(made.model).keys() == made.metrics['scores'].keys()


def test_a_video_along_a_path_of_ones_own(made, tmp_path):
    path = tmp_path / 'path.json'
    path.write_text(json.dumps([{'azimuth_deg': 10 * i, 'elevation_deg': i, 'distance': 3} for i in range(5)]))
    settings = [f'restore_from_path={made.folder / "DreamFusion.nemo"}', 'mode=render']
    rendered = launch.render(configure(tmp_path, *settings, f'camera_path={path}'))
    images = [image for image in imageio.get_reader(rendered.strip)]
    assert len(images) == 5 and images[0].shape == (32, 32, 3) and rendered.strip.name == 'camera_path.mp4'
    with refusal('mode=render', NO_VALUE, 'camera_path'):
        launch.render(configure(tmp_path, *settings))
    path.write_text(json.dumps([{'azimuth_deg': 0, 'elevation_deg': 91, 'distance': 3}]))
    with refusal('camera_path[0].elevation_deg', 91, '90'):
        launch.render(configure(tmp_path, *settings, f'camera_path={path}'))


@pytest.mark.parametrize(
    ('override', 'key', 'value', 'way_out'),
    [
        ('turntable_size=8', 'turntable_size', 8, '16'),
        ('turntable_size=5000', 'turntable_size', 5000, '2048'),
        ('pictures=[png]', 'pictures', 'png', 'webp'),
        ('pictures=stills', 'pictures', 'stills', 'pictures=[turntable,stills]'),
    ],
)
def test_pictures_are_checked_before_the_fit(tmp_path, override, key, value, way_out):
    with refusal(key, value, way_out):
        launch.fit(configure(tmp_path, override))
    assert not list(tmp_path.iterdir())


def test_the_same_call_returns_the_finished_object(made, base):
    again = launch.fit(configure(base, 'model.prompt=a duck'))
    assert (again.status, again.folder, again.metrics) == ('skipped', made.folder, made.metrics)
    assert all(torch.equal(again.model.state_dict()[name], value) for name, value in made.model.state_dict().items())


def test_a_configuration_is_left_as_it_was_and_may_be_changed_by_hand(base, made):
    cfg = configure(base)
    cfg.model.prompt = 'a duck'  # not an override: whatever it holds
    before = cfg.copy()
    assert launch.fit(cfg).folder == made.folder and cfg == before


def test_a_mesh_and_its_size(made, tmp_path):
    overrides = [f'restore_from_path={made.folder / "DreamFusion.nemo"}', f'mesh_fname={tmp_path / "duck.ply"}']
    exported = launch.export(configure(tmp_path, *overrides))
    mesh = trimesh.load(exported.path)
    assert (len(mesh.vertices), len(mesh.faces)) == (exported.vertices, exported.faces)


@pytest.mark.parametrize(('mode', 'strip', 'views'), [('test', 'test.png', 2), ('validate', 'validation.png', 1)])
def test_views_of_a_finished_object(made, tmp_path, mode, strip, views):
    archive = f'restore_from_path={made.folder / "DreamFusion.nemo"}'
    rendered = launch.render(configure(tmp_path, archive, f'mode={mode}'))
    assert rendered.strip == rendered.folder / strip and rendered.strip.is_file()
    assert len(rendered.views) == views and all(path.is_file() for path in rendered.views)
    with refusal('mode', 'fit', 'test', 'validate'):
        launch.render(configure(tmp_path, archive))


def test_an_evaluation_returns_the_scores_it_writes(made, tmp_path):
    missing = tmp_path / 'damaged.nemo'
    files = [str(made.folder / 'DreamFusion.nemo')]
    cfg = launch.load_config('evaluate', [f'nemo_files={files}', f'out={tmp_path / "eval.json"}', 'resolution=16'])
    result = launch.evaluate(cfg)
    (score,) = result.objects
    assert (score.prompt, score.steps, result.failed) == ('a duck', 2, ()) and result.mean['iou'] == score.iou
    assert json.loads((tmp_path / 'eval.json').read_text())['objects'][0]['psnr_db'] == score.psnr_db
    cfg.nemo_files = [str(missing)]
    with refusal('nemo_files', str(missing), '.nemo files'):
        launch.evaluate(cfg)


@pytest.mark.slow
def test_a_fit_that_ends_early_says_where_and_the_same_call_goes_on(tmp_path):
    epoch = [*NO_PICTURES, 'model.data.steps_per_epoch=1']
    stopped = launch.fit(configure(tmp_path, *epoch, '++trainer.max_epochs=1'))
    assert (stopped.status, stopped.metrics) == ('stopped', {}) and '1 of 2' in stopped.remark
    assert fitting.ARCHIVE not in {path.name for path in stopped.files}
    assert launch.fit(configure(tmp_path, *epoch)).metrics['steps'] == 2


@pytest.mark.slow
def test_an_interrupted_fit_raises_and_the_same_call_goes_on(tmp_path):
    class Interrupt(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(launch.FitInterrupted) as caught:
        launch.fit(configure(tmp_path, *NO_PICTURES), callbacks=[Interrupt()])
    assert caught.value.exit_code == 143
    (checkpoint,) = (caught.value.folder / 'checkpoints').glob('*-last.ckpt')
    assert 'step=1' in checkpoint.name
    assert launch.fit(configure(tmp_path, *NO_PICTURES)).folder == caught.value.folder


def test_mistakes_are_value_errors_that_leave_nothing(tmp_path, capfd):
    with refusal('trainer.max_steps', 0, 'at least 1'):
        launch.fit(configure(tmp_path, 'trainer.max_steps=0'))
    with refusal('mode=export-mesh', NO_VALUE, 'restore_from_path'):
        launch.export(configure(tmp_path))
    assert not list(tmp_path.iterdir()) and capfd.readouterr().err == ''


def test_importing_it_is_quick_and_no_module_hides_a_function():
    modules = sorted(path.stem for path in (ROOT / 'nemo_dreamfusion' / 'launch').glob('*.py'))
    assert not {'fit', 'render', 'export', 'evaluate', 'load_config'} & set(modules)
    code = 'import sys; from nemo_dreamfusion import launch; from nemo_dreamfusion.launch import command_line\n'
    code += 'print([name for name in ("torch", "nemo", "lightning", "hydra") if name in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'

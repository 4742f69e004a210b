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


"""The commands of the README, run as a user runs them, with a short real training that must make the right object."""

import json
import math
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trimesh
import yaml
from commands import run_example
from PIL import Image
from refusals import NO_VALUE, check_refusal
from small_model import NO_PICTURES

from nemo_dreamfusion.launch import command_line
from nemo_dreamfusion.launch.arguments import prepare_arguments

ROOT = Path(__file__).parents[2]
STEPS = 160
PICTURES = ['turntable_frames=8', 'turntable_size=128', 'mesh_resolution=64', 'mesh_faces=2000', 'texture_size=256']


def pixels(path: Path, size: int | None = 128) -> np.ndarray:
    """A picture as numbers in [0, 1]: [H, W, 3], shrunk to a side of ``size`` pixels."""
    image = Image.open(path).convert('RGB')
    return np.asarray(image if size is None else image.resize((size, size), Image.Resampling.BOX)) / 255


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference of two pictures of one size."""
    return np.abs(one - other).mean()


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """One short run of the main job, by its script with its output in pipes."""
    base = tmp_path_factory.mktemp('main_job')
    overrides = [
        'model.prompt=a hamburger',
        f'trainer.max_steps={STEPS}',
        f'exp_manager.exp_dir={base}',
        *PICTURES,
    ]
    call = [sys.executable, str(ROOT / 'examples' / 'dreamfusion.py'), '--config-name', 'dreamfusion', *overrides]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return base, done


@pytest.fixture(scope='module')
def run(finished):
    """The folder of that run."""
    (folder,) = [path for path in finished[0].iterdir() if path.is_dir()]
    return folder


@pytest.mark.slow
def test_its_log_is_short(finished):
    """The first step, the last, and a line each half minute: a terminal's bar would leave two a step."""
    done = finished[1]
    lines = re.split(r'[\r\n]', done.stdout.strip() + '\n' + done.stderr.strip())
    steps = [line for line in lines if line.startswith('fit ')]
    assert steps[0].startswith(f'fit 1/{STEPS} | ') and steps[-1].startswith(f'fit {STEPS}/{STEPS} | ')
    assert len(steps) < STEPS / 4 and len(lines) < len(steps) + 12
    assert 'chdir' not in done.stderr and 'OneLogger' not in done.stderr


@pytest.mark.slow
def test_a_run_leaves_what_the_readme_promises(run):
    assert run.name.startswith('a-hamburger-')
    assert Image.open(run / 'preview.png').width >= 8 * 64
    for name in ('turntable.mp4', 'DreamFusion.nemo', 'config.yaml', 'mesh.glb'):
        assert (run / name).stat().st_size > 1000, name
    assert list((run / 'checkpoints').glob('*.ckpt'))
    metrics = json.loads((run / 'metrics.json').read_text())
    assert metrics['steps'] == STEPS and metrics['fit_seconds'] > 0
    mesh = trimesh.load(run / 'mesh.glb', force='mesh')
    assert abs(mesh.bounds).max() < 1.05 and mesh.extents[0] > 0.8  # a hamburger is wide


@pytest.mark.slow
def test_a_short_training_makes_the_right_object(run, tmp_path):
    out = tmp_path / 'eval.json'
    assert run_example('evaluate.py', f'nemo_files=[{run / "DreamFusion.nemo"}]', f'out={out}') == 0
    (row,) = json.loads(out.read_text())['objects']
    assert row['prompt'] == 'a hamburger' and row['steps'] == STEPS
    # After 200 steps: IoU 0.94, 18.4 dB. A field before training: IoU 0.76, 11.1 dB, rank 7.
    assert row['iou'] > 0.85
    assert row['psnr_db'] > 13
    assert row['retrieval_rank'] == 1


@pytest.mark.slow
def test_test_and_validate_modes_and_mesh_export_from_the_archive(run, tmp_path, monkeypatch):
    example, archive = partial(run_example, 'dreamfusion.py'), f'restore_from_path={run / "DreamFusion.nemo"}'
    front, back = 'azimuth+000_elevation+15.png', 'azimuth-180_elevation+15.png'
    for mode, name, views in (('test', 'test', 8), ('validate', 'validation', 4)):
        folder = tmp_path / 'modes'
        assert example(f'mode={mode}', archive, f'exp_manager.explicit_log_dir={folder}') == 0
        assert len(list((folder / name).glob('*.png'))) == views and (folder / f'{name}.png').exists()
    tested, validated = (pixels(folder / name / front) for name in ('test', 'validation'))
    assert 3 * difference(tested, validated) < difference(pixels(folder / 'test' / back), validated)
    strip = pixels(run / 'preview.png', size=None)
    side = strip.shape[1] // 8
    for i, name in ((0, front), (4, back)):  # what the fit left, and what the archive gives
        assert difference(pixels(folder / 'test' / name), strip[:side, i * side : (i + 1) * side]) < 0.01
    monkeypatch.chdir(tmp_path)
    assert example('mode=export-mesh', archive, 'mesh_fname=out.glb', *PICTURES) == 0
    exported = trimesh.load(tmp_path / 'out.glb', force='mesh')
    assert abs(exported.bounds - trimesh.load(run / 'mesh.glb', force='mesh').bounds).max() < 1e-4


@pytest.mark.slow
def test_a_finished_run_resumes_and_another_recipe_is_refused(run, capfd):
    example, there = partial(run_example, 'dreamfusion.py'), f'exp_manager.exp_dir={run.parent}'
    assert example(f'trainer.max_steps={STEPS}', there, 'model.guidance.guidance_scale=7') == 2
    check_refusal(capfd.readouterr().err, 'model.guidance.mixing.guidance_scale', 7, 2.0, 'exp_manager.exp_dir')
    longer = [f'trainer.max_steps={STEPS + 4}', there, *NO_PICTURES]
    assert example(*longer) == 0
    assert json.loads((run / 'metrics.json').read_text())['steps'] == STEPS + 4


@pytest.mark.parametrize('group', ['pocket', 'data'])
@pytest.mark.parametrize('cameras', ['val', 'test'])
def test_cameras_of_the_pictures_see_the_whole_unit_ball(group, cameras):
    views = yaml.safe_load((ROOT / 'nemo_dreamfusion' / 'conf' / 'model' / 'data' / f'{group}.yaml').read_text())[
        cameras
    ]
    assert math.asin(1 / views['distance']) < math.radians(views['fov_deg'] / 2)


@pytest.mark.parametrize(
    ('arguments', 'key', 'value', 'way_out'),
    [
        (['model.prompt=a hamberger on a plate'], 'hamberger', NO_VALUE, 'model/guidance=sd_huggingface'),
        (['model.promt=a duck'], 'model.promt', NO_VALUE, 'model.prompt'),
        (['+trainer.max_step=5'], 'trainer.max_step', NO_VALUE, 'trainer.max_steps'),
        (['model.optim.lr=fast'], 'model.optim.lr', 'fast', 'greater than 0'),
        (['model/renderer=mitsuba'], 'model/renderer/mitsuba', NO_VALUE, 'torchngp_raymarching'),
        (['model/nerf=tcnn'], 'tinycudann', NO_VALUE, 'model/nerf=torchngp'),
        (['trainer.max_steps=0'], 'trainer.max_steps', 0, 'at least 1'),
        (['mode=test', 'restore_from_path=missing.nemo'], 'restore_from_path', 'missing.nemo', 'does not exist'),
        (['mode=test'], 'mode', 'test', 'restore_from_path'),
        (['mode=tset'], 'mode', 'tset', 'fit'),
        (['exp_manager.exp_dir={file}/below'], 'exp_manager.exp_dir', '{file}/below', 'another folder'),
        (['mode=export-mesh', 'restore_from_path={file}'], '{file}', NO_VALUE, '.nemo'),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments, key, value, way_out, tmp_path, monkeypatch, capfd, run_command
):
    file = tmp_path / 'file'
    file.write_bytes(b'no archive')
    monkeypatch.chdir(tmp_path)
    default = [] if 'exp_dir' in arguments[0] else [f'exp_manager.exp_dir={tmp_path / "results"}']
    assert run_command(command_line.main, *default, *[a.format(file=file) for a in arguments]) == 2
    said = capfd.readouterr().err
    value = value.format(file=file) if isinstance(value, str) else value
    check_refusal(said, key.format(file=file), value, way_out)
    assert said.startswith('error: ') and said.count('\n') == 1
    assert sorted(path.name for path in tmp_path.iterdir() if any(path.rglob('*')) or path.is_file()) == ['file']


@pytest.mark.parametrize(
    'options',
    [['--config-path={}', '-cn', 'mine'], ['--config-name=mine', '--config-path', '{}'], ['-cp={}', '-cn=mine']],
)
@pytest.mark.parametrize('folder', ['conf', '{tmp_path}/conf'])
def test_a_configuration_of_ones_own(options, folder, tmp_path, monkeypatch, capfd, run_command):
    """Its folder may be relative to the working folder; NeMo's and our keys in it are not translated."""
    (tmp_path / 'conf').mkdir()
    (tmp_path / 'conf' / 'mine.yaml').write_text('mode: mine\n')
    monkeypatch.chdir(tmp_path)
    folder = folder.format(tmp_path=tmp_path)
    assert run_command(command_line.main, *[option.format(folder) for option in options]) == 2
    check_refusal(capfd.readouterr().err, 'mode', 'mine', 'fit')


def test_a_folder_beside_the_script_is_found_as_hydra_does(tmp_path, monkeypatch):
    (tmp_path / 'scripts' / 'conf').mkdir(parents=True)
    (tmp_path / 'conf').mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [str(tmp_path / 'scripts' / 'main.py')])
    assert prepare_arguments(['a=1', '-cp', 'conf']) == ['-cp', str(tmp_path / 'scripts' / 'conf'), 'a=1']

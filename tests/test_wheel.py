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

"""The wheel: what it holds, whom it serves, and a fit with its command where there is no checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import torch
from small_model import SMALL

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'nemo_dreamfusion'
SOURCES = (
    'setup.py',
    'pyproject.toml',
    'MANIFEST.in',
    'README.md',
    'LICENSE',
    'requirements',
    'nemo_dreamfusion',
    'docs',
)
QUICK = (
    'model.data.val.views=1',
    'model.renderer.max_steps=16',
    'mesh_resolution=16',
    'turntable_frames=6',
    'trainer.max_steps=20',
)

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path, **environment: str) -> str:
    """What a command prints; it must succeed, and knows nothing of the checkout."""
    variables = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    call = [str(part) for part in command]
    done = subprocess.run(call, cwd=cwd, env=variables | environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


def quick_compiler(folder: Path) -> dict[str, str]:
    """A C++ compiler that optimizes nothing, for the environment: -O3 takes it three times as long. Empty without g++."""
    if (compiler := shutil.which('g++')) is None:
        return {}
    quick = folder / 'quick-g++'
    quick.write_text(f'#!/bin/sh\nexec {compiler} "$@" -O0\n')
    quick.chmod(0o755)
    return {'CC': str(quick), 'CXX': str(quick)}


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The wheel that `python -m build` makes: a source distribution first, then a wheel from nothing else."""
    source, dist = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('dist')
    left_out = shutil.ignore_patterns('*.so', '__pycache__')
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=left_out)
        else:
            shutil.copy(ROOT / name, source)
    quick = quick_compiler(tmp_path_factory.mktemp('compiler'))
    run(sys.executable, '-m', 'build', '--no-isolation', '--outdir', dist, source, cwd=dist, **quick)
    assert len(list(dist.glob('*.tar.gz'))) == 1
    (path,) = dist.glob('*.whl')
    return path


@pytest.fixture(scope='module')
def environment(wheel, tmp_path_factory):
    """An empty environment with the wheel and the packages that it requires, and no way to the checkout."""
    folder = tmp_path_factory.mktemp('environment')
    run(sys.executable, '-m', 'venv', '--without-pip', folder, cwd=folder)
    python = folder / 'bin' / 'python'
    run(sys.executable, '-m', 'pip', '--python', python, 'install', '--no-deps', '--no-index', wheel, cwd=folder)
    own = run(python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))', cwd=folder).strip()
    # torch and the rest as they are here. Their folder's own .pth files, such as the checkout's, are not read from there.
    (Path(own) / 'requirements.pth').write_text(sysconfig.get_path('purelib') + '\n', encoding='utf-8')
    return folder


def test_the_wheel_is_for_every_python_3_of_its_platform(wheel):
    platform = sysconfig.get_platform().replace('-', '_').replace('.', '_')
    assert wheel.name.endswith(f'-py3-none-{platform}.whl')
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith('.dist-info/WHEEL'))
        tags = [line for line in file.read(name).decode().splitlines() if line.startswith('Tag:')]
    assert tags == [f'Tag: py3-none-{platform}']


def test_the_wheel_holds_code_configuration_weights_and_library(wheel):
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if '.dist-info/' not in name}
    expected = [*PACKAGE.rglob('*.py'), *(PACKAGE / 'conf').rglob('*.yaml')]
    expected += [path for path in (PACKAGE / 'pocket' / 'weights').rglob('*') if path.is_file()]
    missing = {path.relative_to(ROOT).as_posix() for path in expected} - held
    assert not missing
    libraries = [name for name in held if name.endswith('.so')]
    assert libraries == (['nemo_dreamfusion/ops/backends/_native.so'] if shutil.which('g++') else [])


def test_the_installed_command_fits_where_there_is_no_checkout(environment, tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    where = 'import nemo_dreamfusion; print(nemo_dreamfusion.__file__)'
    imported = run(environment / 'bin' / 'python', '-c', where, cwd=tmp_path).strip()
    assert Path(imported).is_relative_to(environment)
    said = run(
        environment / 'bin' / 'nemo-dreamfusion',
        *SMALL,
        *QUICK,
        'model.prompt=a red cube',
        'exp_manager.exp_dir=runs',
        cwd=tmp_path / 'elsewhere',
        OMP_NUM_THREADS=str(torch.get_num_threads()),
    )
    (folder,) = (tmp_path / 'elsewhere' / 'runs').iterdir()
    assert json.loads((folder / 'metrics.json').read_text())['steps'] == 20
    for name in ('DreamFusion.nemo', 'preview.png', 'turntable.mp4', 'mesh.glb', 'config.yaml', 'report.html'):
        assert (folder / name).stat().st_size > 0, name
    assert ('slow torch reference' in said) == (shutil.which('g++') is None)  # the wheel's own library runs

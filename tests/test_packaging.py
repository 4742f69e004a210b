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

"""What the repository says about itself is true: extras, install order, commands, settings, container paths."""

import ctypes
import importlib
import inspect
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools
import yaml
from packaging.specifiers import SpecifierSet
from refusals import NO_VALUE, check_refusal

import nemo_dreamfusion

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / 'nemo_dreamfusion' / 'conf'
HYDRA_KEYS = {'_target_', '_partial_', '_recursive_', '_convert_', '_args_'}
CONFIGS = sorted(CONF.rglob('*.yaml')) if CONF.is_dir() else []
MAIN_CONFIGS = sorted(path.stem for path in CONFIGS if path.parent == CONF)


# setup.py and requirements/


@pytest.fixture
def metadata(monkeypatch):
    """The arguments that setup.py hands to setuptools."""
    given = {}
    monkeypatch.setattr(setuptools, 'setup', lambda **kwargs: given.update(kwargs))
    runpy.run_path(str(ROOT / 'setup.py'))
    return given


def requirement_lines(path):
    lines = [line.partition(' #')[0].strip() for line in path.read_text(encoding='utf-8').splitlines()]
    return [line for line in lines if line and not line.startswith('#')]


def test_extras_are_the_requirement_files(metadata):
    files = {path.stem: requirement_lines(path) for path in (ROOT / 'requirements').glob('*.txt')}
    assert metadata['install_requires'] == files.pop('requirements')
    assert metadata['extras_require'] == files
    assert {'nerfacc', 'tcnn', 'tensorrt', 'launcher', 'test'} <= set(files)


def test_every_requirement_is_pinned_or_bounded():
    for path in (ROOT / 'requirements').glob('*.txt'):
        for line in requirement_lines(path):
            assert re.search(r'==|~=|@|<', line) or line == 'torch>=2.6', f'{path.name}: {line}'


def test_version_is_the_one_of_package_info(metadata):
    assert metadata['version'] == nemo_dreamfusion.__version__


def test_all_packages_are_installed(metadata):
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / 'nemo_dreamfusion').rglob('*.py')}
    assert {'.'.join(folder.parts) for folder in folders} == set(metadata['packages'])


# The native library is optional


@pytest.fixture
def checkout(tmp_path):
    """A copy of what setup.py reads, without the sources of the native library."""
    for name in ('setup.py', 'pyproject.toml', 'README.md'):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / 'requirements', tmp_path / 'requirements')
    (tmp_path / 'nemo_dreamfusion' / 'ops' / 'backends' / 'csrc').mkdir(parents=True)
    for name in ('__init__.py', 'package_info.py', 'ops/__init__.py', 'ops/backends/__init__.py'):
        shutil.copy(ROOT / 'nemo_dreamfusion' / name, tmp_path / 'nemo_dreamfusion' / name)
    return tmp_path


def build(checkout, source, **environment):
    """Builds the native library of ``source`` in place; the finished process and the library's path or None."""
    if source is not None:
        (checkout / 'nemo_dreamfusion' / 'ops' / 'backends' / 'csrc' / 'native.cpp').write_text(source)
    command = [sys.executable, 'setup.py', '-q', 'build_ext', '--inplace']
    done = subprocess.run(command, cwd=checkout, env={**os.environ, **environment}, capture_output=True, text=True)
    return done, next((checkout / 'nemo_dreamfusion' / 'ops' / 'backends').glob('_native.so'), None)


def test_native_library_is_built_and_loads(checkout):
    if shutil.which('g++') is None:
        pytest.skip('no g++ on this machine')
    done, library = build(checkout, 'extern "C" int answer() { return 42; }')
    assert done.returncode == 0, done.stderr
    assert ctypes.CDLL(str(library)).answer() == 42


@pytest.mark.parametrize(
    ('source', 'environment'),
    [
        ('this is not C++', {}),
        ('extern "C" int answer() { return 42; }', {'CC': '/nowhere/cc', 'CXX': '/nowhere/c++'}),
    ],
)
def test_without_the_native_library_the_build_goes_on_with_one_warning(checkout, source, environment):
    done, library = build(checkout, source, **environment)
    warnings = [
        line for line in (done.stdout + done.stderr).splitlines() if 'native CPU library was not built' in line
    ]
    assert (done.returncode, library, len(warnings)) == (0, None, 1), done.stderr


def test_without_native_sources_nothing_is_built_nor_said(checkout):
    done, library = build(checkout, None)
    assert (done.returncode, library) == (0, None) and 'WARNING' not in done.stderr


# Makefile, Dockerfile


def dry_run(target, tmp_path):
    if shutil.which('make') is None:
        pytest.skip('no make on this machine')
    command = ['make', '-n', target, f'VENV={tmp_path}/venv']
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize('target', ['run', 'test', 'lint', 'docs', 'bench'])
def test_each_target_installs_torch_first(target, tmp_path):
    commands = dry_run(target, tmp_path)
    installs = [line for line in commands.splitlines() if 'pip install' in line]
    assert 'torch==2.13.0' in installs[0]
    assert [('-r requirements' in line, '-e .' in line) for line in installs] == [
        (False, False),
        (True, False),
        (False, True),
    ]
    assert '/venv/torch.txt' in installs[1] and '--no-deps' in installs[2]


def test_requirements_that_the_makefile_installs_exist():
    named = re.findall(r'requirements/\w+\.txt', (ROOT / 'Makefile').read_text(encoding='utf-8'))
    assert named and all((ROOT / path).is_file() for path in named)


def test_a_failed_install_leaves_no_stamp(tmp_path):
    if shutil.which('make') is None:
        pytest.skip('no make on this machine')
    command = ['make', 'test', f'VENV={tmp_path}/venv', 'PYTHON=/bin/false']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and 'Python 3.11' in done.stdout
    assert not list(tmp_path.rglob('.stamp*'))


STAND_IN = """#!{python}
import sys
if sys.argv[1] != '-c':
    sys.exit('goes on to: ' + ' '.join(sys.argv[1:3]))
sys.version_info = {version}
exec(sys.argv[2])
"""


@pytest.mark.parametrize('version', [(3, 10), (3, 11), (3, 12), (3, 13), (3, 14)])
def test_make_and_pip_take_the_same_versions_of_python(version, metadata, tmp_path):
    if shutil.which('make') is None:
        pytest.skip('no make on this machine')
    python = tmp_path / 'python'
    python.write_text(STAND_IN.format(python=sys.executable, version=(*version, 0, 'final', 0)))
    python.chmod(0o755)
    command = ['make', 'setup', f'VENV={tmp_path}/venv', f'PYTHON={python}']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    goes_on = 'goes on to: -m venv' in done.stdout
    assert goes_on == SpecifierSet(metadata['python_requires']).contains('.'.join(map(str, version)))
    if not goes_on:
        check_refusal(done.stdout, str(python), NO_VALUE, '3.11', '3.13', 'PYTHON=/path/to/python3.11')
        assert len(done.stdout.splitlines()) == 1 and not (tmp_path / 'venv').exists()


def test_paths_in_the_dockerfile_exist():
    text = (ROOT / 'Dockerfile').read_text(encoding='utf-8').replace('\\\n', ' ')
    copied = [word for line in re.findall(r'^COPY (.+)$', text, re.M) for word in line.split()[:-1]]
    used = re.findall(r'(?<![\w/])(?:examples|requirements|tests)(?:/[\w.-]+)*', text)
    assert len(copied) > 5
    assert [path for path in {*copied, *used} if not (ROOT / path).exists()] == []
    assert 'ARG BASE_IMAGE=' in text and 'AS test' in text and 'pip install torch' not in text


# YAML: each key has a reader


def load_target(target):
    """The class or function that a ``_target_`` names; None when its (foreign) package is not installed."""
    module_name, _, name = target.rpartition('.')
    try:
        return getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        if module_name.startswith('nemo_dreamfusion') or (error.name or '').split('.')[0] != module_name.split('.')[0]:
            raise
        return None


def target_problems(node, path=''):
    """Walks a configuration: each ``_target_`` resolves, and its constructor takes every key that stands beside it."""
    if isinstance(node, list):
        return [problem for i, item in enumerate(node) for problem in target_problems(item, f'{path}[{i}]')]
    if not isinstance(node, dict):
        return []
    problems = [p for key, value in node.items() for p in target_problems(value, f'{path}.{key}'.lstrip('.'))]
    target = node.get('_target_')
    if not isinstance(target, str) or '${' in target or target == '???':  # ???: a user's own
        return problems
    try:
        called = load_target(target)
    except (ImportError, AttributeError, ValueError) as error:
        return [*problems, f'{path}: {target} does not resolve: {error}']
    if called is None:
        return problems
    parameters = inspect.signature(called).parameters
    if 'cfg' in parameters:  # a ModelPT reads its configuration as a whole, not as keywords
        return problems
    own = target.startswith('nemo_dreamfusion.')
    kinds = (
        (inspect.Parameter.KEYWORD_ONLY,)
        if own
        else (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    )
    takes_any = not own and any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for key in node.keys() - HYDRA_KEYS:
        if not takes_any and (key not in parameters or parameters[key].kind not in kinds):
            problems.append(f'{path}: {target} takes no keyword-only argument {key!r}')
    return problems


@pytest.mark.parametrize('path', CONFIGS, ids=[str(path.relative_to(CONF)) for path in CONFIGS])
def test_targets_of_each_yaml_file_take_its_keys(path):
    node = yaml.safe_load(path.read_text(encoding='utf-8'))
    node.pop('defaults', None)  # Hydra's list of other files
    assert target_problems(node) == []


@pytest.mark.parametrize('name', MAIN_CONFIGS)
def test_targets_of_each_composed_configuration_take_its_keys(name):
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base=None):
        config = OmegaConf.to_container(compose(name), resolve=False)
    assert target_problems(config) == []


class Sample:
    """A stand-in for a configured class."""

    def __init__(self, anything, *, levels=16):
        self.levels = levels


def test_target_rule_refuses(monkeypatch):
    monkeypatch.setattr(nemo_dreamfusion, 'Sample', Sample, raising=False)
    own = 'nemo_dreamfusion.Sample'
    assert target_problems({'nerf': {'_target_': own, 'levels': 8, '_convert_': 'all'}}) == []
    assert len(target_problems({'nerf': {'_target_': own, 'levles': 8}})) == 1
    assert len(target_problems({'nerf': [{'_target_': own, 'anything': 8}]})) == 1
    assert len(target_problems({'_target_': 'nemo_dreamfusion.no_such_module.Thing'})) == 1
    assert len(target_problems({'_target_': 'nemo_dreamfusion.NoSuchName'})) == 1
    assert target_problems({'_target_': 'no_such_package.Thing', 'x': 1}) == []

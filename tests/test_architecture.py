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

"""The rules of docs/architecture.md that code can check: who imports whom, headers, sizes, a quick import.

Each rule is a function from source text to violations, so that it is also tested on a snippet that breaks it.
"""

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from imports import import_circle, imports_of, is_inside

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = 'nemo_dreamfusion'
MAX_LINES = 400

LAYERS = (
    ('parts',),
    ('ops',),
    ('nerf', 'materials', 'backgrounds', 'losses', 'data', 'checkpoints'),
    ('renderers', 'guidance'),
    ('models', 'export'),
    ('viewer',),
    ('callbacks', 'pocket', 'metrics'),
    ('launch',),
    ('examples',),
)
LEVEL = {area: level for level, areas in enumerate(LAYERS) for area in areas}
SIBLINGS_ALLOWED: set[tuple[str, str]] = set()
ONLY_BASE = {'renderers': ('nerf', 'materials', 'backgrounds')}

MODULE_AREAS = ('nerf', 'renderers', 'guidance', 'materials', 'backgrounds', 'losses')
NEMO_AREAS = (*MODULE_AREAS, 'models', 'callbacks', 'export', 'launch', 'examples')
HYDRA_AREAS = ('launch',)

# The models' own libraries: read in `checkpoints`, made and trained in `pocket`, CLIP in `metrics`. Lazily, like the
# optional ones.
MODEL_LIBRARIES = {'diffusers': ('checkpoints', 'pocket'), 'transformers': ('checkpoints', 'pocket', 'metrics')}
OPTIONAL = set(
    'ImageReward apex diffusers fast_simplification imageio nerfacc nvdiffrast onnx onnxruntime peft '
    'polygraphy pxr skimage tensorrt tinycudann transformer_engine transformers trimesh viser wandb xatlas xformers'.split()
)


def area_of(module: str) -> str | None:
    """The area of the layout that a dotted name belongs to; None for the package's root files and other packages."""
    parts = module.split('.')
    if parts[0] == 'examples':
        return 'examples'
    if parts[0] != PACKAGE or len(parts) < 2:
        return None
    area = parts[2] if parts[1] == 'modules' and len(parts) > 2 else parts[1]
    return area if area in LEVEL else None


def inside_area(name: str) -> str:
    """The first component of a dotted name behind its area: ``base`` for nemo_dreamfusion.modules.nerf.base.X."""
    rest = name.split('.')[3:] if name.split('.')[1] == 'modules' else name.split('.')[2:]
    return rest[0] if rest else ''


def layer_violations(module: str, source: str, is_package: bool = False) -> list[str]:
    here = area_of(module)
    found = []
    for imported in imports_of(module, source, is_package):
        there = area_of(imported.name)
        where = f'{module}:{imported.line} imports {imported.name}'
        if imported.name.split('.')[0] == 'examples' and here != 'examples':
            found.append(f'{where}: nothing imports examples')
        elif there is None or there == here:
            continue
        elif here is None:
            found.append(f'{where}: the root of the package imports no area')
        elif LEVEL[there] > LEVEL[here]:
            found.append(f'{where}: imports go down only, and {there} stands above {here}')
        elif LEVEL[there] == LEVEL[here] and (here, there) not in SIBLINGS_ALLOWED:
            found.append(f'{where}: {here} and {there} are siblings')
        elif there in ONLY_BASE.get(here, ()) and inside_area(imported.name) != 'base':
            found.append(f'{where}: {here} may import only the base of {there}')
    return found


def nemo_violations(module: str, source: str, is_package: bool = False) -> list[str]:
    here = area_of(module)
    found = []
    for imported in imports_of(module, source, is_package):
        where = f'{module}:{imported.line} imports {imported.name}'
        top, _, rest = imported.name.partition('.')
        if top == 'pytorch_lightning':
            found.append(f'{where}: NeMo accepts lightning.pytorch only')
        elif top == 'nemo' and rest.split('.')[0] == 'collections':
            found.append(f'{where}: nemo.collections is not used')
        elif (top == 'hydra' or rest.startswith('utils.exp_manager')) and here not in HYDRA_AREAS:
            found.append(f'{where}: launch alone knows Hydra and exp_manager')
        elif top == 'nemo' and here not in NEMO_AREAS:
            found.append(f'{where}: {here or "the root"} runs without NeMo')
    return found


def concrete_violations(module: str, source: str, targets: set[str], is_package: bool = False) -> list[str]:
    """Modules that a YAML ``_target_`` names are imported by nobody outside their own area."""
    return [
        f'{module}:{imported.line} imports {imported.name}: a concrete choice is named in YAML and tests only'
        for imported in imports_of(module, source, is_package)
        if area_of(imported.name) != area_of(module)
        and any(imported.name == target or imported.name.startswith(target + '.') for target in targets)
    ]


def optional_uses(module: str, source: str, is_package: bool = False) -> tuple[set[str], list[str]]:
    """The optional packages that a file imports at run time, and the violations of laziness."""
    used, found = set(), []
    for imported in imports_of(module, source, is_package):
        package = imported.name.split('.')[0]
        if package not in OPTIONAL or imported.typing_only:
            continue
        used.add(package)
        if not imported.lazy:
            found.append(f'{module}:{imported.line} imports {package} while the file is loaded, not where it is used')
    return used, found


def backend_violations(module: str, source: str, is_package: bool = False) -> list[str]:
    """Which kernels run an operator is known in ``ops`` only; Triton, behind them, in ``ops.backends`` only."""
    found = []
    for imported in imports_of(module, source, is_package):
        where = f'{module}:{imported.line} imports {imported.name}'
        if is_inside(imported.name, f'{PACKAGE}.ops.backends') and not is_inside(module, f'{PACKAGE}.ops'):
            found.append(f'{where}: only ops knows its backends')
        elif is_inside(imported.name, 'triton') and not is_inside(module, f'{PACKAGE}.ops.backends'):
            found.append(f'{where}: only ops.backends knows Triton')
    return found


def header_violations(path: str, source: str) -> list[str]:
    head = source.split('"""')[0]
    wanted = ('# Copyright (c) 2026, the nemo_dreamfusion authors', 'Licensed under the Apache License, Version 2.0')
    return [f'{path}: no line {line!r} at the top' for line in wanted if line not in head]


def class_violations(path: str, source: str) -> list[str]:
    return [
        f'{path}:{node.lineno} class {node.name}: a main is thin, classes live in the package'
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef)
    ]


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob('*.py'))


def all_sources() -> list[Path]:
    return sorted(ROOT.glob('*.py')) + python_files(PACKAGE, 'examples', 'benchmarks', 'tests')


def module_of(path: Path) -> tuple[str, bool]:
    parts = path.relative_to(ROOT).with_suffix('').parts
    is_package = parts[-1] == '__init__'
    return '.'.join(parts[:-1] if is_package else parts), is_package


def yaml_targets(text: str) -> set[str]:
    """The package's modules (not data, not models) whose classes a YAML document names as ``_target_``."""
    found = set()

    def walk(node: object) -> None:
        if isinstance(node, dict):
            target = node.get('_target_')
            if isinstance(target, str) and target.startswith(f'{PACKAGE}.modules.'):
                found.add(target.rpartition('.')[0])
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(yaml.safe_load(text))
    return found


@pytest.mark.parametrize('rule', [layer_violations, nemo_violations, backend_violations])
def test_imports_follow_the_rule(rule):
    found = []
    for path in python_files(PACKAGE, 'examples'):
        module, is_package = module_of(path)
        found += rule(module, path.read_text(encoding='utf-8'), is_package)
    assert not found, '\n'.join(found)


def test_no_modules_import_each_other_in_a_circle():
    imports = {}
    for path in python_files(PACKAGE):
        module, is_package = module_of(path)
        imports[module] = imports_of(module, path.read_text(encoding='utf-8'), is_package)
    assert import_circle(imports) == []


def test_concrete_choices_are_named_in_yaml_only():
    targets = set()
    for path in (ROOT / PACKAGE / 'conf').rglob('*.yaml'):
        targets |= yaml_targets(path.read_text(encoding='utf-8'))
    found = []
    for path in python_files(PACKAGE, 'examples'):
        module, is_package = module_of(path)
        found += concrete_violations(module, path.read_text(encoding='utf-8'), targets, is_package)
    assert not found, '\n'.join(found)


def test_optional_packages_are_imported_in_one_file_each_and_lazily():
    files, found = defaultdict(list), []
    for path in python_files(PACKAGE):
        module, is_package = module_of(path)
        used, eager = optional_uses(module, path.read_text(encoding='utf-8'), is_package)
        found += eager
        for package in used:
            files[package].append(module)
    for package, areas in MODEL_LIBRARIES.items():
        inside = [module for module in files.pop(package, []) if module.split('.')[1] not in areas]
        found += [f'{package} is imported in {module}, outside of {areas}' for module in inside]
    found += [
        f'{package} is imported in {where}, not in one file' for package, where in files.items() if len(where) > 1
    ]
    assert not found, '\n'.join(found)


def test_every_area_of_the_layout_exists_and_no_other():
    package = ROOT / PACKAGE
    areas = {p.name for p in package.iterdir() if (p / '__init__.py').is_file()} - {'modules', 'conf'}
    areas |= {p.name for p in (package / 'modules').iterdir() if (p / '__init__.py').is_file()}
    assert areas == set(LEVEL) - {'examples'}


def test_header_of_every_file():
    found = [line for p in all_sources() for line in header_violations(str(p.relative_to(ROOT)), p.read_text('utf-8'))]
    assert not found, '\n'.join(found)


def test_no_file_is_too_long():
    lengths = {path.relative_to(ROOT): len(path.read_text(encoding='utf-8').splitlines()) for path in all_sources()}
    assert not {str(path): n for path, n in lengths.items() if n > MAX_LINES}


def test_examples_hold_no_class():
    found = [line for p in python_files('examples') for line in class_violations(p.name, p.read_text('utf-8'))]
    assert not found, '\n'.join(found)


def test_importing_the_package_loads_nothing_heavy():
    heavy = sorted(OPTIONAL | {'torch', 'numpy', 'nemo', 'lightning', 'hydra', 'omegaconf'})
    code = f'import sys, {PACKAGE}; print([m for m in {heavy} if m in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


@pytest.mark.parametrize(
    ('module', 'source'),
    [
        ('parts.types', 'import nemo_dreamfusion.ops.hash_grid'),
        ('ops.hash_grid', 'from nemo_dreamfusion.data import cameras'),
        ('modules.nerf.base', 'from ..materials import base'),
        ('modules.nerf.base', 'def late():\n    from nemo_dreamfusion.modules.losses import opacity'),
        ('modules.losses.opacity', 'from nemo_dreamfusion.modules.renderers.base import Renderer'),
        ('modules.renderers.mesh', 'from nemo_dreamfusion.modules.nerf.torchngp import TorchNGP'),
        ('modules.renderers.mesh', 'from nemo_dreamfusion.modules.materials import BasicShading'),
        ('checkpoints.folder', 'from nemo_dreamfusion.modules.guidance import base'),
        ('callbacks.preview', 'import nemo_dreamfusion.launch.run_folder'),
        ('package_info', 'from nemo_dreamfusion.models import dreamfusion'),
        ('models.dreamfusion', 'from examples import dreamfusion'),
    ],
)
def test_layer_rule_refuses(module, source):
    assert len(layer_violations(f'{PACKAGE}.{module}', source)) == 1


@pytest.mark.parametrize(
    ('module', 'source'),
    [
        ('modules.renderers.mesh', 'from nemo_dreamfusion.modules.nerf.base import RadianceField'),
        ('modules.renderers.mesh', 'from ..nerf import base'),
        ('modules.guidance.nemo', 'from nemo_dreamfusion.checkpoints import archive'),
        ('modules.nerf.torchngp', 'from .base import RadianceField\nfrom nemo_dreamfusion.parts import checks'),
        ('pocket.metrics', 'from nemo_dreamfusion.data import cameras'),
    ],
)
def test_layer_rule_allows(module, source):
    assert layer_violations(f'{PACKAGE}.{module}', source) == []


def test_relative_imports_of_a_package_file_are_resolved():
    found = imports_of(f'{PACKAGE}.ops', 'from . import hash_grid', True)
    assert [i.name for i in found] == [f'{PACKAGE}.ops.hash_grid']
    assert [i.name for i in imports_of(f'{PACKAGE}.ops.a', 'from ..parts import types')] == [f'{PACKAGE}.parts.types']


@pytest.mark.parametrize(
    ('module', 'source', 'count'),
    [
        ('ops.adan', 'from nemo.core.optim import Adan', 1),
        ('pocket.train', 'from nemo.utils import logging', 1),
        ('models.dreamfusion', 'from nemo.collections.common import losses', 1),
        ('callbacks.preview', 'import pytorch_lightning as pl', 1),
        ('models.dreamfusion', 'from hydra.utils import instantiate', 1),
        ('launch.fit', 'from nemo.utils.exp_manager import exp_manager', 0),
        ('models.dreamfusion', 'from nemo.core.classes import ModelPT\nimport lightning.pytorch as pl', 0),
    ],
)
def test_nemo_rule(module, source, count):
    assert len(nemo_violations(f'{PACKAGE}.{module}', source)) == count


@pytest.mark.parametrize(
    ('source', 'used', 'count'),
    [
        ('import trimesh', {'trimesh'}, 1),
        ('try:\n    from diffusers import X\nexcept ImportError:\n    X = None', {'diffusers'}, 1),
        ("nerfacc = require('nerfacc', 'nerfacc', 'why')", {'nerfacc'}, 1),
        ("def f():\n    return optional.require('onnx.helper', None, 'why')", {'onnx'}, 0),
        ('def f():\n    import trimesh', {'trimesh'}, 0),
        ('if TYPE_CHECKING:\n    import trimesh', set(), 0),
    ],
)
def test_optional_rule(source, used, count):
    found_used, violations = optional_uses(f'{PACKAGE}.export.mesh', source)
    assert (found_used, len(violations)) == (used, count)


@pytest.mark.parametrize(
    ('module', 'source', 'count'),
    [
        ('modules.renderers.volume', 'from nemo_dreamfusion.ops.backends import select', 1),
        ('launch.fit', 'def late():\n    import nemo_dreamfusion.ops.backends.cpu.library', 1),
        ('ops.adan', 'import triton', 1),
        ('ops.adan', 'from nemo_dreamfusion.ops.backends import select', 0),
        ('ops.backends.triton.adan', 'import triton.language as tl', 0),
        ('modules.nerf.torchngp', 'from nemo_dreamfusion.ops.hash_grid import hash_grid_encode', 0),
    ],
)
def test_backend_rule(module, source, count):
    assert len(backend_violations(f'{PACKAGE}.{module}', source)) == count


@pytest.mark.parametrize(
    ('back', 'circle'),
    [
        ('from nemo_dreamfusion.ops.a import f', True),
        ('def late():\n    from nemo_dreamfusion.ops import a', True),
        ('if TYPE_CHECKING:\n    from nemo_dreamfusion.ops import a', False),
        ('import torch', False),
    ],
)
def test_circle_rule(back, circle):
    sources = {f'{PACKAGE}.ops.a': 'from nemo_dreamfusion.ops import b', f'{PACKAGE}.ops.b': back}
    found = import_circle({module: imports_of(module, source) for module, source in sources.items()})
    assert bool(found) == circle


def test_concrete_rule():
    targets = yaml_targets('model:\n  nerf:\n    _target_: nemo_dreamfusion.modules.nerf.torchngp.TorchNGP\n')
    source = 'from nemo_dreamfusion.modules.nerf.torchngp import TorchNGP'
    assert len(concrete_violations(f'{PACKAGE}.models.dreamfusion', source, targets)) == 1
    assert concrete_violations(f'{PACKAGE}.modules.nerf.tcnn', source, targets) == []


def test_header_and_class_rules():
    assert len(header_violations('a.py', 'import os\n')) == 2
    assert len(class_violations('a.py', 'class A:\n    pass\n')) == 1

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


"""The worked examples of CONTRIBUTING.md work: what they add is chosen by its YAML and keeps its kind's contract."""

import importlib
import re
import shutil
import sys

import pytest
import test_contracts
from pages import FENCE, ROOT
from small_diffusion import build_folder
from small_model import CONF

PAGE = ROOT / 'CONTRIBUTING.md'
NEW = {'nerf': 'fourier', 'renderer': 'dense', 'guidance/score': 'nfsd'}


def example_files() -> dict[str, str]:
    """The files that the page writes out: their paths, from the first line of each block, and their text."""
    blocks = [block for _, block in FENCE.findall(PAGE.read_text(encoding='utf-8'))]
    named = [block.split('\n', 1) for block in blocks if block.startswith('# nemo_dreamfusion/')]
    return {first.removeprefix('# '): text for first, text in named}


@pytest.fixture
def contributed(tmp_path, monkeypatch):
    """Adds the page's files to the package and its configuration, in copies, for the contract tests."""
    shutil.copytree(CONF, tmp_path / 'conf')
    for path, text in example_files().items():
        kind, _, name = path.removeprefix('nemo_dreamfusion/').rpartition('/')
        folder = tmp_path / kind
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding='utf-8')
        if name.endswith('.py'):
            package = importlib.import_module(f'nemo_dreamfusion.{kind.replace("/", ".")}')
            monkeypatch.setattr(package, '__path__', [*package.__path__, str(folder)])
    monkeypatch.setattr(test_contracts, 'CONF', tmp_path / 'conf')
    test_contracts.options.cache_clear()
    test_contracts.guidance_node.cache_clear()
    yield
    test_contracts.options.cache_clear()
    test_contracts.guidance_node.cache_clear()
    for path in example_files():
        sys.modules.pop(path.removesuffix('.py').replace('/', '.'), None)


def test_the_page_adds_what_this_file_tests():
    assert len(example_files()) == 2 * len(NEW)


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_field_and_renderer_of_the_examples_keep_the_contract(contributed, training):
    scene, render = test_contracts.parts(NEW['nerf'], NEW['renderer'], 'random', 'basic_shading', training)
    test_contracts.check_all(scene, render)
    if training:
        test_contracts.check_gradients(scene, render, 'lambertian')


def test_score_of_the_examples_keeps_the_contract(contributed, tmp_path):
    (rows,) = re.findall(rf"`'{NEW['guidance/score']}': (\d+),` in `ROWS`", PAGE.read_text(encoding='utf-8'))
    folder = build_folder(tmp_path / 'sd')
    test_contracts.test_a_guidance_promises(folder, NEW['guidance/score'], 'uniform')
    test_contracts.test_a_score_is_a_function_of_generator_and_state(folder, NEW['guidance/score'])
    test_contracts.test_a_score_runs_the_unet_as_often_as_it_says(folder, NEW['guidance/score'], int(rows))

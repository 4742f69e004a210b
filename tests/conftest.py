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


"""What the tests share. ``refusals.py`` beside this file checks what a refusal says, ``small_model.py`` builds a model."""

import os
from collections import Counter
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '2')

import line_coverage
import pytest
import torch
from hypothesis import settings
from small_diffusion import build_folder

NOTES_LINES = line_coverage.start()  # before anything of the package is imported
settings.register_profile('any_load', deadline=None)
settings.load_profile('any_load')
collect_ignore = ['export/render_in_blender.py']  # runs where Blender's module is
pytest.register_assert_rewrite('refusals')
for _name in ('MAKEFLAGS', 'MAKELEVEL', 'MFLAGS', 'PROMPT', 'RUNS', 'ARGS'):  # of the make that runs these tests
    os.environ.pop(_name, None)


def pytest_configure(config):
    """``make test`` prints which lines were run."""
    if NOTES_LINES:
        config.pluginmanager.register(line_coverage)


@pytest.fixture(scope='session', autouse=True)
def cache_of_the_tests(tmp_path_factory):
    """Encoded texts go where they end with the tests, and not among the user's caches."""
    os.environ['NEMO_DREAMFUSION_CACHE'] = str(tmp_path_factory.mktemp('cache'))


@pytest.fixture(scope='session')
def sd_folder(tmp_path_factory) -> Path:
    """An open-vocabulary, epsilon-predicting Stable Diffusion, for reading."""
    return build_folder(tmp_path_factory.mktemp('sd') / 'open')


@pytest.fixture
def unpacked(monkeypatch):
    """Convolutions run as in diffusers' own pipelines: weights that oneDNN has packed round in another way, up to 1.4e-5."""
    monkeypatch.setattr('nemo_dreamfusion.modules.guidance.networks.packing.MOST_WEIGHTS', 0)


@pytest.fixture(autouse=True)
def seeded():
    """Each test starts from the same global random state, whatever ran before it."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(items):
    """Files with the most slow tests come first, so that no process works alone at the end; GPU tests skip without a GPU."""
    slow = Counter(item.path for item in items if item.get_closest_marker('slow'))
    items.sort(key=lambda item: -slow[item.path])
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker('gpu'):
            item.add_marker(pytest.mark.skip(reason='needs a CUDA GPU'))

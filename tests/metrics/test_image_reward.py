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

"""ImageReward, by a stand-in of its package's two functions: in this process, and in another Python."""

import sys

import pytest
import torch
from PIL import Image
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.metrics.image_reward import ImageReward
from nemo_dreamfusion.parts.optional import MissingPackageError

CPU = torch.device('cpu')
STAND_IN = """
from PIL import Image
print('a line of its own')
class Model:
    def __init__(self, name, device): self.name = name
    def score(self, prompt, image): return len(prompt) + Image.open(image).size[0] / 100
def load(name, device): return Model(name, device)
"""


@pytest.fixture
def files(tmp_path):
    sizes = (10, 25)
    for size in sizes:
        Image.new('RGB', (size, size)).save(tmp_path / f'{size}.png')
    return [tmp_path / f'{size}.png' for size in sizes]


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / 'lib').mkdir()
    (tmp_path / 'lib' / 'ImageReward.py').write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path / 'lib')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path / 'lib'))
    yield
    sys.modules.pop('ImageReward', None)


@pytest.mark.parametrize('python', [None, sys.executable])
def test_scores_of_the_package(python, package, files):
    scorer = ImageReward(python=python)
    scorer.check()
    scorer.prepare(CPU)
    assert scorer.score('a duck', files) == [6.1, 6.25]
    assert scorer.score('a tree\n"x"', files[:1]) == [10.1]
    scorer.close()


def test_the_package_is_missing(files):
    with pytest.raises(MissingPackageError, match='metric.scorer.python'):
        ImageReward().prepare(CPU)
    with refusal('metric.scorer.python', sys.executable, 'pip install image-reward'):
        ImageReward(python=sys.executable).prepare(CPU)


def test_a_python_that_is_not_there():
    with refusal('metric.scorer.python', '/nowhere/python', 'Python that can be run'):
        ImageReward(python='/nowhere/python').check()


def test_another_python_that_ends(package, files, tmp_path):
    (tmp_path / 'lib' / 'ImageReward.py').write_text(STAND_IN.replace('return len(prompt)', 'raise SystemExit'))
    scorer = ImageReward(python=sys.executable)
    scorer.prepare(CPU)
    for _ in range(2):  # also the next object, whose process is gone
        with refusal('metric.scorer.python', NO_VALUE, 'above'):
            scorer.score('a duck', files)

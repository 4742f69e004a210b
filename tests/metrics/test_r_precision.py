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

"""CLIP R-Precision: known answers of the retrieval, the captions, and of an encoder that knows the colours."""

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import NO_VALUE, refusal
from small_clip import COLOURS, ColourOracle

from nemo_dreamfusion.metrics.captions import Captions, normalise
from nemo_dreamfusion.metrics.r_precision import CLIPRPrecision, retrieve

pytestmark = pytest.mark.unit


def write(path, *lines):
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return path


def test_the_own_caption_must_be_the_only_best_one():
    similarities = torch.tensor([[0.1, 0.3, 0.2], [0.3, 0.1, 0.2], [0.3, 0.3, 0.2], [0.1, 0.3, 0.2]])
    found = retrieve(similarities, own=1)
    assert found.correct.tolist() == [True, False, False, True]  # a tie is wrong
    assert found.rank.tolist() == [1, 3, 2, 1]
    assert found.best.tolist() == [2, 0, 0, 2] and found.own.tolist() == pytest.approx([0.3, 0.1, 0.3, 0.3])


def test_what_says_nothing_is_right_as_often_as_chance():
    similarities = torch.rand(20_000, 10, generator=torch.Generator().manual_seed(0))
    assert retrieve(similarities, own=4).correct.float().mean().item() == pytest.approx(1 / 10, abs=0.01)


def test_captions_are_compared_as_published(tmp_path):
    captions = Captions(write(tmp_path / 'c.txt', '# of MSCOCO', 'A bowl of soup, ', 'Two dogs..', '', 'a cat'))
    assert captions.texts == ['a bowl of soup.', 'two dogs.', 'a cat.']
    assert captions.index('TWO DOGS') == 1 and normalise(' a  cat .') == 'a cat.'
    assert '3 candidates, not 153' in captions.note() and '33 %' in captions.note()
    many = Captions(write(tmp_path / 'many.txt', *(f'caption {i}' for i in range(153))))
    assert many.note() is None


@pytest.mark.parametrize(
    ('lines', 'value', 'way_out'),
    [
        (['a cat', 'a dog', 'A cat.'], 'a cat.', 'remove one'),
        (['a cat', 'a dog', 'a  cat'], 'a cat.', 'remove one'),
        (['a cat'], 'c.txt', 'two captions'),
        (['# nothing'], 'c.txt', 'one a line'),
    ],
)
def test_captions_that_cannot_be_used(lines, value, way_out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / 'c.txt', *lines)
    with refusal('metric.candidates', value, way_out):
        Captions('c.txt')


def test_a_prompt_that_is_no_caption(tmp_path):
    captions = Captions(write(tmp_path / 'c.txt', 'a red cube', 'a dog'))
    captions.check_holds(['a dog', 'A red cube.'])
    with refusal('metric.candidates', 'a red cub', 'add the line', "'a red cube.'"):
        captions.check_holds(['a dog', 'a red cub'])
    with refusal('metric.candidates', NO_VALUE, 'text file'):
        Captions(tmp_path / 'missing.txt')


@pytest.fixture
def pictures(tmp_path):
    """Four pictures of a red thing, one of which is blue, and four of its grey shape."""
    views = []
    for kind, colours in (('colour', ['red', 'red', 'blue', 'red']), ('geometry', ['grey'] * 4)):
        for i, colour in enumerate(colours):
            image = np.full((16, 16, 3), 255 * np.array(COLOURS[colour])).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / f'{kind}-{i}.png')
            views.append({'file': f'{kind}-{i}.png', 'kind': kind})
    return {'views': views}


@pytest.mark.parametrize(('shift', 'colour'), [(0, 3 / 4), (2, 0.0)])
def test_the_score_of_an_object_is_the_share_of_its_views(shift, colour, pictures, tmp_path):
    candidates = write(tmp_path / 'c.txt', *(f'a {name} cube' for name in COLOURS))
    metric = CLIPRPrecision(candidates=str(candidates), encoder=ColourOracle(shift=shift), device='cpu')
    metric.prepare()
    judged = metric.score('a red cube', tmp_path, pictures)
    assert judged.values['colour'] == colour and judged.values['geometry'] == 0, judged
    assert judged.values['gap'] == colour and judged.values['score_colour'] == 100 * colour
    mistaken = {'a blue cube.': 1} if shift == 0 else {'a blue cube.': 3, 'a grey cube.': 1}
    assert judged.details['colour']['taken_for'] == mistaken
    assert judged.remark == f'taken for: {next(iter(mistaken))}'
    assert metric.score('a grey cube', tmp_path, pictures).values['geometry'] == (shift == 0)


@pytest.mark.parametrize(
    ('option', 'value', 'way_out'),
    [('azimuths', 0, 'at least 1'), ('elevation_deg', 91.0, 'at most 90'), ('size', 8, 'at least 16')],
)
def test_options_out_of_range(option, value, way_out, tmp_path):
    candidates = str(write(tmp_path / 'c.txt', 'a', 'b'))
    with refusal(f'metric.{option}', value, way_out):
        CLIPRPrecision(candidates=candidates, encoder=ColourOracle(), **{option: value})
    with refusal('metric.device', 'tpu', 'auto'):
        CLIPRPrecision(candidates=candidates, encoder=ColourOracle(), device='tpu')

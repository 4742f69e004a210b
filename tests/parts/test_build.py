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


"""Classes from configurations: signatures, unknown keys, foreign targets."""

import inspect
from dataclasses import dataclass

import pytest
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.parts.build import Configurable, build, read_options
from nemo_dreamfusion.parts.schedules import plan_step

pytestmark = pytest.mark.unit


class Base(Configurable):
    NOT_OPTIONS = ('inner',)

    def __init__(self, *, inner, size=1, name='base'):
        self.inner, self.size, self.name = inner, size, name


class Handing(Base):
    def __init__(self, *, extra=0, name='handing', **options):
        super().__init__(inner=extra, name=name, **options)


class Deeper(Handing):
    def __init__(self, **options):
        super().__init__(**options)


class Closed(Handing):
    def __init__(self, *, alone):
        super().__init__(extra=alone)


@pytest.mark.parametrize(
    ('cls', 'names'), [(Handing, {'extra', 'name', 'size'}), (Deeper, {'extra', 'name', 'size'}), (Closed, {'alone'})]
)
def test_a_signature_shows_what_is_handed_on_and_nothing_else(cls, names):
    assert set(inspect.signature(cls).parameters) == names


def test_an_own_default_wins_over_the_base():
    assert inspect.signature(Deeper).parameters['name'].default == 'handing'
    assert (Deeper(size=4).size, Deeper().name) == (4, 'handing')


def test_unknown_keys_are_refused_with_the_nearest(monkeypatch):
    monkeypatch.setattr('nemo_dreamfusion.parts.build.Deeper', Deeper, raising=False)
    target = {'_target_': 'nemo_dreamfusion.parts.build.Deeper'}
    assert build('model.part', {**target, 'size': 3}, Base).size == 3
    for key in ('sice', 'inner', 'options'):
        with refusal(f'model.part.{key}', NO_VALUE, 'size', 'name', 'extra'):
            build('model.part', {**target, key: 3}, Base)


@pytest.mark.parametrize(
    ('target', 'words'),
    [
        (None, 'nemo_dreamfusion/conf/model/part'),
        ('os.system', 'only classes of nemo_dreamfusion.*'),
        ('nemo_dreamfusion.parts.build.Nothing', 'imported'),
        (f'nemo_dreamfusion.parts.schedules.{plan_step.__name__}', 'not a Base'),
    ],
)
def test_foreign_targets_are_refused(target, words):
    with refusal('_target_' if target is None else 'model.part._target_', target or NO_VALUE, words):
        build('model.part', {'_target_': target}, Base)


def test_options_from_a_mapping():
    @dataclass(frozen=True)
    class Options:
        levels: int = 2

    assert read_options('a.b', Options, None) == Options()
    assert read_options('a.b', Options, {'levels': 5}).levels == 5
    with refusal('a.b.level', NO_VALUE, 'mean a.b.levels'):
        read_options('a.b', Options, {'level': 5})

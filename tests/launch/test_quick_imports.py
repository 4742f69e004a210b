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

"""The garbage collector rests while large packages are imported, and only then."""

import gc

import pytest

from nemo_dreamfusion.launch import quick_imports
from nemo_dreamfusion.launch.quick_imports import imports_without_collection

pytestmark = pytest.mark.unit


@pytest.fixture
def nothing_imported(monkeypatch):
    monkeypatch.setattr(quick_imports, 'LARGE', 'no_such_package')
    frozen = gc.get_freeze_count()
    yield
    if not frozen:
        gc.unfreeze()


def test_nothing_is_collected_meanwhile_and_what_is_there_never(nothing_imported):
    before = gc.get_freeze_count()
    with imports_without_collection():
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_freeze_count() > before + 1000


def test_after_an_error_the_collector_works_as_before(nothing_imported):
    before = gc.get_freeze_count()
    with pytest.raises(ValueError, match='refused'), imports_without_collection():
        raise ValueError('refused')
    assert gc.isenabled() and gc.get_freeze_count() == before


def test_where_all_is_imported_nothing_changes(monkeypatch):
    monkeypatch.setattr(quick_imports, 'LARGE', 'pytest')
    before = gc.get_freeze_count()
    with imports_without_collection():
        assert gc.isenabled()
    assert gc.get_freeze_count() == before

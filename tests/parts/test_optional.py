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

import sys

import pytest
from refusals import NO_VALUE, check_refusal

from nemo_dreamfusion.parts.optional import MissingPackageError, available, require

pytestmark = pytest.mark.unit

REASON = 'model/renderer=nerfacc renders with it'


def message_of(module_name, extra='nerfacc', instead=None, **more):
    with pytest.raises(MissingPackageError) as caught:
        require(module_name, extra, REASON, instead, **more)
    return str(caught.value)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes an importable package of one file and forgets it afterwards."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, source):
        (tmp_path / f'{name}.py').write_text(source, encoding='utf-8')
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


def test_returns_what_is_installed():
    assert require('json.decoder', None, REASON) is sys.modules['json.decoder']
    assert available('json.decoder') and not available('no_such_package')


def test_missing_package_names_the_package_the_reason_and_the_remedy():
    text = message_of('no_such_package.part', instead='model/renderer=torchngp_raymarching')
    ways_out = ("pip install 'nemo_dreamfusion[nerfacc]'", "pip install -e '.[nerfacc]'")
    check_refusal(text, 'no_such_package', REASON, *ways_out, 'model/renderer=torchngp_raymarching')
    assert 'not installed' in text and 'does not import' not in text


def test_without_an_extra_the_main_requirements_are_named():
    text = message_of('no_such_package', extra=None)
    check_refusal(text, 'no_such_package', REASON, 'pip install nemo_dreamfusion', 'pip install -e .')


def test_a_package_of_no_extra_is_named_as_pip_calls_it():
    text = message_of('no_such_package', extra=None, install='no-such-package')
    check_refusal(text, 'no_such_package', REASON, 'pip install no-such-package')
    text = message_of('no_such_package', extra=None, install='git+https://somewhere')
    check_refusal(text, 'no_such_package', REASON, "pip install 'git+https://somewhere'")


def test_a_package_that_breaks_on_import_is_not_called_missing(package):
    name = package('needs_a_gpu', 'raise OSError("no CUDA device\\nand more lines")')
    text = message_of(name)
    check_refusal(text, 'needs_a_gpu', 'OSError: no CUDA device', 'pip install')
    assert 'does not import' in text and 'not installed' not in text and 'more lines' not in text


def test_a_package_that_lacks_another_names_the_other(package):
    text = message_of(package('needs_another', 'import no_such_package'))
    check_refusal(text, 'needs_another', "No module named 'no_such_package'", 'pip install')
    assert 'does not import' in text and 'not installed' not in text


def test_a_missing_submodule_of_an_installed_package_is_not_called_missing():
    text = message_of('json.no_such_part')
    check_refusal(text, 'json', NO_VALUE, 'pip install')
    assert 'does not import' in text and 'not installed' not in text


def test_the_error_is_an_import_error_and_a_value_error():
    assert issubclass(MissingPackageError, ImportError) and issubclass(MissingPackageError, ValueError)

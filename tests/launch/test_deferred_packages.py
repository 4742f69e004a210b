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

"""A package whose __init__ waits is the package that is installed, for whoever asks it for anything."""

import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from nemo_dreamfusion.launch.deferred_packages import PACKAGES, defer_packages

LIBRARIES = ('transformers', 'scipy.signal', 'scipy.stats', 'torchmetrics.functional', 'sklearn')
LATE = 'import sys; from nemo_dreamfusion.launch.deferred_packages import defer_packages; defer_packages(); '


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return the name of a package that counts in ``sys.runs_of_init`` how often its __init__ ran."""
    folder = tmp_path / 'slow_one'
    folder.mkdir()
    text = "import sys, time\nsys.runs_of_init += 1\ntime.sleep(0.1)\n"
    text += "from .part import value\nown = 'its own'\n__all__ = ['own']\n"
    (folder / '__init__.py').write_text(text)
    (folder / 'part.py').write_text('value = 3\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, 'runs_of_init', 0, raising=False)
    monkeypatch.setattr(sys, 'meta_path', list(sys.meta_path))
    importlib.invalidate_caches()
    yield 'slow_one'
    for name in ('slow_one', 'slow_one.part'):
        sys.modules.pop(name, None)


@pytest.mark.unit
def test_submodules_are_imported_without_the_init(package):
    defer_packages({package: {}})
    assert importlib.import_module('slow_one.part').value == 3
    assert importlib.import_module(package).part.value == 3
    assert sys.runs_of_init == 0


@pytest.mark.unit
def test_a_name_of_the_package_runs_the_init_once(package):
    defer_packages({package: {}})
    module = importlib.import_module(package)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: module.own, range(20))) == {'its own'}
    assert module.value == 3 and sys.runs_of_init == 1 and importlib.import_module(package) is module


@pytest.mark.unit
def test_an_init_that_fails_says_so_each_time(package, tmp_path):
    (tmp_path / 'slow_one' / '__init__.py').write_text('import no_such_package_here\n')
    defer_packages({package: {}})
    module = importlib.import_module(package)
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match='no_such_package_here'):
            _ = module.own


@pytest.mark.unit
def test_dir_and_star_see_the_whole_package(package):
    defer_packages({package: {}})
    assert 'own' in dir(importlib.import_module(package))
    names = {}
    exec('from slow_one import *', names)
    assert names['own'] == 'its own' and sys.runs_of_init == 1


@pytest.mark.unit
def test_what_is_made_apart_needs_no_init(package):
    defer_packages({package: {'value': lambda: importlib.import_module('slow_one.part').value}})
    assert importlib.import_module(package).value == 3 and sys.runs_of_init == 0


@pytest.mark.unit
def test_a_name_that_there_is_not_and_a_package_that_there_is_not(package):
    defer_packages({package: {}, 'no_such_package_here': {}})
    with pytest.raises(AttributeError, match='nothing_like_it'):
        _ = importlib.import_module(package).nothing_like_it
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module('no_such_package_here')


@pytest.mark.unit
def test_a_second_call_does_nothing(package):
    defer_packages({package: {}})
    finders = list(sys.meta_path)
    defer_packages({package: {}})
    assert sys.meta_path == finders


def python(code):
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, encoding='utf-8')
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_a_fit_imports_none_of_the_libraries_that_it_does_not_use():
    found = python(
        f'{LATE}import nemo_dreamfusion.launch.fitting; print([n for n in {LIBRARIES} if n in sys.modules])'
    )
    assert found == '[]'


@pytest.mark.slow
def test_the_installed_packages_have_all_their_names_afterwards():
    """A UNet and an autoencoder first, as a fit takes them; then everything else of each package."""
    take = 'import importlib, diffusers; diffusers.UNet2DConditionModel, diffusers.AutoencoderKL; '
    packages = tuple(name for name in PACKAGES if importlib.util.find_spec(name))
    code = f'{take}print([sorted(dir(importlib.import_module(name))) for name in {packages}])'
    assert python(LATE + code) == python(code)

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

"""A refusal names the page on what goes wrong, which is there: in a checkout and in an installed wheel."""

import sys

import pytest

from nemo_dreamfusion.launch import command_line, paths


@pytest.mark.parametrize('error', [ValueError('a = 1 is not allowed'), OSError('the disk is full')])
def test_a_refusal_names_a_page_of_this_title(error, capsys):
    with pytest.raises(SystemExit), command_line.exit_in_one_line():
        raise error
    said = capsys.readouterr().err
    page = paths.CONF.parents[1] / 'docs' / 'troubleshooting.md'
    assert str(error) in said and 'docs/troubleshooting.md' in said and said.count('\n') == 1
    assert page.read_text(encoding='utf-8').startswith(f'# {command_line.MORE}\n')


def test_what_hydra_refuses_names_it_too(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['nemo-dreamfusion', 'model.promt=a duck'])
    with pytest.raises(SystemExit) as caught:
        command_line.main()
    said = capsys.readouterr().err
    assert caught.value.code == 2 and 'model.prompt' in said and 'docs/troubleshooting.md' in said


def test_an_installed_wheel_names_its_own_copy(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, 'CONF', tmp_path / 'conf')
    (tmp_path / 'troubleshooting.md').write_text('# When it does not work\n', encoding='utf-8')
    assert paths.troubleshooting_page() == str(tmp_path / 'troubleshooting.md')

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

"""What is silenced is others' noise: our own warnings are shown."""

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from nemo.utils import logging as nemo_logging
from nemo.utils.lightning_logger_patch import add_filehandlers_to_pl_logger

from nemo_dreamfusion.launch.logging import PACKAGE, configure_logging, log_files_of_a_run

EXAMPLE = Path(__file__).parents[2] / 'examples' / 'dreamfusion.py'


@pytest.mark.parametrize(
    ('module', 'shown'),
    [
        ('nemo_dreamfusion.modules.guidance.prompts', True),
        ('nemo_dreamfusion', True),
        ('somebody.torch', True),
        ('nemo.core.classes.common', False),
        ('lightning.pytorch.trainer', False),
        ('torch', False),
    ],
)
def test_whose_warnings_are_shown(module, shown):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        configure_logging('warning')
        exec("import warnings; warnings.warn('hear this')", {'__name__': module})
    assert len(seen) == shown


def test_a_warning_of_ours_is_shown_though_a_filter_ignores_others_of_its_class():
    place = str(PACKAGE / 'modules' / 'guidance' / 'prompts.py')
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        warnings.filterwarnings('ignore', category=UserWarning, module='torch.optim')  # by which NeMo dropped all
        nemo_logging.old_warnings_showwarning, warnings.showwarning = warnings.showwarning, nemo_logging._showwarning
        configure_logging('warning')
        warnings.warn_explicit('hear this', UserWarning, place, 1)
    assert [str(warning.message) for warning in seen] == ['hear this']
    assert warnings.formatwarning('hear this', UserWarning, place, 1) == 'warning: hear this\n'
    assert 'other.py:1: UserWarning' in warnings.formatwarning('hear this', UserWarning, 'other.py', 1)


def test_what_is_said_after_a_run_does_not_go_into_its_files(tmp_path):
    loggers = [logging.getLogger(name) for name in ('nemo_logger', 'lightning.pytorch')]
    before = [list(logger.handlers) for logger in loggers]
    with pytest.raises(RuntimeError), log_files_of_a_run():  # as exp_manager does
        nemo_logging.add_err_file_handler(tmp_path / 'nemo_error_log.txt')
        add_filehandlers_to_pl_logger(tmp_path / 'lightning_logs.txt', tmp_path / 'nemo_error_log.txt')
        for logger in loggers:
            logger.error('of the run')
        raise RuntimeError
    for logger in loggers:
        logger.error('after the run')
    assert [list(logger.handlers) for logger in loggers] == before
    assert (tmp_path / 'nemo_error_log.txt').read_text().count('of the run') == 2
    assert (tmp_path / 'lightning_logs.txt').read_text() == 'of the run\n'
    assert 'after' not in (tmp_path / 'nemo_error_log.txt').read_text()


def test_nemo_says_what_is_news_only(monkeypatch):
    configure_logging('warning')
    said = []
    monkeypatch.setattr(logging.Logger, 'callHandlers', lambda self, record: said.append(record.getMessage()))
    nemo_logging.warning('Exp_manager is logging to results/a, but it already exists.')
    nemo_logging.warning('The disk is nearly full.')
    assert said == ['The disk is nearly full.']


def test_what_the_first_process_says_the_others_do_not(monkeypatch):
    ours = logging.getLogger('nemo_dreamfusion')
    monkeypatch.setenv('LOCAL_RANK', '1')
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        try:
            configure_logging('warning')
            assert ours.getChild('models').getEffectiveLevel() == logging.ERROR
            exec("import warnings; warnings.warn('hear this')", {'__name__': 'nemo_dreamfusion.models'})
        finally:
            ours.setLevel(logging.NOTSET)
    assert not seen


@pytest.mark.slow
def test_the_command_says_nothing_before_its_own_first_line(tmp_path):
    call = [sys.executable, str(EXAMPLE), 'mode=tset']
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.stdout == '' and done.stderr.startswith('error: mode') and done.stderr.count('\n') == 1

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

"""What the bar says in a terminal, and the lines in a log."""

import re
import sys
import time

import pytest
import torch

from nemo_dreamfusion.callbacks.progress import ProgressBar, ProgressLines, make_progress

pytestmark = pytest.mark.filterwarnings('ignore')


def test_bar_shows_step_time_opacity_and_gradient(ball, cameras, trainer, capsys):
    bar = ProgressBar()
    run = trainer(bar, max_steps=3, limit_val_batches=0)
    run.fit(model := ball(), cameras)
    metrics = bar.get_metrics(run, model)
    assert metrics['opacity'] == '0.25' and metrics['gradient'] == '2'
    assert re.fullmatch(r'\d+\.\d\ds', metrics['step'])
    shown = capsys.readouterr().out
    assert 'fit 3/3|' in shown and 'opacity=0.25' in shown and 'gradient=2' in shown


def test_numbers_are_read_now_and_then(ball, cameras, trainer, monkeypatch):
    """Each reading makes the host wait for a GPU."""
    bar, clock = ProgressBar(), [time.perf_counter() + 1.0]
    run = trainer(bar, max_steps=1, limit_val_batches=0)
    run.fit(model := ball(), cameras)
    monkeypatch.setattr('time.perf_counter', lambda: clock[0])
    shown = []
    for seconds, opacity in ((0.0, 0.1), (0.15, 0.2), (0.1, 0.3), (0.1, 0.4)):
        clock[0] += seconds
        monkeypatch.setitem(run.callback_metrics, 'opacity', torch.tensor(opacity))
        shown.append(bar.get_metrics(run, model)['opacity'])
    assert shown == ['0.10', '0.10', '0.30', '0.30']


def test_all_is_seen_in_a_terminal_of_80_columns(ball, cameras, trainer, monkeypatch, capsys):
    """With what NeMo's callback for the time of a step sends to the bar, which comes first, and with long numbers."""

    class Talkative(ball):
        def training_step(self, batch, batch_idx):
            self.log('train_step_timing in s', 0.123, prog_bar=True)
            self.log_dict({'opacity': 0.123456, 'gradient_norm': 12345.678})
            return self.nerf.radius**2

    monkeypatch.setattr('tqdm.std._screen_shape_wrapper', lambda: lambda file: (80, 24))
    bar = ProgressBar()
    trainer(bar, max_steps=3, limit_val_batches=0).fit(Talkative(), cameras)
    lines = re.split(r'[\r\n]', capsys.readouterr().out)
    assert max(map(len, lines)) <= 80
    last = [line for line in lines if line.startswith('fit 3/3|')][-1]
    assert re.search(r'step=\d\.\d\ds, opacity=0\.12, gradient=1\.23e\+04$', last.rstrip()), last
    slowest = dict(n=9999, total=10000, elapsed=7000, ncols=80, prefix='fit', bar_format=bar.BAR_FORMAT)
    shown = bar.train_progress_bar.format_meter(**slowest, postfix='step=12.34s, opacity=0.12, gradient=1.23e-04')
    assert len(shown) == 80 and shown.endswith('gradient=1.23e-04')


def test_what_is_not_logged_is_left_out(ball, cameras, trainer):
    bar = ProgressBar(shown={'psnr': ('psnr', '.1f')})
    run = trainer(bar, max_steps=1, limit_val_batches=0)
    run.fit(model := ball(), cameras)
    assert set(bar.get_metrics(run, model)) == {'step'}


def test_an_error_has_a_line_of_its_own(ball, cameras, trainer, capsys):
    class Failing(ball):
        def training_step(self, batch, batch_idx):
            raise ValueError('mine')

    with pytest.raises(ValueError, match='mine'):
        trainer(ProgressBar(), max_steps=3, limit_val_batches=0).fit(Failing(), cameras)
    shown = capsys.readouterr().out
    assert 'fit 0/3|' in shown and shown.endswith('\n')


@pytest.mark.parametrize('stage', ['validate', 'test'])
def test_so_has_an_error_in_a_validation_or_test(ball, cameras, trainer, capsys, stage):
    class Failing(ball):
        def validation_step(self, batch, batch_idx):
            raise ValueError('mine')

        test_step = validation_step

    run = trainer(ProgressBar())
    with pytest.raises(ValueError, match='mine'):
        getattr(run, stage)(Failing(), cameras)
    shown = capsys.readouterr().out
    assert '0/3|' in shown and shown.endswith('\n')


def test_a_validation_within_the_fit_leaves_no_bar_behind_the_error(ball, cameras, trainer, capsys):
    class Failing(ball):
        def validation_step(self, batch, batch_idx):
            raise ValueError('mine')

    bar = ProgressBar()
    with pytest.raises(ValueError, match='mine'):
        trainer(bar, max_steps=3, val_check_interval=1, check_val_every_n_epoch=None).fit(Failing(), cameras)
    assert bar.val_progress_bar.disable and bar.train_progress_bar.disable  # closed
    assert capsys.readouterr().out.endswith('\n')


# In a file or a pipe


def lines_of(capsys) -> list[str]:
    return re.split(r'[\r\n]', capsys.readouterr().out.rstrip('\n'))


def test_a_terminal_has_the_bar_and_a_pipe_the_lines(monkeypatch):
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True, raising=False)
    assert isinstance(make_progress(), ProgressBar)
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: False, raising=False)
    assert isinstance(make_progress(), ProgressLines)


def test_a_quick_fit_has_two_lines(ball, cameras, trainer, capsys):
    trainer(ProgressLines(), max_steps=12).fit(ball(), cameras)
    first, last = lines_of(capsys)
    assert re.fullmatch(r'fit 1/12 \| 0:0\d \| step=\d\.\d\ds, opacity=0\.25, gradient=2', first)
    assert last.startswith('fit 12/12 | 0:')


@pytest.mark.parametrize(
    ('seconds_a_step', 'options', 'expected'),
    [
        (1, {'seconds': 3, 'share': 0}, [1, 4, 7, 10]),
        (1, {'seconds': 3, 'share': 0.45}, [1, 6, 10]),
        (100, {}, list(range(1, 11))),
    ],
)
def test_between_them_both_the_time_and_the_share_must_have_passed(
    ball, cameras, trainer, capsys, monkeypatch, seconds_a_step, options, expected
):
    model = ball(at_step=lambda model, step: clock.append(clock[-1] + seconds_a_step))
    lines, clock = ProgressLines(**options), [0.0]
    run = trainer(lines, max_steps=10, limit_val_batches=0)
    monkeypatch.setattr('nemo_dreamfusion.callbacks.progress.time.monotonic', lambda: clock[-1])
    run.fit(model, cameras)
    assert [int(re.match(r'fit (\d+)/10', line)[1]) for line in lines_of(capsys)] == expected


def test_a_long_fit_has_at_most_a_hundred_lines_and_the_last(ball, cameras, trainer, capsys, monkeypatch):
    clock = [0.0]
    run = trainer(ProgressLines(), max_steps=400, limit_val_batches=0)
    monkeypatch.setattr('nemo_dreamfusion.callbacks.progress.time.monotonic', lambda: clock[-1])
    run.fit(ball(at_step=lambda model, step: clock.append(clock[-1] + 60)), cameras)
    assert len(lines_of(capsys)) == 101


@pytest.mark.parametrize('stage', ['validate', 'test'])
def test_an_evaluation_by_itself_has_one_line(ball, cameras, trainer, capsys, stage):
    getattr(trainer(ProgressLines()), stage)(ball(), cameras, verbose=False)
    (line,) = lines_of(capsys)
    assert re.fullmatch(rf'{"validation" if stage == "validate" else "test"} of 3 views \| 0:0\d', line)


def test_other_ranks_say_nothing(ball, cameras, trainer, capsys):
    lines = ProgressLines()
    lines.disable()
    trainer(lines, max_steps=2).fit(ball(), cameras)
    assert capsys.readouterr().out == ''

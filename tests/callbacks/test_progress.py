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

"""What the bar says."""

import re

import pytest

from nemo_dreamfusion.callbacks.progress import ProgressBar

pytestmark = pytest.mark.filterwarnings('ignore')


def test_bar_shows_step_time_opacity_and_gradient(ball, cameras, trainer, capsys):
    bar = ProgressBar()
    run = trainer(bar, max_steps=3, limit_val_batches=0)
    run.fit(model := ball(), cameras)
    metrics = bar.get_metrics(run, model)
    assert metrics['opacity'] == '0.25' and metrics['gradient'] == '2'
    assert re.fullmatch(r'\d+\.\d\ds', metrics['step'])
    shown = capsys.readouterr().out
    assert 'fit: 100%' in shown and '3/3' in shown and 'opacity=0.25' in shown and 'gradient=2' in shown


def test_what_is_not_logged_is_left_out(ball, cameras, trainer):
    bar = ProgressBar(shown={'psnr': 'psnr'})
    run = trainer(bar, max_steps=1, limit_val_batches=0)
    run.fit(model := ball(), cameras)
    assert set(bar.get_metrics(run, model)) == {'step'}

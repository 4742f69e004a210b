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

"""The curves of a fit: which steps they have, and that a resumed run goes on with them."""

import pytest

from nemo_dreamfusion.callbacks.curves import Curves

pytestmark = pytest.mark.filterwarnings('ignore')


def test_curves_hold_what_is_logged_at_some_steps(ball, cameras, trainer):
    curves = Curves(points=3)
    trainer(curves, max_steps=10, limit_val_batches=0).fit(ball(), cameras)
    read = curves.read()
    assert {'loss', 'opacity', 'gradient_norm'} <= read.keys()
    assert [step for step, _ in read['loss']] == [1, 3, 6, 9, 10]
    assert {value for _, value in read['opacity']} == {0.25}
    assert len({value for _, value in read['loss']}) == 5  # drawn anew at each step


def test_a_resumed_run_goes_on_with_its_curves(ball, cameras, trainer):
    first = Curves()
    trainer(first, max_steps=4, limit_val_batches=0).fit(ball(), cameras)
    later = Curves()
    later.load_state_dict(first.state_dict())
    assert later.read() == first.read()
    run = trainer(later, max_steps=4, limit_val_batches=0)
    run.fit(ball(), cameras)
    assert later.read() == first.read()  # no step twice

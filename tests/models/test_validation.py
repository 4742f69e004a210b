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

"""Broken configurations: one clear sentence each, before any work and without a file."""

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reliability import broken
from small_model import small_config

FEW = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


@pytest.fixture(scope='module', autouse=True)
def no_file_is_written(tmp_path_factory):
    """Runs this module in an empty folder, which is as empty afterwards."""
    folder = tmp_path_factory.mktemp('empty')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield
    assert list(folder.iterdir()) == []


def refusal(config) -> str | None:
    """What is said of a configuration; None when nothing is. Anything but one sentence fails."""
    began = time.monotonic()
    try:
        broken.validate(config)
        return None
    except ValueError as error:
        text = str(error)
    assert text and len(text) < 4000 and not text.startswith('Traceback')
    assert time.monotonic() - began < 60
    return text


def test_the_shipped_configuration_is_right():
    assert refusal(broken.whole()) is None


@FEW
@given(broken.misspelt())
def test_an_unknown_key_is_refused_by_name(case):
    config, key = case
    assert key in refusal(config)


@FEW
@given(broken.no_number())
def test_what_is_no_number_is_refused_by_the_name_of_its_key(case):
    config, key = case
    assert key in refusal(config)


@FEW
@given(st.one_of(broken.anything(), broken.lacking()))
def test_anything_anywhere_is_taken_or_refused_in_one_sentence(case):
    refusal(case[0])


@pytest.mark.parametrize(
    ('override', 'words'),
    [
        ('+model.promt=x', 'model.prompt'),
        ('+trainer.max_step=3', 'trainer.max_steps'),
        ('+exp_manager.resume_if_exist=true', 'exp_manager.resume_if_exists'),
        ('model.optim.name=adm', 'model.optim.name=adam'),
        ('+model.data.train.batchsize=2', 'model.data.train.batch_size'),
        ('trainer.accelerator=abacus', 'trainer'),
        ('model.renderer.bound=2', 'model.nerf.bound'),
        ('trainer.logger=true', 'trainer.logger=false'),
        ('exp_manager.checkpoint_callback_params.every_n_epochs=1', 'mutually exclusive'),
        ('+exp_manager.ema.cpu_offload=true', 'exp_manager.ema.cpu_offload=false'),
        ('exp_manager.ema.decay=1', 'exp_manager.ema.decay'),
        ('model.iters=${model.itres}', 'model.itres'),
        ('model.prompt=7', 'text'),
    ],
)
def test_each_refusal_names_what_to_set(override, words):
    assert words in refusal(small_config(override))


def test_a_prompt_that_nemo_takes_for_a_metric_is_refused_where_it_would_crash_later():
    keep = 'exp_manager.checkpoint_callback_params.save_top_k=1'
    assert 'save_top_k=0' in refusal(small_config(keep, 'model.prompt=a glossy car'))
    assert refusal(small_config(keep, 'model.prompt=a car', 'exp_manager.exp_dir=results')) is None

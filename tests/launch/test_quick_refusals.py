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

"""A wrong setting is refused before what takes seconds is imported: facts about ``sys.modules``, without a clock."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from refusals import NO_VALUE, check_refusal

from nemo_dreamfusion.launch.configuration import load_config, refuse_early

ROOT = Path(__file__).parents[2]
SLOW = ('torch', 'lightning', 'nemo', 'transformers', 'diffusers', 'scipy', 'matplotlib', 'pandas')
WITH_TORCH = (*SLOW[1:], 'torch._dynamo')
PROGRAM = """
import atexit, json, sys
from nemo_dreamfusion.launch.command_line import main
atexit.register(lambda: print(json.dumps(sorted(set({slow!r}) & set(sys.modules)))))
main()
"""


def refused_by_command(argument, slow):
    """The sentence, and which of the slow packages were imported for it."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    command = [sys.executable, '-c', PROGRAM.format(slow=slow), argument]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    return line, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ('argument', 'key', 'value', 'way_out'),
    [
        ('model/nerf=torchngpp', 'model/nerf', NO_VALUE, 'model/nerf=torchngp'),
        ('trainer.max_step=2', 'trainer.max_step', NO_VALUE, 'trainer.max_steps'),
        ('model.seed=abc', 'model.seed', 'abc', 'whole number'),
    ],
)
def test_a_wrong_setting_needs_no_torch(argument, key, value, way_out):
    said, imported = refused_by_command(argument, SLOW)
    check_refusal(said, key, value, way_out)
    assert imported == []


def test_a_wrong_part_needs_torch_alone():
    said, imported = refused_by_command('model.nerf.blob_radius=-1', WITH_TORCH)
    check_refusal(said, 'model.nerf.blob_radius', -1, 'greater than 0')
    assert imported == []


@pytest.mark.parametrize(
    ('override', 'key', 'value', 'way_out'),
    [
        ('trainer.max_steps=0', 'trainer.max_steps', 0, 'at least 1'),
        ('trainer.logger=true', 'trainer.logger', True, 'trainer.logger=false'),
        ('exp_manager.ema.decay=1', 'exp_manager.ema.decay', 1, 'less than 1'),
        ('mesh_faces=3', 'mesh_faces', 3, 'at least 100'),
        ('pictures=[turntabel]', 'pictures', 'turntabel', 'turntable'),
        ('viewer.port=80', 'viewer.port', 80, '1024'),
        ('mode=render', 'mode', NO_VALUE, 'restore_from_path'),
        ('model.view_prompts={fornt: x}', 'model.view_prompts.fornt', NO_VALUE, 'front'),
    ],
)
def test_what_is_refused_early(override, key, value, way_out):
    plus = '++' if override.startswith('model.view_prompts') else ''
    with pytest.raises(ValueError) as caught:
        refuse_early(load_config(overrides=[plus + override]))
    check_refusal(str(caught.value), key, value, way_out)


def test_what_is_right_passes_and_nemos_resolvers_are_known():
    refuse_early(load_config())
    cfg = load_config(overrides=['model.seed=${multiply:2,3}'])
    refuse_early(cfg)
    assert cfg.model.seed == 6

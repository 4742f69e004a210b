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

"""examples/evaluate.py: what it refuses and how, what it starts, and what one bad object leaves of the others."""

import json

import pytest
from commands import run_example
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from refusals import NO_VALUE, check_refusal
from small_model import small_config

from nemo_dreamfusion.launch.command_line import main_evaluate
from nemo_dreamfusion.launch.evaluation import fit_command, locate_fit
from nemo_dreamfusion.models.dreamfusion import DreamFusion


@pytest.mark.parametrize(
    ('arguments', 'key', 'value', 'way_out'),
    [
        (['outt=a.json'], 'outt', NO_VALUE, 'out'),
        (['nemo_files=[missing.nemo]'], 'nemo_files', 'missing.nemo', '.nemo files'),
        (['prompts_file=comments.txt'], 'prompts_file', 'comments.txt', 'one a line'),
        (['prompts_file=missing.txt'], 'prompts_file', 'missing.txt', 'text file'),
        (['prompts_file=prompts.txt', 'resolution=0'], 'resolution', 0, 'at least 8'),
        (['prompts_file=unknown.txt'], 'a zeppelin', NO_VALUE, 'a duck'),
        (['prompts_file=prompts.txt', 'out=/proc/x/eval.json'], 'out', '/proc/x', 'another folder'),
        (
            ['prompts_file=prompts.txt', 'overrides=["trainer.max_step=3"]'],
            'trainer.max_step',
            NO_VALUE,
            'trainer.max_steps',
        ),
        ([], 'nemo_files', NO_VALUE, 'prompts_file'),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments, key, value, way_out, tmp_path, monkeypatch, capfd, run_command
):
    texts = {'comments.txt': '# none\n\n', 'prompts.txt': '# one\na duck\n', 'unknown.txt': 'a duck\na zeppelin\n'}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    assert run_command(main_evaluate, *arguments) == 2
    said = capfd.readouterr().err
    assert said.startswith('error: ') and said.count('\n') == 1, said
    check_refusal(said, key, value, way_out)
    assert {path.name for path in tmp_path.iterdir()} == set(texts)


@pytest.mark.parametrize('prompt', ['a duck', "a dog's house", 'back\\\\', "it's \\\\'quoted\\\\'", 'a ${b}, [c]'])
def test_any_prompt_reaches_the_main_job(prompt):
    cfg = OmegaConf.create({'exp_dir': "/some/where's results", 'overrides': ['trainer.max_steps=3']})
    arguments = fit_command(prompt, cfg)[-3:]
    parsed = {o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(arguments)}
    assert parsed == {'model.prompt': prompt, 'exp_manager.exp_dir': cfg.exp_dir, 'trainer.max_steps': 3}


def test_overrides_that_name_another_folder_are_followed(tmp_path):
    cfg = OmegaConf.create({'exp_dir': str(tmp_path), 'overrides': []})
    plain = locate_fit('a duck', cfg)
    assert plain.parent == tmp_path and plain.name.startswith('a-duck-')
    cfg.overrides = ['model.negative_prompt=a tree']  # a part of the name's hash
    assert locate_fit('a duck', cfg) != plain
    cfg.overrides = [f'exp_manager.exp_dir={tmp_path / "other"}']
    assert locate_fit('a duck', cfg) == tmp_path / 'other' / plain.name


@pytest.mark.filterwarnings('error:(?s).*working directory')  # Hydra's, of which users need to know nothing
def test_one_bad_object_leaves_the_scores_of_the_others(tmp_path, monkeypatch, capfd):
    for name, prompt in (('good', 'a red cube'), ('bad', 'a zeppelin')):  # the pocket world has no zeppelin
        DreamFusion(small_config(f'model.prompt={prompt}').model).save_to(str(tmp_path / f'{name}.nemo'))
    monkeypatch.chdir(tmp_path)
    assert run_example('evaluate.py', 'nemo_files=[bad.nemo,good.nemo]', 'out=eval.json', 'resolution=16') == 1
    done = capfd.readouterr()
    assert 'bad.nemo: was not scored' in done.err
    result = json.loads((tmp_path / 'eval.json').read_text())
    assert [row['prompt'] for row in result['objects']] == ['a red cube'] and result['failed'] == ['bad.nemo']
    mesh = {'chamfer', 'f_score_1', 'f_score_2', 'normal_consistency', 'surface_delta_e', 'components', 'watertight'}
    assert mesh <= set(result['objects'][0]) and mesh <= set(result['mean'])
    assert result['mean']['iou'] == result['objects'][0]['iou'] and '| a red cube |' in done.out

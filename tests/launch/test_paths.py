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

"""``~`` is the home folder in every setting that is a path, of every command."""

import inspect
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from nemo_dreamfusion.checkpoints.convert import convert
from nemo_dreamfusion.export.engines import build_engines
from nemo_dreamfusion.launch.arguments import prepare_arguments
from nemo_dreamfusion.launch.configuration import load_config
from nemo_dreamfusion.launch.key_values import read_arguments, read_dataclass
from nemo_dreamfusion.launch.known_fields import exp_manager_schema, known_fields
from nemo_dreamfusion.launch.paths import PATHS, expand_config, is_path
from nemo_dreamfusion.parts.build import flatten
from nemo_dreamfusion.parts.prompt_list import read_prompts
from nemo_dreamfusion.pocket.training.train import TrainConfig

CONF = Path(__file__).parents[2] / 'nemo_dreamfusion' / 'conf'
# Words that the name of a path holds; each key that holds one is a path, or stands here because it is none.
WORDS = {
    'path',
    'dir',
    'file',
    'files',
    'dirpath',
    'filepath',
    'folder',
    'fname',
    'checkpoint',
    'source',
    'tokenizer',
    'out',
    'target',
    'start_from',
}
NO_PATHS = {
    *('_target_', 'jitter_target', 'local_files_only', 'source_prompt', 'source_overrides'),
    *(
        'checkpoint_vae',
        'prompts',
        'filename',
        'mlflow_tracking_uri',
        'profiler',
        'fast_dev_run',
        'stdout',
        'json_file',
    ),
    *(
        'checkpoint_callback_params',
        'create_checkpoint_callback',
        'enable_checkpointing',
        'create_fault_tolerance_callback',
    ),
    *('resume_ignore_no_checkpoint', 'output_uri', 'num_output_dims', 'output_activation', 'deterministic'),
}


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv('HOME', str(tmp_path))
    return tmp_path


def keys_of_the_configurations() -> set[str]:
    keys = set()
    for path in CONF.rglob('*.yaml'):
        keys |= {key for key, _ in flatten(yaml.safe_load(path.read_text(encoding='utf-8')) or {})}
    schema = OmegaConf.to_container(exp_manager_schema())
    return (
        keys
        | {f'exp_manager.{key}' for key, _ in flatten(schema)}
        | {f'trainer.{key}' for key in known_fields('trainer')}
    )


def test_every_key_that_sounds_like_a_path_is_one():
    names = {key.rpartition('.')[2] for key in keys_of_the_configurations() if not key.startswith('hydra.')}
    for function in (convert, build_engines):
        names |= set(inspect.signature(function).parameters)
    names |= {field.name for field in fields(TrainConfig)}
    suspects = {name for name in names if set(name.split('_')) & WORDS}
    assert suspects - PATHS <= NO_PATHS
    assert {'exp_dir', 'plan_dir', 'out', 'source', 'mesh_fname', 'work_dir', 'nemo_files'} <= suspects & PATHS


PATHS_OF_A_RUN = [
    *('restore_from_path', 'mesh_fname', 'exp_manager.exp_dir', 'exp_manager.explicit_log_dir', 'hydra.sweep.dir'),
    *('exp_manager.resume_from_checkpoint', 'trainer.default_root_dir', 'model.guidance.source', 'hydra.run.dir'),
    'exp_manager.checkpoint_callback_params.dirpath',
]


@pytest.mark.parametrize('key', PATHS_OF_A_RUN)
@pytest.mark.parametrize('written', ['~/a b, c', "'~/a b, c'", '"~/a b, c"'])
def test_the_home_folder_of_a_command_line(key, written, home):
    from hydra import compose, initialize_config_dir

    assert is_path(key)
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose('dreamfusion', prepare_arguments([f'{key}={written}']), return_hydra_config=True)
    assert OmegaConf.select(config, key) == f'{home}/a b, c'


@pytest.mark.parametrize(
    ('choice', 'key'),
    [
        ('sd_nemo', 'checkpoint'),
        ('sd_nemo', 'parts.tokenizer'),
        ('sd_trt', 'plan_dir'),
        ('sd_trt', 'checkpoint'),
        ('sd_huggingface', 'source'),
    ],
)
def test_the_home_folder_of_a_guidance(choice, key, home):
    config = load_config(overrides=[f'model/guidance={choice}', f'model.guidance.{key}=~/sd'])
    assert OmegaConf.select(config.model.guidance, key) == f'{home}/sd'


@pytest.mark.parametrize('key', ['lora', 'parts.lora'])
def test_a_lora_is_a_path_or_a_list_of_mappings(key, home):
    def lora(written: str):
        overrides = ['model/guidance=sd_huggingface', 'model.guidance.source=x', f'model.guidance.{key}={written}']
        return load_config(overrides=overrides).model.guidance.parts.lora

    assert lora('~/x.safetensors') == f'{home}/x.safetensors'
    assert lora('/tmp/my (1), b.safetensors') == '/tmp/my (1), b.safetensors'
    assert lora('null') is None
    assert lora('[{path: a.safetensors, scale: 0.8}]') == [{'path': 'a.safetensors', 'scale': 0.8}]
    swept = f'model.guidance.{key}=null,[{{path: a.safetensors, scale: 1}}]'
    assert prepare_arguments(['-m', swept])[1].endswith('=null,[{path: a.safetensors, scale: 1}]')


def test_the_home_folder_of_lists_and_of_the_evaluation(home):
    overrides = [
        'nemo_files=[~/a.nemo, "~/b.nemo",~, c~ (1).nemo]',
        'out=~/e.json',
        'exp_dir=~',
        'prompts_file=~/p.txt',
    ]
    config = load_config('evaluate', overrides)
    assert config.nemo_files == [f'{home}/a.nemo', f'{home}/b.nemo', str(home), 'c~ (1).nemo']
    assert (config.out, config.exp_dir, config.prompts_file) == (f'{home}/e.json', str(home), f'{home}/p.txt')
    assert load_config('evaluate', ['nemo_files=[]']).nemo_files == []
    files = prepare_arguments(['-m', 'restore_from_path=~/a.nemo,b.nemo'])[1]
    assert files == f"restore_from_path='{home}/a.nemo',b.nemo"


def test_the_home_folder_of_a_file_of_settings(home):
    config = OmegaConf.create(
        {
            'base': '~/runs',
            'exp_manager': {'exp_dir': '${base}', 'files_to_copy': ['~/a', 'b']},
            'model': {'prompt': '~/x'},
        }
    )
    expand_config(config)
    assert config.exp_manager == {'exp_dir': f'{home}/runs', 'files_to_copy': [f'{home}/a', 'b']}
    assert config.model.prompt == '~/x'  # no path
    assert load_config(overrides=['exp_manager.exp_dir=~other~/x']).exp_manager.exp_dir == '~other~/x'


def test_the_home_folder_of_the_other_commands(home):
    given = read_arguments(['source=~/a', 'target=~/b', 'tokenizer=~/c'], convert, source='', target='')
    assert given == {'source': f'{home}/a', 'target': f'{home}/b', 'tokenizer': f'{home}/c'}
    built = read_arguments(['source=~/a', 'out_dir=~/b'], build_engines, source='', out_dir='')
    assert built == {'source': f'{home}/a', 'out_dir': f'{home}/b'}
    (home / 'from').mkdir()
    (home / 'from' / 'model_index.json').write_text('{}')
    config = read_dataclass(['work_dir=~/w', 'out=~/o', 'start_from=~/from'], TrainConfig)
    assert (config.work_dir, config.out, config.start_from) == (f'{home}/w', f'{home}/o', f'{home}/from')


def test_the_home_folder_of_a_list_of_prompts(home):
    (home / 'p.txt').write_text('a duck\n')
    assert read_prompts('~/p.txt') == ['a duck']

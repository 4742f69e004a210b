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

"""Every key of a configuration is honoured, without effect or refused by name; the tables know all of the installed ones."""

from __future__ import annotations

import ast
import inspect
import json
import shutil
from pathlib import Path

import pytest
import torch
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.checkpoints import configurations
from nemo_dreamfusion.checkpoints.configurations import CLASSES, DEFAULTS, TABLES, check_configuration
from nemo_dreamfusion.checkpoints.diffusers_format import CLIP_DEFAULTS, CONFIGS, DiffusersCheckpoint
from nemo_dreamfusion.checkpoints.noise_schedule import BETA_DEFAULTS, BETA_SCHEDULES, FLOW_SCHEDULER, compute_betas

# Schedulers of other kinds of models, which are refused. One of a later release that stands in neither list fails a test:
# find out what it means and put it here, or into BETA_DEFAULTS with its keys into the table.
OTHER_SCHEDULERS = set(
    """
    AmusedScheduler BlockRefinementScheduler CMStochasticIterativeScheduler CogVideoXDDIMScheduler
    CogVideoXDPMScheduler ConsistencyDecoderScheduler CosineDPMSolverMultistepScheduler DDPMWuerstchenScheduler
    DiscreteDDIMScheduler EDMDPMSolverMultistepScheduler EDMEulerScheduler EntropyBoundScheduler
    FlowMapEulerDiscreteScheduler FlowMatchEulerDiscreteScheduler FlowMatchHeunDiscreteScheduler
    FlowMatchLCMScheduler HeliosDMDScheduler HeliosScheduler IPNDMScheduler KarrasVeScheduler LCMScheduler
    LTXEulerAncestralRFScheduler MiniMaxH3Scheduler PiflowScheduler RFD4ProteinaScheduler RePaintScheduler
    SCMScheduler ScoreSdeVeScheduler ScoreSdeVpScheduler TCDScheduler UnCLIPScheduler VQDiffusionScheduler
    """.split()
)


def scheduler_arguments() -> dict[str, dict[str, object]]:
    """From the sources of diffusers: each scheduler's arguments with their defaults (some do not import everywhere)."""
    import diffusers

    found = {}
    for file in (Path(diffusers.__file__).parent / 'schedulers').glob('*.py'):
        for node in ast.parse(file.read_text(encoding='utf-8')).body:
            if (
                not isinstance(node, ast.ClassDef)
                or not node.name.endswith('Scheduler')
                or node.name.startswith('Base')
            ):
                continue
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == '__init__':
                    names = [a.arg for a in method.args.args][1:]
                    defaults = [ast.unparse(d) for d in method.args.defaults]
                    found[node.name] = dict(zip(names, [None] * (len(names) - len(defaults)) + defaults))
    return found


def class_arguments(part: str) -> dict[str, object]:
    """The arguments of the class of a part, with their defaults."""
    if part == 'text_encoder':
        from transformers import CLIPTextConfig, PreTrainedConfig

        own = (
            inspect.signature(CLIPTextConfig).parameters.keys() - inspect.signature(PreTrainedConfig).parameters.keys()
        )
        return {name: getattr(CLIPTextConfig(), name) for name in own}
    import diffusers

    parameters = inspect.signature(getattr(diffusers, CLASSES[part][0]).__init__).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name != 'self'}


@pytest.mark.parametrize('part', ['unet', 'vae', 'text_encoder'])
def test_the_table_knows_every_argument_of_the_installed_class(part):
    arguments, table = class_arguments(part), TABLES[part]
    assert set(arguments) <= table.honoured | table.ignored | table.only.keys()
    assert table.honoured <= set(arguments)  # nothing is honoured that the class does not read
    assert {name: arguments[name] for name in DEFAULTS[part]} == DEFAULTS[part]
    for key, only in table.only.items():
        assert key not in arguments or arguments[key] in only.values


def test_the_table_knows_every_argument_of_the_installed_schedulers():
    found, table = scheduler_arguments(), TABLES['scheduler']
    assert set(found) - OTHER_SCHEDULERS == set(BETA_DEFAULTS)
    assert not OTHER_SCHEDULERS & set(BETA_DEFAULTS)
    for name, (start, end, kind) in BETA_DEFAULTS.items():
        assert set(found[name]) - {'kwargs'} <= table.honoured | table.ignored | table.only.keys(), name
        theirs = [ast.literal_eval(found[name][key]) for key in ('beta_start', 'beta_end', 'beta_schedule')]
        assert theirs == [start, end, kind], name
        assert found[name].get('num_train_timesteps') == '1000'


@pytest.mark.parametrize('part', TABLES)
def test_a_key_stands_in_one_column_of_its_table(part):
    table = TABLES[part]
    assert not table.honoured & table.ignored
    assert not (table.honoured | table.ignored) & table.only.keys()


def test_the_defaults_of_the_text_encoder_are_the_installed_ones():
    arguments = class_arguments('text_encoder')
    assert {name: arguments[name] for name in CLIP_DEFAULTS} == CLIP_DEFAULTS


# --- what is refused, before any weights are read --------------------------------------------------------------------


@pytest.fixture(scope='module')
def without_weights(sd_folder, tmp_path_factory) -> Path:
    """A folder whose weights cannot be read."""
    folder = Path(shutil.copytree(sd_folder, tmp_path_factory.mktemp('configurations') / 'sd'))
    for file in folder.rglob('*.safetensors'):
        file.write_bytes(b'')
    return folder


@pytest.fixture
def check_with(without_weights):
    """Check the folder with keys of a part's configuration changed (or removed, by Ellipsis); put it back afterwards."""
    before = {name: (without_weights / name).read_bytes() for name in CONFIGS.values()}

    def check(part: str, **changes: object) -> None:
        path = without_weights / CONFIGS[part]
        config = {**json.loads(path.read_text(encoding='utf-8')), **changes}
        path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}), encoding='utf-8')
        DiffusersCheckpoint(str(without_weights)).check()

    yield check
    for name, content in before.items():
        (without_weights / name).write_bytes(content)


def test_the_unchanged_folder_passes(check_with):
    check_with('unet')


OTHER_VALUES = {None: 7, False: True, True: False, 3: 4, 'positional': 'fourier', 'default': 'gated'}


@pytest.mark.parametrize(
    ('part', 'key'), [(part, key) for part in TABLES for key in TABLES[part].only if key != 'prediction_type']
)
def test_another_value_of_a_key_with_few_values_is_refused_by_name(check_with, part, key):
    allowed = TABLES[part].only[key].values
    other = {'discrete': 'continuous', 'clip_text_model': 't5'}.get(allowed[0]) or OTHER_VALUES[allowed[0]]
    with refusal(key, json.dumps(other), json.dumps(allowed[0]), 'model.guidance.source') as caught:
        check_with(part, **{key: other})
    assert CONFIGS[part] in str(caught.value)


@pytest.mark.parametrize('part', ['unet', 'vae', 'scheduler'])
def test_an_unknown_key_passes_where_it_is_off_and_is_refused_where_it_is_not(check_with, part):
    check_with(part, key_of_a_later_release=None, switch_of_a_later_release=False)
    for value in (0, 1.5, True, 'on', [0]):
        with refusal('key_of_a_later_release', json.dumps(value), CONFIGS[part], 'Remove the key'):
            check_with(part, key_of_a_later_release=value)


@pytest.mark.parametrize(
    ('part', 'key', 'value'),
    [
        ('unet', '_class_name', 'UNet3DConditionModel'),
        ('vae', '_class_name', 'AsymmetricAutoencoderKL'),
        ('text_encoder', 'architectures', ['T5EncoderModel']),
        *(('scheduler', '_class_name', name) for name in sorted(OTHER_SCHEDULERS - {FLOW_SCHEDULER})),
    ],
)
def test_another_class_is_refused_by_name(check_with, part, key, value):
    with refusal(key, value if isinstance(value, str) else value[0], CLASSES[part][0], 'model.guidance.source'):
        check_with(part, **{key: value})


@pytest.mark.parametrize(
    ('part', 'key', 'value', 'way_out'),
    [
        ('unet', 'sample_size', None, 64),
        ('unet', 'sample_size', ..., 64),
        ('unet', 'sample_size', [], 64),
        ('unet', 'sample_size', 0, 64),
        ('unet', 'sample_size', '8', 64),
        ('unet', 'in_channels', 9, 'latent_channels'),
        ('unet', 'out_channels', 3, 8),
        ('unet', 'cross_attention_dim', 768, 'hidden_size'),
        ('unet', 'cross_attention_dim', [16, 768], 'hidden_size'),
        ('vae', 'latent_channels', 16, 'in_channels'),
        ('vae', 'scaling_factor', None, 0.18215),
        ('vae', 'scaling_factor', 0, 0.18215),
        ('vae', 'shift_factor', 'x', 'null'),
        ('text_encoder', 'hidden_size', 768, 'hidden_size'),
        ('scheduler', 'prediction_type', 'flow_prediction', 'v_prediction'),
        ('scheduler', 'beta_schedule', 'sigmoid', 'scaled_linear'),
        ('scheduler', 'beta_start', 1.5, 1),
        ('scheduler', 'beta_end', 0.0001, 0.00085),
        ('scheduler', 'num_train_timesteps', 0, 1),
        ('scheduler', 'trained_betas', [0.1, 'x'], 1),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(check_with, part, key, value, way_out):
    said = {None: 'null', ...: NO_VALUE}.get(value, value) if not isinstance(value, list) else value
    with refusal(key, said, way_out):
        check_with(part, **{key: value})


def test_a_scheduler_without_class_and_betas_is_not_taken_for_a_linear_schedule(check_with):
    gone = dict.fromkeys(('_class_name', 'beta_start', 'beta_end', 'beta_schedule'), ...)
    with refusal(
        'scheduler/scheduler_config.json', NO_VALUE, 'beta_start', 'beta_end', 'beta_schedule', '_class_name'
    ):
        check_with('scheduler', **gone)


@pytest.mark.parametrize('size', [8, [8, 12], [8]])
def test_a_size_is_a_number_or_a_list(check_with, size):
    check_with('unet', sample_size=size)


def test_what_diffusers_makes_no_network_of_is_refused_before_the_fit(check_with):
    with refusal('UNet2DConditionModel', NO_VALUE, 'down_block_types'):
        check_with('unet', down_block_types=['DownBlock2D'])


@pytest.mark.parametrize('part', CONFIGS)
@pytest.mark.parametrize('content', [b'{', b'[1]', b'\xff\xfe', b''])
def test_a_damaged_file_is_named(without_weights, check_with, part, content):
    (without_weights / CONFIGS[part]).write_bytes(content)
    with refusal(CONFIGS[part], NO_VALUE, 'model.guidance.source'):
        DiffusersCheckpoint(str(without_weights)).check()


# --- what is honoured -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['DDIMScheduler', 'HeunDiscreteScheduler', 'PNDMScheduler'])
@pytest.mark.parametrize('kind', [None, *BETA_SCHEDULES])
@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # of numpy, by diffusers
def test_betas_are_those_of_the_class_that_the_file_names(name, kind):
    import diffusers

    given = {} if kind is None else {'beta_schedule': kind}
    theirs = getattr(diffusers, name)(**given).betas
    torch.testing.assert_close(compute_betas({'_class_name': name, **given}).float(), theirs, rtol=1e-5, atol=1e-8)


def test_a_file_of_2022_is_known():
    """Keys that Stable Diffusion 1.4 and its text encoder came with."""
    scheduler = {
        '_class_name': 'PNDMScheduler', '_diffusers_version': '0.2.2', 'beta_end': 0.012, 'beta_start': 0.00085,
        'beta_schedule': 'scaled_linear', 'num_train_timesteps': 1000, 'skip_prk_steps': True, 'tensor_format': 'pt',
    }  # fmt: skip
    check_configuration('scheduler', scheduler, 'x')
    text = {'architectures': ['CLIPTextModel'], 'model_type': 'clip_text_model', 'top_p': 1.0, 'num_beams': 1}
    check_configuration('text_encoder', text, 'x')
    trained = {'decay': 0.9999, 'inv_gamma': 1.0, 'power': 0.7, 'optimization_step': 15000, 'use_ema_warmup': True}
    check_configuration('unet', trained, 'x')


def test_the_message_ends_with_the_way_out():
    with refusal('num_class_embeds', 10, 'null', configurations.CHOOSE):
        check_configuration('unet', {'num_class_embeds': 10}, 'unet/config.json')

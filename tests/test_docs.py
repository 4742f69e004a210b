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

"""What the pages say is there: links, commands, and every setting that they name can be set as it is written."""

import inspect
import re
from dataclasses import fields
from itertools import zip_longest
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pages import FENCE, PAGES, ROOT, anchors, broken_links, commands, keys, links, missing_files, settings

from nemo_dreamfusion.checkpoints.convert import convert
from nemo_dreamfusion.export.engines import build_engines
from nemo_dreamfusion.launch.gallery import make_gallery
from nemo_dreamfusion.launch.known_fields import is_known_field
from nemo_dreamfusion.launch.nemo2_config import translate_arguments
from nemo_dreamfusion.launch.overrides import SHORT_NAMES, prepare_overrides
from nemo_dreamfusion.pocket.training.train import TrainConfig

CONF = ROOT / 'nemo_dreamfusion' / 'conf'
NO_GROUPS = ('shared', 'renderer_size')  # parts of others, which no command line names
WITHIN = {'model/renderer/surface': 'model/renderer=mesh'}  # a group that another choice brings
METRIC_OF = {'metric/encoder': 'metric=clip_r_precision', 'metric/scorer': 'metric=t3bench_quality'}
NEW_CHOICES = 'CONTRIBUTING.md'  # its examples add choices; tests/test_contributing.py tries them
NEMO_2 = 'docs/migrating.md'  # its keys are NeMo's; tests/launch/test_nemo2_config.py reads them
SLURM = yaml.safe_load((ROOT / 'examples' / 'launcher' / 'slurm.yaml').read_text(encoding='utf-8'))
OF_CONVERT, OF_BUILD = set(inspect.signature(convert).parameters), set(inspect.signature(build_engines).parameters)
OF_GALLERY = set(inspect.signature(make_gallery).parameters)
OF_BENCH = set(yaml.safe_load((CONF / 'bench.yaml').read_text(encoding='utf-8')))
OF_TRAINING = {field.name for field in fields(TrainConfig)}
OPTIONS_OF = {  # of the commands that take no Hydra configuration
    **{'convert': OF_CONVERT, 'build-engines': OF_BUILD, 'train-pocket': OF_TRAINING},
    **{'convert_stable_diffusion': OF_CONVERT, 'build_engines': OF_BUILD, 'train_pocket': OF_TRAINING},
    'gallery': OF_GALLERY,
    'launcher/slurm': set(SLURM),
}


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def named_in_pages(read, but=()) -> list:
    """What ``read`` finds in the pages, each once, as parameters that name themselves."""
    found = {one for page in PAGES if page_id(page) not in but for one in read(page.read_text(encoding='utf-8'))}
    return [pytest.param(one, id=str(one)) for one in sorted(found, key=str)]


@pytest.fixture(scope='module')
def hydra():
    """Composes one of our configurations, as the command line does."""
    with initialize_config_dir(str(CONF), version_base=None):
        yield lambda name, overrides: compose(name, overrides, return_hydra_config=True)


@pytest.fixture(scope='module')
def configurations(hydra):
    """The main configuration with its default choices, and others that have each other choice of each group of the model."""
    groups = [folder for folder in (CONF / 'model').rglob('*') if folder.is_dir() and folder.name not in NO_GROUPS]
    choices = {str(group.relative_to(CONF)): sorted(path.stem for path in group.glob('*.yaml')) for group in groups}
    alone = [[WITHIN[group], f'{group}={name}'] for group in WITHIN for name in choices.pop(group)]
    columns = [[f'{group}={name}' for name in names] for group, names in sorted(choices.items())]
    rows = [[one for one in row if one] for row in zip_longest(*columns)]
    found = [hydra('dreamfusion', overrides) for overrides in ([], *rows, *alone)]
    return found + [hydra('evaluate', [f'metric={path.stem}']) for path in sorted((CONF / 'metric').glob('*.yaml'))]


def has_key(configurations, key: str) -> bool:
    """Whether a key can be set without a +: some configuration has it, or it is Lightning's or exp_manager's."""
    if is_known_field(key):
        return True
    if key in SHORT_NAMES:
        key = key.replace('model.guidance.', 'model.guidance.parts.')
    node, _, name = key.rpartition('.')
    nodes = [OmegaConf.select(config, node) if node else config for config in configurations]
    return any(OmegaConf.is_dict(found) and name in found.keys() for found in nodes)  # also where it is ???


def refusal_of(hydra, name: str, overrides: list[str]) -> str | None:
    """Why a configuration cannot be composed; None when it can. Each value of a sweep is composed."""
    plain: list[list[str]] = [[]]
    for override in OverridesParser.create().parse_overrides(prepare_overrides(translate_arguments(overrides)[0])):
        values = [override.input_line]
        if override.is_sweep_override():
            values = [f'{override.key_or_group}={value}' for value in override.sweep_string_iterator()]
        plain = [[*before, value] for before in plain for value in values]
    try:
        for one in plain:
            hydra(name, one)
    except (HydraException, OmegaConfBaseException) as error:
        return f'{overrides}: {error}'
    return None


def missing_launchers(overrides: list[str]) -> list[str]:
    """The Hydra launchers among the settings whose package is not installed here."""
    asked = [override.partition('=')[2] for override in overrides if override.startswith('hydra/launcher=')]
    names = ' '.join(launcher.__name__.lower() for launcher in Plugins.instance().discover(Launcher))
    return [name for name in asked if name.partition('_')[0] not in names]


@pytest.mark.parametrize('page', PAGES, ids=page_id)
def test_links_lead_to_files_and_headings_that_exist(page):
    assert broken_links(page) == []


@pytest.mark.parametrize('page', [page for page in PAGES if page_id(page) != NEMO_2], ids=page_id)
def test_files_that_a_page_names_exist(page):
    assert missing_files(page.read_text(encoding='utf-8')) == []


@pytest.mark.parametrize('command', named_in_pages(commands))
def test_commands_take_their_arguments(hydra, command):
    arguments = [word for word in command.arguments if '=' in word and not word.startswith(('-', 'prompts_file='))]
    if command.program == 'make':
        makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
        (target,) = [word for word in command.arguments if '=' not in word]
        assert f'\n{target}: ' in makefile
        for name in (word.partition('=')[0] for word in arguments):
            assert f'\n{name} ?=' in makefile
        given = [word.removeprefix('ARGS=') for word in arguments if word.startswith('ARGS=')]
        arguments = [word for words in given for word in words.split()]  # as the shell does
        name = 'bench' if target == 'leaderboard' else 'dreamfusion'
        assert refusal_of(hydra, name, arguments) is None
    elif command.program in OPTIONS_OF:
        assert {word.partition('=')[0].partition('.')[0] for word in arguments} <= OPTIONS_OF[command.program]
    elif not any(word.startswith('--config-path') for word in command.arguments):  # a user's own
        words = list(command.arguments)
        name = words[words.index('--config-name') + 1] if '--config-name' in words else command.program
        if missing := missing_launchers(arguments):
            pytest.skip(f'no package for hydra/launcher={missing[0]}')
        assert refusal_of(hydra, name, arguments) is None


@pytest.mark.parametrize('setting', named_in_pages(settings, but=[NEW_CHOICES]))
def test_every_setting_can_be_set(hydra, configurations, setting):
    key, _, value = setting.partition('=')
    if '/' not in key:
        known = has_key(configurations, key) or any(key in options for options in (OF_BENCH, *OPTIONS_OF.values()))
        assert known or refusal_of(hydra, 'dreamfusion', [setting]) is None
    elif missing := missing_launchers([setting]):
        pytest.skip(f'no package for hydra/launcher={missing[0]}')
    elif key in METRIC_OF:
        assert refusal_of(hydra, 'evaluate', [METRIC_OF[key], setting]) is None
    else:
        assert refusal_of(hydra, 'dreamfusion', [setting]) is None


@pytest.mark.parametrize('key', named_in_pages(keys, but=[NEMO_2]))
def test_every_key_exists(configurations, key):
    assert has_key(configurations, key)


def test_misspelt_settings_are_found(hydra, configurations):
    assert not has_key(configurations, 'model.guidance.scroe')
    assert not has_key(configurations, 'trainer.max_stpes')
    assert has_key(configurations, 'model.guidance.plan_dir')  # of sd_trt alone
    assert refusal_of(hydra, 'dreamfusion', ['model/loss=nowhere'])


def test_readme_is_one_page():
    assert len((ROOT / 'README.md').read_text(encoding='utf-8').splitlines()) <= 110


def test_messages_that_the_troubleshooting_page_quotes_are_ours():
    rows = re.findall(r'^\| (.*?) \|', (ROOT / 'docs' / 'troubleshooting.md').read_text(encoding='utf-8'), re.M)
    quoted = {phrase for row in rows for phrase in re.findall(r'"(.+?)"', row)} - {'CUDA out of memory'}  # torch's
    sources = [ROOT / 'Makefile', ROOT / 'setup.py', *(ROOT / 'nemo_dreamfusion').rglob('*.py')]
    said = ' '.join(path.read_text(encoding='utf-8') for path in sources)
    assert len(quoted) > 20
    assert sorted(phrase for phrase in quoted if phrase not in said) == []


@pytest.mark.slow
def test_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    (code,) = [
        block for language, block in FENCE.findall((ROOT / 'README.md').read_text('utf-8')) if language == 'python'
    ]
    assert code.count('trainer.max_steps=200') == 1
    quick = "'trainer.max_steps=4', 'mesh_resolution=0', 'turntable_frames=0', 'pictures=[]'"
    small = "'mesh_fname=duck.obj', 'mesh_resolution=24', 'texture_size=64'"
    code = code.replace("'trainer.max_steps=200'", quick).replace("'mesh_fname=duck.obj'", small)
    assert quick in code and small in code
    monkeypatch.chdir(tmp_path)
    exec(compile(code, 'README.md', 'exec'), {'__name__': '__main__'})
    assert (tmp_path / 'duck.obj').stat().st_size > 1000 and 'vertices in duck.obj' in capsys.readouterr().out


def test_settings_and_commands_are_read_from_a_page():
    text = """
Set `model.seed=2`, or look at `trainer.max_steps` and `docs/x.md`, a `name`, `a == b`.

```
python examples/evaluate.py nemo_files=[<file>.nemo] \\
    out=x   # a comment
nemo-dreamfusion model.prompt='a duck'
echo nothing=1
```

```python
run(value=1)
```
"""
    assert settings(text) == ['model.seed=2'] and keys(text) == ['trainer.max_steps']
    found = [(command.program, command.arguments) for command in commands(text)]
    assert found == [
        ('evaluate', ('nemo_files=[placeholder.nemo]', 'out=x')),
        ('dreamfusion', ('model.prompt=a duck',)),
    ]


def test_broken_links_are_found(tmp_path):
    page = tmp_path / 'a.md'
    page.write_text('# A `b`: c\n[x](#a-b-c) [y](#d) [z](none.md) [w](https://nowhere.invalid/) ![i](a.md#a-b-c)\n')
    assert anchors(page.read_text()) == {'a-b-c'}
    assert links(page.read_text()) == ['#a-b-c', '#d', 'none.md', 'a.md#a-b-c']
    assert broken_links(page) == ['#d', 'none.md']

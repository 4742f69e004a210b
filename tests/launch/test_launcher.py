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

"""What would be submitted to a cluster: the NeMo launcher's file and command, and NeMo-Run's batch script."""

import os
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from commands import run_main
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from refusals import NO_VALUE, check_refusal, refusal

from nemo_dreamfusion.parts.build import flatten

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / 'examples'
LAUNCHERS_PATH = '/opt/NeMo/examples/multimodal/x_to_nerf/nerf/main.py'  # fixed in the launcher's stages.py


@pytest.fixture
def written(tmp_path):
    """The file that the launcher writes: its ``training`` node, composed from our folder, interpolations resolved."""
    (tmp_path / 'conf').mkdir()
    (tmp_path / 'conf' / 'config.yaml').write_text(
        f'defaults: [_self_, {{training: nerf/nemo_dreamfusion}}]\nbase_results_dir: {tmp_path}/results\n'
        f'hydra: {{searchpath: ["file://{EXAMPLES}/launcher/conf"]}}\n'
    )
    with initialize_config_dir(str(tmp_path / 'conf'), version_base=None):
        training = compose('config', overrides=['training.model.prompt="it\'s a duck, red"']).training
    path = tmp_path / 'nemo_dreamfusion_hydra.yaml'
    path.write_text(OmegaConf.to_yaml(training, resolve=True))
    return path


def test_the_launcher_finds_what_it_reads(written, tmp_path):
    training = OmegaConf.load(written)
    assert {'name', 'results_dir', 'time_limit', 'dependency'} <= set(training.run)
    assert (training.trainer.num_nodes, training.trainer.devices) == (1, 1)
    assert training.model is not None
    assert training.exp_manager.exp_dir == f'{tmp_path}/results/nemo_dreamfusion/results'


def test_its_settings_become_our_configuration(written):
    main = runpy.run_path(str(EXAMPLES / 'nerf' / 'main.py'))
    arguments = main['arguments'](OmegaConf.to_container(OmegaConf.load(written)), ['+rank=0', 'model.seed=3'])
    assert arguments[:2] == ['--config-name', 'dreamfusion-sd']
    with initialize_config_dir(str(ROOT / 'nemo_dreamfusion' / 'conf'), version_base=None):
        config = OmegaConf.to_container(compose('dreamfusion-sd', overrides=arguments[2:]), resolve=True)
    result = dict(flatten(config))
    assert config['model']['guidance']['mixing']['guidance_scale'] == 100  # of sd_huggingface, not of pocket
    assert config['model']['prompt'] == "it's a duck, red" and config['model']['seed'] == 3
    for key, value in flatten(OmegaConf.to_container(OmegaConf.load(written))):
        if not key.startswith(('run.', 'choices.', 'config_name')):
            assert result[key] == value, key
    assert not {'run', 'choices', 'config_name', 'rank'} & set(config)


def test_the_launchers_path_exists_in_the_image():
    """The Dockerfile links examples/ to where the launcher looks, and the mount in the YAML does the same."""
    inside = LAUNCHERS_PATH.removeprefix('/opt/NeMo/examples/multimodal/x_to_nerf/')
    assert (EXAMPLES / inside).is_file()
    link = 'ln -s /opt/nemo_dreamfusion/examples /opt/NeMo/examples/multimodal/x_to_nerf'
    assert link in (ROOT / 'Dockerfile').read_text()
    yaml = (EXAMPLES / 'launcher' / 'conf' / 'training' / 'nerf' / 'nemo_dreamfusion.yaml').read_text()
    assert '<plugin>/examples:/opt/NeMo/examples/multimodal/x_to_nerf]' in yaml


@pytest.mark.slow
def test_the_launchers_command_starts_the_main_job(written, tmp_path, capfd):
    """Through a link at another place, as in a container; it stops at the first setting that this machine cannot serve."""
    (tmp_path / 'opt').mkdir()
    (tmp_path / 'opt' / 'x_to_nerf').symlink_to(EXAMPLES)
    main = partial(runpy.run_path, str(tmp_path / 'opt' / 'x_to_nerf' / 'nerf' / 'main.py'), run_name='__main__')
    command = [f'--config-path={tmp_path}', f'--config-name={written.name}', 'trainer.max_steps=0']
    assert run_main(main, *command) == 2
    check_refusal(capfd.readouterr().err, 'trainer.max_steps', 0, 'at least 1')


NO_LAUNCHER = (
    'NEMO_LAUNCHER is not set: NEMO_LAUNCHER=<launcher_scripts of the NeMo Framework Launcher> '
    'pytest tests/launch/test_launcher.py, with what its requirements name (hera) on PYTHONPATH'
)
SRUN = '#!/bin/bash\nwhile [ "$1" != bash ]; do shift; done\nexec "$@"\n'  # without Slurm and container


def bash(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Runs it with this Python first in the path, where ``srun`` runs its command here."""
    (folder / 'bin').mkdir(exist_ok=True)
    (folder / 'bin' / 'srun').write_text(SRUN)
    (folder / 'bin' / 'srun').chmod(0o755)
    path = os.pathsep.join([str(folder / 'bin'), str(Path(sys.executable).parent), os.environ['PATH']])
    environment = {**os.environ, 'PATH': path, 'PYTHONDONTWRITEBYTECODE': '1', **environment}
    return subprocess.run(['bash', '-c', script], env=environment, capture_output=True, text=True, timeout=300)


def launched(folder: Path, cluster: str) -> tuple[Path, str]:
    """What the launcher wrote for the command in our YAML's comment: the run's folder and the script to hand in."""
    yaml = EXAMPLES / 'launcher' / 'conf' / 'training' / 'nerf' / 'nemo_dreamfusion.yaml'
    command = '\n'.join(line[1:].strip() for line in yaml.read_text().splitlines() if line.startswith('#   '))
    for name, value in (('plugin', ROOT), ('results', folder / 'r'), ('cache', folder / 'c'), ('image', '/images/df')):
        command = command.replace(f'<{name}>', str(value))
    command += f' cluster_type={cluster} training.trainer.max_steps=0'
    done = bash(f'cd "$NEMO_LAUNCHER" && {command}', folder, NEMO_LAUNCHER_DEBUG='1')
    assert done.returncode == 0, done.stderr[-2000:]
    (script,) = (folder / 'r' / 'nemo_dreamfusion').glob('*_submission.sh')
    return script.parent, script.read_text()


@pytest.mark.slow
@pytest.mark.skipif('NEMO_LAUNCHER' not in os.environ, reason=NO_LAUNCHER)
@pytest.mark.parametrize('cluster', ['bcm', 'interactive'])
def test_the_launcher_itself_starts_the_main_job(cluster, tmp_path):
    """Its script runs here with /opt/NeMo elsewhere; nothing is handed in.

    Run with these files of NVIDIA/NeMo-Framework-Launcher: main.py at 0937882, launchers.py at df42322, logger.py at
    ae42350, job_utils.py at 812dd54, config.yaml at 01d0773, cluster/bcm.yaml at 0972d05, all whole; of stages.py at
    8e506b4 the base classes, Training and the two helper functions that they call. Every other stage and its
    configuration was an empty stand-in.
    """
    folder, script = launched(tmp_path, cluster)
    training = OmegaConf.load(folder / 'nemo_dreamfusion_hydra.yaml')
    assert training.model.prompt == 'a hamburger, red' and training.exp_manager.exp_dir == f'{folder}/results'
    words = [f'{LAUNCHERS_PATH} ', f'--config-path={folder} ', f'export HF_HOME={tmp_path}/c']
    if cluster == 'bcm':
        mounts = [f'{tmp_path}/{name}:{tmp_path}/{name},' for name in 'cr']
        mounts += [f'{EXAMPLES}:/opt/NeMo/examples/multimodal/x_to_nerf ', '--container-image /images/df ']
        flags = 'dependency=singleton time=04:00:00 nodes=1 gpus-per-node=1 ntasks-per-node=1 mem=64GB'
        words += [*mounts, *(f'#SBATCH --{flag}\n' for flag in flags.split())]
    assert [word for word in words if word not in script] == []
    assert '--exclusive' not in script
    (tmp_path / 'opt' / 'examples' / 'multimodal').mkdir(parents=True)
    (tmp_path / 'opt' / 'examples' / 'multimodal' / 'x_to_nerf').symlink_to(EXAMPLES)
    done = bash(script.replace('/opt/NeMo', str(tmp_path / 'opt')), tmp_path, PYTHONPATH=str(ROOT))
    check_refusal(done.stdout + done.stderr, 'trainer.max_steps', 0, 'at least 1')
    assert done.returncode == (2 if cluster == 'bcm' else 0)  # interactive: the exit code of its tee


# NeMo-Run

NO_NEMO_RUN = (
    'nemo_run is not installed: make leaves it out, since it brings 370 MB (ray and more) and its leptonai takes anyio, '
    'httpx and urllib3 back to older releases. pip install --target <folder> -r requirements/launcher.txt, then '
    'PYTHONPATH=<folder> pytest tests/launch/test_launcher.py'
)
SLURM = [
    *('account=me', 'partition=gpu', 'container_image=/images/df.sqsh', 'mounts=[/lustre/me:/work]'),
    *('exp_dir=/work/results', 'time=04:00:00', 'retries=7', 'nodes=2', 'gpus_per_node=8'),
    *('overrides=["model.prompt=\'a snowman\'"]', 'env={HF_HUB_OFFLINE: "1"}'),
]


@pytest.fixture(scope='module')
def slurm():
    """examples/launcher/slurm.py as a namespace."""
    return runpy.run_path(str(EXAMPLES / 'launcher' / 'slurm.py'))


@pytest.mark.parametrize(
    ('time', 'before', 'expected'),
    [('04:00:00', 15, '00:03:45:00'), ('48:00:00', 30, '01:23:30:00'), ('00:20:30', 20, '00:00:00:30')],
)
def test_a_run_stops_before_its_job_does(slurm, time, before, expected):
    assert slurm['max_time'](time, before) == expected


@pytest.mark.parametrize('time', ['00:10:00', '4 hours', '2-00:00:00'])
def test_a_job_too_short_or_unreadable_is_refused(slurm, time):
    with refusal('time', time, 'hours:minutes:seconds' if ' ' in time or '-' in time else '15 minutes'):
        slurm['max_time'](time, 15)


@pytest.mark.parametrize(
    ('arguments', 'key', 'value', 'way_out'),
    [
        (SLURM[1:], 'account', NO_VALUE, 'slurm.yaml'),
        ([*SLURM, 'partitoin=x', 'job_dir=/j'], 'partitoin', NO_VALUE, 'partition'),
        ([*SLURM, 'job_dir=/j', 'nodes=0'], 'nodes', 0, 'at least 1'),
    ],
)
def test_bad_settings_are_named(slurm, arguments, key, value, way_out):
    with refusal(key, value, way_out):
        slurm['settings'](arguments)


def test_the_command_is_one_that_our_configuration_takes(slurm):
    words = slurm['command'](slurm['settings']([*SLURM, 'job_dir=/jobs']))
    plain = subprocess.run(['bash', '-c', f'printf "%s\\n" {" ".join(words)}'], capture_output=True, text=True).stdout
    config_name, *overrides = plain.splitlines()[1:]
    with initialize_config_dir(str(ROOT / 'nemo_dreamfusion' / 'conf'), version_base=None):
        config = compose(config_name, overrides=overrides)
    assert config.model.prompt == 'a snowman'
    assert (config.trainer.num_nodes, config.trainer.devices) == (2, 8)
    assert config.exp_manager.max_time_per_run == '00:03:45:00' and config.exp_manager.resume_if_exists


def test_the_batch_script_that_nemo_run_would_hand_in(tmp_path):
    pytest.importorskip('nemo_run', reason=NO_NEMO_RUN)
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    environment = {'PYTHONPATH': path, 'NEMORUN_HOME': str(tmp_path / 'home'), 'COLUMNS': '1000'}
    command = [sys.executable, str(EXAMPLES / 'launcher' / 'slurm.py'), *SLURM, f'job_dir={tmp_path}/jobs']
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (tmp_path / 'jobs').exists()  # nothing was handed in
    script = ' '.join(done.stdout.split())
    for word in (
        *('#SBATCH --account=me', '#SBATCH --partition=gpu', '#SBATCH --nodes=2', '#SBATCH --ntasks-per-node=8'),
        *('#SBATCH --gpus-per-node=8', '#SBATCH --time=04:00:00', '--container-image /images/df.sqsh'),
        *('/lustre/me:/work', 'TORCHX_MAX_RETRIES=7', 'scontrol requeue', 'HF_HUB_OFFLINE=1'),
        *('/opt/nemo_dreamfusion/examples/dreamfusion.py', 'exp_manager.max_time_per_run=00:03:45:00'),
    ):
        assert word in script, word

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

"""One object on a Slurm cluster, by NeMo-Run: a job that saves in time, is queued again by itself and goes on.

    pip install 'nemo_dreamfusion[launcher]'
    python examples/launcher/slurm.py account=me partition=gpu container_image=/images/nemo_dreamfusion.sqsh \
        mounts=[/lustre/me:/work] exp_dir=/work/results job_dir=/lustre/me/jobs overrides="[model.prompt='a snowman']"

prints the batch script; ``submit=true`` hands it in. The other keys are in slurm.yaml.
"""

import sys
from datetime import timedelta
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nemo_dreamfusion.parts.checks import check_keys, check_range
from nemo_dreamfusion.parts.optional import require

SCRIPT = '/opt/nemo_dreamfusion/examples/dreamfusion.py'  # in the image


def settings(arguments: list[str]) -> DictConfig:
    """Return slurm.yaml with the command line laid over it.

    Raises:
        ValueError: for unknown, missing or impossible settings.
    """
    defaults = OmegaConf.load(Path(__file__).with_name('slurm.yaml'))
    given = OmegaConf.from_dotlist(arguments)
    check_keys('', given, defaults)
    merged = OmegaConf.merge(defaults, given)
    assert isinstance(merged, DictConfig)
    missing = sorted(OmegaConf.missing_keys(merged))
    if missing:
        raise ValueError(f'Not set: {", ".join(missing)}. Give each as key=value; slurm.yaml explains them.')
    for key in ('nodes', 'gpus_per_node', 'stop_minutes_before'):
        check_range(key, merged[key], 1, 10_000, integer=True)
    check_range('retries', merged.retries, 0, 1000, integer=True)
    return merged


def max_time(time: str, stop_minutes_before: int) -> str:
    """Return what a run has of a job's time (h:m:s), as exp_manager writes it: days:hours:minutes:seconds."""
    try:
        hours, minutes, seconds = (int(part) for part in time.split(':'))
    except ValueError:
        raise ValueError(f'time = {time!r} is not allowed: it must be hours:minutes:seconds.') from None
    left = timedelta(hours=hours, minutes=minutes - stop_minutes_before, seconds=seconds)
    if left <= timedelta():
        raise ValueError(
            f'time = {time!r} leaves nothing when a job stops {stop_minutes_before} minutes before its end.'
        )
    return f'{left.days:02d}:{left.seconds // 3600:02d}:{left.seconds // 60 % 60:02d}:{left.seconds % 60:02d}'


def command(cfg: DictConfig) -> list[str]:
    """Return what one task runs; Lightning finds the other tasks by Slurm's variables."""
    run = [
        *('--config-name', cfg.config_name, f'exp_manager.exp_dir={cfg.exp_dir}'),
        *(f'trainer.devices={cfg.gpus_per_node}', f'trainer.num_nodes={cfg.nodes}', 'trainer.accelerator=gpu'),
        f'++exp_manager.max_time_per_run={max_time(cfg.time, cfg.stop_minutes_before)}',
        'exp_manager.resume_if_exists=true',
        *cfg.overrides,
    ]
    return [_shell(word) for word in run]  # NeMo-Run quotes nothing


def _shell(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def submit(cfg: DictConfig) -> None:
    """Hand the job in, or print what would be handed in."""
    run = require('nemo_run', extra='launcher', reason='examples/launcher/slurm.py hands in jobs with it')
    executor = run.SlurmExecutor(
        account=cfg.account,
        partition=cfg.partition,
        nodes=cfg.nodes,
        ntasks_per_node=cfg.gpus_per_node,
        gpus_per_node=cfg.gpus_per_node,
        time=cfg.time,
        retries=cfg.retries,
        container_image=cfg.container_image,
        container_mounts=list(cfg.mounts),
        env_vars=dict(cfg.env),
        tunnel=run.LocalTunnel(job_dir=cfg.job_dir),
        packager=run.Packager(),  # the image holds the code
    )
    with run.Experiment(cfg.name, executor=executor) as made:
        made.add(run.Script(path=SCRIPT, entrypoint='python', args=command(cfg)), name=cfg.name)
        if cfg.submit:
            made.run(detach=True)
        else:
            made.dryrun()


def main() -> None:
    """Print or hand in the job; say what a user can mend in one line."""
    try:
        submit(settings(sys.argv[1:]))
    except (ValueError, OmegaConfBaseException) as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)


if __name__ == '__main__':
    main()

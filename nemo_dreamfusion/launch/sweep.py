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

"""Run the jobs of a list of prompts, keep how each ended, and sum them up in a table, a gallery and a contact sheet.

Each job of a Hydra multirun writes ``<exp_dir>/sweep/<number>/job.json``, wherever it runs. When all have ended, Hydra
calls :class:`SweepSummary` in the process that was started.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from nemo_dreamfusion.export.contact_sheet import save_contact_sheet
from nemo_dreamfusion.export.report.gallery import write_gallery
from nemo_dreamfusion.parts.files import write_atomically

logger = logging.getLogger('nemo_dreamfusion.launch.sweep')

RECORD = 'job.json'
STOPPED = (130, 138, 143)  # exit codes after Ctrl-C, SIGUSR1 and SIGTERM
COLUMNS = ('prompt', 'status', 'steps', 'fit_seconds', 'remark', 'folder')


def run_job(folder: Path, prompt: str, job: Callable[[], tuple[str, Path]]) -> None:
    """Run one job of a list and write down how it ended; an error is printed and kept, and the list goes on.

    Args:
        folder: where the record goes.
        prompt: what the job makes.
        job: returns its status (``finished`` or ``skipped``) and the run's folder.

    Raises:
        SystemExit: when the job was stopped by Ctrl-C, SIGUSR1 or SIGTERM, which stops the list too.
    """
    record = {'prompt': prompt, 'status': 'failed', 'remark': '', 'folder': ''}
    try:
        record['status'], run = job()
        record['folder'] = str(run)
    except SystemExit as stop:
        if stop.code in STOPPED:
            raise
        record['remark'] = f'exit code {stop.code}'
    except Exception as error:  # whatever it is, the other prompts have nothing to do with it
        record['remark'] = f'{error}' if isinstance(error, ValueError) else f'{type(error).__name__}: {error}'
        if not isinstance(error, ValueError):
            logger.exception('%r failed', prompt)
    if record['status'] == 'failed':
        print(f'error: {prompt!r}: {record["remark"]}', file=sys.stderr)
    write_atomically(folder / RECORD, json.dumps(record, indent=2) + '\n')


class SweepSummary(Callback):
    """Write ``summary.md``, ``gallery.html`` and ``contact_sheet.png`` when all jobs of a list have ended (for Hydra)."""

    def on_multirun_start(self, config: DictConfig, **kwargs) -> None:
        """Remove the records of the list before."""
        for record in Path(config.hydra.sweep.dir).glob(f'*/{RECORD}'):
            record.unlink()

    def on_multirun_end(self, config: DictConfig, **kwargs) -> None:
        """Write and print the summary; exit with code 1 when a prompt failed."""
        jobs = read_records(Path(config.hydra.sweep.dir))
        text = table(jobs)
        base = Path(config.exp_manager.exp_dir).expanduser()
        base.mkdir(parents=True, exist_ok=True)
        write_atomically(base / 'summary.md', text + '\n')
        write_gallery(jobs, base / 'gallery.html')
        rows = [(job['prompt'], Path(job['folder']) / 'preview.png') for job in jobs if job['folder']]
        rows = [(prompt, picture) for prompt, picture in rows if picture.is_file()]
        if rows:
            save_contact_sheet(rows, base / 'contact_sheet.png')
        print(text)
        if any(job['status'] == 'failed' for job in jobs):
            sys.exit(1)


def read_records(folder: Path) -> list[dict]:
    """Return the jobs of a list in order, each with what its run's ``metrics.json`` says."""
    records = sorted(folder.glob(f'*/{RECORD}'), key=lambda path: (len(path.parent.name), path.parent.name))
    jobs = []
    for path in records:
        job = json.loads(path.read_text(encoding='utf-8'))
        metrics = Path(job['folder']) / 'metrics.json'
        if job['folder'] and metrics.is_file():
            found = json.loads(metrics.read_text(encoding='utf-8'))
            job.update(steps=found['steps'], fit_seconds=found['fit_seconds'])
            job['remark'] = job['remark'] or found.get('diagnosis') or ''
            job['scores'] = found.get('scores') or {}
        jobs.append(job)
    return jobs


def table(jobs: list[dict]) -> str:
    """Return the jobs as a Markdown table, and a line that counts them."""
    lines = ['| ' + ' | '.join(COLUMNS) + ' |', '|---' * len(COLUMNS) + '|']
    for job in jobs:
        cells = [str(job.get(column, '')).replace('|', '\\|').replace('\n', ' ') for column in COLUMNS]
        lines.append('| ' + ' | '.join(cells) + ' |')
    counts = {status: sum(job['status'] == status for job in jobs) for status in ('finished', 'skipped', 'failed')}
    return '\n'.join([*lines, '', ', '.join(f'{count} {status}' for status, count in counts.items())])

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


"""Choose the folder of a run, and check that it may be written and resumed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict

from nemo_dreamfusion.launch.plain import to_plain
from nemo_dreamfusion.launch.processes import count_processes
from nemo_dreamfusion.modules.guidance.old_options import translate_old_guidance
from nemo_dreamfusion.parts.build import flatten
from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.parts.files import check_writable, sha256_of, write_atomically
from nemo_dreamfusion.parts.texts import escape_texts
from nemo_dreamfusion.parts.types import PromptSet

ARCHIVE = 'DreamFusion.nemo'  # in the folder of a run
# What may change of a model between two runs of the same object: how long, what is shown of it, and how it is computed.
MAY_CHANGE = (
    *('model.iters', 'model.data.val', 'model.data.test', 'model.data.predict', 'model.guidance.plan_dir'),
    *(
        'model.compile',
        'model.guidance.networks.compile',
        'model.guidance.networks.cuda_graphs',
        'model.guidance.prompts.cache',
        'model.guidance.latents.cache',
        'model.renderer.samples_per_chunk',
        'model.renderer.rays_per_chunk',
    ),
)
# Weights may lie elsewhere, but must be those of the same name.
PLACES = ('model.guidance.source', 'model.guidance.checkpoint')
# A mesh may lie elsewhere and be named otherwise, but must have the same content.
MESH, CONTENT = 'model.mesh', 'model.mesh_sha256'
WEIGHT = 'model.loss.lambda_'  # how the weights of regularisers begin
# Of the rest, what changes the result, with what it is where nothing, or null, is said.
OTHERS = {
    **{'restore_from_path': None, 'trainer.precision': '32', 'trainer.accumulate_grad_batches': 1},
    **{'model.guidance.networks.fp8': False},
    **{'trainer.gradient_clip_val': None, 'trainer.gradient_clip_algorithm': 'norm'},
}


def run_name(prompt: str, texts: Mapping[str, str]) -> str:
    """Return a folder name for a prompt of any length: its first words and a hash of all ``texts``.

    ``run_name('a DSLR photo of a hamburger', {...})`` gives something like ``a-dslr-photo-of-a-hamburger-1f0c2a9b``.
    """
    slug = re.sub(r'[^a-z0-9]+', '-', prompt.lower()).strip('-')[:48].strip('-') or 'object'
    joined = '\x00'.join(f'{key}={texts[key]}' for key in sorted(texts))
    return f'{slug}-{hashlib.sha256(joined.encode()).hexdigest()[:8]}'


def prepare_folder(cfg: DictConfig, prompts: PromptSet) -> Path:
    """Return the folder of a run, which is made where it is missing.

    Raises:
        ValueError: when it cannot be written, naming the setting to change.
    """
    folder = locate_folder(cfg, prompts)
    explicit = cfg.exp_manager.get('explicit_log_dir')
    check_writable(folder, 'exp_manager.explicit_log_dir' if explicit else 'exp_manager.exp_dir')
    return folder


def locate_folder(cfg: DictConfig, prompts: PromptSet) -> Path:
    """Return where a run's folder is: ``exp_manager.explicit_log_dir``, or one of its own in ``exp_manager.exp_dir``.

    Each set of texts has its own, and each content of ``model.mesh`` with what is made of it.
    """
    texts = {'negative': prompts.negative, **prompts.by_view()}
    if content := content_of_mesh(cfg):
        texts |= {'mesh': content, 'mesh_mode': str(cfg.model.get('mesh_mode'))}
    texts |= {'source': prompts.source} if prompts.source else {}
    own = Path(cfg.exp_manager.get('exp_dir') or 'results') / run_name(prompts.prompt, texts)
    return Path(cfg.exp_manager.get('explicit_log_dir') or own).resolve()


def content_of_mesh(cfg: DictConfig) -> str | None:
    """Return the SHA-256 of the file ``model.mesh``; None where none is named, or it is not there."""
    path = cfg.model.get('mesh')
    return sha256_of(path) if path and Path(path).is_file() else None


def pin_mesh(cfg: DictConfig) -> None:
    """Write the content of ``model.mesh`` down, as ``model.mesh_sha256``: it goes with the run and with its object.

    Raises:
        ValueError: when ``model.mesh_sha256`` is set, and is that of another file.
    """
    found, wanted = content_of_mesh(cfg), cfg.model.get('mesh_sha256')
    if found and wanted and found != wanted:
        refuse(CONTENT, wanted, f'that of {cfg.model.mesh}, {found}', 'Leave it out, or set model.mesh to its file.')
    if found:
        with open_dict(cfg):
            cfg.model.mesh_sha256 = found


def prepare_folder_of_archive(cfg: DictConfig) -> Path:
    """Return where what is rendered of ``restore_from_path`` goes: beside it, or to ``exp_manager.explicit_log_dir``.

    Raises:
        ValueError: when it cannot be written, naming the setting to change.
    """
    folder = Path(cfg.exp_manager.get('explicit_log_dir') or Path(cfg.restore_from_path).parent).resolve()
    check_writable(folder, 'exp_manager.explicit_log_dir')
    return folder


def check_resumed(cfg: DictConfig, folder: Path) -> None:
    """Refuse to go on in a folder that holds a run of other settings.

    Raises:
        ValueError: listing what differs.
    """
    before = config_of_run(folder)
    if before is not None:
        check_same_object(folder, before, to_plain(cfg))


def what_counts(config: Mapping) -> dict[str, object]:
    """Return the settings that change the result, by dotted key, whichever release wrote them."""
    model = config['model']
    if isinstance(model.get('guidance'), Mapping):
        config = {**config, 'model': {**model, 'guidance': translate_old_guidance(model['guidance'])}}
    settings = dict(flatten(config))
    found = {
        key: value for key, value in settings.items() if key.startswith('model.') and not key.startswith(MAY_CHANGE)
    }
    found.update({key: _weights(str(found[key])) for key in PLACES if found.get(key) is not None})
    if not model.get('mesh'):
        found = {key: value for key, value in found.items() if not key.startswith('model.mesh')}
    if found.get('model.edit.source_prompt') is None:
        found = {key: value for key, value in found.items() if not key.startswith('model.edit')}
    said = {key: value for key, value in settings.items() if value is not None}
    found.update({key: said.get(key, default) for key, default in OTHERS.items()})
    if found.get('restore_from_path') is not None:
        found['restore_from_path'] = str(Path(str(found['restore_from_path'])).resolve())
    found['trainer.precision'] = str(found['trainer.precision']).split('-')[0]  # '32' is '32-true', '16' is '16-mixed'
    found['trainer.devices x trainer.num_nodes'] = _processes(config.get('trainer') or {})
    if settings.get('exp_manager.ema.enable'):
        found.update({key: settings[key] for key in settings if key.startswith('exp_manager.ema.')})
    return found


def _weights(source: str) -> str:
    """Return what weights are called, wherever they lie: a path's last part, or all of a hub id, <owner>/<name>."""
    path = Path(source)
    is_id = re.fullmatch(r'\w[\w.-]*/[\w.-]+', source) and path.suffix != '.nemo' and not path.exists()
    return source if is_id else path.name


def _processes(trainer: Mapping[str, Any]) -> int | str:
    """Return how many processes a step has; in words where this machine has no such devices."""
    devices, num_nodes = trainer.get('devices') or 'auto', trainer.get('num_nodes') or 1
    if isinstance(devices, list):
        return len(devices) * num_nodes
    if str(devices).isdigit():
        return int(devices) * num_nodes
    try:
        return count_processes(trainer)
    except Exception:  # Lightning's, for an accelerator of another machine
        return f'{devices} x {num_nodes}'


def check_same_object(folder: Path, before: Mapping, now: Mapping) -> None:
    """Refuse to go on with a run that was made with another configuration.

    Args:
        folder: the run's folder, for the message.
        before: the configuration that the folder was made with.
        now: that of this run.

    Raises:
        ValueError: listing what differs.
    """
    old, new = what_counts(before), what_counts(now)
    if old.get(CONTENT) and new.get(CONTENT):
        old.pop(MESH, None), new.pop(MESH, None)
    else:  # a run of an earlier release, or a file that is gone: its name is all there is
        for settings in (old, new):
            settings.pop(CONTENT, None)
            settings.update({MESH: Path(str(settings[MESH])).name} if settings.get(MESH) else {})
    for key in {key for key in old.keys() | new.keys() if key.startswith(WEIGHT)}:
        old.setdefault(key, 0.0), new.setdefault(key, 0.0)  # a release that has no such regulariser has none of it
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    if changed:
        rows = '; '.join(f'{key}: {old.get(key)!r} then, {new.get(key)!r} now' for key in changed[:8])
        raise ValueError(
            f'{folder} holds a run with other settings ({rows}). Set exp_manager.exp_dir to another folder, set the values '
            'back, or delete that folder.'
        )


def is_finished(folder: Path, steps: int) -> bool:
    """Return whether a run of at least ``steps`` steps, or one that early stopping ended, left archive and metrics."""
    try:
        metrics = json.loads((folder / 'metrics.json').read_text(encoding='utf-8'))
        done = max(metrics['steps'], metrics.get('complete_for', 0))
    except (OSError, ValueError, KeyError):
        return False
    return (folder / ARCHIVE).is_file() and done >= steps


def mark_complete(folder: Path, steps: int) -> None:
    """Note in ``metrics.json``, where there is one, that a run of ``steps`` steps is complete, however few were made."""
    path = folder / 'metrics.json'
    if path.is_file():
        metrics = {**json.loads(path.read_text(encoding='utf-8')), 'complete_for': steps}
        write_atomically(path, json.dumps(metrics, indent=2) + '\n')


def config_text(cfg: DictConfig) -> str:
    """Return a configuration as YAML, interpolations resolved; a prompt that a logger is named after stays a text in it."""
    written = cfg.copy()
    with open_dict(written):
        literal = escape_texts(to_plain(cfg.exp_manager))
        written.exp_manager = OmegaConf.create(escape_texts(literal))  # to_yaml resolves once
    return OmegaConf.to_yaml(written, resolve=True)


def config_of_run(folder: Path) -> dict | None:
    """Return the configuration that a folder's run was made with; None when it holds no run.

    NeMo moves the files of a resumed run to ``run_0``, ``run_1``, ...: a run that was killed just then has its
    ``config.yaml`` there, and so has one that another rank is moving right now.

    Raises:
        ValueError: when the file is damaged.
    """
    path = folder / 'config.yaml'
    if not path.is_file():
        path = max(folder.glob('run_*/config.yaml'), key=lambda moved: moved.stat().st_mtime, default=path)
    try:
        config = yaml.safe_load(path.read_text(encoding='utf-8'))
        if isinstance(config['model'], dict) and isinstance(config['trainer'], dict):
            return config
    except FileNotFoundError:
        return None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError):
        pass
    raise ValueError(f'{path} is damaged: it is no configuration of a run. Delete it to go on without this check.')

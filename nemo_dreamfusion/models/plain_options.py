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

"""The ``model`` node's own options as plain data, and their checks, which need no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_dreamfusion.parts.checks import check_choice, check_keys, check_positive, check_range, check_types, refuse
from nemo_dreamfusion.parts.schedules import check_resolution
from nemo_dreamfusion.parts.types import VIEWS, PromptSet
from nemo_dreamfusion.parts.views import read_views

PARTS = ('nerf', 'material', 'background', 'renderer', 'loss', 'guidance')
NEEDED = (
    *('prompt', 'negative_prompt', 'front_prompt', 'side_prompt', 'back_prompt', 'overhead_prompt', 'seed', 'iters'),
    *('latent_iter_ratio', 'albedo_iter_ratio', 'min_ambient_ratio', 'textureless_ratio', 'latent_resolution'),
    *('resolution', 'guidance_weight', 'encoding_lr_ratio', *PARTS),
)
OPTIONAL = (
    'view_prompts',
    'views',
    'edit',
    'mesh',
    'mesh_sha256',
    'mesh_mode',
    'mesh_up',
    'mesh_azimuth_deg',
    'mesh_fit',
    'tf32',
    'compile',
    'optim',
    'optim_param_groups',
    'data',
)
MESH_MODES = ('texture', 'refine', 'init')
OF_NEMO = ('target', 'nemo_version', '_target_')  # what NeMo writes into an archive
KEYS = (*NEEDED, *OPTIONAL, *OF_NEMO)


def check_plain_options(options: Mapping[str, Any]) -> None:
    """Refuse a ``model`` node that lacks an option, or holds one of a wrong type or out of range, without torch.

    Args:
        options: plain containers, interpolations resolved. The parts check their own options when they are built;
            ``check_options`` checks the rest.

    Raises:
        ValueError: naming the key, the value and what to set.
    """
    for name in NEEDED:
        if options.get(name) is None:
            raise ValueError(f'model.{name} is missing: set it as nemo_dreamfusion/conf/dreamfusion.yaml does.')
    check_range('model.iters', options['iters'], 1, 10**9, integer=True)
    for name in ('latent_iter_ratio', 'albedo_iter_ratio', 'min_ambient_ratio', 'textureless_ratio'):
        check_range(f'model.{name}', options[name], 0, 1)
    for name in ('resolution', 'latent_resolution'):
        check_resolution(f'model.{name}', options[name])
    check_positive('model.encoding_lr_ratio', options['encoding_lr_ratio'])
    check_range('model.guidance_weight', options['guidance_weight'])
    check_range('model.seed', options['seed'], 0, 2**31, integer=True)
    texts = {name: options[name] for name in NEEDED if name.endswith('prompt')}
    check_types('model', texts, dict.fromkeys(texts, str))
    views = options.get('view_prompts') or {}
    check_types(
        'model', {'tf32': options.get('tf32', False), 'view_prompts': views}, {'tf32': bool, 'view_prompts': Mapping}
    )
    check_keys('model.view_prompts', views, VIEWS)
    check_types('model.view_prompts', views, dict.fromkeys(views, str | None))
    _check_table(options.get('views'), options)
    paths = {'mesh': options.get('mesh'), 'mesh_sha256': options.get('mesh_sha256')}
    check_types('model', paths, dict.fromkeys(paths, str | None))
    check_choice('model.mesh_up', options.get('mesh_up', 'y'), ('y', 'z'))
    check_range('model.mesh_azimuth_deg', options.get('mesh_azimuth_deg', 0), -360, 360)
    check_choice('model.mesh_fit', options.get('mesh_fit', True), (True, False))
    check_choice('model.mesh_mode', options.get('mesh_mode'), (None, *MESH_MODES))
    if not options['prompt'].strip():
        raise ValueError("model.prompt is empty: say what to make, e.g. model.prompt='a hamburger'.")


def _check_table(rows: Any, options: Mapping[str, Any]) -> None:
    """Refuse a table of views that cannot be read, or one beside texts for NeMo's four."""
    check_types('model', {'views': rows}, {'views': list | None})
    read_views('model.views', rows or ())
    four: dict[str, tuple[Any, str | None]] = {
        f'view_prompts.{view}': (text, None) for view, text in (options.get('view_prompts') or {}).items()
    }
    four |= {
        f'{view}_prompt': (options[f'{view}_prompt'], added)
        for view, added in zip(VIEWS, PromptSet.added, strict=True)
    }
    for name, (text, default) in four.items():
        if rows and text != default:
            way_out = "Set model/views=nemo for NeMo's four views, or write it into the table."
            refuse(
                f'model.{name}', text, f'{"null" if default is None else repr(default)} beside model.views', way_out
            )

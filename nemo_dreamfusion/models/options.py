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

"""Checks of the ``model`` node's own options, before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_dreamfusion.data.datamodule import CameraDataModule, camera_data
from nemo_dreamfusion.models.optimizers import check_optim, check_param_groups
from nemo_dreamfusion.parts.build import build
from nemo_dreamfusion.parts.checks import check_choice, check_keys, check_positive, check_range, check_types, refuse
from nemo_dreamfusion.parts.compilation import check_compile
from nemo_dreamfusion.parts.schedules import check_resolution
from nemo_dreamfusion.parts.types import VIEWS, PromptSet
from nemo_dreamfusion.parts.views import read_views

PARTS = ('nerf', 'material', 'background', 'renderer', 'loss', 'guidance')
OPTIMIZED = ('nerf', 'material', 'background', 'renderer')  # the submodules that hold parameters
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


def check_node(options: Mapping[str, Any]) -> None:
    """Refuse a ``model`` node with a key that there is not; the keys within the parts are checked when they are built.

    Raises:
        ValueError: naming the key, and the nearest that there is.
    """
    check_keys('model', options, (*NEEDED, *OPTIONAL, *OF_NEMO))
    if options.get('data') is not None:
        build('model.data', options['data'], CameraDataModule)


def read_prompts(options: Mapping[str, Any]) -> PromptSet:
    """Return the texts of an object from a ``model`` node.

    As in NeMo, ``front_prompt`` and its siblings are added to the prompt; ``view_prompts`` are whole texts. A table
    ``views`` takes the place of them all.
    """
    front, side, back, overhead = (options[f'{view}_prompt'] for view in VIEWS)
    added = (front, side, back, overhead)
    written = options.get('view_prompts') or {}
    views = read_views('model.views', options.get('views') or ())
    source = (options.get('edit') or {}).get('source_prompt') or ''
    negative = options['negative_prompt']
    return PromptSet(options['prompt'], negative=negative, added=added, views=views, source=source, **written)


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse a ``model`` node that lacks an option, or holds one of a wrong type or out of range.

    Args:
        options: plain containers, interpolations resolved. The parts check their own options when they are built.

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
    check_optim(options.get('optim'))
    check_param_groups(options.get('optim_param_groups'), options.get('optim'), OPTIMIZED)
    texts = {name: options[name] for name in NEEDED if name.endswith('prompt')}
    check_types('model', texts, dict.fromkeys(texts, str))
    views = options.get('view_prompts') or {}
    check_types(
        'model', {'tf32': options.get('tf32', False), 'view_prompts': views}, {'tf32': bool, 'view_prompts': Mapping}
    )
    check_compile('model.compile', options.get('compile', False))
    check_keys('model.view_prompts', views, VIEWS)
    check_types('model.view_prompts', views, dict.fromkeys(views, str | None))
    _check_table(options.get('views'), options)
    check_types('model', {'mesh': options.get('mesh')}, {'mesh': str | None})
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


def mesh_mode(options: Mapping[str, Any], keeps_triangles: bool) -> str:
    """Return what becomes of the mesh in the file ``model.mesh``.

    ``texture``: its shape stays, its colours are learnt. ``refine``: the shape may move too, and the colours of the file are
    the first. ``init``: it is only a first shape. Where nothing is said it is ``texture`` of a surface that keeps its
    triangles, and ``init`` of any other.

    Raises:
        ValueError: for a mode that the surface cannot have.
    """
    mode = options.get('mesh_mode') or ('texture' if keeps_triangles else 'init')
    if keeps_triangles == (mode == 'init'):
        allowed = "'texture' or 'refine' beside model/renderer/surface=triangles" if keeps_triangles else "'init' here"
        other = 'dreamfusion or dreamfusion-dmtet' if keeps_triangles else 'dreamfusion-mesh'
        refuse('model.mesh_mode', mode, allowed, f'Take --config-name {other}.')
    return mode


def say_memory(model: Any) -> None:
    """Let the guidance say what it will take of the device's memory beside this model, which is in its ``on_fit_start``."""
    images = camera_data(model.trainer).train_cameras.batch_size
    scene = 4 * sum(p.numel() * p.element_size() for p in model.parameters())  # with gradient and Adam's two moments
    model.guidance.say_memory(model.device, images=images, scene=scene)

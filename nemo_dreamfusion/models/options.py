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
from nemo_dreamfusion.models.plain_options import KEYS, check_plain_options
from nemo_dreamfusion.parts.build import build
from nemo_dreamfusion.parts.checks import check_keys, refuse
from nemo_dreamfusion.parts.compilation import check_compile
from nemo_dreamfusion.parts.types import VIEWS, PromptSet
from nemo_dreamfusion.parts.views import read_views

OPTIMIZED = ('nerf', 'material', 'background', 'renderer')  # the submodules that hold parameters


def check_node(options: Mapping[str, Any]) -> None:
    """Refuse a ``model`` node with a key that there is not; the keys within the parts are checked when they are built.

    Raises:
        ValueError: naming the key, and the nearest that there is.
    """
    check_keys('model', options, KEYS)
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
    check_plain_options(options)
    check_optim(options.get('optim'))
    check_param_groups(options.get('optim_param_groups'), options.get('optim'), OPTIMIZED)
    check_compile('model.compile', options.get('compile', False))


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

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

"""LoRAs (Hu et al., https://arxiv.org/abs/2106.09685): W + scale · alpha / r · B A, in the weights of a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from nemo_dreamfusion.checkpoints.adapter_files import AdapterFile, check_entries, read_json_entry
from nemo_dreamfusion.checkpoints.lora_names import DENOISER, TensorName, layer_names, parse_name
from nemo_dreamfusion.parts.checks import check_range

SETTING = 'model.guidance.lora'
_OTHER_KINDS = {  # marks in the names of tensors -> what is no plain LoRA
    'dora_scale': 'a DoRA',
    'lora_magnitude_vector': 'a DoRA',
    'hada_': 'a LoHa',
    'lokr_': 'a LoKr',
    'lora_mid': 'a LoRA with a third factor (Tucker)',
    'oft_': 'an OFT',
}
_TEXT_WIDTHS = {768: 'Stable Diffusion 1.x', 1024: 'Stable Diffusion 2.x', 2048: 'Stable Diffusion XL'}


@dataclass(frozen=True)
class Pair:
    """The two factors of one layer, by their names in the file: up [out, r] times down [r, in]; both may be convolutions.

    alpha: the name of the tensor that scales them, or None.
    """

    down: str
    up: str
    alpha: str | None


class Lora:
    """One LoRA file.

    Args:
        path: a ``.safetensors`` file, in the layout of diffusers or of kohya's scripts.
        scale: how much of it is added.
        setting: where it stands in the configuration.
        denoiser: the part of the model that is the diffusion model.
    """

    def __init__(
        self, path: str, *, scale: float = 1.0, setting: str = f'{SETTING}[0]', denoiser: str = 'unet'
    ) -> None:
        self.scale: float = check_range(f'{setting}.scale', scale)
        self.file = AdapterFile(path, setting, 'a LoRA in safetensors')
        self.denoiser = denoiser

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return self.file.shapes()

    @cached_property
    def _parts(self) -> dict[str, dict[str, dict[str, str]]]:
        """The names of the tensors by part, layer (as the file spells it) and role."""
        found: dict[str, dict[str, dict[str, str]]] = {}
        names = {key: parse_name(key) for key in self._shapes}
        other = next((what for mark, what in _OTHER_KINDS.items() for key in names if mark in key), None)
        if other:
            self.file.refuse(
                f'this is {other}', 'Merge it into its model first, and set model.guidance.source to that.'
            )
        if not any(name and name.role != 'alpha' for name in names.values()):
            self.file.refuse(f'this is {self.file.contents() or "something else"}')
        for key, name in names.items():
            if name is None:
                self.file.refuse(f'its {key} is no tensor of one')
            roles = found.setdefault(self._part(name), {}).setdefault(name.layer, {})
            if name.role in roles:
                self.file.refuse(f'its {key} and {roles[name.role]} are for the same layer')
            roles[name.role] = key
        return found

    def _part(self, name: TensorName) -> str:
        return self.denoiser if name.part == DENOISER else name.part

    def has(self, part: str) -> bool:
        """Return whether it changes a part of the model."""
        return part in self._parts

    def check(self, build_empty: Callable[[str], nn.Module], parts: tuple[str, ...], model: str) -> None:
        """Refuse a file that does not fit the model. Reads its header, and loads no weights.

        Args:
            build_empty: from a part to its network, without memory for its tensors.
            parts: of the model.
            model: its name and family, for messages.

        Raises:
            ValueError: with the tensor that does not fit, and what the file is for, where that can be told.
        """
        for part in self._parts:
            if part not in parts:
                self._refuse_for(model, f'has no {part}, which this file changes')
        for part in self._parts:
            self.pairs(build_empty(part), part, model)

    def pairs(self, network: nn.Module, part: str, model: str) -> dict[str, Pair]:
        """Return the factors of each layer of a part by its path.

        Raises:
            ValueError: for a layer that the network has not, and for factors that do not fit it.
        """
        layers = {path: layer for path, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
        per_block = getattr(getattr(network, 'config', None), 'layers_per_block', None)
        names = layer_names(layers, per_block if isinstance(per_block, int) else None)
        unknown = [roles for layer, roles in self._parts[part].items() if layer not in names]
        if unknown:
            more = f' and {len(unknown) - 1} more' if len(unknown) > 1 else ''
            key = next(iter(unknown[0].values()))
            self._refuse_for(model, f'has no layer for {key}{more} in its {part}')
        found: dict[str, Pair] = {}
        for layer, roles in self._parts[part].items():
            path = names[layer]
            if path in found or not {'down', 'up'} <= set(roles):
                problem = 'is there twice' if path in found else 'lacks one of its two factors'
                self.file.refuse(f'{next(iter(roles.values()))} {problem}')
            pair = found[path] = Pair(roles['down'], roles['up'], roles.get('alpha'))
            self._check_shapes(pair, layers[path], model)
        return found

    def _check_shapes(self, pair: Pair, layer: nn.Linear | nn.Conv2d, model: str) -> None:
        down, up, weight = self._shapes[pair.down], self._shapes[pair.up], tuple(layer.weight.shape)
        grouped = isinstance(layer, nn.Conv2d) and layer.groups != 1
        fits = len(down) >= 2 and len(up) >= 2 and down[0] >= 1 and not grouped
        inside = down[1:] == weight[1:] or (set(down[2:]) | set(weight[2:]) <= {1} and down[1:2] == weight[1:2])
        if not (fits and inside and up[:2] == (weight[0], down[0]) and set(up[2:]) <= {1}):
            sizes = f'has a weight {list(weight)} where {pair.down} {list(down)} and its other factor {list(up)} do not fit'
            self._refuse_for(model, sizes)
        if pair.alpha is not None and any(size != 1 for size in self._shapes[pair.alpha]):
            self.file.refuse(f'its {pair.alpha} is not one number')

    def _refuse_for(self, model: str, problem: str) -> NoReturn:
        kind = self._made_for()
        made = f'; this file was made for {kind}' if kind else ''
        advice = f'Leave it out of {SETTING}, or choose the model that it was made for.'
        self.file.refuse(f'{model} {problem}{made}', advice)

    def _made_for(self) -> str | None:
        """Return which models it is for, by the width of the texts that its attention reads; None if that does not tell."""
        if 'transformer' in self._parts:
            return 'a diffusion transformer, such as Stable Diffusion 3 or FLUX'
        if 'text_encoder_2' in self._parts or any('lora_te2_' in key for key in self._shapes):
            return 'Stable Diffusion XL'
        keys = (
            roles.get('down')
            for layer, roles in self._parts.get('unet', {}).items()
            if re.search(r'attn2.to_k', layer)
        )
        widths = {self._shapes[key][1] for key in keys if key and len(self._shapes[key]) > 1}
        return next((_TEXT_WIDTHS[width] for width in widths if width in _TEXT_WIDTHS), None)

    def fuse(self, network: nn.Module, part: str, model: str) -> None:
        """Add it to the weights of a part, in float32; each weight keeps its precision."""
        for path, pair in self.pairs(network, part, model).items():
            tensors = self.file.tensors([name for name in (pair.down, pair.up, pair.alpha) if name is not None])
            down, up = tensors[pair.down], tensors[pair.up]
            rank = down.shape[0]
            alpha = tensors[pair.alpha].item() if pair.alpha else self._alpha_of_header(part, path, rank)
            weight: Any = network.get_submodule(path).weight
            delta = (up.flatten(1) @ down.flatten(1)).view(weight.shape)
            weight.data = add(weight.data, delta, self.scale * alpha / rank)

    @cached_property
    def _header(self) -> Mapping[str, Any]:
        return read_json_entry(self.file.metadata(), 'lora_adapter_metadata')

    def _alpha_of_header(self, part: str, path: str, rank: int) -> float:
        """Return alpha as diffusers writes it into the header; the rank, where nothing is written."""
        if self._header.get(f'{part}.use_rslora'):
            return float(self._header.get(f'{part}.lora_alpha', rank)) * rank**0.5
        patterns = self._header.get(f'{part}.alpha_pattern') or {}
        for pattern, alpha in patterns.items():
            if re.fullmatch(rf'(?:.*\.)?{pattern}', path):
                return float(alpha)
        return float(self._header.get(f'{part}.lora_alpha', rank))


def add(weight: Tensor, delta: Tensor, factor: float) -> Tensor:
    """Return weight + factor · delta, computed in float32, in the weight's precision and on its device."""
    with torch.no_grad():
        return (weight.float() + factor * delta.to(weight.device)).to(weight.dtype)


def read_loras(given: Any, denoiser: str = 'unet') -> list[Lora]:
    """Return the LoRAs that ``model.guidance.lora`` names; no file is looked at.

    Raises:
        ValueError: for what is no list of ``{path: …, scale: …}``.
    """
    return [Lora(denoiser=denoiser, **entry) for entry in check_entries(SETTING, given, ('path',), ('scale',))]

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

"""Which layer of a network each tensor of a LoRA belongs to, in the layouts that are in use.

diffusers writes dotted paths (``unet.<path>.lora_A.weight``, in 2023 ``<path>.processor.to_q_lora.down.weight``), kohya's
scripts the path with underscores (``lora_unet_<path>.lora_down.weight``), for Stable Diffusion XL with the blocks' names of
latent diffusion. Names are looked up among those of the network itself, so that no path has to be guessed from underscores.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

DENOISER = 'denoiser'  # the UNet or the transformer, whichever the model has
_TENSOR = re.compile(
    r'(?P<stem>.+?)(?:\.lora_(?P<peft>[AB])(?:\.default)?\.weight'
    r'|[._]lora(?:_linear_layer)?\.(?P<old>down|up)\.weight'
    r'|\.lora_(?P<kohya>down|up)\.weight'
    r'|(?:[._]lora(?:_linear_layer)?)?\.(?P<alpha>alpha))'
)
_PARTS = {  # the longest first
    'lora_te1_': 'text_encoder',
    'lora_te2_': 'text_encoder_2',
    'lora_te3_': 'text_encoder_3',
    'lora_te_': 'text_encoder',
    'lora_unet_': DENOISER,
    'text_encoder_2.': 'text_encoder_2',
    'text_encoder_3.': 'text_encoder_3',
    'text_encoder.': 'text_encoder',
    'transformer.': 'transformer',
    'unet.': 'unet',
}
_OLD_TEXT = {'to_q': 'q_proj', 'to_k': 'k_proj', 'to_v': 'v_proj', 'to_out': 'out_proj'}
_ROLES = {'A': 'down', 'B': 'up'}
_SGM_TOP = {
    'time_embedding.linear_1': 'time_embed_0',
    'time_embedding.linear_2': 'time_embed_2',
    'add_embedding.linear_1': 'label_emb_0_0',
    'add_embedding.linear_2': 'label_emb_0_2',
    'conv_in': 'input_blocks_0_0',
    'conv_out': 'out_2',
}
_SGM_RESNET = {
    'conv1': 'in_layers_2',
    'conv2': 'out_layers_3',
    'time_emb_proj': 'emb_layers_1',
    'conv_shortcut': 'skip_connection',
}
_BLOCK = re.compile(r'(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)')
_MIDDLE = re.compile(r'mid_block\.(resnets|attentions)\.(\d+)\.(.+)')


@dataclass(frozen=True)
class TensorName:
    """What a tensor of a LoRA is.

    part: of the model, or ``DENOISER``.
    layer: the layer's name, as the file spells it.
    role: ``down``, ``up`` or ``alpha``.
    """

    part: str
    layer: str
    role: str


def parse_name(key: str) -> TensorName | None:
    """Return what a tensor is by its name; None for a name of no LoRA.

    >>> parse_name('lora_unet_mid_block_attentions_0_proj_in.lora_down.weight')
    TensorName(part='denoiser', layer='mid_block_attentions_0_proj_in', role='down')
    >>> parse_name('unet.conv_in.lora_B.weight')
    TensorName(part='unet', layer='conv_in', role='up')
    """
    match = _TENSOR.fullmatch(key)
    if match is None:
        return None
    role = match['alpha'] or match['old'] or match['kohya'] or _ROLES[match['peft']]
    stem = match['stem'].replace('.processor.', '.')
    for prefix, part in _PARTS.items():
        if stem.startswith(prefix):
            return TensorName(part, stem.removeprefix(prefix), role)
    return TensorName(DENOISER, stem, role)


def layer_names(paths: Iterable[str], layers_per_block: int | None) -> dict[str, str]:
    """Return the path of each layer by the names that a LoRA may call it.

    Args:
        paths: of the layers with weights, as in the network's ``named_modules``.
        layers_per_block: of a UNet; None for another network.
    """
    paths = list(paths)
    attends = {path[: path.index('.attentions.')] for path in paths if '.attentions.' in path}
    names: dict[str, str] = {}
    for path in paths:
        bare = path.removeprefix('text_model.')
        spelled = {path, bare, f'text_model.{bare}'} if bare.startswith('encoder.') else {path}
        if path.endswith('.to_out.0'):
            spelled.add(path.removesuffix('.0'))
        for old, new in _OLD_TEXT.items():
            if path.endswith(f'self_attn.{new}'):
                spelled |= {name.removesuffix(new) + old for name in spelled}
        if layers_per_block is not None and (sgm := sgm_name(path, layers_per_block, attends)):
            spelled.add(sgm)
        for name in spelled:
            names[name] = names[name.replace('.', '_')] = path
    return names


def sgm_name(path: str, layers: int, attends: set[str]) -> str | None:
    """Return what latent diffusion calls a layer of diffusers' UNet, with underscores; None where it has no such layer.

    Args:
        path: in diffusers' UNet.
        layers: residual blocks of a level.
        attends: the blocks with attention, such as ``up_blocks.1``.

    >>> sgm_name('down_blocks.1.resnets.0.conv1', 2, set())
    'input_blocks_4_0_in_layers_2'
    """
    if path in _SGM_TOP:
        return _SGM_TOP[path]
    if match := _MIDDLE.fullmatch(path):
        kind, number, tail = match.groups()
        place = f'middle_block_{1 if kind == "attentions" else 2 * int(number)}'
        return f'{place}_{_sgm_tail(kind, tail)}'
    if not (match := _BLOCK.fullmatch(path)):
        return None
    side, block, kind, number, tail = match.groups()
    first = int(block) * (layers + 1)
    if kind == 'downsamplers':
        return f'input_blocks_{first + layers + 1}_0_op'
    if kind == 'upsamplers':
        after = 2 if f'up_blocks.{block}' in attends else 1
        return f'output_blocks_{first + layers}_{after}_conv'
    inside = 'input_blocks' if side == 'down' else 'output_blocks'
    index = first + int(number) + (side == 'down')
    return f'{inside}_{index}_{int(kind == "attentions")}_{_sgm_tail(kind, tail)}'


def _sgm_tail(kind: str, tail: str) -> str:
    return _SGM_RESNET.get(tail, tail) if kind == 'resnets' else tail.replace('.', '_')

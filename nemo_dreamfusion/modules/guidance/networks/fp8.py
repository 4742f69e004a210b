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

"""The linear layers of a frozen denoiser in FP8, by NVIDIA's Transformer Engine.

Weights and inputs are rounded to 4 bits of exponent and 3 of mantissa (E4M3), each tensor with one scale, and multiplied by
the tensor cores of Ada, Hopper and newer GPUs at twice the rate of half precision; sums and outputs keep their precision.
Score distillation needs no gradient through the denoiser, so the scale is that of the tensor at hand
(``Float8CurrentScaling``): that of earlier steps (``DelayedScaling``) is only updated where gradients are taken
(``FP8GlobalStateManager.autocast_exit`` in
https://github.com/NVIDIA/TransformerEngine/blob/main/transformer_engine/pytorch/quantization.py).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nemo_dreamfusion.modules.guidance.networks.base import UNetLike
from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.parts.optional import require

FP8 = 'model.guidance.networks.fp8'
CAPABILITY = (8, 9)  # of the first GPUs that multiply FP8
ROWS, WIDTH = 8, 16  # numbers of rows and columns that the products take are multiples of these


def check_fp8(device: torch.device | None = None) -> None:
    """Refuse a device that does not multiply FP8, and a missing Transformer Engine. Loads nothing else.

    Args:
        device: of the denoiser; None asks for the current CUDA device.

    Raises:
        ValueError: in both cases.
    """
    on_cuda = torch.cuda.is_available() and (device is None or device.type == 'cuda')
    if not on_cuda or torch.cuda.get_device_capability(device) < CAPABILITY:
        where = (
            torch.cuda.get_device_name(device) if on_cuda else (device.type if device else 'a machine without CUDA')
        )
        allowed = f'false on {where}: FP8 products are of CUDA devices of compute capability 8.9 or more'
        refuse(FP8, True, allowed, f'Set {FP8}=false.')
    _engine()


class InFp8(nn.Module):
    """A denoiser whose wide linear layers compute in FP8; called like the denoiser, without gradients.

    Args:
        predictor: frozen, on its device; its layers are replaced.

    Attributes:
        channels, latent_size: of the denoiser.
    """

    def __init__(self, predictor: UNetLike) -> None:
        super().__init__()
        self.predictor = replace_linear_layers(predictor)
        self.channels, self.latent_size = predictor.channels, predictor.latent_size
        recipes = require('transformer_engine.common.recipe', **_REQUIRED)
        self._recipe = recipes.Float8CurrentScaling(fp8_format=recipes.Format.E4M3)

    @torch.no_grad()
    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Return what the denoiser does of x [N, C, h, w], t [N], context [N, L, D]: [N, C, h, w]."""
        with _engine().autocast(enabled=True, recipe=self._recipe):
            return self.predictor(x, t, context)


def replace_linear_layers(network: Any) -> Any:
    """Put :class:`Fp8Linear` in the place of each linear layer of a frozen network that FP8 can compute; return it.

    Those are plain ``nn.Linear`` whose two sizes are multiples of 16.
    """
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and layer.in_features % WIDTH == layer.out_features % WIDTH == 0:
                setattr(parent, name, Fp8Linear(layer))
    return network


class Fp8Linear(nn.Module):
    """Transformer Engine's linear layer with the weights of a frozen ``nn.Linear``.

    It rounds the weight to FP8 once and keeps both, half as much memory again. Inputs whose number of rows is no multiple
    of 8, as two times or two texts of 77 tokens, are multiplied in the weight's own precision.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight, options = layer.weight, {'bias': layer.bias is not None, 'device': layer.weight.device}
        self.layer = _engine().Linear(layer.in_features, layer.out_features, params_dtype=weight.dtype, **options)
        self.layer.requires_grad_(False).train(layer.training)
        with torch.no_grad():
            self.layer.weight.copy_(weight)
            if layer.bias is not None:
                self.layer.bias.copy_(layer.bias)
        self.biased, self.weight_is_rounded = layer.bias is not None, False

    def forward(self, input: Tensor) -> Tensor:
        """Return [..., out] of [..., in]."""
        if input.shape[:-1].numel() % ROWS:
            return F.linear(input, self.layer.weight, self.layer.bias if self.biased else None)
        first, self.weight_is_rounded = not self.weight_is_rounded, True
        return self.layer(input, is_first_microbatch=first)  # of the first it keeps the rounded weight


_REQUIRED: dict[str, Any] = {
    'extra': 'fp8',
    'reason': f'{FP8}=true computes with it, which a CUDA toolkit compiles for the torch that is there',
    'instead': f'{FP8}=false',
    'install': "--no-build-isolation 'transformer-engine[pytorch]>=2.9,<3'",  # see requirements/fp8.txt
}


def _engine() -> Any:
    return require('transformer_engine.pytorch', **_REQUIRED)

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

"""Whole training steps of the main job: ``scene.Step`` with its guidance and its optimizer."""

from __future__ import annotations

import torch
from measure import Case, Skipped, Way
from scene import TABLE_AFTER, Step, options_of
from torch import Tensor
from torch.profiler import record_function

from nemo_dreamfusion.modules.guidance.base import Guidance
from nemo_dreamfusion.modules.guidance.networks.precision import fast_dtype
from nemo_dreamfusion.parts.build import build
from nemo_dreamfusion.parts.checks import first_line
from nemo_dreamfusion.parts.types import CameraBatch, PromptSet, RenderOutput

PHASES = ('latent', 'image')


class WholeStep(Step):
    """A step in the middle of a phase of nemo_dreamfusion/conf/dreamfusion.yaml, with the embedded model as its guidance.

    Args:
        device: where everything runs.
        phase: ``latent``, where a small render is scored as a latent, or ``image``, where it goes through the encoder.
        overrides: of dreamfusion.yaml.
    """

    def __init__(self, device: torch.device, phase: str, overrides: tuple[str, ...] = ()) -> None:
        overrides = ('model/optim=adam', *overrides)
        options = options_of(overrides)
        self.latent = phase == 'latent'
        guidance = build('model.guidance', options['guidance'], Guidance)
        normals = guidance.needs_normals(latent=self.latent)
        super().__init__(
            device,
            shading='normal' if self.latent and normals else 'albedo',
            side=options['latent_resolution' if self.latent else 'resolution'],
            overrides=overrides,
        )
        self.field.compile_networks(options['compile'])
        self.guidance, self.normals = guidance, normals
        self.guidance.prepare(PromptSet(options['prompt'], negative=options['negative_prompt']), device)
        middle = options['latent_iter_ratio'] / 2 if self.latent else (1 + options['latent_iter_ratio']) / 2
        self.step = int(middle * options['iters'])

    def needs_normals(self) -> bool:
        """Return whether the regularisers or the guidance read normals."""
        return self.normals or super().needs_normals()

    def score(self, render: RenderOutput, cameras: CameraBatch) -> Tensor:
        """Return the guidance's loss."""
        with record_function('guidance'):
            output = self.guidance.loss(
                render,
                cameras,
                step=self.step,
                progress=min(1.0, self.step / self.options['iters']),
                latent=self.latent,
                generator=self.generator,
            )
        return self.options['guidance_weight'] * output.loss


def switches(device: torch.device) -> Case:
    """Compare the main job's step, with guidance, with the same step under a switch that is off by default."""
    plain = WholeStep(device, 'image')

    def switched(switch: str, compared: bool) -> Way | Skipped:
        try:
            WholeStep(device, 'image', (switch,))()
        except Exception as error:  # Inductor without a C++ compiler
            return Skipped(switch, f'does not run here: {first_line(error)}')
        other = WholeStep(device, 'image', (switch,))
        other.field.load_state_dict(plain.field.state_dict())
        return Way(switch, other, compared=compared)

    others = [switched('model.compile=true', True)]
    if fast_dtype(device) != torch.float32:
        others.append(switched('model.guidance.networks.precision=auto', False))
    setting = 'image phase, guidance included: the step as it is against the same with a switch'
    # Adam's first step is the sign of the gradient: a row whose gradient is only rounding error goes either way.
    apart = {TABLE_AFTER: 1e-2}
    return Case('whole_step', setting, Way('ours', plain), tuple(others), apart, by_norm=(TABLE_AFTER,))


CASES = {'whole_step': switches}

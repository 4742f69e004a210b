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

"""What every engine's runner is: a loaded plan that knows what tensors it takes, and checks each call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nemo_dreamfusion.parts.checks import check_choice, refuse

BUILD = 'Build the plans again with nemo-dreamfusion-build-engines.'


@dataclass(frozen=True)
class TensorSpec:
    """Type and shape of one input or output, as the engine itself tells them. The first size, the batch, is free.

    Attributes:
        dtype: torch's type.
        sizes: all sizes but the batch.
    """

    dtype: torch.dtype
    sizes: tuple[int, ...]

    def __str__(self) -> str:
        return f'{str(self.dtype).removeprefix("torch.")} [{", ".join(["B", *map(str, self.sizes)])}]'


class Runner:
    """Named tensors in, named tensors out, on one device and without a gradient.

    A subclass loads the plan, fills the attributes from the engine, and computes in :meth:`_execute`.

    Attributes:
        plan: the file.
        device: where the tensors must lie.
        inputs: what the engine takes, by name.
        outputs: what it gives.
        batch: (fewest, most) rows of one call; None for no limit.
    """

    def __init__(self, plan: Path, device: torch.device) -> None:
        self.plan, self.device = plan, device
        self.inputs: dict[str, TensorSpec] = {}
        self.outputs: dict[str, TensorSpec] = {}
        self.batch: tuple[int, int | None] = (1, None)

    def __call__(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the engine on all inputs by name; the outputs are new tensors.

        Raises:
            ValueError: when a name, a type, a shape, a device or the number of rows is not what the engine takes.
        """
        rows = self._check(feeds)
        outputs = {
            name: torch.empty((rows, *spec.sizes), dtype=spec.dtype, device=self.device)
            for name, spec in self.outputs.items()
        }
        self._execute({name: feeds[name].detach().contiguous() for name in self.inputs}, outputs)
        return outputs

    def cast(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors in the engine's types, on its device."""
        return {name: x.to(self.device, self.inputs[name].dtype) for name, x in feeds.items()}

    def _execute(self, feeds: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Write the results into ``outputs``. Everything is contiguous and of the engine's own types and shapes."""
        raise NotImplementedError

    def _check(self, feeds: Mapping[str, Tensor]) -> int:
        """Return the number of rows; refuse an input that is not what the engine takes."""
        where = f'input of {self.plan.name}'
        for name in feeds:
            check_choice(f'the name of an {where}', name, tuple(self.inputs))
        lacking = [name for name in self.inputs if name not in feeds]
        if lacking:
            refuse(f'the set of {where}', sorted(feeds), f'{sorted(self.inputs)}, {", ".join(lacking)} is missing')
        rows = {name: x.shape[0] if x.ndim else 0 for name, x in feeds.items()}
        for name, spec in self.inputs.items():
            given = feeds[name]
            if given.dtype != spec.dtype or tuple(given.shape[1:]) != spec.sizes:
                refuse(f'{where}, {name},', f'{given.dtype} {list(given.shape)}', str(spec))
            if given.device.type != self.device.type:
                refuse(f'the device of {where}, {name},', str(given.device), str(self.device))
        fewest, most = self.batch
        count = min(rows.values())
        if len(set(rows.values())) > 1 or count < fewest or (most is not None and count > most):
            allowed = f'one number of rows, at least {fewest}' + (f' and at most {most}' if most is not None else '')
            advice = '' if most is None else 'Build with a larger max_batch_size (nemo-dreamfusion-build-engines).'
            refuse(f'the batch of {where}', rows, allowed, advice)
        return count


def spec_of(plan: Path, name: str, dtype: torch.dtype | None, shape: tuple[object, ...]) -> TensorSpec:
    """Return the spec of one tensor of an engine, whose free sizes are -1, None or a name.

    Raises:
        ValueError: for a type that torch has not, or a free size other than the batch.

    >>> str(spec_of(Path('unet.plan'), 'x', torch.float32, ('B', 4, 64, 64)))
    'float32 [B, 4, 64, 64]'
    """
    sizes = tuple(size for size in shape if isinstance(size, int) and size >= 0)
    if dtype is None or not shape or len(sizes) != len(shape) - 1 or sizes != shape[1:]:
        raise ValueError(
            f'{str(plan)!r}: {name} is {dtype} {list(shape)}; a plan has torch types and no free size but the first, '
            f'the batch. {BUILD}'
        )
    return TensorSpec(dtype, sizes)

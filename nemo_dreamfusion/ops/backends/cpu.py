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

"""The C++ bodies (csrc/) behind functions of tensors: float32 on the CPU in, new tensors out.

Nothing here knows of gradients: ``registered.py`` makes differentiable operators of these functions.
"""

from __future__ import annotations

import ctypes
import functools
import threading

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends import select as native
from nemo_dreamfusion.parts.types import Samples

Spec = tuple[tuple[int, ...], tuple[int, ...], tuple[bool, ...], int, bool]


Argument = Tensor | int | float | ctypes.Structure | ctypes.Array | None


def call(name: str, *arguments: Argument) -> None:
    """Runs an exported function on as many threads as torch uses.

    Tensors go as pointers to their (contiguous) data, None as a null pointer, integers as int64, floats as float32.
    """
    getattr(native.library(), name)(*map(_convert, arguments), ctypes.c_int(torch.get_num_threads()))


def _convert(value: Argument) -> object:
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, Tensor):
        assert value.is_contiguous()
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, ctypes.Structure):
        return ctypes.byref(value)
    if isinstance(value, ctypes.Array):
        return value
    return ctypes.c_int64(value) if isinstance(value, int) else ctypes.c_float(value)


def _floats(*shape: int) -> Tensor:
    """Memory for float32 numbers, whatever torch's default type is (Lightning changes it under 'bf16-true')."""
    return torch.empty(shape, dtype=torch.float32)


class Grid(ctypes.Structure):
    """struct Grid of csrc/kernels.h."""

    _fields_ = [
        ('levels', ctypes.c_int64),
        ('features', ctypes.c_int64),
        ('smoothstep', ctypes.c_int64),
        ('resolutions', ctypes.c_void_p),
        ('offsets', ctypes.c_void_p),
        ('hashed', ctypes.c_void_p),
    ]


@functools.lru_cache(maxsize=64)
def grid(spec: Spec) -> Grid:
    """The struct of (resolutions, offsets, hashed, features, smoothstep)."""
    resolutions, offsets, hashed, features, smoothstep = spec
    arrays = [(ctypes.c_int64 * len(values))(*values) for values in (resolutions, offsets, hashed)]
    made = Grid(len(resolutions), features, smoothstep, *(ctypes.addressof(array) for array in arrays))
    made.keep_alive = arrays
    return made


USE_COUNT = getattr(torch._C, '_storage_Use_Count', None)  # private: without it no memory is used again


class Buffers:
    """Memory of large results, used again once no tensor holds it.

    Fresh memory costs more in page faults than the arithmetic on it: 49 MB of a table's gradient, 17 MB of encoded
    points. The kernels write every element of what they are given, so its old content does not matter.

    Args:
        slack: a buffer is made this many times larger than asked for, and is used for down to 1 / slack of what it was
            made for. 1: for results of one size.
        limit: buffers that are remembered, those used last.
    """

    def __init__(self, slack: float = 1.0, limit: int = 4):
        self.slack, self.limit = slack, limit
        self.storages: list[torch.UntypedStorage] = []
        self.lock = threading.Lock()

    def take(self, rows: int, features: int) -> Tensor:
        if USE_COUNT is None:
            return _floats(rows, features)
        size = rows * features * 4
        with self.lock:
            fitting = (s for s in reversed(self.storages) if size <= s.nbytes() <= size * self.slack**2)
            storage = next(filter(_is_free, fitting), None)
            if storage is None:
                storage = _floats(int(rows * self.slack), features).untyped_storage()
            others = [other for other in self.storages if other is not storage]
            self.storages = [*others, storage][-self.limit :]
            return _floats(0).set_(storage, 0, (rows, features))


def _is_free(storage: torch.UntypedStorage) -> bool:
    """Whether no tensor, in no process, holds the storage."""
    return USE_COUNT(storage._cdata) == 1 and not storage.is_shared()


gradients, encodings = Buffers(), Buffers(slack=1.25)
LARGE = 2**18  # numbers; malloc has smaller memory at hand without page faults


def hash_grid_forward(positions: Tensor, table: Tensor, spec: Spec) -> Tensor:
    shape = (len(positions), len(spec[0]) * spec[3])
    out = encodings.take(*shape) if shape[0] * shape[1] >= LARGE else _floats(*shape)
    call('hash_grid_forward', grid(spec), positions, table, out, len(positions))
    return out


def hash_grid_backward_table(grad: Tensor, positions: Tensor, spec: Spec) -> Tensor:
    grad_table = gradients.take(spec[1][-1], spec[3])
    call('hash_grid_backward_table', grid(spec), grad, positions, grad_table, len(positions))
    return grad_table


def hash_grid_backward_positions(grad: Tensor, positions: Tensor, table: Tensor, spec: Spec) -> Tensor:
    grad_positions = torch.empty_like(positions)
    call('hash_grid_backward_positions', grid(spec), grad, positions, table, grad_positions, len(positions))
    return grad_positions


def hash_grid_double_backward(
    toward: Tensor, grad: Tensor, positions: Tensor, table: Tensor, spec: Spec, needs: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of <toward, grad_positions> with respect to grad, positions and table, where needed."""
    grad_grad = torch.empty_like(grad) if needs[0] else None
    grad_positions = torch.empty_like(positions) if needs[1] else None
    grad_table = gradients.take(*table.shape) if needs[2] else None
    results = (grad_grad, grad_positions, grad_table)
    call('hash_grid_double_backward', grid(spec), toward, grad, positions, table, *results, len(positions))
    return results


def march(
    origins: Tensor,
    directions: Tensor,
    jitter: Tensor,
    occupancy: Tensor,
    bound: float,
    step_size: float,
    max_samples: int,
    min_distance: float,
    candidates: int,
    capacity: int,  # not used: here the number of samples is known at no cost
) -> Samples:
    rays, size, words = len(origins), occupancy.shape[0], -(-candidates // 64)
    bits = torch.empty(rays, words, dtype=torch.int64)
    near, counts = _floats(rays), torch.empty(rays, dtype=torch.int64)
    scalars = (float(bound), size / (2 * bound), float(step_size), float(min_distance), candidates, max_samples, words)
    call('march_mark', origins, directions, jitter, occupancy, rays, size, *scalars, bits, near, counts)
    offsets = torch.zeros(rays + 1, dtype=torch.int64)
    torch.cumsum(counts, 0, out=offsets[1:])
    n = int(offsets[-1])
    samples = Samples(torch.empty(n, dtype=torch.int64), _floats(n), _floats(n), offsets)
    arrays = (samples.ray_indices, samples.starts, samples.ends)
    call('march_write', bits, near, jitter, offsets, rays, words, float(step_size), *arrays)
    return samples


def weights_forward(density: Tensor, starts: Tensor, ends: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    weights, transmittance = torch.empty_like(density), torch.empty_like(density)
    call('weights_forward', density, starts, ends, offsets, len(offsets) - 1, weights, transmittance)
    return weights, transmittance


def weights_backward(
    grad_weights: Tensor | None,
    grad_transmittance: Tensor | None,
    density: Tensor,
    starts: Tensor,
    ends: Tensor,
    offsets: Tensor,
    weights: Tensor,
    transmittance: Tensor,
) -> Tensor:
    grad = torch.empty_like(density)
    inputs = (grad_weights, grad_transmittance, density, starts, ends, offsets, len(offsets) - 1)
    call('weights_backward', *inputs, weights, transmittance, grad)
    return grad


def visible_prefix(density: Tensor, starts: Tensor, ends: Tensor, offsets: Tensor, threshold: float) -> Tensor:
    visible = torch.empty(len(density), dtype=torch.bool)
    call('visible_prefix', density, starts, ends, offsets, len(offsets) - 1, float(threshold), visible)
    return visible


def accumulate_forward(weights: Tensor, values: Tensor | None, offsets: Tensor) -> Tensor:
    channels = 1 if values is None else values.shape[1]
    sums = _floats(len(offsets) - 1, channels)
    call('accumulate_forward', weights, values, offsets, len(offsets) - 1, channels, sums)
    return sums


def accumulate_backward(
    grad: Tensor, weights: Tensor, values: Tensor | None, offsets: Tensor, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients with respect to the weights and the values, where needed."""
    grad_weights = torch.empty_like(weights) if needs[0] else None
    grad_values = torch.empty_like(values) if needs[1] else None
    sizes = (len(offsets) - 1, grad.shape[1])
    call('accumulate_backward', grad, weights, values, offsets, *sizes, grad_weights, grad_values)
    return grad_weights, grad_values


class Mlp(ctypes.Structure):
    """struct Mlp of csrc/kernels.h."""

    _fields_ = [
        ('layers', ctypes.c_int64),
        ('widths', ctypes.c_void_p),
        ('weights', ctypes.c_void_p),
        ('biases', ctypes.c_void_p),
    ]


def _pointers(tensors: list[Tensor], count: int) -> ctypes.Array:
    """An array of ``count`` pointers, null where there is no tensor."""
    return (ctypes.c_void_p * count)(*(t.data_ptr() for t in tensors))


def _mlp(inputs: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Mlp:
    widths = [inputs.shape[1], *(len(w) for w in weights)]
    arrays = [(ctypes.c_int64 * len(widths))(*widths), *(_pointers(t, len(weights)) for t in (weights, biases))]
    made = Mlp(len(weights), *(ctypes.addressof(array) for array in arrays))
    made.keep_alive = arrays
    return made


def mlp_forward(inputs: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    outputs = _floats(len(inputs), len(weights[-1]))
    call('mlp_forward', _mlp(inputs, weights, biases), inputs, outputs, len(inputs))
    return outputs


def mlp_backward(
    grad: Tensor, inputs: Tensor, weights: list[Tensor], biases: list[Tensor], need_inputs: bool
) -> tuple[Tensor | None, list[Tensor], list[Tensor]]:
    """The gradients with respect to the inputs, where needed, each weight and each bias."""
    grad_inputs = torch.empty_like(inputs) if need_inputs else None
    grads = [[torch.empty_like(t) for t in tensors] for tensors in (weights, biases)]
    pointers = [_pointers(tensors, len(weights)) for tensors in grads]
    call('mlp_backward', _mlp(inputs, weights, biases), grad, inputs, grad_inputs, *pointers, len(inputs))
    return grad_inputs, *grads


class AdanCoefficients(ctypes.Structure):
    """struct AdanCoefficients of csrc/kernels.h."""

    _fields_ = [
        (name, ctypes.c_float)
        for name in (
            *('beta1', 'beta2', 'beta3', 'step_size', 'step_size_diff'),
            *('inverse_bias', 'eps', 'before', 'after', 'gradient_scale'),
        )
    ]


def adan(tensors: tuple[Tensor, ...], coefficients: tuple[float, ...], gradient_scale: Tensor) -> None:
    """In place on (parameter, gradient, exp_avg, exp_avg_sq, exp_avg_diff, neg_pre_grad)."""
    call('adan_step', *tensors, tensors[0].numel(), AdanCoefficients(*coefficients, float(gradient_scale)))

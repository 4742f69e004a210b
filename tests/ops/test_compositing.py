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

"""Compositing: against closed forms and a double loop, and the native backend against the reference."""

import math

import pytest
import torch
from refusals import refusal

from nemo_dreamfusion.ops.compositing import (
    accumulate,
    accumulate_backward_op,
    accumulate_op,
    render_weights,
    render_weights_backward_op,
    render_weights_op,
    visible_prefix,
    visible_prefix_op,
)
from nemo_dreamfusion.ops.marching import march_rays
from nemo_dreamfusion.parts.types import Samples

pytestmark = pytest.mark.unit

BACKENDS = pytest.mark.parametrize('name', ['reference', 'native'])


def packed(counts, dtype=torch.float32):
    """Samples of random lengths: counts[r] on ray r."""
    counts = torch.tensor(counts, dtype=torch.int64)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    starts = torch.rand(int(offsets[-1]), dtype=dtype)
    ends = starts + 0.02 + 0.1 * torch.rand_like(starts)
    return Samples(torch.repeat_interleave(torch.arange(len(counts)), counts), starts, ends, offsets)


def double_loop(density, samples):
    weights, transmittance = [], []
    for r in range(len(samples.offsets) - 1):
        light = 1.0
        for i in range(samples.offsets[r], samples.offsets[r + 1]):
            through = math.exp(-density[i].item() * (samples.ends[i] - samples.starts[i]).item())
            transmittance.append(light)
            weights.append(light * (1 - through))
            light *= through
    return torch.tensor(weights), torch.tensor(transmittance)


@BACKENDS
def test_equals_a_double_loop(name, backend):
    backend(name)
    samples = packed([3, 0, 40, 1, 0])
    density = torch.rand(44) * 20
    for found, expected in zip(render_weights(density, samples), double_loop(density, samples)):
        torch.testing.assert_close(found, expected)


@BACKENDS
def test_two_samples_by_hand(name, backend):
    backend(name)
    samples = Samples(torch.tensor([0, 0]), torch.tensor([0.0, 1]), torch.tensor([1.0, 2]), torch.tensor([0, 2]))
    weights, transmittance = render_weights(torch.tensor([math.log(2), math.log(4)]), samples)
    torch.testing.assert_close(weights, torch.tensor([1 / 2, 1 / 2 * 3 / 4]))
    torch.testing.assert_close(transmittance, torch.tensor([1, 1 / 2]))
    torch.testing.assert_close(accumulate(weights, None, samples, 1), torch.tensor([[1 - 1 / 2 * 1 / 4]]))


@BACKENDS
def test_a_sphere_of_constant_density_transmits_exp_of_minus_density_times_chord(name, backend):
    """The chord of a ray at distance b from the centre is 2 sqrt(radius^2 - b^2)."""
    backend(name)
    radius, density, step = 0.8, 3.0, 1 / 512
    height = torch.tensor([0.0, 0.3, 0.6, 0.79, 0.9])
    origins = torch.stack([height, torch.zeros(5), torch.full((5,), 3.0)], dim=1)
    directions = torch.tensor([[0.0, 0, -1]]).expand(5, 3)
    samples, _ = march_rays(
        origins, directions, torch.ones(8, 8, 8, dtype=torch.bool), bound=1, step_size=step, max_samples=2000
    )
    middle = (samples.starts + samples.ends) / 2
    positions = origins[samples.ray_indices] + directions[samples.ray_indices] * middle[:, None]
    weights, _ = render_weights(density * (positions.norm(dim=1) < radius).float(), samples)
    opacity = accumulate(weights, None, samples, 5)[:, 0]
    chord = 2 * (radius**2 - height**2).clamp_min(0).sqrt()
    # a sample at each end of the chord may be in or out
    torch.testing.assert_close(1 - opacity, torch.exp(-density * chord), atol=2 * density * step, rtol=0)


@BACKENDS
def test_accumulate_is_a_weighted_sum_per_ray(name, backend):
    backend(name)
    samples = packed([2, 0, 1])
    weights, values = torch.tensor([0.5, 0.25, 2.0]), torch.tensor([[1.0, 2], [3, 4], [5, 6]])
    expected = [[0.5 * 1 + 0.25 * 3, 0.5 * 2 + 0.25 * 4], [0, 0], [2.0 * 5, 2.0 * 6]]
    assert accumulate(weights, values, samples, 3).tolist() == expected


@BACKENDS
def test_visible_prefix_ends_each_ray_where_its_light_is_spent(name, backend):
    backend(name)
    samples = Samples(
        torch.tensor([0, 0, 0, 1]), torch.tensor([0.0, 1, 2, 0]), torch.tensor([1.0, 2, 3, 1]), torch.tensor([0, 3, 4])
    )
    density = torch.full((4,), math.log(10))  # a tenth of the light passes each
    assert visible_prefix(density, samples, 0.05).tolist() == [True, True, False, True]


@BACKENDS
@pytest.mark.parametrize('density', [0.0, 1e3, 1e30])
def test_empty_and_opaque_rays_stay_finite(name, density, backend):
    backend(name)
    samples = packed([300, 5])
    given = torch.full((305,), density, requires_grad=True)
    weights, transmittance = render_weights(given, samples)
    (weights.sum() + transmittance.sum()).backward()
    assert all(t.isfinite().all() for t in (weights, transmittance, given.grad))
    opacity = accumulate(weights, None, samples, 2)
    torch.testing.assert_close(opacity, torch.full((2, 1), float(density > 0)))


def depths(values):
    """One ray whose samples have these optical depths, in steps of 0.02: densities and samples."""
    edges = torch.arange(len(values) + 1) * 0.02
    samples = Samples(
        torch.zeros(len(values), dtype=torch.int64), edges[:-1], edges[1:], torch.tensor([0, len(values)])
    )
    return torch.tensor(values) / (samples.ends - samples.starts), samples


@BACKENDS
@pytest.mark.parametrize('each', [1e-12, 2e-5, 1e-3, 0.3, 10.0, 20.0])
def test_each_result_is_right_to_the_digits_of_float32(name, each, backend):
    """However thin or thick the samples are: against float64, element by element."""
    backend(name)
    given, samples = depths([each, each])
    exact = given.double() * (samples.ends - samples.starts)
    density = given.clone().requires_grad_()
    weights, transmittance = render_weights(density, samples)
    light = torch.exp(-torch.stack([0 * exact[0], exact[0]]))
    expected = light * -torch.expm1(-exact)
    torch.testing.assert_close(transmittance.double(), light, rtol=1e-6, atol=0)
    torch.testing.assert_close(weights.double(), expected, rtol=1e-6, atol=0)
    weights[1].backward()
    length = (samples.ends - samples.starts).double()
    slope = torch.stack([-expected[1], light[1] * torch.exp(-exact[1])]) * length
    torch.testing.assert_close(density.grad.double(), slope, rtol=1e-6, atol=0)


@BACKENDS
def test_not_a_number_reaches_the_image_and_the_gradient(name, backend):
    """The step's check for what is not finite must see it: NaN is not an opaque sample."""
    backend(name)
    samples = packed([3, 4, 2])
    density = torch.rand(9)
    density[5] = torch.nan  # the third sample of the second ray
    density.requires_grad_()
    weights, transmittance = render_weights(density, samples)
    assert weights[3:7].isnan().tolist() == [False, False, True, True]
    assert transmittance[3:7].isnan().tolist() == [False, False, False, True]
    assert visible_prefix(density, samples, 1e-3)[3:6].all()  # pruning keeps it
    opacity = accumulate(weights, None, samples, 3)
    assert opacity[1].isnan().all() and opacity[0].isfinite().all()
    opacity[1].backward()
    assert density.grad[3:5].isnan().all()


def test_reference_gradients_in_float64():
    samples = packed([3, 0, 4], torch.float64)
    density = torch.rand(7, dtype=torch.float64, requires_grad=True)
    values = torch.rand(7, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d: render_weights(d, samples), density)
    assert torch.autograd.gradcheck(lambda w, v: accumulate(w, v, samples, 3), (density, values))
    assert torch.autograd.gradgradcheck(lambda d: render_weights(d, samples), density)


def gradients(density, values, samples, rays, incoming, create_graph):
    density, values = density.clone().requires_grad_(), values.clone().requires_grad_()
    weights, transmittance = render_weights(density, samples)
    outputs = [
        weights,
        transmittance,
        accumulate(weights, values, samples, rays),
        accumulate(weights, None, samples, rays),
    ]
    first = torch.autograd.grad(outputs, (density, values), incoming, create_graph=create_graph)
    second = torch.autograd.grad(first, (density, values), incoming[:1] + [values.detach()]) if create_graph else ()
    return [t.detach() for t in (*outputs, *first, *second)]


@pytest.mark.parametrize('create_graph', [False, True])
@pytest.mark.parametrize('counts', [[], [0, 0], [1], [3, 0, 57, 300, 1, 0, 33]])
@pytest.mark.parametrize('channels', [1, 3, 5])
def test_native_equals_the_reference(channels, counts, create_graph, backend, relative_error):
    samples, rays = packed(counts), len(counts)
    n = len(samples)
    density, values = torch.rand(n) * 5, torch.randn(n, channels)
    incoming = [torch.randn(n), torch.randn(n), torch.randn(rays, channels), torch.randn(rays, 1)]
    backend('native')
    found = gradients(density, values, samples, rays, incoming, create_graph)
    backend('reference')
    expected = gradients(density, values, samples, rays, incoming, create_graph)
    assert max(map(relative_error, found, expected)) < 1e-4


def test_only_what_is_asked_for_gets_a_gradient(backend):
    backend('native')
    samples = packed([4, 5])
    density, values = torch.rand(9, requires_grad=True), torch.rand(9, 3, requires_grad=True)
    render_weights(density, samples)[1].sum().backward()  # the transmittance alone
    transmittance_only = density.grad.clone()
    backend('reference')
    density.grad = None
    render_weights(density, samples)[1].sum().backward()
    torch.testing.assert_close(transmittance_only, density.grad)
    backend('native')
    accumulate(density.detach(), values, samples, 2).sum().backward()
    torch.testing.assert_close(values.grad, density.detach()[:, None].expand(9, 3))


def test_half_precision_is_composited_in_float32(backend):
    backend('native')
    samples = packed([4, 5])
    density = torch.rand(9)
    weights, _ = render_weights(density.bfloat16(), samples)
    assert weights.dtype == torch.float32
    assert accumulate(weights, torch.rand(9, 3).bfloat16(), samples, 2).dtype == torch.float32


def test_same_bits_for_one_and_two_threads(backend):
    backend('native')
    counts = torch.randint(0, 60, (300,)).tolist()
    samples = packed(counts)
    n = len(samples)
    given = (torch.rand(n) * 5, torch.randn(n, 3), samples, 300)
    incoming = [torch.randn(n), torch.randn(n), torch.randn(300, 3), torch.randn(300, 1)]
    before, results = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(gradients(*given, incoming, False))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_operators_pass_opcheck(backend, assert_opcheck):
    backend('native')
    samples = packed([4, 0, 3])
    density, values = torch.rand(7, requires_grad=True), torch.rand(7, 2, requires_grad=True)
    along = (samples.starts, samples.ends, samples.offsets)
    assert_opcheck(render_weights_op, (density, samples.ray_indices, *along))
    assert_opcheck(visible_prefix_op, (density.detach(), *along, 0.5))
    assert_opcheck(accumulate_op, (density, values, samples.ray_indices, samples.offsets))
    assert_opcheck(accumulate_op, (density, None, samples.ray_indices, samples.offsets))


@pytest.mark.parametrize('given', [(True, True), (True, False), (False, True)])
def test_backward_operators_pass_opcheck(given, backend, assert_opcheck):
    backend('native')
    samples = packed([4, 0, 3])
    grads = [torch.rand(7) if each else None for each in given]
    outputs = render_weights(torch.rand(7), samples)
    along = (torch.rand(7), samples.starts, samples.ends, samples.offsets)
    assert_opcheck(render_weights_backward_op, (*grads, *along, *outputs))
    needs, values = list(given), torch.rand(7, 2)
    assert_opcheck(accumulate_backward_op, (torch.rand(3, 2), torch.rand(7), values, samples.offsets, needs))


def test_accumulate_without_values_has_a_backward_operator(backend, assert_opcheck):
    backend('native')
    samples = packed([4, 0, 3])
    given = (torch.rand(3, 1), torch.rand(7), None, samples.offsets, [True, False])
    assert_opcheck(accumulate_backward_op, given)


def test_torch_compile_traces_through(backend):
    backend('native')
    samples, density, values = packed([4, 0, 3]), torch.rand(7), torch.rand(7, 2)

    def image(density, values):
        weights, transmittance = render_weights(density, samples)
        seen = visible_prefix(density, samples, 0.5)
        return accumulate(weights * seen, values, samples, 3) + accumulate(transmittance, None, samples, 3)

    def run(function):
        given = density.clone().requires_grad_(), values.clone().requires_grad_()
        result = function(*given)
        return result.detach(), *torch.autograd.grad(result.sum(), given)

    found, expected = run(torch.compile(image, backend='aot_eager', fullgraph=True)), run(image)
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


@BACKENDS
def test_another_number_of_rays_is_refused(name, backend):
    backend(name)
    with refusal('n_rays', 5, 1):
        accumulate(torch.rand(3), None, packed([3]), 5)

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

"""Adan: the native backend, the reference and NeMo's optimizer give the same parameters."""

import copy

import pytest
import torch
from refusals import refusal

from nemo_dreamfusion.ops.adan import STATE, FusedAdan, adan_step, adan_step_op

pytestmark = pytest.mark.unit

OPTIONS = [
    {},
    {'weight_decay': 0.1},
    {'weight_decay': 0.1, 'no_prox': True},
    {'max_grad_norm': 0.5, 'eps': 1e-6, 'betas': (0.9, 0.8, 0.95)},
]


def run(optimizer_class, options, steps=6, shapes=((5, 33), (64,), (), (130,))):
    """Parameters after some steps on noisy quadratics; one parameter gets its first gradient late."""
    generator = torch.Generator().manual_seed(7)
    parameters = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]
    optimizer = optimizer_class(
        [{'params': parameters[:2]}, {'params': parameters[2:], 'lr': 0.03}], lr=0.01, **options
    )
    for step in range(steps):
        for i, p in enumerate(parameters):
            noise = torch.randn(shapes[i], generator=generator)
            p.grad = None if i == 1 and step < 2 else p.detach() + noise
        optimizer.step()
    return parameters, optimizer


@pytest.mark.parametrize('options', OPTIONS)
def test_native_equals_reference(options, backend):
    backend('native')
    found, _ = run(FusedAdan, options)
    backend('reference')
    expected, _ = run(FusedAdan, options)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', ['native', 'reference'])
@pytest.mark.parametrize('options', OPTIONS)
def test_equals_nemo(options, name, backend):
    adan = pytest.importorskip('nemo.core.optim.adan')
    backend(name)
    found, ours = run(FusedAdan, options)
    expected, theirs = run(adan.Adan, options)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    for a, b in zip(found, expected):
        for key in STATE:
            torch.testing.assert_close(ours.state[a][key], theirs.state[b][key], rtol=1e-4, atol=1e-6)


def test_continues_from_nemos_state(backend):
    adan = pytest.importorskip('nemo.core.optim.adan')
    backend('native')
    parameters, theirs = run(adan.Adan, {})
    copies = [p.detach().clone().requires_grad_() for p in parameters]
    ours = FusedAdan([{'params': copies[:2]}, {'params': copies[2:]}])
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    for p, q in zip(parameters, copies):
        p.grad = torch.ones_like(p)
        q.grad = torch.ones_like(q)
    theirs.step()
    ours.step()
    for p, q in zip(parameters, copies):
        torch.testing.assert_close(p, q)


def test_state_survives_saving(backend):
    backend('native')
    parameters, optimizer = run(FusedAdan, {})
    copies = [p.detach().clone().requires_grad_() for p in parameters]
    other = FusedAdan([{'params': copies[:2]}, {'params': copies[2:]}])
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for group in (parameters, copies):
        for p in group:
            p.grad = torch.full_like(p, 0.3)
    optimizer.step()
    other.step()
    assert all(torch.equal(p, q) for p, q in zip(parameters, copies))


def test_gradients_are_left_as_they_are(backend):
    backend('native')
    p = torch.zeros(9, requires_grad=True)
    p.grad = torch.ones(9)
    FusedAdan([p], max_grad_norm=0.1).step()
    assert torch.equal(p.grad, torch.ones(9))


@pytest.mark.parametrize('n', [0, 1, 63, 65, 1000])
def test_odd_sizes(n, backend):
    results = []
    gradient = torch.randn(n)
    for name in ('native', 'reference'):
        backend(name)
        p = torch.linspace(-1, 1, n).requires_grad_()
        optimizer = FusedAdan([p], lr=0.1)
        for _ in range(3):
            p.grad = gradient.clone()
            optimizer.step()
        results.append(p.detach())
    torch.testing.assert_close(*results)


def test_transposed_parameters_fall_back(backend):
    backend('native')
    p = torch.randn(4, 6).t().requires_grad_()
    p.grad = torch.ones_like(p)
    before = p.detach().clone()
    FusedAdan([p], lr=0.1).step()
    torch.testing.assert_close(p.detach(), before - 0.1 - 0.0, atol=1e-5, rtol=0)


def test_the_closure_gives_the_loss():
    p = torch.ones(3, requires_grad=True)
    optimizer = FusedAdan([p])

    def closure():
        loss = (p**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 3


def test_same_bits_for_one_and_two_threads(backend):
    backend('native')
    before, results = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        parameters, optimizer = run(FusedAdan, {'max_grad_norm': 0.5}, shapes=[(501, 33), (64,), (), (130,)])
        results.append([t for p in parameters for t in (p, *optimizer.state[p].values())])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_torch_compile_traces_through(backend):
    backend('native')
    start = [torch.rand(70) for _ in range(6)]

    def step(*tensors):
        adan_step(*tensors, step=3, lr=0.1, weight_decay=0.1, gradient_scale=0.5)

    found, expected = [t.clone() for t in start], [t.clone() for t in start]
    torch.compile(step, backend='aot_eager', fullgraph=True)(*found)
    step(*expected)
    assert not torch.equal(found[0], start[0])
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


def test_operator_passes_opcheck(backend, assert_opcheck):
    backend('native')
    tensors = [torch.rand(7) for _ in range(6)]
    assert_opcheck(adan_step_op, (*tensors, torch.tensor(1.0), [0.98, 0.92, 0.99, 1e-3, 1e-3, 1.0, 1e-8, 1.0, 1.0]))


@pytest.mark.parametrize(
    ('name', 'value', 'allowed'),
    [('lr', -1, 'at least 0'), ('betas', (0.9, 0.9), 'three numbers in [0, 1)'), ('max_grad_norm', -1, 'at least 0')],
)
def test_an_option_out_of_its_range_is_refused(name, value, allowed):
    with refusal(name, value, allowed):
        FusedAdan([torch.zeros(1, requires_grad=True)], **{name: value})

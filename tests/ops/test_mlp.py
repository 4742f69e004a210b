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

"""Small networks: the native backend against torch's own layers."""

import pytest
import torch
from refusals import NO_VALUE, refusal
from torch import nn

from nemo_dreamfusion.ops import mlp
from nemo_dreamfusion.ops.mlp import MLP, make_mlp, mlp_reference, relu_mlp, relu_mlp_backward_op, relu_mlp_op

pytestmark = pytest.mark.unit

WIDTHS = [(3, 1), (20, 32, 1), (5, 7, 3), (32, 64, 64, 4), (16, 16, 16, 16, 17)]


def one_pass(net):
    """The network as one operation, however few the points."""
    linear = list(net)[::2]
    biases = [layer.bias for layer in linear if layer.bias is not None]
    return lambda x: relu_mlp(x, [layer.weight for layer in linear], biases)


def derivatives(run, inputs, parameters, grad, toward=None):
    """The value and its gradients; with ``toward``, the gradients of <gradient to the inputs, toward> instead."""
    inputs = inputs.clone().requires_grad_()
    y = run(inputs)
    if toward is None:
        return [y.detach(), *torch.autograd.grad(y, [inputs, *parameters], grad)]
    (slope,) = torch.autograd.grad(y, inputs, grad, create_graph=True)
    return [slope.detach(), *torch.autograd.grad(slope, parameters, toward, materialize_grads=True)]


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('n', [0, 1, 95, 96, 193, 1000])
@pytest.mark.parametrize('widths', WIDTHS)
def test_native_equals_torch(widths, n, bias, backend, relative_error):
    backend('native')
    net = MLP(widths, bias=bias)
    given = (torch.randn(n, widths[0]), list(net.parameters()), torch.randn(n, widths[-1]))
    found = derivatives(one_pass(net), *given)
    expected = derivatives(net, *given)
    assert max(map(relative_error, found, expected)) < 1e-4


@pytest.mark.parametrize('place', ['inputs', 'weights', 'biases'])
def test_not_a_number_passes_as_through_torch(place, backend):
    backend('native')
    net, x, grad = MLP((6, 20, 20, 2)), torch.randn(100, 6), torch.randn(100, 2)
    with torch.no_grad():
        {'inputs': x, 'weights': net[0].weight, 'biases': net[2].bias[None]}[place][0, 0] = torch.nan
    found = derivatives(one_pass(net), x, list(net.parameters()), grad)
    expected = derivatives(net, x, list(net.parameters()), grad)
    assert found[0].isnan().any()
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_long_sums_that_cancel_keep_their_digits(backend):
    """Normals by differences make gradients of pairs that all but cancel: the error counts against the pairs."""
    backend('native')
    net, half = MLP((20, 32, 1)), 100_000
    x, grad = torch.randn(half, 20) * 1e-4, torch.randn(half, 1) * 50
    x, grad = torch.cat([x, x]), torch.cat([grad, -grad])
    biases = derivatives(one_pass(net), x, [net[0].bias, net[2].bias], grad)[2:]  # 0 without rounding
    assert biases[0].abs().max() < 2e-9 * (grad.abs() * net[2].weight.abs().max()).sum()
    assert biases[1].abs().max() < 2e-9 * grad.abs().sum()


def test_gradients_of_gradients(backend, relative_error):
    backend('native')
    net = MLP((6, 9, 9, 1))
    given = (torch.randn(33, 6), list(net.parameters()), torch.randn(33, 1), torch.randn(33, 6))
    found = derivatives(one_pass(net), *given)
    expected = derivatives(net, *given)
    assert max(map(relative_error, found, expected)) < 1e-4


def test_frozen_layers_and_inputs(backend):
    backend('native')
    net = MLP((6, 9, 2))
    net[0].requires_grad_(False)
    one_pass(net)(torch.randn(11, 6)).sum().backward()
    assert net[0].weight.grad is None and net[2].weight.grad.abs().sum() > 0


def test_reference_gradients_in_float64():
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weights = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((5, 3), (2, 5))]
    assert torch.autograd.gradcheck(lambda a, *w: relu_mlp(a, w), (x, *weights))


def test_same_bits_for_one_and_two_threads(backend):
    backend('native')
    net = MLP((20, 32, 32, 3))
    given = (torch.randn(7001, 20), list(net.parameters()), torch.randn(7001, 3))
    before, results = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(derivatives(one_pass(net), *given))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results))


@pytest.mark.parametrize(('points', 'autocast', 'passes'), [(2**18, False, 1), (100, False, 0), (2**18, True, 0)])
def test_one_pass_for_many_points_only(backend, monkeypatch, points, autocast, passes):
    backend('native')
    calls = []
    monkeypatch.setattr(mlp, 'relu_mlp', lambda *given: calls.append(given) or relu_mlp(*given))
    net, x = MLP((6, 20, 2)), torch.randn(points, 6)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        y = net(x)
        assert y.dtype == (torch.bfloat16 if autocast else torch.float32)
    assert len(calls) == passes
    torch.testing.assert_close(y.float(), nn.Sequential(*net)(x), atol=0.05 if autocast else 1e-5, rtol=1e-4)


def test_operators_pass_opcheck(backend, assert_opcheck):
    backend('native')
    weights = [torch.randn(5, 3, requires_grad=True), torch.randn(2, 5, requires_grad=True)]
    biases = [torch.randn(5, requires_grad=True), torch.randn(2, requires_grad=True)]
    x = torch.randn(7, 3, requires_grad=True)
    assert_opcheck(relu_mlp_op, (x, weights, biases))
    plain = [t.detach() for t in weights], [t.detach() for t in biases]
    assert_opcheck(relu_mlp_backward_op, (torch.randn(7, 2), x.detach(), *plain, True))


def test_torch_compile_traces_through(backend):
    backend('native')
    net, given = MLP((6, 9, 2)), (torch.randn(11, 6), torch.randn(11, 2))
    compiled = torch.compile(one_pass(net), backend='aot_eager', fullgraph=True)
    found, expected = (derivatives(f, given[0], list(net.parameters()), given[1]) for f in (compiled, one_pass(net)))
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


def test_more_layers_than_the_library_holds_use_the_reference(backend):
    backend('native')
    weights = [torch.eye(3)] * 20
    x = torch.rand(4, 3)
    torch.testing.assert_close(relu_mlp(x, weights), mlp_reference(x, weights))


def test_state_keys_are_those_of_a_sequential():
    net = make_mlp('model.nerf.sigma_net_cfg', 5, 2, {'num_layers': 2, 'num_hidden_dims': 8})
    assert {k: tuple(v.shape) for k, v in net.state_dict().items()} == {
        **{'0.weight': (8, 5), '0.bias': (8,)},
        **{'2.weight': (2, 8), '2.bias': (2,)},
    }


@pytest.mark.parametrize(
    ('key', 'value', 'way_out'),
    [
        ('num_layers', 0, 'at most 16'),
        ('num_hidden_dims', 2.5, 'a whole number'),
        ('num_layer', NO_VALUE, 'model.nerf.sigma_net_cfg.num_layers'),
    ],
)
def test_a_wrong_option_is_refused(key, value, way_out):
    with refusal(f'model.nerf.sigma_net_cfg.{key}', value, way_out):
        make_mlp('model.nerf.sigma_net_cfg', 5, 2, {key: 2 if value is NO_VALUE else value})

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

"""Adan: adaptive Nesterov momentum, one pass over memory per tensor.

Xie et al., "Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models" (2022), algorithm 1,
https://arxiv.org/abs/2208.06677, with betas in the sense of Adam (1 - those of the paper). For gradient g and its change
d = g - g_previous:

- first moment m = beta1 m + (1 - beta1) g
- moment of the change v = beta2 v + (1 - beta2) d
- second moment n = beta3 n + (1 - beta3) (g + beta2 d)^2
- parameter = (parameter - lr (m + beta2 v) / (sqrt(n) + eps)) / (1 + lr weight_decay), moments corrected for their bias

The numbers are those of ``nemo.core.optim.adan.Adan``, whose state this one can load.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends import select
from nemo_dreamfusion.parts.checks import check_range, refuse

STATE = ('exp_avg', 'exp_avg_sq', 'exp_avg_diff', 'neg_pre_grad')


@torch.no_grad()
def adan_step(
    parameter: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    exp_avg_diff: Tensor,
    neg_pre_grad: Tensor,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    no_prox: bool = False,
    gradient_scale: Tensor | float = 1.0,
) -> None:
    """Make one step in place: the parameter and its state change, the gradient does not.

    Args:
        parameter: of any shape, which all the tensors have.
        gradient: with respect to the parameter.
        exp_avg: first moment, m.
        exp_avg_sq: second moment, n.
        exp_avg_diff: moment of the gradient's change, v.
        neg_pre_grad: the negative of the previous step's scaled gradient.
        step: number of this step, from 1.
        lr: step size.
        betas: decay of m, v and n, each in [0, 1).
        eps: added to the denominator.
        weight_decay: of the parameter.
        no_prox: whether to decay before the step (as AdamW) instead of by the division after it.
        gradient_scale: factor of the gradient; as a tensor of one element, clipping need not wait for the device.

    With no change of the gradient yet, the first step moves each element by lr against its gradient:

    >>> parameter, state = torch.zeros(2), [torch.zeros(2) for _ in range(3)]
    >>> gradient = torch.tensor([3.0, -0.5])
    >>> adan_step(parameter, gradient, *state, -gradient, step=1, lr=0.1)
    >>> parameter
    tensor([-0.1000,  0.1000])
    """
    tensors = (parameter, gradient, exp_avg, exp_avg_sq, exp_avg_diff, neg_pre_grad)
    coefficients = AdanCoefficients.of_step(step, lr, betas, eps, weight_decay, no_prox)
    if select.backend(*tensors) == 'reference' or not all(t.is_contiguous() for t in tensors):
        adan_reference(*tensors, coefficients, gradient_scale)
        return
    if not isinstance(gradient_scale, Tensor):
        gradient_scale = parameter.new_full((), gradient_scale)
    if torch.compiler.is_compiling():
        adan_step_op(*tensors, gradient_scale, list(coefficients))
    else:  # without the operator, which costs more of the host's time than the launch of its kernel
        select.kernels('adan', parameter).adan_step(tensors, coefficients, gradient_scale)
        torch.autograd.graph.increment_version((parameter, *tensors[2:]))  # tells autograd that they changed in place


class AdanCoefficients(NamedTuple):
    """The numbers of one step, the same for every element."""

    beta1: float
    beta2: float
    beta3: float
    step_size: float  # of the first moment, with its bias correction
    step_size_diff: float  # of the difference's moment
    inverse_bias: float  # 1 / sqrt(bias correction of the second moment)
    eps: float
    before: float  # factors of the parameter for weight decay, before the step
    after: float  # and after it

    @classmethod
    def of_step(
        cls, step: int, lr: float, betas: tuple[float, float, float], eps: float, weight_decay: float, no_prox: bool
    ) -> AdanCoefficients:
        """Return the coefficients of a step, with the corrections of the moments' bias."""
        beta1, beta2, beta3 = betas
        step_size = lr / (1 - beta1**step)
        step_size_diff = lr * beta2 / (1 - beta2**step)
        before = 1 - lr * weight_decay if no_prox else 1.0
        after = 1.0 if no_prox else 1 / (1 + lr * weight_decay)
        return cls(*betas, step_size, step_size_diff, 1 / math.sqrt(1 - beta3**step), eps, before, after)


def adan_reference(
    parameter: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    exp_avg_diff: Tensor,
    neg_pre_grad: Tensor,
    c: AdanCoefficients,
    gradient_scale: Tensor | float,
) -> None:
    """Reference implementation of :func:`adan_step`, in place."""
    gradient = gradient * gradient_scale
    difference = neg_pre_grad.add_(gradient)
    exp_avg.mul_(c.beta1).add_(gradient, alpha=1 - c.beta1)
    exp_avg_diff.mul_(c.beta2).add_(difference, alpha=1 - c.beta2)
    lookahead = difference.mul_(c.beta2).add_(gradient)
    exp_avg_sq.mul_(c.beta3).addcmul_(lookahead, lookahead, value=1 - c.beta3)
    denominator = exp_avg_sq.sqrt().mul_(c.inverse_bias).add_(c.eps)
    parameter.mul_(c.before)
    parameter.addcdiv_(exp_avg, denominator, value=-c.step_size)
    parameter.addcdiv_(exp_avg_diff, denominator, value=-c.step_size_diff)
    parameter.mul_(c.after)
    neg_pre_grad.copy_(gradient).neg_()


@torch.library.custom_op(
    'nemo_dreamfusion::adan_step',
    mutates_args=('parameter', 'exp_avg', 'exp_avg_sq', 'exp_avg_diff', 'neg_pre_grad'),
)
def adan_step_op(
    parameter: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    exp_avg_diff: Tensor,
    neg_pre_grad: Tensor,
    gradient_scale: Tensor,
    coefficients: list[float],
) -> None:
    tensors = (parameter, gradient, exp_avg, exp_avg_sq, exp_avg_diff, neg_pre_grad)
    select.kernels('adan', parameter).adan_step(tensors, AdanCoefficients(*coefficients), gradient_scale)


@adan_step_op.register_fake
def _(parameter, gradient, exp_avg, exp_avg_sq, exp_avg_diff, neg_pre_grad, gradient_scale, coefficients):
    return None


class FusedAdan(torch.optim.Optimizer):
    """Adan with one fused pass per parameter.

    Args:
        params: parameters, or groups of them, as any torch optimizer takes them.
        lr: step size.
        betas: decay of the three moments.
        eps: added to the denominator.
        weight_decay: of the parameters.
        max_grad_norm: the norm over all gradients is clipped to it; 0 clips nothing.
        no_prox: whether to decay the parameter before the step (as AdamW) instead of by the division after it.

    Raises:
        ValueError: for a value out of its range.

    On a GPU a step changes nothing while the attribute ``found_inf``, a tensor of one element, is not 0, as in torch's
    fused optimizers: the kernels take a ``gradient_scale`` of NaN for the order to leave the step out.

    >>> weight = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> optimizer = FusedAdan([weight], lr=0.5)
    >>> weight.square().sum().backward()
    >>> optimizer.step()
    >>> weight.detach()
    tensor([ 0.5000, -1.5000])
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_grad_norm: float = 0.0,
        no_prox: bool = False,
    ) -> None:
        check_range('lr', lr, 0)
        check_range('eps', eps, 0)
        check_range('weight_decay', weight_decay, 0)
        check_range('max_grad_norm', max_grad_norm, 0)
        if len(betas) != 3 or not all(0 <= beta < 1 for beta in betas):
            refuse('betas', tuple(betas), 'three numbers in [0, 1)')
        defaults = {
            'lr': lr,
            'betas': tuple(betas),
            'eps': eps,
            'weight_decay': weight_decay,
            'max_grad_norm': max_grad_norm,
            'no_prox': no_prox,
        }
        super().__init__(params, defaults)

    @property
    def reads_found_inf(self) -> bool:
        """Whether the kernels that run know how to leave a step out."""
        parameters = [p for group in self.param_groups for p in group['params']]
        return all(select.backend(p) == 'triton' and p.is_contiguous() for p in parameters)

    @torch.no_grad()
    def step(self, closure=None):
        """Make one step with every parameter that has a gradient.

        Args:
            closure: evaluates the loss anew and returns it; optional, as in every torch optimizer.

        Returns:
            The closure's loss, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale = self._gradient_scale()
        for group in self.param_groups:
            group['step'] = group.get('step', 0) + 1
            for parameter in group['params']:
                if parameter.grad is not None:
                    self._step_one(parameter, parameter.grad, group, scale)
        return loss

    def _step_one(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any], scale: Tensor | float) -> None:
        state = self.state[parameter]
        for name in STATE[:3]:
            if name not in state:
                state[name] = torch.zeros_like(parameter)
        if 'neg_pre_grad' not in state or group['step'] == 1:
            if self.found_inf is not None and bool(self.found_inf > 0):  # only here the host waits for the device
                return
            state['neg_pre_grad'] = gradient * -scale  # the first difference is zero
        adan_step(
            parameter,
            gradient.contiguous(),
            *(state[name] for name in STATE),
            step=group['step'],
            lr=group['lr'],
            betas=group['betas'],
            eps=group['eps'],
            weight_decay=group['weight_decay'],
            no_prox=group['no_prox'],
            gradient_scale=scale,
        )

    def _gradient_scale(self) -> Tensor | float:
        """Return the factor of all gradients, on their device: it clips them, or is NaN for a step to leave out."""
        scale = self._clipping()
        return scale if self.found_inf is None else torch.where(self.found_inf > 0, torch.nan, scale)

    def _clipping(self) -> Tensor | float:
        """Return the factor that brings the norm over all gradients down to max_grad_norm."""
        limit = self.defaults['max_grad_norm']
        gradients = [p.grad for group in self.param_groups for p in group['params'] if p.grad is not None]
        if not limit or not gradients:
            return 1.0
        norms = torch.stack([torch.linalg.vector_norm(g.detach().float()).to(gradients[0].device) for g in gradients])
        norm = torch.linalg.vector_norm(norms)
        return (limit / (norm + self.param_groups[-1]['eps'])).clamp(max=1.0)

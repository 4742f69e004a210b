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
"""A regulariser of the samples' normals against the line of sight."""

from __future__ import annotations

from torch import Tensor


def orientation_loss(weights: Tensor, normals: Tensor, directions: Tensor, rays: int) -> Tensor:
    """Return the mean over the rays of the sum of weight * max(0, n . d)^2: visible normals face the camera. Scalar.

    Ref-NeRF (Verbin et al. 2022), equation 11, https://arxiv.org/abs/2112.03907. As in DreamFusion no gradient flows
    to the weights: the term turns surfaces and does not dissolve them. The mean is over all rays, as in
    stable-dreamfusion and NeMo; threestudio's is over the rays of some opacity, so it is larger.

    Args:
        weights: [N], each sample's share of its pixel.
        normals: [N, 3] unit.
        directions: [N, 3] unit, from the camera into the scene.
        rays: number of rays that the samples lie on.

    >>> import torch
    >>> normals, directions = torch.eye(3)[[2, 2]], torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    >>> orientation_loss(torch.tensor([0.5, 0.5]), normals, directions, rays=2)  # the first faces away
    tensor(0.2500)
    """
    away = (normals * directions).sum(-1).clamp(min=0)
    return (weights.detach() * away.square()).sum() / max(rays, 1)

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


"""Classifier-free guidance, rescale and Perp-Neg."""

from __future__ import annotations

import pytest
import torch
from guidance.toy_world import conditioning_of

from nemo_dreamfusion.modules.guidance.guidance_mixing import (
    PERP_NEG,
    GuidanceMixing,
    perpendicular_negatives,
    rescale_guidance,
    view_negative_weights,
)

CURVE = torch.linspace(0.9991, 0.01, 1000, dtype=torch.float64).tolist()


def test_the_push_is_perpendicular_and_finite():
    main, negatives = torch.randn(3, 4, 8, 8), torch.randn(3, 2, 4, 8, 8)
    pushed = perpendicular_negatives(main, negatives)
    dots = (pushed * main[:, None]).flatten(2).sum(-1)
    norms = pushed.flatten(2).norm(dim=-1) * main.flatten(1).norm(dim=-1)[:, None]
    assert (dots / norms).abs().max() < 1e-6
    assert perpendicular_negatives(torch.zeros(1, 4, 8, 8), negatives[:1]).isfinite().all()


def test_by_hand():
    main, negative = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2), torch.tensor([0.6, 0.8]).view(1, 1, 1, 1, 2)
    pushed = perpendicular_negatives(main, negative)[:, 0]
    assert (7.5 * (main - 1.5 * pushed)).flatten().tolist() == pytest.approx([7.5, 7.5 * -1.5 * 0.8])  # -9


def test_a_batch_equals_its_images_one_by_one(toy):
    world = toy(CURVE)
    x0 = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = [[(1.0, 0.5), (0.0, 1.0), (2.0, 0.3), (-1.0, 0.7)], [(2.0, 0.4), (0.5, 2.0), (-3.0, 0.6), (0.3, 1.2)]]
    weights = torch.tensor([[-1.0, -0.3], [-0.2, -2.0]], dtype=torch.float64)
    t = torch.tensor([200, 700])

    def conditioning(index):
        text, null, *negatives = (torch.cat([world.text(*rows[i][k]) for i in index]) for k in range(4))
        return conditioning_of(text, null, negatives=torch.stack(negatives, 1), negative_weights=weights[index])

    mixing = GuidanceMixing(guidance_scale=7.5, guidance_rescale=0.5)
    both = mixing.predict(world.model, x0, t, conditioning([0, 1])).guided
    for i in (0, 1):
        alone = mixing.predict(world.model, x0[i : i + 1], t[i : i + 1], conditioning([i])).guided
        torch.testing.assert_close(both[i : i + 1], alone)


@pytest.mark.parametrize(
    ('azimuth', 'threestudio', 'stable_dreamfusion'),
    [
        (0, (-0.0001, -1.574), (0, -2)),
        (45, (-0.6892, -0.6892), (-0.7358, -0.0135)),
        (135, (-1.7458, -0.1728), (-2, -0.0067)),
        (180, (-1.967, -0.394), (-2, -1)),
    ],
)
def test_published_weights(azimuth, threestudio, stable_dreamfusion):
    for style, expected in zip(PERP_NEG, (threestudio, stable_dreamfusion)):
        for angle in (azimuth, -azimuth):
            found = view_negative_weights(torch.tensor([float(angle)]), style)[0].tolist()
            assert found == pytest.approx(expected, abs=2e-4)


def test_the_smooth_curve_hardly_jumps_at_the_side():
    before, after = view_negative_weights(torch.tensor([90.0, 90.001]), 'threestudio')
    assert (before - after).abs().max() < 6e-4


def test_rescale_gives_the_standard_deviation_it_promises():
    text, guided = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8) * torch.tensor([2.0, 5.0, 9.0]).view(3, 1, 1, 1)
    for phi in (0.0, 0.3, 0.7, 1.0):
        found = rescale_guidance(guided, text, phi).flatten(1).std(dim=1)
        expected = phi * text.flatten(1).std(dim=1) + (1 - phi) * guided.flatten(1).std(dim=1)
        torch.testing.assert_close(found, expected)
    alone = torch.cat([rescale_guidance(guided[i : i + 1], text[i : i + 1], 0.7) for i in range(3)])
    torch.testing.assert_close(rescale_guidance(guided, text, 0.7), alone)

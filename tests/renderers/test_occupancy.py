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


"""The occupancy grid: what it remembers, which cells it keeps, and the state of earlier releases."""

import copy

import pytest
import torch

from nemo_dreamfusion.modules.renderers.occupancy import OccupancyGrid


def half_full(positions):
    """Density 9 where x > 0."""
    return 9.0 * (positions[:, 0] > 0)


def test_the_largest_density_decays():
    grid = OccupancyGrid(resolution=2, bound=1.0, threshold=1.0, decay=0.5)
    grid.update(half_full)
    grid.update(lambda positions: torch.zeros(len(positions)))
    assert grid.density_ema[1].unique().tolist() == [9.0 * 0.5] and grid.density_ema[0].unique().tolist() == [0.0]


def test_a_cell_is_occupied_above_the_smaller_of_mean_and_threshold():
    by_threshold = OccupancyGrid(resolution=4, bound=1.0, threshold=1.0)
    by_mean = OccupancyGrid(resolution=4, bound=1.0, threshold=100.0)
    density = {-0.75: 0.5, -0.25: 2.0, 0.25: 4.0, 0.75: 9.0}  # mean 3.875
    for grid in (by_threshold, by_mean):
        grid.update(lambda positions: torch.tensor([density[round(x.item(), 2)] for x in positions[:, 0]]))
    assert by_threshold.occupied[:, 0, 0].tolist() == [False, True, True, True]
    assert by_mean.occupied[:, 0, 0].tolist() == [False, False, True, True]


def test_random_points_lie_in_their_cells():
    grid = OccupancyGrid(resolution=4, bound=2.0, threshold=1.0)
    seen = []
    grid.update(lambda positions: seen.append(positions) or torch.zeros(len(positions)), torch.Generator())
    cells = ((seen[0] + 2.0) * 4 / (2 * 2.0)).long()
    assert cells.tolist() == [[x, y, z] for x in range(4) for y in range(4) for z in range(4)]


def test_the_state_of_earlier_releases_is_read():
    """They named ``density_ema`` ``memory``."""
    grid = OccupancyGrid(resolution=4, bound=1.0, threshold=1.0)
    grid.update(half_full)
    new = {f'renderer.grid.{name}': value.clone() for name, value in grid.state_dict().items()}
    old = {key.replace('density_ema', 'memory'): value for key, value in new.items()}
    assert sorted(old) == ['renderer.grid.memory', 'renderer.grid.occupied']
    for state in (old, new):
        model = torch.nn.ModuleDict(
            {'renderer': torch.nn.ModuleDict({'grid': OccupancyGrid(resolution=4, bound=1.0, threshold=1.0)})}
        )
        for target in (model, copy.deepcopy(model)):
            assert not target.renderer.grid.density_ema.any()
            target.load_state_dict(dict(state), strict=True)
            assert torch.equal(target.renderer.grid.density_ema, grid.density_ema)
            assert torch.equal(target.renderer.grid.occupied, grid.occupied)
            assert set(target.state_dict()) == set(new)


def test_a_state_without_the_density_is_refused():
    grid = OccupancyGrid(resolution=4, bound=1.0, threshold=1.0)
    with pytest.raises(RuntimeError, match='density_ema'):
        grid.load_state_dict({'occupied': grid.occupied})

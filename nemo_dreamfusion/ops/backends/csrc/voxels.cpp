// Copyright (c) 2026, the nemo_dreamfusion authors
//
// Licensed under the Apache License, Version 2.0 (the "License");
// you may not use this file except in compliance with the License.
// You may obtain a copy of the License at
//
//     http://www.apache.org/licenses/LICENSE-2.0
//
// Unless required by applicable law or agreed to in writing, software
// distributed under the License is distributed on an "AS IS" BASIS,
// WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
// See the License for the specific language governing permissions and
// limitations under the License.

// Volume rendering of a grid of voxels: march, interpolate and composite in one pass over each ray, without a gradient.

#include "marching_rays.h"

namespace {

struct Voxel {  // a corner of the grid
    float v[4];  // what the table of opacities is asked with; three values
};

Voxel mix(const Voxel& a, const Voxel& b, float t) {
    Voxel out;
    for (int i = 0; i < 4; ++i) out.v[i] = a.v[i] + t * (b.v[i] - a.v[i]);
    return out;
}

struct Grid {
    const Voxel* corners;  // [V, V, V], on the faces of the box too
    int64_t size;
    float bound, scale;  // scale: cells per unit of length

    Voxel at(const float* position) const {
        int64_t cell[3];
        float t[3];
        for (int axis = 0; axis < 3; ++axis) {
            const float x = (position[axis] + bound) * scale;
            const int64_t c = int64_t(x);
            cell[axis] = c < 0 ? 0 : c < size - 1 ? c : size - 2;
            const float within = x - float(cell[axis]);
            t[axis] = within < 0.0f ? 0.0f : within > 1.0f ? 1.0f : within;
        }
        const Voxel* low = corners + (cell[0] * size + cell[1]) * size + cell[2];
        const Voxel* high = low + size * size;
        const Voxel near = mix(mix(low[0], low[1], t[2]), mix(low[size], low[size + 1], t[2]), t[1]);
        const Voxel far = mix(mix(high[0], high[1], t[2]), mix(high[size], high[size + 1], t[2]), t[1]);
        return mix(near, far, t[0]);
    }
};

struct Table {
    const float* opacities;  // [T], of raw densities from lowest on in equal steps
    int64_t size;
    float lowest, scale;  // scale: entries per unit of raw density

    float at(float raw) const {
        const float x = (raw - lowest) * scale, end = float(size - 1);
        const float inside = x > 0.0f ? (x < end ? x : end) : 0.0f;  // NaN: the first
        const int64_t i = int64_t(inside), j = i < size - 1 ? i : size - 2;
        return opacities[j] + (inside - float(j)) * (opacities[j + 1] - opacities[j]);
    }
};

}  // namespace

// out [R, 5]: the weighted sums of the three values, opacity, weighted sum of distances. voxels [V, V, V, 4] with V = grid_size,
// occupancy [G, G, G] with G = size, table [T] with T = entries.
EXPORT void render_voxels(
    const float* origins, const float* directions, const bool* occupancy, const float* voxels, const float* table,
    int64_t rays, int64_t size, int64_t grid_size, int64_t entries, float bound, float scale, float grid_scale,
    float step_size, float lowest, float table_scale, float least, int64_t candidates, int64_t max_samples, float* out,
    int threads) {
    const Box box = make_box(occupancy, size, bound, scale);
    const Grid grid{reinterpret_cast<const Voxel*>(voxels), grid_size, bound, grid_scale};
    const Table opacity{table, entries, lowest, table_scale};
#pragma omp parallel for num_threads(threads) schedule(dynamic, 256)
    for (int64_t r = 0; r < rays; ++r) {
        const Ray ray = make_ray(origins + 3 * r, directions + 3 * r, 0.0f, bound);
        float light = 1.0f, sums[5] = {0, 0, 0, 0, 0};
        int64_t count = 0;
        visit_candidates(ray, box, step_size, candidates, [&](int64_t, float middle) {
            float position[3];
            for (int axis = 0; axis < 3; ++axis) position[axis] = ray.origin[axis] + ray.direction[axis] * middle;
            const Voxel here = grid.at(position);
            const float alpha = opacity.at(here.v[0]), weight = light * alpha;
            for (int i = 0; i < 3; ++i) sums[i] += weight * here.v[i + 1];
            sums[3] += weight;
            sums[4] += weight * middle;
            light *= 1.0f - alpha;
            return light >= least && ++count < max_samples;
        });
        std::memcpy(out + 5 * r, sums, sizeof sums);
    }
}

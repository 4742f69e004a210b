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

constexpr int64_t RAYS = 256;  // of one task

struct Grid {
    const float* corners;  // [V, V, V, 4], on the faces of the box too
    int64_t size;
    float bound, scale;  // scale: cells per unit of length
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

struct Render {
    const float *origins, *directions;  // [R, 3]
    Box box;
    Grid grid;
    Table table;
    float step_size, least;
    int64_t candidates, max_samples;
    float low[3], high[3];  // around all occupied cells, world units; low > high where there are none
    float* out;  // [R, 5]
};

struct Stretch {
    int64_t first, end;
};

// The candidates of a ray outside of which no cell is occupied; a step to spare at both ends is for rounding.
Stretch occupied_stretch(const Ray& ray, const Render& job) {
    float enter = ray.near, leave = job.low[0] < job.high[0] ? ray.far : -1.0f;
    for (int axis = 0; axis < 3; ++axis) {
        const float a = (job.low[axis] - ray.origin[axis]) / ray.slope[axis];
        const float b = (job.high[axis] - ray.origin[axis]) / ray.slope[axis];
        enter = std::fmax(enter, std::fmin(a, b));
        leave = std::fmin(leave, std::fmax(a, b));
    }
    const float first = (enter - ray.near) / job.step_size - 1.5f, end = (leave - ray.near) / job.step_size + 1.5f;
    if (!(end > 0.0f) || first > float(job.candidates) || first > end) return {0, 0};
    const int64_t last = end < float(job.candidates) ? int64_t(end) : job.candidates;
    return {first > 0.0f ? int64_t(first) : 0, last};
}

void find_occupied(Render& job) {
    const int64_t n = job.box.size;
    int64_t low[3] = {n, n, n}, high[3] = {-1, -1, -1};
    for (int64_t i = 0; i < n * n * n; ++i) {
        if (!job.box.cells[i]) continue;
        const int64_t cell[3] = {i / (n * n), i / n % n, i % n};
        for (int axis = 0; axis < 3; ++axis) {
            if (cell[axis] < low[axis]) low[axis] = cell[axis];
            if (cell[axis] > high[axis]) high[axis] = cell[axis];
        }
    }
    for (int axis = 0; axis < 3; ++axis) {
        job.low[axis] = float(low[axis]) / job.box.scale - job.box.bound;
        job.high[axis] = float(high[axis] + 1) / job.box.scale - job.box.bound;
    }
}

}  // namespace

#define KERNELS "voxels_kernels.h"
#include "for_each_instruction_set.h"

namespace {

void render_part(const Render& job, int64_t first, int64_t end) { CALL_CHOSEN(render_rays, job, first, end) }

}  // namespace

// out [R, 5]: the weighted sums of the three values, opacity, weighted sum of distances. voxels [V, V, V, 4] with V = grid_size,
// occupancy [G, G, G] with G = size, table [T] with T = entries.
EXPORT void render_voxels(
    const float* origins, const float* directions, const bool* occupancy, const float* voxels, const float* table,
    int64_t rays, int64_t size, int64_t grid_size, int64_t entries, float bound, float scale, float grid_scale,
    float step_size, float lowest, float table_scale, float least, int64_t candidates, int64_t max_samples, float* out,
    int threads) {
    Render job{origins, directions, make_box(occupancy, size, bound, scale),
               {voxels, grid_size, bound, grid_scale}, {table, entries, lowest, table_scale},
               step_size, least, candidates, max_samples, {}, {}, out};
    find_occupied(job);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t part = 0; part < (rays + RAYS - 1) / RAYS; ++part) {
        render_part(job, part * RAYS, (part + 1) * RAYS < rays ? (part + 1) * RAYS : rays);
    }
}

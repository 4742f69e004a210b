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

// The render of voxels.cpp for one instruction set. A line of two corners along z is one vector of eight numbers.
// Positions are vectors of four numbers, the last of them unused.

typedef float Pair __attribute__((vector_size(32)));
typedef float Voxel __attribute__((vector_size(16)));
typedef int32_t Cell __attribute__((vector_size(16)));

static inline Pair load_pair(const float* corner) {
    Pair pair;
    __builtin_memcpy(&pair, corner, sizeof pair);
    return pair;
}

static inline Cell clamp_cell(Cell cell, int32_t most) {
    const Cell none = {0, 0, 0, 0}, last = {most, most, most, most};
    cell = cell > none ? cell : none;
    return cell < last ? cell : last;
}

// What find_candidate of marching_rays.h finds, by the same operations on all axes at once, and the position in the middle.
static inline bool find_sample(
    const Ray& ray, Voxel origin, Voxel direction, const Render& job, int64_t end, int64_t& k, float& middle,
    Voxel& position) {
    const Box& box = job.box;
    const int64_t size = box.size, n = box.coarse_size;
    for (; k < end; ++k) {
        middle = ray.near + (float(k) + 0.5f) * job.step_size;
        if (!(middle < ray.far)) return false;
        position = origin + direction * middle;
        const Cell at = clamp_cell(__builtin_convertvector((position + box.bound) * box.scale, Cell), int32_t(size - 1));
        const int64_t cell[3] = {at[0], at[1], at[2]};
        if (box.cells[(cell[0] * size + cell[1]) * size + cell[2]]) return true;
        if (!box.coarse[size_t((cell[0] / COARSE * n + cell[1] / COARSE) * n + cell[2] / COARSE)]) {
            const int64_t last = last_in_block(ray, box, cell, job.step_size);
            if (last > k) k = last;
        }
    }
    return false;
}

// What lies between the eight nearest corners: the raw density, three values.
static inline Voxel interpolate(const Grid& grid, Voxel position) {
    const Voxel x = (position + grid.bound) * grid.scale, none = {0, 0, 0, 0}, all = {1, 1, 1, 1};
    const Cell cell = clamp_cell(__builtin_convertvector(x, Cell), int32_t(grid.size - 2));
    Voxel t = x - __builtin_convertvector(cell, Voxel);
    t = t < none ? none : t > all ? all : t;
    const float* low = grid.corners + 4 * ((cell[0] * grid.size + cell[1]) * grid.size + cell[2]);
    const float* high = low + 4 * grid.size * grid.size;
    const Pair a = load_pair(low), b = load_pair(low + 4 * grid.size);
    const Pair c = load_pair(high), d = load_pair(high + 4 * grid.size);
    const Pair near = a + t[1] * (b - a), far = c + t[1] * (d - c);
    const Pair line = near + t[0] * (far - near);
    Voxel ends[2];
    __builtin_memcpy(ends, &line, sizeof line);
    return ends[0] + t[2] * (ends[1] - ends[0]);
}

static void render_rays(const Render& job, int64_t first, int64_t end) {
    for (int64_t r = first; r < end; ++r) {
        const Ray ray = make_ray(job.origins + 3 * r, job.directions + 3 * r, 0.0f, job.box.bound);
        const Stretch within = occupied_stretch(ray, job);
        const Voxel origin = {ray.origin[0], ray.origin[1], ray.origin[2], 0.0f};
        const Voxel direction = {ray.direction[0], ray.direction[1], ray.direction[2], 0.0f};
        Voxel values = {0, 0, 0, 0}, position;  // the first one is not used
        float light = 1.0f, opacity = 0.0f, distance = 0.0f, middle;
        int64_t count = 0;
        for (int64_t k = within.first; light >= job.least && count < job.max_samples; ++k, ++count) {
            if (!find_sample(ray, origin, direction, job, within.end, k, middle, position)) break;
            const Voxel here = interpolate(job.grid, position);
            const float alpha = job.table.at(here[0]), weight = light * alpha;
            values += weight * here;
            opacity += weight;
            distance += weight * middle;
            light *= 1.0f - alpha;
        }
        const float sums[5] = {values[1], values[2], values[3], opacity, distance};
        std::memcpy(job.out + 5 * r, sums, sizeof sums);
    }
}

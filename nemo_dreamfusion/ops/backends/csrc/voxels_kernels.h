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

typedef float Pair __attribute__((vector_size(32)));
typedef float Voxel __attribute__((vector_size(16)));

static inline Pair load_pair(const float* corner) {
    Pair pair;
    __builtin_memcpy(&pair, corner, sizeof pair);
    return pair;
}

// What lies between the eight nearest corners: the raw density, three values.
static inline void interpolate(const Grid& grid, const float* position, float* out) {
    int64_t cell[3];
    float t[3];
    for (int axis = 0; axis < 3; ++axis) {
        const float x = (position[axis] + grid.bound) * grid.scale;
        const int64_t c = int64_t(x);
        cell[axis] = c < 0 ? 0 : c < grid.size - 1 ? c : grid.size - 2;
        const float within = x - float(cell[axis]);
        t[axis] = within < 0.0f ? 0.0f : within > 1.0f ? 1.0f : within;
    }
    const float* low = grid.corners + 4 * ((cell[0] * grid.size + cell[1]) * grid.size + cell[2]);
    const float* high = low + 4 * grid.size * grid.size;
    const Pair a = load_pair(low), b = load_pair(low + 4 * grid.size);
    const Pair c = load_pair(high), d = load_pair(high + 4 * grid.size);
    const Pair near = a + t[1] * (b - a), far = c + t[1] * (d - c);
    const Pair line = near + t[0] * (far - near);
    Voxel ends[2];
    __builtin_memcpy(ends, &line, sizeof line);
    const Voxel here = ends[0] + t[2] * (ends[1] - ends[0]);
    __builtin_memcpy(out, &here, sizeof here);
}

static void render_rays(const Render& job, int64_t first, int64_t end) {
    for (int64_t r = first; r < end; ++r) {
        const Ray ray = make_ray(job.origins + 3 * r, job.directions + 3 * r, 0.0f, job.box.bound);
        const Stretch within = occupied_stretch(ray, job);
        float light = 1.0f, sums[5] = {0, 0, 0, 0, 0}, middle;
        int64_t count = 0;
        for (int64_t k = within.first; light >= job.least && count < job.max_samples; ++k, ++count) {
            if (!find_candidate(ray, job.box, job.step_size, within.end, k, middle)) break;
            float position[3], here[4];
            for (int axis = 0; axis < 3; ++axis) position[axis] = ray.origin[axis] + ray.direction[axis] * middle;
            interpolate(job.grid, position, here);
            const float alpha = job.table.at(here[0]), weight = light * alpha;
            for (int i = 0; i < 3; ++i) sums[i] += weight * here[i + 1];
            sums[3] += weight;
            sums[4] += weight * middle;
            light *= 1.0f - alpha;
        }
        std::memcpy(job.out + 5 * r, sums, sizeof sums);
    }
}

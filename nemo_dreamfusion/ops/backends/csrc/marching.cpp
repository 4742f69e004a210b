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

// Ray marching in two passes: mark the kept candidates of each ray as bits and count them; then, with the places that the
// counts were allotted, write the samples. The same float32 operations in the same order as march_reference in
// ops/marching.py, so both keep the same samples; contraction to fused multiply-adds would break that.

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#include "instruction_sets.h"

#include <cmath>
#include <cstring>
#include <vector>

namespace {

constexpr float SMALLEST_COMPONENT = 1e-10f;  // as in the reference
constexpr int64_t COARSE = 8;  // cells per axis of a coarse block: an empty block is left in one stride

struct Box {
    const bool* cells;  // [G, G, G]
    int64_t size, coarse_size;
    float bound, scale;  // scale: cells per unit of length
    std::vector<char> coarse;  // whether any cell of the block is occupied
};

Box make_box(const bool* cells, int64_t size, float bound, float scale) {
    Box box{cells, size, (size + COARSE - 1) / COARSE, bound, scale, {}};
    const int64_t n = box.coarse_size;
    box.coarse.assign(size_t(n * n * n), 0);
    for (int64_t x = 0; x < size; ++x) {
        for (int64_t y = 0; y < size; ++y) {
            const bool* line = cells + (x * size + y) * size;
            char* blocks = box.coarse.data() + ((x / COARSE) * n + y / COARSE) * n;
            for (int64_t b = 0; b < n; ++b) {
                const int64_t end = (b + 1) * COARSE < size ? (b + 1) * COARSE : size;
                char any = 0;
                for (int64_t z = b * COARSE; z < end; ++z) any |= char(line[z]);
                blocks[b] |= any;
            }
        }
    }
    return box;
}

struct Ray {
    float origin[3], direction[3], slope[3];
    float near, far, jitter;
};

Ray make_ray(const float* origin, const float* direction, float jitter, float bound) {
    Ray ray;
    ray.near = 0.0f;
    ray.far = INFINITY;
    ray.jitter = jitter;
    for (int axis = 0; axis < 3; ++axis) {
        const float o = origin[axis], d = direction[axis];
        const float slope = std::fabs(d) < SMALLEST_COMPONENT ? SMALLEST_COMPONENT : d;
        const float low = (-bound - o) / slope, high = (bound - o) / slope;
        ray.origin[axis] = o, ray.direction[axis] = d, ray.slope[axis] = slope;
        ray.near = std::fmax(ray.near, std::fmin(low, high));
        ray.far = std::fmin(ray.far, std::fmax(low, high));
    }
    return ray;
}

// The last candidate that surely lies in the same coarse block as candidate k (a whole step is left for rounding).
int64_t last_in_block(const Ray& ray, const Box& box, const int64_t* cell, float step_size) {
    double leave = INFINITY;
    for (int axis = 0; axis < 3; ++axis) {
        const int64_t block = cell[axis] / COARSE;
        const double face = double((ray.slope[axis] > 0 ? block + 1 : block) * COARSE) / box.scale - box.bound;
        leave = std::fmin(leave, (face - ray.origin[axis]) / ray.slope[axis]);
    }
    return int64_t((leave - ray.near) / step_size - ray.jitter - 0.5) - 1;
}

int64_t mark(const Ray& ray, const Box& box, float step_size, int64_t candidates, int64_t max_samples, uint64_t* bits) {
    int64_t count = 0;
    for (int64_t k = 0; k < candidates && count < max_samples; ++k) {
        const float steps = float(k) + ray.jitter;
        const float middle = ray.near + (steps + 0.5f) * step_size;
        if (!(middle < ray.far)) break;
        int64_t cell[3];
        for (int axis = 0; axis < 3; ++axis) {
            const float at = (ray.origin[axis] + ray.direction[axis] * middle + box.bound) * box.scale;
            const int64_t c = int64_t(at);
            cell[axis] = c < 0 ? 0 : c < box.size ? c : box.size - 1;
        }
        const int64_t n = box.coarse_size;
        if (!box.coarse[size_t((cell[0] / COARSE * n + cell[1] / COARSE) * n + cell[2] / COARSE)]) {
            const int64_t last = last_in_block(ray, box, cell, step_size);
            if (last > k) k = last;
        } else if (box.cells[(cell[0] * box.size + cell[1]) * box.size + cell[2]]) {
            bits[k / 64] |= uint64_t(1) << (k % 64);
            ++count;
        }
    }
    return count;
}

}  // namespace

// bits [R, words], near [R] and counts [R] are written; occupancy [G, G, G] with G = size.
EXPORT void march_mark(
    const float* origins, const float* directions, const float* jitter, const bool* occupancy, int64_t rays,
    int64_t size, float bound, float scale, float step_size, int64_t candidates, int64_t max_samples,
    int64_t words, uint64_t* bits, float* near, int64_t* counts, int threads) {
    const Box box = make_box(occupancy, size, bound, scale);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64)
    for (int64_t r = 0; r < rays; ++r) {
        std::memset(bits + r * words, 0, size_t(words) * 8);
        const Ray ray = make_ray(origins + 3 * r, directions + 3 * r, jitter[r], bound);
        near[r] = ray.near;
        counts[r] = mark(ray, box, step_size, candidates, max_samples, bits + r * words);
    }
}

// offsets [R + 1] -> ray_indices, starts, ends [N]. A ray with fewer places than samples gets its first ones; one with more
// gets samples of length 0 behind its last.
EXPORT void march_write(
    const uint64_t* bits, const float* near, const float* jitter, const int64_t* offsets, int64_t rays, int64_t words,
    float step_size, int64_t* ray_indices, float* starts, float* ends, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64)
    for (int64_t r = 0; r < rays; ++r) {
        int64_t i = offsets[r];
        const int64_t behind = offsets[r + 1];
        for (int64_t word = 0; word < words && i < behind; ++word) {
            for (uint64_t left = bits[r * words + word]; left && i < behind; left &= left - 1) {
                const int64_t k = word * 64 + __builtin_ctzll(left);
                ray_indices[i] = r;
                starts[i] = near[r] + (float(k) + jitter[r]) * step_size;
                ends[i] = near[r] + (float(k + 1) + jitter[r]) * step_size;
                ++i;
            }
        }
        const float last = i > offsets[r] ? ends[i - 1] : 0.0f;
        for (; i < behind; ++i) {
            ray_indices[i] = r;
            starts[i] = ends[i] = last;
        }
    }
}

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

// Rays through the box and its occupancy grid: which candidates of a ray lie in occupied cells. The same float32 operations in
// the same order as march_reference in ops/marching.py, so both keep the same samples; contraction to fused multiply-adds would
// break that.
#pragma once

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

inline Box make_box(const bool* cells, int64_t size, float bound, float scale) {
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

inline Ray make_ray(const float* origin, const float* direction, float jitter, float bound) {
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
inline int64_t last_in_block(const Ray& ray, const Box& box, const int64_t* cell, float step_size) {
    double leave = INFINITY;
    for (int axis = 0; axis < 3; ++axis) {
        const int64_t block = cell[axis] / COARSE;
        const double face = double((ray.slope[axis] > 0 ? block + 1 : block) * COARSE) / box.scale - box.bound;
        leave = std::fmin(leave, (face - ray.origin[axis]) / ray.slope[axis]);
    }
    return int64_t((leave - ray.near) / step_size - ray.jitter - 0.5) - 1;
}

// Find the first candidate from k on, before end, in an occupied cell: set k and the distance of its middle, or return false.
inline bool find_candidate(const Ray& ray, const Box& box, float step_size, int64_t end, int64_t& k, float& middle) {
    for (; k < end; ++k) {
        const float steps = float(k) + ray.jitter;
        middle = ray.near + (steps + 0.5f) * step_size;
        if (!(middle < ray.far)) return false;
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
            return true;
        }
    }
    return false;
}

}  // namespace

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
// counts were allotted, write the samples.

#include "marching_rays.h"

namespace {

int64_t mark(const Ray& ray, const Box& box, float step_size, int64_t candidates, int64_t max_samples, uint64_t* bits) {
    int64_t count = 0;
    float middle;
    for (int64_t k = 0; count < max_samples && find_candidate(ray, box, step_size, candidates, k, middle); ++k) {
        bits[k / 64] |= uint64_t(1) << (k % 64);
        ++count;
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

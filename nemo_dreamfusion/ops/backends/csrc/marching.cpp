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

// Which samples of the next slab are worth a look, ray by ray: places [R + 1], and their number places[R]. depth [R]: optical
// depth of each ray so far; a ray with more than limit takes none.
EXPORT void slab_places(
    const int64_t* offsets, const float* depth, int64_t rays, int64_t first, int64_t slab, float limit, int64_t* places,
    int threads) {
    (void)threads;
    places[0] = 0;
    for (int64_t r = 0; r < rays; ++r) {
        const int64_t left = offsets[r + 1] - offsets[r] - first;
        const int64_t count = depth[r] <= limit && left > 0 ? (left < slab ? left : slab) : 0;
        places[r + 1] = places[r] + count;
    }
}

// The middles of those samples, positions [places[R], 3].
EXPORT void slab_positions(
    const float* origins, const float* directions, const float* starts, const float* ends, const int64_t* offsets,
    const int64_t* places, int64_t rays, int64_t first, float* positions, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rays; ++r) {
        for (int64_t to = places[r], from = offsets[r] + first; to < places[r + 1]; ++to, ++from) {
            const float middle = (starts[from] + ends[from]) / 2;
            for (int axis = 0; axis < 3; ++axis) {
                positions[3 * to + axis] = origins[3 * r + axis] + middle * directions[3 * r + axis];
            }
        }
    }
}

// Put the densities found there into density [N] and add their optical depths to depth [R].
EXPORT void slab_absorb(
    const float* found, const float* starts, const float* ends, const int64_t* offsets, const int64_t* places,
    int64_t rays, int64_t first, float* density, float* depth, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rays; ++r) {
        for (int64_t at = places[r], to = offsets[r] + first; at < places[r + 1]; ++at, ++to) {
            density[to] = found[at];
            depth[r] += found[at] * (ends[to] - starts[to]);
        }
    }
}

// The first counts[r] samples of each ray, which has places for as many from offsets_kept[r] on.
EXPORT void keep_first(
    const float* starts, const float* ends, const int64_t* offsets, const int64_t* offsets_kept, int64_t rays,
    int64_t* ray_indices, float* starts_kept, float* ends_kept, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rays; ++r) {
        for (int64_t to = offsets_kept[r], from = offsets[r]; to < offsets_kept[r + 1]; ++to, ++from) {
            ray_indices[to] = r;
            starts_kept[to] = starts[from];
            ends_kept[to] = ends[from];
        }
    }
}

// values [R, C] of rays -> [N, C] of their samples.
EXPORT void values_of_rays(
    const float* values, const int64_t* offsets, int64_t rays, int64_t channels, float* to, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rays; ++r) {
        for (int64_t i = offsets[r]; i < offsets[r + 1]; ++i) {
            for (int64_t c = 0; c < channels; ++c) to[i * channels + c] = values[r * channels + c];
        }
    }
}

// origins, directions [R, 3], distances [N] along the rays -> positions [N, 3].
EXPORT void positions_on_rays(
    const float* origins, const float* directions, const float* distances, const int64_t* offsets, int64_t rays,
    float* positions, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rays; ++r) {
        for (int64_t i = offsets[r]; i < offsets[r + 1]; ++i) {
            for (int axis = 0; axis < 3; ++axis) {
                positions[3 * i + axis] = origins[3 * r + axis] + distances[i] * directions[3 * r + axis];
            }
        }
    }
}

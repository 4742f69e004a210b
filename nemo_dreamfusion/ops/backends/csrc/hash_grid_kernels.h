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

// The loops over levels and points, compiled once for each instruction set; hash_grid_blocks.h holds what happens to a block.

#include "hash_grid_blocks.h"

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Memory of this thread that lives on between calls: fresh pages would cost as much as the arithmetic on them.
enum Slot { POINTS_SLOT, PLANES_SLOT, SLOTS };

static float* scratch(Slot slot, size_t floats) {
    struct Buffer {
        float* data = nullptr;
        size_t size = 0;
        ~Buffer() { std::free(data); }
    };
    static thread_local Buffer buffers[SLOTS];
    Buffer& buffer = buffers[slot];
    if (buffer.size < floats) {
        std::free(buffer.data);
        buffer.data = static_cast<float*>(std::malloc(sizeof(float) * floats));
        buffer.size = floats;
    }
    return buffer.data;
}

// The points axis by axis, clamped to [0, 1], padded to whole blocks: [3][padded].
struct Points {
    int64_t padded;
    float* data;
    const float* axis(int a, int64_t first) const { return data + a * padded + first; }
};

constexpr auto as_given = [](float x) { return x; };

// to_unit: from a coordinate to that in the unit cube.
template <typename ToUnit>
static Points make_points(const float* positions, ToUnit to_unit, int64_t n, int threads) {
    const int64_t padded = (n + BLOCK - 1) / BLOCK * BLOCK;
    float* data = scratch(POINTS_SLOT, 3 * size_t(padded));
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t first = 0; first < padded; first += BLOCK) {
        const int64_t end = smaller(first + BLOCK, n);
        for (int axis = 0; axis < 3; ++axis) {
            float* to = data + axis * padded;
            for (int64_t p = first; p < end; ++p) {
                float x = to_unit(positions[3 * p + axis]);
                x = x > 0.0f ? x : 0.0f;  // also takes NaN to 0: no row outside the table is touched
                to[p] = x < 1.0f ? x : 1.0f;
            }
            for (int64_t p = end; p < first + BLOCK; ++p) to[p] = 0.0f;
        }
    }
    return Points{padded, data};
}

template <bool DERIVATIVES>
static void locate_block(const Points& points, int64_t first, const Level& level, Work& w) {
    const float *x = points.axis(0, first), *y = points.axis(1, first), *z = points.axis(2, first);
    if (level.hashed) locate<true, DERIVATIVES>(x, y, z, level, w);
    else locate<false, DERIVATIVES>(x, y, z, level, w);
}

constexpr int64_t CHUNK = 131072;  // points for which a level's part of the table stays in the cache
constexpr int64_t GROUP = 8;  // points whose rows are turned into levels at once: with two features a line of each plane

// Encoded points are rows of all levels, [N, L, F]; the work goes level by level. Touching a few bytes of each row would
// drag every row through the cache again for each level, and push the table out of it (measured: 1.5 times slower). So a
// chunk of points is put into [L, CHUNK, F] before, or from it afterwards.
template <int F>
static void to_levels(const float* __restrict rows, int64_t count, int64_t levels, float* __restrict planes) {
    for (int64_t first = 0; first < count; first += GROUP) {
        for (int64_t l = 0; l < levels; ++l) {
            for (int64_t p = first; p < smaller(first + GROUP, count); ++p) {
                for (int f = 0; f < F; ++f) planes[(l * CHUNK + p) * F + f] = rows[(p * levels + l) * F + f];
            }
        }
    }
}

template <int F>
static void from_levels(const float* __restrict planes, int64_t count, int64_t levels, float* __restrict rows) {
    for (int64_t first = 0; first < count; first += GROUP) {
        for (int64_t l = 0; l < levels; ++l) {
            for (int64_t p = first; p < smaller(first + GROUP, count); ++p) {
                for (int f = 0; f < F; ++f) rows[(p * levels + l) * F + f] = planes[(l * CHUNK + p) * F + f];
            }
        }
    }
}

static float* make_planes(const Grid& grid, int64_t count) {
    return scratch(PLANES_SLOT, size_t(grid.levels * grid.features * CHUNK * count));
}

// Call visit(work, level, l, first, count, from, to) for every level and block of points, a block's levels in order: from
// [count, F] is the block's part of `in` [N, L F], to [count, F] becomes its part of `out` [N, L F], which may be null.
template <int F, class Visit>
static void for_levels_and_blocks(
    const Grid& grid, const float* in, float* out, int64_t n, int threads, Visit visit) {
    const int64_t share = ((n + threads - 1) / threads + BLOCK - 1) / BLOCK * BLOCK;
    const int64_t chunk = smaller(CHUNK, share), row = grid.levels * F;
    if (n == 0) return;
#pragma omp parallel num_threads(threads)
    {
        Work work;
        std::memset(&work, 0, sizeof(work));
        float* planes = make_planes(grid, out ? 2 : 1);
        float* results = planes + row * CHUNK;
#pragma omp for schedule(static)
        for (int64_t start = 0; start < n; start += chunk) {
            const int64_t end = smaller(start + chunk, n);
            to_levels<F>(in + start * row, end - start, grid.levels, planes);
            for (int64_t l = 0; l < grid.levels; ++l) {
                const Level level = level_of(grid, l);
                for (int64_t first = start; first < end; first += BLOCK) {
                    const int64_t at = (l * CHUNK + first - start) * F;
                    visit(work, level, l, first, int(smaller(BLOCK, end - first)), planes + at, results + at);
                }
            }
            if (out) from_levels<F>(results, end - start, grid.levels, out + start * row);
        }
    }
}

// Positions outside [0, 1] are clamped, so nothing flows to them.
static inline bool inside(float x) { return x >= 0.0f && x <= 1.0f; }

static void load_direction(const float* __restrict v, const float* __restrict positions, int count, float (*to)[BLOCK]) {
    for (int p = 0; p < count; ++p) {
        for (int axis = 0; axis < 3; ++axis) to[axis][p] = inside(positions[3 * p + axis]) ? v[3 * p + axis] : 0.0f;
    }
}

// to (+)= from: the first level sets, the others add.
static void add_to_positions(
    const float (*from)[BLOCK], const float* __restrict positions, bool set, int count, float* __restrict to) {
    for (int p = 0; p < count; ++p) {
        for (int axis = 0; axis < 3; ++axis) {
            const float value = inside(positions[3 * p + axis]) ? from[axis][p] : 0.0f;
            to[3 * p + axis] = set ? value : to[3 * p + axis] + value;
        }
    }
}

// Level by level, so that a level's table comes to one thread's cache and not to all of them; a level is shared out where
// there are too few levels to keep all threads busy.
template <int F>
static void forward(
    const Grid& grid, const float* positions, const float* table, float* out, int64_t n, int threads) {
    const Points points = make_points(positions, as_given, n, threads);
    const int64_t parts = (2 * threads + grid.levels - 1) / grid.levels;
    float* planes = make_planes(grid, 1);
#pragma omp parallel num_threads(threads)
    {
        Work w;
        std::memset(&w, 0, sizeof(w));
        for (int64_t start = 0; start < n; start += CHUNK) {
            const int64_t end = smaller(start + CHUNK, n), blocks = (end - start + BLOCK - 1) / BLOCK;
#pragma omp for schedule(dynamic, 1)
            for (int64_t i = 0; i < grid.levels * parts; ++i) {
                const int64_t l = grid.levels - 1 - i / parts, part = i % parts;  // the finest level takes longest: first
                const Level level = level_of(grid, l);
                for (int64_t b = blocks * part / parts; b < blocks * (part + 1) / parts; ++b) {
                    const int64_t at = l * CHUNK + b * BLOCK, first = start + b * BLOCK;
                    locate_block<false>(points, first, level, w);
                    gather<F, false>(w, table + level.offset * F, planes + at * F, int(smaller(BLOCK, end - first)));
                }
            }
#pragma omp for schedule(static)
            for (int64_t first = start; first < end; first += BLOCK) {
                float* rows = out + first * grid.levels * F;
                from_levels<F>(planes + (first - start) * F, smaller(BLOCK, end - first), grid.levels, rows);
            }
        }
    }
}

template <int F>
static void backward_positions(
    const Grid& grid, const float* grad, const float* positions, const float* table, float* grad_positions, int64_t n,
    int threads) {
    const Points points = make_points(positions, as_given, n, threads);
    for_levels_and_blocks<F>(
        grid, grad, nullptr, n, threads,
        [=](Work& w, const Level& level, int64_t l, int64_t first, int count, const float* from, float*) {
            locate_block<true>(points, first, level, w);
            project<F>(w, table + level.offset * F, from, count);
            gradient<false>(w);
            add_to_positions(w.sum, positions + 3 * first, l == 0, count, grad_positions + 3 * first);
        });
}

// One level of grad_table += sum over a chunk's points of weight * grad; ALONG: of the weights' derivatives along v.
template <int F, bool ALONG>
static void scatter_level(
    Work& w, const Level& level, const Points& points, const float* toward, const float* grad, const float* positions,
    int64_t start, int64_t end, float* to) {
    for (int64_t first = start; first < end; first += BLOCK) {
        const int count = int(smaller(BLOCK, end - first));
        locate_block<ALONG>(points, first, level, w);
        if (ALONG) {
            load_direction(toward + 3 * first, positions + 3 * first, count, w.v);
            differentiate(w);
        }
        if (level.hashed) scatter<F, ALONG, true>(w, grad + (first - start) * F, to, count);
        else scatter<F, ALONG, false>(w, grad + (first - start) * F, to, count);
    }
}

template <int F, bool ALONG>
static void scatter_levels(
    const Grid& grid, const float* toward, const float* grad, const float* positions, float* grad_table, int64_t n,
    int threads) {
    const Points points = make_points(positions, as_given, n, threads);
    float* planes = make_planes(grid, 1);
#pragma omp parallel num_threads(threads)
    {
        Work w;
        std::memset(&w, 0, sizeof(w));
        for (int64_t start = 0; start == 0 || start < n; start += CHUNK) {
            const int64_t end = smaller(start + CHUNK, n);
#pragma omp for schedule(static)
            for (int64_t first = start; first < end; first += BLOCK) {
                const int64_t row = first * grid.levels * F;
                to_levels<F>(grad + row, smaller(BLOCK, end - first), grid.levels, planes + (first - start) * F);
            }
#pragma omp for schedule(dynamic, 1)
            for (int64_t i = 0; i < grid.levels; ++i) {
                const int64_t l = grid.levels - 1 - i;  // the finest level takes longest: first
                float* to = grad_table + grid.offsets[l] * F;
                const size_t rows = size_t(grid.offsets[l + 1] - grid.offsets[l]);
                if (start == 0) std::memset(to, 0, sizeof(float) * F * rows);  // here: it also brings them to the cache
                scatter_level<F, ALONG>(
                    w, level_of(grid, l), points, toward, planes + l * CHUNK * F, positions, start, end, to);
            }
        }
    }
}

template <int F>
static void backward_table(
    const Grid& grid, const float* grad, const float* positions, float* grad_table, int64_t n, int threads) {
    scatter_levels<F, false>(grid, nullptr, grad, positions, grad_table, n, threads);
}

template <int F>
static void double_backward(
    const Grid& grid, const float* toward, const float* grad, const float* positions, const float* table,
    float* grad_grad, float* grad_positions, float* grad_table, int64_t n, int threads) {
    if (grad_table) scatter_levels<F, true>(grid, toward, grad, positions, grad_table, n, threads);
    if (!grad_grad && !grad_positions) return;
    const Points points = make_points(positions, as_given, n, threads);
    for_levels_and_blocks<F>(
        grid, grad, grad_grad, n, threads,
        [=](Work& w, const Level& level, int64_t l, int64_t first, int count, const float* from, float* to) {
            const float* rows = table + level.offset * F;
            locate_block<true>(points, first, level, w);
            load_direction(toward + 3 * first, positions + 3 * first, count, w.v);
            if (grad_positions) {
                project<F>(w, rows, from, count);
                gradient<true>(w);
                add_to_positions(w.sum, positions + 3 * first, l == 0, count, grad_positions + 3 * first);
            }
            if (grad_grad) {
                differentiate(w);
                gather<F, true>(w, rows, to, count);
            }
        });
}

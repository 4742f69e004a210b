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

// A hash grid and the networks that read it, block by block of points, so that features and activations stay in the nearest
// caches; compiled once for each instruction set. The points of a block lie side by side ([width][BLOCK]): every lane of a
// register is a point, whatever the widths of the layers, and a network of one output costs what it counts. The reference is
// in ops/grid_networks.py.

#include "hash_grid_kernels.h"

typedef float Lane __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

constexpr int64_t RUN = 16 * BLOCK;  // points that are encoded level by level before the networks read them
constexpr int64_t CHUNKS = 32;  // sums over points are sums of so many sums, whatever the number of threads
constexpr int TILE_ROWS = LANES == 16 ? 8 : 4;  // with two registers of points each

static inline Lane& lane(float* at) { return *reinterpret_cast<Lane*>(at); }
static inline const Lane& lane(const float* at) { return *reinterpret_cast<const Lane*>(at); }

struct Dense {  // to [rows][BLOCK] (+)= A [rows, depth] from [depth][BLOCK]
    int64_t rows, depth;
    const float* a;
    int64_t a_row, a_depth;  // strides of A
    const float* from;
    float* to;
    const float* start;  // a number added to each row, or null
    bool add;  // to what `to` holds
    bool relu;
};

template <int R>
static inline void dense_rows(const Dense& d, int64_t row) {
    for (int p = 0; p < BLOCK; p += 2 * LANES) {
        Lane sum[R][2];
        for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = Lane{} + (d.start ? d.start[row + r] : 0.0f);
        const float *a = d.a + row * d.a_row, *from = d.from + p;
        for (int64_t k = 0; k < d.depth; ++k, a += d.a_depth, from += BLOCK) {
            const Lane first = lane(from), second = lane(from + LANES);
            for (int r = 0; r < R; ++r) {
                sum[r][0] += a[r * d.a_row] * first;
                sum[r][1] += a[r * d.a_row] * second;
            }
        }
        for (int r = 0; r < R; ++r) {
            for (int v = 0; v < 2; ++v) {
                Lane& to = lane(d.to + (row + r) * BLOCK + p + v * LANES);
                if (d.relu) sum[r][v] = sum[r][v] < Lane{} ? Lane{} : sum[r][v];  // NaN stays, as with torch
                to = d.add ? to + sum[r][v] : sum[r][v];
            }
        }
    }
}

static void dense(const Dense& d) {
    int64_t row = 0;
    for (; row + TILE_ROWS <= d.rows; row += TILE_ROWS) dense_rows<TILE_ROWS>(d, row);
    for (; row + 2 <= d.rows; row += 2) dense_rows<2>(d, row);
    if (row < d.rows) dense_rows<1>(d, row);
}

// sums [R, C] of registers += sum over a block's points of left [R][BLOCK] right [C][BLOCK]
template <int R, int C>
static inline void outer(const float* left, const float* right, float* sums, int64_t columns) {
    Lane sum[R][C];
    for (int r = 0; r < R; ++r) {
        for (int c = 0; c < C; ++c) sum[r][c] = lane(sums + (r * columns + c) * LANES);
    }
    for (int p = 0; p < BLOCK; p += LANES) {
        Lane of[C];
        for (int c = 0; c < C; ++c) of[c] = lane(right + c * BLOCK + p);
        for (int r = 0; r < R; ++r) {
            const Lane with = lane(left + r * BLOCK + p);
            for (int c = 0; c < C; ++c) sum[r][c] += with * of[c];
        }
    }
    for (int r = 0; r < R; ++r) {
        for (int c = 0; c < C; ++c) lane(sums + (r * columns + c) * LANES) = sum[r][c];
    }
}

template <int R>
static void outer_rows(const float* left, const float* right, float* sums, int64_t columns) {
    int64_t c = 0;
    for (; c + 4 <= columns; c += 4) outer<R, 4>(left, right + c * BLOCK, sums + c * LANES, columns);
    for (; c < columns; ++c) outer<R, 1>(left, right + c * BLOCK, sums + c * LANES, columns);
}

static void add_outer(const float* left, int64_t rows, const float* right, int64_t columns, float* sums) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) outer_rows<4>(left + r * BLOCK, right, sums + r * columns * LANES, columns);
    for (; r < rows; ++r) outer_rows<1>(left + r * BLOCK, right, sums + r * columns * LANES, columns);
}

// Where the parts of all networks begin in one buffer of activations and in one of parameters.
struct Places {
    int64_t hidden[8][MAX_LAYERS], weights[8][MAX_LAYERS], biases[8][MAX_LAYERS];
    int64_t activations, parameters, widest;
};

static Places places_of(const GridNetworks& what) {
    Places at{};
    for (int64_t i = 0; i < what.count; ++i) {
        const Mlp& mlp = *what.networks[i];
        for (int64_t l = 0; l < mlp.layers; ++l) {
            const int64_t in = mlp.widths[l], out = mlp.widths[l + 1];
            at.hidden[i][l] = at.activations, at.activations += out * BLOCK;
            at.weights[i][l] = at.parameters, at.parameters += in * out;
            at.biases[i][l] = at.parameters, at.parameters += out;
            if (in > at.widest) at.widest = in;
            if (out > at.widest) at.widest = out;
        }
    }
    return at;
}

static void forward_networks(const GridNetworks& what, const Places& at, const float* input, float* hidden) {
    for (int64_t i = 0; i < what.count; ++i) {
        const Mlp& mlp = *what.networks[i];
        const float* from = input;
        for (int64_t l = 0; l < mlp.layers; ++l) {
            float* to = hidden + at.hidden[i][l];
            const int64_t in = mlp.widths[l];
            dense({mlp.widths[l + 1], in, mlp.weights[l], in, 1, from, to, mlp.biases[l], false, l + 1 < mlp.layers});
            from = to;
        }
    }
}

// A block's features of a level, [BLOCK, F], from or to one row of points for each feature.
template <int F>
static inline void split_features(const float* __restrict level, float* __restrict to) {
    for (int p = 0; p < BLOCK; ++p) {
        for (int f = 0; f < F; ++f) to[f * BLOCK + p] = level[p * F + f];
    }
}

template <int F>
static inline void join_features(const float* __restrict from, float* __restrict level) {
    for (int p = 0; p < BLOCK; ++p) {
        for (int f = 0; f < F; ++f) level[p * F + f] = from[f * BLOCK + p];
    }
}

static Points unit_points(const float* positions, float bound, int64_t n, int threads) {
    const float side = 2 * bound;
    return make_points(positions, [=](float x) { return (x + bound) / side; }, n, threads);
}

template <int F>
static void networks_forward(
    const GridNetworks& what, const float* positions, const float* table, float* const* outputs, float* encoded,
    int64_t n, int threads) {
    const Grid& grid = *what.grid;
    const Points points = unit_points(positions, what.bound, n, threads);
    const Places at = places_of(what);
    const int64_t width = grid.levels * F, run = smaller(RUN, ((n + threads - 1) / threads + BLOCK - 1) / BLOCK * BLOCK);
    if (n == 0) return;
#pragma omp parallel num_threads(threads)
    {
        Work w;
        std::memset(&w, 0, sizeof(w));
        float* own = scratch(PLANES_SLOT, size_t(width * (RUN + BLOCK) + at.activations));
        float *input = own + width * RUN, *hidden = input + width * BLOCK;
        std::memset(input, 0, sizeof(float) * size_t(width * BLOCK));
#pragma omp for schedule(dynamic, 1)
        for (int64_t start = 0; start < points.padded; start += run) {
            const int64_t end = smaller(start + run, points.padded);
            float* planes = encoded ? encoded + start * F : own;  // of level l: + l * stride
            const int64_t stride = encoded ? points.padded * F : RUN * F;
            for (int64_t l = 0; l < grid.levels; ++l) {
                if (l >= what.open_levels) {
                    std::memset(planes + l * stride, 0, sizeof(float) * size_t((end - start) * F));
                    continue;
                }
                const Level level = level_of(grid, l);
                for (int64_t first = start; first < end; first += BLOCK) {
                    locate_block<false>(points, first, level, w);
                    gather<F, false>(w, table + level.offset * F, planes + l * stride + (first - start) * F, BLOCK);
                }
            }
            for (int64_t first = start; first < end; first += BLOCK) {
                for (int64_t l = 0; l < grid.levels; ++l) {
                    split_features<F>(planes + l * stride + (first - start) * F, input + l * F * BLOCK);
                }
                forward_networks(what, at, input, hidden);
                const int64_t count = smaller(BLOCK, n - first);
                for (int64_t i = 0; i < what.count; ++i) {
                    const Mlp& mlp = *what.networks[i];
                    const int64_t out = mlp.widths[mlp.layers];
                    const float* from = hidden + at.hidden[i][mlp.layers - 1];
                    float* to = outputs[i] + first * out;
                    for (int64_t o = 0; o < out; ++o) {
                        for (int64_t p = 0; p < count; ++p) to[p * out + o] = from[o * BLOCK + p];
                    }
                }
            }
        }
    }
}

// From the gradients of a block's outputs to that of its input [width][BLOCK]; adds those of the parameters to `sums`.
static void backward_networks(
    const GridNetworks& what, const Places& at, const float* const* grads, int64_t first, int64_t count,
    const float* input, const float* hidden, float* flow, float* next, float* grad_input, float* sums) {
    for (int64_t i = 0; i < what.count; ++i) {
        const Mlp& mlp = *what.networks[i];
        const int64_t out = mlp.widths[mlp.layers];
        const float* grad = grads[i] + first * out;
        for (int64_t o = 0; o < out; ++o) {
            for (int64_t p = 0; p < count; ++p) flow[o * BLOCK + p] = grad[p * out + o];
            for (int64_t p = count; p < BLOCK; ++p) flow[o * BLOCK + p] = 0.0f;
        }
        for (int64_t l = mlp.layers - 1; l >= 0; --l) {
            const int64_t in = mlp.widths[l], wide = mlp.widths[l + 1];
            const float* from = l ? hidden + at.hidden[i][l - 1] : input;
            add_outer(flow, wide, from, in, sums + at.weights[i][l] * LANES);
            for (int64_t o = 0; o < wide; ++o) {
                Lane& sum = lane(sums + (at.biases[i][l] + o) * LANES);
                for (int p = 0; p < BLOCK; p += LANES) sum += lane(flow + o * BLOCK + p);
            }
            dense({in, wide, mlp.weights[l], 1, in, flow, l ? next : grad_input, nullptr, l == 0 && i > 0, false});
            if (l == 0) continue;
            for (int64_t k = 0; k < in * BLOCK; ++k) next[k] = from[k] <= 0.0f ? 0.0f : next[k];
            float* swapped = flow;
            flow = next, next = swapped;
        }
    }
}

// The gradients of the features, into `planes` as `encoded` lies, and of all parameters.
template <int F>
static void backward_blocks(
    const GridNetworks& what, const Places& at, const float* encoded, const float* const* grads,
    float* const* grad_weights, float* const* grad_biases, float* planes, int64_t n, int threads) {
    const Grid& grid = *what.grid;
    const int64_t width = grid.levels * F, blocks = (n + BLOCK - 1) / BLOCK, per_chunk = (blocks + CHUNKS - 1) / CHUNKS;
    const int64_t chunks = per_chunk ? (blocks + per_chunk - 1) / per_chunk : 0, stride = blocks * BLOCK * F;
    float* totals = static_cast<float*>(std::calloc(size_t((chunks + 1) * at.parameters), sizeof(float)));
#pragma omp parallel num_threads(threads)
    {
        const int64_t floats = 2 * width * BLOCK + at.activations + 2 * at.widest * BLOCK + at.parameters * LANES;
        float *input = scratch(PLANES_SLOT, size_t(floats)), *grad_input = input + width * BLOCK;
        float *hidden = grad_input + width * BLOCK, *flow = hidden + at.activations;
        float *next = flow + at.widest * BLOCK, *sums = next + at.widest * BLOCK;
#pragma omp for schedule(dynamic, 1)
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            std::memset(sums, 0, sizeof(float) * size_t(at.parameters * LANES));
            for (int64_t b = chunk * per_chunk; b < smaller((chunk + 1) * per_chunk, blocks); ++b) {
                const int64_t first = b * BLOCK;
                for (int64_t l = 0; l < grid.levels; ++l) {
                    split_features<F>(encoded + l * stride + first * F, input + l * F * BLOCK);
                }
                forward_networks(what, at, input, hidden);
                backward_networks(
                    what, at, grads, first, smaller(BLOCK, n - first), input, hidden, flow, next, grad_input, sums);
                for (int64_t l = 0; l < what.open_levels; ++l) {
                    join_features<F>(grad_input + l * F * BLOCK, planes + l * stride + first * F);
                }
            }
            float* total = totals + (chunk + 1) * at.parameters;
            for (int64_t k = 0; k < at.parameters; ++k) {
                for (int v = 0; v < LANES; ++v) total[k] += sums[k * LANES + v];
            }
        }
    }
    for (int64_t chunk = 1; chunk <= chunks; ++chunk) {
        for (int64_t k = 0; k < at.parameters; ++k) totals[k] += totals[chunk * at.parameters + k];
    }
    int64_t layer = 0;
    for (int64_t i = 0; i < what.count; ++i) {
        const Mlp& mlp = *what.networks[i];
        for (int64_t l = 0; l < mlp.layers; ++l, ++layer) {
            const int64_t in = mlp.widths[l], out = mlp.widths[l + 1];
            std::memcpy(grad_weights[layer], totals + at.weights[i][l], sizeof(float) * size_t(in * out));
            if (!mlp.biases[l]) continue;
            std::memcpy(grad_biases[layer], totals + at.biases[i][l], sizeof(float) * size_t(out));
        }
    }
    std::free(totals);
}

template <int F>
static void networks_backward(
    const GridNetworks& what, const float* positions, const float* encoded, const float* const* grads,
    float* grad_table, float* const* grad_weights, float* const* grad_biases, float* planes, int64_t n, int threads) {
    const Grid& grid = *what.grid;
    backward_blocks<F>(what, places_of(what), encoded, grads, grad_weights, grad_biases, planes, n, threads);
    const Points points = unit_points(positions, what.bound, n, threads);
#pragma omp parallel num_threads(threads)
    {
        Work w;
        std::memset(&w, 0, sizeof(w));
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < grid.levels; ++i) {
            const int64_t l = grid.levels - 1 - i;  // the finest level takes longest: first
            float* to = grad_table + grid.offsets[l] * F;
            std::memset(to, 0, sizeof(float) * F * size_t(grid.offsets[l + 1] - grid.offsets[l]));
            if (l >= what.open_levels) continue;
            const float* from = planes + l * points.padded * F;
            scatter_level<F, false>(w, level_of(grid, l), points, nullptr, from, positions, 0, n, to);
        }
    }
}

static void any_networks_forward(
    const GridNetworks& what, const float* positions, const float* table, float* const* outputs, float* encoded,
    int64_t n, int threads) {
    FOR_FEATURES(what.grid->features, networks_forward, what, positions, table, outputs, encoded, n, threads)
}

static void any_networks_backward(
    const GridNetworks& what, const float* positions, const float* encoded, const float* const* grads,
    float* grad_table, float* const* grad_weights, float* const* grad_biases, float* planes, int64_t n, int threads) {
    FOR_FEATURES(
        what.grid->features, networks_backward, what, positions, encoded, grads, grad_table, grad_weights, grad_biases,
        planes, n, threads)
}

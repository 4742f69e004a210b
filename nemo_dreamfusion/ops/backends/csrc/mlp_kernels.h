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

// A small fully connected network with ReLU between its layers, forward and backward, block by block of points so that
// every activation stays in the nearest cache; compiled once for each instruction set. The reference is in ops/mlp.py.
// Forward, gradient to the input and gradient to the weights are all one matrix product, with different strides.

typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

constexpr int64_t MLP_BLOCK = 96;  // points; a multiple of the rows of a tile
constexpr int64_t PAD = LANES < 8 ? 8 : LANES;  // row lengths are rounded up to this with zeros

static inline int64_t padded(int64_t width) { return (width + PAD - 1) / PAD * PAD; }

struct Product {  // C [rows, columns] (+)= A [rows, depth] B [depth, columns]
    int64_t rows, columns, depth;
    const float* a;
    int64_t a_row, a_depth;  // strides of A
    const float* b;
    int64_t b_depth;
    float* c;
    int64_t c_row;
    const float* start;  // one row added to each row of C, or null
    bool add;  // to what C holds
    bool relu;
};

template <int R, int V>
static inline void tile(const Product& m, int64_t row, int64_t column) {
    Vec sum[R][V];
    for (int r = 0; r < R; ++r) {
        for (int v = 0; v < V; ++v) {
            const int64_t at = column + v * LANES;
            sum[r][v] = m.start ? *reinterpret_cast<const Vec*>(m.start + at) : Vec{};
        }
    }
    const float *a = m.a + row * m.a_row, *b = m.b + column;
    for (int64_t k = 0; k < m.depth; ++k, a += m.a_depth, b += m.b_depth) {
        Vec from[V];
        for (int v = 0; v < V; ++v) from[v] = *reinterpret_cast<const Vec*>(b + v * LANES);
        for (int r = 0; r < R; ++r) {
            for (int v = 0; v < V; ++v) sum[r][v] += a[r * m.a_row] * from[v];
        }
    }
    for (int r = 0; r < R; ++r) {
        for (int v = 0; v < V; ++v) {
            if (m.relu) sum[r][v] = sum[r][v] < Vec{} ? Vec{} : sum[r][v];  // NaN stays, as with torch
            Vec& c = *reinterpret_cast<Vec*>(m.c + (row + r) * m.c_row + column + v * LANES);
            c = m.add ? c + sum[r][v] : sum[r][v];  // added last: a long sum of short sums keeps more digits
        }
    }
}

template <int V>
static void tile_rows(const Product& m, int64_t column) {
    constexpr int R = V == 2 ? 6 : 12;  // twelve sums hide the latency of the multiply-adds and fit the registers
    int64_t row = 0;
    for (; row + R <= m.rows; row += R) tile<R, V>(m, row, column);
    for (; row + 2 <= m.rows; row += 2) tile<2, V>(m, row, column);
    if (row < m.rows) tile<1, V>(m, row, column);
}

static void multiply(const Product& m) {
    int64_t column = 0;
    for (; column + 2 * LANES <= m.columns; column += 2 * LANES) tile_rows<2>(m, column);
    for (; column < m.columns; column += LANES) tile_rows<1>(m, column);
}

// to [rows, width] = from, with row lengths of their own.
static inline void copy_rows(float* to, int64_t to_row, const float* from, int64_t from_row, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < width; ++i) to[r * to_row + i] = from[r * from_row + i];
    }
}

// Weights padded and in both orders, and where each layer's part of a buffer begins.
struct Network {
    int64_t layers;
    const int64_t* widths;
    float *forward_weights, *backward_weights, *biases;  // [in, out padded], [out, in padded], [out padded] of each layer
    int64_t weight_at[MAX_LAYERS + 1], backward_at[MAX_LAYERS + 1], bias_at[MAX_LAYERS + 1], hidden_at[MAX_LAYERS + 1];
};

static Network make_network(const Mlp& mlp) {
    Network n{};
    n.layers = mlp.layers, n.widths = mlp.widths;
    for (int64_t l = 0; l < mlp.layers; ++l) {
        const int64_t in = mlp.widths[l], out = mlp.widths[l + 1];
        n.weight_at[l + 1] = n.weight_at[l] + in * padded(out);
        n.backward_at[l + 1] = n.backward_at[l] + out * padded(in);
        n.bias_at[l + 1] = n.bias_at[l] + padded(out);
        n.hidden_at[l + 1] = n.hidden_at[l] + MLP_BLOCK * padded(out);
    }
    const int64_t total = n.weight_at[n.layers] + n.backward_at[n.layers] + n.bias_at[n.layers];
    n.forward_weights = static_cast<float*>(std::calloc(size_t(total), sizeof(float)));
    n.backward_weights = n.forward_weights + n.weight_at[n.layers];
    n.biases = n.backward_weights + n.backward_at[n.layers];
    for (int64_t l = 0; l < mlp.layers; ++l) {
        const int64_t in = mlp.widths[l], out = mlp.widths[l + 1];
        for (int64_t o = 0; o < out; ++o) {
            for (int64_t i = 0; i < in; ++i) {
                const float weight = mlp.weights[l][o * in + i];
                n.forward_weights[n.weight_at[l] + i * padded(out) + o] = weight;
                n.backward_weights[n.backward_at[l] + o * padded(in) + i] = weight;
            }
            if (mlp.biases[l]) n.biases[n.bias_at[l] + o] = mlp.biases[l][o];
        }
    }
    return n;
}

// hidden: the outputs of every layer for up to MLP_BLOCK points.
static void forward_block(const Network& n, const float* input, int64_t count, float* hidden) {
    const float* from = input;
    int64_t stride = n.widths[0];
    for (int64_t l = 0; l < n.layers; ++l) {
        const int64_t out = padded(n.widths[l + 1]);
        float* to = hidden + n.hidden_at[l];
        multiply({count, out, n.widths[l], from, stride, 1, n.forward_weights + n.weight_at[l], out, to, out,
                  n.biases + n.bias_at[l], false, l + 1 < n.layers});
        from = to, stride = out;
    }
}

static void mlp_forward(const Mlp& mlp, const float* inputs, float* outputs, int64_t points, int threads) {
    const Network n = make_network(mlp);
    const int64_t in = mlp.widths[0], out = mlp.widths[mlp.layers];
#pragma omp parallel num_threads(threads)
    {
        float* hidden = static_cast<float*>(std::malloc(sizeof(float) * size_t(n.hidden_at[n.layers])));
#pragma omp for schedule(static)
        for (int64_t first = 0; first < points; first += MLP_BLOCK) {
            const int64_t count = points - first < MLP_BLOCK ? points - first : MLP_BLOCK;
            forward_block(n, inputs + first * in, count, hidden);
            const float* last = hidden + n.hidden_at[n.layers - 1];
            copy_rows(outputs + first * out, out, last, padded(out), count, out);
        }
        std::free(hidden);
    }
    std::free(n.forward_weights);
}

// Adds the gradients to the weights ([in, out padded]) and biases of each layer to `sums`, laid out as in Network.
static void backward_block(
    const Network& n, const float* input, const float* grad, float* grad_input, int64_t count, float* hidden,
    float* flow, float* next, float* sums) {
    forward_block(n, input, count, hidden);
    const int64_t out = n.widths[n.layers];
    std::memset(flow, 0, sizeof(float) * size_t(MLP_BLOCK * padded(out)));
    copy_rows(flow, padded(out), grad, out, count, out);
    for (int64_t l = n.layers - 1; l >= 0; --l) {
        const int64_t in = n.widths[l], wide = padded(n.widths[l + 1]), narrow = padded(in);
        const float* from = l ? hidden + n.hidden_at[l - 1] : input;
        const int64_t stride = l ? narrow : in;
        multiply({in, wide, count, from, 1, stride, flow, wide, sums + n.weight_at[l], wide, nullptr, true, false});
        float* bias = sums + n.weight_at[n.layers] + n.bias_at[l];
        for (int64_t o = 0; o < wide; o += LANES) {
            Vec sum = {};
            for (int64_t p = 0; p < count; ++p) sum += *reinterpret_cast<const Vec*>(flow + p * wide + o);
            *reinterpret_cast<Vec*>(bias + o) += sum;
        }
        if (l == 0 && !grad_input) return;
        multiply({count, narrow, n.widths[l + 1], flow, wide, 1, n.backward_weights + n.backward_at[l], narrow, next,
                  narrow, nullptr, false, false});
        if (l) {
            for (int64_t i = 0; i < count * narrow; ++i) next[i] = from[i] <= 0.0f ? 0.0f : next[i];
        } else {
            copy_rows(grad_input, in, next, narrow, count, in);
        }
        float* swapped = flow;
        flow = next, next = swapped;
    }
}

// Sums go over a fixed number of chunks of points, and then over the chunks in order: the same for any number of threads.
static void mlp_backward(
    const Mlp& mlp, const float* grad, const float* inputs, float* grad_inputs, float* const* grad_weights,
    float* const* grad_biases, int64_t points, int threads) {
    const Network n = make_network(mlp);
    const int64_t in = mlp.widths[0], out = mlp.widths[mlp.layers], size = n.weight_at[n.layers] + n.bias_at[n.layers];
    const int64_t blocks = (points + MLP_BLOCK - 1) / MLP_BLOCK, per_chunk = (blocks + 31) / 32;
    const int64_t chunks = per_chunk ? (blocks + per_chunk - 1) / per_chunk : 0;
    int64_t widest = 0;
    for (int64_t l = 0; l <= n.layers; ++l) widest = padded(n.widths[l]) > widest ? padded(n.widths[l]) : widest;
    float* sums = static_cast<float*>(std::calloc(size_t((chunks + 1) * size), sizeof(float)));
#pragma omp parallel num_threads(threads)
    {
        const int64_t scratch = n.hidden_at[n.layers] + 2 * MLP_BLOCK * widest;
        float* hidden = static_cast<float*>(std::malloc(sizeof(float) * size_t(scratch)));
        float *flow = hidden + n.hidden_at[n.layers], *next = flow + MLP_BLOCK * widest;
#pragma omp for schedule(dynamic, 1)
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            const int64_t end = (chunk + 1) * per_chunk * MLP_BLOCK;
            for (int64_t first = chunk * per_chunk * MLP_BLOCK; first < end && first < points; first += MLP_BLOCK) {
                const int64_t count = points - first < MLP_BLOCK ? points - first : MLP_BLOCK;
                backward_block(
                    n, inputs + first * in, grad + first * out, grad_inputs ? grad_inputs + first * in : nullptr, count,
                    hidden, flow, next, sums + (chunk + 1) * size);
            }
        }
        std::free(hidden);
    }
    for (int64_t chunk = 1; chunk <= chunks; ++chunk) {
        for (int64_t i = 0; i < size; ++i) sums[i] += sums[chunk * size + i];
    }
    for (int64_t l = 0; l < n.layers; ++l) {
        const int64_t from = n.widths[l], to = n.widths[l + 1];
        for (int64_t o = 0; o < to; ++o) {
            for (int64_t i = 0; i < from; ++i) grad_weights[l][o * from + i] = sums[n.weight_at[l] + i * padded(to) + o];
            if (grad_biases[l]) grad_biases[l][o] = sums[n.weight_at[n.layers] + n.bias_at[l] + o];
        }
    }
    std::free(sums);
    std::free(n.forward_weights);
}

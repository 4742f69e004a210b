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

// The plain C interface that cpu/library.py calls: pointers to contiguous float32 / int64 / bool data, sizes, and the
// number of threads. Every function gives the same bits for any number of threads.
#pragma once

#include <cstdint>

#if defined(__GNUC__)
#define EXPORT extern "C" __attribute__((visibility("default")))
#else
#define EXPORT extern "C"
#endif

// Raised with every change of an exported function; cpu/library.py refuses a library of another version.
constexpr int INTERFACE_VERSION = 3;

// The fields of GridLayout.
struct Grid {
    int64_t levels;
    int64_t features;
    int64_t smoothstep;  // else linear
    const int64_t* resolutions;  // [L]
    const int64_t* offsets;  // [L + 1]
    const int64_t* hashed;  // [L]
};

// One set of functions per instruction set (hash_grid_body.h), and the choice among them (dispatch.cpp).
struct HashGridKernels {
    // table [T, F], positions [N, 3] -> out [N, L * F]
    void (*forward)(const Grid&, const float* positions, const float* table, float* out, int64_t n, int threads);
    // grad [N, L * F] -> grad_table [T, F], written from zero
    void (*backward_table)(
        const Grid&, const float* grad, const float* positions, float* grad_table, int64_t n, int threads);
    // grad [N, L * F] -> grad_positions [N, 3]
    void (*backward_positions)(
        const Grid&, const float* grad, const float* positions, const float* table, float* grad_positions, int64_t n,
        int threads);
    // The gradients of <toward, grad_positions> with toward [N, 3]; each result may be null.
    void (*double_backward)(
        const Grid&, const float* toward, const float* grad, const float* positions, const float* table,
        float* grad_grad, float* grad_positions, float* grad_table, int64_t n, int threads);
};

constexpr int MAX_LAYERS = 16;

// y = W_L relu(... relu(W_1 x + b_1) ...) + b_L
struct Mlp {
    int64_t layers;
    const int64_t* widths;  // [layers + 1]
    const float* const* weights;  // [layers] of [out, in], as torch.nn.Linear keeps them
    const float* const* biases;  // [layers] of [out] or null
};

struct MlpKernels {
    // inputs [N, widths[0]] -> outputs [N, widths[layers]]
    void (*forward)(const Mlp&, const float* inputs, float* outputs, int64_t n, int threads);
    // grad [N, widths[layers]] -> gradients like the inputs (or null), the weights and the biases
    void (*backward)(
        const Mlp&, const float* grad, const float* inputs, float* grad_inputs, float* const* grad_weights,
        float* const* grad_biases, int64_t n, int threads);
};

struct AdanCoefficients {
    float beta1, beta2, beta3, step_size, step_size_diff, inverse_bias, eps, before, after, gradient_scale;
};

using AdanKernel = void (*)(
    float* parameter, const float* gradient, float* exp_avg, float* exp_avg_sq, float* exp_avg_diff,
    float* neg_pre_grad, int64_t n, const AdanCoefficients&, int threads);

struct Kernels {
    const char* name;
    HashGridKernels hash_grid;
    MlpKernels mlp;
    AdanKernel adan;
};

extern const Kernels baseline_kernels;
#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_X86_KERNELS 1
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
#endif

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

// The functions of hash_grid_kernels.h for a number of features that is known at run time.

#include "hash_grid_kernels.h"

// From the number of features to the function compiled for it: 1, 2, 4 or 8 (COMPILED_FEATURES of ops/hash_grid.py).
#define FOR_FEATURES(function, ...)                     \
    switch (grid.features) {                            \
        case 1: return function<1>(grid, __VA_ARGS__);  \
        case 2: return function<2>(grid, __VA_ARGS__);  \
        case 4: return function<4>(grid, __VA_ARGS__);  \
        case 8: return function<8>(grid, __VA_ARGS__);  \
        default: return;                                \
    }

static void any_forward(
    const Grid& grid, const float* positions, const float* table, float* out, int64_t n, int threads) {
    FOR_FEATURES(forward, positions, table, out, n, threads)
}

static void any_backward_table(
    const Grid& grid, const float* grad, const float* positions, float* grad_table, int64_t n, int threads) {
    FOR_FEATURES(backward_table, grad, positions, grad_table, n, threads)
}

static void any_backward_positions(
    const Grid& grid, const float* grad, const float* positions, const float* table, float* grad_positions, int64_t n,
    int threads) {
    FOR_FEATURES(backward_positions, grad, positions, table, grad_positions, n, threads)
}

static void any_double_backward(
    const Grid& grid, const float* toward, const float* grad, const float* positions, const float* table,
    float* grad_grad, float* grad_positions, float* grad_table, int64_t n, int threads) {
    FOR_FEATURES(
        double_backward, toward, grad, positions, table, grad_grad, grad_positions, grad_table, n, threads)
}

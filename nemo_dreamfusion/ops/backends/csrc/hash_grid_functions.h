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

static void any_forward(
    const Grid& grid, const float* positions, const float* table, float* out, int64_t n, int threads) {
    FOR_FEATURES(grid.features, forward, grid, positions, table, out, n, threads)
}

static void any_backward_table(
    const Grid& grid, const float* grad, const float* positions, float* grad_table, int64_t n, int threads) {
    FOR_FEATURES(grid.features, backward_table, grid, grad, positions, grad_table, n, threads)
}

static void any_backward_positions(
    const Grid& grid, const float* grad, const float* positions, const float* table, float* grad_positions, int64_t n,
    int threads) {
    FOR_FEATURES(grid.features, backward_positions, grid, grad, positions, table, grad_positions, n, threads)
}

static void any_double_backward(
    const Grid& grid, const float* toward, const float* grad, const float* positions, const float* table,
    float* grad_grad, float* grad_positions, float* grad_table, int64_t n, int threads) {
    FOR_FEATURES(
        grid.features, double_backward, grid, toward, grad, positions, table, grad_grad, grad_positions, grad_table, n,
        threads)
}

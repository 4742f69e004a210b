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

// Hash grid: the exported functions. Their kernels, compiled for each instruction set, are in hash_grid_kernels.h (the loops
// over levels and points) and hash_grid_blocks.h (what happens to a block of points).

#include "hash_grid.h"

#define KERNELS "hash_grid_functions.h"
#include "for_each_instruction_set.h"

// table [T, F], positions [N, 3] -> out [N, L * F]
EXPORT void hash_grid_forward(
    const Grid* grid, const float* positions, const float* table, float* out, int64_t n, int threads) {
    CALL_CHOSEN(any_forward, *grid, positions, table, out, n, threads)
}

// grad [N, L * F] -> grad_table [T, F], written from zero
EXPORT void hash_grid_backward_table(
    const Grid* grid, const float* grad, const float* positions, float* grad_table, int64_t n, int threads) {
    CALL_CHOSEN(any_backward_table, *grid, grad, positions, grad_table, n, threads)
}

// grad [N, L * F] -> grad_positions [N, 3]
EXPORT void hash_grid_backward_positions(
    const Grid* grid, const float* grad, const float* positions, const float* table, float* grad_positions, int64_t n,
    int threads) {
    CALL_CHOSEN(any_backward_positions, *grid, grad, positions, table, grad_positions, n, threads)
}

// The gradients of <toward, grad_positions> with toward [N, 3]; each result may be null.
EXPORT void hash_grid_double_backward(
    const Grid* grid, const float* toward, const float* grad, const float* positions, const float* table,
    float* grad_grad, float* grad_positions, float* grad_table, int64_t n, int threads) {
    CALL_CHOSEN(
        any_double_backward, *grid, toward, grad, positions, table, grad_grad, grad_positions, grad_table, n, threads)
}

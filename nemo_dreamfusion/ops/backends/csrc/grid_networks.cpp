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

// Points through a hash grid and small networks in one pass: the exported functions. Their kernels, compiled for each
// instruction set, are in grid_networks_kernels.h.

#include "hash_grid.h"
#include "mlp.h"

// Networks over one hash grid, and the box that its unit cube stands for.
struct GridNetworks {
    const Grid* grid;
    int64_t open_levels;  // the features of further levels are zero
    float bound;  // positions lie in [-bound, bound]^3; those outside are moved to the nearest face
    int64_t count;  // of networks
    const Mlp* const* networks;
};

#define KERNELS "grid_networks_kernels.h"
#include "for_each_instruction_set.h"

// positions [N, 3], table [T, F] -> outputs of each network [N, widths[layers]]; encoded [L, whole blocks of N, F] or null.
EXPORT void grid_networks_forward(
    const GridNetworks* what, const float* positions, const float* table, float* const* outputs, float* encoded,
    int64_t n, int threads) {
    CALL_CHOSEN(any_networks_forward, *what, positions, table, outputs, encoded, n, threads)
}

// grads: of each network's outputs. grad_table [T, F] is written from zero; grad_weights and grad_biases of all layers of all
// networks, one after another. scratch: as large as `encoded`.
EXPORT void grid_networks_backward(
    const GridNetworks* what, const float* positions, const float* encoded, const float* const* grads,
    float* grad_table, float* const* grad_weights, float* const* grad_biases, float* scratch, int64_t n, int threads) {
    CALL_CHOSEN(
        any_networks_backward, *what, positions, encoded, grads, grad_table, grad_weights, grad_biases, scratch, n,
        threads)
}

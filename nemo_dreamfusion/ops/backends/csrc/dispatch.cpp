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

// The instruction set chosen at run time, and the exported functions that depend on it.

#include "kernels.h"

#include <cstring>

namespace {

bool available(const Kernels& kernels) {
#ifdef HAS_X86_KERNELS
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (&kernels == &avx2_kernels) return avx2;
    if (&kernels == &avx512_kernels) {
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    }
#endif
    return &kernels == &baseline_kernels;
}

const Kernels* const candidates[] = {  // the best first
#ifdef HAS_X86_KERNELS
    &avx512_kernels, &avx2_kernels,
#endif
    &baseline_kernels};

const Kernels* best() {
    for (const Kernels* kernels : candidates) {
        if (available(*kernels)) return kernels;
    }
    return &baseline_kernels;
}

const Kernels* chosen = best();

const Kernels& kernels() { return *chosen; }

}  // namespace

EXPORT int interface_version() { return INTERFACE_VERSION; }

EXPORT const char* instruction_set() { return kernels().name; }

// Takes another instruction set than the best (comparisons, tests); 0 where the machine does not have it.
EXPORT int use_instruction_set(const char* name) {
    for (const Kernels* kernels : candidates) {
        if (!std::strcmp(kernels->name, name) && available(*kernels)) {
            chosen = kernels;
            return 1;
        }
    }
    return 0;
}

EXPORT void hash_grid_forward(
    const Grid* grid, const float* positions, const float* table, float* out, int64_t n, int threads) {
    kernels().hash_grid.forward(*grid, positions, table, out, n, threads);
}

EXPORT void hash_grid_backward_table(
    const Grid* grid, const float* grad, const float* positions, float* grad_table, int64_t n, int threads) {
    kernels().hash_grid.backward_table(*grid, grad, positions, grad_table, n, threads);
}

EXPORT void hash_grid_backward_positions(
    const Grid* grid, const float* grad, const float* positions, const float* table, float* grad_positions, int64_t n,
    int threads) {
    kernels().hash_grid.backward_positions(*grid, grad, positions, table, grad_positions, n, threads);
}

EXPORT void hash_grid_double_backward(
    const Grid* grid, const float* toward, const float* grad, const float* positions, const float* table,
    float* grad_grad, float* grad_positions, float* grad_table, int64_t n, int threads) {
    kernels().hash_grid.double_backward(
        *grid, toward, grad, positions, table, grad_grad, grad_positions, grad_table, n, threads);
}

EXPORT void mlp_forward(const Mlp* mlp, const float* inputs, float* outputs, int64_t n, int threads) {
    kernels().mlp.forward(*mlp, inputs, outputs, n, threads);
}

EXPORT void mlp_backward(
    const Mlp* mlp, const float* grad, const float* inputs, float* grad_inputs, float* const* grad_weights,
    float* const* grad_biases, int64_t n, int threads) {
    kernels().mlp.backward(*mlp, grad, inputs, grad_inputs, grad_weights, grad_biases, n, threads);
}

EXPORT void adan_step(
    float* parameter, const float* gradient, float* exp_avg, float* exp_avg_sq, float* exp_avg_diff,
    float* neg_pre_grad, int64_t n, const AdanCoefficients* coefficients, int threads) {
    kernels().adan(
        parameter, gradient, exp_avg, exp_avg_sq, exp_avg_diff, neg_pre_grad, n, *coefficients, threads);
}

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

// Small networks: the exported functions. Their kernels, compiled for each instruction set, are in mlp_kernels.h.

#include "mlp.h"

#define KERNELS "mlp_kernels.h"
#include "for_each_instruction_set.h"

// inputs [N, widths[0]] -> outputs [N, widths[layers]]
EXPORT void mlp_forward(const Mlp* mlp, const float* inputs, float* outputs, int64_t n, int threads) {
    CALL_CHOSEN(mlp_forward, *mlp, inputs, outputs, n, threads)
}

// grad [N, widths[layers]] -> gradients like the inputs (or null), the weights and the biases
EXPORT void mlp_backward(
    const Mlp* mlp, const float* grad, const float* inputs, float* grad_inputs, float* const* grad_weights,
    float* const* grad_biases, int64_t n, int threads) {
    CALL_CHOSEN(mlp_backward, *mlp, grad, inputs, grad_inputs, grad_weights, grad_biases, n, threads)
}

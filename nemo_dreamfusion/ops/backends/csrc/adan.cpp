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

// Adan: the exported function. Its kernel, compiled for each instruction set, is in adan_kernels.h.

#include "instruction_sets.h"

struct AdanCoefficients {
    float beta1, beta2, beta3, step_size, step_size_diff, inverse_bias, eps, before, after, gradient_scale;
};

#define KERNELS "adan_kernels.h"
#include "for_each_instruction_set.h"

EXPORT void adan_step(
    float* parameter, const float* gradient, float* exp_avg, float* exp_avg_sq, float* exp_avg_diff,
    float* neg_pre_grad, int64_t n, const AdanCoefficients* coefficients, int threads) {
    CALL_CHOSEN(
        adan, parameter, gradient, exp_avg, exp_avg_sq, exp_avg_diff, neg_pre_grad, n, *coefficients, threads)
}

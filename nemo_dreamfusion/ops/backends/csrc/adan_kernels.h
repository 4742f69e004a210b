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

// Adan's inner loop, compiled once for each instruction set; the reference is adan_reference in ops/adan.py.

constexpr int64_t TILE = 64;

// roots = sqrt(values). By intrinsics: a compiler that keeps errno makes sqrtf a call, and its loop no SIMD.
static inline void square_roots(const float* values, float* roots) {
#if defined(__SSE2__)
    for (int64_t i = 0; i < TILE; i += 4) _mm_store_ps(roots + i, _mm_sqrt_ps(_mm_load_ps(values + i)));
#else
    for (int64_t i = 0; i < TILE; ++i) roots[i] = __builtin_sqrtf(values[i]);
#endif
}

static inline void adan_tile(
    float* __restrict parameter, const float* __restrict gradient, float* __restrict exp_avg,
    float* __restrict exp_avg_sq, float* __restrict exp_avg_diff, float* __restrict neg_pre_grad, int64_t count,
    const AdanCoefficients& c) {
    alignas(64) float second[TILE] = {}, root[TILE], move[TILE];
    for (int64_t i = 0; i < count; ++i) {
        const float g = gradient[i] * c.gradient_scale;
        const float difference = neg_pre_grad[i] + g;
        const float lookahead = g + c.beta2 * difference;
        const float m = c.beta1 * exp_avg[i] + (1.0f - c.beta1) * g;
        const float d = c.beta2 * exp_avg_diff[i] + (1.0f - c.beta2) * difference;
        second[i] = c.beta3 * exp_avg_sq[i] + (1.0f - c.beta3) * lookahead * lookahead;
        move[i] = c.step_size * m + c.step_size_diff * d;
        exp_avg[i] = m;
        exp_avg_diff[i] = d;
        exp_avg_sq[i] = second[i];
        neg_pre_grad[i] = -g;
    }
    square_roots(second, root);
    for (int64_t i = 0; i < count; ++i) {
        const float denominator = root[i] * c.inverse_bias + c.eps;
        parameter[i] = (parameter[i] * c.before - move[i] / denominator) * c.after;
    }
}

static void adan(
    float* parameter, const float* gradient, float* exp_avg, float* exp_avg_sq, float* exp_avg_diff,
    float* neg_pre_grad, int64_t n, const AdanCoefficients& coefficients, int threads) {
    const AdanCoefficients c = coefficients;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i += TILE) {
        adan_tile(
            parameter + i, gradient + i, exp_avg + i, exp_avg_sq + i, exp_avg_diff + i, neg_pre_grad + i,
            n - i < TILE ? n - i : TILE, c);
    }
}

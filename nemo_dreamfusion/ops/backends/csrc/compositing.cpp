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

// Compositing along packed rays; the formulas and the reference are in ops/compositing.py.

#include "instruction_sets.h"

#include <cmath>

namespace {

constexpr double THICKEST = 100.0;  // as in the reference

// The optical depth of sample i, in float64 as in the reference. NaN stays NaN: the comparison is false.
inline double optical_depth(const float* density, const float* starts, const float* ends, int64_t i) {
    const double depth = double(density[i]) * (ends[i] - starts[i]);
    return depth > THICKEST ? THICKEST : depth;
}

// 1 - exp(-depth), given exp(-depth): below 1e-5 the difference has fewer digits than two terms of the series.
inline double opacity(double depth, double through) {
    return std::fabs(depth) < 1e-5 ? depth - 0.5 * depth * depth : 1.0 - through;
}

}  // namespace

// density, starts, ends [N], offsets [R + 1] -> weights, transmittance [N].
// The light is a product in float64, so that each result is right to the last digits of float32 however little is left.
EXPORT void weights_forward(
    const float* density, const float* starts, const float* ends, const int64_t* offsets, int64_t rays, float* weights,
    float* transmittance, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64)
    for (int64_t r = 0; r < rays; ++r) {
        double light = 1.0;
        for (int64_t i = offsets[r]; i < offsets[r + 1]; ++i) {
            const double depth = optical_depth(density, starts, ends, i), through = std::exp(-depth);
            transmittance[i] = float(light);
            weights[i] = float(light * opacity(depth, through));
            light *= through;
        }
    }
}

// d/d depth_j of sum_i (grad_weights_i w_i + grad_transmittance_i T_i)
//   = grad_weights_j T_j (1 - alpha_j) - sum over i > j of (grad_weights_i w_i + grad_transmittance_i T_i).
// Either incoming gradient may be null.
EXPORT void weights_backward(
    const float* grad_weights, const float* grad_transmittance, const float* density, const float* starts,
    const float* ends, const int64_t* offsets, int64_t rays, const float* weights, const float* transmittance,
    float* grad_density, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64)
    for (int64_t r = 0; r < rays; ++r) {
        double behind = 0.0;
        for (int64_t i = offsets[r + 1] - 1; i >= offsets[r]; --i) {
            const double length = ends[i] - starts[i], depth = double(density[i]) * length;
            const float from_weight = grad_weights ? grad_weights[i] : 0.0f;
            // transmittance - weight would lose the digits of what little passes a thick sample
            const double own = grad_weights ? from_weight * transmittance[i] * std::exp(-depth) : 0.0;
            grad_density[i] = depth > THICKEST ? 0.0f : float((own - behind) * length);
            behind += double(from_weight) * weights[i];
            if (grad_transmittance) behind += double(grad_transmittance[i]) * transmittance[i];
        }
    }
}

// visible [N]: transmittance >= threshold. A ray is left where its light is spent.
EXPORT void visible_prefix(
    const float* density, const float* starts, const float* ends, const int64_t* offsets, int64_t rays,
    float threshold, bool* visible, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64)
    for (int64_t r = 0; r < rays; ++r) {
        double light = 1.0;
        int64_t i = offsets[r];
        for (; i < offsets[r + 1] && float(light) >= threshold; ++i) {
            visible[i] = true;
            light *= std::exp(-optical_depth(density, starts, ends, i));
        }
        for (; i < offsets[r + 1]; ++i) visible[i] = false;
    }
}

// weights [N], values [N, C] or null (then C = 1 and every value is 1) -> sums [R, C].
EXPORT void accumulate_forward(
    const float* weights, const float* values, const int64_t* offsets, int64_t rays, int64_t channels, float* sums,
    int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64)
    for (int64_t r = 0; r < rays; ++r) {
        float* sum = sums + r * channels;
        for (int64_t c = 0; c < channels; ++c) sum[c] = 0.0f;
        for (int64_t i = offsets[r]; i < offsets[r + 1]; ++i) {
            for (int64_t c = 0; c < channels; ++c) sum[c] += weights[i] * (values ? values[i * channels + c] : 1.0f);
        }
    }
}

// grad [R, C] -> grad_weights [N] and grad_values [N, C]; either may be null.
EXPORT void accumulate_backward(
    const float* grad, const float* weights, const float* values, const int64_t* offsets, int64_t rays,
    int64_t channels, float* grad_weights, float* grad_values, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64)
    for (int64_t r = 0; r < rays; ++r) {
        const float* from = grad + r * channels;
        for (int64_t i = offsets[r]; i < offsets[r + 1]; ++i) {
            float dot = 0.0f;
            for (int64_t c = 0; c < channels; ++c) {
                if (grad_values) grad_values[i * channels + c] = weights[i] * from[c];
                dot += from[c] * (values ? values[i * channels + c] : 1.0f);
            }
            if (grad_weights) grad_weights[i] = dot;
        }
    }
}

// How many samples of each ray light reaches (transmittance >= threshold), those of length 0 left out: counts [R].
EXPORT void count_visible(
    const float* density, const float* starts, const float* ends, const int64_t* offsets, int64_t rays,
    float threshold, int64_t* counts, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64)
    for (int64_t r = 0; r < rays; ++r) {
        double light = 1.0;
        int64_t count = 0;
        for (int64_t i = offsets[r]; i < offsets[r + 1] && float(light) >= threshold; ++i) {
            count += ends[i] > starts[i];
            light *= std::exp(-optical_depth(density, starts, ends, i));
        }
        counts[r] = count;
    }
}

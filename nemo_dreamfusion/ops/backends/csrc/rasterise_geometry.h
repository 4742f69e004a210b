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

// What rasterise.cpp and antialias.cpp share. The same float32 operations in the same order as the references, so both give
// the same bits; contraction to fused multiply-adds would break that. Include it first.
#pragma once

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#include "instruction_sets.h"

#include <cmath>
#include <vector>

constexpr float SMALLEST_W = 1e-6f;  // as in the reference

struct Pixel {
    float column, row;  // fractions; a pixel's centre is whole
};

inline Pixel to_pixel(const float* clip, int64_t height, int64_t width) {
    return {(clip[0] / clip[3] + 1.0f) * (0.5f * float(width)) - 0.5f,
            (1.0f - clip[1] / clip[3]) * (0.5f * float(height)) - 0.5f};
}

// Of every vertex of one image.
inline std::vector<Pixel> to_pixels(const float* clip, int64_t vertices, int64_t height, int64_t width, int threads) {
    std::vector<Pixel> at(static_cast<size_t>(vertices));
#pragma omp parallel for num_threads(threads)
    for (int64_t v = 0; v < vertices; ++v) at[size_t(v)] = to_pixel(clip + 4 * v, height, width);
    return at;
}

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

#pragma once

#include "instruction_sets.h"

// The fields of GridLayout.
struct Grid {
    int64_t levels;
    int64_t features;
    int64_t smoothstep;  // else linear
    const int64_t* resolutions;  // [L]
    const int64_t* offsets;  // [L + 1]
    const int64_t* hashed;  // [L]
};

// From a number of features to the function compiled for it: 1, 2, 4 or 8 (COMPILED_FEATURES of ops/hash_grid.py).
#define FOR_FEATURES(features, function, ...)     \
    switch (features) {                           \
        case 1: return function<1>(__VA_ARGS__);  \
        case 2: return function<2>(__VA_ARGS__);  \
        case 4: return function<4>(__VA_ARGS__);  \
        case 8: return function<8>(__VA_ARGS__);  \
        default: return;                          \
    }

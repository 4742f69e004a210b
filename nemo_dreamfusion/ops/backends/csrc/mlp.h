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

constexpr int MAX_LAYERS = 16;  // as in ops/mlp.py

// y = W_L relu(... relu(W_1 x + b_1) ...) + b_L
struct Mlp {
    int64_t layers;
    const int64_t* widths;  // [layers + 1]
    const float* const* weights;  // [layers] of [out, in], as torch.nn.Linear keeps them
    const float* const* biases;  // [layers] of [out] or null
};

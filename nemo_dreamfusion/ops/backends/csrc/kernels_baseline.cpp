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

#include "kernels.h"

#include <cstddef>
#include <cstdlib>
#include <cstring>
#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace baseline {
constexpr int LANES = 4;  // floats in a register
#include "adan_body.h"
#include "hash_grid_blocks.h"
#include "hash_grid_body.h"
#include "mlp_body.h"
}  // namespace baseline

const Kernels baseline_kernels = {
    "baseline",
    {baseline::any_forward, baseline::any_backward_table, baseline::any_backward_positions,
     baseline::any_double_backward},
    {baseline::mlp_forward, baseline::mlp_backward},
    baseline::adan,
};

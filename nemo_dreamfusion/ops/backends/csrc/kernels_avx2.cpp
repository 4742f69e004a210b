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

#ifdef HAS_X86_KERNELS
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <immintrin.h>

// After the standard headers: what they define must stay runnable on every machine.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

namespace avx2 {
constexpr int LANES = 8;  // floats in a register
#include "adan_body.h"
#include "hash_grid_blocks.h"
#include "hash_grid_body.h"
#include "mlp_body.h"
}  // namespace avx2

#if defined(__clang__)
#pragma clang attribute pop
#endif

const Kernels avx2_kernels = {
    "avx2",
    {avx2::any_forward, avx2::any_backward_table, avx2::any_backward_positions, avx2::any_double_backward},
    {avx2::mlp_forward, avx2::mlp_backward},
    avx2::adan,
};
#endif

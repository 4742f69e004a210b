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

// The plain C interface that ops/backends/cpu calls (pointers to contiguous float32, int64 or bool data, sizes, the number of
// threads), and the choice of an instruction set at run time. Every function gives the same bits for any number of threads.
//
// Kernels that gain from wider registers are compiled once for each instruction set:
//
//     #define KERNELS "adan_kernels.h"              // defines static functions, such as adan(...)
//     #include "for_each_instruction_set.h"         // baseline::adan, avx2::adan and avx512::adan
//     EXPORT void adan_step(...) { CALL_CHOSEN(adan, ...) }
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__GNUC__)
#define EXPORT extern "C" __attribute__((visibility("default")))
#else
#define EXPORT extern "C"
#endif

enum class InstructionSet { BASELINE, AVX2, AVX512 };

extern InstructionSet chosen_instruction_set;  // in library.cpp

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_X86_KERNELS 1
#define CALL_CHOSEN(function, ...)                                               \
    switch (chosen_instruction_set) {                                            \
        case InstructionSet::AVX512: return avx512::function(__VA_ARGS__);       \
        case InstructionSet::AVX2: return avx2::function(__VA_ARGS__);           \
        default: return baseline::function(__VA_ARGS__);                         \
    }
#else
#define CALL_CHOSEN(function, ...) return baseline::function(__VA_ARGS__);
#endif

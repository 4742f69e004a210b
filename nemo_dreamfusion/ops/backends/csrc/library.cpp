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

// Report the version of the interface, and choose and report the instruction set.

#include "instruction_sets.h"

// Raise it when an exported function changes: ops/backends/cpu/library.py refuses a library of another version.
constexpr int INTERFACE_VERSION = 8;

namespace {

struct Candidate {
    InstructionSet set;
    const char* name;
};

const Candidate candidates[] = {  // the best first
#ifdef HAS_X86_KERNELS
    {InstructionSet::AVX512, "avx512"},
    {InstructionSet::AVX2, "avx2"},
#endif
    {InstructionSet::BASELINE, "baseline"}};

bool available(InstructionSet set) {
#ifdef HAS_X86_KERNELS
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (set == InstructionSet::AVX2) return avx2;
    if (set == InstructionSet::AVX512) {
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    }
#endif
    return set == InstructionSet::BASELINE;
}

InstructionSet best() {
    for (const Candidate& candidate : candidates) {
        if (available(candidate.set)) return candidate.set;
    }
    return InstructionSet::BASELINE;
}

}  // namespace

InstructionSet chosen_instruction_set = best();

EXPORT int interface_version() { return INTERFACE_VERSION; }

EXPORT const char* instruction_set() {
    for (const Candidate& candidate : candidates) {
        if (candidate.set == chosen_instruction_set) return candidate.name;
    }
    return "";
}

// Take another instruction set than the best (comparisons, tests); 0 where the machine does not have it.
EXPORT int use_instruction_set(const char* name) {
    for (const Candidate& candidate : candidates) {
        if (!std::strcmp(candidate.name, name) && available(candidate.set)) {
            chosen_instruction_set = candidate.set;
            return 1;
        }
    }
    return 0;
}

# Copyright (c) 2026, the nemo_dreamfusion authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""How much one program of a kernel works on."""

POINTS = 128  # points or samples
RUNS, RUN_LENGTH = 16, 16  # of points, in the gradient to the hash table
RAYS = 32  # rays of a march: all of them wait for the longest
ELEMENTS = 1024  # numbers, in the optimizer


def programs(n: int, each: int) -> int:
    """Programs that n things need, each taking ``each`` of them."""
    return -(-n // each)

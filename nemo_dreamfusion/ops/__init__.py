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

"""The operators that a training step consists of.

An operator is one file here: its public function, a readable reference implementation in torch, and the registration with
PyTorch (``torch.ops.nemo_dreamfusion.*``), which autograd and torch.compile see through. Its compiled kernels are
``backends/cpu/<operator>.py`` over ``backends/csrc/<operator>*`` and ``backends/triton/<operator>.py``. A new operator
touches these files and no other.
"""

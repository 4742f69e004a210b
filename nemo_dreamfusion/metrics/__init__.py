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

"""What published models say of finished objects: CLIP R-Precision, and the quality score of T3Bench.

``base`` holds the contracts of a metric, of an encoder of pictures and texts, and of a scorer of pictures; each choice is
one file and one YAML of ``conf/metric``. ``launch.measuring`` runs them in stages.
"""

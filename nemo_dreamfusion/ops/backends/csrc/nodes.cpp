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

// Pictures between their nodes: see ops/nodes.py.

#include "instruction_sets.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace {

constexpr int64_t TILE = 8;  // blocks of a side of a tile: the rays of its pixels meet the same voxels

struct Nodes {
    const float *values, *tolerance;  // [h, w, C], [C]
    int64_t rows, columns, channels, height, width, stride;

    const float* at(int64_t row, int64_t column) const { return values + (row * columns + column) * channels; }
    int64_t last_row(int64_t block) const { return std::min((block + 1) * stride, height - 1); }
    int64_t last_column(int64_t block) const { return std::min((block + 1) * stride, width - 1); }
};

// How far a node is from the middle of two others, in tolerances.
float bend(const Nodes& nodes, const float* before, const float* here, const float* after) {
    float most = 0.0f;
    for (int64_t c = 0; c < nodes.channels; ++c) {
        const float off = std::fabs((before[c] + after[c]) * 0.5f - here[c]) / nodes.tolerance[c];
        if (off > most) most = off;
    }
    return most;
}

// Nodes of an edge are as curved as their neighbours.
bool is_rough(const Nodes& nodes, int64_t row, int64_t column) {
    const int64_t r = std::clamp<int64_t>(row, 1, nodes.rows - 2), c = std::clamp<int64_t>(column, 1, nodes.columns - 2);
    const float down = bend(nodes, nodes.at(r - 1, column), nodes.at(r, column), nodes.at(r + 1, column));
    const float right = bend(nodes, nodes.at(row, c - 1), nodes.at(row, c), nodes.at(row, c + 1));
    return down + right > 4.0f;
}

// Write one row of pixels: first a line of values between two rows of nodes, then what is between those.
void fill_row(const Nodes& nodes, int64_t row, float* line, float* out) {
    const int64_t block = std::min(row / nodes.stride, nodes.rows - 2), first = block * nodes.stride;
    const float down = float(row - first) / float(nodes.last_row(block) - first);
    const float *above = nodes.at(block, 0), *below = nodes.at(block + 1, 0);
    const int64_t length = nodes.columns * nodes.channels, channels = nodes.channels;
    for (int64_t i = 0; i < length; ++i) line[i] = above[i] + down * (below[i] - above[i]);
    for (int64_t b = 0; b + 1 < nodes.columns; ++b) {
        const int64_t begin = b * nodes.stride, end = nodes.last_column(b);
        const float *left = line + b * channels, *right = left + channels;
        for (int64_t x = begin; x < end; ++x) {
            const float share = float(x - begin) / float(end - begin);
            for (int64_t c = 0; c < channels; ++c) out[x * channels + c] = left[c] + share * (right[c] - left[c]);
        }
    }
    std::copy(line + length - channels, line + length, out + (nodes.width - 1) * channels);
}

// Append the pixels of a block to the list, without those that are nodes. The last row and column belong to the last block.
int64_t list_block(const Nodes& nodes, int64_t block_row, int64_t block_column, int64_t* missing) {
    const int64_t top = block_row * nodes.stride, left = block_column * nodes.stride;
    const int64_t bottom = nodes.last_row(block_row), right = nodes.last_column(block_column);
    const int64_t rows = block_row == nodes.rows - 2 ? bottom + 1 : bottom;
    const int64_t columns = block_column == nodes.columns - 2 ? right + 1 : right;
    int64_t count = 0;
    for (int64_t y = top; y < rows; ++y) {
        for (int64_t x = left; x < columns; ++x) {
            const bool is_node = (y == top || y == bottom) && (x == left || x == right);
            if (!is_node) missing[count++] = y * nodes.width + x;
        }
    }
    return count;
}

int64_t list_missing(const Nodes& nodes, int64_t* missing) {
    std::vector<char> rough(size_t(nodes.rows * nodes.columns));
    for (int64_t r = 0; r < nodes.rows; ++r) {
        for (int64_t c = 0; c < nodes.columns; ++c) rough[size_t(r * nodes.columns + c)] = is_rough(nodes, r, c);
    }
    int64_t count = 0;
    for (int64_t r0 = 0; r0 + 1 < nodes.rows; r0 += TILE) {
        for (int64_t c0 = 0; c0 + 1 < nodes.columns; c0 += TILE) {
            for (int64_t r = r0; r < std::min(r0 + TILE, nodes.rows - 1); ++r) {
                for (int64_t c = c0; c < std::min(c0 + TILE, nodes.columns - 1); ++c) {
                    const char* corner = rough.data() + r * nodes.columns + c;
                    const char any = corner[0] | corner[1] | corner[nodes.columns] | corner[nodes.columns + 1];
                    if (any) count += list_block(nodes, r, c, missing + count);
                }
            }
        }
    }
    return count;
}

}  // namespace

EXPORT void between_nodes(
    const float* values, const float* tolerance, int64_t rows, int64_t columns, int64_t channels, int64_t height,
    int64_t width, int64_t stride, float* out, int64_t* missing, int64_t* count, int threads) {
    const Nodes nodes{values, tolerance, rows, columns, channels, height, width, stride};
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> line(size_t(columns * channels));
#pragma omp for schedule(static)
        for (int64_t row = 0; row < height; ++row) fill_row(nodes, row, line.data(), out + row * width * channels);
    }
    *count = list_missing(nodes, missing);
}

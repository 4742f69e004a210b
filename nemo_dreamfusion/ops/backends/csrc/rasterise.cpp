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

// Visibility, barycentrics and interpolation. Threads share an image by bands of rows; what adds up over pixels is added by
// one thread in the order of the pixels.

#include "rasterise_geometry.h"

#include <algorithm>

namespace {

constexpr float SLACK = 1.0f / 64;  // as in the reference
constexpr int64_t EMPTY = INT64_MAX;

struct Edges {
    float u[3], v[3], e[3];
};

inline float centre_column(int64_t column, int64_t width) { return float(2 * column + 1 - width) / float(width); }
inline float centre_row(int64_t row, int64_t height) { return float(height - 1 - 2 * row) / float(height); }

// u, v and e of a face's corners seen from a pixel's centre (p, q): see the head of ops/rasterise.py.
inline Edges edges_at(const float* const* corner, float p, float q) {
    Edges at;
    for (int i = 0; i < 3; ++i) {
        at.u[i] = corner[i][0] - p * corner[i][3];
        at.v[i] = corner[i][1] - q * corner[i][3];
    }
    for (int i = 0; i < 3; ++i) {
        const int j = (i + 1) % 3, k = (i + 2) % 3;
        at.e[i] = at.u[j] * at.v[k] - at.u[k] * at.v[j];
    }
    return at;
}

inline int64_t key_of(float depth, int64_t face) {
    depth += 0.0f;  // -0 becomes 0
    int32_t bits;
    std::memcpy(&bits, &depth, 4);
    bits ^= (bits >> 31) & 0x7FFFFFFF;
    return int64_t(uint64_t(int64_t(bits)) << 32) | face;
}

inline float depth_of(int64_t key) {
    int32_t bits = int32_t(key >> 32);
    bits ^= (bits >> 31) & 0x7FFFFFFF;
    float depth;
    std::memcpy(&depth, &bits, 4);
    return depth;
}

struct Box {
    int64_t left, right, top, bottom;  // inclusive
};

// The pixels that a face may cover; empty (right < left) where it is out of sight or not finite.
inline Box box_of(const Pixel* const* at, const float* const* corner, int64_t height, int64_t width) {
    const Box nothing{0, -1, 0, -1}, everything{0, width - 1, 0, height - 1};
    int in_front = 0;
    for (int i = 0; i < 3; ++i) in_front += corner[i][3] > SMALLEST_W;
    if (in_front < 3) return in_front ? everything : nothing;
    const float* c[3] = {&at[0]->column, &at[1]->column, &at[2]->column};
    const float* r[3] = {&at[0]->row, &at[1]->row, &at[2]->row};
    for (int i = 0; i < 3; ++i) {
        if (!std::isfinite(*c[i]) || !std::isfinite(*r[i])) return nothing;
    }
    const float left = std::max(std::ceil(std::min({*c[0], *c[1], *c[2]}) - SLACK), 0.0f);
    const float right = std::min(std::floor(std::max({*c[0], *c[1], *c[2]}) + SLACK), float(width - 1));
    const float top = std::max(std::ceil(std::min({*r[0], *r[1], *r[2]}) - SLACK), 0.0f);
    const float bottom = std::min(std::floor(std::max({*r[0], *r[1], *r[2]}) + SLACK), float(height - 1));
    if (!(left <= right && top <= bottom)) return nothing;
    return {int64_t(left), int64_t(right), int64_t(top), int64_t(bottom)};
}

// Enter one face into the keys [H, W] of its box.
inline void draw(const float* const* corner, const Box& box, int64_t height, int64_t width, int64_t face, bool cull, int64_t* keys) {
    for (int64_t row = box.top; row <= box.bottom; ++row) {
        const float q = centre_row(row, height);
        for (int64_t column = box.left; column <= box.right; ++column) {
            const Edges at = edges_at(corner, centre_column(column, width), q);
            const float* e = at.e;
            const bool front = e[0] >= 0 && e[1] >= 0 && e[2] >= 0;
            const bool back = !cull && e[0] <= 0 && e[1] <= 0 && e[2] <= 0;
            if (!front && !back) continue;
            const float w = e[0] * corner[0][3] + e[1] * corner[1][3] + e[2] * corner[2][3];
            if (!((front && w > 0) || (back && w < 0))) continue;
            const float z = e[0] * corner[0][2] + e[1] * corner[1][2] + e[2] * corner[2][2];
            const float depth = z / w;
            if (!(std::fabs(depth) <= 1.0f)) continue;
            int64_t& best = keys[row * width + column];
            best = std::min(best, key_of(depth, face));
        }
    }
}

inline void find_corners(const float* clip, const int64_t* face, const float** corner) {
    for (int i = 0; i < 3; ++i) corner[i] = clip + 4 * face[i];
}

}  // namespace

// positions [B, V, 4], faces [F, 3] -> face_ids and depth [B, H, W]. face_ids holds the keys first.
EXPORT void visible(
    const float* positions, const int64_t* faces, int64_t images, int64_t vertices, int64_t n_faces, int64_t height,
    int64_t width, int64_t cull, int64_t* face_ids, float* depth, int threads) {
    for (int64_t image = 0; image < images; ++image) {
        const float* clip = positions + image * vertices * 4;
        const std::vector<Pixel> pixels = to_pixels(clip, vertices, height, width, threads);
        int64_t* keys = face_ids + image * height * width;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
        for (int64_t band = 0; band < threads; ++band) {
            const int64_t first = height * band / threads, behind = height * (band + 1) / threads;
            std::fill(keys + first * width, keys + behind * width, EMPTY);
            for (int64_t f = 0; f < n_faces; ++f) {
                const int64_t* face = faces + 3 * f;
                const float* corner[3];
                find_corners(clip, face, corner);
                const Pixel* at[3] = {&pixels[size_t(face[0])], &pixels[size_t(face[1])], &pixels[size_t(face[2])]};
                Box box = box_of(at, corner, height, width);
                box.top = std::max(box.top, first), box.bottom = std::min(box.bottom, behind - 1);
                draw(corner, box, height, width, f, cull != 0, keys);
            }
            for (int64_t i = first * width; i < behind * width; ++i) {
                depth[image * height * width + i] = keys[i] == EMPTY ? INFINITY : depth_of(keys[i]);
                keys[i] = keys[i] == EMPTY ? -1 : keys[i] & 0xFFFFFFFF;
            }
        }
    }
}

// Of the faces that are seen -> [B, H, W, 3].
EXPORT void barycentrics_forward(
    const float* positions, const int64_t* faces, const int64_t* face_ids, int64_t images, int64_t height, int64_t width,
    int64_t vertices, float* barycentrics, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t line = 0; line < images * height; ++line) {
        const float* clip = positions + line / height * vertices * 4;
        const float q = centre_row(line % height, height);
        for (int64_t column = 0; column < width; ++column) {
            const int64_t id = face_ids[line * width + column];
            float* weights = barycentrics + 3 * (line * width + column);
            weights[0] = weights[1] = weights[2] = 0.0f;
            if (id < 0) continue;
            const float* corner[3];
            find_corners(clip, faces + 3 * id, corner);
            const Edges at = edges_at(corner, centre_column(column, width), q);
            const float sum = at.e[0] + at.e[1] + at.e[2];
            for (int k = 0; k < 3; ++k) weights[k] = at.e[k] / sum;
        }
    }
}

// The gradient of the barycentrics -> that of the positions [B, V, 4].
EXPORT void barycentrics_backward(
    const float* grad, const float* positions, const int64_t* faces, const int64_t* face_ids, int64_t images,
    int64_t height, int64_t width, int64_t vertices, float* grad_positions, int threads) {
    std::memset(grad_positions, 0, size_t(images * vertices * 4) * sizeof(float));
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t image = 0; image < images; ++image) {
        const float* clip = positions + image * vertices * 4;
        float* result = grad_positions + image * vertices * 4;
        for (int64_t i = 0; i < height * width; ++i) {
            const int64_t id = face_ids[image * height * width + i];
            if (id < 0) continue;
            const float* g = grad + 3 * (image * height * width + i);
            if (g[0] == 0 && g[1] == 0 && g[2] == 0) continue;
            const float *corner[3], p = centre_column(i % width, width), q = centre_row(i / width, height);
            find_corners(clip, faces + 3 * id, corner);
            const Edges at = edges_at(corner, p, q);
            const float sum = at.e[0] + at.e[1] + at.e[2];
            const float mean = (g[0] * at.e[0] + g[1] * at.e[1] + g[2] * at.e[2]) / sum;
            float ge[3];
            for (int k = 0; k < 3; ++k) ge[k] = (g[k] - mean) / sum;
            for (int k = 0; k < 3; ++k) {  // u_k is in e_(k+1) with the factor -v_(k+2), in e_(k+2) with v_(k+1)
                const int a = (k + 1) % 3, b = (k + 2) % 3;
                const float gu = ge[b] * at.v[a] - ge[a] * at.v[b], gv = ge[a] * at.u[b] - ge[b] * at.u[a];
                float* out = result + 4 * faces[3 * id + k];
                out[0] += gu, out[1] += gv, out[3] -= p * gu + q * gv;
            }
        }
    }
}

// attributes [1 or B, V, C] -> values [B, H, W, C]; stride is V * C, or 0 where all images share them.
EXPORT void interpolate_forward(
    const float* attributes, const int64_t* faces, const int64_t* face_ids, const float* barycentrics, int64_t images,
    int64_t pixels, int64_t channels, int64_t stride, float* values, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < images * pixels; ++i) {
        float* out = values + i * channels;
        if (face_ids[i] < 0) {
            std::fill(out, out + channels, 0.0f);
            continue;
        }
        const float *base = attributes + i / pixels * stride, *weights = barycentrics + 3 * i;
        const int64_t* face = faces + 3 * face_ids[i];
        const float *a = base + face[0] * channels, *b = base + face[1] * channels, *c = base + face[2] * channels;
        for (int64_t k = 0; k < channels; ++k) out[k] = weights[0] * a[k] + weights[1] * b[k] + weights[2] * c[k];
    }
}

// grad [B, H, W, C] -> those of the attributes and of the barycentrics, each where it is not null.
EXPORT void interpolate_backward(
    const float* grad, const float* attributes, const int64_t* faces, const int64_t* face_ids, const float* barycentrics,
    int64_t images, int64_t pixels, int64_t channels, int64_t stride, int64_t n_attributes, float* grad_attributes,
    float* grad_barycentrics, int threads) {
    if (grad_barycentrics) {
#pragma omp parallel for num_threads(threads)
        for (int64_t i = 0; i < images * pixels; ++i) {
            for (int corner = 0; corner < 3; ++corner) {
                float sum = 0.0f;
                if (face_ids[i] >= 0) {
                    const int64_t vertex = faces[3 * face_ids[i] + corner];
                    const float* a = attributes + i / pixels * stride + vertex * channels;
                    for (int64_t k = 0; k < channels; ++k) sum += grad[i * channels + k] * a[k];
                }
                grad_barycentrics[3 * i + corner] = sum;
            }
        }
    }
    if (!grad_attributes) return;
    std::memset(grad_attributes, 0, size_t(n_attributes) * sizeof(float));
    for (int64_t i = 0; i < images * pixels; ++i) {
        if (face_ids[i] < 0) continue;
        for (int corner = 0; corner < 3; ++corner) {
            const int64_t vertex = faces[3 * face_ids[i] + corner];
            float* out = grad_attributes + i / pixels * stride + vertex * channels;
            const float weight = barycentrics[3 * i + corner];
            for (int64_t k = 0; k < channels; ++k) out[k] += weight * grad[i * channels + k];
        }
    }
}

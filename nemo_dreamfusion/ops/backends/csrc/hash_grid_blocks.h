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

// What happens to one block of points at one level of the hash grid, compiled once for each instruction set. The formulas,
// readable, are in hash_grid_reference of ops/hash_grid.py.
//
// Table rows and weights of a block are computed by plain loops that the compiler turns into SIMD. Then each point reads
// its eight rows: eight points at once with AVX-512's gather instructions (two features; measured 1.2 times faster on an
// Intel Xeon, on no other processor), else row by row. A cell has four edges along x; the two ends of an edge are worked on
// together: corner 2 e + i is the end i of edge e = y + 2 z.

constexpr int BLOCK = 128;
constexpr int AHEAD = 16;  // points whose rows are fetched while this one is worked on

struct Level {
    float scale;
    int32_t last;  // index of the last cell
    uint32_t step_y, step_z;  // of a dense level's rows, or the hash's primes
    uint32_t mask;
    bool hashed, smoothstep;
    int64_t offset;
};

struct Work {  // of one thread
    alignas(64) uint32_t row[8][BLOCK];
    alignas(64) float x[BLOCK];  // (interpolated) fraction along x
    alignas(64) float edge[4][BLOCK];  // trilinear weight of each edge
    // The rest only where derivatives are wanted:
    alignas(64) float lerp[3][BLOCK];  // fractions along all axes,
    alignas(64) float slope[3][BLOCK];  // their first derivatives with respect to the position
    alignas(64) float bend[3][BLOCK];  // and their second
    alignas(64) float v[3][BLOCK];  // a direction per point
    alignas(64) float edge_along[4][BLOCK];  // derivative of `edge` along v
    alignas(64) float x_along[BLOCK];  // derivative of `x` along v
    alignas(64) float dot[8][BLOCK];  // <incoming gradient, table row> of each corner
    alignas(64) float sum[3][BLOCK];  // a gradient with respect to the position
};

static Level level_of(const Grid& grid, int64_t l) {
    Level level;
    const int64_t resolution = grid.resolutions[l];
    level.scale = float(resolution);
    level.last = int32_t(resolution - 1);
    level.hashed = grid.hashed[l] != 0;
    level.step_y = level.hashed ? 2654435761u : uint32_t(resolution + 1);
    level.step_z = level.hashed ? 805459861u : uint32_t((resolution + 1) * (resolution + 1));
    level.mask = level.hashed ? uint32_t(grid.offsets[l + 1] - grid.offsets[l] - 1) : 0xffffffffu;
    level.smoothstep = grid.smoothstep != 0;
    level.offset = grid.offsets[l];
    return level;
}

// Rows and weights of points given axis by axis (in [0, 1], a whole block).
template <bool HASHED, bool DERIVATIVES>
static void locate(
    const float* __restrict px, const float* __restrict py, const float* __restrict pz, const Level& level,
    Work& __restrict w) {
    const float scale = level.scale, smooth = level.smoothstep ? 1.0f : 0.0f;
    const int32_t last = level.last;
    const uint32_t step_y = level.step_y, step_z = level.step_z, mask = level.mask;
    for (int p = 0; p < BLOCK; ++p) {
        const float sx = px[p] * scale, sy = py[p] * scale, sz = pz[p] * scale;
        int32_t cx = int32_t(sx), cy = int32_t(sy), cz = int32_t(sz);
        cx = cx < last ? cx : last, cy = cy < last ? cy : last, cz = cz < last ? cz : last;
        const float u = sx - float(cx), v = sy - float(cy), t = sz - float(cz);
        const float x = u + smooth * (u * u * (3.0f - 2.0f * u) - u);
        const float y = v + smooth * (v * v * (3.0f - 2.0f * v) - v);
        const float z = t + smooth * (t * t * (3.0f - 2.0f * t) - t);
        w.x[p] = x;
        const float yz = y * z;
        w.edge[0][p] = 1.0f - y - z + yz, w.edge[1][p] = y - yz, w.edge[2][p] = z - yz, w.edge[3][p] = yz;
        if (DERIVATIVES) {
            w.lerp[0][p] = x, w.lerp[1][p] = y, w.lerp[2][p] = z;
            w.slope[0][p] = scale * (1.0f + smooth * (6.0f * u * (1.0f - u) - 1.0f));
            w.slope[1][p] = scale * (1.0f + smooth * (6.0f * v * (1.0f - v) - 1.0f));
            w.slope[2][p] = scale * (1.0f + smooth * (6.0f * t * (1.0f - t) - 1.0f));
            w.bend[0][p] = scale * scale * smooth * (6.0f - 12.0f * u);
            w.bend[1][p] = scale * scale * smooth * (6.0f - 12.0f * v);
            w.bend[2][p] = scale * scale * smooth * (6.0f - 12.0f * t);
        }
        const uint32_t x0 = uint32_t(cx), x1 = x0 + 1;
        const uint32_t y0 = uint32_t(cy) * step_y, y1 = y0 + step_y, z0 = uint32_t(cz) * step_z, z1 = z0 + step_z;
        if (HASHED) {
            const uint32_t e0 = (y0 ^ z0) & mask, e1 = (y1 ^ z0) & mask, e2 = (y0 ^ z1) & mask, e3 = (y1 ^ z1) & mask;
            const uint32_t a = x0 & mask, b = x1 & mask;
            w.row[0][p] = a ^ e0, w.row[1][p] = b ^ e0, w.row[2][p] = a ^ e1, w.row[3][p] = b ^ e1;
            w.row[4][p] = a ^ e2, w.row[5][p] = b ^ e2, w.row[6][p] = a ^ e3, w.row[7][p] = b ^ e3;
        } else {
            const uint32_t e0 = y0 + z0, e1 = y1 + z0, e2 = y0 + z1, e3 = y1 + z1;
            w.row[0][p] = x0 + e0, w.row[1][p] = x1 + e0, w.row[2][p] = x0 + e1, w.row[3][p] = x1 + e1;
            w.row[4][p] = x0 + e2, w.row[5][p] = x1 + e2, w.row[6][p] = x0 + e3, w.row[7][p] = x1 + e3;
        }
    }
}

// Derivatives of the weights along v.
static void differentiate(Work& w) {
    for (int p = 0; p < BLOCK; ++p) {
        const float y1 = w.lerp[1][p], z1 = w.lerp[2][p], y0 = 1.0f - y1, z0 = 1.0f - z1;
        const float dy = w.v[1][p] * w.slope[1][p], dz = w.v[2][p] * w.slope[2][p];
        w.x_along[p] = w.v[0][p] * w.slope[0][p];
        w.edge_along[0][p] = -dy * z0 - y0 * dz, w.edge_along[1][p] = dy * z0 - y1 * dz;
        w.edge_along[2][p] = -dy * z1 + y0 * dz, w.edge_along[3][p] = dy * z1 + y1 * dz;
    }
}

// Prefetch the rows of a point AHEAD of p: they lie all over a table larger than the nearer caches. One end of each edge is
// enough: with two features the other lies in the same cache line seven times in eight.
// (always_inline: GCC would drop a function of prefetches alone as one without effect.)
template <int F>
__attribute__((always_inline)) static inline void fetch_ahead(const Work& w, const float* table, int p) {
    if (p + AHEAD >= BLOCK) return;
    for (int k = 0; k < 8; k += 2) __builtin_prefetch(table + int64_t(w.row[k][p + AHEAD]) * F);
}

// The two ends of an edge side by side: 2 F floats, as vectors of 4 where two features make that possible. In a dense level
// (load_edge, store_edge) they lie like that in the table.
#if defined(__SSE2__)
typedef __m128 Quad;
static inline Quad load_ends(const float* a, const float* b) {
    return _mm_loadh_pi(_mm_castpd_ps(_mm_load_sd(reinterpret_cast<const double*>(a))), (const __m64*)b);
}
static inline void store_ends(float* a, float* b, Quad q) {
    _mm_storel_pi((__m64*)a, q);
    _mm_storeh_pi((__m64*)b, q);
}
static inline Quad load_edge(const float* a) { return _mm_loadu_ps(a); }
static inline void store_edge(float* a, Quad q) { _mm_storeu_ps(a, q); }
#else
typedef float Quad __attribute__((vector_size(16)));
static inline Quad load_ends(const float* a, const float* b) { return Quad{a[0], a[1], b[0], b[1]}; }
static inline void store_ends(float* a, float* b, Quad q) { a[0] = q[0], a[1] = q[1], b[0] = q[2], b[1] = q[3]; }
static inline Quad load_edge(const float* a) { return load_ends(a, a + 2); }
static inline void store_edge(float* a, Quad q) { store_ends(a, a + 2, q); }
#endif

template <int F>
static inline const float* row_of(const Work& w, const float* table, int k, int p) {
    return table + int64_t(w.row[k][p]) * F;
}

#ifdef WITH_AVX512
// The eight values that lie here, each twice: one for each feature.
static inline __m512 twice(const float* values) {
    const __m512i lanes = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(lanes, _mm512_castps256_ps512(_mm256_load_ps(values)));
}

// Row k, two features, of the eight points from p on.
static inline __m512 rows_of(const Work& w, const float* table, int k, int p) {
    const __m256i rows = _mm256_load_si256(reinterpret_cast<const __m256i*>(&w.row[k][p]));
    return _mm512_castpd_ps(_mm512_i32gather_pd(rows, table, 8));
}

// gather() for two features. Writes whole groups of eight points: `out` is a part of a plane, whose blocks are whole.
static_assert(BLOCK % 8 == 0, "a group of eight points lies in one block");
template <bool ALONG>
static void gather_pairs(const Work& w, const float* __restrict table, float* __restrict out, int count) {
    for (int p = 0; p < count; p += 8) {
        __m512 start = _mm512_setzero_ps(), end = start, start_along = start, end_along = start;
        for (int e = 0; e < 4; ++e) {
            const __m512 first = rows_of(w, table, 2 * e, p), second = rows_of(w, table, 2 * e + 1, p);
            const __m512 edge = twice(&w.edge[e][p]);
            start = _mm512_fmadd_ps(edge, first, start);
            end = _mm512_fmadd_ps(edge, second, end);
            if (!ALONG) continue;
            const __m512 edge_along = twice(&w.edge_along[e][p]);
            start_along = _mm512_fmadd_ps(edge_along, first, start_along);
            end_along = _mm512_fmadd_ps(edge_along, second, end_along);
        }
        const __m512 x = twice(&w.x[p]), difference = _mm512_sub_ps(end, start);
        __m512 value = _mm512_fmadd_ps(x, difference, start);
        if (ALONG) {
            value = _mm512_fmadd_ps(x, _mm512_sub_ps(end_along, start_along), start_along);
            value = _mm512_fmadd_ps(twice(&w.x_along[p]), difference, value);
        }
        _mm512_storeu_ps(out + 2 * p, value);
    }
}
#endif

// out [count, F] = the interpolated table; ALONG: its derivative along v.
template <int F, bool ALONG>
static void gather(const Work& w, const float* __restrict table, float* __restrict out, int count) {
#ifdef WITH_AVX512
    if constexpr (F == 2) return gather_pairs<ALONG>(w, table, out, count);
#endif
    for (int p = 0; p < count; ++p, out += F) {
        fetch_ahead<F>(w, table, p);
        const float x1 = w.x[p], x0 = 1.0f - x1;
        if constexpr (F == 2) {
            Quad plain = {}, along = {};
            for (int e = 0; e < 4; ++e) {
                const Quad ends = load_ends(row_of<F>(w, table, 2 * e, p), row_of<F>(w, table, 2 * e + 1, p));
                if (ALONG) along += w.edge_along[e][p] * ends;
                plain += w.edge[e][p] * ends;
            }
            if (ALONG) plain = along * Quad{x0, x0, x1, x1} + plain * (w.x_along[p] * Quad{-1.0f, -1.0f, 1.0f, 1.0f});
            else plain *= Quad{x0, x0, x1, x1};
            out[0] = plain[0] + plain[2];
            out[1] = plain[1] + plain[3];
        } else {
            float sum[F] = {};
            for (int k = 0; k < 8; ++k) {
                const float end = k & 1 ? x1 : x0, edge = w.edge[k / 2][p];
                float weight = end * edge;
                if (ALONG) weight = end * w.edge_along[k / 2][p] + (k & 1 ? edge : -edge) * w.x_along[p];
                const float* row = row_of<F>(w, table, k, p);
                for (int f = 0; f < F; ++f) sum[f] += weight * row[f];
            }
            for (int f = 0; f < F; ++f) out[f] = sum[f];
        }
    }
}

// The transpose of gather: table rows += weight * grad [count, F]. HASHED: the ends of an edge do not lie side by side.
template <int F, bool ALONG, bool HASHED>
static void scatter(const Work& w, const float* __restrict grad, float* __restrict table, int count) {
    for (int p = 0; p < count; ++p, grad += F) {
        if (HASHED) fetch_ahead<F>(w, table, p);
        const float x1 = w.x[p], x0 = 1.0f - x1;
        if constexpr (F == 2) {
            const Quad g = {grad[0], grad[1], grad[0], grad[1]};
            const Quad plain = g * Quad{x0, x0, x1, x1};
            const Quad across = ALONG ? g * (w.x_along[p] * Quad{-1.0f, -1.0f, 1.0f, 1.0f}) : g;
            for (int e = 0; e < 4; ++e) {
                float* a = table + int64_t(w.row[2 * e][p]) * F;
                float* b = HASHED ? table + int64_t(w.row[2 * e + 1][p]) * F : a + F;
                Quad sum = (HASHED ? load_ends(a, b) : load_edge(a)) + w.edge[e][p] * (ALONG ? across : plain);
                if (ALONG) sum += w.edge_along[e][p] * plain;
                if (HASHED) store_ends(a, b, sum);
                else store_edge(a, sum);
            }
        } else {
            for (int k = 0; k < 8; ++k) {
                const float end = k & 1 ? x1 : x0, edge = w.edge[k / 2][p];
                float weight = end * edge;
                if (ALONG) weight = end * w.edge_along[k / 2][p] + (k & 1 ? edge : -edge) * w.x_along[p];
                float* row = table + int64_t(w.row[k][p]) * F;
                for (int f = 0; f < F; ++f) row[f] += weight * grad[f];
            }
        }
    }
}

// w.dot = <grad, table row> of each corner.
template <int F>
static void project(Work& __restrict w, const float* __restrict table, const float* __restrict grad, int count) {
    for (int p = 0; p < count; ++p, grad += F) {
        fetch_ahead<F>(w, table, p);
        for (int k = 0; k < 8; ++k) {
            const float* row = row_of<F>(w, table, k, p);
            float sum = 0.0f;
            for (int f = 0; f < F; ++f) sum += grad[f] * row[f];
            w.dot[k][p] = sum;
        }
    }
}

// The trilinear function of the eight corners' dots: w.sum = its gradient with respect to the position, or, with
// CURVATURE, the matrix of its second derivatives times v.
template <bool CURVATURE>
static void gradient(Work& w) {
    for (int p = 0; p < BLOCK; ++p) {
        const float x = w.lerp[0][p], y = w.lerp[1][p], z = w.lerp[2][p];
        // along x: the difference and the value at each edge; then along y, then along z
        const float d0 = w.dot[1][p] - w.dot[0][p], d1 = w.dot[3][p] - w.dot[2][p];
        const float d2 = w.dot[5][p] - w.dot[4][p], d3 = w.dot[7][p] - w.dot[6][p];
        const float v0 = w.dot[0][p] + x * d0, v1 = w.dot[2][p] + x * d1;
        const float v2 = w.dot[4][p] + x * d2, v3 = w.dot[6][p] + x * d3;
        const float dx0 = d0 + y * (d1 - d0), dx1 = d2 + y * (d3 - d2);
        const float dy0 = v1 - v0, dy1 = v3 - v2;
        const float fx = dx0 + z * (dx1 - dx0), fy = dy0 + z * (dy1 - dy0);
        const float fz = (v2 + y * dy1) - (v0 + y * dy0);
        const float sx = w.slope[0][p], sy = w.slope[1][p], sz = w.slope[2][p];
        if (CURVATURE) {
            const float xy = (d1 - d0) + z * ((d3 - d2) - (d1 - d0)), xz = dx1 - dx0, yz = dy1 - dy0;
            const float a = w.v[0][p], b = w.v[1][p], c = w.v[2][p];
            w.sum[0][p] = a * w.bend[0][p] * fx + sx * (b * sy * xy + c * sz * xz);
            w.sum[1][p] = b * w.bend[1][p] * fy + sy * (a * sx * xy + c * sz * yz);
            w.sum[2][p] = c * w.bend[2][p] * fz + sz * (a * sx * xz + b * sy * yz);
        } else {
            w.sum[0][p] = sx * fx, w.sum[1][p] = sy * fy, w.sum[2][p] = sz * fz;
        }
    }
}

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

// Where a mesh's outline crosses the lines between pixels: crossings_reference of ops/antialias.py, with the same crossings in
// the same order. Threads share the images.

#include "rasterise_geometry.h"

#include <algorithm>

namespace {

struct Side {  // one side of a face: the edge from its smaller vertex (the place in the array) to high
    int64_t high, face;
    int forward;  // +1 where the face runs from low to high
};

struct Edges {  // sides sorted by their smaller, then larger vertex; those of vertex v are starts[v] .. starts[v + 1]
    std::vector<int64_t> starts;
    std::vector<Side> sides;
};

Edges sort_edges(const int64_t* faces, int64_t vertices, int64_t n_faces) {
    Edges edges{std::vector<int64_t>(size_t(vertices + 1), 0), std::vector<Side>(size_t(3 * n_faces))};
    for (int64_t i = 0; i < 3 * n_faces; ++i) {
        const int64_t a = faces[i], b = faces[i % 3 == 2 ? i - 2 : i + 1];
        ++edges.starts[size_t(std::min(a, b) + 1)];
    }
    for (int64_t v = 0; v < vertices; ++v) edges.starts[size_t(v + 1)] += edges.starts[size_t(v)];
    std::vector<int64_t> next(edges.starts.begin(), edges.starts.end() - 1);
    for (int64_t i = 0; i < 3 * n_faces; ++i) {
        const int64_t a = faces[i], b = faces[i % 3 == 2 ? i - 2 : i + 1];
        edges.sides[size_t(next[size_t(std::min(a, b))]++)] = {std::max(a, b), i / 3, a < b ? 1 : -1};
    }
    for (int64_t v = 0; v < vertices; ++v) {
        std::sort(edges.sides.begin() + edges.starts[size_t(v)], edges.sides.begin() + edges.starts[size_t(v + 1)],
                  [](const Side& a, const Side& b) { return a.high < b.high; });
    }
    return edges;
}

struct Crossing {
    int64_t inner, outer, a, b, slot, order;
    float share;
};

struct View {  // one image and the mesh in it
    const float* clip;
    std::vector<Pixel> at;
    const int64_t* ids;
    const float* depth;
    int64_t height, width;
    std::vector<Crossing> found;
};

// +1: seen from the front, -1: from the back.
int facing(const View& view, const int64_t* face) {
    const Pixel &a = view.at[size_t(face[0])], &b = view.at[size_t(face[1])], &c = view.at[size_t(face[2])];
    const float* clip = view.clip;
    const float twice = (c.column - a.column) * (b.row - a.row) - (b.column - a.column) * (c.row - a.row);
    return twice * (clip[4 * face[0] + 3] * clip[4 * face[1] + 3] * clip[4 * face[2] + 3]) < 0 ? -1 : 1;
}

// Walk over the rows (or columns) that an edge crosses; its faces lie on the left of a -> b (y up).
void walk(View& view, int64_t a, int64_t b) {
    const float *clip_a = view.clip + 4 * a, *clip_b = view.clip + 4 * b;
    const Pixel from = view.at[size_t(a)], to = view.at[size_t(b)];
    if (!(clip_a[3] > SMALLEST_W && clip_b[3] > SMALLEST_W)) return;
    for (int i = 0; i < 4; ++i) {
        if (!std::isfinite(clip_a[i]) || !std::isfinite(clip_b[i])) return;
    }
    const bool steep = std::fabs(to.row - from.row) > std::fabs(to.column - from.column);
    const float along_a = steep ? from.row : from.column, along_b = steep ? to.row : to.column;
    const float across_a = steep ? from.column : from.row, across_b = steep ? to.column : to.row;
    const float lines = float(steep ? view.height : view.width), size = float(steep ? view.width : view.height);
    const bool toward = (steep ? to.row - from.row : from.column - to.column) > 0;  // the larger pixel is the inner one
    const float z_a = clip_a[2] / clip_a[3], z_b = clip_b[2] / clip_b[3];
    const auto limit = [&](float x) { return int64_t(std::min(std::max(std::ceil(x), 0.0f), lines)); };
    const int64_t behind = limit(std::max(along_a, along_b));
    for (int64_t line = limit(std::min(along_a, along_b)); line < behind; ++line) {
        const float t = (float(line) - along_a) / (along_b - along_a);
        const float crossing = across_a + t * (across_b - across_a), low = std::floor(crossing);
        if (!(low >= 0 && low + 1 < size)) continue;
        const int64_t inner = int64_t(toward ? low + 1 : low), step = (steep ? 1 : view.width) * (toward ? -1 : 1);
        const int64_t pixel = steep ? line * view.width + inner : inner * view.width + line, other = pixel + step;
        const float z = z_a + t * (z_b - z_a);
        if (view.ids[pixel] < 0 || view.ids[pixel] == view.ids[other] || !(view.depth[other] >= z)) continue;
        const float share = toward ? low + 1 - crossing : crossing - low;
        view.found.push_back({pixel, other, a, b, pixel * 4 + steep * 2 + toward, int64_t(view.found.size()), share});
    }
}

// Of the crossings between the same two pixels keep the outermost, the last of equal ones.
void keep_outermost(std::vector<Crossing>& found) {
    std::sort(found.begin(), found.end(), [](const Crossing& x, const Crossing& y) {
        if (x.slot != y.slot) return x.slot < y.slot;
        return x.share != y.share ? x.share > y.share : x.order > y.order;
    });
    const auto same = [](const Crossing& x, const Crossing& y) { return x.slot == y.slot; };
    found.erase(std::unique(found.begin(), found.end(), same), found.end());
    std::sort(found.begin(), found.end(), [](const Crossing& x, const Crossing& y) { return x.order < y.order; });
}

void find_crossings(View& view, const Edges& edges, const int64_t* faces, int64_t n_faces, bool cull) {
    std::vector<int> front(static_cast<size_t>(n_faces));
    for (int64_t f = 0; f < n_faces; ++f) front[size_t(f)] = facing(view, faces + 3 * f);
    for (int64_t low = 0; low + 1 < int64_t(edges.starts.size()); ++low) {
        const int64_t behind = edges.starts[size_t(low + 1)];
        for (int64_t i = edges.starts[size_t(low)]; i < behind;) {
            const int64_t high = edges.sides[size_t(i)].high;
            int64_t total = 0, count = 0;
            for (; i < behind && edges.sides[size_t(i)].high == high; ++i) {
                const Side& side = edges.sides[size_t(i)];
                if (cull && front[size_t(side.face)] < 0) continue;
                total += front[size_t(side.face)] * side.forward, ++count;
            }
            if (count > 0 && total == count) walk(view, low, high);
            if (count > 0 && total == -count) walk(view, high, low);
        }
    }
    keep_outermost(view.found);
}

}  // namespace

// positions [B, V, 4], faces [F, 3], face_ids and depth [B, H, W] -> count [1] and, as far as they have room for, inner, outer
// [capacity] and ends [capacity, 2].
EXPORT void outline_crossings(
    const float* positions, const int64_t* faces, const int64_t* face_ids, const float* depth, int64_t images,
    int64_t vertices, int64_t n_faces, int64_t height, int64_t width, int64_t cull, int64_t capacity, int64_t* count,
    int64_t* inner, int64_t* outer, int64_t* ends, int threads) {
    const Edges edges = sort_edges(faces, vertices, n_faces);
    std::vector<View> views(static_cast<size_t>(images));
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t image = 0; image < images; ++image) {
        const float* clip = positions + image * vertices * 4;
        const int64_t first = image * height * width;
        View& view = views[size_t(image)];
        view = {clip, to_pixels(clip, vertices, height, width, 1), face_ids + first, depth + first, height, width, {}};
        find_crossings(view, edges, faces, n_faces, cull != 0);
    }
    int64_t n = 0;
    for (int64_t image = 0; image < images; ++image) {
        for (const Crossing& c : views[size_t(image)].found) {
            if (n < capacity) {
                inner[n] = c.inner + image * height * width, outer[n] = c.outer + image * height * width;
                ends[2 * n] = c.a + image * vertices, ends[2 * n + 1] = c.b + image * vertices;
            }
            ++n;
        }
    }
    *count = n;
}

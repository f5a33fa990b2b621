// Causal attention for CPUs, compiled on the machine that runs it: row-normalised ReLU, and softmax.
//
// A block of query rows lies across the lanes of vector registers, so that scores, sums and maxima of a row never
// leave their lane: for a block of keys, scores = k qᵀ with k broadcast, then the weights, then zᵀ += vᵀ w with v
// broadcast. Sums are taken within a block of keys first, which keeps float32's rounding small.
//
// The bits of a row depend on its own q and on the k and v that it sees: not on threads, batch, heads or strides.

#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, WIDE = 4;
#elif defined(__AVX__)
constexpr int LANES = 8, WIDE = 2;
#elif defined(__aarch64__)
constexpr int LANES = 4, WIDE = 4;
#else
constexpr int LANES = 4, WIDE = 2;
#endif
constexpr int KEYS_AT_ONCE = 4;         // with WIDE vectors of query rows: sums that fit into the registers
constexpr int ROWS = WIDE * LANES;      // query rows of a block
constexpr int KEYS = 64;                // keys of a block
constexpr int TASK_ROWS = 8 * ROWS;     // query rows of a task
constexpr float CLAMP = 1e-8f;

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t Int __attribute__((vector_size(4 * LANES)));

struct Call {
    const void *q, *k, *v;
    void *z;
    int64_t n_batch, n_head, group, n_queries, n_visible, d_head;
    int64_t strides[4][4];  // of q, k, v, z: batch, head, row, dimension
    float scale;
    bool half;     // bfloat16, else float32
    bool softmax;  // else ReLU
};

inline Vec filled(float x) { return x - Vec{}; }

inline float widened(uint16_t x) {
    uint32_t bits = uint32_t(x) << 16;
    float y;
    std::memcpy(&y, &bits, 4);
    return y;
}

inline uint16_t rounded(float x) {  // to the nearest bfloat16, ties to even
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// exp(x) for x <= 0, to about one unit in the last place; 0 below -87, NaN for NaN.
inline Vec exponential(Vec x) {
    const Vec least = filled(-87.0f);
    Int live = ~(x < least);
    Vec y = live ? x : least;
    Vec t = y * 1.44269504f;
    Int n = __builtin_convertvector(t - 0.5f, Int);  // towards 0: the nearest of a negative number
    Vec whole = __builtin_convertvector(n, Vec);
    Vec r = y - whole * 0.693359375f;
    r = r + whole * 2.12194440e-4f;
    Vec p = filled(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    Vec power = (Vec)((n + 127) << 23);
    return live ? p * power : Vec{};
}

// Row `row` of a matrix in float32, padded with zeros to D.
template <int D>
inline void pack(float *to, const void *from, int64_t at, int64_t step, int64_t d_head, bool half) {
    int64_t c = 0;
    if (half) {
        const uint16_t *x = static_cast<const uint16_t *>(from) + at;
        for (; c < d_head; c++) to[c] = widened(x[c * step]);
    } else {
        const float *x = static_cast<const float *>(from) + at;
        if (step == 1) std::memcpy(to, x, 4 * d_head), c = d_head;
        for (; c < d_head; c++) to[c] = x[c * step];
    }
    for (; c < D; c++) to[c] = 0;
}

// scores [n_keys, ROWS] = k qᵀ of up to KEYS keys, of which `last` is the last one that may be read.
template <int D>
inline void scores_of(Vec *scores, const float *k, const Vec *q, int64_t first, int64_t n_keys, int64_t last) {
    for (int64_t j = 0; j < n_keys; j += KEYS_AT_ONCE) {
        const float *key[KEYS_AT_ONCE];
        for (int t = 0; t < KEYS_AT_ONCE; t++) {
            int64_t at = first + j + t;
            key[t] = k + (at < last ? at : last) * D;
        }
        Vec acc[KEYS_AT_ONCE][WIDE] = {};
        for (int c = 0; c < D; c++)
#pragma GCC unroll 4
            for (int t = 0; t < KEYS_AT_ONCE; t++) {
                float x = key[t][c];
#pragma GCC unroll 4
                for (int w = 0; w < WIDE; w++) acc[t][w] += x * q[c * WIDE + w];
            }
#pragma GCC unroll 4
        for (int t = 0; t < KEYS_AT_ONCE; t++)
#pragma GCC unroll 4
            for (int w = 0; w < WIDE; w++) scores[(j + t) * WIDE + w] = acc[t][w];
    }
}

// zᵀ [D, ROWS] += vᵀ w of one block of keys.
template <int D>
inline void add_values(Vec *z, const Vec *weights, const float *v, int64_t n_keys) {
    for (int c = 0; c < D; c += KEYS_AT_ONCE) {
        Vec acc[KEYS_AT_ONCE][WIDE] = {};
        for (int64_t j = 0; j < n_keys; j++)
#pragma GCC unroll 4
            for (int t = 0; t < KEYS_AT_ONCE; t++) {
                float x = v[j * D + c + t];
#pragma GCC unroll 4
                for (int w = 0; w < WIDE; w++) acc[t][w] += x * weights[j * WIDE + w];
            }
#pragma GCC unroll 4
        for (int t = 0; t < KEYS_AT_ONCE; t++)
#pragma GCC unroll 4
            for (int w = 0; w < WIDE; w++) z[(c + t) * WIDE + w] += acc[t][w];
    }
}

// One block of query rows, `first_row` the first, against the packed keys and values.
template <int D>
void block(const Call &call, int64_t batch, int64_t head, int64_t first_row, const float *k, const float *v) {
    alignas(64) Vec q[D * WIDE], z[D * WIDE] = {}, weights[KEYS * WIDE];
    alignas(64) float row[D], lanes[ROWS];
    const int64_t n_rows = call.n_queries - first_row < ROWS ? call.n_queries - first_row : ROWS;
    const int64_t offset = call.n_visible - call.n_queries + first_row;  // the last key that the first row sees
    const int64_t n_keys = offset + n_rows;
    float *turned = reinterpret_cast<float *>(q);
    for (int64_t i = 0; i < ROWS; i++) {
        const int64_t *s = call.strides[0];
        if (i < n_rows)
            pack<D>(row, call.q, batch * s[0] + head * s[1] + (first_row + i) * s[2], s[3], call.d_head, call.half);
        else
            std::memset(row, 0, sizeof row);
        for (int c = 0; c < D; c++) turned[c * ROWS + i] = row[c];
    }
    Vec total[WIDE] = {}, peak[WIDE];
    Int place[WIDE];
    for (int w = 0; w < WIDE; w++) {
        peak[w] = filled(-1e30f);
        for (int i = 0; i < LANES; i++) place[w][i] = w * LANES + i;
    }
    for (int64_t first = 0; first < n_keys; first += KEYS) {
        const int64_t n = n_keys - first < KEYS ? n_keys - first : KEYS;
        scores_of<D>(weights, k, q, first, n, n_keys - 1);
        const int64_t unmasked = offset + 1 - first < n ? offset + 1 - first : n;
        Vec sum[WIDE] = {};
        if (call.softmax) {
            Vec most[WIDE], shrink[WIDE];
            for (int w = 0; w < WIDE; w++) most[w] = peak[w];
            for (int64_t j = 0; j < n; j++)
                for (int w = 0; w < WIDE; w++) {
                    Vec s = weights[j * WIDE + w] * call.scale;
                    if (j >= unmasked) s = place[w] >= int32_t(first + j - offset) ? s : filled(-1e30f);
                    weights[j * WIDE + w] = s;
                    most[w] = s > most[w] ? s : most[w];
                }
            for (int w = 0; w < WIDE; w++) {
                shrink[w] = exponential(peak[w] - most[w]);
                peak[w] = most[w];
            }
            for (int64_t j = 0; j < n; j++)
                for (int w = 0; w < WIDE; w++) {
                    Vec p = exponential(weights[j * WIDE + w] - most[w]);
                    weights[j * WIDE + w] = p;
                    sum[w] += p;
                }
            for (int w = 0; w < WIDE; w++) total[w] *= shrink[w];
            for (int c = 0; c < D; c++)
                for (int w = 0; w < WIDE; w++) z[c * WIDE + w] *= shrink[w];
        } else {
            for (int64_t j = 0; j < n; j++)
                for (int w = 0; w < WIDE; w++) {
                    Vec s = weights[j * WIDE + w];
                    s = Vec{} > s ? Vec{} : s;  // NaN stays
                    if (j >= unmasked) s = place[w] >= int32_t(first + j - offset) ? s : Vec{};
                    weights[j * WIDE + w] = s;
                    sum[w] += s;
                }
        }
        for (int w = 0; w < WIDE; w++) total[w] += sum[w];
        add_values<D>(z, weights, v + first * D, n);
    }
    for (int w = 0; w < WIDE; w++) {
        Vec l = total[w];
        if (!call.softmax) {
            l *= call.scale;
            l = filled(CLAMP) > l ? filled(CLAMP) : l;
        }
        l = (call.softmax ? 1.0f : call.scale) / l;
        std::memcpy(lanes + w * LANES, &l, sizeof l);
    }
    const float *sums = reinterpret_cast<const float *>(z);
    const int64_t *s = call.strides[3];
    for (int64_t i = 0; i < n_rows; i++) {
        int64_t at = batch * s[0] + head * s[1] + (first_row + i) * s[2];
        if (call.half) {
            uint16_t *to = static_cast<uint16_t *>(call.z) + at;
            for (int64_t c = 0; c < call.d_head; c++) to[c * s[3]] = rounded(sums[c * ROWS + i] * lanes[i]);
        } else {
            float *to = static_cast<float *>(call.z) + at;
            for (int64_t c = 0; c < call.d_head; c++) to[c * s[3]] = sums[c * ROWS + i] * lanes[i];
        }
    }
}

// Tasks are strips of query rows of one head, the longest first; threads take the next one until none is left.
template <int D>
void work(const Call &call, std::atomic<int64_t> &next) {
    const int64_t n_pairs = call.n_batch * call.n_head;
    const int64_t n_strips = (call.n_queries + TASK_ROWS - 1) / TASK_ROWS;
    std::vector<float> k(call.n_visible * D), v(call.n_visible * D);
    for (int64_t task; (task = next++) < n_pairs * n_strips;) {
        const int64_t batch = task % n_pairs / call.n_head, head = task % call.n_head;
        const int64_t start = (n_strips - 1 - task / n_pairs) * TASK_ROWS;
        const int64_t end = start + TASK_ROWS < call.n_queries ? start + TASK_ROWS : call.n_queries;
        const int64_t n_keys = call.n_visible - call.n_queries + end;
        for (int64_t j = 0; j < n_keys; j++) {
            const int64_t *s = call.strides[1], *t = call.strides[2];
            const int64_t kv = head / call.group;
            pack<D>(k.data() + j * D, call.k, batch * s[0] + kv * s[1] + j * s[2], s[3], call.d_head, call.half);
            pack<D>(v.data() + j * D, call.v, batch * t[0] + kv * t[1] + j * t[2], t[3], call.d_head, call.half);
        }
        for (int64_t row = start; row < end; row += ROWS) block<D>(call, batch, head, row, k.data(), v.data());
    }
}

template <int D>
void run(const Call &call, int64_t n_threads) {
    std::atomic<int64_t> next{0};
    std::vector<std::thread> others;
    for (int64_t i = 1; i < n_threads; i++) others.emplace_back(work<D>, std::cref(call), std::ref(next));
    work<D>(call, next);
    for (auto &other : others) other.join();
}

}  // namespace

// sizes: batch, heads, query heads of a key head, queries, visible keys, d_head; strides of q, k, v and z, four each.
extern "C" int attention(const void *q, const void *k, const void *v, void *z, const int64_t *sizes,
                         const int64_t *strides, float scale, int half, int softmax, int64_t n_threads) {
    Call call{q, k, v, z, sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], {}, scale, half != 0, softmax != 0};
    std::memcpy(call.strides, strides, sizeof call.strides);
    const int64_t d = call.d_head;
    try {
        if (d <= 8) run<8>(call, n_threads);
        else if (d <= 12) run<12>(call, n_threads);
        else if (d <= 16) run<16>(call, n_threads);
        else if (d <= 32) run<32>(call, n_threads);
        else if (d <= 64) run<64>(call, n_threads);
        else if (d <= 128) run<128>(call, n_threads);
        else return 1;
    } catch (...) {
        return 2;
    }
    return 0;
}

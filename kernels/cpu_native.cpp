// Causal attention for CPUs, compiled on the machine that runs it: row-normalised ReLU, and softmax. And what comes
// last in a pass, the likelihood of tokens under rows of logits.
//
// A block of query rows lies across the lanes of vector registers, so that scores, sums and maxima of a row never
// leave their lane: for a block of keys, scores = k qᵀ with k broadcast, then the weights, then zᵀ += vᵀ w with v
// broadcast. Sums are taken within a block of keys first, which keeps float32's rounding small.
//
// Where the processor multiplies bfloat16 matrices (AMX), ReLU of bfloat16 goes through that: see `matrix_block`.
//
// The bits of a row depend on its own q and on the k and v that it sees: not on threads, batch, heads or strides.

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>
#include <vector>

#define APART __attribute__((noinline))  // a loop of its own: it needs all of the registers

// Keeps a vector in its register, where a compiler would read it from memory for each of its uses: a loop of products
// waits for reads before it waits for multiplications.
#if defined(__AVX__)
#define HELD(x) asm("" : "+v"(x))
#elif defined(__aarch64__)
#define HELD(x) asm("" : "+w"(x))
#else
#define HELD(x)
#endif

#if defined(__AVX__)
#include <immintrin.h>
#endif
#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__linux__)
#define MATRIX_UNIT 1
#include <sys/syscall.h>
#include <unistd.h>
#endif

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
constexpr float BOUND = 60.0f;          // scores up to here need no maximum taken off: sums stay in range

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

// exp(x) for -87 <= x <= 87, to about one unit in the last place; NaN for NaN.
inline Vec exponential(Vec x) {
    const Vec shift = filled(12582912.0f);  // 1.5 * 2^23: what is added to it is rounded to a whole number
    const Vec shifted = x * 1.44269504f + shift;
    const Vec whole = shifted - shift;
    Vec r = x - whole * 0.693359375f;
    r = r + whole * 2.12194440e-4f;
    Vec p = filled(1.38436467e-3f);
    p = p * r + 8.37416109e-3f;
    p = p * r + 4.16680016e-2f;
    p = p * r + 1.66664317e-1f;
    p = p * r + 4.9999994e-1f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return (Vec)((Int)p + ((Int)shifted << 23));
}

inline Vec larger(Vec a, Vec b) {  // b where one of them is NaN
#if defined(__AVX512F__)
    return (Vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
    return (Vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
}

inline Vec exponential_of_negative(Vec x) { return exponential(larger(filled(-87.0f), x)); }

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

// acc [KEYS_AT_ONCE, ROWS] += `number`(t) `row`, t from 0 to KEYS_AT_ONCE - 1; the row is read once for all of them.
template <class Number>
inline void add_products(Vec (&acc)[KEYS_AT_ONCE][WIDE], const Vec *row, Number number) {
    Vec held[WIDE];
#pragma GCC unroll 4
    for (int w = 0; w < WIDE; w++) {
        held[w] = row[w];
        HELD(held[w]);
    }
#pragma GCC unroll 4
    for (int t = 0; t < KEYS_AT_ONCE; t++) {
        const float x = number(t);
#pragma GCC unroll 4
        for (int w = 0; w < WIDE; w++) acc[t][w] += x * held[w];
    }
}

// acc [KEYS_AT_ONCE, ROWS] = k qᵀ of keys `at` and on, of which `last` is the last one that may be read.
template <int D>
inline void score(Vec (&acc)[KEYS_AT_ONCE][WIDE], const float *k, const Vec *q, int64_t at, int64_t last) {
    const float *key[KEYS_AT_ONCE];
    for (int t = 0; t < KEYS_AT_ONCE; t++) key[t] = k + (at + t < last ? at + t : last) * D;
    for (int c = 0; c < D; c++) add_products(acc, q + c * WIDE, [&](int t) { return key[t][c]; });
}

// scores [n_keys, ROWS] = k qᵀ of up to KEYS keys.
template <int D>
APART void scores_of(Vec *scores, const float *k, const Vec *q, int64_t first, int64_t n_keys, int64_t last) {
    for (int64_t j = 0; j < n_keys; j += KEYS_AT_ONCE) {
        Vec acc[KEYS_AT_ONCE][WIDE] = {};
        score<D>(acc, k, q, first + j, last);
#pragma GCC unroll 4
        for (int t = 0; t < KEYS_AT_ONCE; t++)
#pragma GCC unroll 4
            for (int w = 0; w < WIDE; w++) scores[(j + t) * WIDE + w] = acc[t][w];
    }
}

// weights [n_keys, ROWS], `form` of the scores of up to KEYS keys, and their sums; those past `unmasked` are 0 where a
// row does not see the key.
template <int D, class Form, class Visible>
APART void weights_of(Form form, Vec *weights, Vec *sum, const float *k, const Vec *q, int64_t first, int64_t n_keys,
                      int64_t last, int64_t unmasked, Visible visible) {
    Vec total[WIDE] = {};
    int64_t j = 0;
    for (; j + KEYS_AT_ONCE <= unmasked; j += KEYS_AT_ONCE) {
        Vec acc[KEYS_AT_ONCE][WIDE] = {};
        score<D>(acc, k, q, first + j, last);
#pragma GCC unroll 4
        for (int t = 0; t < KEYS_AT_ONCE; t++)
#pragma GCC unroll 4
            for (int w = 0; w < WIDE; w++) {
                const Vec weight = form(acc[t][w]);
                weights[(j + t) * WIDE + w] = weight;
                total[w] += weight;
            }
    }
    for (; j < n_keys; j += KEYS_AT_ONCE) {
        Vec acc[KEYS_AT_ONCE][WIDE] = {};
        score<D>(acc, k, q, first + j, last);
        for (int t = 0; t < KEYS_AT_ONCE && j + t < n_keys; t++)
            for (int w = 0; w < WIDE; w++) {
                const Vec weight = visible(j + t, w) ? form(acc[t][w]) : Vec{};
                weights[(j + t) * WIDE + w] = weight;
                total[w] += weight;
            }
    }
    for (int w = 0; w < WIDE; w++) sum[w] = total[w];
}

// zᵀ [D, ROWS] += vᵀ w of one block of keys.
template <int D>
APART void add_values(Vec *z, const Vec *weights, const float *v, int64_t n_keys) {
    for (int c = 0; c < D; c += KEYS_AT_ONCE) {
        Vec acc[KEYS_AT_ONCE][WIDE] = {};
        for (int64_t j = 0; j < n_keys; j++)
            add_products(acc, weights + j * WIDE, [&](int t) { return v[j * D + c + t]; });
#pragma GCC unroll 4
        for (int t = 0; t < KEYS_AT_ONCE; t++)
#pragma GCC unroll 4
            for (int w = 0; w < WIDE; w++) z[(c + t) * WIDE + w] += acc[t][w];
    }
}

// The keys and values of one head in float32, rows padded with zeros to D, as far as they have been packed.
template <int D>
struct Keys {
    std::vector<float> k, v, longest;  // longest: the largest |k|^2 up to each key
    int64_t own = -1, n = 0;

    explicit Keys(int64_t n_visible) : k(n_visible * D), v(n_visible * D), longest(n_visible) {}

    void pack_up_to(int64_t end, const Call &call, int64_t batch, int64_t kv) {
        if (own != batch * call.n_head + kv) own = batch * call.n_head + kv, n = 0;
        const int64_t *s = call.strides[1], *t = call.strides[2];
        for (; n < end; n++) {
            float *key = k.data() + n * D, size = 0;
            pack<D>(key, call.k, batch * s[0] + kv * s[1] + n * s[2], s[3], call.d_head, call.half);
            pack<D>(v.data() + n * D, call.v, batch * t[0] + kv * t[1] + n * t[2], t[3], call.d_head, call.half);
            for (int c = 0; c < D; c++) size += key[c] * key[c];
            longest[n] = n > 0 && longest[n - 1] > size ? longest[n - 1] : size;
        }
    }
};

// One block of query rows, `first_row` the first, against the packed keys and values.
template <int D>
void block(const Call &call, int64_t batch, int64_t head, int64_t first_row, const Keys<D> &keys) {
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
    // A bounded row has its weights in range without its maximum taken off: |q| |k| says so, of the keys that it sees.
    Vec total[WIDE] = {}, peak[WIDE];
    Int place[WIDE], bounded[WIDE];
    const float most_allowed = BOUND / call.scale * (BOUND / call.scale);
    bool all_bounded = true;
    for (int w = 0; w < WIDE; w++) {
        Vec size = {};
        for (int c = 0; c < D; c++) size += q[c * WIDE + w] * q[c * WIDE + w];
        for (int i = 0; i < LANES; i++) {
            const int64_t last = offset + w * LANES + i;
            place[w][i] = w * LANES + i;
            bounded[w][i] = size[i] * keys.longest[last < n_keys ? last : n_keys - 1] <= most_allowed ? -1 : 0;
            all_bounded &= bounded[w][i] != 0;
        }
        peak[w] = bounded[w] ? Vec{} : filled(-1e30f);
    }
    for (int64_t first = 0; first < n_keys; first += KEYS) {
        const int64_t n = n_keys - first < KEYS ? n_keys - first : KEYS;
        const int64_t unmasked = offset + 1 - first < n ? offset + 1 - first : n;
        const auto visible = [&](int64_t j, int w) { return place[w] >= int32_t(first + j - offset); };
        Vec sum[WIDE] = {};
        if (!call.softmax) {
            const auto weight = [](Vec s) { return larger(Vec{}, s); };
            weights_of<D>(weight, weights, sum, keys.k.data(), q, first, n, n_keys - 1, unmasked, visible);
        } else if (all_bounded) {
            const auto weight = [scale = call.scale](Vec s) { return exponential(s * scale); };
            weights_of<D>(weight, weights, sum, keys.k.data(), q, first, n, n_keys - 1, unmasked, visible);
        } else {
            scores_of<D>(weights, keys.k.data(), q, first, n, n_keys - 1);
            Vec most[WIDE];
            for (int w = 0; w < WIDE; w++) most[w] = peak[w];
            for (int64_t j = 0; j < n; j++)
                for (int w = 0; w < WIDE; w++) {
                    const Vec s = weights[j * WIDE + w] * call.scale;
                    const Int taken = j < unmasked ? ~bounded[w] : ~bounded[w] & visible(j, w);
                    most[w] = larger(taken ? s : most[w], most[w]);
                }
            for (int w = 0; w < WIDE; w++) {
                const Vec shrink = exponential_of_negative(peak[w] - most[w]);
                peak[w] = most[w];
                total[w] *= shrink;
                for (int c = 0; c < D; c++) z[c * WIDE + w] *= shrink;
            }
            for (int64_t j = 0; j < n; j++)
                for (int w = 0; w < WIDE; w++) {
                    const Vec weight = exponential_of_negative(weights[j * WIDE + w] * call.scale - peak[w]);
                    weights[j * WIDE + w] = visible(j, w) ? weight : Vec{};
                    sum[w] += weights[j * WIDE + w];
                }
        }
        for (int w = 0; w < WIDE; w++) total[w] += sum[w];
        add_values<D>(z, weights, keys.v.data() + first * D, n);
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

#if MATRIX_UNIT

// A tile register holds 16 rows of 64 bytes: 16 x 32 bfloat16 as a left operand; 32 x 16 as a right one, its rows in
// pairs (the two elements that a sum meets next to each other lie side by side); 16 x 16 float32 as a result.
constexpr int TILE = 16, DEEP = 32, M_ROWS = 2 * TILE, M_KEYS = 256;

struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes_of_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Whether the system lets this process use the tile registers.
bool may_use_tiles() {
    constexpr long ask_permission = 0x1023, tile_data = 18;
    static const bool granted = syscall(SYS_arch_prctl, ask_permission, tile_data) == 0;
    return granted;
}

// acc[32][32] (two by two tiles, rows `step` floats apart) of left [32 rows][n] and right tiles [n / 32][2].
inline void multiply(float *acc, int64_t step, const uint16_t *left, int64_t left_step, const uint16_t *right,
                     int64_t right_step, int64_t n, bool add) {
    if (add) {
        _tile_loadd(0, acc, 4 * step);
        _tile_loadd(1, acc + TILE, 4 * step);
        _tile_loadd(2, acc + TILE * step, 4 * step);
        _tile_loadd(3, acc + TILE * step + TILE, 4 * step);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t at = 0; at < n; at += DEEP, right += right_step) {
        _tile_loadd(4, left + at, 2 * left_step);
        _tile_loadd(6, right, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, right + TILE * DEEP, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, left + TILE * left_step + at, 2 * left_step);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, acc, 4 * step);
    _tile_stored(1, acc + TILE, 4 * step);
    _tile_stored(2, acc + TILE * step, 4 * step);
    _tile_stored(3, acc + TILE * step + TILE, 4 * step);
}

// A row of d_head bfloat16, `step` apart, padded with zeros to D where `there`, else all zeros.
template <int D>
inline void take_row(uint16_t *to, const uint16_t *from, int64_t step, int64_t d_head, bool there) {
    int64_t c = 0;
    if (there && step == 1) std::memcpy(to, from, 2 * d_head), c = d_head;
    if (there && step != 1)
        for (; c < d_head; c++) to[c] = from[c * step];
    if (c < D) std::memset(to + c, 0, 2 * (D - c));
}

// Keys `from` to `to`, and their values, of one head as right operands, zeros past the visible ones: k as
// [S / 32][D / 32][2] tiles of [d, key], v as [S / 32][D / 16] tiles of [key, d]. Both numbers are multiples of 32.
template <int D>
void pack_pairs(uint16_t *k, uint16_t *v, const Call &call, int64_t batch, int64_t kv, int64_t from, int64_t to) {
    const int64_t *s = call.strides[1], *t = call.strides[2];
    const uint16_t *keys = static_cast<const uint16_t *>(call.k) + batch * s[0] + kv * s[1];
    const uint16_t *values = static_cast<const uint16_t *>(call.v) + batch * t[0] + kv * t[1];
    alignas(64) uint16_t rows[2][D];
    const __m512i down = _mm512_mullo_epi32(_mm512_set1_epi32(TILE), _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6,
                                                                                    5, 4, 3, 2, 1, 0));
    for (int64_t j = from; j < to; j++) {
        take_row<D>(rows[0], keys + j * s[2], s[3], call.d_head, j < call.n_visible);
        uint16_t *column = k + j / DEEP * DEEP * D + j % DEEP / TILE * TILE * DEEP + j % TILE * 2;
        for (int c = 0; c < D; c += DEEP)
            _mm512_i32scatter_epi32(column + c * DEEP, down, _mm512_load_si512(rows[0] + c), 4);
    }
    for (int64_t j = from; j < to; j += 2) {
        for (int i = 0; i < 2; i++)
            take_row<D>(rows[i], values + (j + i) * t[2], t[3], call.d_head, j + i < call.n_visible);
        uint16_t *pair = v + j / DEEP * DEEP * D + j % DEEP / 2 * DEEP;
        for (int c = 0; c < D; c += TILE) {
            __m512i even = _mm512_cvtepu16_epi32(_mm256_load_si256(reinterpret_cast<__m256i *>(rows[0] + c)));
            __m512i odd = _mm512_cvtepu16_epi32(_mm256_load_si256(reinterpret_cast<__m256i *>(rows[1] + c)));
            _mm512_store_si512(pair + c * DEEP, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
        }
    }
}

// ReLU of 32 query rows: products of bfloat16 with float32 sums, weights rounded to bfloat16 between the two, row sums
// from the weights before rounding. D is a multiple of 32.
template <int D>
void matrix_block(const Call &call, int64_t batch, int64_t head, int64_t first_row, const uint16_t *k,
                  const uint16_t *v) {
    alignas(64) uint16_t q[M_ROWS * D], weights[M_ROWS * M_KEYS];
    alignas(64) float z[M_ROWS * D], scores[M_ROWS * DEEP];
    __m512 sums[M_ROWS];
    const int64_t n_rows = call.n_queries - first_row < M_ROWS ? call.n_queries - first_row : M_ROWS;
    const int64_t offset = call.n_visible - call.n_queries + first_row;  // the last key that the first row sees
    const int64_t n_keys = offset + n_rows;
    const int64_t *s = call.strides[0];
    const uint16_t *from = static_cast<const uint16_t *>(call.q) + batch * s[0] + head * s[1] + first_row * s[2];
    for (int64_t i = 0; i < M_ROWS; i++) take_row<D>(q + i * D, from + i * s[2], s[3], call.d_head, i < n_rows);
    for (auto &sum : sums) sum = _mm512_setzero_ps();
    const __m512 zero = _mm512_setzero_ps();
    for (int64_t first = 0; first < n_keys; first += M_KEYS) {
        const int64_t left = n_keys - first, n = left < M_KEYS ? (left + DEEP - 1) / DEEP * DEEP : M_KEYS;
        for (int64_t j = 0; j < n; j += DEEP) {
            multiply(scores, DEEP, q, D, k + (first + j) * D, DEEP * DEEP, D, false);
            const int64_t seen = offset + 1 - first - j;  // by the first row, each further one sees one more
            if (seen >= DEEP) {
#pragma GCC unroll 4
                for (int i = 0; i < M_ROWS; i++) {
                    __m512 a = _mm512_max_ps(zero, _mm512_load_ps(scores + i * DEEP));  // NaN stays
                    __m512 b = _mm512_max_ps(zero, _mm512_load_ps(scores + i * DEEP + TILE));
                    sums[i] = _mm512_add_ps(sums[i], _mm512_add_ps(a, b));
                    _mm512_store_si512(weights + i * M_KEYS + j, (__m512i)_mm512_cvtne2ps_pbh(b, a));
                }
            } else {
                for (int i = 0; i < M_ROWS; i++) {
                    const int64_t own = seen + i;
                    const uint32_t mask = own <= 0 ? 0 : own >= DEEP ? ~0u : (1u << own) - 1;
                    __m512 a = _mm512_maskz_max_ps(mask & 0xffff, zero, _mm512_load_ps(scores + i * DEEP));
                    __m512 b = _mm512_maskz_max_ps(mask >> 16, zero, _mm512_load_ps(scores + i * DEEP + TILE));
                    sums[i] = _mm512_add_ps(sums[i], _mm512_add_ps(a, b));
                    _mm512_store_si512(weights + i * M_KEYS + j, (__m512i)_mm512_cvtne2ps_pbh(b, a));
                }
            }
        }
        for (int c = 0; c < D; c += DEEP)
            multiply(z + c, D, weights, M_KEYS, v + first * D + c * DEEP, DEEP * D, n, first > 0);
    }
    s = call.strides[3];
    for (int64_t i = 0; i < n_rows; i++) {
        const float l = _mm512_reduce_add_ps(sums[i]) * call.scale;
        const __m512 factor = _mm512_set1_ps(call.scale / (CLAMP > l ? CLAMP : l));
        alignas(64) uint16_t row[D];
        for (int c = 0; c < D; c += DEEP) {
            __m512 a = _mm512_mul_ps(factor, _mm512_load_ps(z + i * D + c));
            __m512 b = _mm512_mul_ps(factor, _mm512_load_ps(z + i * D + c + TILE));
            _mm512_store_si512(row + c, (__m512i)_mm512_cvtne2ps_pbh(b, a));
        }
        uint16_t *to = static_cast<uint16_t *>(call.z) + batch * s[0] + head * s[1] + (first_row + i) * s[2];
        if (s[3] == 1) std::memcpy(to, row, 2 * call.d_head);
        else
            for (int64_t c = 0; c < call.d_head; c++) to[c * s[3]] = row[c];
    }
}

// As `work`; a thread keeps the keys and values that it packed last.
template <int D>
void matrix_work(const Call &call, std::atomic<int64_t> &next) {
    const TileShapes shapes;
    _tile_loadconfig(&shapes);
    const int64_t n_pairs = call.n_batch * call.n_head;
    const int64_t n_strips = (call.n_queries + TASK_ROWS - 1) / TASK_ROWS;
    const int64_t n_packed = (call.n_visible + DEEP - 1) / DEEP * DEEP;
    const size_t size = 2 * n_packed * D * sizeof(uint16_t);
    uint16_t *k = static_cast<uint16_t *>(std::aligned_alloc(64, size)), *v = k + n_packed * D;
    if (!k) throw std::bad_alloc();
    int64_t packed = -1, n_there = 0;
    for (int64_t task; (task = next++) < n_pairs * n_strips;) {
        const int64_t pair = task / n_strips, batch = pair / call.n_head, head = pair % call.n_head;
        const int64_t start = (n_strips - 1 - task % n_strips) * TASK_ROWS;
        const int64_t end = start + TASK_ROWS < call.n_queries ? start + TASK_ROWS : call.n_queries;
        const int64_t own = batch * call.n_head + head / call.group;
        const int64_t n_keys = (call.n_visible - call.n_queries + end + DEEP - 1) / DEEP * DEEP;
        if (own != packed) packed = own, n_there = 0;
        if (n_there < n_keys) pack_pairs<D>(k, v, call, batch, head / call.group, n_there, n_keys), n_there = n_keys;
        for (int64_t row = start; row < end; row += M_ROWS) matrix_block<D>(call, batch, head, row, k, v);
    }
    std::free(k);
    _tile_release();
}

#endif

// Tasks are strips of query rows of one head, the longest first; threads take the next one until none is left, and keep
// the keys and values that they packed last.
template <int D>
void work(const Call &call, std::atomic<int64_t> &next) {
    const int64_t n_pairs = call.n_batch * call.n_head;
    const int64_t n_strips = (call.n_queries + TASK_ROWS - 1) / TASK_ROWS;
    Keys<D> keys(call.n_visible);
    for (int64_t task; (task = next++) < n_pairs * n_strips;) {
        const int64_t pair = task / n_strips, batch = pair / call.n_head, head = pair % call.n_head;
        const int64_t start = (n_strips - 1 - task % n_strips) * TASK_ROWS;
        const int64_t end = start + TASK_ROWS < call.n_queries ? start + TASK_ROWS : call.n_queries;
        keys.pack_up_to(call.n_visible - call.n_queries + end, call, batch, head / call.group);
        for (int64_t row = start; row < end; row += ROWS) block<D>(call, batch, head, row, keys);
    }
}

// log Σ exp of n logits, NaN where one of them is NaN or plus infinity.
double log_sum_exp_of(const float *row, int64_t n) {
    const auto taken = [&](int64_t j) {
        Vec x = filled(-INFINITY);
        if (n - j >= LANES) std::memcpy(&x, row + j, sizeof x);
        else std::memcpy(&x, row + j, 4 * (n - j));
        return x;
    };
    Vec most[WIDE], sum[WIDE] = {};
    for (int w = 0; w < WIDE; w++) most[w] = filled(-INFINITY);
    for (int64_t j = 0; j < n; j += ROWS)
        for (int w = 0; w < WIDE && j + w * LANES < n; w++) most[w] = larger(taken(j + w * LANES), most[w]);
    float peak = most[0][0];
    for (int w = 0; w < WIDE; w++)
        for (int i = 0; i < LANES; i++) peak = most[w][i] > peak ? most[w][i] : peak;
    const Vec top = filled(peak);
    for (int64_t j = 0; j < n; j += ROWS)
        for (int w = 0; w < WIDE && j + w * LANES < n; w++)
            sum[w] += exponential_of_negative(taken(j + w * LANES) - top);
    double total = 0;
    for (int w = 0; w < WIDE; w++)
        for (int i = 0; i < LANES; i++) total += sum[w][i];
    return std::log(total) + peak;
}

using Work = void (*)(const Call &, std::atomic<int64_t> &);

// Whether all of it fitted into memory. OpenMP's threads are PyTorch's own where the two share a runtime; threads of
// ours would have to wait until those no longer spin for more work.
bool run(Work work, const Call &call, int64_t n_threads) {
    std::atomic<int64_t> next{0};
    std::atomic<bool> fitted{true};
    const auto share = [&] {
        try {
            work(call, next);
        } catch (...) {
            fitted = false;
        }
    };
#ifdef _OPENMP
#pragma omp parallel num_threads(n_threads) if (n_threads > 1)
    share();
#else
    std::vector<std::thread> others;
    for (int64_t i = 1; i < n_threads; i++) others.emplace_back(share);
    share();
    for (auto &other : others) other.join();
#endif
    return fitted;
}

Work chosen(const Call &call) {
    const int64_t d = call.d_head;
#if MATRIX_UNIT
    if (call.half && !call.softmax && may_use_tiles()) {
        if (d <= 32) return matrix_work<32>;
        if (d <= 64) return matrix_work<64>;
        if (d <= 96) return matrix_work<96>;
        if (d <= 128) return matrix_work<128>;
    }
#endif
    if (d <= 8) return work<8>;
    if (d <= 12) return work<12>;
    if (d <= 16) return work<16>;
    if (d <= 32) return work<32>;
    if (d <= 64) return work<64>;
    if (d <= 128) return work<128>;
    return nullptr;
}

}  // namespace

// sizes: batch, heads, query heads of a key head, queries, visible keys, d_head; strides of q, k, v and z, four each.
extern "C" int attention(const void *q, const void *k, const void *v, void *z, const int64_t *sizes,
                         const int64_t *strides, float scale, int half, int softmax, int64_t n_threads) {
    Call call{q, k, v, z, sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], {}, scale, half != 0, softmax != 0};
    std::memcpy(call.strides, strides, sizeof call.strides);
    const Work work = chosen(call);
    if (!work) return 1;
    return run(work, call, n_threads) ? 0 : 2;
}

// sums [n_rows] of logits [n_rows, n_columns], rows `step` apart.
extern "C" void log_sum_exp(const float *logits, int64_t step, double *sums, int64_t n_rows, int64_t n_columns,
                            int64_t n_threads) {
#ifdef _OPENMP
#pragma omp parallel for num_threads(n_threads) if (n_threads > 1)
#else
    (void)n_threads;
#endif
    for (int64_t i = 0; i < n_rows; i++) sums[i] = log_sum_exp_of(logits + i * step, n_columns);
}

// Causal row-normalised ReLU attention for Apple GPUs. Prefixed at compile time by
//     #define ELEMENT float | half | bfloat      #define D_HEAD 1 ... 128
// q, k, v, z are addressed by strides (batch, head, position), with stride 1 along d. All arithmetic is in float.

#include <metal_stdlib>
using namespace metal;

#define D_PADDED ((D_HEAD + 15) / 16 * 16)
#define D_VECTORS (D_PADDED / 4)
#define D_OWNED (D_PADDED / 16)
#define ROWS 32
#define KEYS (D_PADDED > 64 ? 16 : 32)
#define THREADS 128
#define ROWS_OWNED 4
#define KEYS_OWNED (KEYS / 16)
#define CLAMP 1e-8f

#define DECODE_THREADS 256
#define DECODE_KEYS 64
#define STRIPS (DECODE_THREADS / D_PADDED)

// Grid (tiles of 32 query rows, batch x heads), 128 threads: 8 groups of 4 rows by 16 columns of keys or dimensions.
// The longest rows start first. `n_visible` counts the keys that the last query sees; below 0, `visible` holds it.
kernel void relu_forward(
    device const ELEMENT* q, device const ELEMENT* k, device const ELEMENT* v, device ELEMENT* z,
    device const int* visible, constant long& n_visible, constant float& scale,
    constant long& n_head, constant long& kv_group, constant long& n_queries,
    constant long& q_batch, constant long& q_head, constant long& q_row,
    constant long& k_batch, constant long& k_head, constant long& k_row,
    constant long& v_batch, constant long& v_head, constant long& v_row,
    constant long& z_batch, constant long& z_head, constant long& z_row,
    uint3 group [[threadgroup_position_in_grid]], uint3 groups [[threadgroups_per_grid]],
    uint index [[thread_index_in_threadgroup]])
{
    threadgroup float4 queries[ROWS][D_VECTORS];
    threadgroup float4 tile[KEYS][D_VECTORS];  // keys, then the values of the same positions
    threadgroup float weights[ROWS][KEYS];
    threadgroup float sums[ROWS][16];

    const long n_keys = n_visible < 0 ? long(visible[0]) : n_visible;
    const long first_key = n_keys - n_queries;
    const long first_row = long(groups.x - 1 - group.x) * ROWS;
    const long batch = long(group.y) / n_head, head = long(group.y) % n_head;
    q += batch * q_batch + head * q_head;
    k += batch * k_batch + head / kv_group * k_head;
    v += batch * v_batch + head / kv_group * v_head;
    z += batch * z_batch + head * z_head;

    for (uint i = index; i < ROWS * D_PADDED; i += THREADS) {
        const uint row = i / D_PADDED, dim = i % D_PADDED;
        const bool inside = first_row + row < n_queries && dim < D_HEAD;
        queries[row][dim / 4][dim % 4] = inside ? float(q[(first_row + row) * q_row + dim]) : 0.0f;
    }

    const uint own_row = index / 16 * ROWS_OWNED, column = index % 16;
    float result[ROWS_OWNED][D_OWNED], row_sum[ROWS_OWNED];
    for (uint r = 0; r < ROWS_OWNED; r++) {
        row_sum[r] = 0.0f;
        for (uint d = 0; d < D_OWNED; d++) result[r][d] = 0.0f;
    }

    const long end = min(n_keys, first_key + first_row + ROWS);
    for (long start = 0; start < end; start += KEYS) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint i = index; i < KEYS * D_PADDED; i += THREADS) {
            const uint key = i / D_PADDED, dim = i % D_PADDED;
            const bool inside = start + key < end && dim < D_HEAD;
            tile[key][dim / 4][dim % 4] = inside ? float(k[(start + key) * k_row + dim]) : 0.0f;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);

        float scores[ROWS_OWNED][KEYS_OWNED];
        for (uint r = 0; r < ROWS_OWNED; r++)
            for (uint c = 0; c < KEYS_OWNED; c++) scores[r][c] = 0.0f;
        for (uint d = 0; d < D_VECTORS; d++)
            for (uint c = 0; c < KEYS_OWNED; c++) {
                const float4 key = tile[column + 16 * c][d];
                for (uint r = 0; r < ROWS_OWNED; r++) scores[r][c] += dot(queries[own_row + r][d], key);
            }
        for (uint r = 0; r < ROWS_OWNED; r++)
            for (uint c = 0; c < KEYS_OWNED; c++) {
                const bool seen = start + column + 16 * c <= first_key + first_row + own_row + r;
                const float w = seen ? max(scores[r][c], 0.0f) : 0.0f;
                row_sum[r] += w;
                weights[own_row + r][column + 16 * c] = w;
            }
        threadgroup_barrier(mem_flags::mem_threadgroup);

        for (uint i = index; i < KEYS * D_PADDED; i += THREADS) {
            const uint key = i / D_PADDED, dim = i % D_PADDED;
            const bool inside = start + key < end && dim < D_HEAD;
            tile[key][dim / 4][dim % 4] = inside ? float(v[(start + key) * v_row + dim]) : 0.0f;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);

        for (uint key = 0; key < KEYS; key++)
            for (uint d = 0; d < D_OWNED; d++) {
                const uint dim = column + 16 * d;
                const float value = tile[key][dim / 4][dim % 4];
                for (uint r = 0; r < ROWS_OWNED; r++) result[r][d] += weights[own_row + r][key] * value;
            }
    }

    for (uint r = 0; r < ROWS_OWNED; r++) sums[own_row + r][column] = row_sum[r];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint r = 0; r < ROWS_OWNED; r++) {
        const long row = first_row + own_row + r;
        if (row >= n_queries) continue;
        float total = 0.0f;
        for (uint c = 0; c < 16; c++) total += sums[own_row + r][c];
        const float factor = scale / max(total * scale, CLAMP);
        for (uint d = 0; d < D_OWNED; d++) {
            const uint dim = column + 16 * d;
            if (dim < D_HEAD) z[row * z_row + dim] = ELEMENT(result[r][d] * factor);
        }
    }
}

// Partial sums of one query row over `span` keys. Grid (splits, batch x heads x query rows), 256 threads: 64 keys by
// 4 quarters of d for the scores, then strips of keys by dimensions for the values. Writes parts [rows, splits, d]
// and row sums [rows, splits]; adding them over the splits merges them.
kernel void relu_decode(
    device const ELEMENT* q, device const ELEMENT* k, device const ELEMENT* v, device float* parts,
    device float* part_sums, device const int* visible, constant long& n_visible, constant long& span,
    constant long& n_head, constant long& kv_group, constant long& n_queries,
    constant long& q_batch, constant long& q_head, constant long& q_row,
    constant long& k_batch, constant long& k_head, constant long& k_row,
    constant long& v_batch, constant long& v_head, constant long& v_row,
    uint3 group [[threadgroup_position_in_grid]], uint3 groups [[threadgroups_per_grid]],
    uint index [[thread_index_in_threadgroup]])
{
    threadgroup float query[D_PADDED];
    threadgroup float quarters[DECODE_KEYS][4];
    threadgroup float weights[DECODE_KEYS];
    threadgroup float strips[STRIPS][D_PADDED];

    const long row = long(group.y), query_row = row % n_queries;
    const long head = row / n_queries % n_head, batch = row / n_queries / n_head;
    const long n_keys = (n_visible < 0 ? long(visible[0]) : n_visible) - n_queries + query_row + 1;
    const long begin = long(group.x) * span, end = min(n_keys, begin + span);
    q += batch * q_batch + head * q_head + query_row * q_row;
    k += batch * k_batch + head / kv_group * k_head;
    v += batch * v_batch + head / kv_group * v_head;
    if (index < D_PADDED) query[index] = index < D_HEAD ? float(q[index]) : 0.0f;

    const uint quarter = index % 4, key = index / 4, dim = index % D_PADDED, strip = index / D_PADDED;
    float result = 0.0f, total = 0.0f;
    for (long start = begin; start < end; start += DECODE_KEYS) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        float score = 0.0f;
        if (start + key < end)
            for (uint d = quarter; d < D_HEAD; d += 4) score += query[d] * float(k[(start + key) * k_row + d]);
        quarters[key][quarter] = score;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (index < DECODE_KEYS) {
            const float sum = quarters[index][0] + quarters[index][1] + quarters[index][2] + quarters[index][3];
            weights[index] = max(sum, 0.0f);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (strip < STRIPS && dim < D_HEAD)
            for (long j = strip; j < DECODE_KEYS && start + j < end; j += STRIPS)
                result += weights[j] * float(v[(start + j) * v_row + dim]);
        if (index == 0)
            for (uint j = 0; j < DECODE_KEYS; j++) total += weights[j];
    }
    if (strip < STRIPS) strips[strip][dim] = result;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (index < D_HEAD) {
        float sum = 0.0f;
        for (uint s = 0; s < STRIPS; s++) sum += strips[s][index];
        parts[(row * groups.x + group.x) * D_HEAD + index] = sum;
    }
    if (index == 0) part_sums[row * groups.x + group.x] = total;
}

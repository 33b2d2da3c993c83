// What a row of the batch is sampled with (rows.py packs it), and the score of one of its tokens.
#pragma once
#include "numbers.cuh"

struct SampleRow {
    u64 seed;
    u64 top_p;       // share of the mass times 2^64; 0: off
    u64 min_weight;  // ceil(min_p 2^40); 0: off
    u32 request;
    u32 top_k;  // 0: off
    float temperature;  // 0: the largest logit
    float guidance;
    float penalty;  // of tokens seen before; 1: off
    i32 cond_row;    // of the logits
    i32 uncond_row;  // -1: no guidance
    i32 forced;      // >= 0: is the token, and no logit is read
};
static_assert(sizeof(SampleRow) == 56, "rows.py packs 56 bytes");

struct Segment {
    const void* logits;  // [rows, row_stride]
    u32 dtype;
    u64 row_stride;
    u32 start;  // of the segment in a row
    u32 num_tokens;
    const u32* banned;  // [ceil(num_tokens / 32)] bits, or null
};

DEVICE bool has_bit(const u32* bits, u32 i) { return bits[i / 32] >> (i % 32) & 1u; }

DEVICE u32 key_of_token(const SampleRow& row, float cond, float uncond, const u32* seen, const u32* banned, u32 token) {
    if (banned != nullptr && has_bit(banned, token)) return KEY_ILLEGAL;
    float x = cond;
    if (row.penalty != 1.0f && seen != nullptr && has_bit(seen, token)) {
        x = x < 0.0f ? __fmul_rn(x, row.penalty) : __fdiv_rn(x, row.penalty);
    }
    if (row.uncond_row >= 0) x = guided(x, uncond, row.guidance);
    if (row.temperature > 0.0f && row.temperature != 1.0f) x = __fdiv_rn(x, row.temperature);
    return key_from_score(__fadd_rn(x, 0.0f));
}

DEVICE const void* row_start(const Segment& segment, i32 row) {
    const u64 first = static_cast<u64>(row) * segment.row_stride + segment.start;
    return static_cast<const u8*>(segment.logits) + first * (segment.dtype == FLOAT32 ? 4 : 2);
}

DEVICE float lane_of(const Vector16& vector, u32 dtype, u32 j) {
    if (dtype == FLOAT32) return __uint_as_float(vector.word[j]);
    return float_of(dtype, static_cast<u16>(vector.word[j / 2] >> (j % 2 * 16)));
}

// Calls visit(token, key) for the tokens of [begin, end), shared out among the threads; begin is a multiple of 8.
template <class Visit>
DEVICE void for_each_key(const SampleRow& row, const Segment& segment, const u32* seen, u32 begin, u32 end, Visit visit) {
    const void* cond = row_start(segment, row.cond_row);
    const void* uncond = row_start(segment, row.uncond_row >= 0 ? row.uncond_row : row.cond_row);
    const u32 per_load = segment.dtype == FLOAT32 ? 4 : 8;
    u32 scalar_from = begin;
    if (((reinterpret_cast<u64>(cond) | reinterpret_cast<u64>(uncond)) & 15) == 0) {
        const u32 num_loads = (end - begin) / per_load;
        scalar_from = begin + num_loads * per_load;
        const Vector16* cond_vectors = static_cast<const Vector16*>(cond) + begin / per_load;
        const Vector16* uncond_vectors = static_cast<const Vector16*>(uncond) + begin / per_load;
        for (u32 i = threadIdx.x; i < num_loads; i += blockDim.x) {
            const Vector16 c = cond_vectors[i];
            const Vector16 u = row.uncond_row >= 0 ? uncond_vectors[i] : c;
#pragma unroll
            for (u32 j = 0; j < 8; ++j) {
                if (j < per_load) {
                    const u32 token = begin + i * per_load + j;
                    visit(token, key_of_token(row, lane_of(c, segment.dtype, j), lane_of(u, segment.dtype, j), seen,
                                              segment.banned, token));
                }
            }
        }
    }
    for (u32 token = scalar_from + threadIdx.x; token < end; token += blockDim.x) {
        const float c = load(cond, segment.dtype, token);
        const float u = row.uncond_row >= 0 ? load(uncond, segment.dtype, token) : c;
        visit(token, key_of_token(row, c, u, seen, segment.banned, token));
    }
}

// Logits of one vocabulary segment for up to 16 rows; every weight is read once for all of them. head.py defines it.
//
// A warp owns ROWS_OF_WEIGHTS tokens; a lane takes 8 columns of every 256. Products of fp16, bf16, int8 and int4 with
// 16-bit activations are exact in float32, so that only the order of the sums counts, and it is fixed.
#pragma once
#include "numbers.cuh"

enum WeightKind : u32 { WEIGHT_FLOAT16 = 0, WEIGHT_BFLOAT16 = 1, WEIGHT_INT8 = 2, WEIGHT_INT4 = 3 };

struct Head {
    const u8* weights;    // [V, hidden]; int4: two in a byte, the lower column in the low half, 8 subtracted
    const float* scales;  // int8 [V]; int4 [V, hidden / group]
    u32 kind, group, hidden;
};

struct Columns {
    float value[8];
};

template <u32 BITS>
DEVICE Columns load_weights(const Head& head, u64 token, u32 column) {
    const u64 i = token * head.hidden + column;
    Columns w;
    if (BITS == 16) {
        const Vector16 v = *reinterpret_cast<const Vector16*>(head.weights + i * 2);
#pragma unroll
        for (u32 j = 0; j < 8; ++j) {
            const u16 bits = static_cast<u16>(v.word[j / 2] >> (j % 2 * 16));
            w.value[j] = head.kind == WEIGHT_FLOAT16 ? float_from_half(bits) : float_from_bfloat(bits);
        }
    } else if (BITS == 8) {
        const u64 v = *reinterpret_cast<const u64*>(head.weights + i);
#pragma unroll
        for (u32 j = 0; j < 8; ++j) w.value[j] = static_cast<float>(static_cast<i8>(v >> (8 * j)));
    } else {
        const u32 v = *reinterpret_cast<const u32*>(head.weights + i / 2);
#pragma unroll
        for (u32 j = 0; j < 8; ++j) w.value[j] = static_cast<float>(static_cast<i32>(v >> (4 * j) & 15u) - 8);
    }
    return w;
}

template <u32 BITS, u32 ROWS, u32 ROWS_OF_WEIGHTS>
DEVICE void head_rows(const Head& head, const u16* hidden, u32 dtype, u32 num_rows, u32 start, u32 num_tokens,
                      float guidance, u32 combine, float* logits) {
    const u32 warp = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
    const u32 first = warp * ROWS_OF_WEIGHTS;
    float sum[ROWS_OF_WEIGHTS][ROWS];
#pragma unroll
    for (u32 t = 0; t < ROWS_OF_WEIGHTS; ++t) {
#pragma unroll
        for (u32 r = 0; r < ROWS; ++r) sum[t][r] = 0.0f;
    }
    for (u32 column = lane * 8; column < head.hidden; column += WARP * 8) {
        Columns w[ROWS_OF_WEIGHTS];
#pragma unroll
        for (u32 t = 0; t < ROWS_OF_WEIGHTS; ++t) {
            w[t] = load_weights<BITS>(head, static_cast<u64>(start) + smaller(first + t, num_tokens - 1), column);
        }
#pragma unroll
        for (u32 r = 0; r < ROWS; ++r) {
            if (r < num_rows) {
                const Vector16 v = *reinterpret_cast<const Vector16*>(hidden + static_cast<u64>(r) * head.hidden + column);
#pragma unroll
                for (u32 t = 0; t < ROWS_OF_WEIGHTS; ++t) {
                    float part = BITS == 4 ? 0.0f : sum[t][r];
#pragma unroll
                    for (u32 j = 0; j < 8; ++j) {
                        const float h = float_of(dtype, static_cast<u16>(v.word[j / 2] >> (j % 2 * 16)));
                        part = __fadd_rn(part, __fmul_rn(w[t].value[j], h));
                    }
                    if (BITS == 4) {
                        const u64 token = static_cast<u64>(start) + smaller(first + t, num_tokens - 1);
                        const float scale = head.scales[token * (head.hidden / head.group) + column / head.group];
                        part = __fadd_rn(sum[t][r], __fmul_rn(scale, part));
                    }
                    sum[t][r] = part;
                }
            }
        }
    }
#pragma unroll
    for (u32 t = 0; t < ROWS_OF_WEIGHTS; ++t) {
        const u32 token = first + t;
        float cond = 0.0f, uncond = 0.0f;
#pragma unroll
        for (u32 r = 0; r < ROWS; ++r) {
            float x = sum[t][r];
#pragma unroll
            for (u32 d = WARP / 2; d > 0; d /= 2) x = __fadd_rn(x, __shfl_xor_sync(ALL_LANES, x, d));
            if (BITS == 8) x = __fmul_rn(x, head.scales[start + smaller(token, num_tokens - 1)]);
            cond = r == lane ? x : cond;  // every lane has the sums now: lane r writes row r
            uncond = r == lane + num_rows / 2 ? x : uncond;
        }
        if (lane < (combine ? num_rows / 2 : num_rows) && token < num_tokens) {
            logits[static_cast<u64>(lane) * num_tokens + token] = combine ? guided(cond, uncond, guidance) : cond;
        }
    }
}

// hidden [num_rows, hidden] of `dtype`; logits [num_rows, num_tokens], or [num_rows / 2, num_tokens] where `combine`
// (conditional rows first). hidden is a multiple of 8, all addresses of 16. grid (tokens / (warps x tokens of a warp)).
#define HEAD_GEMV(bits, rows, rows_of_weights)                                                                          \
    KERNEL(256)                                                                                                         \
    head_gemv_w##bits##_##rows(const u8* weights, const float* scales, u32 kind, u32 group, u32 hidden_size,            \
                               const u16* hidden, u32 dtype, u32 num_rows, u32 start, u32 num_tokens, float guidance,   \
                               u32 combine, float* logits) {                                                            \
        head_rows<bits, rows, rows_of_weights>({weights, scales, kind, group, hidden_size}, hidden, dtype, num_rows,    \
                                               start, num_tokens, guidance, combine, logits);                           \
    }

HEAD_GEMV(16, 2, 4)
HEAD_GEMV(16, 8, 2)
HEAD_GEMV(16, 16, 1)
HEAD_GEMV(8, 2, 4)
HEAD_GEMV(8, 8, 2)
HEAD_GEMV(8, 16, 1)
HEAD_GEMV(4, 2, 4)
HEAD_GEMV(4, 8, 2)
HEAD_GEMV(4, 16, 1)

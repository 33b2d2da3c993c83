// Sampling without filters in one pass: the largest score + Gumbel noise; the definition is gumbel.py.
#pragma once
#include "row.cuh"
#include "sample.cuh"

struct GumbelMemory {  // of one row; all zero between launches
    u64 best;          // key, then the complement of the index: the larger wins, among equals the lower index
    u32 left;
    u32 unused;
};
static_assert(sizeof(GumbelMemory) == 16, "launch.py allocates 16 bytes for each row");

// ln(x) for normal x > 0, to 2 units in the last place.
DEVICE float natural_log(float x) {
    const u32 bits = __float_as_uint(x);
    i32 exponent = static_cast<i32>(bits >> 23) - 127;
    float m = __uint_as_float((bits & 0x007FFFFFu) | 0x3F800000u);  // in [1, 2)
    if (m > 1.41421354f) {
        m = __fmul_rn(m, 0.5f);
        exponent += 1;
    }
    // atanh series: ln m = 2 s (1 + s^2/3 + s^4/5 + s^6/7 + s^8/9), s = (m - 1) / (m + 1), |s| < 0.1716
    const float s = __fdiv_rn(__fsub_rn(m, 1.0f), __fadd_rn(m, 1.0f));
    const float s2 = __fmul_rn(s, s);
    float p = __fmul_rn(s2, 1.0f / 9.0f);
    p = __fmul_rn(__fadd_rn(p, 1.0f / 7.0f), s2);
    p = __fmul_rn(__fadd_rn(p, 1.0f / 5.0f), s2);
    p = __fmul_rn(__fadd_rn(p, 1.0f / 3.0f), s2);
    p = __fmul_rn(__fadd_rn(p, 1.0f), __fmul_rn(s, 2.0f));
    return __fadd_rn(__fmul_rn(static_cast<float>(exponent), 0.69314718f), p);
}

// -ln(-ln(1 - t)) for t = (number >> 1 | 1) / 2^63, fine where t is small: that is where the largest noise comes from.
DEVICE float gumbel_noise(u64 number) {
    const float t = __fmul_rn(static_cast<float>(number >> 1 | 1), 1.08420217e-19f);  // 2^-63
    float e;
    if (t < 0.0625f) {  // -ln(1 - t) = t + t^2/2 + ... + t^7/7
        float p = __fmul_rn(t, 1.0f / 7.0f);
        p = __fmul_rn(__fadd_rn(p, 1.0f / 6.0f), t);
        p = __fmul_rn(__fadd_rn(p, 1.0f / 5.0f), t);
        p = __fmul_rn(__fadd_rn(p, 1.0f / 4.0f), t);
        p = __fmul_rn(__fadd_rn(p, 1.0f / 3.0f), t);
        p = __fmul_rn(__fadd_rn(p, 0.5f), t);
        e = __fmul_rn(__fadd_rn(p, 1.0f), t);
    } else {
        const u64 rest = ~number >> 1 | 1;  // 1 - t, exact before it is rounded
        e = -natural_log(__fmul_rn(static_cast<float>(rest), 1.08420217e-19f));
    }
    return -natural_log(e > 1e-30f ? e : 1e-30f);
}

DEVICE u64 wide_max(u64 a, u64 b) { return a > b ? a : b; }

// grid (any, B)
KERNEL(1024)
sample_gumbel(const void* logits, u32 dtype, u64 row_stride, u32 start, u32 num_tokens, const SampleRow* rows, u32* step,
              u32* seen, const u32* banned, GumbelMemory* workspace, i32* token) {
    DYNAMIC_SHARED(shared);
    u64* warp_best = reinterpret_cast<u64*>(shared);
    const u32 b = blockIdx.y, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const SampleRow row = rows[b];
    const SampleOutput out = {token, step, nullptr, seen, nullptr};
    SampleTrace trace = {0, 0, 0, 0, 0, 0, 0};
    if (row.forced >= 0) {
        if (blockIdx.x == 0 && threadIdx.x == 0) finish(out, b, num_tokens, row.forced, 1.0f, trace);
        return;
    }
    const Segment segment = {logits, dtype, row_stride, start, num_tokens, banned};
    const u32 chunk = round_up((num_tokens + gridDim.x - 1) / gridDim.x, 8);
    const u32 begin = smaller(blockIdx.x * chunk, num_tokens), end = smaller(begin + chunk, num_tokens);
    const u32 now = step[b];
    const u32* row_seen = seen == nullptr ? nullptr : seen + static_cast<u64>(b) * ((num_tokens + 31) / 32);
    u64 best = 0;
    for_each_key(row, segment, row_seen, begin, end, [&](u32 i, u32 key) {
        if (row.temperature > 0.0f && key != KEY_ILLEGAL && key != KEY_INFINITE) {
            const Words words = philox(row.seed, row.request, now, STREAM_GUMBEL, i / 2);
            const u64 number = i % 2 ? static_cast<u64>(words.word[3]) << 32 | words.word[2]
                                     : static_cast<u64>(words.word[1]) << 32 | words.word[0];
            key = key_from_score(__fadd_rn(__fadd_rn(score_from_key(key), gumbel_noise(number)), 0.0f));
        }
        best = wide_max(best, static_cast<u64>(key) << 32 | static_cast<u32>(~i));
    });
    for (u32 d = WARP / 2; d > 0; d /= 2) best = wide_max(best, __shfl_xor_sync(ALL_LANES, best, d));
    if (lane == 0) warp_best[warp] = best;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (u32 w = 0; w < blockDim.x / WARP; ++w) best = wide_max(best, warp_best[w]);
    GumbelMemory& memory = workspace[b];
    atomicMax(&memory.best, best);
    __threadfence();
    if (atomicAdd(&memory.left, 1u) + 1 < gridDim.x) return;
    __threadfence();
    best = fresh(&memory.best);
    memory.best = 0;
    memory.left = 0;
    const bool legal = static_cast<u32>(best >> 32) > KEY_ILLEGAL;
    finish(out, b, num_tokens, legal ? static_cast<i32>(~static_cast<u32>(best)) : -1, 0.0f, trace);
}

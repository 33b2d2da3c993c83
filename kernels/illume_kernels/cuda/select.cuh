// Radix selection: the key at which the count or the mass of the tokens above first reaches a target.
#pragma once
#include "board.cuh"

constexpr u32 MAX_WARPS = 32;

struct CtaMemory {
    u32 low[NUM_BINS];
    u32 high[NUM_BINS];
    u64 warp_mass[MAX_WARPS];
    u32 warp_tied[MAX_WARPS];
    u64 warp_sum[MAX_WARPS];
    Slot slots[MAX_GROUP];
    u64 above;
    u32 bin;
    u32 owner;
    u64 rest;
    u64 total;
    u64 draw;
    u32 tied_before;
};
static_assert(sizeof(CtaMemory) == 18096, "launch.py asks for 18096 bytes of shared memory");

DEVICE u64 warp_sum(u64 x) {
    for (u32 d = WARP / 2; d > 0; d /= 2) x += __shfl_xor_sync(ALL_LANES, x, d);
    return x;
}

DEVICE u64 warp_inclusive(u64 x) {
    for (u32 d = 1; d < WARP; d *= 2) {
        const u64 before = __shfl_up_sync(ALL_LANES, x, d);
        if (threadIdx.x % WARP >= d) x += before;
    }
    return x;
}

// A 64-bit sum in two words: native 32-bit atomics instead of a loop of compare-and-swap.
DEVICE void add_wide(u32* low, u32* high, u32 add_low, u32 add_high) {
    const u32 before = atomicAdd(low, add_low);
    add_high += before + add_low < before;
    if (add_high != 0) atomicAdd(high, add_high);
}

DEVICE void clear_bins(CtaMemory& cta) {
    for (u32 i = threadIdx.x; i < NUM_BINS; i += blockDim.x) cta.low[i] = cta.high[i] = 0;
    __syncthreads();
}

// Adds this CTA's histogram to the row's, WIDE in histograms `low` and `high`.
template <bool WIDE, class Board>
DEVICE void publish(CtaMemory& cta, Board& board, u32 low, u32 high) {
    __syncthreads();
    for (u32 i = threadIdx.x; i < NUM_BINS; i += blockDim.x) {
        if (WIDE) {
            if ((cta.low[i] | cta.high[i]) != 0) add_wide(board.bin(low, i), board.bin(high, i), cta.low[i], cta.high[i]);
        } else if (cta.low[i] != 0) {
            atomicAdd(board.bin(low, i), cta.low[i]);
        }
    }
}

template <bool WIDE, class Board>
DEVICE u64 read_bin(Board& board, u32 low, u32 high, u32 i) {
    const u64 sum = fresh(board.bin(low, i));
    return WIDE ? sum | static_cast<u64>(fresh(board.bin(high, i))) << 32 : sum;
}

constexpr u32 IN_REGISTERS = 8;  // bins that a thread keeps: all of its own from 256 threads on

// The sum of all bins; cta.bin and cta.above are the bin, from the top, where the sum reaches target(total), and what
// lies above it. The one thread that looks for it would wait for each bin, if it read them again.
template <bool WIDE, class Board, class Target>
DEVICE u64 find_bin(CtaMemory& cta, Board& board, u32 low, u32 high, Target target_of) {
    const u32 per_thread = NUM_BINS / blockDim.x, warp = threadIdx.x / WARP;
    const u32 first = NUM_BINS - 1 - threadIdx.x * per_thread;
    u64 own = 0, kept[IN_REGISTERS];
#pragma unroll
    for (u32 j = 0; j < IN_REGISTERS; ++j) {
        kept[j] = j < per_thread ? read_bin<WIDE>(board, low, high, first - j) : 0;
        own += kept[j];
    }
    for (u32 j = IN_REGISTERS; j < per_thread; ++j) own += read_bin<WIDE>(board, low, high, first - j);
    const u64 inclusive = warp_inclusive(own);
    if (threadIdx.x % WARP == WARP - 1) cta.warp_sum[warp] = inclusive;
    __syncthreads();
    u64 total = 0, before = inclusive - own;
    for (u32 w = 0; w < blockDim.x / WARP; ++w) {
        if (w < warp) before += cta.warp_sum[w];
        total += cta.warp_sum[w];
    }
    const u64 target = target_of(total);
    if (before < target && target <= before + own) {
        u32 i = first;
        u64 above = before;
        bool is_above = true;
#pragma unroll
        for (u32 j = 0; j < IN_REGISTERS; ++j) {
            is_above = is_above && above + kept[j] < target;
            if (is_above) {
                above += kept[j];
                i -= 1;
            }
        }
        while (is_above) {
            const u64 next = above + read_bin<WIDE>(board, low, high, i);
            is_above = next < target;
            if (is_above) {
                above = next;
                i -= 1;
            }
        }
        cta.bin = i;
        cta.above = above;
    }
    __syncthreads();
    return total;
}

struct Digit {
    u32 shift, bits;
};

DEVICE Digit digit_of_pass(u32 pass) { return pass == 0 ? Digit{21, 11} : pass == 1 ? Digit{10, 11} : Digit{0, 10}; }

// Whether the digits of the passes before are those found.
DEVICE bool is_candidate(u32 key, u32 prefix, u32 pass) {
    return pass == 0 || key >> (pass == 1 ? 21 : 10) == prefix;
}

DEVICE u32 bin_of(u32 key, u32 pass) { return key >> digit_of_pass(pass).shift & ((1u << digit_of_pass(pass).bits) - 1); }

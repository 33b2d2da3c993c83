// What stands between two token steps: the token goes where the host will read it, and the next positions are written.
#pragma once
#include "device.cuh"

// token [B]; ring [num_slots, B], of which slot `count` modulo num_slots is written, then count grows by 1; length [rows],
// the tokens of each row so far, grows by num_new; positions [rows, num_new] of the next step's tokens. One CTA.
KERNEL(256)
advance_step(const i32* token, i32* ring, u32 batch, u32 num_slots, u32* count, i64* length, i64* positions, u32 rows, u32 num_new) {
    i32* slot = ring + static_cast<u64>(*count % num_slots) * batch;
    for (u32 b = threadIdx.x; b < batch; b += blockDim.x) slot[b] = token[b];
    for (u32 r = threadIdx.x; r < rows; r += blockDim.x) {
        const i64 first = length[r];
        for (u32 t = 0; t < num_new; ++t) positions[static_cast<u64>(r) * num_new + t] = first + t;
        length[r] = first + num_new;
    }
    __syncthreads();  // every thread has read the counter
    if (threadIdx.x == 0) *count += 1;
}

// One step of the diffusion loop: guidance, the multistep update of flow.py, and the input of the next evaluation.
#pragma once
#include "numbers.cuh"

struct SolverStep {  // of the table that solver.py computes in float64; scale is of the input of the NEXT evaluation
    float p, q, a, b, c, scale;
};
static_assert(sizeof(SolverStep) == 24, "launch.py packs 24 bytes");

struct SolverState {
    u32 step;
    u32 left;
};

// x, m_previous [B, n] float32, updated in place; e [sides B, n], conditional rows first; input [sides B, input_stride],
// of which the first n of each row are written (codes may stand behind them). grid (any).
KERNEL(1024)
guidance_step(float* x, float* m_previous, const void* e, void* input, u32 dtype, u32 batch, u64 n, u64 input_stride,
              float guidance, u32 sides, const SolverStep* table, SolverState* state) {
    const SolverStep now = table[state->step];
    const u64 count = batch * n, stride = static_cast<u64>(gridDim.x) * blockDim.x;
    for (u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
        float noise = load(e, dtype, i);
        if (sides == 2) noise = guided(noise, load(e, dtype, count + i), guidance);
        const float old = x[i];
        const float m = now.p == 0.0f && now.q == 1.0f ? noise : __fadd_rn(__fmul_rn(now.p, old), __fmul_rn(now.q, noise));
        float move = __fmul_rn(now.b, m);
        if (now.c != 0.0f) move = __fadd_rn(move, __fmul_rn(now.c, m_previous[i]));  // the first step has none
        const float next = __fadd_rn(__fmul_rn(now.a, old), move);
        x[i] = next;
        m_previous[i] = m;
        const float scaled = __fmul_rn(now.scale, next);
        for (u32 side = 0; side < sides; ++side) {
            store(input, dtype, (side * static_cast<u64>(batch) + i / n) * input_stride + i % n, scaled);
        }
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
    __threadfence();
    if (atomicAdd(&state->left, 1u) + 1 < gridDim.x) return;
    state->left = 0;
    state->step += 1;
}

// The entry points. Arguments are scalars and device addresses, in the order in which launch.py packs them.
#include "advance_step.cuh"
#include "gather_embedding.cuh"
#include "guidance_step.cuh"
#include "gumbel.cuh"
#include "head_gemv.cuh"
#include "sample.cuh"

// grid (CTAs of a row, B); shared: CtaMemory, then the keys of one CTA where `keys` is null.
KERNEL(512)
sample_group(const void* logits, u32 dtype, u64 row_stride, u32 start, u32 num_tokens, const SampleRow* rows, u32* step,
             u32* seen, const u32* banned, u32* keys, void* workspace, i32* token, float* chance, SampleTrace* trace) {
    DYNAMIC_SHARED(shared);
    const u32 row = blockIdx.y, chunk = round_up((num_tokens + gridDim.x - 1) / gridDim.x, 8);
    u32* own_keys = reinterpret_cast<u32*>(shared + sizeof(CtaMemory));
    if (keys != nullptr) own_keys = keys + (static_cast<u64>(row) * gridDim.x + blockIdx.x) * chunk;
    const GroupBoard board = {static_cast<GroupMemory*>(workspace) + row, 0};
    sample_row(board, *reinterpret_cast<CtaMemory*>(shared), own_keys, rows[row],
               {logits, dtype, row_stride, start, num_tokens, banned}, {token, step, chance, seen, trace}, row);
}

#if defined(ILLUME_CPU) || __CUDA_ARCH__ >= 900
// grid (CTAs of a row, B) in clusters of one row; shared: CtaMemory, Slot, the slices of the histograms, the keys.
KERNEL(512)
sample_cluster(const void* logits, u32 dtype, u64 row_stride, u32 start, u32 num_tokens, const SampleRow* rows, u32* step,
               u32* seen, const u32* banned, u32* keys, i32* token, float* chance, SampleTrace* trace) {
    DYNAMIC_SHARED(shared);
    const u32 row = blockIdx.y, chunk = round_up((num_tokens + gridDim.x - 1) / gridDim.x, 8);
    Slot* slot = reinterpret_cast<Slot*>(shared + sizeof(CtaMemory));
    u32* bins = reinterpret_cast<u32*>(slot + 1);
    u32* own_keys = bins + NUM_HISTOGRAMS * NUM_BINS / gridDim.x;
    if (keys != nullptr) own_keys = keys + (static_cast<u64>(row) * gridDim.x + blockIdx.x) * chunk;
    const ClusterBoard board = {slot, bins};
    sample_row(board, *reinterpret_cast<CtaMemory*>(shared), own_keys, rows[row],
               {logits, dtype, row_stride, start, num_tokens, banned}, {token, step, chance, seen, trace}, row);
}
#endif

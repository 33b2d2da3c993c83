// One token for each row; the definition is oracle.py. Several CTAs share a row, each a run of neighbouring tokens:
//   1 keys of the scores, their largest, and a histogram of their first digit
//   2 top-k: the k-th largest key, digit by digit
//   3 top-p: the key at which the mass reaches its share, digit by digit, and how many of the tokens tied there stay
//   4 mass of the tokens that stay, for each CTA and warp; the one warp in which the draw falls looks for its token
// Whatever is summed is an integer, so that nothing depends on who comes first.
#pragma once
#include "row.cuh"
#include "select.cuh"

struct SampleTrace {  // what was decided, for tests
    u32 top_key, floor_key, edge_key, num_stay;
    u64 above, total, draw;
};
static_assert(sizeof(SampleTrace) == 40, "rows.py reads 40 bytes");

struct SampleOutput {
    i32* token;      // [B] in the segment; -1: none is legal
    u32* step;       // [B] advanced by 1
    float* chance;   // [B] the token's probability, or null
    u32* seen;       // [B, ceil(num_tokens / 32)] the token's bit is set, or null
    SampleTrace* trace;  // [B] or null
};

DEVICE void finish(const SampleOutput& out, u32 row, u32 num_tokens, i32 token, float chance, const SampleTrace& trace) {
    out.token[row] = token;
    out.step[row] += 1;
    if (out.chance != nullptr) out.chance[row] = chance;
    if (out.trace != nullptr) out.trace[row] = trace;
    if (out.seen != nullptr && token >= 0 && static_cast<u32>(token) < num_tokens) {
        out.seen[static_cast<u64>(row) * ((num_tokens + 31) / 32) + static_cast<u32>(token) / 32] |= 1u << (token % 32);
    }
}

template <class Board>
DEVICE u32 kth_key(CtaMemory& cta, Board& board, const u32* keys, u32 count, u32 k) {
    u32 prefix = 0;
    u64 need = k;
    for (u32 pass = 0; pass < 3; ++pass) {
        if (pass > 0) {
            clear_bins(cta);
            for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
                if (is_candidate(keys[i], prefix, pass)) atomicAdd(&cta.low[bin_of(keys[i], pass)], 1u);
            }
            publish<false>(cta, board, pass, 0);
            board.sync();
        }
        find_bin<false>(cta, board, pass, 0, [=](u64) { return need; });
        need -= cta.above;
        prefix = prefix << digit_of_pass(pass).bits | cta.bin;
    }
    return prefix;
}

struct Edge {
    u32 key;
    u32 num_stay;  // of the tokens with this very key, in index order
    u64 above;     // mass of the larger ones
};

template <class Board>
DEVICE Edge top_p_edge(CtaMemory& cta, Board& board, const u32* keys, u32 count, u32 floor, u32 top, u64 share) {
    u32 prefix = 0;
    u64 target = 0, above = 0;
    for (u32 pass = 0; pass < 3; ++pass) {
        clear_bins(cta);
        for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
            const u32 key = keys[i];
            if (key >= floor && is_candidate(key, prefix, pass)) {
                const u64 weight = weight_from_key(key, top);
                const u32 bin = bin_of(key, pass);
                if (weight != 0) {
                    add_wide(&cta.low[bin], &cta.high[bin], static_cast<u32>(weight), static_cast<u32>(weight >> 32));
                }
            }
        }
        publish<true>(cta, board, 3 + pass, 6 + pass);
        board.sync();
        const u64 need = target - above;
        const u64 total = find_bin<true>(cta, board, 3 + pass, 6 + pass,
                                         [=](u64 sum) { return pass == 0 ? ceil_share(sum, share) : need; });
        if (pass == 0) target = ceil_share(total, share);
        above += cta.above;
        prefix = prefix << digit_of_pass(pass).bits | cta.bin;
    }
    const u64 weight = weight_from_key(prefix, top);
    return {prefix, static_cast<u32>((target - above + weight - 1) / weight), above};
}

DEVICE u64 tied_that_stay(u32 num_stay, u32 before, u32 tied) {
    return before >= num_stay ? 0 : smaller(num_stay - before, tied);
}

template <class Board>
DEVICE void sample_row(Board board, CtaMemory& cta, u32* keys, const SampleRow& row, const Segment& segment,
                       const SampleOutput& out, u32 batch_row) {
    const u32 n = segment.num_tokens, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const u32 num_warps = blockDim.x / WARP;
    SampleTrace trace = {0, 0, 0, 0, 0, 0, 0};
    if (row.forced >= 0) {
        if (board.rank() == 0 && threadIdx.x == 0) finish(out, batch_row, n, row.forced, 1.0f, trace);
        return;
    }
    const u32 chunk = round_up((n + board.size() - 1) / board.size(), 8);
    const u32 begin = smaller(board.rank() * chunk, n), end = smaller(begin + chunk, n), count = end - begin;
    const bool greedy = row.temperature == 0.0f;
    const bool cuts_k = !greedy && row.top_k != 0 && row.top_k < n, cuts_p = !greedy && row.top_p != 0;
    const u64 min_weight = greedy ? 0 : row.min_weight;
    const u32* seen = out.seen == nullptr ? nullptr : out.seen + static_cast<u64>(batch_row) * ((n + 31) / 32);

    const u32 step = out.step[batch_row];  // before the last sync: the CTA that draws advances it
    board.open();
    clear_bins(cta);
    u32 top = 0;
    for_each_key(row, segment, seen, begin, end, [&](u32 token, u32 key) {
        keys[token - begin] = key;
        top = key > top ? key : top;
        if (cuts_k) atomicAdd(&cta.low[bin_of(key, 0)], 1u);
    });
    for (u32 d = WARP / 2; d > 0; d /= 2) {
        const u32 other = __shfl_xor_sync(ALL_LANES, top, d);
        top = other > top ? other : top;
    }
    if (lane == 0) cta.warp_tied[warp] = top;
    publish<false>(cta, board, 0, 0);
    if (threadIdx.x == 0) {
        for (u32 w = 0; w < num_warps; ++w) top = cta.warp_tied[w] > top ? cta.warp_tied[w] : top;
        board.slot(board.rank())->top_key = top;
    }
    board.sync();
    top = 0;
    for (u32 r = 0; r < board.size(); ++r) {
        const u32 other = fresh(&board.slot(r)->top_key);
        top = other > top ? other : top;
    }
    trace.top_key = top;
    if (top == KEY_ILLEGAL) {
        if (board.rank() == 0 && threadIdx.x == 0) finish(out, batch_row, n, -1, 0.0f, trace);
        board.close();
        return;
    }

    const u32 floor = cuts_k ? kth_key(cta, board, keys, count, row.top_k) : greedy ? top : 0;
    Edge edge = {floor, greedy ? 1u : 0xFFFFFFFFu, 0};
    if (cuts_p) edge = top_p_edge(cta, board, keys, count, floor, top, row.top_p);
    u64 edge_weight = edge.key == 0 ? 0 : weight_from_key(edge.key, top);
    if (edge_weight < min_weight) edge_weight = 0;
    trace.floor_key = floor;
    trace.edge_key = edge.key;
    trace.num_stay = edge.num_stay;
    trace.above = edge.above;

    const u32 run = (count + blockDim.x - 1) / blockDim.x | 1;  // neighbours of one thread; odd: no two in one bank
    const u32 run_begin = smaller(threadIdx.x * run, count), run_end = smaller(run_begin + run, count);
    u64 own_mass = 0;
    u32 own_tied = 0;
    for (u32 i = run_begin; i < run_end; ++i) {
        const u32 key = keys[i];
        if (key > edge.key) {
            const u64 weight = weight_from_key(key, top);
            if (weight >= min_weight) own_mass += weight;
        }
        own_tied += key == edge.key;
    }
    u64 mass = warp_sum(own_mass);
    u32 tied = static_cast<u32>(warp_sum(own_tied));
    if (lane == 0) {
        cta.warp_mass[warp] = mass;
        cta.warp_tied[warp] = tied;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        mass = 0;
        tied = 0;
        for (u32 w = 0; w < num_warps; ++w) {
            mass += cta.warp_mass[w];
            tied += cta.warp_tied[w];
        }
        Slot* slot = board.slot(board.rank());
        slot->mass = mass;
        slot->num_tied = tied;
    }
    board.sync();

    for (u32 r = threadIdx.x; r < board.size(); r += blockDim.x) {
        cta.slots[r].mass = fresh(&board.slot(r)->mass);
        cta.slots[r].num_tied = fresh(&board.slot(r)->num_tied);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        u64 total = 0;
        u32 before = 0;
        for (u32 r = 0; r < board.size(); ++r) {
            total += cta.slots[r].mass + edge_weight * tied_that_stay(edge.num_stay, before, cta.slots[r].num_tied);
            before += cta.slots[r].num_tied;
        }
        const Words words = philox(row.seed, row.request, step, STREAM_TOKENS, 0);
        u64 rest = __umul64hi(total, static_cast<u64>(words.word[1]) << 32 | words.word[0]);
        cta.draw = rest;
        cta.total = total;
        before = 0;
        cta.owner = MAX_WARPS;
        for (u32 r = 0; r < board.size(); ++r) {
            const u64 here = cta.slots[r].mass + edge_weight * tied_that_stay(edge.num_stay, before, cta.slots[r].num_tied);
            if (rest < here) {
                if (r == board.rank()) cta.owner = 0;
                break;
            }
            rest -= here;
            before += cta.slots[r].num_tied;
        }
        if (cta.owner == 0) {
            for (u32 w = 0; w < num_warps; ++w) {
                const u64 here = cta.warp_mass[w] + edge_weight * tied_that_stay(edge.num_stay, before, cta.warp_tied[w]);
                if (rest < here) {
                    cta.owner = w;
                    break;
                }
                rest -= here;
                before += cta.warp_tied[w];
            }
        }
        cta.rest = rest;
        cta.tied_before = before;
    }
    __syncthreads();
    if (warp == cta.owner) {
        u64 rest = cta.rest;
        u32 before = cta.tied_before + static_cast<u32>(warp_inclusive(own_tied)) - own_tied;
        const u64 here = own_mass + edge_weight * tied_that_stay(edge.num_stay, before, own_tied);
        const u64 inclusive = warp_inclusive(here);
        if (inclusive > rest && inclusive - here <= rest) {
            rest -= inclusive - here;
            for (u32 i = run_begin; i < run_end; ++i) {
                const u32 key = keys[i];
                u64 weight = 0;
                if (key > edge.key) {
                    weight = weight_from_key(key, top);
                    if (weight < min_weight) weight = 0;
                } else if (key == edge.key) {
                    if (before < edge.num_stay) weight = edge_weight;
                    before += 1;
                }
                if (rest < weight) {
                    trace.total = cta.total;
                    trace.draw = cta.draw;
                    const float chance = static_cast<float>(static_cast<double>(weight) / static_cast<double>(cta.total));
                    finish(out, batch_row, n, static_cast<i32>(begin + i), chance, trace);
                    break;
                }
                rest -= weight;
            }
        }
    }
    board.close();
}

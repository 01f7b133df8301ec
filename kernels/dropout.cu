// Dropout; the mask as a function of (seed, step, layer, element) is derived in src/ops/dropout.rs.
#include "common.cuh"

struct Mask {
    u64 seed;
    u32 layer;
    // m = 0 where the upper 24 bits of the element's word are below this.
    u32 dropped_below;
    // How many masks an image needs, and how many neighbouring elements share one.
    int masks, span;
};

// y (+)= m·x
//
// x, y [G][masks][span][32]; step: low and high word of the step's number. One warp = four neighbouring masks of 32 images; one
// block = 8 warps of one group; grid (masks / 32, G).
//
// Images follow each other, so the first mask of an image may use any word of a Philox block: four neighbouring masks take their words
// from two neighbouring blocks, `offset` words into the first.
extern "C" __global__ void __launch_bounds__(256) dropout_mask(const T* x, const int* step, T* y, Mask d, A keep, int add) {
    int i = (blockIdx.x * 8 + threadIdx.y) * 4, g = blockIdx.y, l = threadIdx.x;
    if (i >= d.masks) return;
    u64 first = (u64)(g * L + l) * d.masks + i;
    u32 block = (u32)(first / 4), offset = (u32)(first % 4);
    Words a = philox(d.seed, block, (u32)step[0], (u32)step[1], d.layer);
    Words b = philox(d.seed, block + 1, (u32)step[0], (u32)step[1], d.layer);
    u32 words[8] = {a.w[0], a.w[1], a.w[2], a.w[3], b.w[0], b.w[1], b.w[2], b.w[3]};
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if (i + j >= d.masks) break;
        // Choosing instead of indexing keeps the words in registers.
        u32 word = offset == 0 ? words[j] : offset == 1 ? words[j + 1] : offset == 2 ? words[j + 2] : words[j + 3];
        A m = (word >> 8) < d.dropped_below ? (A)0 : keep;
        int at = ((g * d.masks + i + j) * d.span) * L + l;
        for (int s = 0; s < d.span; s++, at += L) put(y + at, m * up(x[at]), add);
    }
}

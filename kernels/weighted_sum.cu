// A sum with constant factors; mathematics in src/ops/weighted_sum.rs.
#include "common.cuh"

// y (+)= a·x: a term of the sum, and its gradient
//
// x, y: count stored elements, any shape and layout. One thread = one element; one block = 256 of them.
extern "C" __global__ void __launch_bounds__(256) weighted_sum_add_scaled(const T* x, T* y, A a, int count, int add) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    put(y + i, a * up(x[i]), add);
}

// Addition, and adding a gradient to what is there; mathematics in src/ops/add.rs.
#include "common.cuh"

// y = a + b
//
// a, b, y: count stored elements of any one shape. One thread = one element; one block = 256 of them.
extern "C" __global__ void __launch_bounds__(256) add_forward(const T* a, const T* b, T* y, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    y[i] = down(up(a[i]) + up(b[i]));
}

// a += b: the second contribution to a gradient.
//
// a, b: count stored elements of any one shape. One thread = one element; one block = 256 of them.
extern "C" __global__ void __launch_bounds__(256) add_accumulate(T* a, const T* b, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    a[i] = down(up(a[i]) + up(b[i]));
}

// ReLU and leaky ReLU; mathematics in src/ops/relu.rs.
#include "common.cuh"

// y = x if x > 0 else slope·x
//
// x, y: count stored elements, any shape in lanes. One thread = one element; one block = 256 of them.
extern "C" __global__ void __launch_bounds__(256) relu_forward(const T* x, T* y, A slope, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    A v = up(x[i]);
    y[i] = down(v > 0 ? v : slope * v);
}

// dx (+)= dy if y > 0 else slope·dy
//
// y, dy, dx: count stored elements, any shape in lanes. One thread = one element; one block = 256 of them.
extern "C" __global__ void __launch_bounds__(256) relu_backward_input(const T* y, const T* dy, T* dx, A slope, int count, int add) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    A d = up(dy[i]);
    put(dx + i, up(y[i]) > 0 ? d : slope * d, add);
}

// Each number plus its left neighbour: the worked example of README.md, first with a bug, then without.

extern "C" __global__ void __launch_bounds__(128) neighbours(float* y, const float* x, int n) {
    __shared__ float line[128];
    int t = threadIdx.x, i = blockIdx.x * 128 + t;
    line[t] = i < n ? x[i] : 0;
    if (i < n) y[i] = line[t] + (t > 0 ? line[t - 1] : 0);
}

extern "C" __global__ void __launch_bounds__(128) neighbours_cured(float* y, const float* x, int n) {
    __shared__ float line[128];
    int t = threadIdx.x, i = blockIdx.x * 128 + t;
    line[t] = i < n ? x[i] : 0;
    __syncthreads();
    if (i < n) y[i] = line[t] + (t > 0 ? line[t - 1] : 0);
}

// Planted bugs: global memory. A line that ends in "REPORT: kernel" is where the report must point.

typedef unsigned char u8;

extern "C" __global__ void __launch_bounds__(256) no_guard(int* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = n - i;                                                                                    // REPORT: no_guard
}

// The guard lets one too many through.
extern "C" __global__ void __launch_bounds__(256) guard_off_by_one(float* y, const float* x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) y[i] = 2 * x[i];                                                                     // REPORT: guard_off_by_one
}

// One block is one row: a grid with one row too many has no guard to stop it.
extern "C" __global__ void __launch_bounds__(64) row_per_block(float* y, int columns) {
    for (int j = threadIdx.x; j < columns; j += blockDim.x)
        y[blockIdx.x * columns + j] = j;                                                             // REPORT: row_per_block
}

// Each neighbour on the left is read, also that of the first.
extern "C" __global__ void __launch_bounds__(256) before_the_start(float* y, const float* x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] - x[i - 1];                                                               // REPORT: before_the_start
}

// Sizes in the wrong order: a matrix of rows x columns is walked as columns x rows.
extern "C" __global__ void __launch_bounds__(256) swapped_sizes(float* y, const float* x, int rows, int columns) {
    int i = blockIdx.y * blockDim.y + threadIdx.y, j = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < rows && j < columns) y[j * rows + i] = x[j * columns + i];                               // REPORT: swapped_sizes
}

extern "C" __global__ void __launch_bounds__(32) null_pointer(float* y, const float* bias) {
    y[threadIdx.x] += bias[threadIdx.x];                                                             // REPORT: null_pointer
}

// Used by the tests of freed, released and never-written memory.
extern "C" __global__ void __launch_bounds__(256) copy(float* y, const float* x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i];                                                                          // REPORT: copy
}

// Adds to a sum that nobody has set to zero.
extern "C" __global__ void __launch_bounds__(32) accumulate(float* sum, const float* x) {
    sum[threadIdx.x] += x[threadIdx.x];                                                              // REPORT: accumulate
}

// Four numbers at once, from rows whose length is no multiple of four.
extern "C" __global__ void __launch_bounds__(32) four_at_once(float* y, const float* x, int columns) {
    float4 v = *(const float4*)(x + threadIdx.x * columns);                                          // REPORT: four_at_once
    y[threadIdx.x] = v.x + v.y + v.z + v.w;
}

// A number of four bytes anywhere among bytes.
extern "C" __global__ void __launch_bounds__(32) cast_of_bytes(int* y, const u8* x) {
    y[threadIdx.x] = *(const int*)(x + 3 * threadIdx.x);                                             // REPORT: cast_of_bytes
}

// A buffer of f32, taken for f64.
extern "C" __global__ void __launch_bounds__(32) wider_type(double* x) {
    x[threadIdx.x] = 0;                                                                              // REPORT: wider_type
}

// Promises that x and y are different buffers; called with the same one.
extern "C" __global__ void __launch_bounds__(256) smooth(float* __restrict__ y, const float* __restrict__ x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i > 0 && i < n - 1) {
        float left = x[i - 1];                                                                       // REPORT: smooth
        float right = x[i + 1];                                                                      // REPORT: smooth
        y[i] = 0.5f * (left + right);                                                                // REPORT: smooth
    }
}

// An index from memory is not looked at before it is used.
extern "C" __global__ void __launch_bounds__(32) gather(float* y, const float* x, const int* index) {
    y[threadIdx.x] = x[index[threadIdx.x]];                                                          // REPORT: gather
}

// Correct kernels: numbers.

typedef unsigned long long u64;
typedef long long i64;

extern "C" __global__ void __launch_bounds__(64) integers(i64* y, const i64* a, const i64* b) {
    int t = threadIdx.x;
    i64 x = a[t], z = b[t];
    y[8 * t] = x / z;
    y[8 * t + 1] = x % z;
    y[8 * t + 2] = (int)x / (int)z;
    y[8 * t + 3] = (unsigned)x / (unsigned)z;
    y[8 * t + 4] = (u64)x / (u64)z;
    y[8 * t + 5] = __mul64hi(x, z);
    y[8 * t + 6] = x << (z & 63);
    y[8 * t + 7] = __popcll(x) + __clzll(x) * 100 + (i64)__brev((unsigned)x) * 10000;
}

extern "C" __global__ void __launch_bounds__(64) doubles(double* y, const double* x) {
    int t = threadIdx.x;
    double v = x[t];
    y[4 * t] = sqrt(v);
    y[4 * t + 1] = 1 / v;
    y[4 * t + 2] = exp(-v);
    y[4 * t + 3] = fma(v, v, -log(v));
}

extern "C" __global__ void __launch_bounds__(64) floats(float* y, const float* x) {
    int t = threadIdx.x;
    float v = x[t];
    y[8 * t] = expf(v);
    y[8 * t + 1] = logf(fabsf(v) + 1);
    y[8 * t + 2] = tanhf(v);
    y[8 * t + 3] = rsqrtf(fabsf(v) + 0.5f);
    y[8 * t + 4] = v / 3.7f;
    y[8 * t + 5] = sinf(v);
    y[8 * t + 6] = powf(fabsf(v) + 0.1f, 1.5f);
    y[8 * t + 7] = fmaxf(v, 0.25f) + fminf(v, -0.5f) + copysignf(2, v) + rintf(v * 3) + floorf(v);
}

// What a kernel can be given by value.

struct Dims { int rows, columns; float factor; };

// Arguments by value: a structure, and numbers of several sizes.
extern "C" __global__ void __launch_bounds__(32) arguments(double* x, Dims dims, unsigned char small, unsigned long long large, short last) {
    if (threadIdx.x == 0) {
        x[0] = dims.rows;
        x[1] = dims.columns;
        x[2] = dims.factor;
        x[3] = small;
        x[4] = (double)large;
        x[5] = last;
    }
}

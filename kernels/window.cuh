// Where the windows of a pooling lie: src/ops/window.rs, one pixel at a time. Read next: maxpool2d.cu.
#pragma once

// All sizes of one pooling; planes = G·C.
struct Windows { int planes, h, w, oh, ow, kh, kw, sh, sw, ph, pw; };

// A half-open range.
struct Range { int start, end; };

// The taps of output pixel o's window that lie on the picture, along one axis.
__device__ __forceinline__ Range taps(int o, int input, int kernel, int stride, int padding) {
    int corner = o * stride - padding;
    Range r = {max(0, -corner), min(kernel, input - corner)};
    return r;
}

// The output pixels whose windows cover input pixel i, along one axis.
__device__ __forceinline__ Range readers(int i, int output, int kernel, int stride, int padding) {
    int last = (i + padding) / stride + 1;
    int first = i + padding + 1 - kernel;
    Range r = {first <= 0 ? 0 : (first + stride - 1) / stride, min(last, output)};
    return r;
}

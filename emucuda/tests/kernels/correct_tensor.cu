// Correct kernels: the instructions for matrices, and copies that run beside the threads.

typedef unsigned short u16;
typedef unsigned u32;

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(shared_address(shared)), "l"(global), "r"(there ? 16 : 0) : "memory");
}
#define COMMIT() asm volatile("cp.async.commit_group;" ::: "memory")
#define WAIT(n) asm volatile("cp.async.wait_group %0;" :: "n"(n) : "memory")

// Sums rows through a pipeline of two tiles: one is read while the next one is filled. Beyond the end there are zeros.
extern "C" __global__ void __launch_bounds__(64) pipeline(float* y, const float* x, int n) {
    __shared__ __align__(16) float tile[2][256];
    int t = threadIdx.x, tiles = (n + 255) / 256;
    float sum = 0;
    copy_async(tile[0] + 4 * t, x + 4 * t, 4 * t < n);
    COMMIT();
    for (int k = 0; k < tiles; k++) {
        int next = 256 * (k + 1) + 4 * t;
        if (k + 1 < tiles) copy_async(tile[(k + 1) & 1] + 4 * t, x + (next < n ? next : 0), next < n);
        COMMIT();
        WAIT(1);
        __syncthreads();
        for (int j = 0; j < 4; j++) sum += tile[k & 1][j * 64 + (63 - t)];
        __syncthreads();
    }
    y[t] = sum;
}

// c = a b with a 16x16 (rows), b 16x8 (columns: b[n][k]), bf16 in, f32 out: one warp, one instruction, operands by ldmatrix.
extern "C" __global__ void __launch_bounds__(32) multiply_bf16(float* c, const u16* a, const u16* b) {
    __shared__ __align__(16) u16 ta[16][16], tb[8][16];
    int t = threadIdx.x;
    for (int i = t; i < 256; i += 32) ta[i / 16][i % 16] = a[i];
    for (int i = t; i < 128; i += 32) tb[i / 16][i % 16] = b[i];
    __syncwarp();
    u32 fa[4], fb[2];
    float d[4] = {0, 0, 0, 0};
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(fa[0]), "=r"(fa[1]), "=r"(fa[2]), "=r"(fa[3]) : "r"(shared_address(&ta[t % 16][t / 16 * 8])) : "memory");
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(fb[0]), "=r"(fb[1]) : "r"(shared_address(&tb[t % 8][t / 8 % 2 * 8])) : "memory");
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
    int row = t / 4, column = t % 4 * 2;
    c[row * 8 + column] = d[0];
    c[row * 8 + column + 1] = d[1];
    c[(row + 8) * 8 + column] = d[2];
    c[(row + 8) * 8 + column + 1] = d[3];
}

// The same in f16, with b as it lies (rows of k), turned while it is loaded.
extern "C" __global__ void __launch_bounds__(32) multiply_f16(float* c, const u16* a, const u16* b) {
    __shared__ __align__(16) u16 ta[16][16], tb[16][8];
    int t = threadIdx.x;
    for (int i = t; i < 256; i += 32) ta[i / 16][i % 16] = a[i];
    for (int i = t; i < 128; i += 32) tb[i / 8][i % 8] = b[i];
    __syncwarp();
    u32 fa[4], fb[2];
    float d[4] = {0, 0, 0, 0};
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(fa[0]), "=r"(fa[1]), "=r"(fa[2]), "=r"(fa[3]) : "r"(shared_address(&ta[t % 16][t / 16 * 8])) : "memory");
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(fb[0]), "=r"(fb[1]) : "r"(shared_address(&tb[t % 16][0])) : "memory");
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
    int row = t / 4, column = t % 4 * 2;
    c[row * 8 + column] = d[0];
    c[row * 8 + column + 1] = d[1];
    c[(row + 8) * 8 + column] = d[2];
    c[(row + 8) * 8 + column + 1] = d[3];
}

// The same in tf32 (a 16x8, b 8x8), operands from global memory.
extern "C" __global__ void __launch_bounds__(32) multiply_tf32(float* c, const float* a, const float* b) {
    int t = threadIdx.x, row = t / 4, k = t % 4;
    u32 fa[4], fb[2];
    float d[4] = {0, 0, 0, 0};
    float va[4] = {a[row * 8 + k], a[(row + 8) * 8 + k], a[row * 8 + k + 4], a[(row + 8) * 8 + k + 4]};
    float vb[2] = {b[k * 8 + row], b[(k + 4) * 8 + row]};
    for (int i = 0; i < 4; i++) asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(fa[i]) : "f"(va[i]));
    for (int i = 0; i < 2; i++) asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(fb[i]) : "f"(vb[i]));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
    int column = t % 4 * 2;
    c[row * 8 + column] = d[0];
    c[row * 8 + column + 1] = d[1];
    c[(row + 8) * 8 + column] = d[2];
    c[(row + 8) * 8 + column + 1] = d[3];
}

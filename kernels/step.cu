// The bookkeeping of a training step that the host does not see: src/optim/clock.rs.
#include "common.cuh"

// The gradient that backward begins with: 1, or the loss scale. A loss that is infinite or NaN halts training: place[3] = 1, for good.
//
// dy, loss: one number; scale: (scale, 1/scale) or null; place: as below. One thread.
extern "C" __global__ void __launch_bounds__(1) step_seed(A* dy, const A* scale, const A* loss, int* place) {
    dy[0] = scale ? scale[0] : (A)1;
    // x - x is 0 for a number and NaN for infinities and NaN.
    if (!(loss[0] - loss[0] == 0)) place[3] = 1;
}

// health[0] = 1 if any gradient is infinite or NaN
//
// dw [count]. One thread = one element; one block = 256 of them. All write the same number, so no order matters.
extern "C" __global__ void __launch_bounds__(256) step_check(const A* dw, int* health, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    A x = dw[i];
    if (!(x - x == 0)) atomicOr(health, 1);
}

// On to the next step.
//
// step: its number, low and high word; place: step in the epoch, first image of the batch, steps taken in the epoch, whether training is
// halted, when all stays as it is; health: overflow
// in this step, good steps since the scale last changed, steps left out; scale: (scale, 1/scale). health and scale null: no loss
// scale. As PyTorch's GradScaler: after an overflow the scale is halved, after `patience` good steps doubled, unless that is not
// finite. One thread.
extern "C" __global__ void __launch_bounds__(1) step_advance(int* step, int* place, int* health, A* scale, int batch, int patience) {
    if (place[3]) return;
    step[0] += 1;
    if (step[0] == 0) step[1] += 1;
    place[0] += 1;
    place[1] += batch;
    bool overflow = health && health[0];
    if (!overflow) place[2] += 1;
    if (!health) return;
    A s = scale[0];
    int good = overflow ? 0 : health[1] + 1;
    if (overflow) {
        s *= (A)0.5;
        health[2] += 1;
    } else if (good == patience) {
        if (s * 2 - s * 2 == 0) s *= 2;
        good = 0;
    }
    health[0] = 0;
    health[1] = good;
    scale[0] = s;
    scale[1] = 1 / s;
}

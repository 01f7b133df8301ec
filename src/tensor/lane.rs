//! The lane vector: L numbers that belong to L images, computed on together.
//!
//! A kernel written for one image becomes a kernel for L images when each scalar is turned into a [`Lane`]. It is a plain array
//! with loops over it, for any function of a number (exp, ln); inside a [`simd!`](crate::simd!) function the compiler turns short loops
//! into vector instructions. All methods are `#[inline(always)]` for that reason. A kernel whose time counts names registers
//! instead: the [`Vector`] that `simd!` gives it, read and written by [`load`], [`store`] and [`put`]; one that treats every number alike
//! runs along flat memory (`ops/relu.rs`). Read next: `tensor/shape.rs`.

use super::dtype::{Element, Real};
use crate::device::vector::{L, Vector};

/// L numbers, one an image, in the type that sums are kept in.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Lane<A>(pub [A; L]);

/// Reads stored numbers into registers.
#[inline(always)]
pub fn load<T: Element, V: Vector<T::Acc>>(x: &[T; L]) -> V {
    match T::as_acc(std::slice::from_ref(x)) {
        Some([x]) => V::load(x),
        _ => V::load(&Lane::load(x).0),
    }
}

/// Writes numbers from registers, rounded to the stored type.
#[inline(always)]
pub fn store<T: Element, V: Vector<T::Acc>>(v: V, y: &mut [T; L]) {
    match T::as_acc_mut(std::slice::from_mut(y)) {
        Some([y]) => v.store(y),
        _ => {
            let mut a = Lane::zero();
            v.store(&mut a.0);
            a.store(y);
        }
    }
}

/// Writes numbers from registers, or adds them to what is there.
#[inline(always)]
pub fn put<T: Element, V: Vector<T::Acc>>(v: V, y: &mut [T; L], add: bool) {
    store(if add { load::<T, V>(y).plus(v) } else { v }, y);
}

impl<A: Real> Lane<A> {
    /// All lanes zero.
    #[inline(always)]
    pub fn zero() -> Self {
        Lane([A::ZERO; L])
    }

    /// All lanes `a`.
    #[inline(always)]
    pub fn splat(a: A) -> Self {
        Lane([a; L])
    }

    /// Reads stored numbers.
    #[inline(always)]
    pub fn load<T: Element<Acc = A>>(x: &[T; L]) -> Self {
        let mut r = Self::zero();
        for i in 0..L {
            r.0[i] = x[i].up();
        }
        r
    }

    /// Writes numbers, rounded to the stored type.
    #[inline(always)]
    pub fn store<T: Element<Acc = A>>(self, y: &mut [T; L]) {
        for i in 0..L {
            y[i] = T::down(self.0[i]);
        }
    }

    /// Writes, or adds to what is there: how a gradient is first written and later added to.
    #[inline(always)]
    pub fn put<T: Element<Acc = A>>(self, y: &mut [T; L], add: bool) {
        let r = if add { self.add(Self::load(y)) } else { self };
        r.store(y);
    }

    /// `self * w + acc`, the same w in every lane.
    #[inline(always)]
    pub fn fma(self, w: A, acc: Self) -> Self {
        let mut r = acc;
        for i in 0..L {
            r.0[i] = self.0[i].mul_add(w, r.0[i]);
        }
        r
    }

    /// `self * w + acc`, lane by lane.
    #[inline(always)]
    pub fn fma_lane(self, w: Self, acc: Self) -> Self {
        let mut r = acc;
        for i in 0..L {
            r.0[i] = self.0[i].mul_add(w.0[i], r.0[i]);
        }
        r
    }

    /// Lane by lane `f(self)`.
    #[inline(always)]
    pub fn map(self, f: impl Fn(A) -> A) -> Self {
        let mut r = self;
        for i in 0..L {
            r.0[i] = f(self.0[i]);
        }
        r
    }

    /// Lane by lane `f(self, other)`.
    #[inline(always)]
    pub fn zip(self, other: Self, f: impl Fn(A, A) -> A) -> Self {
        let mut r = self;
        for i in 0..L {
            r.0[i] = f(self.0[i], other.0[i]);
        }
        r
    }

    /// Lane by lane sum.
    #[inline(always)]
    #[allow(clippy::should_implement_trait)]
    pub fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    /// The sum of the first `n` lanes, always in the same order: pairs, then pairs of pairs.
    #[inline(always)]
    pub fn sum(self, n: usize) -> A {
        let mut r = self.0;
        for (i, r) in r.iter_mut().enumerate() {
            *r = if i < n { *r } else { A::ZERO };
        }
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                r[i] = r[i] + r[i + half];
            }
        }
        r[0]
    }
}

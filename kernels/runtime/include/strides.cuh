// Arrays that are not contiguous: how many elements lie between neighbours along each dimension.
// The host fills these structs in (ctypes.Structure, in the op's cuda.py) and passes them by value;
// a stride of 0 repeats what is there, one below 0 runs backwards.
#pragma once

// A stack of matrices (B0, B1, B2, rows, columns).
struct MatrixStrides { long long batch[3], row, column; };

// Sizes of the stack.
struct Batch { int size[3]; };

// Attention's (B, H, T, D), whose last dimension is contiguous.
struct HeadStrides { long long batch, head, time; };

// Where matrix number n of a stack begins.
template <typename T>
__device__ __forceinline__ T* matrix(T* stack, const MatrixStrides& at, const Batch& batch,
                                     long long n) {
    int b2 = n % batch.size[2];
    n /= batch.size[2];
    int b1 = n % batch.size[1], b0 = n / batch.size[1];
    return stack + b0 * at.batch[0] + b1 * at.batch[1] + b2 * at.batch[2];
}

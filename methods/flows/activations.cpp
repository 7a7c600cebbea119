// SiLU, z / (1 + e^-z), and its adjoint. activations.py has the same in torch.

#include "vectors.hpp"

namespace {

using namespace cgbench;

template <class T> void silu(const T *z, std::int64_t from, std::int64_t to, T *y) {
    for (std::int64_t start = from; start < to; start += LANES<T>) {
        const int valid = to - start < LANES<T> ? static_cast<int>(to - start) : LANES<T>;
        const Vec<T> here = load<T>(z + start, valid);
        store<T>(y + start, here * sigmoid<T>(here), valid);
    }
}

template <class T> void adjoint(const T *z, std::int64_t from, std::int64_t to, const T *grad_y, T *grad_z) {
    for (std::int64_t start = from; start < to; start += LANES<T>) {
        const int valid = to - start < LANES<T> ? static_cast<int>(to - start) : LANES<T>;
        const Vec<T> here = load<T>(z + start, valid), share = sigmoid<T>(here);
        store<T>(grad_z + start, load<T>(grad_y + start, valid) * share * (1 + here * (1 - share)), valid);
    }
}

} // namespace

#define EXPORT(T)                                                                                                      \
    extern "C" void silu_##T(const T *z, std::int64_t from, std::int64_t to, T *y) { silu<T>(z, from, to, y); }        \
    extern "C" void adjoint_##T(const T *z, std::int64_t from, std::int64_t to, const T *grad_y, T *grad_z) {          \
        adjoint<T>(z, from, to, grad_y, grad_z);                                                                       \
    }

EXPORT(float)
EXPORT(double)

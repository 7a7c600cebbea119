// Elementwise operations between the matrix products of a residual network, and their adjoints.
//
// Arrays are [features, batch] with the batch contiguous; biases and sums over the batch are [features].

#include "vectors.hpp"

namespace {

using namespace cgbench;

// z += bias; s = z / (1 + e^-z)
template <class T>
void silu(T *z, const T *bias, T *s, std::int64_t from, std::int64_t to, std::int64_t batch) {
    for (std::int64_t row = from; row < to; ++row)
        for (std::int64_t start = 0; start < batch; start += LANES<T>) {
            const int valid = batch - start < LANES<T> ? static_cast<int>(batch - start) : LANES<T>;
            const std::int64_t at = row * batch + start;
            const Vec<T> here = bias ? load<T>(z + at, valid) + bias[row] : load<T>(z + at, valid);
            if (bias) store<T>(z + at, here, valid);
            store<T>(s + at, here * sigmoid<T>(here), valid);
        }
}

// Replaces grad_s, the adjoint of s, by the adjoint of z, plus `other` if given; sum is its sum over the batch.
template <class T>
void silu_adjoint(const T *z, T *grad_s, const T *other, T *sum, std::int64_t from, std::int64_t to,
                  std::int64_t batch) {
    for (std::int64_t row = from; row < to; ++row) {
        Vec<T> total = all<T>(0);
        for (std::int64_t start = 0; start < batch; start += LANES<T>) {
            const int valid = batch - start < LANES<T> ? static_cast<int>(batch - start) : LANES<T>;
            const std::int64_t at = row * batch + start;
            const Vec<T> here = load<T>(z + at, valid), share = sigmoid<T>(here);
            Vec<T> grad = load<T>(grad_s + at, valid) * share * (1 + here * (1 - share));
            if (other) grad += load<T>(other + at, valid);
            store<T>(grad_s + at, grad, valid);
            for (int j = valid; j < LANES<T>; ++j) grad[j] = 0;
            total += grad;
        }
        sum[row] = sum_of<T>(total);
    }
}

// y = x + (t + bias) g, with g = 1 / (1 + e^-(c + gate_bias)), or 1 without c
template <class T>
void residual(const T *x, const T *t, const T *bias, const T *c, const T *gate_bias, T *y, std::int64_t from,
              std::int64_t to, std::int64_t batch) {
    for (std::int64_t row = from; row < to; ++row)
        for (std::int64_t start = 0; start < batch; start += LANES<T>) {
            const int valid = batch - start < LANES<T> ? static_cast<int>(batch - start) : LANES<T>;
            const std::int64_t at = row * batch + start;
            Vec<T> change = load<T>(t + at, valid) + bias[row];
            if (c) change *= sigmoid<T>(load<T>(c + at, valid) + gate_bias[row]);
            store<T>(y + at, load<T>(x + at, valid) + change, valid);
        }
}

// Adjoints of t and c, and their sums over the batch.
template <class T>
void residual_adjoint(const T *grad_y, const T *t, const T *bias, const T *c, const T *gate_bias, T *grad_t, T *grad_c,
                      T *sum, T *gate_sum, std::int64_t from, std::int64_t to, std::int64_t batch) {
    for (std::int64_t row = from; row < to; ++row) {
        Vec<T> total = all<T>(0), gate_total = all<T>(0);
        for (std::int64_t start = 0; start < batch; start += LANES<T>) {
            const int valid = batch - start < LANES<T> ? static_cast<int>(batch - start) : LANES<T>;
            const std::int64_t at = row * batch + start;
            const Vec<T> gate = sigmoid<T>(load<T>(c + at, valid) + gate_bias[row]);
            Vec<T> grad = load<T>(grad_y + at, valid) * gate;
            Vec<T> through = grad * (load<T>(t + at, valid) + bias[row]) * (1 - gate);
            store<T>(grad_t + at, grad, valid);
            store<T>(grad_c + at, through, valid);
            for (int j = valid; j < LANES<T>; ++j) grad[j] = through[j] = 0;
            total += grad;
            gate_total += through;
        }
        sum[row] = sum_of<T>(total);
        gate_sum[row] = sum_of<T>(gate_total);
    }
}

} // namespace

#define EXPORT(T)                                                                                                      \
    extern "C" void silu_##T(T *z, const T *bias, T *s, std::int64_t batch, std::int64_t from, std::int64_t to) {      \
        silu<T>(z, bias, s, from, to, batch);                                                                          \
    }                                                                                                                  \
    extern "C" void silu_adjoint_##T(const T *z, T *grad_s, const T *other, T *sum, std::int64_t batch,                \
                                     std::int64_t from, std::int64_t to) {                                             \
        silu_adjoint<T>(z, grad_s, other, sum, from, to, batch);                                                       \
    }                                                                                                                  \
    extern "C" void residual_##T(const T *x, const T *t, const T *bias, const T *c, const T *gate_bias, T *y,          \
                                 std::int64_t batch, std::int64_t from, std::int64_t to) {                             \
        residual<T>(x, t, bias, c, gate_bias, y, from, to, batch);                                                     \
    }                                                                                                                  \
    extern "C" void residual_adjoint_##T(const T *grad_y, const T *t, const T *bias, const T *c, const T *gate_bias,   \
                                         T *grad_t, T *grad_c, T *sum, T *gate_sum, std::int64_t batch,                \
                                         std::int64_t from, std::int64_t to) {                                         \
        residual_adjoint<T>(grad_y, t, bias, c, gate_bias, grad_t, grad_c, sum, gate_sum, from, to, batch);            \
    }

EXPORT(float)
EXPORT(double)

// Vectors of 64 bytes and their elementary functions, for kernels that run over a batch.
//
// Vectors are the compiler's own (GCC, Clang), so that the same text serves every processor. A vector is always
// computed whole, the last one of a batch filled up: a result does not depend on where in the batch it stands.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace cgbench {

template <class T> struct Format;

template <> struct Format<float> {
    using Integer = std::int32_t;
    typedef float Vector __attribute__((vector_size(64)));
    typedef std::int32_t Mask __attribute__((vector_size(64)));
    static constexpr int mantissa = 23, bias = 127;
    static constexpr int exp_terms = 7, log_terms = 5, log1p_terms = 8; // for one unit in the last place or two
    static constexpr float smallest = -87.0f, largest = 88.0f;          // of the exponential's argument
    static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    static constexpr float tiny = 1.17549435e-38f; // smallest normal number
};

template <> struct Format<double> {
    using Integer = std::int64_t;
    typedef double Vector __attribute__((vector_size(64)));
    typedef std::int64_t Mask __attribute__((vector_size(64)));
    static constexpr int mantissa = 52, bias = 1023;
    static constexpr int exp_terms = 13, log_terms = 11, log1p_terms = 17;
    static constexpr double smallest = -708.0, largest = 709.0;
    static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
    static constexpr double tiny = 2.2250738585072014e-308;
};

template <class T> using Vec = typename Format<T>::Vector;
template <class T> using Mask = typename Format<T>::Mask;
template <class T> constexpr int LANES = 64 / sizeof(T);

template <class T> inline Vec<T> all(T x) { return Vec<T>{} + x; }

template <class T> inline Vec<T> load(const T *from, int valid) { // lanes beyond `valid` repeat the first
    Vec<T> v = {};
    if (valid == LANES<T>)
        std::memcpy(&v, from, sizeof v);
    else
        for (int j = 0; j < LANES<T>; ++j) v[j] = from[j < valid ? j : 0];
    return v;
}

template <class T> inline void store(T *to, Vec<T> v, int valid) {
    std::memcpy(to, &v, valid == LANES<T> ? sizeof v : valid * sizeof(T));
}

template <class T> inline Vec<T> square_root(Vec<T> x) {
    for (int j = 0; j < LANES<T>; ++j) x[j] = std::sqrt(x[j]);
    return x;
}

template <class T> inline Vec<T> floor_of(Vec<T> x) {
    for (int j = 0; j < LANES<T>; ++j) x[j] = std::floor(x[j]);
    return x;
}

template <class T> inline Vec<T> absolute(Vec<T> x) { return x < 0 ? -x : x; }

// ---- series -------------------------------------------------------------------------------------

template <class T> struct Series {
    T exp[16], artanh[20]; // 1 / k! and 1 / (2 k + 1)
    constexpr Series() : exp(), artanh() {
        double factorial = 1;
        for (int k = 0; k < 16; ++k) {
            factorial *= k ? k : 1;
            exp[k] = static_cast<T>(1 / factorial);
        }
        for (int k = 0; k < 20; ++k) artanh[k] = static_cast<T>(1.0 / (2 * k + 1));
    }
};
template <class T> inline constexpr Series<T> SERIES{};

template <int K, class T> inline Vec<T> exp_series(Vec<T> r, Vec<T> above) {
    if constexpr (K < 0) {
        return above;
    } else {
        constexpr T coefficient = SERIES<T>.exp[K];
        return exp_series<K - 1, T>(r, above * r + coefficient);
    }
}

template <int K, class T> inline Vec<T> artanh_series(Vec<T> z2, Vec<T> above) {
    if constexpr (K < 0) {
        return above;
    } else {
        constexpr T coefficient = SERIES<T>.artanh[K];
        return artanh_series<K - 1, T>(z2, above * z2 + coefficient);
    }
}

// ---- elementary functions -----------------------------------------------------------------------

// Of arguments cut at `smallest` and `largest`; NaN stays NaN.
template <class T> inline Vec<T> exponential(Vec<T> x) {
    using F = Format<T>;
    x = x < F::smallest ? all<T>(F::smallest) : x;
    x = x > F::largest ? all<T>(F::largest) : x;
    constexpr T magic = static_cast<T>(3 * (typename F::Integer(1) << (F::mantissa - 1))); // added, it rounds
    const Vec<T> shifted = x * static_cast<T>(1.4426950408889634) + magic;
    const Vec<T> n = shifted - magic;
    const Vec<T> r = (x - n * F::ln2_high) - n * F::ln2_low;
    constexpr T top = SERIES<T>.exp[F::exp_terms];
    const Vec<T> sum = exp_series<F::exp_terms - 1, T>(r, all<T>(top));
    const Vec<T> zero = all<T>(magic);
    const Mask<T> power = ((Mask<T>)shifted - (Mask<T>)zero + F::bias) << F::mantissa;
    return sum * (Vec<T>)power;
}

template <int TERMS, class T> inline Vec<T> twice_artanh(Vec<T> z) { // ln((1 + z) / (1 - z))
    constexpr T top = SERIES<T>.artanh[TERMS];
    return 2 * z * artanh_series<TERMS - 1, T>(z * z, all<T>(top));
}

// Of normal positive numbers; infinity and NaN become NaN.
template <class T> inline Vec<T> logarithm(Vec<T> x) {
    using F = Format<T>;
    const Vec<T> root_of_half = all<T>(static_cast<T>(0.70710678118654752));
    const Mask<T> exponent = ((Mask<T>)x - (Mask<T>)root_of_half) >> F::mantissa;
    const Vec<T> m = (Vec<T>)((Mask<T>)x - (exponent << F::mantissa));
    const Vec<T> e = __builtin_convertvector(exponent, Vec<T>);
    return e * F::ln2_high + (e * F::ln2_low + twice_artanh<F::log_terms, T>((m - 1) / (m + 1))) + (x - x);
}

template <class T> inline Vec<T> softplus(Vec<T> z) {
    const Vec<T> e = exponential<T>(-absolute<T>(z));
    return (z < 0 ? all<T>(0) : z) + twice_artanh<Format<T>::log1p_terms, T>(e / (2 + e));
}

template <class T> inline Vec<T> sigmoid(Vec<T> z) {
    const Vec<T> e = exponential<T>(-absolute<T>(z));
    return (z > 0 ? all<T>(1) : e) / (1 + e);
}

} // namespace cgbench

// Vectors of 64 bytes or less and their elementary functions, for kernels that run over a batch.
//
// Uses the vector extensions of GCC and Clang, so the same source works on every CPU. Vectors are always computed
// whole, and the last one of a batch is padded: a result does not depend on its position in the batch.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace cgbench {

// The width of the CPU's registers. With wider vectors, the compiler splits comparisons into scalar operations.
#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif

template <class T> struct Format;

template <> struct Format<float> {
    using Integer = std::int32_t;
    typedef float Vector __attribute__((vector_size(BYTES)));
    typedef std::int32_t Mask __attribute__((vector_size(BYTES)));
    static constexpr int mantissa = 23, bias = 127;
    // numbers of terms that give an accuracy of a few units in the last place
    static constexpr int exp_terms = 7, log_terms = 5, log1p_terms = 8, atan_terms = 9;
    static constexpr float smallest = -87.0f, largest = 88.0f; // arguments of the exponential
    static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    static constexpr float tiny = 1.17549435e-38f; // smallest normal number
};

template <> struct Format<double> {
    using Integer = std::int64_t;
    typedef double Vector __attribute__((vector_size(BYTES)));
    typedef std::int64_t Mask __attribute__((vector_size(BYTES)));
    static constexpr int mantissa = 52, bias = 1023;
    static constexpr int exp_terms = 13, log_terms = 11, log1p_terms = 17, atan_terms = 19;
    static constexpr double smallest = -708.0, largest = 709.0;
    static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
    static constexpr double tiny = 2.2250738585072014e-308;
};

template <class T> using Vec = typename Format<T>::Vector;
template <class T> using Mask = typename Format<T>::Mask;
template <class T> constexpr int LANES = BYTES / sizeof(T);

template <class T> inline Vec<T> all(T x) { return Vec<T>{} + x; }

template <class T> inline Vec<T> load(const T *from, int valid) { // lanes from `valid` on repeat the first
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

template <class T> inline T sum_of(Vec<T> v) {
    T sum = 0;
    for (int j = 0; j < LANES<T>; ++j) sum += v[j];
    return sum;
}

// Intrinsics, because the compiler turns a loop over the lanes into half-width operations that go through memory.
#if defined(__AVX512F__)
inline Vec<float> square_root_of(Vec<float> x) { return (Vec<float>)_mm512_sqrt_ps((__m512)x); }
inline Vec<double> square_root_of(Vec<double> x) { return (Vec<double>)_mm512_sqrt_pd((__m512d)x); }
inline Vec<float> lower_integer(Vec<float> x) { return (Vec<float>)_mm512_floor_ps((__m512)x); }
inline Vec<double> lower_integer(Vec<double> x) { return (Vec<double>)_mm512_floor_pd((__m512d)x); }
#elif defined(__AVX__)
inline Vec<float> square_root_of(Vec<float> x) { return (Vec<float>)_mm256_sqrt_ps((__m256)x); }
inline Vec<double> square_root_of(Vec<double> x) { return (Vec<double>)_mm256_sqrt_pd((__m256d)x); }
inline Vec<float> lower_integer(Vec<float> x) { return (Vec<float>)_mm256_floor_ps((__m256)x); }
inline Vec<double> lower_integer(Vec<double> x) { return (Vec<double>)_mm256_floor_pd((__m256d)x); }
#else
template <class V> inline V square_root_of(V x) {
    for (std::size_t j = 0; j < sizeof x / sizeof x[0]; ++j) x[j] = std::sqrt(x[j]);
    return x;
}
template <class V> inline V lower_integer(V x) {
    for (std::size_t j = 0; j < sizeof x / sizeof x[0]; ++j) x[j] = std::floor(x[j]);
    return x;
}
#endif

template <class T> inline Vec<T> square_root(Vec<T> x) { return square_root_of(x); }

template <class T> inline Vec<T> floor_of(Vec<T> x) { return lower_integer(x); }

template <class T> inline Vec<T> absolute(Vec<T> x) { // clears the sign bit
    return (Vec<T>)((Mask<T>)x & std::numeric_limits<typename Format<T>::Integer>::max());
}

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

// Clamps the argument to [smallest, largest]; NaN stays NaN.
template <class T> inline Vec<T> exponential(Vec<T> x) {
    using F = Format<T>;
    x = x < F::smallest ? all<T>(F::smallest) : x;
    x = x > F::largest ? all<T>(F::largest) : x;
    constexpr T magic = static_cast<T>(3 * (typename F::Integer(1) << (F::mantissa - 1))); // adding it rounds
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

template <class T> struct Binary { // mantissa * 2^exponent, with the mantissa within a factor sqrt(2) of 1
    Vec<T> mantissa, exponent;
};

template <class T> inline Binary<T> binary(Vec<T> x) {
    const Vec<T> root_of_half = all<T>(static_cast<T>(0.70710678118654752));
    const Mask<T> exponent = ((Mask<T>)x - (Mask<T>)root_of_half) >> Format<T>::mantissa;
    const Vec<T> mantissa = (Vec<T>)((Mask<T>)x - (exponent << Format<T>::mantissa));
    return {mantissa, __builtin_convertvector(exponent, Vec<T>)};
}

// From z = (mantissa - 1) / (mantissa + 1).
template <class T> inline Vec<T> logarithm_of(Vec<T> z, Vec<T> exponent) {
    using F = Format<T>;
    return exponent * F::ln2_high + (exponent * F::ln2_low + twice_artanh<F::log_terms, T>(z));
}

// For normal positive numbers; infinity and NaN give NaN.
template <class T> inline Vec<T> logarithm(Vec<T> x) {
    const Binary<T> a = binary<T>(x);
    return logarithm_of<T>((a.mantissa - 1) / (a.mantissa + 1), a.exponent) + (x - x);
}

// Two logarithms with a single division, for normal positive numbers; undefined for others.
template <class T> inline void logarithms(Vec<T> &x, Vec<T> &y) {
    const Binary<T> a = binary<T>(x), b = binary<T>(y);
    const Vec<T> over_a = a.mantissa + 1, over_b = b.mantissa + 1, inverse = 1 / (over_a * over_b);
    x = logarithm_of<T>((a.mantissa - 1) * (over_b * inverse), a.exponent);
    y = logarithm_of<T>((b.mantissa - 1) * (over_a * inverse), b.exponent);
}

// Angle of the point (x, y) as in `std::atan2`; NaN at the origin and if both are infinite.
template <class T> inline Vec<T> arctangent(Vec<T> y, Vec<T> x) {
    constexpr long double pi_over_4 = 0.785398163397448309615660845819875721L;
    constexpr T high = static_cast<T>(pi_over_4), low = static_cast<T>(pi_over_4 - high);
    constexpr T border = static_cast<T>(0.41421356237309505), top = SERIES<T>.artanh[Format<T>::atan_terms];
    const Vec<T> zero = {}, rise = absolute<T>(y), run = absolute<T>(x);
    const Vec<T> less = rise < run ? rise : run, more = rise < run ? run : rise;
    const auto turned = less > border * more; // rotated by pi / 4: the argument of the series is at most tan(pi / 8)
    const Vec<T> z = (turned ? less - more : less) / (turned ? less + more : more);
    Vec<T> angle = z * artanh_series<Format<T>::atan_terms - 1, T>(-z * z, all<T>(top));
    Vec<T> turns = turned ? all<T>(1) : zero;
    turns = rise > run ? 2 - turns : turns, angle = rise > run ? -angle : angle;
    turns = x < 0 ? 4 - turns : turns, angle = x < 0 ? -angle : angle;
    angle = turns * high + (turns * low + angle);
    return y < 0 ? -angle : angle;
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

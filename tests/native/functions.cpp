// The functions of vectors.hpp on arrays, for their tests.

#include "vectors.hpp"

using namespace cgbench;

template <class T, class F> static void each(F function, const T *x, const T *y, T *result, int count) {
    for (int n = 0; n < count; n += LANES<T>) {
        const int valid = count - n < LANES<T> ? count - n : LANES<T>;
        store<T>(result + n, function(load<T>(x + n, valid), load<T>(y + n, valid)), valid);
    }
}

#define FUNCTION(name, T, expression)                                                                                  \
    extern "C" void name##_##T(const T *x, const T *y, T *result, int count) {                                         \
        each<T>([](Vec<T> x, [[maybe_unused]] Vec<T> y) { return expression; }, x, y, result, count);                  \
    }

#define FUNCTIONS(T)                                                                                                   \
    FUNCTION(square_root, T, square_root<T>(x))                                                                        \
    FUNCTION(floor_of, T, floor_of<T>(x))                                                                              \
    FUNCTION(absolute, T, absolute<T>(x))                                                                              \
    FUNCTION(exponential, T, exponential<T>(x))                                                                        \
    FUNCTION(logarithm, T, logarithm<T>(x))                                                                            \
    FUNCTION(softplus, T, softplus<T>(x))                                                                              \
    FUNCTION(sigmoid, T, sigmoid<T>(x))                                                                                \
    FUNCTION(arctangent, T, arctangent<T>(x, y))

FUNCTIONS(float)
FUNCTIONS(double)

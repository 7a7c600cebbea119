// Monotone rational-quadratic splines, one per dimension: value and adjoint. splines.py is the torch version.
//
// In a bin that starts at (x0, y0), of width w and height h, with s = h / w, derivatives d0 and d1 at its ends,
// f = (x - x0) / w and t = f (1 - f):
//
//     y = y0 + h N / D,   N = s f^2 + d0 t,   D = s + (d0 + d1 - 2 s) t,
//     ln dy/dx = ln(s^2 M / D^2),   M = d1 f^2 + 2 s t + d0 (1 - f)^2
//
// (Durkan et al., NeurIPS 2019), all in units of the interval. The adjoint of the inverse follows from that of the
// forward direction at the same point: with y = g(x), dx = (dy - dg) / g'.
//
// Inputs are [dims, batch], parameters [dims, rows, batch] or, shared by the batch, [dims, rows]; the batch is
// contiguous. There are three rows per bin: logits of all widths, then of all heights, then of the derivatives at
// bin starts. The offset [dims, rows] is added to parameters [dims, rows, batch].

#include "vectors.hpp"

namespace {

using namespace cgbench;

constexpr int MAX_BINS = 64;

template <class T> struct Problem {
    const T *x, *parameters, *offset, *lower, *upper;
    const unsigned char *circular;
    std::int64_t batch;
    int bins;
    bool shared, inverse; // shared: parameters are [dims, rows]
    T size, least, shift; // least size of a bin, least derivative, logit of derivative one
};

// Every row is a separate stream of memory; hardware does not prefetch that many.
template <class T> inline void fetch(const T *rows, const Problem<T> &p) {
    for (int r = 0; r < 3 * p.bins; ++r) __builtin_prefetch(rows + r * p.batch);
}

// The splines of one dimension at one vector of inputs: sizes of all bins, and the bin of each input.
template <class T> struct Bin {
    Vec<T> width[MAX_BINS], height[MAX_BINS];
    Vec<T> x0, w, y0, h, left, right, index, before_w, before_h, own_w, own_h;

    static inline Vec<T> row(const Problem<T> &p, std::int64_t d, int r, std::int64_t start, int valid) {
        const T *rows = p.parameters + d * 3 * p.bins * (p.shared ? 1 : p.batch);
        return p.shared ? all<T>(rows[r]) : load<T>(rows + r * p.batch + start, valid) + p.offset[d * 3 * p.bins + r];
    }

    static inline void softmax(const Problem<T> &p, std::int64_t d, int first, std::int64_t start, int valid,
                               Vec<T> *share) {
        Vec<T> top = share[0] = row(p, d, first, start, valid);
        for (int r = 1; r < p.bins; ++r) {
            share[r] = row(p, d, first + r, start, valid);
            top = share[r] > top ? share[r] : top;
        }
        Vec<T> total = all<T>(0);
        for (int r = 0; r < p.bins; ++r) total += share[r] = exponential<T>(share[r] - top);
        total = 1 / total;
        for (int r = 0; r < p.bins; ++r) share[r] *= total;
    }

    inline void shares(const Problem<T> &p, std::int64_t d, std::int64_t start, int valid) {
        if (!p.shared) fetch(p.parameters + d * 3 * p.bins * p.batch + start + LANES<T>, p);
        softmax(p, d, 0, start, valid, width);
        softmax(p, d, p.bins, start, valid, height);
    }

    inline void select(const Problem<T> &p, std::int64_t d, std::int64_t start, int valid, Vec<T> unit,
                       bool by_height) {
        const int bins = p.bins;
        const T scale = 1 - p.size * static_cast<T>(bins);
        const Vec<T> *key = by_height ? height : width;
        const Vec<T> first = p.circular[d] ? row(p, d, 2 * bins, start, valid) : all<T>(0);
        Vec<T> next = bins > 1 ? row(p, d, 2 * bins + 1, start, valid) : first;
        Vec<T> sum = key[0], sum_w = width[0], sum_h = height[0];
        before_w = before_h = index = all<T>(0);
        own_w = width[0];
        own_h = height[0];
        left = first;
        right = next;
        for (int r = 1; r < bins; ++r) {
            const Vec<T> after = r + 1 < bins ? row(p, d, 2 * bins + r + 1, start, valid) : first;
            const auto past = unit >= p.size * static_cast<T>(r) + scale * sum;
            before_w = past ? sum_w : before_w;
            before_h = past ? sum_h : before_h;
            own_w = past ? width[r] : own_w;
            own_h = past ? height[r] : own_h;
            left = past ? next : left;
            right = past ? after : right;
            index = past ? all<T>(static_cast<T>(r)) : index;
            sum += key[r];
            sum_w += width[r];
            sum_h += height[r];
            next = after;
        }
        x0 = p.size * index + scale * before_w;
        y0 = p.size * index + scale * before_h;
        w = p.size + scale * own_w;
        h = p.size + scale * own_h;
    }
};

template <class T> inline Vec<T> to_unit(Vec<T> u, bool circular) {
    if (circular) u -= floor_of<T>(u);
    u = u < 0 ? all<T>(0) : u;
    return u > 1 ? all<T>(1) : u;
}

template <class T>
void spline(const Problem<T> &p, std::int64_t from, std::int64_t to, T *y, T *log_derivative) {
    Bin<T> bin;
    for (std::int64_t d = from; d < to; ++d) {
        const T lower = p.lower[d], period = p.upper[d] - p.lower[d];
        if (p.shared) bin.shares(p, d, 0, LANES<T>);
        for (std::int64_t start = 0; start < p.batch; start += LANES<T>) {
            const int valid = p.batch - start < LANES<T> ? static_cast<int>(p.batch - start) : LANES<T>;
            const Vec<T> in = load<T>(p.x + d * p.batch + start, valid), u = (in - lower) / period;
            const Vec<T> unit = to_unit<T>(u, p.circular[d]);
            if (!p.shared) bin.shares(p, d, start, valid);
            bin.select(p, d, start, valid, unit, p.inverse);
            const Vec<T> d0 = p.least + softplus<T>(bin.left + p.shift);
            const Vec<T> d1 = p.least + softplus<T>(bin.right + p.shift);
            const Vec<T> s = bin.h / bin.w, bend = d0 + d1 - 2 * s;
            Vec<T> f;
            if (p.inverse) {
                const Vec<T> rise = unit - bin.y0;
                const Vec<T> a = bin.h * (s - d0) + rise * bend, b = bin.h * d0 - rise * bend;
                const Vec<T> square = b * b + 4 * a * s * rise;
                f = 2 * s * rise / (b + square_root<T>((square < 0 ? all<T>(0) : square) + Format<T>::tiny));
            } else {
                f = (unit - bin.x0) / bin.w;
            }
            const Vec<T> rest = 1 - f, mixed = f * rest, squared = f * f;
            const Vec<T> below = 1 / (s + bend * mixed), ratio = s * below;
            Vec<T> out = p.inverse ? bin.x0 + f * bin.w : bin.y0 + bin.h * (s * squared + d0 * mixed) * below;
            Vec<T> slope = logarithm<T>(ratio * ratio * (d1 * squared + 2 * s * mixed + d0 * rest * rest));
            if (p.inverse) slope = -slope;
            out = lower + period * out;
            if (!p.circular[d]) {
                const auto outside = (u < 0) | (u > 1);
                out = outside ? in : out;
                slope = outside ? all<T>(0) : slope;
            }
            store<T>(y + d * p.batch + start, out, valid);
            store<T>(log_derivative + d * p.batch + start, slope, valid);
        }
    }
}

// p.x is the input of the forward direction, for both directions; log_stride is 0 where the adjoints of the
// log-derivatives are the same in all dimensions, as for their sum.
template <class T>
void adjoint(const Problem<T> &p, std::int64_t from, std::int64_t to, const T *grad_output, const T *grad_log,
             std::int64_t log_stride, T *grad_input, T *grad_parameters, T *grad_offset) {
    Bin<T> bin;
    Vec<T> summed[3 * MAX_BINS];
    const int bins = p.bins;
    const T scale = 1 - p.size * static_cast<T>(bins);
    for (std::int64_t d = from; d < to; ++d) {
        const T lower = p.lower[d], period = p.upper[d] - p.lower[d];
        const std::int64_t stride = p.shared ? 1 : p.batch;
        T *grad_rows = grad_parameters + d * 3 * p.bins * stride;
        if (p.shared) bin.shares(p, d, 0, LANES<T>);
        for (int r = 0; r < 3 * bins; ++r) summed[r] = all<T>(0);
        for (std::int64_t start = 0; start < p.batch; start += LANES<T>) {
            const int valid = p.batch - start < LANES<T> ? static_cast<int>(p.batch - start) : LANES<T>;
            const Vec<T> u = (load<T>(p.x + d * p.batch + start, valid) - lower) / period;
            const Vec<T> unit = to_unit<T>(u, p.circular[d]);
            if (!p.shared) for (int r = 0; r < 3 * bins; ++r) __builtin_prefetch(grad_rows + start + r * stride, 1);
            if (!p.shared) bin.shares(p, d, start, valid);
            bin.select(p, d, start, valid, unit, false);
            Vec<T> go = load<T>(grad_output + d * p.batch + start, valid);
            Vec<T> gl = load<T>(grad_log + d * log_stride + start, valid);
            for (int j = valid; j < LANES<T>; ++j) go[j] = gl[j] = 0;
            const Vec<T> left = bin.left + p.shift, right = bin.right + p.shift;
            const Vec<T> d0 = p.least + softplus<T>(left), d1 = p.least + softplus<T>(right);
            const Vec<T> over_w = 1 / bin.w, h = bin.h, s = h * over_w, bend = d0 + d1 - 2 * s;
            const Vec<T> f = (unit - bin.x0) * over_w, rest = 1 - f, mixed = f * rest, squared = f * f;
            const Vec<T> tilt = 1 - 2 * f;
            const Vec<T> below = 1 / (s + bend * mixed), above = s * squared + d0 * mixed;
            const Vec<T> third = d1 * squared + 2 * s * mixed + d0 * rest * rest, over_third = 1 / third;
            const Vec<T> above_f = 2 * s * f + d0 * tilt, below_f = bend * tilt;
            const Vec<T> third_f = 2 * (d1 * f + s * tilt - d0 * rest);
            // adjoints of the value (in units of the period) and of its log-derivative
            Vec<T> v = go * period, b = p.inverse ? -gl : gl;
            if (p.inverse) {
                const Vec<T> log_f = third_f * over_third - 2 * below_f * below;
                v = -(v + b * log_f * over_w) / (s * s * third * below * below);
            }
            const auto outside = (u < 0) | (u > 1);
            if (!p.circular[d]) {
                b = outside ? all<T>(0) : b;
                v = outside ? all<T>(0) : v;
            }
            const Vec<T> g_above = v * h * below, g_below = -(v * h * above * below + 2 * b) * below;
            const Vec<T> g_third = b * over_third;
            const Vec<T> gf = (g_above * above_f + g_below * below_f + g_third * third_f) * over_w;
            const Vec<T> gs =
                (2 * b / s + g_above * squared + g_below * (1 - 2 * mixed) + 2 * g_third * mixed) * over_w;
            Vec<T> gi = (p.inverse ? -v : gf) / period;
            if (!p.circular[d]) gi = outside ? go : gi;
            store<T>(grad_input + d * p.batch + start, gi, valid);
            const Vec<T> gx0 = -gf * scale, gw = -(gf * f + gs * s) * scale;
            const Vec<T> gy0 = v * scale, gh = (v * above * below + gs) * scale;
            const Vec<T> gd0 = ((g_above + g_below) * mixed + g_third * rest * rest) * sigmoid<T>(left);
            const Vec<T> gd1 = (g_below * mixed + g_third * squared) * sigmoid<T>(right);
            const Vec<T> common_w = gx0 * bin.before_w + gw * bin.own_w;
            const Vec<T> common_h = gy0 * bin.before_h + gh * bin.own_h;
            for (int r = 0; r < bins; ++r) {
                const auto earlier = bin.index > static_cast<T>(r), own = bin.index == static_cast<T>(r);
                const auto previous = bin.index == static_cast<T>(r ? r - 1 : bins - 1);
                const Vec<T> grad_w = bin.width[r] * ((earlier ? gx0 : own ? gw : all<T>(0)) - common_w);
                const Vec<T> grad_h = bin.height[r] * ((earlier ? gy0 : own ? gh : all<T>(0)) - common_h);
                Vec<T> grad_d = (own ? gd0 : all<T>(0)) + (previous ? gd1 : all<T>(0));
                if (r == 0 && !p.circular[d]) grad_d = all<T>(0);
                summed[r] += grad_w;
                summed[bins + r] += grad_h;
                summed[2 * bins + r] += grad_d;
                if (!p.shared) {
                    T *here = grad_rows + start;
                    store<T>(here + r * stride, grad_w, valid);
                    store<T>(here + (bins + r) * stride, grad_h, valid);
                    store<T>(here + (2 * bins + r) * stride, grad_d, valid);
                }
            }
        }
        T *sums = p.shared ? grad_rows : grad_offset + d * 3 * p.bins;
        for (int r = 0; r < 3 * bins; ++r) sums[r] = sum_of<T>(summed[r]);
    }
}


} // namespace

#define EXPORT(T)                                                                                                      \
    extern "C" void spline_##T(const T *x, const T *parameters, const T *offset, const T *lower, const T *upper,       \
                               const unsigned char *circular, std::int64_t batch, int bins, int shared, int inverse,   \
                               double size, double least, double shift, std::int64_t from, std::int64_t to, T *y,      \
                               T *log_derivative) {                                                                    \
        const Problem<T> problem{x,    parameters,  offset,       lower,   upper,    circular, batch,                  \
                                 bins, shared != 0, inverse != 0, T(size), T(least), T(shift)};                        \
        spline<T>(problem, from, to, y, log_derivative);                                                               \
    }                                                                                                                  \
    extern "C" void adjoint_##T(const T *x, const T *parameters, const T *offset, const T *lower, const T *upper,      \
                                const unsigned char *circular, std::int64_t batch, int bins, int shared, int inverse,  \
                                double size, double least, double shift, std::int64_t from, std::int64_t to,           \
                                const T *grad_output, const T *grad_log, std::int64_t log_stride, T *grad_input,       \
                                T *grad_parameters, T *grad_offset) {                                                  \
        const Problem<T> problem{x,    parameters,  offset,       lower,   upper,    circular, batch,                  \
                                 bins, shared != 0, inverse != 0, T(size), T(least), T(shift)};                        \
        adjoint<T>(problem, from, to, grad_output, grad_log, log_stride, grad_input, grad_parameters, grad_offset);    \
    }

EXPORT(float)
EXPORT(double)

// Dihedral angles of a molecule and their derivatives with respect to the positions.
//
// The equations are those of torsions.py. Results that are not finite there are not finite here either.

#include <cmath>
#include <cstdint>

namespace {

using Index = std::int64_t;

template <class T> struct Vector {
    T x, y, z;
};

template <class T> inline Vector<T> operator-(Vector<T> a, Vector<T> b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
template <class T> inline Vector<T> operator+(Vector<T> a, Vector<T> b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
template <class T> inline Vector<T> operator*(T s, Vector<T> a) { return {s * a.x, s * a.y, s * a.z}; }
template <class T> inline T dot(Vector<T> a, Vector<T> b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
template <class T> inline Vector<T> cross(Vector<T> a, Vector<T> b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

// One angle in [-pi, pi), and its derivatives with respect to the four points.
template <class T> T torsion(const Vector<T> *const point[4], Vector<T> derivative[4]) {
    const Vector<T> first = *point[1] - *point[0], axis = *point[2] - *point[1], last = *point[3] - *point[2];
    const Vector<T> normal_1 = cross(first, axis), normal_2 = cross(axis, last);
    const T square = dot(axis, axis), length = std::sqrt(square);
    derivative[0] = (-length / dot(normal_1, normal_1)) * normal_1;
    derivative[3] = (length / dot(normal_2, normal_2)) * normal_2;
    const Vector<T> shift = (dot(last, axis) / square) * derivative[3] - (dot(first, axis) / square) * derivative[0];
    derivative[1] = shift - derivative[0];
    derivative[2] = T(-1) * (shift + derivative[3]);
    const T pi = T(3.14159265358979323846);
    const T angle = std::atan2(dot(first, normal_2) * length, dot(normal_1, normal_2));
    return angle >= pi ? angle - 2 * pi : angle;
}

template <class T>
void measure(const Index *quadruples, Index torsions, Index atoms, Index batch, const T *x, T *angle, T *derivative) {
    for (Index n = 0; n < batch; ++n) {
        const auto *positions = reinterpret_cast<const Vector<T> *>(x) + n * atoms;
        for (Index k = 0; k < torsions; ++k) {
            const Index *chosen = quadruples + 4 * k;
            const Vector<T> *const point[4] = {positions + chosen[0], positions + chosen[1], positions + chosen[2],
                                               positions + chosen[3]};
            const Index place = n * torsions + k;
            angle[place] = torsion(point, reinterpret_cast<Vector<T> *>(derivative) + 4 * place);
        }
    }
}

template <class T>
void pull(const Index *quadruples, Index torsions, Index atoms, Index batch, const T *derivative, const T *slope,
          T *gradient) {
    const auto *parts = reinterpret_cast<const Vector<T> *>(derivative);
    auto *sums = reinterpret_cast<Vector<T> *>(gradient);
    for (Index n = 0; n < batch; ++n)
        for (Index k = 0; k < torsions; ++k)
            for (Index i = 0; i < 4; ++i) {
                Vector<T> &sum = sums[n * atoms + quadruples[4 * k + i]];
                sum = sum + slope[n * torsions + k] * parts[4 * (n * torsions + k) + i];
            }
}

} // namespace

extern "C" {

void measure_float(const Index *quadruples, Index torsions, Index atoms, Index batch, const float *x, float *angle,
                   float *derivative) {
    measure(quadruples, torsions, atoms, batch, x, angle, derivative);
}

void measure_double(const Index *quadruples, Index torsions, Index atoms, Index batch, const double *x, double *angle,
                    double *derivative) {
    measure(quadruples, torsions, atoms, batch, x, angle, derivative);
}

void pull_float(const Index *quadruples, Index torsions, Index atoms, Index batch, const float *derivative,
                const float *slope, float *gradient) {
    pull(quadruples, torsions, atoms, batch, derivative, slope, gradient);
}

void pull_double(const Index *quadruples, Index torsions, Index atoms, Index batch, const double *derivative,
                 const double *slope, double *gradient) {
    pull(quadruples, torsions, atoms, batch, derivative, slope, gradient);
}
}

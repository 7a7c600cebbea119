// Energies and gradients of a molecule, one configuration per vector lane.
//
// The equations are those of forcefield.py, which names their papers. Results that are not finite there are not finite
// here either: no term is skipped because its constant is zero, since zero times infinity is NaN.

#include <memory>
#include <new>

#include "vectors.hpp"

namespace {

using cgbench::all;
using cgbench::LANES;
using cgbench::Vec;
using Index = std::int64_t;

template <class T> struct Pair {
    T c12, c6, coulomb, length, stiffness, born;
};
template <class T> struct Sphere { // generalized-Born parameters of an atom
    T offset, inv_offset, scaled, inv_radius, self, surface;
};
template <class T> struct Bend {
    T angle, stiffness;
};
template <class T> struct Wave { // amplitudes of cos(n phi) and sin(n phi) of a torsion
    T cosine, sine;
};
struct Triple {
    Index i, j, k;
};
struct Quadruple {
    Index i, j, k, l;
};

// native_forcefield.py mirrors this layout. Pairs are ordered (0, 1), (0, 2), ... (1, 2), ...
template <class T> struct Tables {
    Index atoms, angles, torsions, waves, born, engulfing;
    const Pair<T> *pair;
    const Sphere<T> *sphere; // [atoms], or null without implicit solvent
    const Triple *angle_atoms;
    const Bend<T> *bend;
    const Quadruple *torsion_atoms;
    const Wave<T> *wave; // [torsions, waves], n = 1, 2, ...
    T torsion_constant, tanh[3];
};

// ---- vectors in 3D ------------------------------------------------------------------------------

template <class T> struct Vec3 {
    Vec<T> x, y, z;
    void operator+=(const Vec3 &b) { x += b.x, y += b.y, z += b.z; }
    void operator-=(const Vec3 &b) { x -= b.x, y -= b.y, z -= b.z; }
};

template <class T> inline Vec3<T> operator-(const Vec3<T> &a, const Vec3<T> &b) {
    return {a.x - b.x, a.y - b.y, a.z - b.z};
}

template <class T> inline Vec3<T> operator+(const Vec3<T> &a, const Vec3<T> &b) {
    return {a.x + b.x, a.y + b.y, a.z + b.z};
}

template <class T> inline Vec3<T> times(Vec<T> s, const Vec3<T> &a) { return {s * a.x, s * a.y, s * a.z}; }

template <class T> inline Vec<T> dot(const Vec3<T> &a, const Vec3<T> &b) { return a.x * b.x + a.y * b.y + a.z * b.z; }

template <class T> inline Vec3<T> cross(const Vec3<T> &a, const Vec3<T> &b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

template <class T> inline Vec<T> at_least(Vec<T> x, T low) { return x < low ? all<T>(low) : x; } // keeps NaN

// ---- one block of configurations ----------------------------------------------------------------

template <class T> struct Separation { // of the two atoms of a pair
    Vec<T> r2, inv_r;
    Vec<T> over_r;         // (dE/dr) / r
    Vec<T> slope, reverse; // derivatives by r of the Born integrals: first by second, second by first
};

template <class T> struct Shell { // generalized-Born state of an atom
    Vec<T> integral;          // twice the Born integral
    Vec<T> radius, quarter;   // Born radius B and 1 / (2 B): a product of two is the 1 / (4 B B') of the equations
    Vec<T> by_radius;         // dE/dB, later replaced by the derivative by the integral
    Vec<T> radius_slope;      // derivative of the radius by the integral
};

// Contribution of another atom to twice the Born integral of an atom: the part from L to U. It is computed in steps, so
// that the divisions and logarithms of both directions of a pair can share work.
template <class T> class Descreening {
  public:
    Vec<T> product, log; // L U; and L / U, later replaced by its logarithm

    Descreening(Vec<T> r, const Sphere<T> &atom, const Sphere<T> &other)
        : offset(atom.offset), inv_offset(atom.inv_offset), scaled(other.scaled), outer(r + scaled) {
        const Vec<T> gap = cgbench::absolute<T>(r - scaled);
        lower = gap > offset ? gap : all<T>(offset);
        product = lower * outer;
    }

    void divide(Vec<T> inv_product) {
        inv_l = outer * inv_product;
        fall = (outer - lower) * inv_product; // 1/L - 1/U without cancellation
        fall2 = fall * ((outer + lower) * inv_product);
        log = lower * (lower * inv_product);
    }

    // Add the contribution to `sum` and return its derivative by the distance.
    Vec<T> finish(Vec<T> r, Vec<T> inv_r, bool engulfing, Vec<T> &sum) const {
        const T quarter = 0.25, square = quarter * scaled * scaled;
        const Vec<T> zero = {}, half_inv_r = static_cast<T>(0.5) * inv_r;
        Vec<T> part = fall + log * half_inv_r - fall2 * (quarter * r - square * inv_r);
        Vec<T> slope = -(log * (half_inv_r * inv_r) + fall2 * (quarter + square * (inv_r * inv_r)));
        const auto engulfed = scaled - r > offset;
        if (engulfing)
            part += engulfed ? 2 * (inv_offset - inv_l) : zero;
        else
            slope += engulfed ? 2 * inv_l * inv_l : zero;
        const auto reaches = outer >= offset;
        sum += reaches ? part : zero;
        return reaches ? slope : zero;
    }

  private:
    const T offset, inv_offset, scaled;
    Vec<T> outer, lower, inv_l, fall, fall2;
};

template <class T> class Block {
  public:
    explicit Block(const Tables<T> &tables)
        : t(tables), position(new Vec3<T>[t.atoms]), gradient(new Vec3<T>[t.atoms]), shell(new Shell<T>[t.atoms]),
          separation(new Separation<T>[t.atoms * (t.atoms - 1) / 2]) {}

    // Compute the `valid` configurations [atoms, 3] at x; the remaining lanes repeat the first one.
    void compute(const T *x, T *energies, T *gradients, int valid) {
        const Index size = 3 * t.atoms;
        auto *positions = reinterpret_cast<Vec<T> *>(position.get());
        for (int lane = 0; lane < LANES<T>; ++lane)
            for (Index c = 0; c < size; ++c) positions[c][lane] = x[(lane < valid ? lane : 0) * size + c];
        for (Index i = 0; i < t.atoms; ++i) gradient[i] = Vec3<T>{};
        Vec<T> energy = pairs();
        if (t.born) energy += solvation();
        along_pairs();
        energy += angles();
        energy += torsions();
        propagate_nonfinite();
        cgbench::store<T>(energies, energy, valid);
        const auto *from = reinterpret_cast<const Vec<T> *>(gradient.get());
        for (int lane = 0; lane < valid; ++lane)
            for (Index c = 0; c < size; ++c) gradients[lane * size + c] = from[c][lane];
    }

  private:
    const Tables<T> &t;
    std::unique_ptr<Vec3<T>[]> position, gradient;
    std::unique_ptr<Shell<T>[]> shell;
    std::unique_ptr<Separation<T>[]> separation;

    // Lennard-Jones, Coulomb and bond energies.
    Vec<T> pairs() {
        Vec<T> energy = {};
        const Pair<T> *pair = t.pair;
        Separation<T> *s = separation.get();
        for (Index i = 0; i < t.atoms; ++i) {
            const Vec3<T> here = position[i];
            Vec<T> nonbonded = {}, bonds = {};
            for (Index j = i + 1; j < t.atoms; ++j, ++pair, ++s) {
                const Vec3<T> d = here - position[j];
                const Vec<T> r2 = dot(d, d), inv_r2 = 1 / r2;
                const Vec<T> inv_r = cgbench::square_root<T>(inv_r2), r = r2 * inv_r;
                const Vec<T> inv_r6 = inv_r2 * inv_r2 * inv_r2;
                const Vec<T> repulsion = pair->c12 * inv_r6 * inv_r6, attraction = pair->c6 * inv_r6;
                const Vec<T> coulomb = pair->coulomb * inv_r;
                const Vec<T> stretch = r - pair->length, tension = pair->stiffness * stretch;
                nonbonded += repulsion - attraction + coulomb;
                bonds += tension * stretch;
                s->r2 = r2, s->inv_r = inv_r;
                s->over_r = (6 * attraction - 12 * repulsion - coulomb) * inv_r2 + tension * inv_r;
            }
            energy += nonbonded + static_cast<T>(0.5) * bonds; // row by row, for smaller rounding errors
        }
        return energy;
    }

    // Born integrals, in a separate loop: shorter dependency chains overlap better.
    void integrals() {
        for (Index i = 0; i < t.atoms; ++i) shell[i].integral = Vec<T>{};
        Separation<T> *s = separation.get();
        for (Index i = 0; i < t.atoms; ++i) {
            Vec<T> integral = shell[i].integral;
            for (Index j = i + 1; j < t.atoms; ++j, ++s) {
                const Vec<T> inv_r = s->inv_r, r = s->r2 * inv_r;
                Descreening<T> mine(r, t.sphere[i], t.sphere[j]), other(r, t.sphere[j], t.sphere[i]);
                const Vec<T> inverse = 1 / (mine.product * other.product); // one division instead of four
                mine.divide(other.product * inverse), other.divide(mine.product * inverse);
                cgbench::logarithms<T>(mine.log, other.log);
                s->slope = mine.finish(r, inv_r, t.engulfing, integral);
                s->reverse = other.finish(r, inv_r, t.engulfing, shell[j].integral);
            }
            shell[i].integral = integral;
        }
    }

    Vec<T> solvation() {
        integrals();
        const T half = 0.5, quarter = 0.25;
        Vec<T> energy = radii();
        const Pair<T> *pair = t.pair;
        Separation<T> *s = separation.get();
        for (Index i = 0; i < t.atoms; ++i) {
            const Vec<T> radius = shell[i].radius, inverse = shell[i].quarter;
            Vec<T> by_radius = shell[i].by_radius, pairs = {};
            for (Index j = i + 1; j < t.atoms; ++j, ++pair, ++s) {
                const Vec<T> exponent = s->r2 * (inverse * shell[j].quarter);
                const Vec<T> decay = cgbench::exponential<T>(-exponent);
                const Vec<T> inv_f = 1 / cgbench::square_root<T>(s->r2 + radius * shell[j].radius * decay);
                const Vec<T> energy_of_pair = pair->born * inv_f;
                const Vec<T> slope = half * energy_of_pair * (inv_f * inv_f);
                const Vec<T> by_product = slope * decay * (1 + exponent);
                pairs += energy_of_pair;
                s->over_r += 2 * slope * (1 - quarter * decay);
                by_radius += by_product * shell[j].radius;
                shell[j].by_radius += by_product * radius;
            }
            shell[i].by_radius = by_radius * shell[i].radius_slope;
            energy -= pairs;
        }
        s = separation.get();
        for (Index i = 0; i < t.atoms; ++i)
            for (Index j = i + 1; j < t.atoms; ++j, ++s)
                s->over_r += (s->slope * shell[i].by_radius + s->reverse * shell[j].by_radius) * s->inv_r;
        return energy;
    }

    // Compute Born radii from the integrals and return the self and surface energy of the atoms.
    Vec<T> radii() {
        const T half = 0.5, alpha = t.tanh[0], beta = t.tanh[1], gamma = t.tanh[2];
        Vec<T> energy = {};
        for (Index i = 0; i < t.atoms; ++i) {
            const Sphere<T> &sphere = t.sphere[i];
            Shell<T> &s = shell[i];
            const Vec<T> psi = half * s.integral * sphere.offset;
            const Vec<T> twice = 2 * psi * (alpha - psi * (beta - gamma * psi));
            const Vec<T> tanh = 1 - 2 / (cgbench::exponential<T>(twice) + 1);
            const Vec<T> inverse = sphere.inv_offset - tanh * sphere.inv_radius, inverse2 = inverse * inverse;
            const Vec<T> surface = sphere.surface * (inverse2 * inverse2 * inverse2), own = sphere.self * inverse;
            s.radius = 1 / inverse, s.quarter = half * inverse;
            s.radius_slope = s.radius * s.radius * (1 - tanh * tanh) * (half * sphere.inv_radius * sphere.offset) *
                             (alpha - psi * (2 * beta - 3 * gamma * psi));
            s.by_radius = (own - 6 * surface) * inverse;
            energy += surface - own;
        }
        return energy;
    }

    void along_pairs() {
        const Separation<T> *s = separation.get();
        for (Index i = 0; i < t.atoms; ++i) {
            const Vec3<T> here = position[i];
            Vec3<T> sum = gradient[i];
            for (Index j = i + 1; j < t.atoms; ++j, ++s) {
                const Vec3<T> pull = times(s->over_r, here - position[j]);
                sum += pull;
                gradient[j] -= pull;
            }
            gradient[i] = sum;
        }
    }

    Vec<T> angles() {
        Vec<T> energy = {};
        for (Index n = 0; n < t.angles; ++n) {
            const auto [i, j, k] = t.angle_atoms[n];
            const Vec3<T> a = position[i] - position[j], b = position[k] - position[j], normal = cross(a, b);
            const Vec<T> area = at_least<T>(cgbench::square_root<T>(dot(normal, normal)), 1e-30);
            const Vec<T> stretch = cgbench::arctangent<T>(area, dot(a, b)) - t.bend[n].angle;
            const Vec<T> slope = t.bend[n].stiffness * stretch;
            energy += slope * stretch;
            const Vec3<T> at_i = times(slope / (dot(a, a) * area), cross(a, normal));
            const Vec3<T> at_k = times(slope / (dot(b, b) * area), cross(normal, b));
            gradient[i] += at_i, gradient[k] += at_k;
            gradient[j] -= at_i + at_k;
        }
        return static_cast<T>(0.5) * energy;
    }

    Vec<T> torsions() {
        Vec<T> energy = all<T>(t.torsion_constant);
        const Wave<T> *wave = t.wave;
        for (Index index = 0; index < t.torsions; ++index) {
            const auto [i, j, k, l] = t.torsion_atoms[index];
            const Vec3<T> f = position[i] - position[j], g = position[j] - position[k], h = position[l] - position[k];
            const Vec3<T> a = cross(f, g), b = cross(h, g);
            const Vec<T> a2 = at_least<T>(dot(a, a), 1e-30), b2 = at_least<T>(dot(b, b), 1e-30);
            const Vec<T> length = cgbench::square_root<T>(dot(g, g)), inv_length = 1 / length;
            const Vec<T> scale = 1 / cgbench::square_root<T>(a2 * b2);
            const Vec<T> cosine = dot(a, b) * scale, sine = dot(cross(b, a), g) * scale * inv_length;
            Vec<T> wave_c = cosine, wave_s = sine, slope = {};
            for (Index n = 1; n <= t.waves; ++n, ++wave) {
                energy += wave->cosine * wave_c + wave->sine * wave_s;
                slope += static_cast<T>(n) * (wave->sine * wave_c - wave->cosine * wave_s);
                const Vec<T> next = wave_c * cosine - wave_s * sine;
                wave_s = wave_s * cosine + wave_c * sine;
                wave_c = next;
            }
            const Vec<T> by_a2 = slope / a2, by_b2 = slope / b2;
            const Vec3<T> at_i = times(-by_a2 * length, a), at_l = times(by_b2 * length, b);
            const Vec3<T> middle = times(dot(f, g) * by_a2 * inv_length, a) - times(dot(h, g) * by_b2 * inv_length, b);
            gradient[i] += at_i, gradient[l] += at_l;
            gradient[j] += middle - at_i;
            gradient[k] -= middle + at_l;
        }
        return energy;
    }

    // If any force of a configuration is not finite, make all of its forces NaN.
    void propagate_nonfinite() {
        Vec3<T> total = {};
        for (Index i = 0; i < t.atoms; ++i) total += gradient[i];
        const Vec<T> zero = 0 * (total.x + total.y + total.z); // NaN if any is not finite
        for (Index i = 0; i < t.atoms; ++i) gradient[i] += {zero, zero, zero};
    }
};

// Compute the configurations [first, last); return 1 if memory runs out.
template <class T> int run(const Tables<T> *tables, const T *x, T *energy, T *gradient, Index first, Index last) {
    try {
        Block<T> block(*tables);
        const Index size = 3 * tables->atoms;
        for (Index n = first; n < last; n += LANES<T>) {
            const int valid = static_cast<int>(last - n < LANES<T> ? last - n : LANES<T>);
            block.compute(x + n * size, energy + n, gradient + n * size, valid);
        }
    } catch (const std::bad_alloc &) {
        return 1;
    }
    return 0;
}

} // namespace

extern "C" {

int energy_and_gradient_float(const void *tables, const float *x, float *energy, float *gradient, Index first,
                              Index last) {
    return run(static_cast<const Tables<float> *>(tables), x, energy, gradient, first, last);
}

int energy_and_gradient_double(const void *tables, const double *x, double *energy, double *gradient, Index first,
                               Index last) {
    return run(static_cast<const Tables<double> *>(tables), x, energy, gradient, first, last);
}
}

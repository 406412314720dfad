// mathematics.h -- floating-point intrinsics and CUDA's functions that C++ lacks.
//
// Functions of both libraries (exp, erfc, lgamma, ...) are the host's: they agree with the device's
// to a few units in the last place, not to the bit. Sums, products, quotients, square roots and fma
// are rounded correctly on both.
#pragma once
#include <float.h>
#include <math.h>

#include <cmath>

#include "integers.h"

// The compiler is told not to contract (-ffp-contract=off), so plain operators are these.
#define EMU_ARITHMETIC(T, LETTER)                                                 \
    inline T __##LETTER##add_rn(T a, T b) { return a + b; }                       \
    inline T __##LETTER##sub_rn(T a, T b) { return a - b; }                       \
    inline T __##LETTER##mul_rn(T a, T b) { return a * b; }                       \
    inline T __##LETTER##div_rn(T a, T b) { return a / b; }                       \
    inline T __##LETTER##sqrt_rn(T a) { return std::sqrt(a); }                    \
    inline T __##LETTER##rcp_rn(T a) { return 1 / a; }
EMU_ARITHMETIC(float, f)
EMU_ARITHMETIC(double, d)
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __frsqrt_rn(float x) { return (float)(1 / std::sqrt((double)x)); }

inline float __fdividef(float a, float b) { return a / b; }
inline float fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; }
inline float __expf(float x) { return std::exp(x); }
inline float __exp10f(float x) { return std::pow(10.0f, x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __log10f(float x) { return std::log10(x); }
inline float __powf(float x, float y) { return std::pow(x, y); }
inline float __sinf(float x) { return std::sin(x); }
inline float __cosf(float x) { return std::cos(x); }

inline double rsqrt(double x) { return 1 / std::sqrt(x); }
inline float rsqrtf(float x) { return (float)rsqrt((double)x); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline double rcbrt(double x) { return 1 / std::cbrt(x); }

constexpr double EMU_SQRT_2 = 1.41421356237309504880;
constexpr double EMU_SQRT_PI = 1.77245385090551602730;

inline double normcdf(double x) { return 0.5 * std::erfc(-x / EMU_SQRT_2); }
inline float normcdff(float x) { return (float)normcdf((double)x); }

// exp(x^2) erfc(x): the rounding of x^2 is given back, and far out the asymptotic series is summed.
inline double erfcx(double x)
{
    if (x < 10) {
        double square = x * x;
        return std::exp(square) * (1 + std::fma(x, x, -square)) * std::erfc(x);
    }
    double term = 1, sum = 1;
    for (int k = 1; k < 16; ++k) {
        term *= -(2 * k - 1) / (2 * x * x);
        sum += term;
    }
    return sum / (x * EMU_SQRT_PI);
}
inline float erfcxf(float x) { return (float)erfcx((double)x); }

inline double emu_polynomial(double x, const double (&coefficients)[8])
{
    double sum = 0;
    for (int i = 8; i-- > 0;) sum = sum * x + coefficients[i];
    return sum;
}
// The normal quantile of 0.5 + centre, where tail is the smaller of p and 1 - p
// (Wichura 1988, Applied Statistics 37, 477-484, algorithm AS 241).
inline double emu_normal_quantile(double centre, double tail)
{
    static const double a[8] = {3.3871328727963666080e0, 1.3314166789178437745e2,
                                1.9715909503065514427e3, 1.3731693765509461125e4,
                                4.5921953931549871457e4, 6.7265770927008700853e4,
                                3.3430575583588128105e4, 2.5090809287301226727e3};
    static const double b[8] = {1.0, 4.2313330701600911252e1, 6.8718700749205790830e2,
                                5.3941960214247511077e3, 2.1213794301586595867e4,
                                3.9307895800092710610e4, 2.8729085735721942674e4,
                                5.2264952788528545610e3};
    static const double c[8] = {1.42343711074968357734e0, 4.63033784615654529590e0,
                                5.76949722146069140550e0, 3.64784832476320460504e0,
                                1.27045825245236838258e0, 2.41780725177450611770e-1,
                                2.27238449892691845833e-2, 7.74545014278341407640e-4};
    static const double d[8] = {1.0, 2.05319162663775882187e0, 1.67638483018380384940e0,
                                6.89767334985100004550e-1, 1.48103976427480074590e-1,
                                1.51986665636164571966e-2, 5.47593808499534494600e-4,
                                1.05075007164441684324e-9};
    static const double e[8] = {6.65790464350110377720e0, 5.46378491116411436990e0,
                                1.78482653991729133580e0, 2.96560571828504891230e-1,
                                2.65321895265761230930e-2, 1.24266094738807843860e-3,
                                2.71155556874348757815e-5, 2.01033439929228813265e-7};
    static const double f[8] = {1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1,
                                1.48753612908506148525e-2, 7.86869131145613259100e-4,
                                1.84631831751005468180e-5, 1.42151175831644588870e-7,
                                2.04426310338993978564e-15};
    if (std::fabs(centre) <= 0.425) {
        double r = 0.180625 - centre * centre;
        return centre * emu_polynomial(r, a) / emu_polynomial(r, b);
    }
    if (!(tail > 0)) return tail == 0 ? std::copysign(HUGE_VAL, centre) : NAN;
    double r = std::sqrt(-std::log(tail));
    double z = r <= 5 ? emu_polynomial(r - 1.6, c) / emu_polynomial(r - 1.6, d)
                      : emu_polynomial(r - 5, e) / emu_polynomial(r - 5, f);
    return std::copysign(z, centre);
}
inline double normcdfinv(double p) { return emu_normal_quantile(p - 0.5, p < 0.5 ? p : 1 - p); }
inline double erfinv(double x)
{
    return emu_normal_quantile(x / 2, (1 - std::fabs(x)) / 2) / EMU_SQRT_2;
}
inline double erfcinv(double x)
{
    return emu_normal_quantile((1 - x) / 2, (x < 1 ? x : 2 - x) / 2) / EMU_SQRT_2;
}
inline float normcdfinvf(float p) { return (float)normcdfinv((double)p); }
inline float erfinvf(float x) { return (float)erfinv((double)x); }
inline float erfcinvf(float x) { return (float)erfcinv((double)x); }

inline double sinpi(double x) { return std::sin(M_PI * std::fmod(x, 2)); }
inline double cospi(double x) { return std::cos(M_PI * std::fmod(x, 2)); }
inline float sinpif(float x) { return (float)sinpi((double)x); }
inline float cospif(float x) { return (float)cospi((double)x); }

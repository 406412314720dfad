// t_to_z.cu -- t and F statistics to the z of the same tail area, however large they are.
//
// Layout   flat arrays of n values; the table is (n_segments, n_powers), C order.
// Result   t_to_z       z = w r(w), w = sqrt(log(1 + t^2/df)), r from the table; NaN and
//                       infinities stay what they are
//          f_to_z       z of the upper tail; -infinity for F = 0, NaN for F < 0 or NaN
//          f_to_z_maps  the same in place, computed in float64 from float32 and stored as float32;
//                       F below the smallest normal float32 counts as 0
// Method   Tails are kept as logarithms: a continued fraction for the incomplete beta function
//          (DiDonato & Morris 1992, ACM Trans. Math. Softw. 18, 360-373; DLMF 8.17.22) and
//          Halley's iteration for the normal quantile. t is tabulated in the variable of Wallace
//          (1959), Ann. Math. Stat. 30, 1121-1130; the host computes the table and log B.
// Launch   one thread per value, THREADS threads to a block; blockIdx.x covers the values.
// Twin     gpustats/distributions.py: _interpolate, _invert_each_f

constexpr int MAX_FRACTION_TERMS = 10000;
constexpr double FRACTION_TOLERANCE = 1e-15;
// Halley's iteration converges cubically: after a step this small the next is below rounding.
constexpr double HALLEY_TOLERANCE = 1e-6;
constexpr int MAX_HALLEY_STEPS = 20;
// erfc is a normal float64 up to here, and five terms of its asymptotic series suffice beyond.
constexpr double ASYMPTOTIC_Z = 36.0;
constexpr double SQRT_HALF = 0.70710678118654752440;
constexpr double SQRT_TAU = 2.50662827463100050242;

// log(1 + u v / df), also where u v overflows.
__device__ __forceinline__ double log1p_quotient(double u, double v, double df)
{
    const double quotient = u * v / df;
    return isfinite(quotient) ? log1p(quotient) : log(u) + log(v) - log(df);
}

// x^a y^b / (B(a, b) I_x(a, b)), y = 1 - x, as a continued fraction (Lentz); with y it keeps its
// digits where x is close to 1.
__device__ double beta_fraction(double a, double b, double x, double y)
{
    const double balance = a * y - b * x + 1.0;
    double fraction = a * balance / (a + 1.0);
    double ratio = fraction;
    double inverse = 0.0;
    for (int m = 1; m < MAX_FRACTION_TERMS; ++m) {
        const double scaled = x / (a + 2 * m - 1.0);
        const double even = m * (b - m) * scaled;
        const double numerator = even * (a + m - 1.0) * (a + b + m - 1.0) * scaled;
        const double term =
            m + even + (a + m) * (balance + m * (1.0 + y)) / (a + 2 * m + 1.0);
        inverse = 1.0 / (term + numerator * inverse);
        ratio = term + numerator / ratio;
        fraction *= ratio * inverse;
        if (fabs(ratio * inverse - 1.0) <= FRACTION_TOLERANCE) break;
    }
    return fraction;
}

// log Q(z), Q the upper normal tail; `hazard` becomes -d log Q/dz.
__device__ __forceinline__ double log_upper_tail(double z, double* hazard)
{
    if (z < ASYMPTOTIC_Z) {
        const double twice_q = erfc(z * SQRT_HALF);
        *hazard = 2.0 * exp(-0.5 * z * z) / SQRT_TAU / twice_q;
        return log(0.5 * twice_q);
    }
    const double r = 1.0 / (z * z);
    const double series = 1.0 - r * (1.0 - 3.0 * r * (1.0 - 5.0 * r * (1.0 - 7.0 * r)));
    *hazard = z / series;
    return log(series / (z * SQRT_TAU)) - 0.5 * z * z;
}

// Solution of log Q(z) = log_tail, from the start of Abramowitz & Stegun (1964) 26.2.23.
__device__ double z_of_log_tail(double log_tail)
{
    const double s = sqrt(-2.0 * log_tail);
    double z = s - (2.515517 + s * (0.802853 + s * 0.010328)) /
                       (1.0 + s * (1.432788 + s * (0.189269 + s * 0.001308)));
    for (int i = 0; i < MAX_HALLEY_STEPS; ++i) {
        double hazard;
        const double newton = (log_upper_tail(z, &hazard) - log_tail) / hazard;
        const double step = newton / (1.0 + 0.5 * newton * (hazard - z));
        z += step;
        if (fabs(step) <= HALLEY_TOLERANCE * (1.0 + fabs(z))) break;
    }
    return z;
}

// z of one F; `log_beta` is log B(df/2, dimension/2). The tail is the one, seen from the mean of
// the beta distribution, for which the continued fraction converges fast.
__device__ double z_of_f(double f, double dimension, double df, double log_beta)
{
    if (!(f >= 0.0)) return __longlong_as_double(0x7FF8000000000000LL);
    if (isinf(f)) return f;
    const double exponent = log1p_quotient(f, dimension, df);
    if (exponent == 0.0) return -__longlong_as_double(0x7FF0000000000000LL);
    const double a = 0.5 * df, b = 0.5 * dimension;
    const double x = exp(-exponent), y = -expm1(-exponent);
    const double log_power = b * log(y) - a * exponent - log_beta;
    const bool upper = x < (a + 1.0) / (a + b + 2.0);
    const double fraction = upper ? beta_fraction(a, b, x, y) : beta_fraction(b, a, y, x);
    const double z = z_of_log_tail(log_power - log(fraction));
    return upper ? z : -z;
}

extern "C" __global__ void __launch_bounds__(THREADS)
t_to_z(const double* __restrict__ t, long long n, double df, const double* __restrict__ table,
       int n_segments, int n_powers, double segment_width, double* __restrict__ z)
{
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const double value = t[i];
    if (!isfinite(value)) {
        z[i] = value;
        return;
    }
    const double w = sqrt(log1p_quotient(fabs(value), fabs(value), df));
    const double position = w / segment_width;
    const int segment = min((int)position, n_segments - 1);
    const double u = 2.0 * (position - segment) - 1.0;
    const double* coefficients = table + segment * n_powers;
    double ratio = coefficients[n_powers - 1];
    for (int power = n_powers - 2; power >= 0; --power) ratio = ratio * u + coefficients[power];
    z[i] = copysign(w * ratio, value);
}

extern "C" __global__ void __launch_bounds__(THREADS)
f_to_z(const double* __restrict__ f, long long n, double dimension, double df, double log_beta,
       double* __restrict__ z)
{
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    z[i] = z_of_f(f[i], dimension, df, log_beta);
}

extern "C" __global__ void __launch_bounds__(THREADS)
f_to_z_maps(float* __restrict__ maps, long long n, double dimension, double df, double log_beta)
{
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    maps[i] = (float)z_of_f(maps[i], dimension, df, log_beta);
}

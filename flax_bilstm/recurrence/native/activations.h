// σ and tanh of vectors, to 2 units in the last place; NaN gives NaN, infinities give the limits.

#ifndef FLAX_BILSTM_ACTIVATIONS_H_
#define FLAX_BILSTM_ACTIVATIONS_H_

#include "vectors.h"

namespace flax_bilstm::FLAX_BILSTM_TARGET {

template <typename T>
struct Exponential;

// ln 2 is the sum of two parts; the first is short enough that its multiples are exact.
// `polynomial` has the coefficients of q in e^r − 1 = r + r² q(r) for |r| ≤ ln 2 / 2, fitted to
// minimize the largest relative error (2e-10 and 3e-19). Adding `round` to a small number leaves
// its nearest integer in the lowest bits. Above `overflow`, x is replaced by `infinite`, where
// e^x is infinite and the excess above 0; below `underflow`, by `underflow`, where e^x is a normal
// number. Above `tanh_is_1`, tanh(x / 2) rounds to 1.
template <>
struct Exponential<float> {
  static constexpr float log2_e = 1.44269504f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float round = 12582912.0f;  // 1.5 · 2^23
  static constexpr float underflow = -87.0f, overflow = 88.0f, infinite = 89.0f, tanh_is_1 = 20.0f;
  static constexpr int mantissa_bits = 23, exponent_bias = 127;
  static constexpr float polynomial[] = {0.5f,           0.166666657f,   0.0416663587f,
                                         0.00833338872f, 0.00139406603f, 0.000198460475f};
};
template <>
struct Exponential<double> {
  static constexpr double log2_e = 1.4426950408889634, ln2_high = 6.93145751953125e-1,
                          ln2_low = 1.42860682030941723212e-6;
  static constexpr double round = 6755399441055744.0;  // 1.5 · 2^52
  static constexpr double underflow = -708.0, overflow = 709.0, infinite = 710.0, tanh_is_1 = 40.0;
  static constexpr int mantissa_bits = 52, exponent_bias = 1023;
  static constexpr double polynomial[] = {
      0.5,
      0.16666666666666677,
      0.04166666666666651,
      0.008333333333321665,
      0.001388888888896254,
      0.00019841269886038715,
      2.4801587172311368e-05,
      2.75572442932635e-06,
      2.7557402749051876e-07,
      2.5109009540881057e-08,
      2.0875323907564817e-09,
  };
};

// e^x = scale (1 + excess), |excess| < 0.42.
template <typename T>
struct Power {
  Vector<T> scale, excess;
};

template <typename T>
FLAX_BILSTM_INLINE Power<T> power(Vector<T> x) {
  using E = Exponential<T>;
  const Vector<T> shifted = fma(x, broadcast(E::log2_e), broadcast(E::round));
  const Vector<T> n = shifted - E::round;
  const Vector<T> exact = fma(n, broadcast(-E::ln2_high), x);
  const Vector<T> r = fma(n, broadcast(-E::ln2_low), exact);
  const Vector<T> lost = fma(n, broadcast(-E::ln2_low), exact - r);
  constexpr int last = static_cast<int>(sizeof E::polynomial / sizeof(T)) - 1;
  Vector<T> q = broadcast(E::polynomial[last]);
  for (int k = last - 1; k >= 0; --k) q = fma(q, r, broadcast(E::polynomial[k]));
  const Bits<T> exponent = (Bits<T>)shifted + E::exponent_bias;
  return {(Vector<T>)(exponent << E::mantissa_bits), r + fma(r * r, q, lost)};
}

template <typename T>
FLAX_BILSTM_INLINE Vector<T> sigmoid(Vector<T> x) {
  using E = Exponential<T>;
  Vector<T> minus = -x;
  minus = minus > E::overflow ? broadcast(E::infinite) : minus;  // a comparison keeps NaN
  minus = minus < E::underflow ? broadcast(E::underflow) : minus;
  const Power<T> e = power<T>(minus);
  return T{1} / (fma(e.scale, e.excess, broadcast(T{1})) + e.scale);
}

// tanh|x| = (e^2|x| − 1) / (e^2|x| + 1), computed from e^2|x| − 1, so that no digits are lost near
// 0. The rounding error of the denominator is corrected where it matters, with 1 / denominator =
// (1 − quotient) / 2.
template <typename T>
FLAX_BILSTM_INLINE Vector<T> tanh(Vector<T> x) {
  using E = Exponential<T>;
  const Bits<T> sign = (Bits<T>)broadcast(T{-0.0}) & (Bits<T>)x;
  Vector<T> y = (Vector<T>)((Bits<T>)x ^ sign);
  y = y + y;
  y = y > E::tanh_is_1 ? broadcast(E::tanh_is_1) : y;
  const Power<T> e = power<T>(y);
  const Vector<T> minus_1 = fma(e.scale, e.excess, e.scale - T{1});
  const Vector<T> plus_1 = minus_1 + T{2};
  const Vector<T> lost = minus_1 < T{8} ? minus_1 - (plus_1 - T{2}) : Vector<T>{};
  const Vector<T> quotient = minus_1 / plus_1;
  const Vector<T> inverse = fma(broadcast(T{-0.5}), quotient, broadcast(T{0.5}));
  return (Vector<T>)((Bits<T>)fma(-lost * quotient, inverse, quotient) | sign);
}

}  // namespace flax_bilstm::FLAX_BILSTM_TARGET

#endif  // FLAX_BILSTM_ACTIVATIONS_H_

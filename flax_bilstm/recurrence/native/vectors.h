// Vectors as wide as the widest registers that this translation unit is compiled for.
//
// Products and sums are contracted only by fma() (-ffp-contract=off): the results of a row must not
// depend on the size of its tile.

#ifndef FLAX_BILSTM_VECTORS_H_
#define FLAX_BILSTM_VECTORS_H_

#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "kernels.h"

// A compiler that chooses by itself calls σ and tanh, or puts all tiles into one function that has
// too few registers: up to 40% slower, after changes elsewhere.
#define FLAX_BILSTM_INLINE inline __attribute__((always_inline))
#define FLAX_BILSTM_NOINLINE __attribute__((noinline))

namespace flax_bilstm::FLAX_BILSTM_TARGET {

#if defined(__AVX512F__)
constexpr Size kVectorBytes = 64, kRows = 6;  // 6 rows of 4 vectors fill 24 of 32 registers
#elif defined(__AVX2__)
constexpr Size kVectorBytes = 32, kRows = 3;  // 12 of 16
#elif defined(__aarch64__)
constexpr Size kVectorBytes = 16, kRows = 6;
#else
constexpr Size kVectorBytes = 16, kRows = 3;
#endif

template <typename T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float Type __attribute__((vector_size(kVectorBytes)));
  typedef std::uint32_t Bits __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
  typedef double Type __attribute__((vector_size(kVectorBytes)));
  typedef std::uint64_t Bits __attribute__((vector_size(kVectorBytes)));
};
template <typename T>
using Vector = typename VectorOf<T>::Type;
template <typename T>
using Bits = typename VectorOf<T>::Bits;
template <typename T>
constexpr Size kLanes = kVectorBytes / Size{sizeof(T)};

template <typename T>
inline Vector<T> load(const T* from) {
  Vector<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// Loads the first `count` lanes; the other lanes, or all if `count` is 0 or less, are 0.
template <typename T>
inline Vector<T> load(const T* from, Size count) {
  if (count >= kLanes<T>) return load(from);
  Vector<T> v{};
  if (count > 0) std::memcpy(&v, from, static_cast<std::size_t>(count) * sizeof(T));
  return v;
}

template <typename T>
inline void store(T* to, Vector<T> v) {
  std::memcpy(to, &v, sizeof v);
}

template <typename T>
inline void store(T* to, Vector<T> v, Size count) {
  if (count >= kLanes<T>) return store(to, v);
  if (count > 0) std::memcpy(to, &v, static_cast<std::size_t>(count) * sizeof(T));
}

template <typename T>
inline void copy_rows(T* to, Size to_stride, const T* from, Size from_stride, Size rows,
                      Size columns) {
  for (Size row = 0; row < rows; ++row) {
    std::memcpy(to + row * to_stride, from + row * from_stride,
                static_cast<std::size_t>(columns) * sizeof(T));
  }
}

template <typename T>
inline Vector<T> broadcast(T value) {
  return value - Vector<T>{};  // minus 0: −0 stays −0
}

template <typename T>
inline T sum(Vector<T> v) {
  T total = v[0];
  for (Size lane = 1; lane < kLanes<T>; ++lane) total += v[lane];
  return total;
}

// a b + c, rounded once if the instruction set has such an operation.
#if defined(__AVX512F__)
inline Vector<float> fma(Vector<float> a, Vector<float> b, Vector<float> c) {
  return _mm512_fmadd_ps(a, b, c);
}
inline Vector<double> fma(Vector<double> a, Vector<double> b, Vector<double> c) {
  return _mm512_fmadd_pd(a, b, c);
}
#elif defined(__AVX2__)
inline Vector<float> fma(Vector<float> a, Vector<float> b, Vector<float> c) {
  return _mm256_fmadd_ps(a, b, c);
}
inline Vector<double> fma(Vector<double> a, Vector<double> b, Vector<double> c) {
  return _mm256_fmadd_pd(a, b, c);
}
#elif defined(__aarch64__)
inline Vector<float> fma(Vector<float> a, Vector<float> b, Vector<float> c) {
  return vfmaq_f32(c, a, b);
}
inline Vector<double> fma(Vector<double> a, Vector<double> b, Vector<double> c) {
  return vfmaq_f64(c, a, b);
}
#else
inline Vector<float> fma(Vector<float> a, Vector<float> b, Vector<float> c) { return a * b + c; }
inline Vector<double> fma(Vector<double> a, Vector<double> b, Vector<double> c) {
  return a * b + c;
}
#endif

inline Size whole_vectors(Size count, Size lanes) { return (count + lanes - 1) / lanes; }

}  // namespace flax_bilstm::FLAX_BILSTM_TARGET

#endif  // FLAX_BILSTM_VECTORS_H_

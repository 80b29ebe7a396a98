// What every call needs: its arguments and its dtype's kernels.

#ifndef FLAX_BILSTM_CALL_H_
#define FLAX_BILSTM_CALL_H_

#include <new>

#include "dispatch.h"
#include "kernels.h"
#include "memory.h"
#include "xla/ffi/api/ffi.h"

namespace flax_bilstm {

namespace ffi = xla::ffi;

// The buffers of a call, one after another, as arrays of T.
template <typename T>
class Arguments {
 public:
  explicit Arguments(ffi::RemainingArgs buffers) : buffers_(buffers) {}
  template <typename U = T>
  const U* next() {
    return static_cast<const U*>(buffers_.get<ffi::AnyBuffer>(index_++)->untyped_data());
  }

 private:
  ffi::RemainingArgs buffers_;
  std::size_t index_ = 0;
};

template <typename T>
class Results {
 public:
  explicit Results(ffi::RemainingRets buffers) : buffers_(buffers) {}
  std::size_t left() const { return buffers_.size() - index_; }
  T* next() {
    ffi::AnyBuffer buffer = **buffers_.get<ffi::AnyBuffer>(index_++);
    prefer_large_pages(buffer.untyped_data(), buffer.size_bytes());
    return static_cast<T*>(buffer.untyped_data());
  }

 private:
  ffi::RemainingRets buffers_;
  std::size_t index_ = 0;
};

// Calls f with the kernels of the dtype of `buffer`.
template <typename F>
inline ffi::Error with_kernels(const ffi::AnyBuffer& buffer, const F& f) {
  const InstructionSet& chosen = instruction_set();
  try {
    switch (buffer.element_type()) {
      case ffi::F32:
        f(chosen.float32);
        return ffi::Error::Success();
      case ffi::F64:
        f(chosen.float64);
        return ffi::Error::Success();
      default:
        return ffi::Error::InvalidArgument("flax_bilstm: expected arrays of float32 or float64.");
    }
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "flax_bilstm: out of memory.");
  }
}

}  // namespace flax_bilstm

#endif  // FLAX_BILSTM_CALL_H_

// Memory for vectors, and large pages.

#ifndef FLAX_BILSTM_MEMORY_H_
#define FLAX_BILSTM_MEMORY_H_

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cstdint>
#include <memory>
#include <new>

#include "kernels.h"

namespace flax_bilstm {

// Uninitialized memory for vectors.
template <typename T>
class Workspace {
 public:
  explicit Workspace(Size count)
      : data_(static_cast<T*>(::operator new[](static_cast<std::size_t>(count) * sizeof(T),
                                               kAlignment))) {}
  T* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Delete {
    void operator()(T* data) const { ::operator delete[](data, kAlignment); }
  };
  std::unique_ptr<T, Delete> data_;
};

// Asks Linux for pages of 2 MiB where `data` has not been written to yet: fewer page faults.
inline void prefer_large_pages([[maybe_unused]] void* data, [[maybe_unused]] std::size_t size) {
#ifdef MADV_HUGEPAGE
  constexpr std::uintptr_t kPage = 2 * 1024 * 1024;
  const auto begin = (reinterpret_cast<std::uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const auto end = (reinterpret_cast<std::uintptr_t>(data) + size) / kPage * kPage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace flax_bilstm

#endif  // FLAX_BILSTM_MEMORY_H_

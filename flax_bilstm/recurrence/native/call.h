// What every call needs: its arguments, its dtype's kernels, and threads to run them on.

#ifndef FLAX_BILSTM_CALL_H_
#define FLAX_BILSTM_CALL_H_

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "dispatch.h"
#include "kernels.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace flax_bilstm {

namespace ffi = xla::ffi;

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

// Below this number of products of vectors (some 0.1 ms), this thread alone is done before another
// one has woken up.
constexpr Size kSmall = 256 * 1024;

// Runs all directions in parallel; each splits its work among its share of the threads.
template <typename Pass, typename T>
void run(ffi::ThreadPool& pool, const std::vector<Pass>& passes, const Kernel<Pass, T>& kernel) {
  const Pass& first = passes.front();
  const Size products = first.time * first.batch * (first.input + first.hidden) * 4 * first.hidden;
  const bool small = first.directions * products < kSmall * kernel.lanes;
  const Size threads = small ? 1 : std::max<Size>(1, pool.num_threads());
  const Size directions = static_cast<Size>(passes.size()), count = kernel.count(first);
  const Size panels = kernel.panels(first), packed_size = panels * kernel.panel_size(first);
  const Size tiles = (count + kernel.tile - 1) / kernel.tile;
  const Size parts = std::min((threads + directions - 1) / directions, tiles);
  const Size size = parts ? (count + parts - 1) / parts : 0;
  const Size scratch_size = kernel.scratch_size(first, size);
  const Workspace<T> packed(directions * packed_size), scratch(directions * parts * scratch_size);
  const auto pack = [&](Size direction, Size panel) {
    kernel.pack(passes[direction], panel, packed.data() + direction * packed_size);
  };
  const bool alone = parts == 1 && directions >= threads;  // a direction's thread also packs it
  if (!alone) {
    parallel(pool, threads, directions * panels,
             [&](Size task) { pack(task / panels, task % panels); });
  }
  parallel(pool, threads, directions * parts, [&](Size task) {
    const Size direction = task % directions, part = task / directions;
    for (Size panel = 0; alone && panel < panels; ++panel) pack(direction, panel);
    kernel.run(passes[direction], part * count / parts, (part + 1) * count / parts,
               packed.data() + direction * packed_size, scratch.data() + task * scratch_size);
  });
}

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

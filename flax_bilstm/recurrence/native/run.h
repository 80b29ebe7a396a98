// Runs the passes of a call on the threads of XLA's pool.

#ifndef FLAX_BILSTM_RUN_H_
#define FLAX_BILSTM_RUN_H_

#if __has_include(<unistd.h>)
#include <unistd.h>
#endif

#include <algorithm>
#include <deque>
#include <vector>

#include "kernels.h"
#include "memory.h"
#include "parallel.h"
#include "shared_steps.h"
#include "xla/ffi/api/ffi.h"

namespace flax_bilstm {

namespace ffi = xla::ffi;

// Below this number of products of vectors (some 0.1 ms), this thread alone is done before another
// one has woken up.
constexpr Size kSmall = 256 * 1024;

inline Size products(const Layer& layer) {
  const Size each = layer.batch * (layer.input + layer.hidden) * 4 * layer.hidden;
  return layer.directions * layer.time * each;
}

template <typename Pass, typename T>
Size threads_for(const ffi::ThreadPool& pool, const Pass& pass, const Kernel<Pass, T>& kernel) {
  const bool small = products(pass) < kSmall * kernel.lanes;
  return small ? 1 : std::max<Size>(1, pool.num_threads());
}

// Runs all directions in parallel; each splits its work among its share of the threads.
template <typename Pass, typename T>
void run(ffi::ThreadPool& pool, const std::vector<Pass>& passes, const Kernel<Pass, T>& kernel) {
  const Pass& first = passes.front();
  const Size threads = threads_for(pool, first, kernel);
  const Size directions = static_cast<Size>(passes.size()), count = kernel.count(first);
  const Size panels = kernel.panels(first), packed_size = panels * kernel.panel_size(first);
  const Size tiles = (count + kernel.tile - 1) / kernel.tile;
  const Size parts = std::min((threads + directions - 1) / directions, tiles);
  const Size size = parts ? (count + parts - 1) / parts : 0;
  const Size scratch_size = kernel.scratch_size(first, size);
  const Workspace<T> packed(directions * packed_size), scratch(directions * parts * scratch_size);
  const auto pack = [&](Size direction, Range some) {
    kernel.pack(passes[direction], some, packed.data() + direction * packed_size);
  };
  const bool alone = parts == 1 && directions >= threads;  // a direction's thread also packs it
  if (!alone) {
    parallel(pool, threads, directions * panels,
             [&](Size task) { pack(task / panels, {task % panels, task % panels + 1}); });
  }
  parallel(pool, threads, directions * parts, [&](Size task) {
    const Size direction = task % directions, part = task / directions;
    if (alone) pack(direction, {0, panels});
    kernel.run(passes[direction], part * count / parts, (part + 1) * count / parts,
               packed.data() + direction * packed_size, scratch.data() + task * scratch_size);
  });
}

// The size in bytes of each core's second cache, at least 1 MiB: weights that small are read soon.
inline Size second_cache() {
  constexpr Size kLeast = 1024 * 1024;
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const Size size = std::max<Size>(kLeast, sysconf(_SC_LEVEL2_CACHE_SIZE));
  return size;
#else
  return kLeast;
#endif
}

// Up to this batch size, reading the weights takes about as long as multiplying them.
constexpr Size kLargestShared = 16;

// Sharing costs some microseconds a step, and packing the weights as much as several steps. So it
// takes a number of steps, of products of vectors, and of bytes for each thread to multiply.
constexpr Size kFewSteps = 8, kFewProducts = 4 * kSmall, kFewBytes = 256 * 1024;

// How many threads share each step of a direction; 1 if none. They do where a direction's recurrent
// weights are too large for one core's second cache but not for those of all, and where the batch
// is too small to be split while there are more threads than directions.
template <typename Pass, typename T>
Size threads_per_direction(const Pass& pass, const StepKernel<Pass, T>& kernel, Size threads) {
  const Size weights = 4 * pass.hidden * pass.hidden * Size{sizeof(T)}, cache = second_cache();
  if (pass.time < kFewSteps || products(pass) < kFewProducts * kernel.lanes) return 1;
  Size sharing = 1;
  if (weights > cache && weights <= threads * cache && pass.batch <= kLargestShared) {
    sharing = (weights + cache - 1) / cache;
  }
  if (pass.batch <= kernel.tile) {
    sharing = std::max(sharing, std::min(threads / pass.directions,
                                         pass.batch * weights / kFewBytes));
  }
  return sharing;
}

// The same for passes over time, where threads may share each step of a direction.
template <typename Pass, typename T>
void run(ffi::ThreadPool& pool, std::vector<Pass> passes, const StepKernel<Pass, T>& kernel) {
  const Pass& first = passes.front();
  const Size all_threads = threads_for(pool, first, kernel);
  const Size parts = threads_per_direction(first, kernel, all_threads);
  if (parts == 1) return run(pool, passes, static_cast<const Kernel<Pass, T>&>(kernel));
  for (Pass& pass : passes) pass.shared = true;
  const Size directions = static_cast<Size>(passes.size()), blocks = kernel.blocks(first);
  const Size panels = kernel.panels(first), packed_size = panels * kernel.panel_size(first);
  const Size scratch_size = kernel.scratch_size(first, first.batch);
  const Workspace<T> packed(directions * packed_size), scratch(directions * scratch_size);
  std::deque<SharedSteps> steps;
  for (Size k = 0; k < directions; ++k) steps.emplace_back(first.time + 1, parts);
  const auto run_part = [&](Size direction, Size step, Size part) {
    const Range share{part * blocks / parts, (part + 1) * blocks / parts};
    T* weights = packed.data() + direction * packed_size;
    if (step == 0 && panels) kernel.pack(passes[direction], share, weights);
    kernel.step(passes[direction], step, {0, first.batch}, share, weights,
                scratch.data() + direction * scratch_size);
  };
  // One direction after the other, or as many at once as there are threads for. A thread that had
  // to wait for long goes on with the next direction.
  const Size threads = std::min(all_threads, parts * directions);
  parallel(pool, threads, threads, [&](Size thread) {
    for (Size k = 0; k < directions; ++k) {
      const Size direction = (thread / parts + k) % directions;
      steps[direction].work(thread % parts, [&](Size step, Size part) {
        run_part(direction, step, part);
      });
    }
  });
}

}  // namespace flax_bilstm

#endif  // FLAX_BILSTM_RUN_H_

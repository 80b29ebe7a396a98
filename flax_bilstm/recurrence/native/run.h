// Runs the passes of a call on the threads of XLA's pool.

#ifndef FLAX_BILSTM_RUN_H_
#define FLAX_BILSTM_RUN_H_

#if __has_include(<unistd.h>)
#include <unistd.h>
#endif

#include <algorithm>
#include <cstdlib>
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

template <typename Pass, typename T>
Size threads_for(const ffi::ThreadPool& pool, const Pass& pass, const Kernel<Pass, T>& kernel) {
  const Size products = pass.time * pass.batch * (pass.input + pass.hidden) * 4 * pass.hidden;
  const bool small = pass.directions * products < kSmall * kernel.lanes;
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

// The size in bytes of each core's second cache.
inline Size second_cache() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const Size size = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (size > 0) return size;
#endif
  return 1024 * 1024;
}

// How many threads should share each step of a direction: as many as hold its recurrent weights in
// their second caches, if one alone cannot. 1 if there are not that many, or if there are so few
// steps that packing would take longer.
template <typename T>
Size threads_per_direction(const Layer& layer, Size threads) {
  static const long max_batch = getenv("X_BATCH") ? atol(getenv("X_BATCH")) : kLargestUnpackedBatch;
  static const long min_time = getenv("X_TIME") ? atol(getenv("X_TIME")) : 8;
  static const long min_bytes = getenv("X_BYTES") ? atol(getenv("X_BYTES")) : 0;
  const Size weights = 4 * layer.hidden * layer.hidden * Size{sizeof(T)}, cache = second_cache();
  if (layer.batch > max_batch || layer.time < min_time) return 1;
  if (min_bytes && weights >= min_bytes && weights <= threads * cache) return std::max<Size>(2, weights / cache);
  if (weights <= cache || weights > threads * cache) return 1;
  return (weights + cache - 1) / cache;
}

// The same for passes over time, where threads may share each step of a direction.
template <typename Pass, typename T>
void run(ffi::ThreadPool& pool, std::vector<Pass> passes, const StepKernel<Pass, T>& kernel) {
  const Pass& first = passes.front();
  const Size all_threads = threads_for(pool, first, kernel);
  const Size parts = threads_per_direction<T>(first, all_threads);
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
  // One direction after the other, or as many at once as there are threads for.
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

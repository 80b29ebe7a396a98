// Independent tasks on XLA's thread pool.

#ifndef FLAX_BILSTM_PARALLEL_H_
#define FLAX_BILSTM_PARALLEL_H_

#include <atomic>
#include <cfenv>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <utility>

#include "kernels.h"
#include "xla/ffi/api/ffi.h"

namespace flax_bilstm {

// Runs tasks until none is left. `task` is used only while some are left: a thread that the pool
// starts after `parallel` has returned finds none and ends.
template <typename Task>
class Tasks {
 public:
  Tasks(Size count, const Task& task) : count_(count), task_(&task) { std::fegetenv(&rounding_); }

  void work() {
    Size index = next_++;
    if (index >= count_) return;
    std::fenv_t before;
    std::fegetenv(&before);
    std::fesetenv(&rounding_);  // the caller's, so that results do not depend on the thread
    Size finished = 0;
    for (; index < count_; index = next_++, ++finished) (*task_)(index);
    std::fesetenv(&before);
    const std::lock_guard<std::mutex> lock(mutex_);
    done_ += finished;
    if (done_ == count_) all_done_.notify_all();
  }

  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    all_done_.wait(lock, [this] { return done_ == count_; });
  }

 private:
  const Size count_;
  const Task* const task_;
  std::fenv_t rounding_;
  std::atomic<Size> next_{0};
  std::mutex mutex_;
  std::condition_variable all_done_;
  Size done_ = 0;
};

// Runs task(0), ..., task(count − 1) in any order on this and up to `threads` − 1 other threads.
// Returns when all are done. It waits only for tasks that a thread is already running, so it cannot
// deadlock, even if the pool never starts one of our threads.
template <typename Task>
void parallel(xla::ffi::ThreadPool& pool, Size threads, Size count, const Task& task) {
  if (count <= 0) return;
  const auto tasks = std::make_shared<Tasks<Task>>(count, task);
  for (Size helper = 1; helper < count && helper < threads; ++helper) {
    pool.Schedule([tasks] { tasks->work(); });
  }
  tasks->work();
  tasks->wait();
}

}  // namespace flax_bilstm

#endif  // FLAX_BILSTM_PARALLEL_H_

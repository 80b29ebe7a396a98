// Steps that several threads share: each runs its part of every step.

#ifndef FLAX_BILSTM_SHARED_STEPS_H_
#define FLAX_BILSTM_SHARED_STEPS_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <vector>

#include "kernels.h"

namespace flax_bilstm {

// Every part of a step must be finished before the next step begins. A thread takes its own part of
// a step, then whatever part nobody has taken, and waits only for parts that another thread is
// running: so any number of threads, even one, finishes all steps. A thread that waits for long
// leaves the rest to the others: the processor is busy with something else, and whoever runs alone
// never waits. One always stays, since a thread waits only for one that is in the middle of a part.
class SharedSteps {
 public:
  SharedSteps(Size steps, Size parts) : steps_(steps), parts_(parts), begun_(parts) {}

  // Runs run(step, part) until all steps are finished, or are being finished by other threads. Any
  // number of threads may call this.
  template <typename F>
  void work(Size own, const F& run) {
    for (Size step; (step = finished_ / parts_) < steps_;) {
      Size part = own, tried = 0;
      while (tried < parts_ && !take(step, part)) part = (own + ++tried) % parts_;
      if (tried < parts_) {
        run(step, part);
        if (++finished_ % parts_ == 0) wake();
      } else if (!wait(step)) {
        return;
      }
    }
  }

 private:
  bool take(Size step, Size part) {
    Size expected = step;
    return begun_[part].compare_exchange_strong(expected, step + 1);
  }

  // First without sleeping: another thread is usually done within microseconds. If the processor
  // runs something else in its place, sleeping leaves the time to that. False if it took too long.
  bool wait(Size step) {
    constexpr int kTries = 5000;  // some 0.2 ms
    constexpr std::chrono::milliseconds kLongest{2};  // about what a scheduler gives to others
    const auto over = [&] { return finished_ / parts_ > step; };
    for (int k = 0; k < kTries; ++k) {
      if (over()) return true;
      pause();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    ++asleep_;
    const bool in_time = step_finished_.wait_for(lock, kLongest, over);
    --asleep_;
    return in_time;
  }

  void wake() {
    if (!asleep_) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    step_finished_.notify_all();
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  const Size steps_, parts_;
  std::vector<std::atomic<Size>> begun_;  // how many steps of each part have been taken
  std::atomic<Size> finished_{0};         // parts, of all steps
  std::atomic<int> asleep_{0};
  std::mutex mutex_;
  std::condition_variable step_finished_;
};

}  // namespace flax_bilstm

#endif  // FLAX_BILSTM_SHARED_STEPS_H_

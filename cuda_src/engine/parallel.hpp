// A pool of threads for the CPU build. Plain pthreads: the C++ headers would double the time a user waits to compile.
#pragma once

#include <pthread.h>
#include <unistd.h>

#include <cstddef>

class Pool {
 public:
  using Work = void (*)(void* context, std::size_t first, std::size_t last);

  // Calls work over [0, size) in pieces, on this thread and on up to `threads - 1` others.
  void run(std::size_t size, int threads, Work work, void* context) {
    pthread_mutex_lock(&mutex_);
    while (started_ < threads - 1 && started_ < most_threads) {
      pthread_t thread;
      if (pthread_create(&thread, nullptr, &Pool::serve, this) != 0) break;  // fewer threads do the same work
      pthread_detach(thread);
      ++started_;
    }
    work_ = work;
    context_ = context;
    size_ = size;
    next_ = 0;
    const std::size_t pieces = static_cast<std::size_t>(threads) * 8;
    piece_ = (size + pieces - 1) / pieces;
    helpers_wanted_ = threads - 1 < started_ ? threads - 1 : started_;
    pthread_cond_broadcast(&start_);
    pthread_mutex_unlock(&mutex_);

    take_pieces();

    pthread_mutex_lock(&mutex_);
    helpers_wanted_ = 0;
    while (helpers_ > 0) pthread_cond_wait(&finish_, &mutex_);
    pthread_mutex_unlock(&mutex_);
  }

 private:
  static constexpr int most_threads = 256;

  static void* serve(void* pool) {
    static_cast<Pool*>(pool)->serve_forever();
    return nullptr;
  }

  void serve_forever() {
    pthread_mutex_lock(&mutex_);
    for (;;) {
      while (helpers_wanted_ == 0) pthread_cond_wait(&start_, &mutex_);
      --helpers_wanted_;
      ++helpers_;
      pthread_mutex_unlock(&mutex_);
      take_pieces();
      pthread_mutex_lock(&mutex_);
      if (--helpers_ == 0) pthread_cond_signal(&finish_);
    }
  }

  void take_pieces() {
    for (;;) {
      const std::size_t first = __atomic_fetch_add(&next_, piece_, __ATOMIC_RELAXED);
      if (first >= size_) return;
      const std::size_t last = first + piece_ < size_ ? first + piece_ : size_;
      work_(context_, first, last);
    }
  }

  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t start_ = PTHREAD_COND_INITIALIZER;
  pthread_cond_t finish_ = PTHREAD_COND_INITIALIZER;
  int started_ = 0;
  int helpers_wanted_ = 0;
  int helpers_ = 0;
  Work work_ = nullptr;
  void* context_ = nullptr;
  std::size_t size_ = 0;
  std::size_t piece_ = 0;
  std::size_t next_ = 0;
};

// The pool of this process; it lives as long as its threads: for ever.
static pthread_mutex_t pool_owner = PTHREAD_MUTEX_INITIALIZER;
static Pool* process_pool = nullptr;
static pid_t pool_process = 0;

// Calls body(first, last) over [0, copies) in pieces. Runs on this thread alone where there is little to do, or while
// another thread of the process uses the pool. A forked child has none of its parent's threads and starts its own.
template <class Body>
static void parallel_for(std::size_t copies, int agents, int threads, Body body) {
  constexpr std::size_t worthwhile = 512;  // agents; waking a thread takes as long as stepping a few hundred
  const bool small = threads <= 1 || copies <= 1 || copies * static_cast<std::size_t>(agents) < worthwhile;
  if (!small && pool_process != 0 && pool_process != getpid()) {
    pthread_mutex_init(&pool_owner, nullptr);  // the parent may have held it
    process_pool = nullptr;
    pool_process = 0;
  }
  if (small || pthread_mutex_trylock(&pool_owner) != 0) {
    body(std::size_t{0}, copies);
    return;
  }
  if (process_pool == nullptr) process_pool = new Pool;
  pool_process = getpid();
  process_pool->run(
      copies, threads,
      [](void* context, std::size_t first, std::size_t last) { (*static_cast<Body*>(context))(first, last); }, &body);
  pthread_mutex_unlock(&pool_owner);
}

// The scheduler behind cuda_emulated.h.
#include "cuda_emulated.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <exception>
#include <memory>
#include <mutex>
#include <vector>

namespace mmssl::cuda::emulated {
namespace {

constexpr size_t kStack = 256 * 1024;  // of one fiber; untouched pages cost nothing

enum class State { kReady, kAtBarrier, kAtWarp, kDone };

struct Fiber {
  char* stack = nullptr;
  jmp_buf resume;
  bool begun = false;
  State state = State::kDone;
  uint3 thread{};
};

struct Warp {
  unsigned alive = 0, arrived = 0;
  alignas(16) unsigned char given[32 * 16];
  alignas(16) unsigned char taken[32][32 * 16];  // what each lane sees: its own copy, so that it may read at leisure
};

struct Machine {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::unique_ptr<unsigned char[]> shared;
  size_t shared_bytes = 0;
  const std::function<void()>* body = nullptr;
  std::exception_ptr error;
  jmp_buf scheduler;
  int current = 0, waiting = 0, alive = 0;
};

Machine machine;
std::mutex one_at_a_time;

[[noreturn]] void fiber_main() {
  for (;;) {
    Fiber& self = machine.fibers[machine.current];
    try {
      (*machine.body)();
    } catch (...) {
      if (!machine.error) machine.error = std::current_exception();
    }
    Fiber& mine = machine.fibers[machine.current];
    mine.state = State::kDone;
    --machine.alive;
    machine.warps[machine.current / 32].alive &= ~(1u << machine.current % 32);
    if (_setjmp(self.resume) == 0) _longjmp(machine.scheduler, 1);
  }
}

// Runs fiber `at` until it waits or ends.
void resume(int at) {
  Fiber& fiber = machine.fibers[at];
  machine.current = at;
  threadIdx = fiber.thread;
  if (_setjmp(machine.scheduler) != 0) return;
  if (fiber.begun) _longjmp(fiber.resume, 1);
  fiber.begun = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack;
  context.uc_stack.ss_size = kStack;
  context.uc_link = nullptr;
  makecontext(&context, fiber_main, 0);
  setcontext(&context);
}

// Back to the scheduler until somebody makes this fiber ready again.
void wait(State state) {
  Fiber& fiber = machine.fibers[machine.current];
  fiber.state = state;
  if (_setjmp(fiber.resume) == 0) _longjmp(machine.scheduler, 1);
}

void release_block() {
  for (Fiber& fiber : machine.fibers) {
    if (fiber.state == State::kAtBarrier) fiber.state = State::kReady;
  }
  machine.waiting = 0;
}

void prepare(int threads, size_t shared_bytes) {
  const size_t before = machine.fibers.size();
  if (before < static_cast<size_t>(threads)) machine.fibers.resize(threads);
  for (size_t at = before; at < machine.fibers.size(); ++at) {
    void* stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) throw std::runtime_error("no memory for a fiber's stack");
    machine.fibers[at].stack = static_cast<char*>(stack);
  }
  machine.warps.resize((machine.fibers.size() + 31) / 32);
  if (machine.shared_bytes < shared_bytes) {
    machine.shared.reset(new (std::align_val_t(16)) unsigned char[shared_bytes]);
    machine.shared_bytes = shared_bytes;
  }
}

void run_block(int threads, dim3 block, size_t shared_bytes, bool backwards) {
  if (shared_bytes) std::memset(machine.shared.get(), 0xff, shared_bytes);
  machine.alive = threads;
  machine.waiting = 0;
  machine.error = nullptr;
  for (Warp& warp : machine.warps) warp.alive = warp.arrived = 0;
  for (int at = 0; at < threads; ++at) {
    const unsigned t = static_cast<unsigned>(at);
    machine.fibers[at].state = State::kReady;
    machine.fibers[at].thread = {t % block.x, t / block.x % block.y, t / (block.x * block.y)};
    machine.warps[at / 32].alive |= 1u << at % 32;
  }
  while (machine.alive > 0) {
    bool moved = false;
    for (int k = 0; k < threads && !machine.error; ++k) {
      const int at = backwards ? threads - 1 - k : k;
      if (machine.fibers[at].state != State::kReady) continue;
      moved = true;
      resume(at);
      if (machine.waiting > 0 && machine.waiting == machine.alive) release_block();
    }
    if (machine.error || moved) {
      if (!machine.error) continue;
      // The other fibers' frames are abandoned: they start anew with the next block.
      for (Fiber& fiber : machine.fibers) fiber.begun = false;
      std::rethrow_exception(machine.error);
    }
    for (Fiber& fiber : machine.fibers) fiber.begun = false;
    throw std::runtime_error("deadlock: " + std::to_string(machine.waiting) + " of " + std::to_string(machine.alive) +
                             " threads wait at __syncthreads, the others for lanes that do not come");
  }
}

}  // namespace

void* shared_memory() { return machine.shared.get(); }
int lane() { return machine.current % 32; }

void wait_for_block() {
  ++machine.waiting;
  if (machine.waiting == machine.alive) {
    release_block();
    return;
  }
  wait(State::kAtBarrier);
}

const unsigned char* exchange(unsigned mask, const void* value, size_t bytes) {
  Warp& warp = machine.warps[machine.current / 32];
  const unsigned bit = 1u << lane();
  if (!(mask & bit)) throw std::runtime_error("a lane calls a warp intrinsic whose mask leaves it out");
  if ((mask & warp.alive) != mask) throw std::runtime_error("a warp intrinsic's mask names lanes that have ended");
  if (bytes) std::memcpy(warp.given + 16 * lane(), value, bytes);
  warp.arrived |= bit;
  if ((warp.arrived & mask) != mask) {
    wait(State::kAtWarp);
  } else {
    warp.arrived &= ~mask;
    for (int at = 0; at < 32; ++at) {
      if (!(mask >> at & 1u)) continue;
      std::memcpy(warp.taken[at], warp.given, sizeof(warp.given));
      Fiber& fiber = machine.fibers[machine.current / 32 * 32 + at];
      if (fiber.state == State::kAtWarp) fiber.state = State::kReady;
    }
  }
  return warp.taken[lane()];
}

void run(const char* name, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  const int64_t threads = int64_t{block.x} * block.y * block.z;
  if (threads < 1 || threads > 1024 || shared_bytes > 227 * 1024 || grid.y > 65535 || grid.z > 65535 ||
      grid.x > 2147483647u) {
    throw std::runtime_error(std::string(name) + ": no GPU starts blocks of " + std::to_string(threads) +
                             " threads with " + std::to_string(shared_bytes) + " bytes in a grid of " +
                             std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " + std::to_string(grid.z));
  }
  prepare(static_cast<int>(threads), shared_bytes);
  machine.body = &body;
  blockDim = block;
  gridDim = grid;
  bool backwards = false;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x, backwards = !backwards) {
        blockIdx = {x, y, z};
        try {
          run_block(static_cast<int>(threads), block, shared_bytes, backwards);
        } catch (const std::exception& error) {
          throw std::runtime_error(std::string(name) + ", block (" + std::to_string(x) + ", " + std::to_string(y) +
                                   ", " + std::to_string(z) + "): " + error.what());
        }
      }
    }
  }
}

}  // namespace mmssl::cuda::emulated

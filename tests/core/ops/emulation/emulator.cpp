// Runs the CUDA kernels on the CPU, from their unmodified source: one fiber per CUDA thread.
//
// Fibers of a thread block run in an order drawn at random, and change places at random where
// they touch the z-buffer, so that a result which depends on the order shows. A barrier waits
// for every fiber that has not ended.
//
// KERNEL_SOURCE is the path of the source, given by the compiler's command line.

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace {

struct Index { unsigned x = 0, y = 0, z = 0; };
Index threadIdx, blockIdx, blockDim, gridDim;

enum State { READY, WAITING, ENDED };

constexpr size_t STACK = 64 * 1024;
ucontext_t scheduler;
std::vector<ucontext_t> fibers;
std::vector<State> states;
std::vector<std::vector<char>> stacks;
std::function<void()> body;
size_t current = 0;
std::mt19937 dice(1);

void leave(State state) {
  const size_t me = current;
  states[me] = state;
  if (swapcontext(&fibers[me], &scheduler) != 0) std::abort();
}

void __syncthreads() { leave(WAITING); }

void perhaps_change_places() {
  if (dice() % 16 == 0) leave(READY);
}

void enter() {
  body();
  leave(ENDED);
}

void run_block(size_t threads) {
  if (stacks.size() < threads) stacks.resize(threads, std::vector<char>(STACK));
  fibers.resize(threads);
  states.assign(threads, READY);
  for (size_t i = 0; i < threads; i++) {
    getcontext(&fibers[i]);
    fibers[i].uc_stack.ss_sp = stacks[i].data();
    fibers[i].uc_stack.ss_size = STACK;
    fibers[i].uc_link = nullptr;
    makecontext(&fibers[i], enter, 0);
  }
  std::vector<size_t> order(threads);
  for (size_t i = 0; i < threads; i++) order[i] = i;
  for (bool alive = true; alive;) {
    std::shuffle(order.begin(), order.end(), dice);
    bool ran = false;
    alive = false;
    for (size_t i : order) {
      if (states[i] == READY) {
        ran = true;
        current = i;
        threadIdx.x = static_cast<unsigned>(i);
        swapcontext(&scheduler, &fibers[i]);
      }
      alive = alive || states[i] != ENDED;
    }
    if (!ran)
      for (State& state : states)
        if (state == WAITING) state = READY;
  }
}

// -------------------------------------------------------- what CUDA has and C++ has not

#define __device__
#define __global__
#define __forceinline__ inline
#define __restrict__
#define __shared__ static
#define __launch_bounds__(...)

struct uint4 { unsigned x, y, z, w; };
uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

float __fadd_rn(float a, float b) { return a + b; }
float __fmul_rn(float a, float b) { return a * b; }
float __fdiv_rn(float a, float b) { return a / b; }
float __fsqrt_rn(float a) { return std::sqrt(a); }

template <class To, class From>
To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}
float __int_as_float(int value) { return bits<float>(value); }
float __uint_as_float(unsigned value) { return bits<float>(value); }
unsigned __float_as_uint(float value) { return bits<unsigned>(value); }
int __ffs(unsigned value) { return __builtin_ffs(static_cast<int>(value)); }
int min(int a, int b) { return a < b ? a : b; }
int max(int a, int b) { return a > b ? a : b; }

template <class T>
T __ldg(const T* place) {
  if (reinterpret_cast<uintptr_t>(place) % sizeof(T)) std::abort();  // a fault on a GPU
  return *place;
}
template <class T>
T __ldcg(const T* place) {
  const T value = *place;
  perhaps_change_places();
  return value;
}
template <class T>
T atomicMin(T* place, T value) {
  const T old = *place;
  *place = std::min(old, value);
  perhaps_change_places();
  return old;
}
unsigned atomicOr(unsigned* place, unsigned value) {
  const unsigned old = *place;
  *place |= value;
  return old;
}
float atomicAdd(float* place, float value) {
  const float old = *place;
  *place += value;
  return old;
}

#include KERNEL_SOURCE

// --------------------------------------------------------------------------- launching

template <class... Parameters, size_t... Number>
void prepare(void (*kernel)(Parameters...), void** arguments, std::index_sequence<Number...>) {
  body = [=] { kernel(*static_cast<std::decay_t<Parameters>*>(arguments[Number])...); };
}

template <class... Parameters>
void prepare(void (*kernel)(Parameters...), void** arguments) {
  prepare(kernel, arguments, std::index_sequence_for<Parameters...>{});
}

bool choose(const std::string& name, void** arguments) {
  if (name == "mirage_prepare") prepare(mirage_prepare, arguments);
  else if (name == "mirage_bounds") prepare(mirage_bounds, arguments);
  else if (name == "mirage_splat") prepare(mirage_splat, arguments);
  else if (name == "mirage_view") prepare(mirage_view, arguments);
  else if (name == "mirage_resolve") prepare(mirage_resolve, arguments);
  else if (name == "mirage_fused") prepare(mirage_fused, arguments);
  else if (name == "mirage_gather") prepare(mirage_gather, arguments);
  else if (name == "mirage_scatter") prepare(mirage_scatter, arguments);
  else return false;
  return true;
}

}  // namespace

// Like cuLaunchKernel: pointers to the arguments. Blocks run one after the other, in an order
// drawn at random. Returns whether there is such a kernel.
extern "C" int emulate(const char* name, unsigned x, unsigned y, unsigned threads, void** arguments) {
  if (!choose(name, arguments)) return 0;
  gridDim.x = x;
  gridDim.y = y;
  blockDim.x = threads;
  std::vector<unsigned> order(static_cast<size_t>(x) * y);
  for (size_t i = 0; i < order.size(); i++) order[i] = static_cast<unsigned>(i);
  std::shuffle(order.begin(), order.end(), dice);
  for (unsigned block : order) {
    blockIdx.x = block % x;
    blockIdx.y = block / x;
    run_block(threads);
  }
  return 1;
}

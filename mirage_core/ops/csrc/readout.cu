// The readout on CUDA: which point does each cell of each view show, and its token.
//
// Needs no header, so that NVRTC compiles it from this text alone. Every kernel gives the bits
// of the torch functions in splat.py and gather.py: products, sums and quotients are written
// with the _rn intrinsics, which the compiler never fuses, and the z-buffer is a minimum of
// 64-bit keys, which does not depend on the order of the points.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define EMPTY_KEY 0x7fffffffffffffffull
#define BOUNDS_RUN 128   // consecutive points that share one box, as in splat.py
#define SPLAT_THREADS BOUNDS_RUN
#define SPLAT_RUNS 4     // runs that one thread block serves
#define SPLAT_POINTS (SPLAT_RUNS * BOUNDS_RUN)
#define TABLE_BLOCKS 72  // as many as fit into the 4 KB of arguments that every driver takes
#define FUSED_BLOCKS 16
#define FUSED_THREADS 512
#define FUSED_CELLS 512
#define FUSED_PIECE 128  // points that one warp takes at a time
#define FUSED_STEP (FUSED_THREADS / 32 * FUSED_PIECE)
#define VIEW_GROUP 32    // views that one thread block serves: one bit each
#define CULL_MARGIN 1e-5f
#define CULL_FLOOR 1e-30f
#define INFINITE __int_as_float(0x7f800000)
#define NOT_A_NUMBER __int_as_float(0x7fc00000)

// One block of a memory. The table of blocks is ordered, so `first` and `portion` ascend.
struct Block {
  u64 points;   // const float*: x, y and z each contiguous, `stride` apart
  u64 bounds;   // const float*: boxes of runs
  u64 rows;     // values to gather, one row per point; for mirage_view numbers of observers
  u64 scales;   // one factor per row of int8 values; for mirage_view pairs of slopes
  u64 observers;  // const float*: position and focal length of each; for mirage_view alone
  u32 first;    // index of the first point
  u32 count;    // number of points
  u32 portion;  // number of the first thread block of mirage_splat
  u32 stride;   // from x to y and from y to z
};
struct Table { Block block[TABLE_BLOCKS]; };
struct SmallTable { Block block[FUSED_BLOCKS]; };

struct Grid { int height, width, nearest; };

// What the gathered values are, and what they become.
enum Kind { COPY16 = 0, COPY32 = 1, INT8_TO_F32 = 2, INT8_TO_BF16 = 3, INT8_TO_F16 = 4 };

// ---------------------------------------------------------------------- numbers

static __device__ __forceinline__ u16 to_bf16(float value) {
  u32 bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
  return (u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static __device__ __forceinline__ u16 to_f16(float value) {
  u32 bits = __float_as_uint(value), sign = (bits >> 16) & 0x8000u, size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) return (u16)(sign | 0x7e00u);
  if (size >= 0x477ff000u) return (u16)(sign | 0x7c00u);
  if (size < 0x38800000u) {  // Below 2^-14 the last place is fixed at 2^-24.
    // Adding 1/2 leaves exactly that place in the mantissa, rounded half to even.
    return (u16)(sign | (__float_as_uint(__fadd_rn(__uint_as_float(size), 0.5f)) - 0x3f000000u));
  }
  return (u16)(sign | ((size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13));
}

static __device__ __forceinline__ float from_f16(u16 half) {
  u32 sign = (u32)(half & 0x8000u) << 16, size = half & 0x7fffu;
  if (size >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | ((size & 0x3ffu) << 13));
  // 2^112 moves the exponent to its place; it is exact, for subnormal numbers too.
  float moved = __fmul_rn(__uint_as_float(size << 13), __uint_as_float(0x77800000u));
  return __uint_as_float(sign | __float_as_uint(moved));
}

// ------------------------------------------------------------------- projection

static __device__ __forceinline__ float row_times(const float* row, float x, float y, float z) {
  float total = __fadd_rn(__fmul_rn(row[0], x), __fmul_rn(row[1], y));
  return __fadd_rn(__fadd_rn(total, __fmul_rn(row[2], z)), row[3]);
}

// Cell of a point, or -1 where the view does not show it.
static __device__ __forceinline__ int cell_of(
    const float* matrix, float px, float py, float pz, Grid grid, float* depth) {
  float z = row_times(matrix + 8, px, py, pz);
  *depth = z;
  if (!(z > 0.f && z < INFINITE)) return -1;
  float x = row_times(matrix, px, py, pz), y = row_times(matrix + 4, px, py, pz);
  // A whole cell outside is outside under both rounding rules; divisions are dear.
  if (x < -z || y < -z) return -1;
  if (x > __fmul_rn((float)(grid.width + 1), z) || y > __fmul_rn((float)(grid.height + 1), z))
    return -1;
  float u = __fdiv_rn(x, z), v = __fdiv_rn(y, z);
  if (grid.nearest) {
    u = rintf(u);
    v = rintf(v);
  }
  if (!(u >= 0.f && u < (float)grid.width && v >= 0.f && v < (float)grid.height)) return -1;
  return (int)v * grid.width + (int)u;
}

static __device__ __forceinline__ u64 key_of(float depth, u32 index) {
  return ((u64)__float_as_uint(depth) << 32) | (u32)~index;
}

// Whether a box may reach into rows [top, bottom) of a view; never false where a point does.
static __device__ bool box_reaches(
    const float* matrix, const float* box, float top, float bottom, float width) {
  float middle[3], half[3], at[3], size[3];
  for (int axis = 0; axis < 3; axis++) {
    if (box[axis] > box[axis + 3]) return false;
    middle[axis] = .5f * box[axis] + .5f * box[axis + 3];
    half[axis] = .5f * box[axis + 3] - .5f * box[axis];
  }
  for (int row = 0; row < 3; row++) {
    const float* p = matrix + 4 * row;
    at[row] = p[0] * middle[0] + p[1] * middle[1] + p[2] * middle[2] + p[3];
    size[row] = fabsf(p[3]);
    for (int axis = 0; axis < 3; axis++)
      size[row] += fabsf(p[axis]) * (fabsf(middle[axis]) + half[axis]);
  }
  // Planes alpha z + beta (row): depth, left, top, right, bottom, each a cell farther out.
  const float alpha[5] = {1.f, 1.f, 1.f - top, width + 1.f, bottom + 1.f};
  const float beta[5] = {0.f, 1.f, 1.f, -1.f, -1.f};
  bool reaches = true;
#pragma unroll
  for (int plane = 0; plane < 5; plane++) {
    const int row = plane == 2 || plane == 4 ? 1 : 0;
    float reach = alpha[plane] * at[2] + beta[plane] * at[row];
    for (int axis = 0; axis < 3; axis++)
      reach += fabsf(alpha[plane] * matrix[8 + axis] + beta[plane] * matrix[4 * row + axis])
               * half[axis];
    float scale = fabsf(alpha[plane]) * size[2] + fabsf(beta[plane]) * size[row];
    // Comparisons with NaN are false: a box that overflows is kept.
    if (reach < -(CULL_MARGIN * scale + CULL_FLOOR)) reaches = false;
  }
  return reaches;
}

// --------------------------------------------------------- how well a point was seen

#define BINS 128
#define LARGEST_RATIO 1e30f

// Settings of best_view.py: the band of the front surface, bins for each unit of score, weights.
struct Rule { float band, lean, limit, bins, coarser, finer; };

static __device__ __forceinline__ float dot(const float* a, const float* b) {
  return __fadd_rn(__fadd_rn(__fmul_rn(a[0], b[0]), __fmul_rn(a[1], b[1])), __fmul_rn(a[2], b[2]));
}

static __device__ __forceinline__ float step(float series, float x, float term) {
  return __fadd_rn(__fmul_rn(series, x), term);
}

static __device__ __forceinline__ float angle_of(float cosine) {
  float size = fabsf(cosine);
  if (size > 1.f) size = 1.f;
  float series = step(step(step(-0.01872930f, size, 0.07426100f), size, -0.21211440f), size,
                      1.57072880f);
  float acute = __fmul_rn(__fsqrt_rn(__fadd_rn(1.f, -size)), series);
  return cosine < 0.f ? __fadd_rn(3.14159274f, -acute) : acute;
}

static __device__ __forceinline__ float log_of(float ratio) {
  float kept = ratio < LARGEST_RATIO ? ratio : LARGEST_RATIO;
  kept = kept > 1.f / LARGEST_RATIO ? kept : 1.f / LARGEST_RATIO;
  const u32 word = __float_as_uint(kept);
  const float exponent = (float)((int)(word >> 23) - 127);
  const float mantissa = __uint_as_float((word & 0x7fffffu) | 0x3f800000u);
  const float part = __fdiv_rn(__fadd_rn(mantissa, -1.f), __fadd_rn(mantissa, 1.f));
  const float square = __fmul_rn(part, part);
  const float series = step(step(step(0.14285715f, square, 0.2f), square, 0.33333334f), square,
                            1.f);
  return __fadd_rn(__fmul_rn(exponent, 0.69314718f), __fmul_rn(__fmul_rn(part, 2.f), series));
}

// The bin of a point's score: the angle between two rays, and what its size costs.
static __device__ __forceinline__ u32 bin_of(
    const float* point, const float* seen, const float* viewer, const Rule& rule) {
  float away[3], here[3];
  for (int axis = 0; axis < 3; axis++) {
    away[axis] = __fadd_rn(point[axis], -seen[axis]);
    here[axis] = __fadd_rn(point[axis], -viewer[axis]);
  }
  const float before = dot(away, away), now = dot(here, here), both = dot(away, here);
  float score = angle_of(__fdiv_rn(both, __fmul_rn(__fsqrt_rn(before), __fsqrt_rn(now))));
  const float lens = __fdiv_rn(viewer[3], seen[3]);
  const float size =
      __fmul_rn(log_of(__fmul_rn(__fdiv_rn(before, now), __fmul_rn(lens, lens))), 0.5f);
  score = __fadd_rn(score, __fmul_rn(size > 0.f ? size : 0.f, rule.coarser));
  score = __fadd_rn(score, __fmul_rn(-size > 0.f ? -size : 0.f, rule.finer));
  const float scaled = floorf(__fmul_rn(score, rule.bins));
  // NaN compares false: a direction that does not exist is the worst.
  return scaled < (float)(BINS - 1) ? (u32)scaled : BINS - 1;
}

// --------------------------------------------------------------- gathering rows

// The table may lie in shared memory, so no __ldg.
static __device__ __forceinline__ const Block* owner_of(const Block* table, int blocks, u32 index) {
  int low = 0, high = blocks - 1;
  while (low < high) {
    int middle = (low + high + 1) >> 1;
    if (table[middle].first <= index) low = middle;
    else high = middle - 1;
  }
  return table + low;
}

static __device__ __forceinline__ void store(u8* out, i64 place, int kind, int value, float scale) {
  float number = __fmul_rn((float)(signed char)value, scale);
  if (kind == INT8_TO_F32) ((float*)out)[place] = number;
  else ((u16*)out)[place] = kind == INT8_TO_BF16 ? to_bf16(number) : to_f16(number);
}

// Channels [16 bytes of the row] of one cell, each to its own plane of the output. Threads of a
// warp hold neighbouring cells, so loads take whole pieces of a row and stores whole lines.
static __device__ __forceinline__ void move_piece(
    uint4 piece, int number, u8* out, i64 cell, i64 plane, int kind, float scale) {
  const u32 word[4] = {piece.x, piece.y, piece.z, piece.w};
  if (kind == COPY32) {
#pragma unroll
    for (int i = 0; i < 4; i++) ((u32*)out)[(4 * number + i) * plane + cell] = word[i];
  } else if (kind == COPY16) {
#pragma unroll
    for (int i = 0; i < 8; i++)
      ((u16*)out)[(8 * number + i) * plane + cell] = (u16)(word[i >> 1] >> (16 * (i & 1)));
  } else {
#pragma unroll
    for (int i = 0; i < 16; i++)
      store(out, (16 * number + i) * plane + cell, kind, word[i >> 2] >> (8 * (i & 3)), scale);
  }
}

static __device__ __forceinline__ void move_value(
    const u8* row, int channel, u8* out, i64 cell, i64 plane, int kind, float scale) {
  i64 place = channel * plane + cell;
  if (kind == COPY32) ((u32*)out)[place] = row ? ((const u32*)row)[channel] : 0u;
  else if (kind == COPY16) ((u16*)out)[place] = row ? ((const u16*)row)[channel] : (u16)0;
  else store(out, place, kind, row ? ((const signed char*)row)[channel] : 0, scale);
}

// Where results of a readout go. `whole` says that rows consist of aligned pieces of 16 bytes.
struct Result {
  u64 tokens;   // (C, T, h, w)
  u64 visible;  // (T, h, w) bool
  u64 depth;    // (T, h, w) float32
  u64 winner;   // (T, h, w) int64
  i64 plane;    // T h w
  int channels, kind, whole, half_scales;
};

// Thread `part` of `parts` moves its share of the channels of one cell.
static __device__ __forceinline__ void write_cell(
    const Block* table, int blocks, u64 key, i64 cell, const Result& result, int part, int parts) {
  const bool seen = key != EMPTY_KEY;
  const u32 index = ~(u32)key;
  if (part == 0) {
    ((u8*)result.visible)[cell] = seen;
    ((float*)result.depth)[cell] = seen ? __uint_as_float((u32)(key >> 32)) : 0.f;
    ((i64*)result.winner)[cell] = seen ? (i64)index : -1;
  }
  const int bytes = result.kind == COPY32 ? 4 : result.kind == COPY16 ? 2 : 1;
  const u8* row = 0;
  float scale = 0.f;
  if (seen) {
    const Block* block = owner_of(table, blocks, index);
    const i64 number = index - block->first;
    row = (const u8*)block->rows + number * result.channels * bytes;
    if (result.kind >= INT8_TO_F32)
      scale = result.half_scales ? from_f16(__ldg((const u16*)block->scales + number))
                                 : __ldg((const float*)block->scales + number);
  }
  u8* out = (u8*)result.tokens;
  if (result.whole) {
    const int pieces = result.channels * bytes / 16;
    for (int piece = part; piece < pieces; piece += parts) {
      uint4 values = make_uint4(0u, 0u, 0u, 0u);
      if (row) values = __ldg((const uint4*)row + piece);
      move_piece(values, piece, out, cell, result.plane, result.kind, scale);
    }
  } else {
    for (int channel = part; channel < result.channels; channel += parts)
      move_value(row, channel, out, cell, result.plane, result.kind, scale);
  }
}

// ---------------------------------------------------------------------- kernels

// Empties a z-buffer, and writes arguments to memory: a table made this way needs no copy from
// the host, and is part of a CUDA graph like any other launch.
extern "C" __global__ void __launch_bounds__(256) mirage_prepare(
    Table table, u64 target, int begin, int blocks, u64 keys, i64 cells) {
  const i64 thread = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  const i64 threads = (i64)gridDim.x * blockDim.x;
  for (i64 cell = thread; cell < cells; cell += threads) ((u64*)keys)[cell] = EMPTY_KEY;
  if (thread < blocks) ((Block*)target)[begin + thread] = table.block[thread];
}

// Boxes of runs: one thread block per run.
extern "C" __global__ void __launch_bounds__(SPLAT_THREADS) mirage_bounds(
    u64 points, u32 count, u32 stride, u64 bounds) {
  __shared__ float corner[6][SPLAT_THREADS];
  const float* axes[3] = {(const float*)points, (const float*)points + stride,
                          (const float*)points + 2ull * stride};
  float low[3] = {INFINITE, INFINITE, INFINITE}, high[3] = {-INFINITE, -INFINITE, -INFINITE};
  for (u32 i = threadIdx.x; i < BOUNDS_RUN; i += SPLAT_THREADS) {
    const u64 number = (u64)blockIdx.x * BOUNDS_RUN + i;
    if (number >= count) continue;
    float at[3];
    bool finite = true;
    for (int axis = 0; axis < 3; axis++) {
      at[axis] = axes[axis][number];
      finite = finite && fabsf(at[axis]) < INFINITE;
    }
    for (int axis = 0; finite && axis < 3; axis++) {
      low[axis] = fminf(low[axis], at[axis]);
      high[axis] = fmaxf(high[axis], at[axis]);
    }
  }
  for (int axis = 0; axis < 3; axis++) {
    corner[axis][threadIdx.x] = low[axis];
    corner[axis + 3][threadIdx.x] = high[axis];
  }
  __syncthreads();
  if (threadIdx.x >= 6) return;
  float value = corner[threadIdx.x][0];
  for (int i = 1; i < SPLAT_THREADS; i++) {
    const float other = corner[threadIdx.x][i];
    value = threadIdx.x < 3 ? fminf(value, other) : fmaxf(value, other);
  }
  ((float*)bounds)[6ull * blockIdx.x + threadIdx.x] = value;
}

// One thread block per SPLAT_RUNS runs of points and group of views: the points are read once,
// and not at all where their box lies outside of every view. Acts on every point of every view.
template <class Act>
static __device__ __forceinline__ void walk(
    u64 table, int blocks, u64 projection, int views, Grid grid, const Act& act) {
  __shared__ float matrices[VIEW_GROUP * 12];
  __shared__ u32 reached[SPLAT_RUNS];
  __shared__ int owner;
  const int first_view = blockIdx.y * VIEW_GROUP;
  const int here = min(views - first_view, VIEW_GROUP);
  const Block* entries = (const Block*)table;
  const float* source = (const float*)projection + 12ll * first_view;
  if (threadIdx.x < SPLAT_RUNS) reached[threadIdx.x] = 0u;
  for (int i = threadIdx.x; i < here * 12; i += SPLAT_THREADS) matrices[i] = source[i];
  for (int i = threadIdx.x; i < blocks; i += SPLAT_THREADS) {
    const u32 portions = (entries[i].count + SPLAT_POINTS - 1) / SPLAT_POINTS;
    if (blockIdx.x - entries[i].portion < portions) owner = i;
  }
  __syncthreads();
  const Block* block = entries + owner;
  const u32 count = block->count, stride = block->stride;
  const u32 begin = (blockIdx.x - block->portion) * SPLAT_RUNS;
  for (u32 i = threadIdx.x; i < SPLAT_RUNS * VIEW_GROUP; i += SPLAT_THREADS) {
    const u32 run = i / VIEW_GROUP, view = i % VIEW_GROUP;
    if ((int)view >= here || (begin + run) * BOUNDS_RUN >= count) continue;
    const float* box = (const float*)block->bounds + 6ull * (begin + run);
    if (box_reaches(matrices + 12 * view, box, 0.f, (float)grid.height, (float)grid.width))
      atomicOr(reached + run, 1u << view);
  }
  __syncthreads();
  const float* axis = (const float*)block->points;
  float x[SPLAT_RUNS], y[SPLAT_RUNS], z[SPLAT_RUNS];
  u32 wanted[SPLAT_RUNS], left = 0u;
#pragma unroll
  for (int i = 0; i < SPLAT_RUNS; i++) {
    const u32 at = (begin + i) * BOUNDS_RUN + threadIdx.x;
    wanted[i] = reached[i];
    left |= wanted[i];
    x[i] = y[i] = z[i] = NOT_A_NUMBER;
    if (wanted[i] && at < count) {
      x[i] = __ldg(axis + at);
      y[i] = __ldg(axis + stride + at);
      z[i] = __ldg(axis + 2ull * stride + at);
    }
  }
  for (; left; left &= left - 1) {
    const int view = __ffs(left) - 1;
#pragma unroll
    for (int i = 0; i < SPLAT_RUNS; i++) {
      if (!(wanted[i] >> view & 1u)) continue;
      float depth;
      const int cell = cell_of(matrices + 12 * view, x[i], y[i], z[i], grid, &depth);
      if (cell < 0) continue;
      const u32 at = (begin + i) * BOUNDS_RUN + threadIdx.x;
      const float point[3] = {x[i], y[i], z[i]};
      act(first_view + view, (i64)(first_view + view) * grid.height * grid.width + cell, depth,
          *block, at, point);
    }
  }
}

// The value read may be old, and is then too high, so no winner is lost.
static __device__ __forceinline__ void compete(u64* place, u64 key) {
  if (key < __ldcg(place)) atomicMin(place, key);
}

struct Nearest {
  u64* keys;
  __device__ __forceinline__ void operator()(
      int, i64 cell, float depth, const Block& block, u32 at, const float*) const {
    compete(keys + cell, key_of(depth, block.first + at));
  }
};

extern "C" __global__ void __launch_bounds__(SPLAT_THREADS) mirage_splat(
    u64 table, int blocks, u64 projection, int views, Grid grid, u64 keys) {
  walk(table, blocks, projection, views, grid, Nearest{(u64*)keys});
}

struct BestOfFront {
  const u64* front;
  u64* keys;
  const float* viewers;
  Rule rule;
  __device__ __forceinline__ void operator()(
      int view, i64 cell, float depth, const Block& block, u32 at, const float* point) const {
    const u32 nearest = (u32)(__ldg(front + cell) >> 32);
    const float limit = __uint_as_float(nearest);
    // Most points are far behind: their slope is not fetched.
    if (!(depth <= __fmul_rn(limit, __fadd_rn(rule.limit, 1.f)))) return;
    const u16* slope = (const u16*)block.scales + 2ull * at;
    const float lean = __fadd_rn(fabsf(from_f16(__ldg(slope))), fabsf(from_f16(__ldg(slope + 1))));
    float band = __fadd_rn(__fmul_rn(lean, rule.lean), rule.band);
    if (band > rule.limit) band = rule.limit;
    if (!(depth <= __fmul_rn(limit, __fadd_rn(band, 1.f)) || depth == limit)) return;
    const int who = __ldg((const int*)block.rows + at);
    const float* seen = (const float*)block.observers + 4ll * who;
    const u64 bin = bin_of(point, seen, viewers + 4 * view, rule);
    const u64 offset = __float_as_uint(depth) - nearest;
    compete(keys + cell, bin << 56 | offset << 32 | (u32)~(block.first + at));
  }
};

// The second walk of best_view.py: `front` holds the keys that mirage_splat left.
extern "C" __global__ void __launch_bounds__(SPLAT_THREADS) mirage_view(
    u64 table, int blocks, u64 projection, u64 viewers, int views, Grid grid, Rule rule, u64 front,
    u64 keys) {
  walk(table, blocks, projection, views, grid,
       BestOfFront{(const u64*)front, (u64*)keys, (const float*)viewers, rule});
}

// Winners and their tokens from a filled z-buffer: 64 cells per thread block, 4 threads each.
extern "C" __global__ void __launch_bounds__(256) mirage_resolve(
    u64 table, int blocks, u64 keys, Result result) {
  const i64 cell = (i64)blockIdx.x * 64 + (threadIdx.x & 63);
  if (cell >= result.plane) return;
  const u64 key = __ldcg((const u64*)keys + cell);
  write_cell((const Block*)table, blocks, key, cell, result, threadIdx.x >> 6, 4);
}

// The whole readout in one launch, for memories so small that launches cost more than points.
// Each thread block owns some rows of one view, and keeps their z-buffer in shared memory.
extern "C" __global__ void __launch_bounds__(FUSED_THREADS, 1) mirage_fused(
    SmallTable arguments, int blocks, u64 projection, int rows, Grid grid, Result result) {
  __shared__ u64 buffer[FUSED_CELLS];
  __shared__ float matrix[12];
  __shared__ SmallTable table;
  const int strips = (grid.height + rows - 1) / rows, view = blockIdx.x / strips;
  const int top = (blockIdx.x % strips) * rows, bottom = min(grid.height, top + rows);
  const int first_cell = top * grid.width, cells = (bottom - top) * grid.width;
  for (int i = threadIdx.x; i < cells; i += FUSED_THREADS) buffer[i] = EMPTY_KEY;
  if (threadIdx.x < 12) matrix[threadIdx.x] = ((const float*)projection)[12 * view + threadIdx.x];
  // Cells look blocks up by a varying number, which arguments in constant memory serve badly.
  if ((int)threadIdx.x < blocks) table.block[threadIdx.x] = arguments.block[threadIdx.x];
  __syncthreads();
  const u32 warp = threadIdx.x / 32, lane = threadIdx.x & 31;
  for (int i = 0; i < blocks; i++) {
    const Block block = arguments.block[i];
    const float* axis = (const float*)block.points;
    for (u32 begin = warp * FUSED_PIECE; begin < block.count; begin += FUSED_STEP) {
      const float* box = (const float*)block.bounds + 6ull * (begin / BOUNDS_RUN);
      if (!box_reaches(matrix, box, (float)top, (float)bottom, (float)grid.width)) continue;
#pragma unroll
      for (int part = 0; part < FUSED_PIECE / 32; part++) {
        const u32 at = begin + part * 32 + lane;
        if (at >= block.count) continue;
        float depth;
        const int cell = cell_of(matrix, __ldg(axis + at), __ldg(axis + block.stride + at),
                                 __ldg(axis + 2ull * block.stride + at), grid, &depth);
        const int mine = cell - first_cell;
        if (cell < 0 || mine < 0 || mine >= cells) continue;
        const u64 key = key_of(depth, block.first + at);
        if (key < *(volatile u64*)(buffer + mine)) atomicMin(buffer + mine, key);
      }
    }
  }
  __syncthreads();
  const i64 base = (i64)view * grid.height * grid.width + first_cell;
  // Threads beyond the cells share the channels: neighbouring threads keep neighbouring cells.
  const int wide = (cells + 31) / 32 * 32, parts = max(1, FUSED_THREADS / wide);
  const int part = threadIdx.x / wide, mine = threadIdx.x % wide;
  if (part < parts && mine < cells)
    write_cell(table.block, blocks, buffer[mine], base + mine, result, part, parts);
}

// Rows of any type by point index: out[i, j] = rows[index[i]][j], zero where index is negative.
// Values of a row are `stride` of the table apart, and rows `step`.
extern "C" __global__ void __launch_bounds__(256) mirage_gather(
    u64 table, int blocks, u64 index, i64 count, int width, i64 step, int bytes, u64 out) {
  const i64 thread = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (thread >= count * width) return;
  const i64 winner = ((const i64*)index)[thread / width];
  u64 value = 0;
  if (winner >= 0) {
    const Block* block = owner_of((const Block*)table, blocks, (u32)winner);
    const i64 at = (winner - block->first) * step + (thread % width) * block->stride;
    if (bytes == 1) value = ((const u8*)block->rows)[at];
    else if (bytes == 2) value = ((const u16*)block->rows)[at];
    else if (bytes == 4) value = ((const u32*)block->rows)[at];
    else value = ((const u64*)block->rows)[at];
  }
  if (bytes == 1) ((u8*)out)[thread] = (u8)value;
  else if (bytes == 2) ((u16*)out)[thread] = (u16)value;
  else if (bytes == 4) ((u32*)out)[thread] = (u32)value;
  else ((u64*)out)[thread] = value;
}

// Backward of a gather: adds each row of the gradient to the row that it was gathered from.
// A point that several views show gets the sum. Types: 0 float32, 1 bfloat16, 2 float16.
extern "C" __global__ void __launch_bounds__(256) mirage_scatter(
    u64 gradient, int type, i64 step, i64 stride, u64 index, i64 count, int width, u64 sums) {
  const i64 thread = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (thread >= count * width) return;
  // Rows that vary fastest suit gradients of (C, T, h, w) tokens.
  const bool rows_first = step <= stride;
  const i64 row = rows_first ? thread % count : thread / width;
  const i64 column = rows_first ? thread / count : thread % width;
  const i64 winner = ((const i64*)index)[row];
  if (winner < 0) return;
  const i64 at = row * step + column * stride;
  float value;
  if (type == 0) value = ((const float*)gradient)[at];
  else if (type == 1) value = __uint_as_float((u32)((const u16*)gradient)[at] << 16);
  else value = from_f16(((const u16*)gradient)[at]);
  atomicAdd((float*)sums + winner * width + column, value);
}

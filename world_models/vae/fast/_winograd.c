/* The V model's strided convolutions on a CPU, with fewer multiplications: forward, and the gradients.
 *
 * A convolution with a kernel of 2r x 2r and stride 2 is one with a kernel of r x r and stride 1 on blocks of 2 x 2
 * pixels, whose channels are the four pixels' channels. Winograd's F(m, r) (Winograd 1980; Lavin & Gray 2016) computes m
 * neighbouring outputs of that with m + r - 1 multiplications instead of m r. In two dimensions a tile of m x m outputs
 * takes 9 instead of 16 for F(2, 2), and 16 instead of 36 for F(3, 2) and F(2, 3). So a layer consists of
 * (m + r - 1)^2 matrix products, one per point, of (tiles, channels of a block) by (channels of a block, channels).
 *
 * One layer has a wide side (blocks, `channels` each pixel) and a narrow side (`size` x `size` outputs, `features` each
 * pixel). A convolution goes from wide to narrow, a transposed convolution from narrow to wide. The gradient of each
 * needs the other. There are only four linear maps:
 *
 *   spread   wide -> points      V = B' d B      collect   points -> wide, its adjoint
 *   mix      points -> narrow    Y = A' M A      unmix     narrow -> points, its adjoint
 *
 * They are given by these formulas, for a line of blocks d and a line of points m. Three points are 0, 1 and infinity,
 * four points are 0, 1, -1 and infinity; at these a polynomial is evaluated.
 *
 *   F(2, 2)   B' d = d0 - d1, d1, d1 - d2                  A' m = m0 + m1, m1 - m2
 *   F(2, 3)   B' d = d0 - d2, d1 + d2, d2 - d1, d1 - d3    A' m = m0 + m1 + m2, m1 - m2 - m3
 *   F(3, 2)   B' d = the same                              A' m = m0 + m1 + m2, m1 - m2, m1 + m2 - m3
 *
 * All pixels are channel-last. Images are computed in groups that fit into a core's cache. Sums are taken in a fixed
 * order that does not depend on the number of calling threads, so results are the same bit for bit.
 *
 * The file includes itself once for each type of number and each instruction set that has its own kernel.
 */
#ifndef REAL
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    SLACK = 16,            /* number of rows that a kernel may read after the last one */
    CACHE_BYTES = 1 << 21, /* memory of a group of images; the fastest of 2^18 .. 2^22 */
    MAX_IMAGES = 64,       /* largest number of images of a group */
};

/* One layer, as winograd.py packs it. */
typedef struct {
    int64_t taps;     /* r: 2 or 3 */
    int64_t tile;     /* m: 2, or 3 where r is 2 */
    int64_t width;    /* pixels along a side of a wide image */
    int64_t channels; /* channels of a wide pixel, padded to a multiple of 4 */
    int64_t stored;   /* channels that are in memory; the others are zero */
    int64_t bytes;    /* whether wide images are uint8, which only a convolution can take */
    int64_t size;     /* pixels along a side of a narrow image */
    int64_t features; /* channels of a narrow pixel, a multiple of 16 */
    int64_t relu;     /* whether a ReLU follows a transposed convolution; one always follows a convolution */
} Layer;

/* Pointers to images and weights, and to their gradients. */
typedef struct {
    void *wide, *narrow, *weights, *bias;
    void *wide_gradient, *narrow_gradient, *weights_gradient, *bias_gradient;
} Arrays;

/* Sizes that are derived from a layer's sizes. */
typedef struct {
    int64_t side;   /* tiles along a side of an image */
    int64_t tiles;  /* tiles of an image */
    int64_t points; /* (m + r - 1)^2 */
    int64_t depth;  /* numbers of a block of 2 x 2 wide pixels */
    int64_t padded; /* wide pixels along a side that the tiles read or write */
    int64_t images; /* images of a group */
    int64_t image, spread, mixed, weights; /* sizes in numbers: of an image, of V and M of a group, of U */
} Plan;

static Plan plan_of(const Layer *layer, size_t number_bytes)
{
    Plan plan;
    plan.side = (layer->size + layer->tile - 1) / layer->tile;
    plan.tiles = plan.side * plan.side;
    plan.points = (layer->tile + layer->taps - 1) * (layer->tile + layer->taps - 1);
    plan.depth = 4 * layer->channels;
    plan.padded = 2 * (layer->tile * plan.side + layer->taps - 1);
    plan.images = CACHE_BYTES / (int64_t)number_bytes / (plan.points * plan.tiles * (plan.depth + layer->features));
    plan.images = plan.images < 1 ? 1 : plan.images > MAX_IMAGES ? MAX_IMAGES : plan.images;
    int64_t wide = plan.padded * plan.padded * layer->channels;
    int64_t narrow = (layer->size * layer->size + 1) * layer->features; /* and one pixel beyond the edge */
    plan.image = ((wide > narrow ? wide : narrow) + 15) / 16 * 16;
    plan.spread = (plan.points * plan.images * plan.tiles + SLACK) * plan.depth;
    plan.mixed = (plan.points * plan.images * plan.tiles + SLACK) * layer->features;
    plan.weights = plan.points * plan.depth * layer->features;
    return plan;
}

#define INLINE static inline __attribute__((always_inline))
#define JOIN_(a, b, c) a##_##b##_##c
#define JOIN(a, b, c) JOIN_(a, b, c)
#define NAME(a) JOIN(a, REAL, TARGET_NAME)

#if defined(__x86_64__)
#define TARGET_NAME avx512
#define TARGET __attribute__((target("avx512f,avx512vl,avx2,fma")))
#define VECTOR_BYTES 64
#define ROWS 12
#define REAL float
#include "_winograd.c"
#undef REAL
#define REAL double
#include "_winograd.c"
#undef REAL
#undef TARGET_NAME
#undef TARGET
#undef VECTOR_BYTES
#undef ROWS

#define TARGET_NAME avx2
#define TARGET __attribute__((target("avx2,fma")))
#define VECTOR_BYTES 32
#define ROWS 6
#define REAL float
#include "_winograd.c"
#undef REAL
#define REAL double
#include "_winograd.c"
#undef REAL
#undef TARGET_NAME
#undef TARGET
#undef VECTOR_BYTES
#undef ROWS
#endif

#define TARGET_NAME portable
#define TARGET
#define VECTOR_BYTES 16
#define ROWS 4
#define REAL float
#include "_winograd.c"
#undef REAL
#define REAL double
#include "_winograd.c"
#undef REAL

/* The best instruction set of this processor: 0 portable, 1 AVX2, 2 AVX-512. */
int winograd_best(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

/* Sizes of the structures, with which winograd.py checks that it belongs to this version. */
int64_t winograd_struct_bytes(void) { return (int64_t)(sizeof(Layer) + 1000 * sizeof(Arrays)); }

/* Bytes of working memory that a call needs, aligned to 64. */
int64_t winograd_work_bytes(const Layer *layer, int number_bytes)
{
    Plan plan = plan_of(layer, (size_t)number_bytes);
    return number_bytes * (2 * plan.image + 2 * plan.spread + 2 * plan.mixed + plan.weights);
}

#if defined(__x86_64__)
#define CHOOSE(function, type, ...)                       \
    (set == 2   ? function##_##type##_avx512(__VA_ARGS__) \
     : set == 1 ? function##_##type##_avx2(__VA_ARGS__)   \
                : function##_##type##_portable(__VA_ARGS__))
#else
#define CHOOSE(function, type, ...) function##_##type##_portable(__VA_ARGS__)
#endif
#define EXPORT(function)                                                                                              \
    void winograd_##function(int set, int number_bytes, const Layer *layer, int64_t images, void *work, Arrays *arrays) \
    {                                                                                                                 \
        (void)set;                                                                                                    \
        if (number_bytes == 4) CHOOSE(function, float, layer, images, work, arrays);                                  \
        else CHOOSE(function, double, layer, images, work, arrays);                                                   \
    }

EXPORT(conv)
EXPORT(conv_packed)
EXPORT(conv_backward)
EXPORT(deconv)
EXPORT(deconv_packed)
EXPORT(deconv_backward)

/* Packs transformed weights once for many calls of `conv_packed`, or `deconv_packed` if `transposed`. They take as much
 * memory as before, in an order that depends on the instruction set. */
void winograd_pack(int set, int number_bytes, const Layer *layer, int transposed, const void *weights, void *packed)
{
    (void)set;
    const Plan plan = plan_of(layer, (size_t)number_bytes);
    if (number_bytes == 4) CHOOSE(pack_weights, float, layer, &plan, transposed, weights, packed);
    else CHOOSE(pack_weights, double, layer, &plan, transposed, weights, packed);
}

#else /* ------------------------------------------ for one type and instruction set -------------------------------- */

typedef REAL NAME(Vector) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
#define VECTOR NAME(Vector)
#define LANES ((int64_t)(VECTOR_BYTES / sizeof(REAL)))

/* ROWS x (vectors * LANES) numbers of C = A B, or C + A B: B packed, A of any strides; `rows` of them are stored. */
INLINE TARGET void NAME(kernel)(const int vectors, int64_t rows, int64_t depth, const REAL *a, int64_t row, int64_t step,
                                const REAL *b, REAL *c, int64_t ldc, int add)
{
    VECTOR sum[ROWS][2];
    const REAL *lines[(ROWS + 2) / 3];
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; i++)
        for (int v = 0; v < vectors; v++) sum[i][v] = (VECTOR){0};
#pragma GCC unroll 4
    for (int i = 0; i < (ROWS + 2) / 3; i++) lines[i] = a + 3 * i * row;
    for (int64_t k = 0; k < depth; k++) {
        VECTOR right[2];
        for (int v = 0; v < vectors; v++) right[v] = *(const VECTOR *)(b + v * LANES);
        b += vectors * LANES;
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; i++) {
            REAL left = lines[i / 3][(i % 3) * row];
            for (int v = 0; v < vectors; v++) sum[i][v] += left * right[v];
        }
#pragma GCC unroll 4
        for (int i = 0; i < (ROWS + 2) / 3; i++) lines[i] += step;
    }
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; i++)
        if (i < rows)
            for (int v = 0; v < vectors; v++) {
                VECTOR *out = (VECTOR *)(c + i * ldc + v * LANES);
                if (add) *out += sum[i][v];
                else *out = sum[i][v];
            }
}

/* Number of columns of B for a kernel: two vectors, or one if only GRAIN columns are left. */
INLINE int NAME(vectors_at)(int64_t column, int64_t columns) { return columns - column >= 2 * LANES ? 2 : 1; }

/* B (depth, columns) with a stride each way, packed in panels as wide as a kernel. */
TARGET static void NAME(pack)(int64_t depth, int64_t columns, const REAL *b, int64_t row, int64_t step, REAL *packed)
{
    for (int64_t j = 0; j < columns;) {
        int64_t width = NAME(vectors_at)(j, columns) * LANES;
        for (int64_t k = 0; k < depth; k++, packed += width) {
            const REAL *source = b + k * row + j * step;
            if (step == 1) memcpy(packed, source, (size_t)width * sizeof(REAL));
            else
                for (int64_t i = 0; i < width; i++) packed[i] = source[i * step];
        }
        j += width;
    }
}

/* C (rows, columns) = A B or C + A B, with B packed; reads A up to a whole block of rows. */
TARGET static void NAME(product)(int64_t rows, int64_t columns, int64_t depth, const REAL *a, int64_t row, int64_t step,
                                 const REAL *packed, REAL *c, int64_t ldc, int add)
{
    for (int64_t j = 0; j < columns;) {
        int vectors = NAME(vectors_at)(j, columns);
        for (int64_t i = 0; i < rows; i += ROWS) {
            if (vectors == 2)
                NAME(kernel)(2, rows - i, depth, a + i * row, row, step, packed, c + i * ldc + j, ldc, add);
            else
                NAME(kernel)(1, rows - i, depth, a + i * row, row, step, packed, c + i * ldc + j, ldc, add);
        }
        packed += depth * vectors * LANES;
        j += vectors * LANES;
    }
}

/* Apply B' on a line, which gives 3 or 4 points. */
INLINE TARGET void NAME(to_points)(const int points, const REAL *d, REAL *v)
{
    if (points == 3) v[0] = d[0] - d[1], v[1] = d[1], v[2] = d[1] - d[2];
    else v[0] = d[0] - d[2], v[1] = d[1] + d[2], v[2] = d[2] - d[1], v[3] = d[1] - d[3];
}

/* Apply the adjoint, B. */
INLINE TARGET void NAME(from_points)(const int points, const REAL *v, REAL *d)
{
    if (points == 3) d[0] = v[0], d[1] = v[1] + v[2] - v[0], d[2] = -v[2];
    else d[0] = v[0], d[1] = v[1] - v[2] + v[3], d[2] = v[1] + v[2] - v[0], d[3] = -v[3];
}

/* Apply A' on a line of points, which gives m outputs. */
INLINE TARGET void NAME(to_outputs)(const int points, const int m, const REAL *v, REAL *y)
{
    if (points == 3) y[0] = v[0] + v[1], y[1] = v[1] - v[2];
    else if (m == 2) y[0] = v[0] + v[1] + v[2], y[1] = v[1] - v[2] - v[3];
    else y[0] = v[0] + v[1] + v[2], y[1] = v[1] - v[2], y[2] = v[1] + v[2] - v[3];
}

/* Apply the adjoint, A. */
INLINE TARGET void NAME(from_outputs)(const int points, const int m, const REAL *y, REAL *v)
{
    if (points == 3) v[0] = y[0], v[1] = y[0] + y[1], v[2] = -y[1];
    else if (m == 2) v[0] = y[0], v[1] = y[0] + y[1], v[2] = y[0] - y[1], v[3] = -y[1];
    else v[0] = y[0], v[1] = y[0] + y[1] + y[2], v[2] = y[0] - y[1] + y[2], v[3] = -y[2];
}

/* `spread`, or `collect` (which adds), for one tile and one row of each block: two pixels of `run / 2` channels each. */
INLINE TARGET void NAME(tile_of_blocks)(const int P, const int collect, int64_t run, REAL *restrict wide, int64_t line,
                                        int64_t block, REAL *restrict points, int64_t point)
{
#pragma GCC ivdep
    for (int64_t l = 0; l < run; l++) {
        REAL a[4][4], b[4][4], in[4], out[4];
#pragma GCC unroll 4
        for (int i = 0; i < P; i++) {
#pragma GCC unroll 4
            for (int j = 0; j < P; j++) in[j] = collect ? points[(i * P + j) * point + l] : wide[i * line + j * block + l];
            if (collect) NAME(from_points)(P, in, out);
            else NAME(to_points)(P, in, out);
#pragma GCC unroll 4
            for (int j = 0; j < P; j++) a[i][j] = out[j];
        }
#pragma GCC unroll 4
        for (int j = 0; j < P; j++) {
#pragma GCC unroll 4
            for (int i = 0; i < P; i++) in[i] = a[i][j];
            if (collect) NAME(from_points)(P, in, out);
            else NAME(to_points)(P, in, out);
#pragma GCC unroll 4
            for (int i = 0; i < P; i++) b[i][j] = out[i];
        }
#pragma GCC unroll 4
        for (int i = 0; i < P; i++)
#pragma GCC unroll 4
            for (int j = 0; j < P; j++)
                if (collect) wide[i * line + j * block + l] += b[i][j];
                else points[(i * P + j) * point + l] = b[i][j];
    }
}

/* `spread`, or `collect` (which adds), for one image of `width` pixels along a side. Its tiles are rows of `points`, and
 * its points are `point` numbers apart. */
TARGET static void NAME(blocks)(const Layer *layer, const Plan *plan, int collect, REAL *wide, int64_t width, REAL *points,
                                int64_t point)
{
    const int64_t run = 2 * layer->channels, line = width * layer->channels;
    for (int64_t y = 0; y < plan->side; y++)
        for (int64_t x = 0; x < plan->side; x++)
            for (int64_t below = 0; below < 2; below++) {
                REAL *corner = wide + (2 * layer->tile * y + below) * line + layer->tile * x * run;
                REAL *tile = points + (y * plan->side + x) * plan->depth + below * run;
                if (plan->points == 9 && collect) NAME(tile_of_blocks)(3, 1, run, corner, 2 * line, run, tile, point);
                else if (plan->points == 9) NAME(tile_of_blocks)(3, 0, run, corner, 2 * line, run, tile, point);
                else if (collect) NAME(tile_of_blocks)(4, 1, run, corner, 2 * line, run, tile, point);
                else NAME(tile_of_blocks)(4, 0, run, corner, 2 * line, run, tile, point);
            }
}

/* `mix` for one tile into m x m narrow pixels. If there is a bias, it is added, and a ReLU follows. */
INLINE TARGET void NAME(tile_mix)(const int P, const int m, const int biased, int64_t features, const REAL *restrict points,
                                  int64_t point, const REAL *restrict bias, REAL *const *pixels)
{
#pragma GCC ivdep
    for (int64_t l = 0; l < features; l++) {
        REAL a[4][4], in[4], out[4];
#pragma GCC unroll 4
        for (int i = 0; i < P; i++) {
#pragma GCC unroll 4
            for (int j = 0; j < P; j++) in[j] = points[(i * P + j) * point + l];
            NAME(to_outputs)(P, m, in, a[i]);
        }
#pragma GCC unroll 4
        for (int j = 0; j < m; j++) {
#pragma GCC unroll 4
            for (int i = 0; i < P; i++) in[i] = a[i][j];
            NAME(to_outputs)(P, m, in, out);
#pragma GCC unroll 4
            for (int i = 0; i < m; i++) {
                REAL value = out[i] + (biased ? bias[l] : 0);
                pixels[i * m + j][l] = biased && value < 0 ? 0 : value;
            }
        }
    }
}

/* `unmix` for one tile. */
INLINE TARGET void NAME(tile_unmix)(const int P, const int m, int64_t features, REAL *const *pixels, REAL *restrict points,
                                    int64_t point)
{
#pragma GCC ivdep
    for (int64_t l = 0; l < features; l++) {
        REAL a[4][4], in[4], out[4];
#pragma GCC unroll 4
        for (int i = 0; i < m; i++) {
#pragma GCC unroll 4
            for (int j = 0; j < m; j++) in[j] = pixels[i * m + j][l];
            NAME(from_outputs)(P, m, in, a[i]);
        }
#pragma GCC unroll 4
        for (int j = 0; j < P; j++) {
#pragma GCC unroll 4
            for (int i = 0; i < m; i++) in[i] = a[i][j];
            NAME(from_outputs)(P, m, in, out);
#pragma GCC unroll 4
            for (int i = 0; i < P; i++) points[(i * P + j) * point + l] = out[i];
        }
    }
}

/* `mix` for one image, or `unmix` of the pixels in `narrow`. All pixels beyond the edge are the one at `beyond`. */
TARGET static void NAME(pixels)(const Layer *layer, const Plan *plan, int unmix, REAL *points, int64_t point,
                                const REAL *bias, REAL *narrow, REAL *beyond)
{
    const int64_t size = layer->size, features = layer->features, m = layer->tile;
    for (int64_t y = 0; y < plan->side; y++)
        for (int64_t x = 0; x < plan->side; x++) {
            REAL *tile = points + (y * plan->side + x) * features, *at[9];
            for (int64_t i = 0; i < m; i++)
                for (int64_t j = 0; j < m; j++)
                    at[i * m + j] = m * y + i < size && m * x + j < size
                                        ? narrow + ((m * y + i) * size + m * x + j) * features : beyond;
            if (m == 3 && unmix) NAME(tile_unmix)(4, 3, features, at, tile, point);
            else if (m == 3 && bias) NAME(tile_mix)(4, 3, 1, features, tile, point, bias, at);
            else if (m == 3) NAME(tile_mix)(4, 3, 0, features, tile, point, bias, at);
            else if (plan->points == 9 && unmix) NAME(tile_unmix)(3, 2, features, at, tile, point);
            else if (plan->points == 9 && bias) NAME(tile_mix)(3, 2, 1, features, tile, point, bias, at);
            else if (plan->points == 9) NAME(tile_mix)(3, 2, 0, features, tile, point, bias, at);
            else if (unmix) NAME(tile_unmix)(4, 2, features, at, tile, point);
            else if (bias) NAME(tile_mix)(4, 2, 1, features, tile, point, bias, at);
            else NAME(tile_mix)(4, 2, 0, features, tile, point, bias, at);
        }
}

/* Copy a line of wide pixels, and pad the channels with zeros. A separate case for 3 stored channels is faster. */
INLINE TARGET void NAME(pad_line)(const int known, const int bytes, const Layer *layer, int64_t pixels,
                               const void *restrict from, REAL *restrict to)
{
    const int64_t stored = known ? known : layer->stored, channels = known ? 4 : layer->channels;
    for (int64_t x = 0; x < pixels; x++) {
        for (int64_t l = 0; l < stored; l++)
            to[x * channels + l] = bytes ? ((const uint8_t *)from)[x * stored + l] : ((const REAL *)from)[x * stored + l];
        for (int64_t l = stored; l < channels; l++) to[x * channels + l] = 0;
    }
}

/* Copy a line of padded wide pixels without the padding; add the bias, and apply the ReLU if there is one. */
INLINE TARGET void NAME(unpad_line)(const int known, const int relu, const Layer *layer, const REAL *restrict from,
                                     const REAL *restrict bias, REAL *restrict to)
{
    const int64_t stored = known ? known : layer->stored, channels = known ? 4 : layer->channels;
    for (int64_t x = 0; x < layer->width; x++)
#pragma GCC ivdep
        for (int64_t l = 0; l < stored; l++) {
            REAL value = from[x * channels + l] + bias[l];
            to[x * stored + l] = relu && value < 0 ? 0 : value;
        }
}

/* Copy a gradient, with 0 where the ReLU gave 0, and add its sum to the gradient of the bias. */
INLINE TARGET void NAME(mask)(const int relu, int64_t pixels, int64_t stored, int64_t channels, const REAL *restrict gradient,
                              const REAL *restrict value, REAL *restrict to, REAL *restrict bias)
{
    for (int64_t pixel = 0; pixel < pixels; pixel++)
#pragma GCC ivdep
        for (int64_t l = 0; l < stored; l++) {
            REAL passed = gradient[pixel * stored + l];
            if (relu) passed = value[pixel * stored + l] > 0 ? passed : 0;
            to[pixel * channels + l] = passed;
            bias[l] += passed;
        }
}

/* `spread` for the image `index` in memory. `padded` has room for one padded image. */
TARGET static void NAME(spread_image)(const Layer *layer, const Plan *plan, const void *wide, int64_t index, REAL *padded,
                                      REAL *points, int64_t point)
{
    const int64_t line = layer->width * layer->stored, lines = plan->padded < layer->width ? plan->padded : layer->width;
    if (layer->stored == layer->channels && !layer->bytes) {
        NAME(blocks)(layer, plan, 0, (REAL *)wide + index * layer->width * line, layer->width, points, point);
        return;
    }
    for (int64_t y = 0; y < lines; y++) {
        const int64_t from = (index * layer->width + y) * line;
        REAL *to = padded + y * plan->padded * layer->channels;
        if (layer->bytes && layer->stored == 3) NAME(pad_line)(3, 1, layer, lines, (const uint8_t *)wide + from, to);
        else if (layer->bytes) NAME(pad_line)(0, 1, layer, lines, (const uint8_t *)wide + from, to);
        else NAME(pad_line)(0, 0, layer, lines, (const REAL *)wide + from, to);
    }
    NAME(blocks)(layer, plan, 0, padded, plan->padded, points, point);
}

/* Working memory of a call. */
typedef struct {
    REAL *image, *padded, *spread, *other_spread, *mixed, *other_mixed, *weights;
} NAME(Work);

static NAME(Work) NAME(work_of)(const Plan *plan, void *memory)
{
    NAME(Work) work = {.image = memory, .padded = (REAL *)memory + plan->image};
    work.spread = work.padded + plan->image;
    work.other_spread = work.spread + plan->spread;
    work.mixed = work.other_spread + plan->spread;
    work.other_mixed = work.mixed + plan->mixed;
    work.weights = work.other_mixed + plan->mixed;
    return work;
}

/* Pack the weights of all points: for V U, or transposed, for M U'. */
TARGET static void NAME(pack_weights)(const Layer *layer, const Plan *plan, int transposed, const REAL *weights, REAL *packed)
{
    const int64_t depth = plan->depth, features = layer->features;
    for (int64_t p = 0; p < plan->points; p++, weights += depth * features, packed += depth * features) {
        if (transposed) NAME(pack)(features, depth, weights, 1, features, packed);
        else NAME(pack)(depth, features, weights, features, 1, packed);
    }
}

/* Compute M = V U at every point; with `transposed`, V = M U'. */
TARGET static void NAME(apply)(const Layer *layer, const Plan *plan, int transposed, int64_t rows, const REAL *from,
                               const REAL *packed, REAL *to)
{
    const int64_t depth = transposed ? layer->features : plan->depth, columns = transposed ? plan->depth : layer->features;
    for (int64_t p = 0; p < plan->points; p++)
        NAME(product)(rows, columns, depth, from + p * rows * depth, depth, 1, packed + p * depth * columns,
                      to + p * rows * columns, columns, 0);
}

/* Compute the gradient of U, V' M at every point. With `add`, add it to what is there. */
TARGET static void NAME(weight_gradient)(const Layer *layer, const Plan *plan, int add, int64_t rows, const REAL *spread,
                                         const REAL *mixed, REAL *packed, REAL *gradient)
{
    const int64_t depth = plan->depth, features = layer->features;
    for (int64_t p = 0; p < plan->points; p++) {
        NAME(pack)(rows, features, mixed + p * rows * features, features, 1, packed);
        NAME(product)(depth, features, rows, spread + p * rows * depth, 1, depth, packed, gradient + p * depth * features,
                      features, add);
    }
}

/* Number of images of the next group. */
INLINE int64_t NAME(group_size)(const Plan *plan, int64_t rest) { return rest < plan->images ? rest : plan->images; }

/* narrow = relu(conv(wide, weights) + bias). */
TARGET static void NAME(conv_packed)(const Layer *layer, int64_t images, void *memory, Arrays *arrays)
{
    const Plan plan = plan_of(layer, sizeof(REAL));
    const NAME(Work) work = NAME(work_of)(&plan, memory);
    const int64_t narrow_size = layer->size * layer->size * layer->features;
    for (int64_t done = 0, count; done < images; done += count) {
        count = NAME(group_size)(&plan, images - done);
        const int64_t rows = count * plan.tiles;
        for (int64_t i = 0; i < count; i++)
            NAME(spread_image)(layer, &plan, arrays->wide, done + i, work.padded, work.spread + i * plan.tiles * plan.depth,
                               rows * plan.depth);
        NAME(apply)(layer, &plan, 0, rows, work.spread, arrays->weights, work.mixed);
        for (int64_t i = 0; i < count; i++)
            NAME(pixels)(layer, &plan, 0, work.mixed + i * plan.tiles * layer->features, rows * layer->features, arrays->bias,
                         (REAL *)arrays->narrow + (done + i) * narrow_size, work.image);
    }
}

/* The same with weights that are not packed yet. */
TARGET static void NAME(conv)(const Layer *layer, int64_t images, void *memory, Arrays *arrays)
{
    const Plan plan = plan_of(layer, sizeof(REAL));
    Arrays packed = *arrays;
    packed.weights = NAME(work_of)(&plan, memory).weights;
    NAME(pack_weights)(layer, &plan, 0, arrays->weights, packed.weights);
    NAME(conv_packed)(layer, images, memory, &packed);
}

/* From the gradient of the narrow images, compute the gradients of the weights, of the bias (added to what is there),
 * and of the wide images, if it is wanted. */
TARGET static void NAME(conv_backward)(const Layer *layer, int64_t images, void *memory, Arrays *arrays)
{
    const Plan plan = plan_of(layer, sizeof(REAL));
    const NAME(Work) work = NAME(work_of)(&plan, memory);
    const int64_t wide_size = layer->width * layer->width * layer->channels;
    const int64_t narrow_size = layer->size * layer->size * layer->features;
    REAL *passed = work.image, *beyond = work.image + narrow_size, *wide_gradient = arrays->wide_gradient;
    memset(beyond, 0, (size_t)layer->features * sizeof(REAL));
    if (wide_gradient) {
        NAME(pack_weights)(layer, &plan, 1, arrays->weights, work.weights);
        memset(wide_gradient, 0, (size_t)(images * wide_size) * sizeof(REAL));
    }
    for (int64_t done = 0, count; done < images; done += count) {
        count = NAME(group_size)(&plan, images - done);
        const int64_t rows = count * plan.tiles;
        for (int64_t i = 0; i < count; i++) {
            const int64_t at = (done + i) * narrow_size;
            NAME(mask)(1, layer->size * layer->size, layer->features, layer->features, (REAL *)arrays->narrow_gradient + at,
                       (REAL *)arrays->narrow + at, passed, arrays->bias_gradient);
            NAME(pixels)(layer, &plan, 1, work.mixed + i * plan.tiles * layer->features, rows * layer->features, NULL, passed,
                         beyond);
            NAME(spread_image)(layer, &plan, arrays->wide, done + i, work.padded, work.spread + i * plan.tiles * plan.depth,
                               rows * plan.depth);
        }
        NAME(weight_gradient)(layer, &plan, done > 0, rows, work.spread, work.mixed, work.other_mixed,
                              arrays->weights_gradient);
        if (!wide_gradient) continue;
        NAME(apply)(layer, &plan, 1, rows, work.mixed, work.weights, work.other_spread);
        for (int64_t i = 0; i < count; i++)
            NAME(blocks)(layer, &plan, 1, wide_gradient + (done + i) * wide_size, layer->width,
                         work.other_spread + i * plan.tiles * plan.depth, rows * plan.depth);
    }
}

/* wide = deconv(narrow, weights) + bias, and a ReLU if the layer has one. */
TARGET static void NAME(deconv_packed)(const Layer *layer, int64_t images, void *memory, Arrays *arrays)
{
    const Plan plan = plan_of(layer, sizeof(REAL));
    const NAME(Work) work = NAME(work_of)(&plan, memory);
    const int64_t line = layer->width * layer->stored, narrow_size = layer->size * layer->size * layer->features;
    REAL *beyond = work.image;
    memset(beyond, 0, (size_t)layer->features * sizeof(REAL));
    for (int64_t done = 0, count; done < images; done += count) {
        count = NAME(group_size)(&plan, images - done);
        const int64_t rows = count * plan.tiles;
        for (int64_t i = 0; i < count; i++)
            NAME(pixels)(layer, &plan, 1, work.mixed + i * plan.tiles * layer->features, rows * layer->features, NULL,
                         (REAL *)arrays->narrow + (done + i) * narrow_size, beyond);
        NAME(apply)(layer, &plan, 1, rows, work.mixed, arrays->weights, work.spread);
        for (int64_t i = 0; i < count; i++) {
            memset(work.padded, 0, (size_t)plan.image * sizeof(REAL));
            NAME(blocks)(layer, &plan, 1, work.padded, plan.padded, work.spread + i * plan.tiles * plan.depth,
                         rows * plan.depth);
            for (int64_t y = 0; y < layer->width; y++) {
                const REAL *from = work.padded + y * plan.padded * layer->channels;
                REAL *to = (REAL *)arrays->wide + ((done + i) * layer->width + y) * line;
                if (layer->relu) NAME(unpad_line)(0, 1, layer, from, arrays->bias, to);
                else if (layer->stored == 3) NAME(unpad_line)(3, 0, layer, from, arrays->bias, to);
                else NAME(unpad_line)(0, 0, layer, from, arrays->bias, to);
            }
        }
    }
}

/* The same with weights that are not packed yet. */
TARGET static void NAME(deconv)(const Layer *layer, int64_t images, void *memory, Arrays *arrays)
{
    const Plan plan = plan_of(layer, sizeof(REAL));
    Arrays packed = *arrays;
    packed.weights = NAME(work_of)(&plan, memory).weights;
    NAME(pack_weights)(layer, &plan, 1, arrays->weights, packed.weights);
    NAME(deconv_packed)(layer, images, memory, &packed);
}

/* From the gradient of the wide images, compute the gradients of the weights, of the bias (added to what is there), and
 * of the narrow images. */
TARGET static void NAME(deconv_backward)(const Layer *layer, int64_t images, void *memory, Arrays *arrays)
{
    const Plan plan = plan_of(layer, sizeof(REAL));
    const NAME(Work) work = NAME(work_of)(&plan, memory);
    const int64_t line = layer->width * layer->stored, narrow_size = layer->size * layer->size * layer->features;
    REAL *beyond = work.image, *bias = arrays->bias_gradient;
    memset(work.padded, 0, (size_t)plan.image * sizeof(REAL));
    NAME(pack_weights)(layer, &plan, 0, arrays->weights, work.weights);
    for (int64_t done = 0, count; done < images; done += count) {
        count = NAME(group_size)(&plan, images - done);
        const int64_t rows = count * plan.tiles;
        for (int64_t i = 0; i < count; i++) {
            for (int64_t y = 0; y < layer->width; y++) {
                const int64_t at = ((done + i) * layer->width + y) * line;
                const REAL *gradient = (REAL *)arrays->wide_gradient + at;
                const REAL *value = layer->relu ? (REAL *)arrays->wide + at : NULL;
                REAL *to = work.padded + y * plan.padded * layer->channels;
                if (layer->relu) NAME(mask)(1, layer->width, layer->stored, layer->channels, gradient, value, to, bias);
                else if (layer->stored == 3) NAME(mask)(0, layer->width, 3, 4, gradient, value, to, bias);
                else NAME(mask)(0, layer->width, layer->stored, layer->channels, gradient, value, to, bias);
            }
            NAME(blocks)(layer, &plan, 0, work.padded, plan.padded, work.spread + i * plan.tiles * plan.depth,
                         rows * plan.depth);
        }
        NAME(apply)(layer, &plan, 0, rows, work.spread, work.weights, work.mixed);
        for (int64_t i = 0; i < count; i++)
            NAME(pixels)(layer, &plan, 0, work.mixed + i * plan.tiles * layer->features, rows * layer->features, NULL,
                         (REAL *)arrays->narrow_gradient + (done + i) * narrow_size, beyond);
        memset(beyond, 0, (size_t)layer->features * sizeof(REAL));
        for (int64_t i = 0; i < count; i++)
            NAME(pixels)(layer, &plan, 1, work.mixed + i * plan.tiles * layer->features, rows * layer->features, NULL,
                         (REAL *)arrays->narrow + (done + i) * narrow_size, beyond);
        NAME(weight_gradient)(layer, &plan, done > 0, rows, work.spread, work.mixed, work.other_mixed,
                              arrays->weights_gradient);
    }
}

#undef VECTOR
#undef LANES
#endif

/* CarRacing-v3's 96x96 observation, drawn to the same bits as Gymnasium 1.4 draws it with pygame-ce 2.5.
 *
 * Gymnasium draws polygons on a 1000x800 canvas, turns it upside down, draws a panel over rows 700..799, and shrinks it
 * to 96x96, columns first. Here a row of the canvas has 96 cells. A cell holds the source pixels of one output column.
 * Most cells have one colour, and are stored as its number in a palette. So a span of a polygon sets few cells, and a
 * block of equal cells shrinks by one look-up. Only a mixed cell, in which a shape begins or ends, has its own pixels.
 *
 * Every rounding below is one of pygame's: gfxdraw's fixed-point polygons and Wu lines, draw.polygon's float32
 * intersections, smoothscale's 14-bit weights. Where pygame's integers wrap around, these integers wrap around too.
 *
 * Only the palette is kept from frame to frame. Nothing is allocated. Each thread needs its own canvas.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__) && !defined(PORTABLE)
#include <emmintrin.h>
#define SSE2 1
#else
#define SSE2 0
#endif

enum {
    WIDTH = 1000,
    HEIGHT = 800,
    PANEL = 100, /* rows of the panel; they are the lowest rows of the picture, and the first ones before the flip */
    SIZE = 96,   /* width and height of the observation */
    TAPS = 12,   /* largest number of source pixels of an output pixel, in one direction */
    ONE = 0x4000,
    MAX_COLORS = 256,
    MAX_MIXED = 40000, /* largest number of mixed cells; pictures have about 5,000, and a canvas has 76,800 cells */
    MAX_POINTS = 8, /* largest number of points of a polygon of the car */
};

enum { OK = 0, NOT_FINITE = 1, TOO_COMPLEX = 2 };

typedef struct {
    _Alignas(16) uint16_t weight[TAPS][4]; /* weights of the pixels lo..hi, the same for each channel; ONE is a whole */
    int lo, hi;
} Taps;

/* The values that change with every frame; car_renderer.py packs them as 37 doubles. */
typedef struct {
    double cos, sin, zoom, shift_x, shift_y; /* from the world to the canvas */
    double body[5][4];                       /* wheels, then hull: x, y, cosine, sine of float32 */
    double phase[4], wheel_speed[4];         /* rotation of each wheel in radians, and its speed in radians/s */
    double velocity[2], steering, yaw_rate;
} State;

typedef struct {
    int16_t x, y;
    uint32_t color;
} Ink;

/* The state, and the values that do not change during an episode. */
typedef struct {
    State state;
    const double *quads;  /* (2, 4, num_quads), x and y of four corners: the field, then grass, then road and borders */
    const double *colors; /* (num_quads - num_grass + 1, 3): colours of the field, of all grass, of each road quad */
    double margin;        /* a quad is drawn if one of its corners is this near to the canvas, as in Gymnasium */
    double wheel[4][2];   /* corners of a wheel in its own frame, float32 */
    double hull[4][MAX_POINTS][2];
    const Ink *ink;
    int32_t num_ink, text_left, text_top, text_width, text_height;
    int32_t num_quads, num_grass;
    int32_t hull_points[4];
    uint8_t wheel_color[4], hull_color[4];
} Scene;

typedef struct {
    Taps across[SIZE], down[SIZE];
    uint32_t recip_across, recip_down;
    int16_t first_pixel[SIZE + 1]; /* first pixel of each cell; it is also the last pixel of the cell before */
    int16_t left_cell[WIDTH + 1];  /* a span that begins at x covers this cell in part; -1 if there is none */
    int16_t right_cell[WIDTH + 1]; /* a span that ends at x covers this cell in part; SIZE if there is none */
    uint8_t shrunk_down[SIZE][256];
    int num_colors;
    uint32_t palette[MAX_COLORS];
    uint32_t shrunk_across[MAX_COLORS][SIZE];
    uint16_t cell[HEIGHT][SIZE]; /* number of a colour, or MAX_COLORS + i for a mixed cell with the pixels pixels[i] */
    uint32_t num_mixed, pixels[MAX_MIXED + 1][TAPS];
    /* For the quad being drawn: the span that was filled in each row. */
    int32_t span_lo[HEIGHT], span_hi[HEIGHT];
} Canvas;

/* ---- arithmetic that wraps around like pygame's ---- */

static int32_t wrap32(uint32_t value) { return (int32_t)value; }
static int32_t wrap_mul(int32_t a, int32_t b) { return wrap32((uint32_t)a * (uint32_t)b); }
static int32_t wrap_add(int32_t a, int32_t b) { return wrap32((uint32_t)a + (uint32_t)b); }
static int32_t wrap_sub(int32_t a, int32_t b) { return wrap32((uint32_t)a - (uint32_t)b); }

/* A conversion to int32 as on x86: a value out of range becomes INT32_MIN. */
static int32_t to_int32(double value) {
    return value > -2147483649.0 && value < 2147483648.0 ? (int32_t)value : INT32_MIN;
}

static int min_int(int a, int b) { return a < b ? a : b; }
static int max_int(int a, int b) { return a > b ? a : b; }

/* ---- tables ---- */

static void set_weight(Taps *taps, int x, int weight) {
    for (int k = 0; k < 4; k++) taps->weight[x - taps->lo][k] = (uint16_t)weight;
}

static uint32_t init_taps(Taps *taps, int source) {
    int space = ONE * source / SIZE, counter = space, out = 0;
    memset(taps, 0, SIZE * sizeof *taps);
    for (int x = 0; x < source && out < SIZE; x++) {
        Taps *t = &taps[out];
        if (counter > ONE) {
            set_weight(t, x, ONE);
            counter -= ONE;
        } else {
            int rest = ONE - counter;
            set_weight(t, x, counter);
            t->hi = x;
            if (++out < SIZE) {
                taps[out].lo = x;
                set_weight(&taps[out], x, rest);
            }
            counter = space - rest;
        }
    }
    return (uint32_t)(0x40000000 / space);
}

static uint8_t shrink_like(const Taps *taps, uint32_t recip, uint32_t value) {
    uint32_t sum = 0;
    for (int i = 0; i < TAPS; i++) sum += (value << 2) * taps->weight[i][0] >> 16;
    return (uint8_t)(sum * recip >> 16);
}

size_t canvas_size(void) { return sizeof(Canvas); }
size_t scene_size(void) { return sizeof(Scene); }

void canvas_init(Canvas *canvas) {
    memset(canvas, 0, offsetof(Canvas, cell));
    canvas->recip_across = init_taps(canvas->across, WIDTH);
    canvas->recip_down = init_taps(canvas->down, HEIGHT);
    for (int c = 0; c < SIZE; c++) canvas->first_pixel[c] = (int16_t)canvas->across[c].lo;
    canvas->first_pixel[SIZE] = WIDTH - 1;
    for (int x = 0, c = 0; x < WIDTH; x++) {
        canvas->left_cell[x] = (int16_t)(x == 0 ? -1 : c);
        if (c < SIZE && x == canvas->across[c].hi) c++;
        canvas->right_cell[x] = (int16_t)c;
    }
    for (int row = 0; row < SIZE; row++)
        for (uint32_t value = 0; value < 256; value++)
            canvas->shrunk_down[row][value] = shrink_like(&canvas->down[row], canvas->recip_down, value);
}

static uint32_t rgb(uint32_t r, uint32_t g, uint32_t b) { return r | g << 8 | b << 16; }

/* The number of a colour in the palette, or -1 if it is full. */
static int color_number(Canvas *canvas, uint32_t color) {
    int n = canvas->num_colors;
    for (int i = 0; i < n; i++)
        if (canvas->palette[i] == color) return i;
    if (n == MAX_COLORS) return -1;
    canvas->palette[n] = color;
    for (int c = 0; c < SIZE; c++) {
        uint32_t shrunk[3];
        for (int k = 0; k < 3; k++)
            shrunk[k] = shrink_like(&canvas->across[c], canvas->recip_across, color >> 8 * k & 255);
        canvas->shrunk_across[n][c] = rgb(shrunk[0], shrunk[1], shrunk[2]);
    }
    return canvas->num_colors++;
}

/* ---- cells ---- */

/* Make a cell mixed, and return its pixels. If there is no room, cells share the last pixels, and canvas_draw fails. */
static inline uint32_t *mixed_pixels(Canvas *canvas, uint16_t *cell) {
    if (*cell >= MAX_COLORS) return canvas->pixels[*cell - MAX_COLORS];
    uint32_t *pixels = canvas->pixels[canvas->num_mixed], color = canvas->palette[*cell];
    for (int i = 0; i < TAPS; i++) pixels[i] = color;
    *cell = (uint16_t)(MAX_COLORS + canvas->num_mixed);
    canvas->num_mixed += canvas->num_mixed < MAX_MIXED;
    return pixels;
}

/* Give the pixels from..to of a cell a colour. */
static inline void set_part(Canvas *canvas, int row, int c, int from, int to, int number) {
    uint16_t *cell = &canvas->cell[row][c];
    if (*cell == number) return;
    int first = from - canvas->first_pixel[c], last = to - canvas->first_pixel[c];
    uint32_t *pixels = mixed_pixels(canvas, cell), color = canvas->palette[number];
    /* Use all taps, without a branch on their number. A loop of varying length is slower, because of mispredictions. */
    for (int i = 0; i < TAPS; i++) pixels[i] = i >= first && i <= last ? color : pixels[i];
}

static void set_all(uint16_t *cells, int count, int number) {
    for (int c = 0; c < count; c++) cells[c] = (uint16_t)number;
}

/* Give the pixels from..to of a row a colour. Both are within the canvas. */
static void set_span(Canvas *canvas, int row, int from, int to, int number) {
    int left = canvas->left_cell[from], right = canvas->right_cell[to];
    if (left == right) {
        set_part(canvas, row, left, from, to, number);
        return;
    }
    if (left >= 0) set_part(canvas, row, left, from, canvas->first_pixel[left + 1], number);
    if (right < SIZE) set_part(canvas, row, right, canvas->first_pixel[right], to, number);
    set_all(&canvas->cell[row][left + 1], right - left - 1, number);
}

static void blend_in_cell(Canvas *canvas, int row, int c, int x, int number, uint32_t alpha) {
    uint16_t *cell = &canvas->cell[row][c];
    if (*cell == number) return;
    uint32_t *pixel = &mixed_pixels(canvas, cell)[x - canvas->first_pixel[c]];
    uint32_t source = canvas->palette[number], under = *pixel, rest = 256 - alpha;
    uint32_t red_blue = ((under & 0xff00ff) * rest + (source & 0xff00ff) * alpha) >> 8 & 0xff00ff;
    uint32_t green = ((under & 0x00ff00) * rest + (source & 0x00ff00) * alpha) >> 8 & 0x00ff00;
    *pixel = red_blue | green;
}

/* Blend a colour into a pixel within the canvas; alpha is 0 to 254. */
static void blend(Canvas *canvas, int row, int x, int number, uint32_t alpha) {
    int left = canvas->left_cell[x], right = canvas->right_cell[x];
    if (left >= 0) blend_in_cell(canvas, row, left, x, number, alpha);
    if (right < SIZE && right != left) blend_in_cell(canvas, row, right, x, number, alpha);
}

/* ---- gfxdraw: an anti-aliased outline, then the filled polygon over it ---- */

typedef struct {
    int16_t x[4], y[4];
    int number, top, bottom; /* colour; the rows top..bottom are filled already and hide the outline, -1 for none */
} Quad;

/* Whether y is on the canvas and not hidden by the panel. y counts upwards; the flip turns it into a row. */
static int visible(int y) { return y >= PANEL && y < HEIGHT; }

/* The columns of row y where the outline is hidden: the filled span, or the whole row if it is not visible. */
typedef struct {
    int lo, hi;
} Hidden;

static Hidden hidden_columns(const Canvas *canvas, const Quad *quad, int y) {
    if (!visible(y)) return (Hidden){0, WIDTH};
    if (y < quad->top || y > quad->bottom) return (Hidden){WIDTH, -1};
    return (Hidden){canvas->span_lo[y], canvas->span_hi[y]};
}

static inline void outline_pixel(Canvas *canvas, int number, Hidden hidden, int x, int y, uint32_t weight) {
    uint32_t alpha = 255 * weight >> 8;
    if ((x >= hidden.lo && x <= hidden.hi) || (unsigned)x >= WIDTH || alpha == 0) return;
    blend(canvas, HEIGHT - 1 - y, x, number, alpha);
}

static void outline_span(Canvas *canvas, const Quad *quad, int from, int to, int y) {
    Hidden hidden = hidden_columns(canvas, quad, y);
    for (int x = max_int(min_int(from, to), 0); x <= min_int(max_int(from, to), WIDTH - 1); x++)
        if (x < hidden.lo || x > hidden.hi) set_span(canvas, HEIGHT - 1 - y, x, x, quad->number);
}

static int side(int x, int y) {
    return (x < 0 ? 1 : x > WIDTH - 1 ? 2 : 0) | (y < 0 ? 8 : y > HEIGHT - 1 ? 4 : 0);
}

/* Cohen and Sutherland's clipping in float32. It moves the end points, which changes the slope. 0 if none is left. */
static int clip_line(int16_t p[4]) {
    for (int turn = 0; turn < 16; turn++) {
        int code1 = side(p[0], p[1]), code2 = side(p[2], p[3]);
        if (!(code1 | code2)) return 1;
        if (code1 & code2) return 0;
        if (!code1) {
            int16_t x = p[0], y = p[1];
            p[0] = p[2], p[1] = p[3], p[2] = x, p[3] = y;
            code1 = code2;
        }
        float slope = p[2] != p[0] ? (float)(p[3] - p[1]) / (float)(p[2] - p[0]) : 1.0f;
        if (code1 & 3) {
            int edge = code1 & 1 ? 0 : WIDTH - 1;
            p[1] = (int16_t)(p[1] + (int16_t)to_int32((float)(edge - p[0]) * slope));
            p[0] = (int16_t)edge;
        } else {
            int edge = code1 & 4 ? HEIGHT - 1 : 0;
            if (p[2] != p[0]) p[0] = (int16_t)(p[0] + (int16_t)to_int32((float)(edge - p[1]) / slope));
            p[1] = (int16_t)edge;
        }
    }
    return 0;
}

/* Wu's line with 16 bits of slope, without its last pixel. */
static void outline_edge(Canvas *canvas, const Quad *quad, int from, int to) {
    int16_t p[4] = {quad->x[from], quad->y[from], quad->x[to], quad->y[to]};
    if (!clip_line(p)) return;
    int x = p[0], y = p[1], end_x = p[2], end_y = p[3];
    if (y > end_y) x = p[2], y = p[3], end_x = p[0], end_y = p[1];
    int dx = end_x - x, dy = end_y - y, step = dx >= 0 ? 1 : -1;
    if (dx == 0) {
        for (; y <= end_y; y++) outline_span(canvas, quad, x, x, y);
        return;
    }
    if (dy == 0) {
        outline_span(canvas, quad, x, end_x, y);
        return;
    }
    dx = dx < 0 ? -dx : dx;
    outline_span(canvas, quad, p[0], p[0], p[1]);
    int steep = dy > dx, number = quad->number;
    uint32_t error = 0, slope = (uint32_t)(steep ? (dx << 16) / dy : (dy << 16) / dx) << 16;
    Hidden here = hidden_columns(canvas, quad, y), above = hidden_columns(canvas, quad, y + 1);
    for (int left = (steep ? dy : dx) - 1; left > 0; left--) {
        uint32_t before = error;
        error += slope;
        int carry = error <= before;
        uint32_t weight = error >> 24;
        if (steep) {
            y++;
            x += carry ? step : 0;
            here = hidden_columns(canvas, quad, y);
            outline_pixel(canvas, number, here, x, y, 255 - weight);
            outline_pixel(canvas, number, here, x + step, y, weight);
            continue;
        }
        x += step;
        if (carry) {
            y++;
            here = above;
            above = hidden_columns(canvas, quad, y + 1);
        }
        outline_pixel(canvas, number, here, x, y, 255 - weight);
        outline_pixel(canvas, number, above, x, y + 1, weight);
    }
}

/* An edge that is followed row by row. In row y it is at share * dx + 65536 * x1, in 16.16 fixed point, where share is
 * 65536 * (y - y1) / height. */
typedef struct {
    int x1, y1, y2, dx, height, quotient, remainder, share, over;
} Edge;

static Edge make_edge(const Quad *quad, int from, int to) {
    if (quad->y[from] > quad->y[to]) {
        int i = from;
        from = to, to = i;
    }
    Edge edge = {.x1 = quad->x[from], .y1 = quad->y[from], .y2 = quad->y[to], .dx = quad->x[to] - quad->x[from]};
    edge.height = edge.y2 - edge.y1;
    if (edge.height) edge.quotient = 65536 / edge.height, edge.remainder = 65536 % edge.height;
    return edge;
}

static void start_edge(Edge *edge, int y) {
    int64_t share = (int64_t)65536 * (y - edge->y1);
    edge->share = (int)(share / edge->height);
    edge->over = (int)(share % edge->height);
}

static inline int32_t next_crossing(Edge *edge, int y) {
    if (edge->height >= 32768) edge->share = wrap_mul(65536, y - edge->y1) / edge->height; /* the product wraps */
    int32_t crossing = wrap_add(wrap_mul(edge->share, edge->dx), wrap_mul(65536, edge->x1));
    edge->over += edge->remainder;
    int carry = edge->over >= edge->height;
    edge->share += edge->quotient + carry;
    edge->over -= carry ? edge->height : 0;
    return crossing;
}

static inline void sort_pair(int32_t *a, int32_t *b) {
    int32_t first = *a, second = *b, swap = wrap_sub(first, second) > 0;
    *a = swap ? second : first;
    *b = swap ? first : second;
}

/* Merge sort, as glibc's qsort does with pygame's comparison, whose difference may wrap around. */
static void sort_four(int32_t *v) {
    sort_pair(&v[0], &v[1]);
    sort_pair(&v[2], &v[3]);
    int32_t sorted[4];
    for (int i = 0, a = 0, b = 2; i < 4; i++)
        sorted[i] = b == 4 || (a < 2 && wrap_sub(v[a], v[b]) <= 0) ? v[a++] : v[b++];
    memcpy(v, sorted, sizeof sorted);
}

/* A crossing in 16.16 as the pixel where a span begins (widen = 1) or ends (widen = -1). */
static int16_t rounded(int32_t crossing, int widen) {
    int32_t x = wrap_add(crossing, widen);
    return (int16_t)((x >> 16) + ((x & 32768) >> 15));
}

static void fill_row(Canvas *canvas, int y, const int32_t *crossing, int number) {
    int from = rounded(crossing[0], 1), to = rounded(crossing[1], -1);
    if (from > to) {
        int x = from;
        from = to, to = x;
    }
    canvas->span_lo[y] = from;
    canvas->span_hi[y] = to;
    if (from < WIDTH && to >= 0)
        set_span(canvas, HEIGHT - 1 - y, max_int(from, 0), min_int(to, WIDTH - 1), number);
}

/* Fill the rows low..high, which are crossed by the same two or four edges. */
static void fill_slab(Canvas *canvas, const Quad *quad, Edge *edges, int count, int low, int high) {
    for (int i = 0; i < count; i++) start_edge(&edges[i], low);
    if (count == 2) {
        Edge a = edges[0], b = edges[1];
        for (int y = low; y <= high; y++) {
            int32_t crossing[2] = {next_crossing(&a, y), next_crossing(&b, y)};
            sort_pair(&crossing[0], &crossing[1]);
            fill_row(canvas, y, crossing, quad->number);
        }
        return;
    }
    for (int y = low; y <= high; y++) {
        int32_t crossing[4];
        for (int i = 0; i < 4; i++) crossing[i] = next_crossing(&edges[i], y);
        sort_four(crossing);
        fill_row(canvas, y, crossing, quad->number);
        fill_row(canvas, y, crossing + 2, quad->number);
    }
}

/* Collect the edges that cross row y, and return their number. An edge that ends in the last row crosses it. */
static int active_edges(const Edge *all, int y, int bottom, Edge *active) {
    int count = 0;
    for (int i = 0; i < 4; i++) {
        const Edge *edge = &all[i];
        if (edge->height && (y == bottom ? edge->y2 == bottom : edge->y1 <= y && y < edge->y2)) active[count++] = *edge;
    }
    return count;
}

/* Fill a quad, in parts from one vertex to the next. Within a part the active edges stay the same. */
static void fill_quad(Canvas *canvas, const Quad *quad, const Edge *all, int top, int bottom) {
    for (int y = top, next; y <= bottom; y = next) {
        Edge active[4];
        int count = active_edges(all, y, bottom, active);
        next = y == bottom ? bottom + 1 : bottom;
        for (int i = 0; i < 4; i++)
            if (quad->y[i] > y) next = min_int(next, quad->y[i]);
        int low = max_int(y, PANEL), high = min_int(next - 1, HEIGHT - 1);
        if (count && low <= high) fill_slab(canvas, quad, active, count, low, high);
    }
}

static void draw_outline(Canvas *canvas, const Quad *quad) {
    for (int i = 0; i < 4; i++) outline_edge(canvas, quad, i, (i + 1) & 3);
}

static void draw_quad(Canvas *canvas, Quad *quad) {
    int top = quad->y[0], bottom = quad->y[0], left = quad->x[0], right = quad->x[0], most = 0;
    for (int i = 1; i < 4; i++) {
        top = min_int(top, quad->y[i]), bottom = max_int(bottom, quad->y[i]);
        left = min_int(left, quad->x[i]), right = max_int(right, quad->x[i]);
    }
    if (bottom < PANEL - 1 || top >= HEIGHT) return;
    if ((right < 0 || left >= WIDTH) && bottom - top < 32768) return; /* crossings of a taller quad may wrap around */
    Edge all[4], active[4];
    for (int i = 0; i < 4; i++) all[i] = make_edge(quad, (i + 3) & 3, i);
    for (int i = 0; i < 4; i++) most = max_int(most, active_edges(all, quad->y[i], bottom, active));
    if (most == 2) { /* each row is one span. It is filled first, so that the outline under it is not drawn */
        fill_quad(canvas, quad, all, top, bottom);
        quad->top = top, quad->bottom = bottom;
        draw_outline(canvas, quad);
    } else {
        quad->top = quad->bottom = -1;
        draw_outline(canvas, quad);
        fill_quad(canvas, quad, all, top, bottom);
    }
}

static int draw_quads(Canvas *canvas, const Scene *scene) {
    const State *state = &scene->state;
    int n = scene->num_quads;
    for (int i = 0; i < n; i++) {
        double x[4], y[4];
        int near = i == 0;
        for (int k = 0; k < 4; k++) {
            double world_x = scene->quads[k * n + i], world_y = scene->quads[(4 + k) * n + i];
            x[k] = (state->cos * world_x - state->sin * world_y) * state->zoom + state->shift_x;
            y[k] = (state->sin * world_x + state->cos * world_y) * state->zoom + state->shift_y;
            near |= -scene->margin <= x[k] && x[k] <= WIDTH + scene->margin && -scene->margin <= y[k] &&
                    y[k] <= HEIGHT + scene->margin;
        }
        if (!near) continue;
        Quad quad;
        for (int k = 0; k < 4; k++) {
            if (!(fabs(x[k]) < 9e18 && fabs(y[k]) < 9e18)) return NOT_FINITE;
            quad.x[k] = (int16_t)(int64_t)x[k];
            quad.y[k] = (int16_t)(int64_t)y[k];
        }
        const double *color = &scene->colors[3 * (i == 0 ? 0 : i <= scene->num_grass ? 1 : i - scene->num_grass + 1)];
        for (int k = 0; k < 3; k++)
            if (!(color[k] >= 0 && color[k] < 256)) return TOO_COMPLEX;
        quad.number = color_number(canvas, rgb((uint32_t)color[0], (uint32_t)color[1], (uint32_t)color[2]));
        if (quad.number < 0) return TOO_COMPLEX;
        draw_quad(canvas, &quad);
    }
    return OK;
}

/* ---- draw.polygon: the car and the indicators ---- */

typedef struct {
    int32_t x[MAX_POINTS], y[MAX_POINTS];
    int count, number, flip;
} Polygon;

static void polygon_span(Canvas *canvas, const Polygon *polygon, int32_t from, int32_t y, int32_t to) {
    if (polygon->flip ? !visible(y) : (y < 0 || y >= HEIGHT)) return;
    if (from > to) {
        int32_t x = from;
        from = to, to = x;
    }
    if (from < WIDTH && to >= 0)
        set_span(canvas, polygon->flip ? HEIGHT - 1 - y : y, max_int(from, 0), min_int(to, WIDTH - 1),
                 polygon->number);
}

static void polygon_row(Canvas *canvas, const Polygon *polygon, int32_t y, int32_t bottom) {
    int32_t crossing[MAX_POINTS];
    int count = 0;
    for (int i = 0; i < polygon->count; i++) {
        int before = i ? i - 1 : polygon->count - 1;
        int32_t x1 = polygon->x[before], y1 = polygon->y[before], x2 = polygon->x[i], y2 = polygon->y[i];
        if (y1 == y2) continue;
        if (y1 > y2) {
            int32_t x = x1, z = y1;
            x1 = x2, y1 = y2, x2 = x, y2 = z;
        }
        if (!((y >= y1 && y < y2) || (y == bottom && y2 == bottom))) continue;
        float along = (float)wrap_mul(wrap_sub(y, y1), wrap_sub(x2, x1)) / (float)wrap_sub(y2, y1);
        along = count % 2 ? ceilf(along) : floorf(along);
        int32_t x = wrap_add(to_int32(along), x1);
        int k = count++;
        for (; k > 0 && crossing[k - 1] > x; k--) crossing[k] = crossing[k - 1];
        crossing[k] = x;
    }
    for (int i = 0; i + 1 < count; i += 2) polygon_span(canvas, polygon, crossing[i], y, crossing[i + 1]);
}

static void draw_polygon(Canvas *canvas, const Polygon *polygon) {
    int32_t top = polygon->y[0], bottom = polygon->y[0], left = polygon->x[0], right = polygon->x[0];
    for (int i = 1; i < polygon->count; i++) {
        top = min_int(top, polygon->y[i]), bottom = max_int(bottom, polygon->y[i]);
        left = min_int(left, polygon->x[i]), right = max_int(right, polygon->x[i]);
    }
    if (top == bottom) {
        polygon_span(canvas, polygon, left, top, right);
        return;
    }
    for (int32_t y = max_int(top, 0); y <= min_int(bottom, HEIGHT - 1); y++) polygon_row(canvas, polygon, y, bottom);
    for (int i = 0; i < polygon->count; i++) { /* polygon_row may leave out a horizontal edge between top and bottom */
        int before = i ? i - 1 : polygon->count - 1;
        int32_t y = polygon->y[i];
        if (top < y && polygon->y[before] == y && y < bottom)
            polygon_span(canvas, polygon, polygon->x[i], y, polygon->x[before]);
    }
}

/* Add a point of a body: transform it as Box2D does, in float32, then as the camera does, in double. */
static void add_body_point(Polygon *polygon, const State *state, const double *body, double x, double y) {
    float px = (float)x, py = (float)y, cosine = (float)body[2], sine = (float)body[3];
    double world_x = (cosine * px - sine * py) + (float)body[0], world_y = (sine * px + cosine * py) + (float)body[1];
    int i = polygon->count++;
    polygon->x[i] = to_int32((state->cos * world_x - state->sin * world_y) * state->zoom + state->shift_x);
    polygon->y[i] = to_int32((state->sin * world_x + state->cos * world_y) * state->zoom + state->shift_y);
}

static double sign(double x) { return (x > 0) - (x < 0); }

/* Draw the light stripe that shows the rotation of a wheel. It is not drawn while it is on the lower side. */
static void draw_stripe(Canvas *canvas, const State *state, int wheel, int number) {
    double phase = state->phase[wheel], sin1 = sin(phase), sin2 = sin(phase + 1.2);
    double cos1 = cos(phase), cos2 = cos(phase + 1.2);
    if (sin1 > 0 && sin2 > 0) return;
    if (sin1 > 0) cos1 = sign(cos1);
    if (sin2 > 0) cos2 = sign(cos2);
    double half_width = 14 * 0.02, y1 = 27 * cos1 * 0.02, y2 = 27 * cos2 * 0.02;
    Polygon stripe = {.number = number, .flip = 1};
    add_body_point(&stripe, state, state->body[wheel], -half_width, y1);
    add_body_point(&stripe, state, state->body[wheel], half_width, y1);
    add_body_point(&stripe, state, state->body[wheel], half_width, y2);
    add_body_point(&stripe, state, state->body[wheel], -half_width, y2);
    draw_polygon(canvas, &stripe);
}

static int draw_car(Canvas *canvas, const Scene *scene) {
    const State *state = &scene->state;
    const uint8_t *wheel = scene->wheel_color, *hull = scene->hull_color;
    int black = color_number(canvas, rgb(wheel[0], wheel[1], wheel[2]));
    int red = color_number(canvas, rgb(hull[0], hull[1], hull[2])), grey = color_number(canvas, rgb(77, 77, 77));
    if (black < 0 || red < 0 || grey < 0) return TOO_COMPLEX;
    for (int w = 0; w < 4; w++) {
        Polygon tyre = {.number = black, .flip = 1};
        for (int i = 0; i < 4; i++)
            add_body_point(&tyre, state, state->body[w], scene->wheel[i][0], scene->wheel[i][1]);
        draw_polygon(canvas, &tyre);
        draw_stripe(canvas, state, w, grey);
    }
    for (int part = 0; part < 4; part++) {
        Polygon polygon = {.number = red, .flip = 1};
        if (scene->hull_points[part] < 3 || scene->hull_points[part] > MAX_POINTS) return TOO_COMPLEX;
        for (int i = 0; i < scene->hull_points[part]; i++)
            add_body_point(&polygon, state, state->body[4], scene->hull[part][i][0], scene->hull[part][i][1]);
        draw_polygon(canvas, &polygon);
    }
    return OK;
}

static int draw_rectangle(Canvas *canvas, double x1, double y1, double x2, double y2, uint32_t color) {
    int number = color_number(canvas, color);
    if (number < 0) return TOO_COMPLEX;
    int32_t left = to_int32(x1), top = to_int32(y1), right = to_int32(x2), low = to_int32(y2);
    Polygon polygon = {.x = {left, right, right, left}, .y = {top, top, low, low}, .count = 4, .number = number};
    draw_polygon(canvas, &polygon);
    return OK;
}

static int draw_upright(Canvas *canvas, int place, double value, double scale, uint32_t color) {
    double w = WIDTH / 40.0, h = HEIGHT / 40.0;
    if (!(fabs(value) > 1e-4)) return OK;
    return draw_rectangle(canvas, place * w, HEIGHT - (h + h * (scale * value)), (place + 1) * w, HEIGHT - h, color);
}

static int draw_sideways(Canvas *canvas, int place, double value, double scale, uint32_t color) {
    double w = WIDTH / 40.0, h = HEIGHT / 40.0;
    if (!(fabs(value) > 1e-4)) return OK;
    return draw_rectangle(canvas, place * w, HEIGHT - 4 * h, (place + scale * value) * w, HEIGHT - 2 * h, color);
}

/* Draw the text: a black rectangle, and on it the ink, which are the pixels of other colours. */
static void draw_text(Canvas *canvas, const Scene *scene, int black) {
    for (int row = scene->text_top; row < scene->text_top + scene->text_height; row++) {
        int from = max_int(scene->text_left, 0), to = min_int(scene->text_left + scene->text_width, WIDTH) - 1;
        if (row >= 0 && row < HEIGHT && from <= to) set_span(canvas, row, from, to, black);
    }
    for (int i = 0; i < scene->num_ink; i++) {
        int x = scene->ink[i].x, row = scene->ink[i].y;
        if (x < 0 || x >= WIDTH || row < 0 || row >= HEIGHT) continue;
        for (int c = max_int(canvas->left_cell[x], 0); c <= min_int(canvas->right_cell[x], SIZE - 1); c++)
            mixed_pixels(canvas, &canvas->cell[row][c])[x - canvas->first_pixel[c]] = scene->ink[i].color;
    }
}

static int draw_panel(Canvas *canvas, const Scene *scene) {
    const State *state = &scene->state;
    int black = color_number(canvas, 0);
    if (black < 0) return TOO_COMPLEX;
    set_all(canvas->cell[HEIGHT - PANEL], PANEL * SIZE, black);
    double vx = state->velocity[0], vy = state->velocity[1];
    int bad = draw_upright(canvas, 5, sqrt(vx * vx + vy * vy), 0.02, rgb(255, 255, 255));
    for (int w = 0; w < 4; w++)
        bad |= draw_upright(canvas, 7 + w, state->wheel_speed[w], 0.01, rgb(w < 2 ? 0 : 51, 0, 255));
    bad |= draw_sideways(canvas, 20, state->steering, -10.0, rgb(0, 255, 0));
    bad |= draw_sideways(canvas, 30, state->yaw_rate, -0.8, rgb(255, 0, 0));
    draw_text(canvas, scene, black);
    return bad ? TOO_COMPLEX : OK;
}

/* ---- smoothscale ---- */

#if SSE2
static __m128i weighted(__m128i channels, const uint16_t *weight) {
    return _mm_mulhi_epu16(_mm_slli_epi16(channels, 2), _mm_load_si128((const __m128i *)weight));
}

/* The output pixel of a mixed cell, before rows are combined. */
static uint32_t shrink_cell(const uint32_t *pixels, const Taps *taps, uint32_t recip) {
    __m128i zero = _mm_setzero_si128(), sum = zero;
    for (int i = 0; i < TAPS; i += 4) {
        __m128i four = _mm_loadu_si128((const __m128i *)(pixels + i));
        sum = _mm_add_epi16(sum, weighted(_mm_unpacklo_epi8(four, zero), taps->weight[i]));
        sum = _mm_add_epi16(sum, weighted(_mm_unpackhi_epi8(four, zero), taps->weight[i + 2]));
    }
    sum = _mm_add_epi16(sum, _mm_srli_si128(sum, 8));
    sum = _mm_mulhi_epu16(sum, _mm_set1_epi16((short)recip));
    return (uint32_t)_mm_cvtsi128_si32(_mm_packus_epi16(sum, zero));
}

/* An output pixel, combined from its rows. */
static uint32_t shrink_rows(const uint32_t *pixels, const Taps *taps, uint32_t recip) {
    __m128i zero = _mm_setzero_si128(), sum = zero;
    for (int i = 0; i <= taps->hi - taps->lo; i++) {
        __m128i channels = _mm_unpacklo_epi8(_mm_cvtsi32_si128((int)pixels[i]), zero);
        __m128i weight = _mm_loadl_epi64((const __m128i *)taps->weight[i]);
        sum = _mm_add_epi16(sum, _mm_mulhi_epu16(_mm_slli_epi16(channels, 2), weight));
    }
    sum = _mm_mulhi_epu16(sum, _mm_set1_epi16((short)recip));
    return (uint32_t)_mm_cvtsi128_si32(_mm_packus_epi16(sum, zero));
}
#else
static uint32_t shrink_rows(const uint32_t *pixels, const Taps *taps, uint32_t recip) {
    uint32_t sum[3] = {0, 0, 0};
    for (int i = 0; i <= taps->hi - taps->lo; i++)
        for (int k = 0; k < 3; k++) sum[k] += (pixels[i] >> 8 * k & 255) * 4 * taps->weight[i][0] >> 16;
    for (int k = 0; k < 3; k++) sum[k] = sum[k] * recip >> 16;
    return rgb(sum[0], sum[1], sum[2]);
}

static uint32_t shrink_cell(const uint32_t *pixels, const Taps *taps, uint32_t recip) {
    return shrink_rows(pixels, taps, recip);
}
#endif

static uint32_t shrink_block(const Canvas *canvas, int out_row, int c) {
    const Taps *down = &canvas->down[out_row];
    uint32_t pixels[TAPS];
    for (int row = down->lo; row <= down->hi; row++) {
        int number = canvas->cell[row][c];
        pixels[row - down->lo] =
            number < MAX_COLORS
                ? canvas->shrunk_across[number][c]
                : shrink_cell(canvas->pixels[number - MAX_COLORS], &canvas->across[c], canvas->recip_across);
    }
    return shrink_rows(pixels, down, canvas->recip_down);
}

static void put_pixel(uint8_t *out, uint32_t pixel) {
    out[0] = (uint8_t)pixel;
    out[1] = (uint8_t)(pixel >> 8);
    out[2] = (uint8_t)(pixel >> 16);
}

static void shrink(const Canvas *canvas, uint8_t *out) {
    for (int out_row = 0; out_row < SIZE; out_row++) {
        const Taps *down = &canvas->down[out_row];
        const uint16_t *first = canvas->cell[down->lo];
        uint16_t differs[SIZE] = {0};
        for (int row = down->lo + 1; row <= down->hi; row++)
            for (int c = 0; c < SIZE; c++) differs[c] |= canvas->cell[row][c] ^ first[c];
        for (int c = 0; c < SIZE; c++, out += 3) {
            if (differs[c] || first[c] >= MAX_COLORS) {
                put_pixel(out, shrink_block(canvas, out_row, c));
                continue;
            }
            uint32_t pixel = canvas->shrunk_across[first[c]][c];
            for (int k = 0; k < 3; k++) out[k] = canvas->shrunk_down[out_row][pixel >> 8 * k & 255];
        }
    }
}

static int all_finite(const State *state) {
    const double *values = (const double *)state;
    for (size_t i = 0; i < sizeof *state / sizeof *values; i++)
        if (!isfinite(values[i])) return 0;
    return 1;
}

/* Draw a scene; out is (96, 96, 3). Returns OK, or the reason why there is no picture. */
int canvas_draw(Canvas *canvas, const Scene *scene, uint8_t *out) {
    if (!all_finite(&scene->state)) return NOT_FINITE;
    if (scene->num_grass < 0 || scene->num_quads < scene->num_grass + 1) return TOO_COMPLEX;
    if (canvas->num_colors > MAX_COLORS / 2) canvas->num_colors = 0;
    canvas->num_mixed = 0;
    set_all(canvas->cell[0], HEIGHT * SIZE, color_number(canvas, 0));
    int bad = draw_quads(canvas, scene);
    if (!bad) bad = draw_car(canvas, scene);
    if (!bad) bad = draw_panel(canvas, scene);
    if (!bad && canvas->num_mixed == MAX_MIXED) bad = TOO_COMPLEX;
    if (bad) {
        canvas->num_colors = 0;
        return bad;
    }
    shrink(canvas, out);
    return OK;
}

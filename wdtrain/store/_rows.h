/* What the compiled loops share: how samples are stored, and where they go. */
#include <stddef.h>
#include <stdint.h>

typedef struct Calls Calls;
typedef struct Zstd Zstd;

/* What is called of zlib. */
typedef struct {
    int (*uncompress)(uint8_t *, unsigned long *, const uint8_t *, unsigned long);
    unsigned long (*crc32)(unsigned long, const uint8_t *, unsigned);
} Zlib;

/* What follows the key in the names of a sample's members, in order; and, of samples that must all
 * lie alike (raw), how many last bytes of each member may differ (all: -1). */
typedef struct {
    const char *const *suffixes;
    int64_t columns;
    const int64_t *payloads; /* NULL where samples differ */
} Members;

/* A block to load: from `offset` of an open file to `packed`, from there inflated to `data`; and the
 * starts and sizes [samples, columns] of its members. checksum: -1 if it was verified before. */
typedef struct {
    int64_t file, offset;
    uint8_t *packed;
    int64_t packed_bytes;
    uint8_t *data;
    int64_t bytes, checksum, samples;
    int64_t *starts, *sizes;
} Block;

/* How a column's members hold their pixels. NONE: they are passed over. */
enum { NONE, JPEG, PNG, NPY };

/* One field of all samples: a member of each, and rows of pixels. */
typedef struct {
    int64_t codec;
    int64_t line_bytes;  /* of a line of its pixels as stored, */
    int64_t value_bytes; /* each of whose values (of one channel) takes 1 or 2 */
    const uint8_t *prefix; /* what a PNG begins with (up to its first stored part) or a .npy array */
    int64_t prefix_bytes;
    int64_t scale;      /* eighths at which JPEGs are decoded, */
    int64_t decoded[2]; /* and their height and width then */
} Column;

/* The same for all rows of a stream. */
typedef struct {
    const Column *columns; /* of the members, but the last: a sample's JSON */
    int64_t count;
    int64_t height, width; /* as stored */
    int64_t is_raw;        /* samples are pixels as they are, in `.npy` members that were checked */
    const Calls *calls;    /* of libjpeg-turbo, where a column is JPEG */
    const Zlib *zlib;      /* where PNGs are deflated lines filtered Up; else NULL */
} Form;

/* Rows of one window that go to a batch's rows from `at` on. Where they lie is [1 + columns, stride],
 * of which the first `rows` count: of encoded samples the members in order, JSON last, with their
 * sizes; of raw ones the name, and the pixels of each column. */
typedef struct {
    const uint8_t *const *addresses;
    const int64_t *sizes;
    int64_t stride, rows, at;
} Piece;

/* One side of a picture at another size: pixel i is the sum of `taps` pixels of the old one from
 * first[i] on, times weights [size, taps]. */
typedef struct {
    int64_t size, taps;
    const int32_t *first;
    const float *weights;
} Axis;

/* The same in whole numbers: shares [size, taps], of which those of each pixel are `total`. */
typedef struct {
    int64_t size, taps;
    const int32_t *first, *shares;
    int64_t total;
} Cover;

/* Bytes of a member's data with their padding, in a tar. */
static inline int64_t wd_padded(int64_t bytes) { return (bytes + 511) / 512 * 512; }

int64_t wd_index(const uint8_t *data, int64_t bytes, const char *const *suffixes, int64_t columns,
                 int64_t max_samples, int64_t *starts, int64_t *sizes);

int64_t wd_alike(const uint8_t *data, int64_t samples, int64_t stride, int64_t columns,
                 const int64_t *starts, const int64_t *sizes, const int64_t *payloads);

double wd_now(void);

int64_t wd_decode_jpegs(const Calls *calls, const uint8_t *const *jpegs, const int64_t *bytes,
                        const int64_t *behind, int64_t rows, const int64_t *stored, int64_t scale, const int64_t *size,
                        uint8_t *target);

/* What the compiled loops share: how samples are stored, and where they go. */
#include <stddef.h>
#include <stdint.h>

enum { COLUMNS = 4 };

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

/* The same for all rows of a stream. */
typedef struct {
    const Calls *calls;    /* of libjpeg-turbo; NULL where samples are pixels as they are (raw) */
    int64_t height, width; /* as stored */
    int64_t depth_bytes;   /* of one code: 1 or 2 */
    int64_t scale;         /* eighths at which JPEGs are decoded, */
    int64_t decoded[2];    /* and their height and width then */
    const uint8_t *mask_prefix, *depth_prefix; /* what their stored PNGs begin with, 43 bytes */
    const Zlib *zlib; /* where PNGs are deflated lines filtered Up; else NULL */
} Form;

/* Rows of one window that go to a batch's rows from `at` on. Where they lie is [COLUMNS, stride],
 * of which the first `rows` count: of encoded samples the members overlay, mask, depth (and a
 * fourth), with their sizes; of raw ones the name and the pixels of overlay, mask, depth. */
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

/* Double.toString and Float.toString as JDK 17 has them (JDK 8 to 18 share the algorithm, and SyncTool runs on these).
 *
 * The digits are generated one after another until what is left is closer to nothing, or to one more unit, than half
 * the distance to the next number. That gives the shortest decimal that reads back as the same number, with these
 * differences, all of which Java has (JDK 19 ended them):
 *  - half the distance itself is too far (1e23 is 9.999999999999999E22);
 *  - around a power of two the distance to the smaller neighbour counts on both sides;
 *  - text with an exponent has the two nearest digits where one would do (4.9E-324, not 5.0E-324);
 *  - a whole number below 2^63 shows its own digits, less those that its precision doesn't cover (3.29999995E10f);
 *  - from about 1e24 to 1e26 its 64-bit arithmetic overflows, and the last digit may be one too small.
 * All of it reads back as the same number. */
#include "format/java_float.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum {
    MAX_DIGITS = 24,
    PLAIN_MIN_EXP = -3, /* outside of these two the text has an exponent */
    PLAIN_MAX_EXP = 6,
    N_WORDS = 36 /* 10 * 2^1076 fits, the largest that the smallest double makes */
};

/* m * 2^e, m > 0 */
typedef struct binary {
    uint64_t m;
    int e;
    int precision; /* bits of a normal number of the type */
} binary_t;

/* d[0].d[1]d[2]... * 10^exp */
typedef struct decimal {
    char d[MAX_DIGITS];
    int n;
    int exp;
} decimal_t;

static int bit_length(uint64_t v) {
    return 64 - __builtin_clzll(v);
}

static void round_up(decimal_t *out) {
    int i = out->n - 1;
    while (i > 0 && out->d[i] == '9') out->d[i--] = '0';
    if (out->d[i] == '9') {
        out->d[i] = '1';
        out->exp++;
    } else {
        out->d[i]++;
    }
}

/* True if the digits end here; then they are rounded. `up` and `even` tell how the rest compares with half a unit. */
static bool finish(decimal_t *out, bool low, bool high, int rest_vs_half) {
    if (!low && !high) return false;
    bool up = high;
    if (low && high) up = rest_vs_half > 0 || (rest_vs_half == 0 && (out->d[out->n - 1] & 1));
    if (up) round_up(out);
    return true;
}

static void whole_number(decimal_t *out, uint64_t v, int bits, int precision) {
    char text[MAX_DIGITS];
    int n = 0;
    int covered = bits - 1 - precision;
    int dropped = covered > 1 ? (covered - 1) * 1233 >> 12 : 0; /* decimal digits in 2^(covered - 1) */
    if (dropped > 0) {
        uint64_t unit = 1;
        for (int i = 0; i < dropped; i++) unit *= 10;
        uint64_t rest = v % unit;
        v = v / unit + (rest >= unit / 2);
    }
    while (v % 10 == 0) {
        v /= 10;
        dropped++;
    }
    for (; v; v /= 10) text[n++] = (char)('0' + v % 10);
    for (int i = 0; i < n; i++) out->d[i] = text[n - 1 - i];
    out->n = n;
    out->exp = n - 1 + dropped;
}

#ifdef __SIZEOF_INT128__
__extension__ typedef unsigned __int128 u128;

enum { MAX_SHIFT = 124 }; /* a rest times ten stays below 2^128 */

/* For numbers with a fraction of at most MAX_SHIFT - 2 bits: fixed point, with two more bits for half of half a
 * distance. */
static void with_fraction(decimal_t *out, binary_t v) {
    int shift = 2 - v.e;
    u128 one = (u128)1 << shift, rest = ((u128)v.m << 2) & (one - 1);
    u128 half = (v.m & (v.m - 1)) ? 2 : 1;
    uint64_t whole = -v.e < 64 ? v.m >> -v.e : 0;
    if (whole)
        whole_number(out, whole, 0, 0);
    else
        out->exp = 0;
    if (whole)
        while (out->n <= out->exp) out->d[out->n++] = '0'; /* digits follow */
    for (int at = -1;; at--) {
        rest *= 10;
        half *= 10;
        int digit = (int)(rest >> shift);
        rest &= one - 1;
        bool low = rest<half, high = rest + half> one;
        if (out->n == 0) {
            if (digit == 0 && !high) continue;
            out->exp = at;
            if (at < PLAIN_MIN_EXP && digit != 0) low = high = false;
        }
        out->d[out->n++] = (char)('0' + digit);
        int cmp = 2 * rest > one ? 1 : 2 * rest == one ? 0 : -1;
        if (finish(out, low, high, cmp) || out->n == MAX_DIGITS) return;
    }
}
#else
enum { MAX_SHIFT = 0 };
static void with_fraction(decimal_t *out, binary_t v) {
    (void)out, (void)v;
}
#endif

/* --- the same with numbers of any size, for what is rare --- */

typedef struct big {
    uint32_t w[N_WORDS]; /* least significant first */
} big_t;

static void big_mul(big_t *a, uint32_t f) {
    uint64_t carry = 0;
    for (int i = 0; i < N_WORDS; i++) {
        carry += (uint64_t)a->w[i] * f;
        a->w[i] = (uint32_t)carry;
        carry >>= 32;
    }
}

static void big_set(big_t *a, uint64_t v, int shift) {
    *a = (big_t){{(uint32_t)v, (uint32_t)(v >> 32)}};
    for (; shift >= 31; shift -= 31) big_mul(a, UINT32_C(1) << 31);
    big_mul(a, UINT32_C(1) << shift);
}

static void big_pow10(big_t *a, int n) {
    for (; n >= 9; n -= 9) big_mul(a, 1000000000);
    for (; n > 0; n--) big_mul(a, 10);
}

static int big_cmp(const big_t *a, const big_t *b) {
    for (int i = N_WORDS - 1; i >= 0; i--)
        if (a->w[i] != b->w[i]) return a->w[i] < b->w[i] ? -1 : 1;
    return 0;
}

static big_t big_add(const big_t *a, const big_t *b) {
    big_t sum = {{0}};
    uint64_t carry = 0;
    for (int i = 0; i < N_WORDS; i++) {
        carry += (uint64_t)a->w[i] + b->w[i];
        sum.w[i] = (uint32_t)carry;
        carry >>= 32;
    }
    return sum;
}

static void big_sub(big_t *a, const big_t *b) {
    uint64_t borrow = 0;
    for (int i = 0; i < N_WORDS; i++) {
        uint64_t d = (uint64_t)a->w[i] - b->w[i] - borrow;
        a->w[i] = (uint32_t)d;
        borrow = d >> 63;
    }
}

/* Java divides by 5^25 where its guess of the exponent is 25; then a * 10 * 5^25 / one is what it has in a signed
 * 64-bit number. True if that overflows. */
static bool java_overflows(const big_t *a, const big_t *one) {
    big_t left = *a, right = *one;
    big_mul(&left, 10);
    big_mul(&left, 244140625);  /* 5^12 */
    big_mul(&left, 1220703125); /* 5^13 */
    big_mul(&right, UINT32_C(1) << 31);
    big_mul(&right, UINT32_C(1) << 31);
    big_mul(&right, 2);
    return big_cmp(&left, &right) >= 0;
}

/* Java begins with this guess, by the tangent of log10 at 1.5. Where it is one too large and the power of ten above is
 * near enough, that power is the text: 9.949E-44f is 1.0E-43. */
static int guess_exp(binary_t v) {
    int exp2 = bit_length(v.m) - 1;
    double mantissa = ldexp((double)v.m, -exp2);
    return (int)floor((mantissa - 1.5) * 0.289529654 + 0.176091259 + (exp2 + v.e) * 0.301029995663981);
}

static void any_number(decimal_t *out, binary_t v) {
    big_t rest, half, one, next;
    int exp2 = bit_length(v.m) - 1 + v.e;
    /* floor(exp2 * log10(2)) is the exponent or one less. */
    int64_t scaled = (int64_t)exp2 * INT64_C(1292913986);
    int exp = (int)(scaled / (INT64_C(1) << 32)) - (scaled % (INT64_C(1) << 32) < 0);
    int up = v.e > 0 ? v.e : 0, down = v.e < 0 ? -v.e : 0;
    big_set(&rest, v.m, 2 + up);
    big_set(&half, (v.m & (v.m - 1)) ? 2 : 1, up);
    big_set(&one, 1, 2 + down);
    if (exp >= 0) {
        big_pow10(&one, exp);
    } else {
        big_pow10(&rest, -exp);
        big_pow10(&half, -exp);
    }
    next = one;
    big_mul(&next, 10);
    if (big_cmp(&rest, &next) >= 0) {
        one = next;
        exp++;
    }
    out->exp = exp;
    int guess = guess_exp(v);
    big_t limit = one, reach = big_add(&rest, &half);
    big_mul(&limit, 10);
    if (guess > exp && big_cmp(&reach, &limit) > 0) {
        out->d[out->n++] = '1';
        out->exp++;
        return;
    }
    bool has_exponent = exp < PLAIN_MIN_EXP || exp > PLAIN_MAX_EXP;
    for (;;) {
        char digit = '0';
        for (; big_cmp(&rest, &one) >= 0; digit++) big_sub(&rest, &one);
        out->d[out->n++] = digit;
        next = big_add(&rest, &half);
        big_t twice = big_add(&rest, &rest);
        bool low = big_cmp(&half, &rest) > 0;
        bool high = big_cmp(&next, &one) > 0;
        if (out->n == 1 && has_exponent) low = high = false;
        if (high && guess == 25 && java_overflows(&next, &one) && !java_overflows(&half, &one)) high = false;
        if (finish(out, low, high, big_cmp(&twice, &one)) || out->n == MAX_DIGITS) return;
        big_mul(&rest, 10);
        big_mul(&half, 10);
    }
}

static void to_decimal(decimal_t *out, binary_t v) {
    int bits = bit_length(v.m) + v.e;
    int zeros = __builtin_ctzll(v.m);
    if (bits <= 63 && zeros + v.e >= 0)
        whole_number(out, v.e >= 0 ? v.m << v.e : v.m >> -v.e, bits, v.precision);
    else if (v.e < 0 && 2 - v.e <= MAX_SHIFT)
        with_fraction(out, v);
    else
        any_number(out, v);
}

static size_t put(char *out, const char *text) {
    size_t n = strlen(text);
    memcpy(out, text, n);
    return n;
}

static size_t print(char *out, bool negative, binary_t v) {
    char *p = out;
    decimal_t x = {0};
    if (negative) *p++ = '-';
    if (v.m == 0) return (size_t)(p - out) + put(p, "0.0");
    to_decimal(&x, v);
    if (x.exp >= 0 && x.exp <= PLAIN_MAX_EXP) {
        for (int i = 0; i <= x.exp; i++) *p++ = i < x.n ? x.d[i] : '0';
        *p++ = '.';
        if (x.n <= x.exp + 1) *p++ = '0';
        for (int i = x.exp + 1; i < x.n; i++) *p++ = x.d[i];
    } else if (x.exp < 0 && x.exp >= PLAIN_MIN_EXP) {
        *p++ = '0';
        *p++ = '.';
        for (int i = -1; i > x.exp; i--) *p++ = '0';
        for (int i = 0; i < x.n; i++) *p++ = x.d[i];
    } else {
        *p++ = x.d[0];
        *p++ = '.';
        if (x.n == 1) *p++ = '0';
        for (int i = 1; i < x.n; i++) *p++ = x.d[i];
        *p++ = 'E';
        int exp = x.exp;
        if (exp < 0) {
            *p++ = '-';
            exp = -exp;
        }
        if (exp >= 100) *p++ = (char)('0' + exp / 100);
        if (exp >= 10) *p++ = (char)('0' + exp / 10 % 10);
        *p++ = (char)('0' + exp % 10);
    }
    return (size_t)(p - out);
}

size_t osync__java_double(char *out, double v) {
    uint64_t bits = 0;
    if (isnan(v)) return put(out, "NaN");
    if (isinf(v)) return put(out, v < 0 ? "-Infinity" : "Infinity");
    memcpy(&bits, &v, sizeof bits);
    int exp = (int)(bits >> 52 & 0x7ff);
    uint64_t m = bits & ((UINT64_C(1) << 52) - 1);
    if (exp) m |= UINT64_C(1) << 52;
    return print(out, bits >> 63, (binary_t){m, (exp ? exp : 1) - 1075, 53});
}

size_t osync__java_float(char *out, float v) {
    uint32_t bits = 0;
    if (isnan(v)) return put(out, "NaN");
    if (isinf(v)) return put(out, v < 0 ? "-Infinity" : "Infinity");
    memcpy(&bits, &v, sizeof bits);
    int exp = (int)(bits >> 23 & 0xff);
    uint32_t m = bits & ((UINT32_C(1) << 23) - 1);
    if (exp) m |= UINT32_C(1) << 23;
    return print(out, bits >> 31, (binary_t){m, (exp ? exp : 1) - 150, 24});
}

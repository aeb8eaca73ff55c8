/*
** The strict JSON scanner of json_scan.h: a loop over "what does the grammar want here", with one
** small function per answer and a stack of one bool per open container.
**
** Its speed is the price of strictness on every decode, so strings, where most bytes are, go eight
** bytes a step.
*/
#include "bind/json_scan.h"

#include <string.h>

enum { WANT_VALUE, WANT_FIRST_KEY, WANT_KEY, WANT_MORE, IN_STRING, IN_KEY };

/* A macro's value as text. */
#define NUMBER_TEXT(macro) NUMBER_TEXT_(macro)
#define NUMBER_TEXT_(digits) #digits

enum step { STEP_ON, STEP_STOP };

/* A double holds every integer of 15 digits. */
#define EXACT_DIGITS_MAX 15
/* Below this decimal exponent no number can leave the range of a double (1.8e308). */
#define SAFE_EXPONENT 300

void json_scan_init(struct json_scan *s, const char *text, size_t n) {
  s->at = (const unsigned char *)text;
  s->end = s->at + n;
  s->piece = NULL;
  s->wrong = NULL;
  s->kind = JSON_PIECE_EMPTY_ARRAY;
  s->state = WANT_VALUE;
  s->depth = 0;
  s->numbers = s->fractions = s->arrays = false;
}

static enum step wrong(struct json_scan *s, const unsigned char *at, const char *what) {
  s->at = at;
  s->wrong = what;
  return STEP_STOP;
}

static enum step piece(struct json_scan *s, const unsigned char *from, enum json_piece kind) {
  s->piece = from;
  s->kind = kind;
  return STEP_STOP;
}

static inline const unsigned char *skip_blanks(const unsigned char *p) {
  while (*p <= ' ' && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t')) p++;
  return p;
}

static inline bool is_digit(unsigned char c) {
  return c >= '0' && c <= '9';
}

/* Which of eight bytes end a plain run: their high bits are set. Behind the first such byte the
** borrow may set others wrongly, before it never. */
static inline uint64_t special_bytes(const unsigned char *p) {
  const uint64_t ones = 0x0101010101010101u, highs = 0x8080808080808080u;
  uint64_t w, quote, slash;
  memcpy(&w, p, 8);
  quote = w ^ (ones * '"');
  slash = w ^ (ones * '\\');
  return (((quote - ones) & ~quote) | ((slash - ones) & ~slash) | ((w - ones * ' ') & ~w)) & highs;
}

static inline const unsigned char *plain_end(const unsigned char *p, const unsigned char *end) {
  while (end - p >= 8) {
    uint64_t hit = special_bytes(p);
    if (hit != 0) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
      return p + __builtin_ctzll(hit) / 8;
#else
      break;
#endif
    }
    p += 8;
  }
  while (p < end && *p != '"' && *p != '\\' && *p >= ' ') p++;
  return p;
}

const unsigned char *json_plain_end(const unsigned char *p, const unsigned char *end) {
  return plain_end(p, end);
}

/* Value of four hex digits, or -1. Stops at the first byte that is none: never passes the NUL. */
static int hex4(const unsigned char *p) {
  int value = 0;
  for (int i = 0; i < 4; i++) {
    unsigned char c = p[i];
    int digit = is_digit(c)            ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

/* `p` is at a backslash. Leaves s->at behind the escape. */
static enum step escape(struct json_scan *s, const unsigned char *p) {
  int unit, low;
  switch (p[1]) {
  case '"':
  case '\\':
  case '/':
  case 'b':
  case 'f':
  case 'n':
  case 'r':
  case 't':
    s->at = p + 2;
    return STEP_ON;
  case 'u':
    break;
  default:
    if (p + 1 == s->end) return wrong(s, p + 1, "a string without its closing quote");
    return wrong(s, p, "an escape that JSON does not have");
  }
  unit = hex4(p + 2);
  if (unit < 0) return wrong(s, p, "\\u without four hex digits");
  s->at = p + 6;
  if (unit < 0xd800 || unit > 0xdfff) return STEP_ON;
  if (unit < 0xdc00 && p[6] == '\\' && p[7] == 'u') {
    low = hex4(p + 8);
    if (low >= 0xdc00 && low <= 0xdfff) {
      s->at = p + 12;
      return STEP_ON;
    }
  }
  return piece(s, p, JSON_PIECE_LONE_SURROGATE);
}

static enum step colon(struct json_scan *s) {
  const unsigned char *p = skip_blanks(s->at);
  if (*p != ':') return wrong(s, p, "expected ':' after the key");
  s->at = p + 1;
  s->state = WANT_VALUE;
  return STEP_ON;
}

/* Inside a string or a key, behind its opening quote or behind a piece of it. */
static enum step string_rest(struct json_scan *s) {
  for (;;) {
    const unsigned char *p = plain_end(s->at, s->end);
    if (*p == '"') {
      s->at = p + 1;
      if (s->state == IN_KEY) return colon(s);
      s->state = WANT_MORE;
      return STEP_ON;
    }
    if (p == s->end) return wrong(s, p, "a string without its closing quote");
    if (*p != '\\') return wrong(s, p, "a control character in a string (it must be escaped)");
    if (escape(s, p) == STEP_STOP) return STEP_STOP;
  }
}

/* Behind the integer digits of a number. */
static enum step number_tail(struct json_scan *s, const unsigned char *start,
                             const unsigned char *p, long digits) {
  long exponent = 0;
  bool whole = true, down = false;
  if (*p == '.') {
    whole = false;
    s->fractions = true;
    if (!is_digit(*++p)) return wrong(s, p, "expected a digit after the decimal point");
    while (is_digit(*p)) p++;
  }
  if (*p == 'e' || *p == 'E') {
    whole = false;
    p++;
    if (*p == '+' || *p == '-') down = *p++ == '-';
    if (!is_digit(*p)) return wrong(s, p, "expected a digit in the exponent");
    for (; is_digit(*p); p++) {
      if (exponent < 10000) exponent = exponent * 10 + (*p - '0');
    }
  }
  s->at = p;
  s->state = WANT_MORE;
  s->numbers = true;
  if (digits + (down ? 0 : exponent) > SAFE_EXPONENT)
    return piece(s, start, JSON_PIECE_HUGE_NUMBER);
  if (whole && digits > EXACT_DIGITS_MAX) return piece(s, start, JSON_PIECE_LONG_NUMBER);
  return STEP_ON;
}

static enum step number(struct json_scan *s, const unsigned char *start) {
  const unsigned char *p = start, *first;
  if (*p == '-') p++;
  first = p;
  if (!is_digit(*p)) return wrong(s, p, "expected a digit after the minus sign");
  if (*p == '0') {
    p++;
    if (is_digit(*p)) return wrong(s, first, "a number with a leading zero");
    if (*p == 'x' || *p == 'X') return wrong(s, first, "a hexadecimal number (JSON has none)");
  } else {
    while (is_digit(*p)) p++;
  }
  return number_tail(s, start, p, p - first);
}

/* Something that no value starts with: name the mistakes people and servers make. */
static enum step not_a_value(struct json_scan *s, const unsigned char *p) {
  if (p == s->end) return wrong(s, p, "expected a value");
  switch (*p) {
  case 'N':
  case 'I':
  case 'i':
  case '+':
  case '.':
    return wrong(s, p, "expected a value (JSON has no NaN, Infinity, +1 or .5)");
  case '/':
  case '#':
    return wrong(s, p, "expected a value (JSON has no comments)");
  case '\'':
    return wrong(s, p, "expected a value (JSON strings take double quotes)");
  case '<':
    return wrong(s, p, "expected a value (this looks like HTML or XML)");
  case ']':
  case '}':
    return wrong(s, p, "expected a value before the closing bracket");
  default:
    return wrong(s, p, "expected a value");
  }
}

static enum step word(struct json_scan *s, const unsigned char *p, const char *text, size_t n) {
  if ((size_t)(s->end - p) < n || memcmp(p, text, n) != 0) return not_a_value(s, p);
  s->at = p + n;
  s->state = WANT_MORE;
  return STEP_ON;
}

static enum step open_container(struct json_scan *s, const unsigned char *p, bool object) {
  const unsigned char *inside = skip_blanks(p + 1);
  if (s->depth == JSON_DEPTH_MAX)
    return wrong(s, p, "nested deeper than " NUMBER_TEXT(JSON_DEPTH_MAX) " levels");
  s->at = inside;
  if (!object && *inside == ']') {
    s->at = inside + 1;
    s->state = WANT_MORE;
    return piece(s, p, JSON_PIECE_EMPTY_ARRAY);
  }
  s->in_object[s->depth++] = object;
  if (!object) s->arrays = true;
  s->state = object ? WANT_FIRST_KEY : WANT_VALUE;
  return STEP_ON;
}

static enum step value(struct json_scan *s) {
  const unsigned char *p = skip_blanks(s->at);
  switch (*p) {
  case '"':
    s->at = p + 1;
    s->state = IN_STRING;
    return string_rest(s);
  case '{':
    return open_container(s, p, true);
  case '[':
    return open_container(s, p, false);
  case 't':
    return word(s, p, "true", 4);
  case 'f':
    return word(s, p, "false", 5);
  case 'n':
    return word(s, p, "null", 4);
  default:
    return *p == '-' || is_digit(*p) ? number(s, p) : not_a_value(s, p);
  }
}

static enum step key(struct json_scan *s, bool first) {
  const unsigned char *p = skip_blanks(s->at);
  if (*p == '"') {
    s->at = p + 1;
    s->state = IN_KEY;
    return string_rest(s);
  }
  if (*p == '}' && first) {
    s->at = p + 1;
    s->depth--;
    s->state = WANT_MORE;
    return STEP_ON;
  }
  return wrong(
      s, p, first ? "expected a key in double quotes, or '}'" : "expected a key in double quotes");
}

/* Behind a value: a comma, the end of its container, or the end of the text. */
static enum step more(struct json_scan *s) {
  const unsigned char *p = skip_blanks(s->at);
  bool object;
  s->at = p;
  if (s->depth == 0) {
    return p == s->end ? STEP_STOP : wrong(s, p, "expected nothing more after the value");
  }
  object = s->in_object[s->depth - 1];
  if (*p == ',') {
    s->at = p + 1;
    s->state = object ? WANT_KEY : WANT_VALUE;
    return STEP_ON;
  }
  if (*p == (object ? '}' : ']')) {
    s->at = p + 1;
    s->depth--;
    return STEP_ON;
  }
  return wrong(s, p, object ? "expected ',' or '}'" : "expected ',' or ']'");
}

static enum step advance(struct json_scan *s) {
  switch (s->state) {
  case WANT_VALUE:
    return value(s);
  case WANT_FIRST_KEY:
    return key(s, true);
  case WANT_KEY:
    return key(s, false);
  case WANT_MORE:
    return more(s);
  default:
    return string_rest(s);
  }
}

enum json_scan_event json_scan_next(struct json_scan *s) {
  s->piece = NULL;
  while (advance(s) == STEP_ON) {
  }
  if (s->wrong != NULL) return JSON_SCAN_WRONG;
  return s->piece != NULL ? JSON_SCAN_PIECE : JSON_SCAN_END;
}

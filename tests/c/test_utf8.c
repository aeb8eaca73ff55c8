/* base/utf8: against the standard's table, every two- and three-byte input, and the known examples.
 */
#include <stdint.h>

#include "base/utf8.h"

#include "check.h"

/* The longest valid prefix the slow and obvious way: encode each scalar value and compare. */
static size_t one(const unsigned char *s, size_t n) {
  uint32_t c;
  size_t len;
  if (n == 0) return 0;
  if (s[0] < 0x80) return 1;
  if ((s[0] & 0xE0) == 0xC0)
    len = 2, c = s[0] & 0x1Fu;
  else if ((s[0] & 0xF0) == 0xE0)
    len = 3, c = s[0] & 0x0Fu;
  else if ((s[0] & 0xF8) == 0xF0)
    len = 4, c = s[0] & 0x07u;
  else
    return 0;
  if (n < len) return 0;
  for (size_t i = 1; i < len; i++) {
    if ((s[i] & 0xC0) != 0x80) return 0;
    c = c << 6 | (s[i] & 0x3Fu);
  }
  static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  if (c < least[len] || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) return 0;
  return len;
}

static size_t prefix(const unsigned char *s, size_t n) {
  size_t i = 0, len;
  while (i < n && (len = one(s + i, n - i)) > 0) i += len;
  return i;
}

static void every_short_input(void) {
  check_case("every input of up to three bytes, at the start and behind ASCII");
  bool same = true;
  unsigned char s[32];
  for (unsigned lead = 0; lead < 8 && same; lead += 6) { /* 0, and 6: over a word border */
    memset(s, 'a', sizeof s);
    for (uint32_t v = 0; v < 1u << 24 && same; v++) {
      s[lead] = (unsigned char)(v >> 16);
      s[lead + 1] = (unsigned char)(v >> 8);
      s[lead + 2] = (unsigned char)v;
      if (s[lead] < 0x80 && v % 97 != 0) continue; /* these repeat the shorter inputs */
      for (size_t n = lead + 1; n <= lead + 3; n++) {
        same = same && utf8_valid_prefix((char *)s, n) == prefix(s, n);
      }
    }
  }
  CHECK(same);
}

static void four_bytes(void) {
  check_case("the borders of the four-byte forms");
  static const struct {
    const char *s;
    size_t good;
  } rows[] = {
      {"\xF0\x8F\xBF\xBF", 0}, {"\xF0\x90\x80\x80", 4}, {"\xF0\xBF\xBF\xBF", 4},
      {"\xF1\x80\x80\x80", 4}, {"\xF3\xBF\xBF\xBF", 4}, {"\xF4\x8F\xBF\xBF", 4},
      {"\xF4\x90\x80\x80", 0}, {"\xF5\x80\x80\x80", 0}, {"\xF0\x90\x80\x7F", 0},
      {"\xF0\x90\x7F\x80", 0}, {"\xF8\x88\x80\x80", 0}, {"\xFF\xFE\xFD\xFC", 0},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    CHECK_INT(utf8_valid_prefix(rows[i].s, 4), rows[i].good);
    CHECK_INT(utf8_sequence(rows[i].s, 4), rows[i].good);
    CHECK_INT(utf8_sequence(rows[i].s, 3), 0);
  }
  CHECK_INT(utf8_sequence("", 0), 0);
  CHECK_INT(utf8_sequence("a", 1), 1);
}

static void every_place(void) {
  check_case("a bad byte is found wherever it stands, in inputs of every length to 100");
  char s[100];
  bool right = true;
  for (size_t n = 1; n <= sizeof s; n++) {
    for (size_t at = 0; at < n; at++) {
      memset(s, 'x', sizeof s);
      s[at] = '\x80';
      right = right && utf8_valid_prefix(s, n) == at;
      s[at] = 'x';
      right = right && utf8_valid_prefix(s, n) == n;
      if (at + 2 < n) {
        memcpy(s + at, "\xE4\xBD\xA0", 3); /* 你 */
        right = right && utf8_valid_prefix(s, n) == n;
      }
    }
  }
  CHECK(right);
}

struct repair {
  const char *name, *in;
  size_t len;
  const char *out;
};
#define R "\xEF\xBF\xBD"
#define ROW(name, in, out)                                                                         \
  { name, in, sizeof(in) - 1, out }

static const struct repair repairs[] = {
    ROW("repair: nothing to do", "plain \xE4\xBD\xA0", "plain \xE4\xBD\xA0"),
    ROW("repair: empty", "", ""),
    /* Unicode 15, table 3-8 */
    ROW("repair: non-shortest forms, three U+FFFD each", "\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41",
        R R R R R R R R "A"),
    /* table 3-9 */
    ROW("repair: surrogates", "\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", R R R R R R R R "A"),
    /* table 3-10 */
    ROW("repair: other ill-formed sequences", "\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42",
        R R R R R "A" R R "B"),
    /* table 3-11 */
    ROW("repair: truncated sequences are one U+FFFD each", "\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41",
        R R R R "A"),
    ROW("repair: cut at the end", "abc\xF0\x9F\x98", "abc" R),
    ROW("repair: a lone tail byte", "\x80", R),
};

static void repairing(void) {
  for (size_t i = 0; i < sizeof repairs / sizeof *repairs; i++) {
    const struct repair *r = &repairs[i];
    struct buf out;
    check_case(r->name);
    buf_init(&out, 1000);
    buf_append_str(&out, "<");
    CHECK_INT(utf8_repair(r->in, r->len, &out), BUF_OK);
    CHECK_BYTES(out.data + 1, out.len - 1, r->out, strlen(r->out));
    CHECK_INT(utf8_valid_prefix(out.data, out.len), out.len);
    buf_free(&out);
  }
  check_case("repair: no room leaves the buffer as it was");
  struct buf out;
  buf_init(&out, 8);
  buf_append_str(&out, "12");
  CHECK_INT(utf8_repair("abc\xFF\xFF", 5, &out), BUF_FULL);
  CHECK_TEXT(out.data, out.len, "12");
  buf_free(&out);
}

int main(void) {
  every_short_input();
  four_bytes();
  every_place();
  repairing();
  return check_done();
}

/*
** The JSON grammar the slow and obvious way, one byte at a time: what base/scan is held against.
** RFC 8259 with strings in valid UTF-8 and the depth limit; nothing is shared with the real one.
*/
#ifndef SLUICE_TESTS_JSON_REFERENCE_H
#define SLUICE_TESTS_JSON_REFERENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define REFERENCE_DEPTH 128

struct reference {
  const unsigned char *s;
  size_t n, at;
  int depth;
};

static int ref_byte(const struct reference *r, size_t ahead) {
  return r->at + ahead < r->n ? r->s[r->at + ahead] : -1;
}

static void ref_space(struct reference *r) {
  for (;;) {
    int c = ref_byte(r, 0);
    if (c != ' ' && c != '\t' && c != '\n' && c != '\r') return;
    r->at++;
  }
}

static bool ref_word(struct reference *r, const char *word) {
  for (size_t i = 0; word[i] != '\0'; i++) {
    if (ref_byte(r, i) != word[i]) return false;
  }
  r->at += strlen(word);
  return true;
}

static bool ref_is_hex(int c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool ref_is_digit(int c) {
  return c >= '0' && c <= '9';
}

/* One character of a string that is not ASCII: decode it and look at the number. */
static bool ref_character(struct reference *r) {
  static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  int lead = ref_byte(r, 0);
  size_t len = (lead & 0xE0) == 0xC0   ? 2
               : (lead & 0xF0) == 0xE0 ? 3
               : (lead & 0xF8) == 0xF0 ? 4
                                       : 0;
  if (len == 0) return false;
  uint32_t c = (uint32_t)lead & (0xFFu >> (len + 1));
  for (size_t i = 1; i < len; i++) {
    int b = ref_byte(r, i);
    if (b < 0 || (b & 0xC0) != 0x80) return false;
    c = c << 6 | ((uint32_t)b & 0x3F);
  }
  if (c < least[len] || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) return false;
  r->at += len;
  return true;
}

static bool ref_string(struct reference *r) {
  if (ref_byte(r, 0) != '"') return false;
  r->at++;
  for (;;) {
    int c = ref_byte(r, 0);
    if (c < 0x20) return false; /* the end, too */
    if (c == '"') {
      r->at++;
      return true;
    }
    if (c == '\\') {
      int e = ref_byte(r, 1);
      if (e == 'u') {
        for (size_t i = 2; i < 6; i++) {
          if (!ref_is_hex(ref_byte(r, i))) return false;
        }
        r->at += 6;
      } else if (e > 0 && strchr("\"\\/bfnrt", e) != NULL) {
        r->at += 2;
      } else {
        return false;
      }
    } else if (c < 0x80) {
      r->at++;
    } else if (!ref_character(r)) {
      return false;
    }
  }
}

static bool ref_number(struct reference *r) {
  if (ref_byte(r, 0) == '-') r->at++;
  if (!ref_is_digit(ref_byte(r, 0))) return false;
  if (ref_byte(r, 0) == '0')
    r->at++;
  else
    while (ref_is_digit(ref_byte(r, 0))) r->at++;
  if (ref_byte(r, 0) == '.') {
    r->at++;
    if (!ref_is_digit(ref_byte(r, 0))) return false;
    while (ref_is_digit(ref_byte(r, 0))) r->at++;
  }
  if (ref_byte(r, 0) == 'e' || ref_byte(r, 0) == 'E') {
    r->at++;
    if (ref_byte(r, 0) == '+' || ref_byte(r, 0) == '-') r->at++;
    if (!ref_is_digit(ref_byte(r, 0))) return false;
    while (ref_is_digit(ref_byte(r, 0))) r->at++;
  }
  return true;
}

static bool ref_value(struct reference *r) {
  int c = ref_byte(r, 0);
  if (c == '"') return ref_string(r);
  if (c == 't') return ref_word(r, "true");
  if (c == 'f') return ref_word(r, "false");
  if (c == 'n') return ref_word(r, "null");
  if (c != '{' && c != '[') return ref_number(r);
  if (r->depth++ == REFERENCE_DEPTH) return false;
  int closing = c == '{' ? '}' : ']';
  r->at++;
  ref_space(r);
  if (ref_byte(r, 0) == closing) {
    r->at++;
    r->depth--;
    return true;
  }
  for (;;) {
    ref_space(r);
    if (closing == '}') {
      if (!ref_string(r)) return false;
      ref_space(r);
      if (ref_byte(r, 0) != ':') return false;
      r->at++;
      ref_space(r);
    }
    if (!ref_value(r)) return false;
    ref_space(r);
    c = ref_byte(r, 0);
    r->at++;
    if (c == closing) {
      r->depth--;
      return true;
    }
    if (c != ',') return false;
  }
}

static bool reference_is_json(const char *s, size_t n) {
  struct reference r = {(const unsigned char *)s, n, 0, 0};
  ref_space(&r);
  if (!ref_value(&r)) return false;
  ref_space(&r);
  return r.at == r.n;
}

#endif

/*
** Redaction: a known secret, in a form that one of the rules is for, is set into the middle of any
** text and must not come out; valid UTF-8 stays valid; a text without anything that looks like a
** credential would stay as it is, which the unit tests show.
**
** Input: one byte that chooses the form, one for where to put it, then the text.
*/
#include "base/redact.h"
#include "base/utf8.h"

#include "fuzz.h"

static const char secret[] = "CANARY0123456789abcdefghij";

static const struct {
  const char *before, *after;
} forms[] = {
    {"&api_key=", ""},
    {"?password=", "&a=b"},
    {" Bearer ", ""},
    {" sk-", " "},
    {"\n{\"token\":\"", "\"}"},
    {" https://u:", "@h/"},
    {"\nAuthorization: ", "\n"},
    {"\nX-Api-Key: Basic ", "\r\n"},
    {" client_secret = ", ""},
};

static size_t with_secret(const uint8_t *data, size_t size, char *to) {
  const char *text = (const char *)data + 2;
  size_t n = size - 2, at = n == 0 ? 0 : data[1] * n / 255, len = 0;
  size_t form = data[0] % (sizeof forms / sizeof *forms);
  memcpy(to, text, at);
  len = at;
  memcpy(to + len, forms[form].before, strlen(forms[form].before));
  len += strlen(forms[form].before);
  memcpy(to + len, secret, sizeof secret - 1);
  len += sizeof secret - 1;
  memcpy(to + len, forms[form].after, strlen(forms[form].after));
  len += strlen(forms[form].after);
  memcpy(to + len, text + at, n - at);
  return len + n - at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2 || memmem(data, size, secret, 8) != NULL) return 0; /* it may quote it freely */
  char *made = malloc(size + 128);
  REQUIRE(made != NULL);
  size_t n = with_secret(data, size, made);
  char *s = fuzz_copy(made, n);
  free(made);
  bool text = utf8_valid_prefix(s, n) == n;
  struct buf out;
  buf_init(&out, SIZE_MAX);
  REQUIRE(redact_text(s, n, &out) == BUF_OK);
  REQUIRE(memmem(out.data, out.len, secret, sizeof secret - 1) == NULL);
  if (text) REQUIRE(utf8_valid_prefix(out.data, out.len) == out.len);
  out.len = 0;
  REQUIRE(redact_header_line(s, n, &out) == BUF_OK);
  REQUIRE(memmem(out.data, out.len, secret, sizeof secret - 1) == NULL);
  if (text) REQUIRE(utf8_valid_prefix(out.data, out.len) == out.len);
  buf_free(&out);
  free(s);
  return 0;
}

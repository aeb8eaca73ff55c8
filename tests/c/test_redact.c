/*
** base/redact: credentials in the places where they turn up, and harmless text that must stay. Then
** two properties over all rows: what is redacted twice is redacted as once, and a known secret set
** into any row's text between any two characters does not come out.
*/
#include <stdlib.h>

#include "base/redact.h"
#include "base/utf8.h"

#include "check.h"

struct row {
  const char *name, *in, *out; /* out NULL: as it is */
};

/* clang-format off */
#define R REDACTED

static const struct row headers[] = {
    {"authorization", "Authorization: Bearer abc", "Authorization: " R},
    {"authorization, any case, no space", "aUTHORIZATION:Basic dTpw", "aUTHORIZATION:" R},
    {"line end kept", "X-Api-Key: abc\r\n", "X-Api-Key: " R "\r\n"},
    {"proxy-authorization", "Proxy-Authorization: Basic x", "Proxy-Authorization: " R},
    {"api-key", "api-key: 0123", "api-key: " R},
    {"cookie", "Cookie: a=b; c=d", "Cookie: " R},
    {"set-cookie", "Set-Cookie: sid=1; Path=/; HttpOnly", "Set-Cookie: " R},
    {"vault", "X-Vault-Token: hvs.x", "X-Vault-Token: " R},
    {"auth token", "X-Auth-Token: x", "X-Auth-Token: " R},
    {"any name with secret", "X-My-Secret-Thing: x y z", "X-My-Secret-Thing: " R},
    {"any name with password", "X-Password-Hash: x", "X-Password-Hash: " R},
    {"any name with key", "Ocp-Apim-Subscription-Key: x", "Ocp-Apim-Subscription-Key: " R},
    {"folded onto a second line", "Authorization: Bearer\r\n  abc\r\nHost: x\r\n",
     "Authorization: " R "\r\n  " R "\r\nHost: x\r\n"},
    {"a block of headers", "POST /v1?api_key=k1 HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer abc\r\nAccept: */*\r\n\r\n",
     "POST /v1?api_key=" R " HTTP/1.1\r\nHost: h\r\nAuthorization: " R "\r\nAccept: */*\r\n\r\n"},
    {"no value", "Authorization:\r\n", NULL},
    {"a location with a key", "Location: https://u:p@h/x?token=t1&a=b", "Location: https://" R "@h/x?token=" R "&a=b"},
    {"http/2 path", ":path: /v1/models?key=AIzaSy", ":path: /v1/models?key=" R},
    {"status line", "HTTP/1.1 401 Unauthorized\r\n", NULL},
    {"harmless", "Content-Type: application/json; charset=utf-8", NULL},
    {"challenge", "WWW-Authenticate: Bearer realm=\"x\", error=\"invalid_token\"", NULL},
    {"rate limits are numbers", "x-ratelimit-remaining-tokens: 149984", NULL},
    {"anthropic rate limits", "anthropic-ratelimit-input-tokens-reset: 2026-11-22T10:00:00Z", NULL},
    {"request id", "x-request-id: req_011CSHoEeqs5C35K2UUqR7Fy", NULL},
    {"words before a colon are no name", "X- client_secret = abc-Token: x", "X- client_secret = " R " x"},
    {"no colon", "just words", NULL},
    {"empty", "", NULL},
};

static const struct row texts[] = {
    /* URLs */
    {"url: user and password", "connect to https://user:pa:ss@host:8080/x failed", "connect to https://" R "@host:8080/x failed"},
    {"url: user alone", "redis://default@h", "redis://" R "@h"},
    {"url: an @ in the password", "ftp://u:p@ss@h/", "ftp://" R "@h/"},
    {"url: an @ in the path", "https://h/@user/x", NULL},
    {"url: an @ in the query", "https://h?x=a@b", NULL},
    {"url: as JSON may write it", "https:\\/\\/u:p@h\\/x", "https:\\/\\/" R "@h\\/x"},
    {"url: in quotes", "\"http://u:p@h\"", "\"http://" R "@h\""},
    {"query: first, middle, last", "/p?key=k1&b=2&api_key=k2&c=3&access_token=k3",
     "/p?key=" R "&b=2&api_key=" R "&c=3&access_token=" R},
    {"query: signed", "?X-Amz-Signature=ab12&X-Amz-Date=2026&sig=%2Bx%3D&signature=q",
     "?X-Amz-Signature=" R "&X-Amz-Date=2026&sig=" R "&signature=" R},
    {"query: a fragment goes too", "?token=t#frag rest", "?token=" R " rest"},
    {"query: empty value", "?token=&a=1", NULL},
    {"query: upper case", "?API_KEY=x", "?API_KEY=" R},
    {"query: camel case", "?apiKey=x&accessToken=y", "?apiKey=" R "&accessToken=" R},
    {"query: encoded within another", "?next=https%3A%2F%2Fh%3Ftoken%3Dabc%26a%3Db&c=d",
     "?next=https%3A%2F%2Fh%3Ftoken%3D" R "%26a%3Db&c=d"},
    {"form", "grant_type=client_credentials&client_id=me&client_secret=s%2Fx&scope=a", 
     "grant_type=client_credentials&client_id=me&client_secret=" R "&scope=a"},
    {"form: password", "username=u&password=p w", "username=u&password=" R " w"},
    {"assignment", "API_KEY=abc123 sluice run x.lua", "API_KEY=" R " sluice run x.lua"},
    {"assignment with a prefix", "export SILICONFLOW_API_KEY=abc", "export SILICONFLOW_API_KEY=" R},
    {"assignment in quotes", "password = \"a b c\", x = 1", "password = \"" R "\", x = 1"},
    {"assignment of a scheme", "authorization=Bearer abc", "authorization=Bearer " R},
    {"option", "curl --api-key=abc", "curl --api-key=" R},
    {"comparison", "if token == 'abc' then", "if token == '" R "' then"},
    {"lua table", "{ [\"x-api-key\"] = \"abc\" }", "{ [\"x-api-key\"] = \"" R "\" }"},

    /* JSON */
    {"json", "{\"api_key\":\"abc\",\"model\":\"m\"}", "{\"api_key\":\"" R "\",\"model\":\"m\"}"},
    {"json: white space", "{ \"client_secret\" :\n  \"abc\" }", "{ \"client_secret\" :\n  \"" R "\" }"},
    {"json: escaped quote in the value", "{\"password\":\"a\\\"b\",\"x\":1}", "{\"password\":\"" R "\",\"x\":1}"},
    {"json: backslash at the end of the value", "{\"password\":\"a\\\\\",\"x\":1}", "{\"password\":\"" R "\",\"x\":1}"},
    {"json: within JSON", "{\"body\":\"{\\\"token\\\":\\\"abc\\\",\\\"n\\\":1}\"}",
     "{\"body\":\"{\\\"token\\\":\\\"" R "\\\",\\\"n\\\":1}\"}"},
    {"json: within JSON, an escaped quote in the value", "\\\"token\\\":\\\"a\\\\\\\"b\\\",\\\"n\\\"",
     "\\\"token\\\":\\\"" R "\\\",\\\"n\\\""},
    {"json: cut off", "{\"access_token\":\"abc def", "{\"access_token\":\"" R},
    {"json: a number", "{\"password\": 123456}", "{\"password\": " R},
    {"json: null", "{\"token\":null,\"key\":true,\"secret\":{}}", NULL},
    {"json: empty", "{\"token\":\"\"}", NULL},
    {"json: authorization", "{\"Authorization\":\"Bearer abc\"}", "{\"Authorization\":\"" R "\"}"},
    {"python repr", "{'api_key': 'abc', 'a': 'b'}", "{'api_key': '" R "', 'a': 'b'}"},
    {"token counts stay", "{\"prompt_tokens\":12,\"max_tokens\":\"100\",\"total_tokens\":3}", NULL},

    /* schemes and headers within a text */
    {"bearer", "sent Bearer abc.def-ghi, got 401", "sent Bearer " R " got 401"},
    {"basic", "sent basic dXNlcjpwYXNz", "sent basic " R},
    {"bearer, encoded blank", "auth=Bearer%20abc", "auth=Bearer%20" R},
    {"bearer in prose", "Invalid bearer token provided", NULL},
    {"basic in prose", "use Basic authentication, please", NULL},
    {"bearer at the end", "the scheme is Bearer", NULL},
    {"challenge", "Bearer realm=\"api\"", NULL},
    {"a name where a credential might be", "basic  client_secret = abc", "basic  " R " = " R},
    {"names in a chain", "key = token = abc", "key = " R " = " R},
    {"bearer token, with one", "bearer token 0123abcd rejected", "bearer token " R " rejected"},
    {"header in a text", "> authorization: Token abc\n> accept: x", "> authorization: " R "\n> accept: x"},
    {"header in quotes", "curl -H 'X-Api-Key: abc' https://h", "curl -H 'X-Api-Key: " R},
    {"password in a text", "password: hunter2", "password: " R},
    {"prose with a colon", "unexpected token: foo; the key: bar", NULL},

    /* keys that show themselves */
    {"sk-", "Incorrect API key provided: sk-proj-ab12_CD***xyz9. See h", "Incorrect API key provided: sk-" R ". See h"},
    {"sk-, short with a digit", "sk-a1", "sk-" R},
    {"sk- within a word", "risk-free task-force sk-learn", NULL},
    {"sk-ant", "key is sk-ant-api03-abcdef", "key is sk-" R},
    {"jwt", "got eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "got eyJ" R},
    {"vault token", "token hvs.CAESIJlKmnopqrstuvwx found", "token hvs." R " found"},
    {"google key", "AIzaSyA-1234567890abcdefghijklmn", "AIza" R},

    /* nothing to do */
    {"plain", "the model took 5.2 s; retry in 10 s", NULL},
    {"not ASCII", "密钥 token 错误 \xE2\x80\xA6", NULL},
    {"names without values", "key, token and secret; api_key?", NULL},
    {"monkey", "monkey=1 keyboard=2 keys=3 tokenizer=4", NULL},
    {"empty", "", NULL},
};
/* clang-format on */

typedef enum buf_status redact(const char *s, size_t n, struct buf *out);

static void table(redact *f, const struct row *rows, size_t count) {
  for (size_t i = 0; i < count; i++) {
    const struct row *row = &rows[i];
    const char *want = row->out != NULL ? row->out : row->in;
    size_t n = strlen(row->in);
    struct buf out, again;
    check_case(row->name);
    char *copy = malloc(n > 0 ? n : 1);
    memcpy(copy, row->in, n);
    buf_init(&out, 1 << 16);
    buf_append_str(&out, "<");
    CHECK_INT(f(copy, n, &out), BUF_OK);
    CHECK_BYTES(out.data + 1, out.len - 1, want, strlen(want));
    buf_init(&again, 1 << 16);
    CHECK_INT(f(want, strlen(want), &again), BUF_OK);
    CHECK_BYTES(again.data, again.len, want, strlen(want));
    free(copy);
    buf_free(&out);
    buf_free(&again);
  }
}

/* Every way a secret is known to turn up, set between any two characters of every row. */
static void canary(void) {
  static const struct {
    const char *name, *form;
  } forms[] = {
      {"canary: query", "&api_key=%s"},
      {"canary: bearer", " Bearer %s"},
      {"canary: json", "\n{\"token\":\"%s\"}"},
      {"canary: json within json", "\n{\\\"secret\\\": \\\"%s\\\"}"},
      {"canary: key", " sk-%s"},
      {"canary: url", " https://u:%s@h/"},
      {"canary: header", "\nAuthorization: %s\n"},
      {"canary: key header", "\nX-Api-Key: %s\n"},
      {"canary: first in the query", "?password=%s"},
      {"canary: encoded query", "%%26client_secret%%3D%s"},
  };
  static const char secret[] = "CANARY0123456789abcdefghij";
  for (size_t f = 0; f < sizeof forms / sizeof *forms; f++) {
    check_case(forms[f].name);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
      size_t n = strlen(texts[i].in);
      for (size_t at = 0; at <= n; at++) {
        char s[1024];
        int len = snprintf(s, sizeof s, "%.*s", (int)at, texts[i].in);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        len += snprintf(s + len, sizeof s - (size_t)len, forms[f].form, secret);
#pragma GCC diagnostic pop
        len += snprintf(s + len, sizeof s - (size_t)len, "%s", texts[i].in + at);
        struct buf out;
        buf_init(&out, 1 << 16);
        CHECK_INT(redact_text(s, (size_t)len, &out), BUF_OK);
        check_that(memmem(out.data, out.len, secret, sizeof secret - 1) == NULL,
                   "comes out of %.*s", len, s);
        check_that(utf8_valid_prefix(s, (size_t)len) != (size_t)len ||
                       utf8_valid_prefix(out.data, out.len) == out.len,
                   "breaks the UTF-8 of %.*s", len, s);
        buf_free(&out);
      }
    }
  }
}

static void rooms(void) {
  check_case("no room leaves the buffer as it was");
  struct buf out;
  buf_init(&out, 12);
  buf_append_str(&out, "12");
  CHECK_INT(redact_text("some words and a token=x", 24, &out), BUF_FULL);
  CHECK_TEXT(out.data, out.len, "12");
  CHECK_INT(redact_header_line("A: b\r\nAuthorization: x", 22, &out), BUF_FULL);
  CHECK_TEXT(out.data, out.len, "12");
  buf_free(&out);
}

/* Takes minutes when a rule looks at the same bytes again and again. */
static void cost(void) {
  static const char *const pieces[] = {"://", "token=",  "\"key\":\"", "sk-",   "Bearer ",
                                       "a-",  "key\\\\", "eyJ.",       "://a@", "token    ",
                                       "%26", "Bearer:", "AIza-",      "key: ", "x"};
  enum { SIZE = 1 << 20 };
  char *s = malloc(SIZE);
  check_case("a megabyte of anything takes linear time");
  for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
    size_t len = strlen(pieces[i]);
    for (size_t n = 0; n < SIZE; n++) s[n] = pieces[i][n % len];
    struct buf out;
    buf_init(&out, 64 << 20);
    CHECK_INT(redact_text(s, SIZE, &out), BUF_OK);
    buf_free(&out);
  }
  free(s);
}

int main(void) {
  table(redact_header_line, headers, sizeof headers / sizeof *headers);
  table(redact_text, texts, sizeof texts / sizeof *texts);
  canary();
  rooms();
  cost();
  return check_done();
}

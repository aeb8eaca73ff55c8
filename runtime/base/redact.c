/*
** Taking credentials out of text; see redact.h. One pass over the text: at the start of each word
** the rules are tried in turn, and a rule that fits copies what may stay and skips what may not.
** Reading order: redact_text, at_word, at_name, quoted_end; then the header lines.
*/
#include "base/redact.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

/* The text, and how much of it has been dealt with: [0, done) is in `out`, redacted. */
struct pass {
  const char *s;
  size_t n, done, dropped; /* `dropped`: where the last thing that was dropped began */
  struct buf *out;
  enum buf_status status;
};

static void keep_until(struct pass *p, size_t end) {
  if (p->status == BUF_OK) p->status = buf_append(p->out, p->s + p->done, end - p->done);
  p->done = end;
}

static void drop_until(struct pass *p, size_t end) {
  if (p->status == BUF_OK) p->status = buf_append_str(p->out, REDACTED);
  p->dropped = p->done;
  p->done = end;
}

/* ---- characters ------------------------------------------------------------------------------ */

static bool is_alnum(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static bool is_name_char(char c) {
  return is_alnum(c) || c == '_' || c == '-' || c == '.';
}

static bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool is_quote(char c) {
  return c == '"' || c == '\'';
}

/* What no unquoted secret contains. Everything else might belong to it. */
static bool ends_value(char c) {
  return (unsigned char)c <= ' ' || c == '"' || c == '\'' || c == '`' || c == '<' || c == '>' ||
         c == '&' || c == 0x7F;
}

static size_t value_end(const struct pass *p, size_t i) {
  while (i < p->n && !ends_value(p->s[i])) i++;
  return i;
}

static size_t line_end(const struct pass *p, size_t i) {
  while (i < p->n && p->s[i] != '\n' && p->s[i] != '\r') i++;
  return i;
}

static bool begins(const struct pass *p, size_t i, const char *word) {
  size_t len = strlen(word);
  return p->n - i >= len && memcmp(p->s + i, word, len) == 0;
}

/* ---- names ----------------------------------------------------------------------------------- */

static bool same_name(const char *s, size_t n, const char *name) {
  if (strlen(name) != n) return false;
  for (size_t i = 0; i < n; i++) {
    char c = s[i] == '-' || s[i] == '.' ? '_' : s[i];
    if (c >= 'A' && c <= 'Z') c = (char)(c - 'A' + 'a');
    if (c != name[i]) return false;
  }
  return true;
}

static bool listed(const char *s, size_t n, const char *const *names) {
  for (; *names != NULL; names++) {
    if (same_name(s, n, *names)) return true;
  }
  return false;
}

/* Whose value is a credential in `name=value` and in `"name": "value"`. */
static bool is_secret_name(const char *s, size_t n) {
  static const char *const names[] = {"key",        "sig",           "signature",  "passphrase",
                                      "secretkey",  "accesskey",     "privatekey", "passwd",
                                      "credential", "authorization", NULL};
  static const char *const tails[] = {"token", "secret", "password", "apikey", NULL};
  size_t start = n; /* of the last part: api_key, x-amz-signature, client.secret */
  while (start > 0 && is_alnum(s[start - 1])) start--;
  if (listed(s + start, n - start, names)) return true;
  for (size_t i = 0; tails[i] != NULL; i++) { /* accessToken, dbpassword */
    size_t len = strlen(tails[i]);
    if (n - start >= len && same_name(s + n - len, len, tails[i])) return true;
  }
  return false;
}

/* Whose value is one even in `name: value` without quotes, because prose is not like that. */
static bool is_header_name(const char *s, size_t n) {
  static const char *const names[] = {
      "authorization", "proxy_authorization", "x_api_key",     "api_key",        "apikey",
      "cookie",        "set_cookie",          "x_vault_token", "x_auth_token",   "access_token",
      "refresh_token", "client_secret",       "password",      "x_goog_api_key", NULL};
  return listed(s, n, names);
}

/* ---- values ---------------------------------------------------------------------------------- */

/* Past the backslashes and the quote at i, and what they are; i itself when there is no quote. */
static size_t open_quote(const struct pass *p, size_t i, size_t *slashes, char *quote) {
  size_t at = i;
  while (at < p->n && p->s[at] == '\\') at++;
  if (at == p->n || !is_quote(p->s[at])) return i;
  *slashes = at - i;
  *quote = p->s[at];
  return at + 1;
}

/*
** Where the string that was opened so ends. In JSON within JSON the closing quote has as many
** backslashes as the opening one; a quote of the content has more. Unclosed: the rest of the text.
*/
static size_t quoted_end(const struct pass *p, size_t i, size_t slashes, char quote) {
  size_t run = 0;
  for (; i < p->n; i++) {
    char c = p->s[i];
    if (c == '\\') {
      run++;
      continue;
    }
    if (c == quote && (run <= slashes ? slashes > 0 || run == 0 : slashes == 0 && run % 2 == 0)) {
      return i - (slashes > 0 ? run : 0);
    }
    run = 0;
  }
  return p->n;
}

/* Past a scheme and the blanks behind it ("Bearer x"), or i. */
static size_t past_scheme(const struct pass *p, size_t i) {
  static const char *const names[] = {"bearer", "basic", "token", NULL};
  size_t end = i;
  while (end < p->n && is_alnum(p->s[end])) end++;
  if (!listed(p->s + i, end - i, names)) return i;
  size_t value = end;
  while (value < p->n && (p->s[value] == ' ' || p->s[value] == '\t')) value++;
  if (value == end || value == p->n || ends_value(p->s[value])) return i;
  return p->s[value] == '=' || p->s[value] == ':' ? i : value; /* not a scheme but a name */
}

/* ---- names with values ----------------------------------------------------------------------- */

enum form {
  WORD,   /* name=value: quoted, or up to what ends a value */
  LINE,   /* Header: value */
  JSON,   /* "name": "value" or a number; not null, true, {…} */
  ENCODED /* name%3Dvalue, a URL within a URL: up to %26 */
};

static size_t skip_blanks(const struct pass *p, size_t i, bool lines) {
  while (i < p->n && (p->s[i] == ' ' || p->s[i] == '\t' || (lines && is_space(p->s[i])))) i++;
  return i;
}

static size_t name_end(const struct pass *p, size_t i) {
  while (i < p->n && is_name_char(p->s[i])) i++;
  return i;
}

/* Where the value of the name [i, end) stands, if that is the name of a secret and has a value. */
static bool find_value(const struct pass *p, size_t i, size_t end, size_t *value, enum form *form) {
  bool secret = is_secret_name(p->s + i, end - i), header = is_header_name(p->s + i, end - i);
  if (!secret && !header) return false;
  size_t slashes;
  char quote;
  size_t at = open_quote(p, end, &slashes, &quote);
  bool quoted = at > end;
  if (!quoted && (begins(p, at, "%3D") || begins(p, at, "%3d"))) {
    *form = ENCODED;
    *value = at + 3;
    return true;
  }
  if (quoted && at < p->n && p->s[at] == ']') at++; /* Lua: ["name"] = "value" */
  at = skip_blanks(p, at, quoted);
  if (at == p->n) return false;
  if (p->s[at] == '=') {
    *form = WORD;
    *value = skip_blanks(p, at + (begins(p, at, "==") ? 2 : 1), false);
    return true;
  }
  if (p->s[at] != ':' || (!quoted && !header)) return false;
  *form = quoted ? JSON : LINE;
  *value = skip_blanks(p, at + 1, quoted);
  return true;
}

/* The value at i goes; false when there is none. */
static bool drop_value(struct pass *p, size_t i, enum form form) {
  size_t slashes, end;
  char quote, c = i < p->n ? p->s[i] : '\0';
  size_t inside = open_quote(p, i, &slashes, &quote);
  if (inside > i && form != ENCODED) {
    end = quoted_end(p, inside, slashes, quote);
  } else if (form == LINE) {
    inside = i;
    end = line_end(p, i);
  } else if (form == ENCODED) {
    inside = end = i;
    while (end < p->n && !ends_value(p->s[end]) && !begins(p, end, "%26")) end++;
  } else {
    if (form == JSON && c != '-' && (c < '0' || c > '9')) return false;
    size_t next;
    for (inside = i; (next = past_scheme(p, inside)) > inside; inside = next) continue;
    end = value_end(p, inside);
  }
  if (end == inside) return false;
  keep_until(p, inside);
  drop_until(p, end);
  return true;
}

static bool at_name(struct pass *p, size_t i, size_t end) {
  size_t value;
  enum form form;
  return find_value(p, i, end, &value, &form) && drop_value(p, value, form);
}

/* What was dropped last might have been a name itself (key = token = x): its value goes, too. */
static void drop_chain(struct pass *p) {
  size_t value;
  enum form form;
  while (find_value(p, p->dropped, name_end(p, p->dropped), &value, &form) && value >= p->done) {
    if (!drop_value(p, value, form)) return;
  }
}

/* ---- what shows itself ----------------------------------------------------------------------- */

/* A word of prose, or the parameter of a challenge (realm="x"), where a credential might stand. */
static bool is_prose(const struct pass *p, size_t i, size_t *end) {
  static const char *const words[] = {"token",       "tokens", "auth",   "authentication",
                                      "realm",       "scheme", "header", "authorization",
                                      "credentials", "error",  "scope",  NULL};
  size_t at = i;
  while (at < p->n && is_alnum(p->s[at])) at++;
  *end = at;
  if (!listed(p->s + i, at - i, words)) return false;
  if (at < p->n && p->s[at] == '.') at++; /* the end of a sentence */
  return at == p->n || ends_value(p->s[at]) || strchr(",;:=)", p->s[at]) != NULL;
}

/* Long, or with a digit in it: what people write behind "bearer token" if they quote one. */
static bool looks_secret(const struct pass *p, size_t i, size_t end) {
  size_t digits = 0;
  for (size_t k = i; k < end; k++) digits += p->s[k] >= '0' && p->s[k] <= '9';
  return end - i >= 20 || (digits > 0 && end - i >= 8);
}

/* Bearer and Basic, unless prose goes on behind them. */
static bool at_scheme(struct pass *p, size_t i) {
  size_t word = 0;
  if (p->n - i > 6 && strncasecmp(p->s + i, "bearer", 6) == 0) word = 6;
  if (p->n - i > 5 && strncasecmp(p->s + i, "basic", 5) == 0) word = 5;
  size_t value = i + word, prose;
  if (word == 0) return false;
  if (begins(p, value, "%20")) value += 3;
  while (value < p->n && (p->s[value] == ' ' || p->s[value] == '\t' || p->s[value] == '+')) value++;
  if (value == i + word) return false;
  if (is_prose(p, value, &prose)) {
    value = skip_blanks(p, prose, false);
    if (value == prose || !looks_secret(p, value, value_end(p, value))) return false;
  } else if (past_scheme(p, value) > value) {
    return false; /* the second of two schemes will see */
  }
  size_t end = value_end(p, value);
  if (end == value) return false;
  keep_until(p, value);
  drop_until(p, end);
  return true;
}

/* Keys that show what they are. */
static bool at_known_key(struct pass *p, size_t i) {
  static const struct {
    const char *prefix;
    size_t least; /* characters behind the prefix that make it a key */
  } kinds[] = {{"sk-", 6},   {"sk_", 16},  {"hvs.", 16},        {"hvb.", 16},  {"AIza", 20},
               {"ghp_", 16}, {"gho_", 16}, {"github_pat_", 16}, {"xoxb-", 10}, {"eyJ", 24}};
  for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
    if (!begins(p, i, kinds[k].prefix)) continue;
    size_t start = i + strlen(kinds[k].prefix), end = start;
    bool digit = false;
    for (; end < p->n && (is_name_char(p->s[end]) || p->s[end] == '*'); end++) {
      digit = digit || (p->s[end] >= '0' && p->s[end] <= '9');
    }
    while (end > start && p->s[end - 1] == '.') end--; /* the end of a sentence */
    bool sure = end - start >= kinds[k].least;
    if (!sure && !(k == 0 && digit)) continue;
    keep_until(p, start);
    drop_until(p, end);
    return true;
  }
  return false;
}

/* "://" at i, or as some write it in JSON: what stands before the last @ of the authority. */
static bool at_authority(struct pass *p, size_t i) {
  size_t start = begins(p, i, "://") ? i + 3 : begins(p, i, ":\\/\\/") ? i + 5 : 0, at = 0;
  if (start == 0) return false;
  for (size_t j = start; j < p->n; j++) {
    char c = p->s[j];
    if (c == '/' || c == '?' || c == '#' || c == '\\' || (ends_value(c) && c != '&')) break;
    if (c == '@') at = j;
  }
  if (at <= start) return false;
  keep_until(p, start);
  drop_until(p, at);
  return true;
}

/* Length of a percent escape at i, which is never part of a name. */
static size_t percent(const struct pass *p, size_t i) {
  static const char hex[] = "0123456789abcdefABCDEF";
  if (p->n - i < 3 || p->s[i] != '%') return 0;
  return memchr(hex, p->s[i + 1], 22) != NULL && memchr(hex, p->s[i + 2], 22) != NULL ? 3 : 0;
}

/* What can begin at the word at i, the `first` of a name that ends at `end`. */
static bool at_word(struct pass *p, size_t i, bool first, size_t end) {
  char c = p->s[i];
  if (at_known_key(p, i)) return true;
  if ((c == 'b' || c == 'B') && at_scheme(p, i)) return true;
  return first && at_name(p, i, end);
}

enum buf_status redact_text(const char *s, size_t n, struct buf *out) {
  struct pass p = {.s = s, .n = n, .done = 0, .out = out, .status = BUF_OK};
  size_t before = out->len, i = 0;
  while (i < n) {
    size_t skip = percent(&p, i);
    if (s[i] == ':' && at_authority(&p, i)) {
      i = p.done;
      continue;
    }
    if (skip > 0 || !is_name_char(s[i])) {
      i += skip > 0 ? skip : 1;
      continue;
    }
    size_t end = name_end(&p, i), word = i;
    bool found = false;
    while (!found && word < end) {
      found = at_word(&p, word, word == i, end);
      while (word < end && is_alnum(s[word])) word++;
      while (word < end && !is_alnum(s[word])) word++;
    }
    if (found) drop_chain(&p);
    i = found ? p.done : end;
  }
  keep_until(&p, n);
  if (p.status != BUF_OK) out->len = before;
  return p.status;
}

/* ---- headers --------------------------------------------------------------------------------- */

static bool contains(const char *s, size_t n, const char *word) {
  size_t len = strlen(word);
  for (size_t i = 0; i + len <= n; i++) {
    if (strncasecmp(s + i, word, len) == 0) return true;
  }
  return false;
}

static bool is_secret_header(const char *name, size_t n) {
  static const char *const names[] = {"authorization", "proxy_authorization", "cookie",
                                      "set_cookie", NULL};
  for (size_t i = 0; i < n; i++) {
    if (!is_name_char(name[i])) return false; /* words with a colon behind them */
  }
  if (listed(name, n, names)) return true;
  if (contains(name, n, "ratelimit")) return false; /* x-ratelimit-remaining-tokens: a number */
  return contains(name, n, "token") || contains(name, n, "secret") || contains(name, n, "key") ||
         contains(name, n, "password");
}

/* One line without its line end. `*secret` persists: a line that begins with a blank continues the
** value of the line before. */
static enum buf_status redact_line(const char *s, size_t n, bool *secret, struct buf *out) {
  struct pass p = {.s = s, .n = n, .done = 0, .out = out, .status = BUF_OK};
  bool continues = n > 0 && (s[0] == ' ' || s[0] == '\t');
  const char *colon = continues ? s : n > 0 ? memchr(s, ':', n) : NULL;
  if (!continues) *secret = colon != NULL && is_secret_header(s, (size_t)(colon - s));
  if (!*secret) return redact_text(s, n, out);
  size_t value = continues ? 0 : (size_t)(colon - s) + 1;
  while (value < n && (s[value] == ' ' || s[value] == '\t')) value++;
  keep_until(&p, value);
  if (value < n) drop_until(&p, n);
  return p.status;
}

enum buf_status redact_header_line(const char *line, size_t n, struct buf *out) {
  size_t before = out->len, i = 0;
  bool secret = false;
  while (i < n) {
    size_t end = i;
    while (end < n && line[end] != '\n' && line[end] != '\r') end++;
    size_t next = end;
    while (next < n && (line[next] == '\n' || line[next] == '\r')) next++;
    enum buf_status status = redact_line(line + i, end - i, &secret, out);
    if (status == BUF_OK) status = buf_append(out, line + end, next - end);
    if (status != BUF_OK) {
      out->len = before;
      return status;
    }
    i = next;
  }
  return BUF_OK;
}

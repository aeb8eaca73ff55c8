/*
** A shortcut for streams whose events differ only in their text, as those of most providers do. The
** bytes before and after the text of one event, which the full parsers have checked, are
** remembered; later bytes that are the same around a string are the same event with another text.
** Answers yes only when that is certain; a "no" means: look properly.
*/
#ifndef SLUICE_BASE_MEMO_H
#define SLUICE_BASE_MEMO_H

#include <stdbool.h>
#include <stddef.h>

#define MEMO_MAX 2048 /* bytes around the text; a longer event is not remembered */

struct memo {
  char *bytes; /* prefix, then suffix; NULL: nothing remembered */
  size_t prefix, suffix;
};

struct memo_hit {
  const char *text; /* not empty, valid UTF-8, a slice of what was matched */
  size_t text_len;
  bool escaped; /* as written in JSON: base/scan unescapes it, or finds that it cannot be */
  size_t used;  /* bytes of the whole event */
};

/*
** The bytes [raw, raw + n) were one event, its data [data, data + data_len) a plain delta with the
** text [text, text + text_len). Forgets what was known and learns this, when it is of use: the data
** must be one line, and the last of the event.
*/
void memo_learn(struct memo *m, const char *raw, size_t n, const char *data, size_t data_len,
                const char *text, size_t text_len);
/* Do the `n` bytes at `raw` begin with such an event, whole? */
bool memo_match(const struct memo *m, const char *raw, size_t n, struct memo_hit *hit);
void memo_free(struct memo *m);

#endif

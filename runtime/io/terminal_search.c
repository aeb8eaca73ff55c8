/*
** Ctrl-R at the prompt: looking for an earlier line. libedit's own search reads keys by itself, and
** would wait for them; this one is given them one by one.
*/
#include <stdlib.h>
#include <wchar.h>

#include "base/wide.h"
#include "io/editline.h"
#include "io/terminal_base.h"

#define CTRL_G 7
#define CTRL_R 0x12

/* The first entry with the pattern, from the entry `from` on to older ones. */
static const wchar_t *find_entry(struct terminal *t, int from, const wchar_t *other_than) {
  HistEventW e;
  int at = 0;
  for (int more = editline.history_w(t->history, &e, H_FIRST); more == 0;
       more = editline.history_w(t->history, &e, H_NEXT), at++) {
    if (at < from || wcsstr(e.str, t->search.pattern) == NULL) continue;
    if (other_than != NULL && wcscmp(e.str, other_than) == 0) continue;
    t->search.at = at;
    return e.str;
  }
  return NULL;
}

static void show_search(struct terminal *t, const wchar_t *found) {
  swprintf(t->prompt, PROMPT_MAX, L"search '%ls': ", t->search.pattern);
  wchar_t *line = wcsdup(found != NULL ? found : t->search.before);
  if (line != NULL) terminal_replace(t, line);
  free(line);
}

void terminal_search_begin(struct terminal *t) {
  const LineInfoW *line = editline.el_wline(t->el);
  size_t n = (size_t)(line->lastchar - line->buffer);
  t->search.before = malloc((n + 1) * sizeof *t->search.before);
  if (t->search.before == NULL) {
    t->searching = false;
    return;
  }
  wmemcpy(t->search.before, line->buffer, n);
  t->search.before[n] = 0;
  t->search.pattern[0] = 0;
  t->search.at = 0;
  show_search(t, NULL);
}

/* Leaves what was found in the line, or what had been there. */
void terminal_search_end(struct terminal *t, bool keep) {
  if (!t->searching) return;
  const LineInfoW *line = editline.el_wline(t->el);
  size_t n = (size_t)(line->lastchar - line->buffer);
  wchar_t *text = keep ? malloc((n + 1) * sizeof *text) : t->search.before;
  wcscpy(t->prompt, t->own_prompt);
  t->searching = false;
  if (text != NULL && keep) {
    wmemcpy(text, line->buffer, n);
    text[n] = 0;
  }
  if (text != NULL) terminal_replace(t, text);
  if (keep) free(text);
  free(t->search.before);
  t->search.before = NULL;
}

/* A key of the search; another one ends it and does what it always does. False: wait for more. */
bool terminal_search_key(struct terminal *t) {
  wchar_t key = 0, *pattern = t->search.pattern;
  size_t n = wide_decode(t->in.data, t->in.len, &key), len = wcslen(pattern);
  bool erases = key == 0x7f || key == 8, adds = key >= 0x20 && !erases && len < PATTERN_MAX;
  if (n == 0) return false;
  if (key != CTRL_R && key != CTRL_G && !erases && !adds) {
    terminal_search_end(t, true);
    return true;
  }
  buf_consume(&t->in, n);
  if (key == CTRL_G) {
    terminal_search_end(t, false);
    return true;
  }
  if (adds) pattern[len++] = key;
  if (erases && len > 0) len--;
  pattern[len] = 0;
  const wchar_t *now = len > 0 ? find_entry(t, erases ? 0 : t->search.at, NULL) : NULL;
  const wchar_t *found = now != NULL && key == CTRL_R ? find_entry(t, t->search.at, now) : now;
  if (found == NULL && len > 0) {
    editline.el_beep(t->el);
    found = now; /* stay with the last one that fitted */
  }
  show_search(t, found);
  return true;
}

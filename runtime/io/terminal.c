/*
** The prompt: see terminal.h. libedit wants to read by itself and to wait in the middle of a key's
** sequence. Here it is given bytes that have come already (`in`), one command at a time
** (EL_UNBUFFERED). When it asks for more than there is, nothing has been done yet, and the bytes
** stay where they are until more come.
*/
#include "io/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

#include "base/buf.h"
#include "base/limits.h"
#include "base/utf8.h"
#include "base/wide.h"
#include "io/editline.h"
#include "io/loop_base.h"
#include "io/terminal_base.h"
#include "io/terminal_modes.h"

#define HISTORY_MAX 2000 /* entries that can be recalled */
#define KEY_ACT 0x1e     /* Ctrl-^: ours, to have something done inside of libedit */
#define CTRL_D 4
#define PASTE_END "\033[201~"

static struct terminal *opened; /* there is one terminal */

static void put(struct terminal *t, const char *text) {
  fputs(text, t->out);
  fflush(t->out);
}

void terminal_size(int *columns, int *rows) {
  struct winsize w;
  bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0;
  *columns = known ? w.ws_col : 0;
  *rows = known ? w.ws_row : 0;
}

static void keep_text(struct terminal *t, const wchar_t *from, const wchar_t *to) {
  buf_clear(&t->text, READ_SIZE);
  wide_append(&t->text, from, to);
}

static wchar_t *widen(const char *text) {
  return wide_copy(text, strlen(text));
}

/* The character at `at` of what has been typed; 0: it is not there yet. */
static size_t decode(const struct terminal *t, size_t at, wchar_t *out) {
  return wide_decode(t->in.data + at, t->in.len - at, out);
}

/* ---- what libedit asks for ---------------------------------------------------------------------
 */

static struct terminal *owner_of(EditLine *el) {
  struct terminal *t = NULL;
  editline.el_wget(el, EL_CLIENTDATA, (void *)&t);
  return t;
}

static int next_char(EditLine *el, wchar_t *out) {
  struct terminal *t = owner_of(el);
  if (t->acting) {
    t->acting = false;
    *out = KEY_ACT;
    return 1;
  }
  size_t n = decode(t, t->used, out);
  if (n == 0) {
    t->starved = true;
    errno = EAGAIN;
    return -1;
  }
  if (*out == KEY_ACT) *out = L' ';
  t->used += n;
  return 1;
}

static wchar_t *show_prompt(EditLine *el) {
  return owner_of(el)->prompt;
}

/* Characters that are pasted, or chosen among completions; a line of the history. */
static unsigned char act(EditLine *el, wint_t key) {
  (void)key;
  struct terminal *t = owner_of(el);
  if (t->replacing) {
    if (editline.el_wreplacestr(el, t->insert) != 0) return CC_ERROR;
    editline.el_cursor(el, (int)wcslen(t->insert));
    return CC_REFRESH;
  }
  int status = t->insert != NULL && *t->insert != 0 ? editline.el_winsertstr(el, t->insert) : 0;
  return status == 0 ? CC_REFRESH : CC_ERROR;
}

static unsigned char on_tab(EditLine *el, wint_t key) {
  (void)key;
  owner_of(el)->completing = true;
  return CC_NORM;
}

static unsigned char on_paste(EditLine *el, wint_t key) {
  (void)key;
  owner_of(el)->pasting = true;
  return CC_NORM;
}

static unsigned char on_quote(EditLine *el, wint_t key) {
  (void)key;
  owner_of(el)->quoting = true;
  return CC_NORM;
}

static unsigned char on_search(EditLine *el, wint_t key) {
  (void)key;
  owner_of(el)->searching = true;
  return CC_NORM;
}

static unsigned char on_nothing(EditLine *el, wint_t key) {
  (void)el, (void)key;
  return CC_NORM;
}

static const wchar_t *run_command(struct terminal *t, int *n) {
  t->used = 0;
  t->starved = false;
  const wchar_t *line = editline.el_wgets(t->el, n);
  if (t->starved) return NULL;
  buf_consume(&t->in, t->used);
  return *n > 0 ? line : NULL;
}

static void insert_wide(struct terminal *t, wchar_t *text) {
  int n;
  t->insert = text;
  t->acting = true;
  run_command(t, &n);
  t->insert = NULL;
}

void terminal_replace(struct terminal *t, wchar_t *text) {
  t->replacing = true;
  insert_wide(t, text);
  t->replacing = false;
}

void terminal_insert(struct terminal *t, const char *text) {
  wchar_t *wide = t->editing && t->el != NULL ? widen(text) : NULL;
  if (wide != NULL) insert_wide(t, wide);
  free(wide);
}

/* ---- the place of the cursor -------------------------------------------------------------------
 */

/* libedit keeps it to itself, so what it does is done again: rows between the first one of the
** prompt and the cursor. */
static void walk(const wchar_t *from, const wchar_t *to, int columns, int *row, int *column) {
  for (; from < to; from++) {
    int w = *from == L'\t' ? 8 - *column % 8 : *from < 0x20 || *from == 0x7f ? 2 : wcwidth(*from);
    if (*from == L'\n' || (w > 0 && *column + w > columns)) {
      ++*row;
      *column = 0;
    }
    if (*from != L'\n' && w > 0) *column += w;
    if (*column >= columns) {
      ++*row;
      *column = 0;
    }
  }
}

static void erase(struct terminal *t) {
  int columns, rows, row = 0, column = 0;
  terminal_size(&columns, &rows);
  const LineInfoW *line = editline.el_wline(t->el);
  if (columns > 0) {
    walk(t->prompt, t->prompt + wcslen(t->prompt), columns, &row, &column);
    walk(line->buffer, line->cursor, columns, &row, &column);
  }
  if (row > 0) fprintf(t->out, "\033[%dA", row);
  fputs("\r\033[J", t->out);
}

void terminal_above(struct terminal *t, const char *text, size_t len) {
  bool shown = t->editing && t->el != NULL;
  if (shown) erase(t);
  fwrite(text, 1, len, t->out);
  fflush(t->out);
  if (shown) editline.el_wset(t->el, EL_REFRESH);
}

void terminal_beep(struct terminal *t) {
  if (t->el != NULL) editline.el_beep(t->el);
}

static void on_resized(evutil_socket_t fd, short what, void *arg) {
  (void)fd, (void)what;
  struct terminal *t = arg;
  if (!t->editing) return;
  erase(t);
  editline.el_resize(t->el);
  editline.el_wset(t->el, EL_REFRESH);
}

/* Stopped and continued (Ctrl-Z, fg): the shell has left its own modes. */
static void on_continued(evutil_socket_t fd, short what, void *arg) {
  (void)fd, (void)what;
  struct terminal *t = arg;
  if (!t->editing) return;
  editline.el_wset(t->el, EL_PREP_TERM, 0);
  editline.el_wset(t->el, EL_PREP_TERM, 1);
  put(t, TERMINAL_PASTE_ON "\r\033[J");
  editline.el_wset(t->el, EL_REFRESH);
}

/* ---- reading -----------------------------------------------------------------------------------
 */

static void watch(struct terminal *t, bool on) {
  if (on == t->watched) return;
  if (on)
    event_add(t->readable, NULL);
  else
    event_del(t->readable);
  t->watched = on;
}

/* Once, and only when a read does not wait. */
static void read_some(struct terminal *t) {
  if (buf_reserve(&t->in, READ_SIZE) != BUF_OK) {
    t->ended = true;
    return;
  }
  ssize_t n = read(STDIN_FILENO, t->in.data + t->in.len, READ_SIZE);
  if (n > 0)
    t->in.len += (size_t)n;
  else if (n == 0 || (errno != EINTR && errno != EAGAIN))
    t->ended = true;
}

static void on_readable(evutil_socket_t fd, short what, void *arg) {
  (void)fd, (void)what;
  struct terminal *t = arg;
  watch(t, false);
  read_some(t);
  t->notify(t->owner);
}

/* A file, or /dev/null, is always ready, and epoll does not take it. */
static void want_more(struct terminal *t) {
  if (t->readable != NULL) {
    watch(t, true);
    return;
  }
  read_some(t);
}

/* ---- plain lines -------------------------------------------------------------------------------
 */

static enum terminal_event take_plain(struct terminal *t) {
  for (;;) {
    char *from = t->in.data != NULL ? t->in.data + t->scanned : NULL;
    char *end = from != NULL ? memchr(from, '\n', t->in.len - t->scanned) : NULL;
    bool last = end == NULL && t->ended && t->in.len > 0;
    if (end != NULL || last) {
      size_t n = last ? t->in.len : (size_t)(end - t->in.data);
      buf_clear(&t->text, READ_SIZE);
      size_t kept = n > 0 && t->in.data[n - 1] == '\r' ? n - 1 : n;
      if (buf_append(&t->text, t->in.data, kept) != BUF_OK) return TERMINAL_TOO_LONG;
      buf_consume(&t->in, last ? n : n + 1);
      t->scanned = 0;
      return TERMINAL_LINE;
    }
    if (t->ended) return TERMINAL_END;
    t->scanned = t->in.len;
    if (t->in.len > TERMINAL_LINE_MAX) return TERMINAL_TOO_LONG;
    want_more(t);
    if (t->watched) return TERMINAL_NONE;
  }
}

/* The key behind Ctrl-V, as it is. False: wait for it. */
static bool quoted_key(struct terminal *t) {
  wchar_t text[2] = {0, 0};
  size_t n = decode(t, 0, text);
  if (n == 0) return false;
  buf_consume(&t->in, n);
  t->quoting = false;
  if (*text != L'\n' && *text != L'\r' && *text != 0) insert_wide(t, text);
  return true;
}

/* ---- edited lines ------------------------------------------------------------------------------
 */

static bool paste_run(struct terminal *t, struct buf *run) {
  wchar_t *text = malloc((run->len + 1) * sizeof *text);
  if (text == NULL) return false;
  size_t at = 0, n, count = 0;
  while ((n = wide_decode(run->data + at, run->len - at, text + count)) > 0) {
    at += n;
    if (text[count] >= 0x20 || text[count] == L'\t') count++;
  }
  text[count] = 0;
  if (count > 0) insert_wide(t, text);
  free(text);
  return true;
}

/* Pasted text: as it is, up to the end of a line or of the paste. False: wait for more. */
static bool paste(struct terminal *t) {
  size_t n = 0;
  while (n < t->in.len && t->in.data[n] != '\n' && t->in.data[n] != '\r' && t->in.data[n] != '\033')
    n++;
  size_t whole = n == t->in.len ? utf8_valid_prefix(t->in.data, n) : n;
  if (n - whole >= 4) whole = n; /* no character that is still to come: no UTF-8 */
  struct buf run = {.data = t->in.data, .len = whole};
  /* insert_wide consumes nothing of `in`: its key is not there. */
  if (whole > 0 && !paste_run(t, &run)) whole = n;
  buf_consume(&t->in, whole);
  if (n != whole || t->in.len == 0) return false;
  if (*t->in.data != '\033') {
    size_t both = t->in.len > 1 && t->in.data[0] == '\r' && t->in.data[1] == '\n';
    buf_consume(&t->in, both);
    *t->in.data = '\r';
    return true;
  }
  size_t mark = sizeof PASTE_END - 1, have = t->in.len < mark ? t->in.len : mark;
  bool fits = memcmp(t->in.data, PASTE_END, have) == 0;
  if (fits && have < mark) return false;
  if (fits) t->pasting = false;
  buf_consume(&t->in, fits ? mark : 1);
  return true;
}

static void end_line(struct terminal *t) {
  if (!t->editing) return;
  t->editing = false;
  watch(t, false);
  if (t->el == NULL) return;
  editline.el_wset(t->el, EL_UNBUFFERED, 0);
  terminal_modes_leave(t->out);
}

static enum terminal_event take_command(struct terminal *t) {
  int n;
  const wchar_t *line = run_command(t, &n);
  if (t->searching) terminal_search_begin(t);
  if (t->completing) {
    const LineInfoW *now = editline.el_wline(t->el);
    t->completing = false;
    keep_text(t, now->buffer, now->cursor);
    t->cursor = t->text.len;
    wide_append(&t->text, now->cursor, now->lastchar);
    return TERMINAL_COMPLETE;
  }
  if (line == NULL) return TERMINAL_NONE;
  if (line[n - 1] == L'\n' || line[n - 1] == L'\r') {
    keep_text(t, line, line + n - 1);
    return TERMINAL_LINE;
  }
  return n == 1 && line[0] == CTRL_D ? TERMINAL_END : TERMINAL_NONE;
}

static enum terminal_event take_edited(struct terminal *t) {
  enum terminal_event event = TERMINAL_NONE;
  while (event == TERMINAL_NONE && t->in.len > 0) {
    if (t->quoting || t->searching) {
      if (!(t->quoting ? quoted_key(t) : terminal_search_key(t))) break;
      continue;
    }
    if (t->pasting && !paste(t)) break;
    if (t->pasting && (t->in.len == 0 || *t->in.data != '\r')) continue;
    if (t->in.len == 0) break;
    event = take_command(t);
    if (event == TERMINAL_NONE && t->starved) break;
  }
  if (event == TERMINAL_NONE && t->ended) event = TERMINAL_END;
  if (event == TERMINAL_NONE) want_more(t);
  if (event == TERMINAL_END) put(t, "\r\n");
  return event;
}

enum terminal_event terminal_take(struct terminal *t) {
  enum terminal_event event;
  if (t->interrupted) {
    event = TERMINAL_INTERRUPT;
    t->interrupted = false;
  } else {
    event = t->el != NULL ? take_edited(t) : take_plain(t);
  }
  if (event != TERMINAL_NONE && event != TERMINAL_COMPLETE) end_line(t);
  return event;
}

const char *terminal_text(const struct terminal *t, size_t *len) {
  *len = t->text.len;
  return t->text.data != NULL ? t->text.data : "";
}

size_t terminal_cursor(const struct terminal *t) {
  return t->cursor;
}

bool terminal_editing(const struct terminal *t) {
  return t->editing;
}

bool terminal_begin(struct terminal *t, const char *prompt) {
  if (t->editing) return true;
  wchar_t *wide = widen(prompt);
  if (wide == NULL) return false;
  wcsncpy(t->prompt, wide, PROMPT_MAX - 1);
  wcscpy(t->own_prompt, t->prompt);
  free(wide);
  t->editing = true;
  t->interrupted = false;
  if (t->el == NULL) {
    put(t, prompt);
    return true;
  }
  terminal_modes_enter(t->out);
  editline.el_wset(t->el, EL_UNBUFFERED, 1);
  return true;
}

void terminal_interrupt(struct terminal *t) {
  if (!t->editing) return;
  t->interrupted = true;
  t->pasting = t->quoting = false;
  terminal_search_end(t, true);
  buf_clear(&t->in, READ_SIZE);
  buf_clear(&t->text, READ_SIZE);
  t->scanned = 0;
  if (t->el != NULL)
    keep_text(t, editline.el_wline(t->el)->buffer, editline.el_wline(t->el)->lastchar);
  put(t, t->el != NULL ? "^C\r\n" : "\n"); /* without libedit, the terminal shows it */
  t->notify(t->owner);
}

void terminal_remember(struct terminal *t, const char *entry) {
  HistEventW event;
  wchar_t *wide = t->history != NULL ? widen(entry) : NULL;
  if (wide != NULL && *wide != 0) editline.history_w(t->history, &event, H_ENTER, wide);
  free(wide);
}

/* ---- life --------------------------------------------------------------------------------------
 */

/* What is typed is UTF-8; libedit asks the locale how wide a character is. Numbers keep their
** point: only LC_CTYPE changes. */
static void use_utf8(void) {
  if (setlocale(LC_CTYPE, "") != NULL && strcmp(nl_langinfo(CODESET), "UTF-8") == 0) return;
  if (setlocale(LC_CTYPE, "C.UTF-8") == NULL && setlocale(LC_CTYPE, "en_US.UTF-8") == NULL)
    setlocale(LC_CTYPE, "C");
}

static bool start_editing(struct terminal *t) {
  HistEventW event;
  if (!editline_load()) return false;
  use_utf8();
  t->el = editline.el_init_fd("sluice", stdin, t->out, stderr, STDIN_FILENO, fileno(t->out),
                              STDERR_FILENO);
  t->history = editline.history_winit();
  if (t->el == NULL || t->history == NULL) return false;
  editline.history_w(t->history, &event, H_SETSIZE, HISTORY_MAX);
  editline.history_w(t->history, &event, H_SETUNIQUE, 1);
  editline.el_wset(t->el, EL_CLIENTDATA, t);
  editline.el_wset(t->el, EL_EDITOR, L"emacs");
  editline.el_wset(t->el, EL_SIGNAL, 0);
  editline.el_wset(t->el, EL_HIST, editline.history_w, t->history);
  editline.el_wset(t->el, EL_PROMPT, show_prompt);
  editline.el_wset(t->el, EL_GETCFN, next_char);
  editline.el_wset(t->el, EL_ADDFN, L"sluice-act", L"do what the program asks for", act);
  editline.el_wset(t->el, EL_ADDFN, L"sluice-complete", L"complete the word", on_tab);
  editline.el_wset(t->el, EL_ADDFN, L"sluice-paste", L"begin of pasted text", on_paste);
  editline.el_wset(t->el, EL_ADDFN, L"sluice-nothing", L"does nothing", on_nothing);
  editline.el_wset(t->el, EL_ADDFN, L"sluice-quote", L"take the next key as it is", on_quote);
  editline.el_wset(t->el, EL_ADDFN, L"sluice-search", L"search the history", on_search);
  /* Commands of libedit's that read keys by themselves have no place here. */
  static const struct {
    const wchar_t *key, *command;
  } keys[] = {{L"^^", L"sluice-act"},          {L"\t", L"sluice-complete"},
              {L"\033[200~", L"sluice-paste"}, {L"^V", L"sluice-quote"},
              {L"^R", L"sluice-search"},       {L"^S", L"sluice-nothing"},
              {L"\033x", L"sluice-nothing"},   {L"\033X", L"sluice-nothing"}};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
    editline.el_wset(t->el, EL_BIND, keys[i].key, keys[i].command, NULL);
  t->resized = evsignal_new(loop_base(), SIGWINCH, on_resized, t);
  t->continued = evsignal_new(loop_base(), SIGCONT, on_continued, t);
  return t->resized != NULL && t->continued != NULL && event_add(t->resized, NULL) == 0 &&
         event_add(t->continued, NULL) == 0;
}

static bool start(struct terminal *t, bool edit) {
  int fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
  t->out = fd >= 0 ? fdopen(fd, "w") : NULL; /* buffered: a line is drawn in one write */
  if (t->out == NULL) {
    if (fd >= 0) close(fd);
    return false;
  }
  struct stat st;
  if (fstat(STDIN_FILENO, &st) != 0) return false;
  if (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode) || isatty(STDIN_FILENO)) {
    t->readable = event_new(loop_base(), STDIN_FILENO, EV_READ, on_readable, t);
    if (t->readable == NULL) return false;
  }
  return !edit || start_editing(t);
}

struct terminal *terminal_open(bool edit, void (*notify)(void *owner), void *owner) {
  if (opened != NULL) {
    errno = EBUSY;
    return NULL;
  }
  struct terminal *t = calloc(1, sizeof *t);
  if (t == NULL) return NULL;
  t->notify = notify;
  t->owner = owner;
  buf_init(&t->in, TERMINAL_LINE_MAX + 2 * READ_SIZE);
  buf_init(&t->text, 2 * TERMINAL_LINE_MAX);
  opened = t;
  errno = ENOMEM;
  if (!start(t, edit)) {
    int saved = errno;
    terminal_close(t);
    errno = saved;
    return NULL;
  }
  if (edit) terminal_modes_guard(true);
  return t;
}

static void free_event(struct event *event) {
  if (event != NULL) event_free(event);
}

void terminal_close(struct terminal *t) {
  end_line(t);
  terminal_modes_guard(false);
  free_event(t->readable);
  free_event(t->resized);
  free_event(t->continued);
  if (t->el != NULL) editline.el_end(t->el);
  if (t->history != NULL) editline.history_wend(t->history);
  if (t->out != NULL) fclose(t->out);
  buf_free(&t->in);
  buf_free(&t->text);
  free(t->search.before);
  opened = NULL;
  free(t);
}

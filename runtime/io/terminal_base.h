/* For the files of the terminal only: what sits under io/terminal.h. */
#ifndef SLUICE_IO_TERMINAL_BASE_H
#define SLUICE_IO_TERMINAL_BASE_H

#include <histedit.h>
#include <stdbool.h>
#include <stdio.h>
#include <wchar.h>

#include "base/buf.h"
#include "io/terminal.h"

#define PROMPT_MAX 64  /* characters */
#define PATTERN_MAX 40 /* characters that are searched for */

struct event;

#define READ_SIZE 16384 /* bytes read at a time */

struct terminal {
  void (*notify)(void *);
  void *owner;
  struct event *readable, *resized, *continued;
  EditLine *el; /* NULL: plain lines */
  HistoryW *history;
  FILE *out;
  struct buf in;   /* typed, and not yet taken by libedit */
  struct buf text; /* of the event handed out last */
  size_t cursor;
  size_t used;    /* of `in`, by the command under way */
  size_t scanned; /* of `in`, without a newline */
  wchar_t prompt[PROMPT_MAX], own_prompt[PROMPT_MAX];
  wchar_t *insert; /* what KEY_ACT is to put into the line */
  struct {
    wchar_t pattern[PATTERN_MAX + 1];
    wchar_t *before; /* the line as it was */
    int at;          /* the entry found, counted from the newest */
  } search;
  bool starved, acting, replacing, completing, pasting, quoting, searching;
  bool editing, interrupted, ended, watched;
};

/* Put another text in the place of the line, the cursor at its end. */
void terminal_replace(struct terminal *t, wchar_t *text);

void terminal_search_begin(struct terminal *t);
/* Leave what was found in the line, or what had been there. */
void terminal_search_end(struct terminal *t, bool keep);
/* A key of the search; another one ends it and does what it always does. False: wait for more. */
bool terminal_search_key(struct terminal *t);

#endif

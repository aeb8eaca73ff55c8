/*
** The terminal a person types at. Lines are edited by libedit on the one loop, so that tasks go on
** while the prompt waits; where stdin is no terminal (or one that cannot move its cursor), lines
** come as they are. Owns the terminal's modes while a line is edited and puts them back, however
** the program ends. Never calls Lua, never waits: what a key asks of the owner (a line, a
** completion) comes out of terminal_take.
**
** There is one terminal, so there is one of these at a time.
*/
#ifndef SLUICE_IO_TERMINAL_H
#define SLUICE_IO_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>

enum terminal_event {
  TERMINAL_NONE,      /* nothing yet: wait for notify */
  TERMINAL_LINE,      /* terminal_text() is the line, without its newline */
  TERMINAL_END,       /* end of input: Ctrl-D on an empty line, a closed pipe */
  TERMINAL_COMPLETE,  /* Tab: terminal_text() is the line, terminal_cursor() where it was */
  TERMINAL_INTERRUPT, /* terminal_interrupt was called; the line is dropped */
  TERMINAL_TOO_LONG   /* a line outgrew TERMINAL_LINE_MAX; no more comes */
};

struct terminal;

/* `edit`: with libedit, for a terminal. `notify` is called when terminal_take may have something.
** NULL with errno when that is not possible, or one is open already. */
struct terminal *terminal_open(bool edit, void (*notify)(void *owner), void *owner);
void terminal_close(struct terminal *t);

/* Show the prompt and begin a line. */
bool terminal_begin(struct terminal *t, const char *prompt);
/* Feed what has been typed to the line. An event but COMPLETE ends the line: the terminal is as
** the program found it until the next terminal_begin. */
enum terminal_event terminal_take(struct terminal *t);
const char *terminal_text(const struct terminal *t, size_t *len);
size_t terminal_cursor(const struct terminal *t); /* bytes of the text before the cursor */
bool terminal_editing(const struct terminal *t);  /* a prompt is shown, a line is being edited */

/* Put text at the cursor of the line. */
void terminal_insert(struct terminal *t, const char *text);
/* Print whole lines above the prompt; the line being typed stays as it is below them. */
void terminal_above(struct terminal *t, const char *text, size_t len);
/* Ctrl-C: drop the line. */
void terminal_interrupt(struct terminal *t);
void terminal_beep(struct terminal *t);

/* The newest entry of the history; may hold newlines. */
void terminal_remember(struct terminal *t, const char *entry);

/* Columns and rows of the terminal behind stdout, or 0 and 0. */
void terminal_size(int *columns, int *rows);

/* Put the terminal's modes back. Async-signal-safe: for who ends the process at once. */
void terminal_restore_async(void);

#endif

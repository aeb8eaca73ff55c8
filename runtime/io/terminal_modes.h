/*
** The modes of the terminal while a line is edited, and how they are put back however the program
** ends: by itself, by os.exit, by a signal it cannot live with. For terminal.c; one at a time.
*/
#ifndef SLUICE_IO_TERMINAL_MODES_H
#define SLUICE_IO_TERMINAL_MODES_H

#include <stdbool.h>
#include <stdio.h>

/* Bracketed paste: pasted text comes between marks. */
#define TERMINAL_PASTE_ON "\033[?2004h"
#define TERMINAL_PASTE_OFF "\033[?2004l"

/* Remember the modes as they are; libedit changes them next. */
void terminal_modes_enter(FILE *out);
void terminal_modes_leave(FILE *out);
/* Restore them at signals that end the process, and at its exit. */
void terminal_modes_guard(bool on);

#endif

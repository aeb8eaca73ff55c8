/*
** libedit, loaded when a prompt is opened. Linked, it and its three libraries would make every start
** of the program a tenth dearer, for the one command that reads keys.
*/
#ifndef SLUICE_IO_EDITLINE_H
#define SLUICE_IO_EDITLINE_H

#include <histedit.h>
#include <stdbool.h>

/* Its functions, by their own names. */
struct editline {
  __typeof__(el_init_fd) *el_init_fd;
  __typeof__(el_end) *el_end;
  __typeof__(el_beep) *el_beep;
  __typeof__(el_resize) *el_resize;
  __typeof__(el_cursor) *el_cursor;
  __typeof__(el_wget) *el_wget;
  __typeof__(el_wset) *el_wset;
  __typeof__(el_wgets) *el_wgets;
  __typeof__(el_wline) *el_wline;
  __typeof__(el_winsertstr) *el_winsertstr;
  __typeof__(el_wreplacestr) *el_wreplacestr;
  __typeof__(history_winit) *history_winit;
  __typeof__(history_wend) *history_wend;
  __typeof__(history_w) *history_w;
};

extern struct editline editline;

/* Fills `editline`; false with errno ELIBACC when there is no library, or it lacks something. */
bool editline_load(void);

#endif

/*
** Signals. A handler may only count, wake the loop and call the two async-signal-safe hooks it was
** given; everything else happens later, on the loop, in `on_signal`.
*/
#ifndef SLUICE_IO_SIGNAL_H
#define SLUICE_IO_SIGNAL_H

#include <stdbool.h>

struct signal_hooks {
  void (*on_signal)(int signo, int nth); /* on the loop; nth: how many of this signal have come */
  /* Inside the handler of SIGINT (nth: how many have come) and of SIGTERM (nth is always 1);
  ** async-signal-safe only. */
  void (*on_interrupt_async)(int nth);
  void (*on_cpu_tick_async)(void); /* inside the handler, every SIGNAL_CPU_TICK_MS of CPU */
};

#define SIGNAL_CPU_TICK_MS 100

int signal_init(const struct signal_hooks *hooks); /* 0, or -1 with errno */
void signal_close(void);
/* What a shell shows of a program ended by the signal that came last: 130 after SIGINT, 143 after
** SIGTERM, 0 when none has come. Async-signal-safe. */
int signal_exit_code(void);
/* The interrupts that have come have had their effect: the next one is the first again. */
void signal_forgive_interrupts(void);

#endif

/* For the other files of io/ only: what sits under the loop. */
#ifndef SLUICE_IO_LOOP_BASE_H
#define SLUICE_IO_LOOP_BASE_H

#include <event2/event.h>

struct event_base *loop_base(void);

#endif

/* What main.c asks of sluice.core.sys when a signal has come. */
#ifndef SLUICE_BIND_SYS_H
#define SLUICE_BIND_SYS_H

#include <lua.h>
#include <stdbool.h>

#define SLUICE_VERSION "0.1.0"

/* SIGTERM: wake the tasks that wait for it; false when there is none. */
bool sys_wake_terminate(void);
/* SIGINT: the same for those who wait for that. */
bool sys_wake_interrupt(void);
/* SIGUSR1: call the function given to core.on_dump. */
void sys_dump(lua_State *L);

#endif

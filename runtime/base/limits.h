/*
** Every ceiling on what comes from outside, in one table. A new buffer gets its ceiling here, and
** an error about it names the constant's meaning, not its number alone.
*/
#ifndef SLUICE_BASE_LIMITS_H
#define SLUICE_BASE_LIMITS_H

#define SSE_EVENT_MAX (16u << 20)     /* bytes: one server-sent event, all its lines */
#define SSE_PART_KEEP 1024            /* bytes a stream waiting for the rest of an event may hold */
#define STREAM_BUFFER_MAX (64u << 10) /* bytes received ahead of the script before we brake */
#define RECEIVE_BUFFER (16u << 10)    /* bytes libcurl reads at once, */
#define RECEIVE_BUFFER_MANY 2048      /* and when so many transfers share the program's time, */
#define RECEIVE_BUFFER_STREAM 1024    /* a stream, whose pieces are small */
#define TRANSFERS_MANY 512
#define STREAM_TEXT_MAX (64u << 20)    /* bytes of text one streamed answer may collect */
#define HTTP_BODY_MAX (64u << 20)      /* bytes of a whole reply, decoded; options may lower it */
#define HTTP_HEADERS_MAX (256u << 10)  /* bytes of reply headers */
#define JSON_DEPTH_MAX 128             /* nested arrays and objects, both directions */
#define JSON_TEXT_MAX (64u << 20)      /* bytes of one JSON text, both directions */
#define SERVER_HEADERS_MAX (64u << 10) /* bytes of request headers our server takes */
#define SERVER_BODY_MAX (32u << 20)    /* bytes of a request body our server takes */
#define SERVER_CONNECTIONS_MAX 16384   /* open connections to our server */
#define SECRET_MAX (256u << 10)        /* bytes of one secret: a key file, a token */
#define PRIVATE_FILE_MAX (4u << 20)    /* bytes of a file that is read or kept whole */
#define FOLDER_MAX (16u << 20)         /* bytes of the names in one folder that is listed */
#define PROCESS_OUTPUT_MAX (16u << 20) /* bytes a program may print; options may change it */
#define PROCESS_AHEAD_MAX (64u << 10)  /* bytes read ahead of the script, or waiting to be read */
#define TERMINAL_LINE_MAX (4u << 20)   /* bytes of one line somebody types, or a pipe brings */
#define SERVER_WRITE_MAX (1u << 20)    /* bytes waiting for a slow client before the writer waits */
#define TEXT_MAX (1u << 20)            /* bytes of a trace put together and not yet written */
#define METRICS_MAX 1000               /* metrics of one registry */
#define METRICS_NAME_MAX 200           /* bytes of a metric's or a label's name */
#define METRICS_LABELS_MAX 16          /* labels of a metric */
#define METRICS_BUCKETS_MAX 64         /* bounds of a histogram */
#define METRICS_VALUES_MAX 100         /* values of a label; later ones are counted as `other` */
#define METRICS_SERIES_MAX 2000        /* series of a metric; later ones are counted as `other` */
#define METRICS_VALUE_BYTES_MAX 128    /* bytes of a label's value that are kept */
#define METRICS_PAGE_MAX (64u << 20)   /* bytes of all metrics as text */

#endif

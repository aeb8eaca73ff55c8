/*
** Takes credentials out of text that is about to be shown: logs, errors, `-v`. The second line of
** defence; the first is that secrets are opaque values. When in doubt it takes out too much. Never
** changes anything but the credential, so valid UTF-8 stays valid.
*/
#ifndef SLUICE_BASE_REDACT_H
#define SLUICE_BASE_REDACT_H

#include <stddef.h>

#include "base/buf.h"

#define REDACTED "[redacted]"

/*
** Append one header line (or a block of them, line ends kept). The value is taken out of
** authorization, proxy-authorization, cookie and set-cookie, and of every name with "token",
** "secret", "key" or "password" in it, but for the counters of rate limits; what is left, and lines
** that are no header, goes through redact_text. On failure `out` is as it was.
*/
enum buf_status redact_header_line(const char *line, size_t n, struct buf *out);

/*
** Append `s` without the credentials it quotes:
**   scheme://user:password@host
**   name=value, "name": "value" and, in JSON within JSON, \"name\":\"value\", where the name is
**     or ends in key, token, secret, password, sig, signature (api_key, X-Amz-Signature, idToken)
**   Authorization: …, X-Api-Key: … within a text, up to the end of the line
**   Bearer …, Basic …
**   keys that show by their form: sk-…, JSON web tokens, and such
** On failure `out` is as it was.
*/
enum buf_status redact_text(const char *s, size_t n, struct buf *out);

#endif

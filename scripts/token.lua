-- Tokens for other programs, from one place: `sluice token scripts/token.lua NAME` prints a fresh one.
--
--   sluice token scripts/token.lua corp          an OAuth server's, renewed before it ends, shared by all calls
--   sluice token scripts/token.lua gcloud        what a program prints
--   sluice token --mock scripts/token.lua corp   try it without a server
--
-- As Claude Code's key, in ~/.claude/settings.json:  "apiKeyHelper": "sluice token /path/to/token.lua corp"

local sluice = require "sluice"

return {
  corp = function() -- a function: the secret is looked up only when this one is asked for
    return sluice.token.oauth {
      url = os.getenv "CORP_TOKEN_URL" or "https://idp.example.com/oauth/token",
      client_id = os.getenv "CORP_CLIENT_ID" or "workflows",
      client_secret = sluice.secret.env "CORP_CLIENT_SECRET",
      scope = "llm",
      cache = "~/.cache/sluice/corp.json", -- one request for all who ask within its life
    }
  end,
  gcloud = sluice.token.command { "gcloud", "auth", "print-access-token", ttl = 1800 },
}

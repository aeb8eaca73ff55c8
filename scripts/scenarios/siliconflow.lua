-- 硅基流动 on a busy evening, with its own forms of errors: limits without Retry-After, bare strings,
-- overloaded models, usage on every chunk.
--
--   sluice run --mock=scripts/scenarios/siliconflow.lua script.lua

return {
  { also = true, dialect = "siliconflow", usage_on_every_chunk = true },
  { nth = 1, status = 401 },                                  -- a key of the other country's site
  { every = 9, status = 429, code = "TPM" },                  -- which limit is only in the text
  { every = 13, status = 503 },                               -- "Model service overloaded."
  { every = 17, status = 504 },                               -- a bare string
  { model = "Pro/*", status = 403, code = "30011", message = "This model is for paid accounts only." },
}

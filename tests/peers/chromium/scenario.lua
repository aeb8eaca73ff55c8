-- Some of everything: slow first tokens, limits, outages, streams that break.
return {
  { model = "*slow*", first_token = 0.6 },
  { model = "*busy*", probability = 0.3, status = 429, retry_after = 0.1 },
  { model = "*busy*", probability = 0.2, status = 503 },
  { model = "*cut*", probability = 0.4, cut_after = 6 },
  { model = "*down*", status = 500 },
}

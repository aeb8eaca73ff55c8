return {
  { model = "flaky", nth = 1, status = 503, retry_after_ms = 10 },
  { model = "down", status = 500 },
  { model = "slow", first_token = 30 },
  { model = "cut", cut_after = 3, first_token = 0, gap = 0 },
  { first_token = 0, gap = 0 },
}

-- `down` is down, `cut` breaks off, everybody else answers at once.
return {
  { model = "down", status = 503 },
  { model = "cut", cut_after = 3, first_token = 0, tokens_per_second = 100000 },
  { first_token = 0, tokens_per_second = 100000 },
}

--- The providers that come with sluice. Data only; what the fields mean: provider/init.lua, what the
-- quirks mean: the protocol's own file.
--
-- base_url and quirks are by protocol. A base for "openai" ends in /v1, one for "anthropic" does not.
-- `hosts`: where the quirks hold even when another provider's name is used with that address.

return {
  {
    name = "openai",
    protocol = "openai",
    base_url = { openai = "https://api.openai.com/v1" },
    base_url_env = { openai = "OPENAI_BASE_URL" },
    key_env = { "OPENAI_API_KEY" },
    hosts = { "api.openai.com" },
    -- the name is used for everything that is compatible: elsewhere these do not hold
    quirks_only_at_hosts = true,
    quirks = {
      openai = { max_tokens_field = "max_completion_tokens", thinking = "effort", top_k = false, min_p = false },
    },
    docs = "https://platform.openai.com/docs",
  },
  {
    name = "anthropic",
    protocol = "anthropic",
    base_url = { anthropic = "https://api.anthropic.com", openai = "https://api.anthropic.com/v1" },
    base_url_env = { anthropic = "ANTHROPIC_BASE_URL" },
    key_env = { "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN" },
    hosts = { "api.anthropic.com" },
    docs = "https://platform.claude.com/docs",
  },
  {
    name = "siliconflow",
    protocol = "openai",
    base_url = { openai = "https://api.siliconflow.cn/v1", anthropic = "https://api.siliconflow.cn" },
    base_url_env = { openai = "SILICONFLOW_BASE_URL", anthropic = "SILICONFLOW_BASE_URL" },
    key_env = { "SILICONFLOW_API_KEY" },
    auth = { anthropic = "bearer" },
    hosts = { "api.siliconflow.cn", "api.siliconflow.com" },
    quirks = {
      openai = { thinking = "enable", reasoning_field = "reasoning_content", json_mode = "object" },
      anthropic = { adaptive = false, tool_choice_any = false, parallel_switch = false },
    },
    docs = "https://docs.siliconflow.cn",
  },
  {
    name = "deepseek",
    protocol = "openai",
    base_url = { openai = "https://api.deepseek.com/v1", anthropic = "https://api.deepseek.com/anthropic" },
    key_env = { "DEEPSEEK_API_KEY" },
    hosts = { "api.deepseek.com" },
    quirks = {
      openai = { thinking = "object", reasoning_field = "reasoning_content", reasoning_required = true,
        json_mode = "object" },
      anthropic = { adaptive = false },
    },
    docs = "https://api-docs.deepseek.com",
  },
  {
    name = "openrouter",
    protocol = "openai",
    base_url = { openai = "https://openrouter.ai/api/v1", anthropic = "https://openrouter.ai/api" },
    key_env = { "OPENROUTER_API_KEY" },
    auth = { anthropic = "bearer" },
    hosts = { "openrouter.ai" },
    quirks = { openai = { thinking = "reasoning", reasoning_field = "reasoning" } },
    docs = "https://openrouter.ai/docs",
  },
  {
    name = "ollama",
    protocol = "openai",
    base_url = { openai = "http://127.0.0.1:11434/v1", anthropic = "http://127.0.0.1:11434" },
    keyless = true,
    quirks = { openai = { thinking = "effort", reasoning_field = "reasoning" } },
    docs = "https://docs.ollama.com",
  },
  {
    name = "mock",
    protocol = "openai",
    base_url = {}, -- given when the embedded provider starts
    keyless = true,
    docs = "sluice help mock",
  },
}

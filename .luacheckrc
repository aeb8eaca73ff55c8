std = "lua54"
max_line_length = 120
codes = true
exclude_files = { "build" }

-- Stubs declare what C defines: functions without bodies, arguments without use.
files["lualib/meta"] = { ignore = { "211", "212", "241" } }

-- In a REPL session and in a script's own policy tests the façade is simply there.
files["tests/fixtures"] = { read_globals = { "sluice" } }

std = "lua54"
max_line_length = 120
codes = true
exclude_files = { "build" }

-- Stubs declare what C defines: functions without bodies, arguments without use.
files["lualib/meta"] = { ignore = { "211", "212", "241" } }

-- Tables of what providers really say are more readable unbroken.
files["tests"] = { max_line_length = false }

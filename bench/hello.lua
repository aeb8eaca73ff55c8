--- The shortest script: what it costs to get to its first line.
-- Run by bench/run: sluice run bench/hello.lua

local sluice = require "sluice"

print(sluice and "ready")

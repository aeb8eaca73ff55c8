--- Resident memory of a script that has made a model and waits.
-- Run by bench/run: sluice run bench/idle.lua

local sluice = require "sluice"
local common = require "common"

local model = common.model({ port = 9, buffer = 0 }, "", 1)
sluice.task.sleep(0.05)
common.report("idle", { rss_kib = common.kib "VmRSS", models = model and 1 or 0 })

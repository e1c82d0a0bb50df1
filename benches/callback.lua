-- What wrk sends: a finished workflow of two tasks, about 1 kB, each with another RunId and JobIds.
-- The ids are random, as the sender's are: rising ones would flatter the store's indexes.

local threads = 0
function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

local random, format = math.random, string.format
local headers = { ["Content-Type"] = "application/xml" }
local head = [[<Response><EventName>WorkflowFinish</EventName><WorkflowExecution><RunId>i]]
local middle = [[</RunId><BucketId>examplebucket-1250000000</BucketId><Object>videos/game.mp4</Object>]]
  .. [[<CosHeaders><Key>x-cos-meta-owner</Key><Value>media-team</Value></CosHeaders>]]
  .. [[<WorkflowId>w29ba54d02b7340dd9fb44eb5beb786b9</WorkflowId><WorkflowName>transcode</WorkflowName>]]
  .. [[<CreateTime>2020-12-01 11:00:41+0800</CreateTime><State>Success</State>]]
local function task(kind, template)
  return [[<Tasks><Type>]] .. kind .. [[</Type><CreateTime>2020-12-01 11:00:41+0800</CreateTime>]]
    .. [[<EndTime>2020-12-01 11:01:03+0800</EndTime><State>Success</State><JobId>j]],
    [[</JobId><Name>]] .. kind .. [[_1600413767353</Name><TemplateId>]] .. template .. [[</TemplateId>]]
    .. [[<TemplateName>]] .. kind .. [[ 720p</TemplateName></Tasks>]]
end
local one_head, one_tail = task("Transcode", "t04e1ab86554984f1aa17c062fbf6c007c")
local two_head, two_tail = task("Snapshot", "t07740e32081b44ad7a0aea03adcffd54a")
local tail = [[</WorkflowExecution></Response>]]

local function id()
  return format("%08x%08x%08x%08x", random(0, 4294967295), random(0, 4294967295), random(0, 4294967295),
    random(0, 4294967295))
end

function init()
  math.randomseed(os.time() * 64 + number)
  wrk.method, wrk.headers = "POST", headers
end

function request()
  return wrk.format(nil, nil, nil, head .. id() .. middle .. one_head .. id() .. one_tail .. two_head .. id()
    .. two_tail .. tail)
end

-- One line that a script can read: answers, seconds, answers a second, the 50th and 99th percentile in milliseconds,
-- and what went wrong (which makes a figure worthless).
function done(summary, latency)
  local e = summary.errors
  print(format("figures %d %.3f %.0f %.2f %.2f %d", summary.requests, summary.duration / 1e6,
    summary.requests / (summary.duration / 1e6), latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end

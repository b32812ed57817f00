-- wrk -s wrk.lua ... URL -- PHOTO...    Posts the photos in turn and prints one line of JSON at the end.
local requests, threads = {}, {}
local i = 0
n200, failed = 0, 0

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  for _, path in ipairs(args) do
    local file = assert(io.open(path, "rb"))
    requests[#requests + 1] = wrk.format("POST", nil, { ["Content-Type"] = "image/jpeg" }, file:read("*a"))
    file:close()
  end
end

function request()
  i = i % #requests + 1
  return requests[i]
end

statuses = ""
local counted = {}
function response(status)
  counted[status] = (counted[status] or 0) + 1
  local all = {}
  for s, n in pairs(counted) do
    all[#all + 1] = string.format('"%d": %d', s, n)
  end
  statuses = table.concat(all, ", ")
end

function done(summary, latency)
  local e = summary.errors
  print(string.format(
    '{"seconds": %.3f, "p50": %.2f, "p99": %.2f, "statuses": {%s}, "broken": %d, "timeouts": %d}',
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    threads[1]:get("statuses"), e.connect + e.read + e.write, e.timeout))
end

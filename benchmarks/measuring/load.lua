-- For wrk: sends requests that lie ready in files, one after the other, and says in one line of JSON what came of it.
--     wrk ... -s load.lua URL -- FILE...

local requests, turn = {}, 0

function init(arguments)
  for _, path in ipairs(arguments) do
    local file = assert(io.open(path, "rb"))
    requests[#requests + 1] = file:read("*a")
    file:close()
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local errors = summary.errors
  local lost = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format(
    '\n{"n": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "failed": %d, "lost": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, errors.status, lost
  ))
end

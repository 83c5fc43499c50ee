-- wrk script: sends the requests stored in files in next_index, and prints the results as one line of JSON.
--     wrk ... -s load.lua URL -- FILE...

local requests, next_index = {}, 0

function init(arguments)
  for _, path in ipairs(arguments) do
    local file = assert(io.open(path, "rb"))
    requests[#requests + 1] = file:read("*a")
    file:close()
  end
end

function request()
  next_index = next_index % #requests + 1
  return requests[next_index]
end

function done(summary, latency)
  local errors = summary.errors
  local lost = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format(
    '\n{"n": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "failed": %d, "lost": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, errors.status, lost
  ))
end

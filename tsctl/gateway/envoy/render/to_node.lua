-- Runs in the cluster of one version, on the way to a node, for the requests that render/worker_filters.py names. That
-- puts the constants before it as well.

local function whole(text)
  return text ~= nil and #text <= 15 and string.match(text, "^%d+$") and tonumber(text) or nil
end

-- The time left of a request in milliseconds, or a client's text that is no number, which the worker refuses. A second
-- try has the headers that the first one wrote.
local function time_left(headers, now)
  local timeout, deadline = headers:get(TIMEOUT_HEADER), headers:get(DEADLINE_HEADER)
  local sent = whole(headers:get(SENT_HEADER))
  if sent ~= nil and whole(timeout) ~= nil then
    return string.format("%.0f", math.max(0, whole(timeout) - math.max(0, now - sent)))
  end
  if timeout ~= nil and whole(timeout) == nil then
    return timeout
  elseif deadline ~= nil and whole(deadline) == nil then
    return deadline
  end
  local until_deadline = deadline ~= nil and math.max(0, whole(deadline) - now) or DEADLINE_MS
  return string.format("%.0f", math.min(DEADLINE_MS, whole(timeout) or DEADLINE_MS, until_deadline))
end

function envoy_on_request(handle)
  local headers = handle:headers()
  headers:replace(":path", PATH)
  local id = headers:get(REQUEST_ID_HEADER)
  if id ~= nil and string.match(id, "^[%w%-_.:]+$") then
    handle:streamInfo():dynamicMetadata():set(NAMESPACE, "request_id", id)
  end
  local now = handle:timestamp()
  local left = time_left(headers, now)
  if headers:get(SENT_HEADER) == nil then
    headers:replace(DEADLINE_BY_HEADER, (tonumber(left) or 0) < DEADLINE_MS and CLIENT or ROUTE)
  else
    handle:streamInfo():dynamicMetadata():set(NAMESPACE, "is_retry", true)
  end
  headers:replace(TIMEOUT_HEADER, left)
  headers:replace(SENT_HEADER, string.format("%.0f", now))
  headers:remove(DEADLINE_HEADER)
  if IS_SHADOW then
    headers:replace(SHADOW_HEADER, "1")
  end
end

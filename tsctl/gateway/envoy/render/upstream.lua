-- Runs in the cluster of one version, on the way to a node and back, where render/worker_filters.py says. That puts the
-- constants before it as well.

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

-- A client's request id, which may stand in a document of JSON as it is.
local function plain(id)
  return id ~= nil and string.match(id, "^[%w%-_.:]+$") and id or nil
end

function envoy_on_request(handle)
  local headers = handle:headers()
  headers:replace(":path", PATH)
  local id = plain(headers:get(REQUEST_ID_HEADER))
  if id ~= nil then
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

-- Every class is a series of the gateway's counters. Handlers of tsctl bound their classes themselves; this holds for any other
-- handler that sends the header, for each of Envoy's threads.
local classes, count = {}, 0

local function bound_class(headers)
  local name = headers:get(CLASS_HEADER)
  if name == nil or classes[name] then
    return
  end
  if count < MOST_CLASSES and #name <= LONGEST_CLASS and string.match(name, "^[%w_.:%-]+$") then
    classes[name] = true
    count = count + 1
  else
    headers:replace(CLASS_HEADER, OTHER_CLASS)
  end
end

-- What an error of TorchServe means: the status for the client, and whether another node may be asked. `kind` is the
-- class of the Java exception. Frontend and worker share statuses, so only the class tells a node that cannot serve
-- the version from a handler that raised (InternalServerException) and from a body that cannot be read (any other).
local function meaning(status, kind, message)
  if kind == "ServiceUnavailableException" or kind == "InvalidKeyException"
    or (status == 404 and kind ~= "InternalServerException") then
    return 503, REFUSED -- no worker, a full queue, an unknown token, a lost version: nobody has begun with the request
  elseif kind == "OutOfMemoryError" or message == "Worker died." or message == "Worker scaled down." then
    return 500, DIED
  elseif kind == "InternalServerException" then
    return (status < 500 or status == 504) and status or 500
  elseif status >= 500 or status == 403 then
    return 400 -- raised while the frontend read the client's form
  end
  return status
end

-- TorchServe's own errors become the problem documents that handlers answer with. A handler's own answers pass.
function envoy_on_response(handle)
  bound_class(handle:headers())
  local status = tonumber(handle:headers():get(":status"))
  if status < 400 or handle:headers():get("content-type") == PROBLEM_MEDIA_TYPE then
    return
  end
  local body = handle:body(true)
  local headers = handle:headers() -- after body, which waits where the body is still to come: what was held before is dead
  local text = body:getBytes(0, body:length())
  local kind, rest = string.match(text, '^%s*{%s*"code":%s*%d+,%s*"type":%s*"([%w_$]*)"(.*)$')
  if kind == nil and #text > 0 then
    return
  end
  local retry
  status, retry = meaning(status, kind, string.match(rest or "", '"message":%s*"(.-)"'))
  local saved = handle:streamInfo():dynamicMetadata():get(NAMESPACE)
  if retry ~= nil and not (saved ~= nil and saved["is_retry"]) then -- a request that workers die of must not meet all of them
    headers:replace(RETRY_HEADER, retry)
  end
  if retry == REFUSED then
    headers:replace("retry-after", "1")
  end
  local id = saved ~= nil and saved["request_id"] or plain(headers:get(REQUEST_ID_HEADER))
  local members = { status = tostring(status), request_id = id or "" }
  for name, value in pairs(PROBLEMS[status] or OTHER_PROBLEM) do
    members[name] = value
  end
  headers:replace(":status", members.status)
  headers:replace("content-type", PROBLEM_MEDIA_TYPE)
  body:setBytes((string.gsub(PROBLEM, "{([%w_]+)}", members)))
end

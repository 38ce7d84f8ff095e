-- Runs in the cluster of one version, on its way to a node and back. render/clusters.py puts the constants before it.

function envoy_on_request(handle)
  local headers = handle:headers()
  headers:replace(":path", PATH)
  local id = headers:get(REQUEST_ID_HEADER)
  if id ~= nil and string.match(id, "^[%w%-_.:]+$") then
    handle:streamInfo():dynamicMetadata():set(NAMESPACE, "request_id", id)
  end
  local ours = handle:timestamp() + DEADLINE_MS
  local theirs = headers:get(DEADLINE_HEADER)
  if headers:get(DEADLINE_BY_HEADER) == nil then -- else this is a retry
    local is_theirs = theirs ~= nil and (tonumber(theirs) or ours) < ours
    headers:replace(DEADLINE_BY_HEADER, is_theirs and CLIENT or ROUTE)
  end
  if theirs == nil or (tonumber(theirs) or 0) > ours then
    headers:replace(DEADLINE_HEADER, string.format("%.0f", ours))
  end
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

-- TorchServe's own errors become the problem documents that handlers answer with. It also answers 404 where it lost a
-- version that the gateway asks it for, and 400 for a token that it does not know: both are the node's state, and
-- no mistake of the client.
function envoy_on_response(handle)
  bound_class(handle:headers())
  local status = tonumber(handle:headers():get(":status"))
  if status < 400 or handle:headers():get("content-type") == PROBLEM_MEDIA_TYPE then
    return
  end
  local body = handle:body(true)
  local headers = handle:headers() -- after body, which waits where the body is still to come: what was held before is dead
  local text = body:getBytes(0, body:length())
  local refused = status == 503 or status == 404 or status == 429
  if status == 400 and string.find(text, "InvalidKeyException", 1, true) then
    refused = true
  end
  if refused then
    status = 503
    headers:replace("retry-after", "1")
  elseif status >= 500 and status ~= 504 then
    status = 500
  end
  if status >= 500 then
    headers:replace(RETRY_HEADER, refused and REFUSED or DIED)
  end
  local saved = handle:streamInfo():dynamicMetadata():get(NAMESPACE)
  local problem = PROBLEMS[status] or OTHER_PROBLEM
  local members = {
    kind = problem.kind,
    title = problem.title,
    status = tostring(status),
    request_id = saved ~= nil and saved["request_id"] or "",
  }
  headers:replace(":status", members.status)
  headers:replace("content-type", PROBLEM_MEDIA_TYPE)
  body:setBytes((string.gsub(PROBLEM, "{([%w_]+)}", members)))
end

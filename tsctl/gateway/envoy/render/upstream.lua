-- Runs in the cluster of one version, on its way to a node and back. The renderer puts these before it:
-- PATH, DEADLINE_MS, IS_SHADOW, MODEL, VERSION.

local TITLES = {
  [400] = {"bad-request", "The request cannot be read"},
  [405] = {"method-not-allowed", "The method is not allowed"},
  [413] = {"payload-too-large", "The request is too large"},
  [500] = {"worker-failed", "The worker failed on this request"},
  [503] = {"unavailable", "No worker could take the request"},
  [504] = {"deadline-passed", "The answer took too long"},
}

function envoy_on_request(handle)
  local headers = handle:headers()
  headers:replace(":path", PATH)
  local id = headers:get("x-request-id")
  if id ~= nil and string.match(id, "^[%w%-_.:]+$") then
    handle:streamInfo():dynamicMetadata():set("tsctl", "request_id", id)
  end
  local ours = handle:timestamp() + DEADLINE_MS
  local theirs = tonumber(headers:get("x-request-deadline-ms") or "")
  if headers:get("x-request-deadline-ms") == nil or (theirs ~= nil and theirs > ours) then
    headers:replace("x-request-deadline-ms", string.format("%.0f", ours))
  end
  if IS_SHADOW then
    headers:replace("x-tsctl-shadow", "1")
  end
end

-- TorchServe's own errors become the problem documents that handlers answer with. It also answers 404 where it lost a
-- version that the gateway asks it for, and 400 for a token that it does not know: both are the node's state, and
-- no mistake of the client.
function envoy_on_response(handle)
  local status = tonumber(handle:headers():get(":status"))
  if status < 400 or handle:headers():get("content-type") == "application/problem+json" then
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
    headers:replace("x-tsctl-retry", refused and "refused" or "died")
  end
  local known = TITLES[status] or {"bad-request", "The request was refused"}
  local saved = handle:streamInfo():dynamicMetadata():get("tsctl")
  local id = saved ~= nil and saved["request_id"] or ""
  headers:replace(":status", tostring(status))
  headers:replace("content-type", "application/problem+json")
  body:setBytes(string.format(
    '{"type":"urn:tsctl:problem:%s","title":"%s","status":%d,"detail":"The node of this version answered so.",'
      .. '"request_id":"%s","model":"%s","version":"%s"}',
    known[1], known[2], status, id, MODEL, VERSION))
end

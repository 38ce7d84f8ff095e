-- Runs in the cluster of one version, on the way back from a node, for the answers that render/worker_filters.py names.
-- That puts the constants before it as well.

-- A client's request id, which may stand in a document of JSON as it is.
local function plain(id)
  return id ~= nil and string.match(id, "^[%w%-_.:]+$") and id or nil
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

-- What TorchServe itself says of a worker: a handler that raised, or whose answers are no answers.
local FAILED = {
  ["Prediction failed"] = true, ["Invalid model predict output"] = true,
  ["number of batch response mismatched"] = true, ["Unsupported model output data type."] = true,
  ["Out of resources"] = true,
}

-- What an error of TorchServe means: the status for the client, whether another node may be asked, and what the handler
-- itself says of it (PredictionException). `kind` is the class of the Java exception. Frontend and worker share statuses,
-- so only the class tells a node that cannot serve the version from a handler that raised (InternalServerException) and
-- from a body that cannot be read (any other).
local function meaning(status, kind, message)
  if kind == "ServiceUnavailableException" or kind == "InvalidKeyException"
    or (status == 404 and kind ~= "InternalServerException") then
    return 503, REFUSED -- no worker, a full queue, an unknown token, a lost version: nobody has begun with the request
  elseif kind == "OutOfMemoryError" then
    return 500, DIED
  elseif kind == "InternalServerException" then
    if (status == 500 or status == 507) and (message == "Worker died." or message == "Worker scaled down.") then
      return 500, DIED
    elseif status > 599 or FAILED[message] then
      return 500
    end
    return status, nil, message ~= "" and message or nil
  elseif status >= 500 or status == 403 then
    return 400 -- raised while the frontend read the client's form
  end
  return status
end

-- What an error of Ray's proxies means, which are plain text: a route or a replica that is not there, a full queue; its own
-- deadline; a replica or a machine that was lost while it had the request.
local OF_RAYS_PROXY = { ["404"] = { 503, REFUSED }, ["503"] = { 503, REFUSED }, ["408"] = { 504 }, ["500"] = { 503, DIED } }

-- Errors of TorchServe and of Ray become the problem documents that handlers answer with. A handler's own answers pass.
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
  local id = plain(headers:get(REQUEST_ID_HEADER))
  if kind == nil and #text > 0 and status < 600 then
    local means = IS_RAY and headers:get(MODEL_VERSION_HEADER) == nil and OF_RAYS_PROXY[tostring(status)]
    if means then
      answer_problem(handle, body, headers, means[1], means[2], id)
    end
    return
  end
  -- the message is the last member, and stays as JSON writes it
  local means, retry, told = meaning(status, kind, string.match(rest or "", '"message":%s*"(.*)"%s*}%s*$'))
  answer_problem(handle, body, headers, means, retry, id, told)
end

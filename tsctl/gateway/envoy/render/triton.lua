-- Runs in the clusters of versions on Triton, between from_node.lua and the node. render/triton.py puts the constants before it.

-- Triton takes the whole body as the one input, and would act on these headers itself: the worker gets them by other names.
function envoy_on_request(handle)
  local headers = handle:headers()
  if headers:get(HELD_LENGTH_HEADER) ~= nil then
    return -- a second try has what the first one wrote
  end
  headers:replace(":method", "POST") -- also where the worker is asked for its metadata
  headers:replace(HELD_LENGTH_HEADER, headers:get(LENGTH_HEADER) or HELD_NONE)
  headers:replace(LENGTH_HEADER, "0")
  local encoding = headers:get("content-encoding")
  if encoding ~= nil then
    headers:replace(HELD_ENCODING_HEADER, encoding)
    headers:remove("content-encoding")
  end
  headers:remove("accept-encoding")
end

-- Headers that say where an answer ends, and what becomes of the connection: they are Envoy's, and not a worker's.
local FRAMING = {
  connection = true, ["content-length"] = true, ["keep-alive"] = true, ["proxy-connection"] = true, te = true,
  trailer = true, ["transfer-encoding"] = true, upgrade = true,
}

-- Status and headers of an envelope by its head; a version has few different ones.
local heads, count = {}, 0

local function read_head(text)
  local known = heads[text]
  if known ~= nil then
    return known
  end
  local head = { status = string.match(text, "^([2-5]%d%d)\n"), headers = {} }
  if head.status == "204" or head.status == "304" then
    head.status = nil -- a body would be read as the next answer
  end
  for name, value in string.gmatch(text, "\n([%l%d-]+): ([^%c]*)") do
    if not FRAMING[name] then
      head.headers[name] = value
    end
  end
  if count < MOST_HEADS then
    heads[text] = head
    count = count + 1
  end
  return head
end

-- What an error of Triton itself means: the status for the client, and whether another node may be asked.
local function meaning(status, message)
  if status == 404 or string.find(message, "^Request for unknown model") or string.find(message, "Exceeds maximum queue size", 1, true) then
    return 503, REFUSED
  elseif string.find(message, "is not healthy", 1, true) then
    return 500, DIED
  elseif string.find(message, "timeout expired", 1, true) then
    return 504
  elseif status == 503 then
    return 503, REFUSED
  end
  return status == 400 and 400 or 500
end

local function refuse(handle, body, status, message)
  local means, retry = meaning(status, message)
  answer_problem(handle, body, handle:headers(), means, retry)
end

-- The worker's answer takes the place of the envelope around it; Triton's own errors become problem documents.
function envoy_on_response(handle)
  local body = handle:body(true)
  local headers = handle:headers() -- after body, which waits where the body is still to come: what was held before is dead
  local status, skip = tonumber(headers:get(":status")), tonumber(headers:get(LENGTH_HEADER) or "")
  if status ~= 200 or skip == nil then
    refuse(handle, body, status, string.match(body:getBytes(0, body:length()), '"error":%s*"(.-)"') or "")
    return
  end
  local text = body:getBytes(skip, body:length() - skip)
  local stop = string.find(text, "\n\n", 1, true)
  local head = stop ~= nil and read_head(string.sub(text, 1, stop))
  if not head or head.status == nil then
    refuse(handle, body, 500, "")
    return
  end
  headers:remove(LENGTH_HEADER)
  headers:replace(":status", head.status)
  for name, value in pairs(head.headers) do
    headers:replace(name, value)
  end
  body:setBytes(string.sub(text, stop + 2))
end

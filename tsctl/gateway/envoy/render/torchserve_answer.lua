-- Runs on answers to TorchServe's own gRPC service, before the filter that adds gRPC's trailers: an answer of REST becomes
-- messages in their frames. An error stays a document, of which grpc_torchserve.lua makes gRPC's status.

local function varint(value)
  local bytes = ""
  while value >= 128 do
    bytes = bytes .. string.char(value % 128 + 128)
    value = math.floor(value / 128)
  end
  return bytes .. string.char(value)
end

-- What stands before so many bytes: the frame, and field 1 of the message.
local function before(size)
  local field = size > 0 and "\10" .. varint(size) or ""
  local length = #field + size
  return string.char(0, math.floor(length / 16777216) % 256, math.floor(length / 65536) % 256,
    math.floor(length / 256) % 256, length % 256) .. field
end

local function message(text)
  return before(#text) .. text
end

-- One message of an answer whose length is known, which need not be held.
local function pass(handle, length)
  local head = before(length)
  for chunk in handle:bodyChunks() do
    if head ~= nil then
      chunk:setBytes(head .. chunk:getBytes(0, chunk:length()))
      head = nil
    end
  end
end

-- One message of an answer in parts. The last chunk is empty.
local function collect(handle)
  local parts = {}
  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    if size == 0 then
      chunk:setBytes(message(table.concat(parts)))
    else
      parts[#parts + 1] = chunk:getBytes(0, size)
      chunk:setBytes("")
    end
  end
end

-- A message for each part as it comes.
local function parts(handle)
  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    if size > 0 then
      chunk:setBytes(message(chunk:getBytes(0, size)))
    end
  end
end

-- A worker's or the gateway's word that a stream cannot go on: its status and reason are kept for gRPC's.
local function note_error(handle, event)
  local data = string.match(event, "\ndata:%s*(.*)") or ""
  local metadata = handle:streamInfo():dynamicMetadata()
  local kind = escaped_member(data, "code") or escaped_member(data, "type") or ""
  metadata:set(NAMESPACE, BROKEN_KEY, string.match(data, '"status"%s*:%s*(%d+)') or STATUS_OF_KIND[kind] or "500")
  metadata:set(NAMESPACE, DETAIL_KEY, member(data, "message") or member(data, "detail") or "The stream ended with an error.")
end

-- A message for each event of a stream of events. Nothing follows an error.
local function events(handle)
  local rest, is_broken = "", false
  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    local said, out = rest .. chunk:getBytes(0, size), {}
    local from = 1
    for event, behind in string.gmatch(said, "(.-\n\n)()") do
      from = behind
      is_broken = is_broken or string.find("\n" .. event, "\nevent:%s*error") ~= nil and (note_error(handle, event) or true)
      out[#out + 1] = not is_broken and message(event) or nil
    end
    rest = string.sub(said, from)
    if (size == 0 or #rest > LONGEST_EVENT) and rest ~= "" and not is_broken then
      out[#out + 1] = message(rest)
      rest = ""
    end
    chunk:setBytes(table.concat(out))
  end
end

local function answer_health(handle, headers, status)
  headers:replace(":status", "200")
  headers:replace(STATUS_HEADER, "200")
  headers:remove("content-length")
  handle:body(true):setBytes(message(status == "200" and HEALTHY or UNHEALTHY))
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local status, media, length = headers:get(":status"), headers:get("content-type") or "", headers:get("content-length")
  headers:replace(STATUS_HEADER, status)
  headers:replace("content-type", PROTOBUF) -- else the filter of trailers would drop the answer
  local said = handle:streamInfo():dynamicMetadata():get(NAMESPACE)
  local answer = said ~= nil and said[ANSWER_KEY] or ""
  if headers:get("grpc-status") ~= nil then
    return -- of Envoy itself
  elseif answer == HEALTH and (status == "200" or status == "503") then
    return answer_health(handle, headers, status)
  elseif string.sub(status, 1, 1) ~= "2" then
    return
  end
  headers:remove("content-length")
  length = tonumber(length or "")
  if length == 0 then
    handle:body(true):setBytes(before(0))
  elseif length ~= nil then
    pass(handle, length)
  elseif answer ~= STREAM then
    collect(handle)
  elseif string.sub(media, 1, #EVENT_STREAM) == EVENT_STREAM then
    events(handle)
  else
    parts(handle)
  end
end

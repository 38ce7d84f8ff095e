-- Stands before the scripts of gRPC's services, behind the check of the key: the frame of a message on the way in, and
-- gRPC's status and message of what comes back with an error.

local function varint(bytes, at)
  local value, scale = 0, 1
  for place = at, at + 9 do
    local byte = string.byte(bytes, place)
    if byte == nil then
      return nil
    end
    value = value + (byte % 128) * scale
    if byte < 128 then
      return value, place + 1
    end
    scale = scale * 128
  end
  return nil
end

local UNITS = { H = 3600000, M = 60000, S = 1000, m = 1, u = 0.001, n = 0.000001 }

local function set_timeout(headers)
  local digits, unit = string.match(headers:get("grpc-timeout") or "", "^(%d+)([HMSmun])$")
  if digits ~= nil and #digits <= 8 and headers:get(TIMEOUT_HEADER) == nil then
    headers:replace(TIMEOUT_HEADER, string.format("%.0f", math.floor(tonumber(digits) * UNITS[unit])))
  end
end

local function refuse(handle, status, detail)
  handle:streamInfo():dynamicMetadata():set(NAMESPACE, "grpc_detail", detail)
  handle:respond({ [":status"] = status }, "")
end

-- The method that a request names; refused where there is none.
local function asked_method(handle)
  local method = METHODS[string.match(handle:headers():get(":path"), "^/" .. SERVICE .. "/(%w+)$") or ""]
  if handle:streamInfo():protocol() == "HTTP/1.1" then
    return refuse(handle, "415", "gRPC needs HTTP/2.")
  elseif method == nil then
    return refuse(handle, "501", "This method is not offered.")
  end
  return method
end

-- The body of a request, if it is one whole frame; else refused, and nil. It waits for the body: what was held before is dead.
local function framed_body(handle)
  local body = handle:body(true)
  local length = body:length()
  if length < 5 then
    return refuse(handle, "400", "The request has no whole message.")
  end
  local flag, a, b, c, d = string.byte(body:getBytes(0, 5), 1, 5)
  if flag ~= 0 then
    return refuse(handle, "501", "Compressed messages are not read here; send them as they are.")
  elseif ((a * 256 + b) * 256 + c) * 256 + d ~= length - 5 then
    return refuse(handle, "400", "The request must be one whole message, and nothing behind it.")
  end
  return body
end

-- Makes the request one of REST.
local function send_inside(handle, verb, path)
  local headers = handle:headers()
  set_timeout(headers)
  headers:replace(":method", verb)
  headers:replace(":path", path)
  headers:replace(MARK_HEADER, MARK)
end

local UNKNOWN = "There is no model or version of this name."

-- Status and detail of a problem document; of another text, the text. No path was asked for that the gateway does not know,
-- but for that of a model.
local function read_problem(document)
  local status = string.match(document, '"status"%s*:%s*(%d+)')
  if escaped_member(document, "type") == NOT_FOUND_TYPE then
    return status, UNKNOWN
  end
  return status, member(document, "detail") or member(document, "title") or string.sub(document, 1, LONGEST_DETAIL)
end

local function write_status(where, status, detail)
  where:replace("grpc-status", CODES[tonumber(status) or 500] or CODES[500])
  where:replace("grpc-message", (string.gsub(detail, "[^ -$&-~]", function(byte)
    return string.format("%%%02X", string.byte(byte))
  end)))
end

-- An answer of Envoy itself, which puts its document into the message of gRPC. No client of gRPC speaks HTTP/1.1: there,
-- status and document are what they are for everyone.
local function local_reply(handle, headers)
  local document = string.gsub(headers:get("grpc-message") or "", "%%(%x%x)", function(code)
    return string.char(tonumber(code, 16))
  end)
  local status, detail = read_problem(document)
  if status == nil then
    return
  end
  if handle:streamInfo():protocol() ~= "HTTP/1.1" then
    headers:replace("content-type", "application/grpc") -- a filter has called all answers bare messages
    local said = handle:streamInfo():dynamicMetadata():get(NAMESPACE)
    return write_status(headers, status, said ~= nil and said["grpc_detail"] or detail)
  end
  headers:remove("grpc-message")
  headers:remove("grpc-status")
  headers:replace(":status", status)
  headers:replace("content-type", PROBLEM_MEDIA_TYPE)
  handle:body(true):setBytes(document)
end

-- Whether the request inside went well; else the answer has become its error.
local function answered(handle)
  local headers = handle:headers()
  local status = headers:get(STATUS_HEADER) -- the filter of frames makes all of them 200
  headers:remove(STATUS_HEADER)
  if headers:get("grpc-status") ~= nil then
    local_reply(handle, headers)
    return false
  elseif status == nil or string.sub(status, 1, 1) == "2" then
    return true
  end
  headers:remove("content-length")
  local document = ""
  -- chunk by chunk: trailers that another filter adds never come where the whole body is waited for
  for chunk in handle:bodyChunks() do
    document = document .. chunk:getBytes(0, chunk:length())
    chunk:setBytes("")
  end
  local problem_status, detail = read_problem(document)
  write_status(handle:trailers(), problem_status or status, detail)
  return false
end

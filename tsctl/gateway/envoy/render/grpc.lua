-- Runs on requests that call themselves gRPC, behind the check of the key. A request of the Open Inference Protocol
-- becomes the REST request that means the same; the next filter takes its frame away, and the listener inside Envoy
-- answers it as it answers any other. What comes back with an error becomes gRPC's status and message.

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

-- Model and version: fields 1 and 2 of the message. They must come before its tensors, where every library writes them.
local function target(bytes)
  local found, at = { "", "" }, 1
  while at <= #bytes do
    local tag, size
    tag, at = varint(bytes, at)
    if tag == nil or tag % 8 ~= 2 or tag >= 32 then
      break
    end
    size, at = varint(bytes, at)
    if size == nil or at + size - 1 > #bytes then
      break
    end
    local field = (tag - 2) / 8
    if field <= 2 then
      found[field] = string.sub(bytes, at, at + size - 1)
    end
    at = at + size
  end
  return found[1], found[2]
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

function envoy_on_request(handle)
  local headers = handle:headers()
  local method = METHODS[string.match(headers:get(":path"), "^/" .. SERVICE .. "/(%a+)$") or ""]
  if handle:streamInfo():protocol() == "HTTP/1.1" then
    return refuse(handle, "415", "gRPC needs HTTP/2.")
  elseif method == nil then
    return refuse(handle, "501", "This method is not offered.")
  end
  local body = handle:body(true)
  local length = body:length()
  local frame = body:getBytes(0, math.min(length, WINDOW))
  local a, b, c, d = string.byte(frame, 2, 5)
  if length < 5 then
    return refuse(handle, "400", "The request has no whole message.")
  elseif string.byte(frame, 1) ~= 0 then
    return refuse(handle, "501", "Compressed messages are not read here; send them as they are.")
  elseif ((a * 256 + b) * 256 + c) * 256 + d ~= length - 5 then
    return refuse(handle, "400", "The request must be one whole message, and nothing behind it.")
  end
  local path = method.path
  if method.of_model == "1" then
    local model, version = target(string.sub(frame, 6))
    if model == "" then
      return refuse(handle, "400", "The message must begin with the model's name.")
    elseif string.find(model .. version, "[^%w%-_.]") then
      return refuse(handle, "404", "There is no model or version of this name.")
    end
    path = "/v2/models/" .. model .. (version ~= "" and "/versions/" .. version or "") .. path
  end
  if method.verb == "GET" then
    body:setBytes(string.rep("\0", 5))
  end
  headers = handle:headers() -- after body, which waits where the body is still to come: what was held before is dead
  set_timeout(headers)
  headers:replace(":method", method.verb)
  headers:replace(":path", path)
  headers:replace(MARK_HEADER, "1")
end

-- The UTF-8 of a character by its number.
local function utf8(code)
  if code < 0x80 then
    return string.char(code)
  end
  local bytes, first = "", 0xC0
  local room = 0x20 -- what fits into the first byte
  repeat
    bytes = string.char(0x80 + code % 0x40) .. bytes
    code = math.floor(code / 0x40)
    if code >= room then
      first, room = first + room, room / 2
    end
  until code < room
  return string.char(first + code) .. bytes
end

local PLAIN = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", ["1"] = "\\", ["2"] = '"' }

-- A text of a JSON object, or nil.
local function member(document, name)
  local value = escaped_member(document, name)
  if value == nil then
    return nil
  end
  value = string.gsub(string.gsub(value, "\\\\", "\\1"), '\\"', "\\2")
  value = string.gsub(value, "\\u([dD][89abAB]%x%x)\\u([dD][c-fC-F]%x%x)", function(high, low)
    return utf8(0x10000 + (tonumber(high, 16) - 0xD800) * 0x400 + tonumber(low, 16) - 0xDC00)
  end)
  value = string.gsub(value, "\\u(%x%x%x%x)", function(code) return utf8(tonumber(code, 16)) end)
  return (string.gsub(value, "\\(.)", function(letter) return PLAIN[letter] or letter end))
end

-- Status and detail of a problem document.
local function read_problem(document)
  return string.match(document, '"status"%s*:%s*(%d+)'), member(document, "detail") or member(document, "title") or ""
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

function envoy_on_response(handle)
  local headers = handle:headers()
  local status = headers:get(STATUS_HEADER) -- of the answer inside: the filter of frames makes all of them 200
  headers:remove(STATUS_HEADER)
  if headers:get("grpc-status") ~= nil then
    return local_reply(handle, headers)
  elseif status == nil or status == "200" then
    return
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
end

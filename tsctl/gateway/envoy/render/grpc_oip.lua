-- Runs on requests that call themselves gRPC, behind grpc.lua. A request of the Open Inference Protocol becomes the REST
-- request that means the same; the next filter takes its frame away, and the listener inside Envoy answers it as it
-- answers any other.

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

function envoy_on_request(handle)
  local method = asked_method(handle)
  local body = method ~= nil and framed_body(handle)
  if not body then
    return
  end
  local path = method.path
  if method.of_model == "1" then
    local model, version = target(body:getBytes(5, math.min(body:length(), WINDOW) - 5))
    if model == "" then
      return refuse(handle, "400", "The message must begin with the model's name.")
    elseif string.find(model .. version, "[^%w%-_.]") then
      return refuse(handle, "404", UNKNOWN)
    end
    path = "/v2/models/" .. model .. (version ~= "" and "/versions/" .. version or "") .. path
  end
  if method.verb == "GET" then
    body:setBytes(string.rep("\0", 5))
  end
  send_inside(handle, method.verb, path)
end

function envoy_on_response(handle)
  answered(handle)
end

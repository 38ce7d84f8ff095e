-- Runs on the route of requests that call themselves gRPC. Envoy sends them its own answers in the header grpc-message,
-- with status 200, which clients and the access log would take for success: both get the status and the document back.

function envoy_on_response(handle)
  local headers = handle:headers()
  local message = headers:get("grpc-message")
  if message == nil then
    return
  end
  local text = string.gsub(message, "%%(%x%x)", function(code) return string.char(tonumber(code, 16)) end)
  headers:remove("grpc-message")
  headers:remove("grpc-status")
  headers:replace(":status", string.match(text, '"status":(%d+)') or "415")
  headers:replace("content-type", PROBLEM_MEDIA_TYPE)
  handle:body(true):setBytes(text)
end

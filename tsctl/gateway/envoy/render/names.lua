-- Runs first on every request: a header name with an underscore is refused, because many programs read it as the name with
-- a hyphen, so it could pass for a header that the gateway checks or sets. The problem document says which one it is.

jit.off() -- the compiler never succeeds with calls of Envoy's, and its attempts took a third of the filter's time
collectgarbage("setpause", 1000) -- what lives on is small, so it may grow tenfold; the collector runs less often

function envoy_on_request(handle)
  local refused
  for name in pairs(handle:headers()) do
    if string.find(name, "_", 1, true) then
      refused = name
    end
  end
  if refused ~= nil then
    handle:streamInfo():dynamicMetadata():set(NAMESPACE, REFUSED_HEADER_KEY, string.sub(refused, 1, 64))
    handle:respond({ [":status"] = "400" }, "")
  end
end

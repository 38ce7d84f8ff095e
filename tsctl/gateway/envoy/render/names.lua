-- Runs first on every request: a header name with an underscore is refused, because many programs read it as the name with
-- a hyphen, so it could pass for a header that the gateway checks or sets. The problem document says which one it is.
-- TorchServe's own client sends such a name over gRPC, of which TorchServe reads none: there they are taken off.

jit.off() -- the compiler never succeeds with calls of Envoy's, and its attempts took a third of the filter's time
collectgarbage("setpause", 1000) -- what lives on is small, so it may grow tenfold; the collector runs less often

local function remove_all(headers)
  local names = {}
  for name in pairs(headers) do
    if string.find(name, "_", 1, true) then
      names[#names + 1] = name
    end
  end
  for _, name in ipairs(names) do
    headers:remove(name)
  end
end

function envoy_on_request(handle)
  local refused
  for name in pairs(handle:headers()) do
    if string.find(name, "_", 1, true) then
      refused = name
    end
  end
  if refused ~= nil and string.sub(handle:headers():get(":path"), 1, #IGNORING) == IGNORING then
    remove_all(handle:headers())
  elseif refused ~= nil then
    handle:streamInfo():dynamicMetadata():set(NAMESPACE, REFUSED_HEADER_KEY, string.sub(refused, 1, 64))
    handle:respond({ [":status"] = "400" }, "")
  end
end

-- Runs in the clusters of versions that tsctl did not build, behind form.lua, for a body whose media type says what input of
-- the model it is: it becomes a form with that one field, because such a handler finds its inputs by their names.

local function read_media(media)
  local name = string.match(media, "^" .. BINARY_PATTERN .. INPUT_PARAMETER .. "([%w%-_.]+)$")
  if name ~= nil then
    return name, nil
  end
  local boundary, again = string.match(media, "^" .. FORM_PATTERN .. "(tsctl%x+)" .. INPUT_PARAMETER .. "([%w%-_.]+)$")
  return again, boundary -- of a second try, which has the headers of the first one, and the body as it came
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local name, boundary = read_media(headers:get("content-type"))
  local saved = handle:streamInfo():dynamicMetadata():get(NAMESPACE)
  local length = boundary ~= nil and saved ~= nil and saved[LENGTH_KEY] or headers:get("content-length")
  length = tonumber(length or "")
  if name == nil or length == nil or length == 0 then
    return
  end
  handle:streamInfo():dynamicMetadata():set(NAMESPACE, LENGTH_KEY, string.format("%.0f", length))
  boundary = boundary or new_boundary(handle)
  local before, behind = before_part(boundary, name), end_of_form(boundary)
  headers:replace("content-type", FORM .. boundary .. INPUT_PARAMETER .. name)
  headers:replace("content-length", string.format("%.0f", #before + length + #behind))
  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    length = length - size
    if before ~= "" or length == 0 then
      chunk:setBytes(before .. chunk:getBytes(0, size) .. (length == 0 and behind or ""))
      before, behind = "", length == 0 and "" or behind
    end
  end
end

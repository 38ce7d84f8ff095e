-- Answers the index of the repository: every version that has a route, and whether a node can answer it now.

local LONGEST_QUESTION = 4096

local function length(size)
  return size < 128 and string.char(size) or string.char(size % 128 + 128, math.floor(size / 128))
end

local function field(number, text)
  return text == "" and "" or string.char(number * 8 + 2) .. length(#text) .. text
end

function envoy_on_request(handle)
  local is_message = handle:headers():get("accept") == PROTOBUF
  local body = handle:body(true)
  if body:length() > LONGEST_QUESTION then
    return handle:respond({ [":status"] = "413" }, "")
  end
  local question = body:getBytes(0, body:length())
  local only_ready = string.find(question, '"ready"%s*:%s*true') ~= nil
  if is_message then
    only_ready = string.sub(question, -2) == "\16\1" -- field 2, the last of the message
  end
  local entries = {}
  for _, each in ipairs(MODELS) do
    local asked = { [":method"] = "GET", [":path"] = each.path, [":authority"] = "health" }
    local answer = handle:httpCall("health", asked, nil, 1000)
    local is_ready = answer[":status"] == "200"
    local state, reason = is_ready and READY or UNAVAILABLE, is_ready and "" or "no node can answer"
    if is_ready or not only_ready then
      entries[#entries + 1] = is_message
        and field(1, field(1, each.name) .. field(2, each.version) .. field(3, state) .. field(4, reason))
        or string.format('{"name":"%s","version":"%s","state":"%s","reason":"%s"}', each.name, each.version, state, reason)
    end
  end
  local text = is_message and table.concat(entries) or "[" .. table.concat(entries, ",") .. "]"
  handle:respond({ [":status"] = "200", ["content-type"] = is_message and PROTOBUF or JSON }, text)
end

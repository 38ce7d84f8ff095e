-- Runs on requests of TorchServe's own gRPC service, behind grpc.lua and form.lua. One becomes the REST request that means the
-- same: its input the body, several inputs a form. The answer's messages are made by torchserve_answer.lua.

local FIXED_SIZES = { [1] = 8, [5] = 4 } -- of the content, by the type of a field
local MALFORMED = "The message is no PredictionsRequest."

-- A field of the message in these bytes of the body: its number, where its content begins and how long it is, and nil where
-- it cannot be read. The number is 0 where the content is no text and no message.
local function read_field(body, at, stop)
  local head = body:getBytes(at, math.min(20, stop - at))
  local tag, behind = varint(head, 1)
  if tag == nil or tag < 8 then
    return nil
  end
  local number, size = math.floor(tag / 8), nil
  if tag % 8 == 2 then
    size, behind = varint(head, behind)
  else
    number = 0
    if tag % 8 == 0 then
      size, behind = varint(head, behind)
      size = size ~= nil and 0 or nil
    else
      size = FIXED_SIZES[tag % 8]
    end
  end
  local from = size ~= nil and at + behind - 1
  if not from or from + size > stop then
    return nil
  end
  return number, from, size
end

-- Calls `take` for each field; false where the message cannot be read, or has more fields than any model has inputs.
local function each_field(body, at, stop, most, take)
  local count = 0
  while at < stop do
    local number, from, size = read_field(body, at, stop)
    count = count + 1
    if number == nil or count > most then
      return false
    end
    take(number, from, size)
    at = from + size
  end
  return true
end

local function text(body, from, size)
  return size == 0 and "" or body:getBytes(from, size)
end

-- Model and version as texts, and the inputs as places in the body: by their names, and in their order.
local function read_message(body)
  local asked, inputs, names, is_whole = { "", "" }, {}, {}, true
  local function take_entry(number, from, size)
    if number <= 2 and number > 0 then
      asked[number] = text(body, from, math.min(size, LONGEST_NAME + 1))
    elseif number == 3 then
      local name, place = "", { from, 0 }
      is_whole = each_field(body, from, from + size, MOST_OF_ENTRY, function(inner, inner_from, inner_size)
        if inner == 1 then
          name = text(body, inner_from, math.min(inner_size, LONGEST_NAME + 1))
        elseif inner == 2 then
          place = { inner_from, inner_size }
        end
      end) and is_whole
      if inputs[name] == nil then
        names[#names + 1] = name
      end
      inputs[name] = place
    end
  end
  is_whole = each_field(body, 5, body:length(), MOST_INPUTS, take_entry) and is_whole
  return is_whole, asked[1], asked[2], inputs, names
end

-- Gives the body the inputs, and returns its media type. A single input is the body itself: what it is called is said to the
-- nodes that tell inputs apart (form_of_input.lua).
local function write_inputs(handle, body, inputs, names)
  if #names == 0 then
    body:setBytes("")
    return BINARY
  elseif #names == 1 then
    local place = inputs[names[1]]
    body:setBytes(text(body, place[1], place[2]))
    return BINARY .. (names[1] ~= RAW_INPUT and INPUT_PARAMETER .. names[1] or "")
  end
  local boundary, parts = new_boundary(handle), {}
  for n, name in ipairs(names) do
    local place = inputs[name]
    parts[#parts + 1] = (n > 1 and "\r\n" or "") .. before_part(boundary, name)
    parts[#parts + 1] = text(body, place[1], place[2])
  end
  parts[#parts + 1] = end_of_form(boundary)
  body:setBytes(table.concat(parts))
  return FORM .. boundary
end

local function is_name(text)
  return #text <= LONGEST_NAME and string.find(text, "^[%w%-_.]+$") ~= nil
end

local function predict(handle, body)
  local is_whole, model, version, inputs, names = read_message(body)
  if not is_whole then
    return refuse(handle, "400", MALFORMED)
  elseif model == "" then
    return refuse(handle, "400", "The message must have a model_name.")
  elseif not is_name(model) or not (version == "" or is_name(version)) then
    return refuse(handle, "404", UNKNOWN)
  end
  for _, name in ipairs(names) do
    if not is_name(name) then
      return refuse(handle, "400", "The name of an input has letters, digits, hyphens, dots and underscores, "
        .. LONGEST_NAME .. " at most.")
    end
  end
  local media = write_inputs(handle, body, inputs, names)
  handle:headers():replace(MEDIA_HEADER, media)
  send_inside(handle, "POST", "/predictions/" .. model .. (version ~= "" and "/" .. version or ""))
end

-- TorchServe's clients send their key as a bearer token; the listener inside reads it where all others have it.
local function move_key(headers)
  local key = headers:get(KEY_HEADER) == nil and string.match(headers:get("authorization") or "", "^[Bb]earer +(.+)$")
  if key then
    headers:replace(KEY_HEADER, key)
  end
  headers:remove("authorization")
end

function envoy_on_request(handle)
  local method = asked_method(handle)
  if method == nil then
    return
  end
  handle:streamInfo():dynamicMetadata():set(NAMESPACE, ANSWER_KEY, method.answer)
  local body = framed_body(handle)
  if body == nil then
    return
  end
  move_key(handle:headers())
  if method.answer == HEALTH then
    body:setBytes("")
    return send_inside(handle, "GET", READY_PATH)
  end
  predict(handle, body)
end

-- A stream that broke ends with the status that torchserve_answer.lua found in it.
function envoy_on_response(handle)
  if not answered(handle) then
    return
  end
  for _ in handle:bodyChunks() do end
  local said = handle:streamInfo():dynamicMetadata():get(NAMESPACE)
  if said ~= nil and said[BROKEN_KEY] ~= nil then
    write_status(handle:trailers(), said[BROKEN_KEY], said[DETAIL_KEY] or "")
  end
end

-- Stands before the scripts that make a form of a model's inputs, as TorchServe's REST API reads it.

local FORM = "multipart/form-data; boundary="

local is_seeded = false

-- No input has it: each of Envoy's threads draws its own numbers. Who guessed them could write fields into its own form alone.
local function new_boundary(handle)
  if not is_seeded then
    is_seeded = true
    local place = string.match(tostring({}), "0x(%x+)$") or "0"
    math.randomseed(handle:timestamp() % 2147483647 + tonumber(place, 16) % 2147483647)
  end
  local parts = {}
  for n = 1, 4 do
    parts[n] = string.format("%08x", math.random(0, 2147483647))
  end
  return "tsctl" .. table.concat(parts)
end

-- What stands before the bytes of an input: a file's part, because its bytes pass TorchServe unread.
local function before_part(boundary, name)
  return "--" .. boundary .. '\r\nContent-Disposition: form-data; name="' .. name .. '"; filename="' .. name
    .. '"\r\nContent-Type: ' .. BINARY .. "\r\n\r\n"
end

local function end_of_form(boundary)
  return "\r\n--" .. boundary .. "--\r\n"
end

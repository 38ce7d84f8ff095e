-- Stands before scripts that read a problem document.

-- A text of a JSON object as it stands there, escapes and all, or nil; backslashes and quotes are put out of the way of the
-- patterns first.
local function escaped_member(document, name)
  local hidden = string.gsub(string.gsub(document, "\\\\", "\\1"), '\\"', "\\2")
  local value = string.match(hidden, '"' .. name .. '"%s*:%s*"(.-)"')
  if value == nil or value == "" then
    return nil
  end
  return (string.gsub(string.gsub(value, "\\2", '\\"'), "\\1", "\\\\"))
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

-- A text of a JSON object as it reads, or nil.
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

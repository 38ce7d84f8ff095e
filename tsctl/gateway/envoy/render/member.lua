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

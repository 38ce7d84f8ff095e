-- Stands before the scripts that turn a node's own error into a problem document.

-- Gives the client the status with its document in place of the body. `retry` says whether another node may be asked,
-- and nothing to a second try: a request that workers die of must not meet all of them. `told` is what the handler says
-- of it, as JSON writes it; nil: nothing.
local function answer_problem(handle, body, headers, status, retry, id, told)
  local saved = handle:streamInfo():dynamicMetadata():get(NAMESPACE)
  if retry ~= nil and not (saved ~= nil and saved["is_retry"]) then
    headers:replace(RETRY_HEADER, retry)
  end
  if retry ~= nil and status == 503 then
    headers:replace("retry-after", "1")
  end
  local members = { status = tostring(status), request_id = saved ~= nil and saved["request_id"] or id or "" }
  local own = told ~= nil and (status < 500 and OTHER_PROBLEM or PROBLEMS[500])
  for name, value in pairs(own or PROBLEMS[status] or OTHER_PROBLEM) do
    members[name] = value
  end
  members.detail = told or members.detail
  headers:replace(":status", members.status)
  headers:replace("content-type", PROBLEM_MEDIA_TYPE)
  body:setBytes((string.gsub(PROBLEM, "{([%w_]+)}", members)))
end
